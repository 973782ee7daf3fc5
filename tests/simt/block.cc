// SPDX-License-Identifier: MIT
//
// A block's threads as fibers: who runs, who waits for whom, what a warp's operations give.
//
// A fiber is a stack that runs threads one after the other: a thread that returns leaves it to the
// next one, and a thread that waits keeps it. So a kernel without barriers needs one fiber.
#undef _FORTIFY_SOURCE // its longjmp knows one stack only
#include <setjmp.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <ucontext.h>

#include "tests/simt/inside.h"

#define STACK_BYTES (128 * 1024)
#define GUARD_BYTES 4096
#define WARPS       (SIMT_THREADS / 32)

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// The dynamic shared memory of the running block: `extern __shared__ unsigned char qg_shared[]`.
thread_local __align__(128) unsigned char qg_shared[SIMT_SHARED_MAX];

struct fiber {
    jmp_buf at; // where it goes on
    ucontext_t context;
    unsigned char *stack;
    bool made;
};

enum state { READY, IN_BARRIER, IN_WARP, RETURNED };

struct thread {
    enum state state;
    struct fiber *fiber; // NULL: not begun, or returned
    const void *pc;      // where it waits
    uint3 index;
    // what it waits with, and then what it gets
    enum simt_op op;
    unsigned mask;
    int lane, width;
    uint64_t value;
    struct simt_thread_shadow shadow;
};

bool simt_running;
struct simt_thread_shadow *simt_shadow;

static struct thread threads[SIMT_THREADS];

// Of a warp, the lanes that wait in a warp operation, and those that have returned or never were.
static struct {
    unsigned waiting, gone;
} warps[WARPS];

static struct fiber fibers[SIMT_THREADS], *idle[SIMT_THREADS];
static int n_threads, n_fibers, n_idle;

static int ready[2 * SIMT_THREADS]; // a ring
static unsigned first_ready, n_ready;
static int n_in_barrier, n_returned, current;

static jmp_buf out; // of the kernel
static bool abandoned;
static uint32_t block_number;
static void (*run_thread)(void *);
static void *run_context;

static uint64_t seed, random_state;

void simt_set_seed(uint64_t s)
{
    seed = s;
    random_state = s * 0x9e3779b97f4a7c15u | 1;
}

__attribute__((constructor)) static void seed_from_environment(void)
{
    const char *s = getenv("QG_SIMT_SEED");
    simt_set_seed(s ? strtoull(s, NULL, 0) : 0);
}

static uint64_t random_below(uint64_t n)
{
    random_state ^= random_state << 13;
    random_state ^= random_state >> 7;
    random_state ^= random_state << 17;
    return random_state % n;
}

// --- fibers -------------------------------------------------------------------------------------

static struct fiber *fiber_get(void)
{
    if (n_idle)
        return idle[--n_idle];
    struct fiber *f = &fibers[n_fibers++];
    if (!f->stack) {
        size_t n = STACK_BYTES + GUARD_BYTES;
        void *p = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                       -1, 0);
        if (p == MAP_FAILED || mprotect(p, GUARD_BYTES, PROT_NONE) != 0) {
            fputs("simt: no memory for the stacks of a block's threads\n", stderr);
            abort();
        }
        f->stack = (unsigned char *)p + GUARD_BYTES;
    }
    return f;
}

static void make_ready(int t)
{
    threads[t].state = READY;
    ready[(first_ready + n_ready++) % (2 * SIMT_THREADS)] = t;
}

static int next_ready(void)
{
    if (!n_ready)
        return -1;
    int *head = &ready[first_ready % (2 * SIMT_THREADS)];
    if (seed) {
        int *other = &ready[(first_ready + random_below(n_ready)) % (2 * SIMT_THREADS)];
        int t = *other;
        *other = *head;
        *head = t;
    }
    first_ready++;
    n_ready--;
    return *head;
}

static void fiber_main(void);

static void set_current(int t)
{
    current = t;
    threadIdx = threads[t].index;
    simt_shadow = &threads[t].shadow;
}

// Runs thread t, which is not on the caller's fiber, in the caller's place.
[[noreturn]] static void go_to(int t)
{
    if (t < 0)
        _longjmp(out, 1);
    struct thread *x = &threads[t];
    set_current(t);
    if (!x->fiber)
        x->fiber = fiber_get();
    if (x->fiber->made)
        _longjmp(x->fiber->at, 1);
    struct fiber *f = x->fiber;
    f->made = true;
    getcontext(&f->context);
    f->context.uc_stack.ss_sp = f->stack;
    f->context.uc_stack.ss_size = STACK_BYTES;
    f->context.uc_link = NULL;
    makecontext(&f->context, fiber_main, 0);
    setcontext(&f->context);
    abort();
}

static void wait_until_ready(void)
{
    if (_setjmp(threads[current].fiber->at) == 0)
        go_to(next_ready());
}

static void thread_returned(void);

static void begin_shadow(void)
{
    *simt_shadow = {};
    simt_shadow->lane = (uint32_t)current % 32;
    simt_shadow->clock[simt_shadow->lane] = 1;
}

// The current thread has not begun and has this fiber.
static void fiber_main(void)
{
    for (;;) {
        begin_shadow();
        run_thread(run_context);
        struct fiber *f = threads[current].fiber;
        threads[current].fiber = NULL;
        thread_returned();
        int next = next_ready();
        if (next >= 0 && !threads[next].fiber) {
            threads[next].fiber = f;
            set_current(next);
            continue;
        }
        idle[n_idle++] = f;
        if (_setjmp(f->at) == 0)
            go_to(next);
    }
}

bool simt_is_stack(const void *p)
{
    for (int i = 0; i < n_fibers; i++)
        if ((size_t)((const unsigned char *)p - fibers[i].stack) < STACK_BYTES)
            return true;
    return false;
}

bool simt_is_own_stack(const void *p)
{
    return (size_t)((const unsigned char *)p - threads[current].fiber->stack) < STACK_BYTES;
}

struct simt_who simt_who_runs(void)
{
    return {block_number, (uint32_t)current};
}

void simt_abandon(cudaError_t e)
{
    if (!simt_running)
        abort();
    simt_break(e);
    abandoned = true;
    _longjmp(out, 1);
}

// --- barriers -----------------------------------------------------------------------------------

static uint64_t barrier_count, barrier_result;

static void barrier_try(void)
{
    if (!n_in_barrier || n_in_barrier + n_returned < n_threads)
        return;
    barrier_result = barrier_count << 32 | (uint64_t)n_in_barrier;
    barrier_count = 0;
    n_in_barrier = 0;
    for (int t = 0; t < n_threads; t++) {
        if (threads[t].state != IN_BARRIER)
            continue;
        threads[t].shadow.epoch++;
        threads[t].shadow.segment = 0;
        make_ready(t);
    }
}

// All threads of a block come to one place.
static void barrier_check(const struct thread *x)
{
    for (const struct thread *o = threads; o < threads + n_threads; o++) {
        if (o == x || o->state != IN_BARRIER)
            continue;
        if (!simt_same_place(o->pc, x->pc)) {
            char there[512];
            simt_describe_place(o->pc, there, sizeof there);
            simt_found(x->pc,
                       "barrier in divergent code: __syncthreads() here, but thread %d waits "
                       "in one %s",
                       (int)(o - threads), there);
            simt_abandon(cudaErrorLaunchFailure);
        }
        return; // the others that wait agree with it
    }
}

// How many threads came with p, and how many came.
static uint64_t barrier(bool p, const void *pc)
{
    struct thread *x = &threads[current];
    x->state = IN_BARRIER;
    x->pc = pc;
    barrier_check(x);
    n_in_barrier++;
    barrier_count += p;
    barrier_try();
    wait_until_ready();
    return barrier_result;
}

void __syncthreads(void)
{
    barrier(false, __builtin_return_address(0));
}

int __syncthreads_count(int p)
{
    return (int)(barrier(p != 0, __builtin_return_address(0)) >> 32);
}

int __syncthreads_or(int p)
{
    return barrier(p != 0, __builtin_return_address(0)) >> 32 != 0;
}

int __syncthreads_and(int p)
{
    uint64_t r = barrier(p != 0, __builtin_return_address(0));
    return r >> 32 == (uint32_t)r;
}

// --- the warp -----------------------------------------------------------------------------------

static const char *op_name(enum simt_op op)
{
    static const char *const names[] = {
        "__syncwarp",        "__shfl_sync",       "__shfl_up_sync",    "__shfl_down_sync",
        "__shfl_xor_sync",   "__ballot_sync",     "__any_sync",        "__all_sync",
        "__match_any_sync",  "__match_all_sync",  "__reduce_add_sync", "__reduce_min_sync",
        "__reduce_min_sync", "__reduce_max_sync", "__reduce_max_sync", "__reduce_and_sync",
        "__reduce_or_sync",  "__reduce_xor_sync"};
    return names[op];
}

// A finding of the thread x, which need not be the one that runs.
[[noreturn]] __attribute__((format(printf, 2, 3))) static void warp_found(const struct thread *x,
                                                                          const char *format, ...)
{
    char what[1000];
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    set_current((int)(x - threads));
    simt_found(x->pc, "%s", what);
    simt_abandon(cudaErrorLaunchFailure);
}

// From which lane a shuffle reads, as PTX's shfl.sync computes it.
static int source_lane(const struct thread *x, int lane)
{
    int first = lane & ~(x->width - 1), last = first + x->width - 1, by = x->lane & 31, from;
    switch (x->op) {
    case SIMT_SHUFFLE:
        return first | (by & (x->width - 1));
    case SIMT_SHUFFLE_UP:
        from = lane - by;
        return from >= first ? from : lane;
    case SIMT_SHUFFLE_DOWN:
        from = lane + by;
        return from <= last ? from : lane;
    default:
        from = lane ^ by;
        return from <= last ? from : lane;
    }
}

static uint64_t combine(enum simt_op op, uint64_t a, uint64_t b)
{
    switch (op) {
    case SIMT_ADD:
        return (uint32_t)(a + b);
    case SIMT_MIN:
        return a < b ? a : b;
    case SIMT_MAX:
        return a > b ? a : b;
    case SIMT_MIN_SIGNED:
        return (int32_t)a < (int32_t)b ? a : b;
    case SIMT_MAX_SIGNED:
        return (int32_t)a > (int32_t)b ? a : b;
    case SIMT_AND:
    case SIMT_ALL:
        return a & b;
    case SIMT_OR:
    case SIMT_ANY:
        return a | b;
    default:
        return a ^ b;
    }
}

// The lanes of mask that came with the value of lane.
static unsigned matches(const struct thread *warp, unsigned mask, int lane)
{
    unsigned r = 0;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && warp[i].value == warp[lane].value)
            r |= 1u << i;
    return r;
}

static uint64_t shuffled(const struct thread *warp, unsigned mask, int lane)
{
    int from = source_lane(&warp[lane], lane);
    if (!(mask >> from & 1))
        warp_found(&warp[lane], "%s reads lane %d, which is not in mask 0x%08x",
                   op_name(warp[lane].op), from, mask);
    return warp[from].value;
}

// What every lane of mask gets, all of them having come.
static void warp_results(struct thread *warp, unsigned mask)
{
    int one = __builtin_ctz(mask);
    enum simt_op op = warp[one].op;
    uint64_t all = warp[one].value, r[32] = {0};
    for (int i = one + 1; i < 32; i++)
        if (mask >> i & 1)
            all = combine(op, all, warp[i].value);
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1))
            continue;
        if (op >= SIMT_SHUFFLE && op <= SIMT_SHUFFLE_XOR)
            r[i] = shuffled(warp, mask, i);
        else if (op == SIMT_BALLOT)
            r[0] |= warp[i].value << i;
        else if (op == SIMT_MATCH_ANY)
            r[i] = matches(warp, mask, i);
        else if (op == SIMT_MATCH_ALL)
            r[i] = matches(warp, mask, i) == mask ? mask : 0;
        else
            r[i] = all;
    }
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            warp[i].value = op == SIMT_BALLOT ? r[0] : r[i];
}

// What is wrong with an operation when a lane comes to it. Lanes that wait for each other agree, so
// one of them speaks for all.
static void warp_check(const struct thread *warp, const struct thread *x)
{
    int me = (int)(x - warp), w = (int)(warp - threads) / 32;
    const char *name = op_name(x->op);
    if (!(x->mask >> me & 1))
        warp_found(x, "%s with mask 0x%08x, which lacks the calling lane %d", name, x->mask, me);
    if (x->width < 1 || x->width > 32 || x->width & (x->width - 1))
        warp_found(x, "%s of width %d, which is no power of two up to 32", name, x->width);
    if (x->mask & warps[w].gone) {
        int lane = __builtin_ctz(x->mask & warps[w].gone);
        warp_found(x, "%s with mask 0x%08x, which names lane %d that %s", name, x->mask, lane,
                   w * 32 + lane < n_threads ? "has returned" : "the block does not have");
    }
    if (!(x->mask & warps[w].waiting))
        return;
    int lane = __builtin_ctz(x->mask & warps[w].waiting);
    const struct thread *o = &warp[lane];
    if (o->mask >> me & 1 && (o->mask != x->mask || o->op != x->op))
        warp_found(x, "%s with mask 0x%08x, but lane %d waits in %s with mask 0x%08x", name,
                   x->mask, lane, op_name(o->op), o->mask);
}

// __syncwarp: each lane has seen what every other did.
static void warp_order(struct thread *warp, unsigned mask)
{
    uint32_t joined[32] = {0};
    for (int i = 0; i < 32; i++)
        for (int k = 0; mask >> i & 1 && k < 32; k++)
            joined[k] = max(joined[k], warp[i].shadow.clock[k]);
    for (int i = 0; i < 32; i++) {
        if (!(mask >> i & 1))
            continue;
        memcpy(warp[i].shadow.clock, joined, sizeof joined);
        warp[i].shadow.clock[i]++;
        warp[i].shadow.segment = 0;
    }
}

static void warp_try(struct thread *warp, unsigned mask)
{
    unsigned *waiting = &warps[(warp - threads) / 32].waiting;
    if ((*waiting & mask) != mask)
        return;
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1 && warp[i].mask != mask)
            return;
    *waiting &= ~mask;
    warp_results(warp, mask);
    if (warp[__builtin_ctz(mask)].op == SIMT_SYNC)
        warp_order(warp, mask);
    for (int i = 0; i < 32; i++)
        if (mask >> i & 1)
            make_ready((int)(warp - threads) + i);
}

static uint64_t warp_meet(enum simt_op op, unsigned mask, uint64_t value, int lane, int width,
                          const void *pc)
{
    struct thread *x = &threads[current];
    x->state = IN_WARP;
    x->pc = pc;
    x->op = op;
    x->mask = mask;
    x->lane = lane;
    x->width = width;
    x->value = value;
    warp_check(&threads[current & ~31], x);
    warps[current / 32].waiting |= 1u << current % 32;
    warp_try(&threads[current & ~31], mask);
    wait_until_ready();
    return x->value;
}

uint64_t simt_warp(enum simt_op op, unsigned mask, uint64_t value, int lane, int width)
{
    return warp_meet(op, mask, value, lane, width, __builtin_return_address(0));
}

void __syncwarp(unsigned mask)
{
    warp_meet(SIMT_SYNC, mask, 0, 0, 32, __builtin_return_address(0));
}

unsigned __activemask(void)
{
    unsigned mask = 0;
    for (int i = 0, t = current & ~31; i < 32 && t + i < n_threads; i++)
        if (threads[t + i].state != RETURNED)
            mask |= 1u << i;
    return mask;
}

static void thread_returned(void)
{
    const struct thread *warp = &threads[current & ~31];
    int me = current & 31;
    threads[current].state = RETURNED;
    n_returned++;
    warps[current / 32].gone |= 1u << me;
    for (int i = 0; warps[current / 32].waiting && i < 32; i++)
        if (warp[i].state == IN_WARP && warp[i].mask >> me & 1)
            warp_found(&warp[i], "%s with mask 0x%08x, which names lane %d that has returned",
                       op_name(warp[i].op), warp[i].mask, me);
    barrier_try();
}

// --- the grid -----------------------------------------------------------------------------------

// How many wait where x does, none before x; 0 when x is not the first of them.
static int wait_like(const struct thread *x)
{
    int n = 0;
    for (const struct thread *o = threads; o < threads + n_threads; o++) {
        if (o->state != x->state || o->pc != x->pc)
            continue;
        if (o < x)
            return 0;
        n++;
    }
    return n;
}

// No thread can go on: says who waits where.
static void say_deadlock(void)
{
    char who[900] = "", there[256];
    size_t at = 0;
    const struct thread *first = NULL;
    for (const struct thread *x = threads; x < threads + n_threads && at < sizeof who; x++) {
        int n = x->state == RETURNED ? 0 : wait_like(x);
        if (!n)
            continue;
        first = first ? first : x;
        simt_describe_place(x->pc, there, sizeof there);
        at += (size_t)snprintf(who + at, sizeof who - at, "%s%d thread%s from %d on in %s %s",
                               at ? ", " : "", n, n > 1 ? "s" : "", (int)(x - threads),
                               x->state == IN_WARP ? op_name(x->op) : "__syncthreads", there);
    }
    warp_found(first, "deadlock: %s", who);
}

static void run_block(uint64_t block)
{
    blockIdx.x = (unsigned)(block % gridDim.x);
    blockIdx.y = (unsigned)(block / gridDim.x % gridDim.y);
    blockIdx.z = (unsigned)(block / gridDim.x / gridDim.y);
    block_number = (uint32_t)block;
    simt_shadow_block();
    n_in_barrier = n_returned = 0;
    first_ready = n_ready = 0;
    barrier_count = 0;
    for (int w = 0; w < WARPS; w++) {
        int lanes = n_threads - 32 * w; // of this warp and those behind it
        warps[w] = {0, lanes >= 32 ? 0 : lanes > 0 ? ~0u << lanes : ~0u};
    }
    for (int t = 0; t < n_threads; t++)
        make_ready(t);
    if (_setjmp(out) == 0)
        go_to(next_ready());
    else if (!abandoned && n_returned < n_threads && _setjmp(out) == 0) // out for warp_found
        say_deadlock();
}

static void index_threads(void)
{
    memset(threads, 0, sizeof threads);
    for (int t = 0; t < n_threads; t++) {
        unsigned u = (unsigned)t, x = blockDim.x, y = blockDim.y;
        threads[t].index = make_uint3(u % x, u / x % y, u / x / y);
    }
}

static void forget_fibers(void)
{
    for (int i = 0; i < n_fibers; i++)
        fibers[i].made = false;
    n_fibers = n_idle = 0;
}

// A step that visits each of n blocks once.
static uint64_t block_step(uint64_t n)
{
    uint64_t step = seed && n > 2 ? 1 + random_below(n - 1) : 1, a = step, b = n;
    while (b) {
        uint64_t rest = a % b;
        a = b;
        b = rest;
    }
    return a == 1 ? step : 1;
}

void simt_run_grid(const cudaLaunchConfig_t *c, void (*thread)(void *), void *context)
{
    uint64_t n = (uint64_t)c->gridDim.x * c->gridDim.y * c->gridDim.z;
    uint64_t start = seed ? random_below(n) : 0, step = block_step(n);
    gridDim = c->gridDim;
    blockDim = c->blockDim;
    n_threads = (int)(blockDim.x * blockDim.y * blockDim.z);
    run_thread = thread;
    run_context = context;
    index_threads();
    simt_shadow_launch(c->dynamicSmemBytes);
    simt_running = true;
    abandoned = false;
    for (uint64_t i = 0; i < n && !abandoned; i++)
        run_block((start + i * step) % n);
    simt_running = false;
    if (abandoned)
        forget_fibers();
}
