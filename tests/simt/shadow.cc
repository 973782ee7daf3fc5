// SPDX-License-Identifier: MIT
//
// What is known of every byte that a kernel may touch, and what that says of an access.
//
// Kernels are compiled with -fsanitize=thread, but its library is not linked: the functions that it
// would give are here, and see each access with its address, its size and the place in the code.
//
// A byte of global or shared memory has a state (not there, without a value, with one) and the
// last write and up to two reads by different threads, as numbers of records. A record is a place
// in the code and a segment: what a thread does between two points that order it with others. So
// whether two accesses are ordered is a question to two segments. Records grow in number through
// the run, so that those of an earlier launch (global memory) or block (shared memory) are known by
// their number alone, and nothing needs to be cleared.
#include <elf.h>
#include <fcntl.h>
#include <link.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/simt/inside.h"

enum { ABSENT, NO_VALUE, HAS_VALUE };

struct region {
    unsigned char *base;
    size_t size;
    unsigned char *state;
    uint32_t *write, *read, *also; // numbers of records
    uint32_t first;                // records before this one are of no concern
    const char *name;
};

static struct region global_memory = {NULL, 0, NULL, NULL, NULL, NULL, 1, "global memory"};
static struct region shared_memory = {NULL, 0, NULL, NULL, NULL, NULL, 1, "shared memory"};

static void *reserve(size_t n)
{
    void *p =
        mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED) {
        fprintf(stderr, "simt: no room for %zu bytes of addresses\n", n);
        abort();
    }
    return p;
}

static void region_open(struct region *r, void *base, size_t size)
{
    r->base = (unsigned char *)base;
    r->size = size;
    r->state = (unsigned char *)reserve(size);
    r->write = (uint32_t *)reserve(size * sizeof(uint32_t));
    r->read = (uint32_t *)reserve(size * sizeof(uint32_t));
    r->also = (uint32_t *)reserve(size * sizeof(uint32_t));
}

void simt_shadow_open(void *base, size_t size)
{
    region_open(&global_memory, base, size);
}

static void set_state(struct region *r, const void *p, size_t n, int state)
{
    memset(r->state + ((const unsigned char *)p - r->base), state, n);
}

void simt_shadow_allocated(const void *p, size_t n)
{
    set_state(&global_memory, p, n, NO_VALUE);
}

void simt_shadow_freed(const void *p, size_t n)
{
    set_state(&global_memory, p, n, ABSENT);
}

void simt_shadow_copied(const void *to, const void *from, size_t n)
{
    const struct region *r = &global_memory;
    const unsigned char *state = r->state + ((const unsigned char *)from - r->base);
    memmove(r->state + ((const unsigned char *)to - r->base), state, n);
}

void simt_shadow_filled(const void *p, size_t n)
{
    set_state(&global_memory, p, n, HAS_VALUE);
}

// --- shared memory: the thread_local objects of the program -------------------------------------

struct object {
    size_t at, size; // from the start of the program's thread_local memory
    uint32_t launch; // that touched it last
    char name[256];
};

static struct object objects[4096];
static int n_objects;
static uint16_t *object_at;            // of each byte of shared memory, its object's index plus 1
static uint32_t launch;                // how many there were
static size_t static_now, dynamic_now; // bytes of shared memory that this launch is known to use
static bool shared_touched;

static int note_program(struct dl_phdr_info *i, size_t, void *)
{
    for (int k = 0; k < i->dlpi_phnum; k++)
        if (i->dlpi_phdr[k].p_type == PT_TLS && i->dlpi_tls_data) {
            shared_memory.base = (unsigned char *)i->dlpi_tls_data;
            shared_memory.size = i->dlpi_phdr[k].p_memsz;
        }
    return 1; // the program comes first
}

static int by_address(const void *a, const void *b)
{
    const struct object *x = (const struct object *)a, *y = (const struct object *)b;
    return x->at < y->at ? -1 : x->at > y->at;
}

// The names and places of thread_local objects, from the program's symbols.
static void note_objects(const unsigned char *file)
{
    const Elf64_Ehdr *e = (const Elf64_Ehdr *)file;
    const Elf64_Shdr *sections = (const Elf64_Shdr *)(file + e->e_shoff);
    for (int s = 0; s < e->e_shnum; s++) {
        if (sections[s].sh_type != SHT_SYMTAB)
            continue;
        const Elf64_Sym *symbol = (const Elf64_Sym *)(file + sections[s].sh_offset);
        const char *names = (const char *)file + sections[sections[s].sh_link].sh_offset;
        for (size_t i = 0; i < sections[s].sh_size / sizeof *symbol; i++)
            if (ELF64_ST_TYPE(symbol[i].st_info) == STT_TLS && symbol[i].st_shndx != SHN_UNDEF &&
                n_objects < (int)(sizeof objects / sizeof objects[0])) {
                struct object *o = &objects[n_objects++];
                o->at = symbol[i].st_value;
                o->size = symbol[i].st_size;
                snprintf(o->name, sizeof o->name, "%s", names + symbol[i].st_name);
            }
    }
}

static void read_program(void)
{
    struct stat s;
    int fd = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    void *file = fd >= 0 && fstat(fd, &s) == 0
                     ? mmap(NULL, (size_t)s.st_size, PROT_READ, MAP_PRIVATE, fd, 0)
                     : MAP_FAILED;
    if (fd >= 0)
        close(fd);
    if (file == MAP_FAILED)
        return;
    note_objects((const unsigned char *)file);
    munmap(file, (size_t)s.st_size);
    qsort(objects, (size_t)n_objects, sizeof *objects, by_address);
}

static void open_shared(void)
{
    dl_iterate_phdr(note_program, NULL);
    if (object_at || !shared_memory.size)
        return;
    region_open(&shared_memory, shared_memory.base, shared_memory.size);
    object_at = (uint16_t *)reserve(shared_memory.size * sizeof *object_at);
    read_program();
    for (int i = 0; i < n_objects; i++)
        for (size_t k = 0; k < objects[i].size && objects[i].at + k < shared_memory.size; k++)
            object_at[objects[i].at + k] = (uint16_t)(i + 1);
}

extern thread_local unsigned char qg_shared[];

static bool is_dynamic(const struct object *o)
{
    return shared_memory.base + o->at == qg_shared;
}

// --- records ------------------------------------------------------------------------------------

struct segment {
    struct simt_who who;
    uint32_t epoch, clock;
};

struct record {
    uint32_t segment;
    uint32_t pc; // from the start of the program, doubled, plus 1 for an atomic operation
};

#define MOST_RECORDS ((size_t)1 << 31)

static struct record *records;   // of this launch
static struct segment *segments; // of this launch
static uint32_t n_segments, first_record = 1, next_record = 1;

static struct {
    uint32_t segment, pc, record;
} recent[256];

extern const char __executable_start[], _end[];

static const void *pc_of(const struct record *r)
{
    return __executable_start + r->pc / 2;
}

static bool is_atomic(const struct record *r)
{
    return r->pc & 1;
}

static const struct record *record_at(uint32_t number)
{
    return &records[number - first_record];
}

static uint32_t new_segment(struct simt_thread_shadow *t)
{
    segments[++n_segments] = {simt_who_runs(), t->epoch, t->clock[t->lane]};
    return t->segment = n_segments;
}

static uint32_t record_of(struct simt_thread_shadow *t, bool atomic, const void *pc)
{
    uint32_t where = (uint32_t)((const char *)pc - __executable_start) * 2 + atomic;
    uint32_t segment = t->segment ? t->segment : new_segment(t);
    auto *r = &recent[where / 2 % (sizeof recent / sizeof recent[0])];
    if (r->segment == segment && r->pc == where)
        return r->record;
    if (next_record - first_record >= MOST_RECORDS) {
        fputs("simt: a launch with more accesses than the finder can remember\n", stderr);
        abort();
    }
    *r = {segment, where, next_record};
    records[next_record - first_record] = {segment, where};
    return next_record++;
}

// Whether what the record tells of is over for the thread that runs.
static bool is_ordered(const struct record *r, const struct simt_thread_shadow *t)
{
    const struct segment *s = &segments[r->segment], *mine = &segments[t->segment];
    if (s == mine)
        return true;
    if (s->who.block != mine->who.block)
        return false;
    if (s->who.thread == mine->who.thread || s->epoch < mine->epoch)
        return true;
    return s->who.thread / 32 == mine->who.thread / 32 && t->clock[s->who.thread % 32] >= s->clock;
}

// --- launches, blocks ---------------------------------------------------------------------------

static void forget(struct region *r)
{
    if (r->base) {
        madvise(r->write, r->size * sizeof *r->write, MADV_DONTNEED);
        madvise(r->read, r->size * sizeof *r->read, MADV_DONTNEED);
        madvise(r->also, r->size * sizeof *r->also, MADV_DONTNEED);
    }
}

void simt_shadow_launch(size_t dynamic)
{
    open_shared();
    if (!records) {
        records = (struct record *)reserve(MOST_RECORDS * sizeof *records);
        segments = (struct segment *)reserve(MOST_RECORDS * sizeof *segments);
    }
    if (next_record > MOST_RECORDS) { // numbers of 32 bits run out: begin again
        forget(&global_memory);
        forget(&shared_memory);
        next_record = 1;
    }
    memset(recent, 0, sizeof recent);
    first_record = global_memory.first = next_record;
    n_segments = 0;
    launch++;
    static_now = 0;
    dynamic_now = dynamic;
    shared_touched = true;
}

void simt_shadow_block(void)
{
    struct region *r = &shared_memory;
    r->first = next_record;
    if (!shared_touched)
        return;
    shared_touched = false;
    for (int i = 0; i < n_objects; i++) {
        size_t here = is_dynamic(&objects[i]) ? dynamic_now : objects[i].size;
        memset(r->state + objects[i].at, NO_VALUE, here);
        memset(r->state + objects[i].at + here, ABSENT, objects[i].size - here);
    }
}

// --- an access ----------------------------------------------------------------------------------

static const char *verb(bool write, bool atomic)
{
    return atomic ? "atomic operation on" : write ? "write of" : "read of";
}

// "kernel(int)::tile" as "tile": the sentence names the kernel.
static const char *short_name(const char *name)
{
    const char *last = name;
    for (const char *p = name; (p = strstr(p, "::")); p += 2)
        last = p + 2;
    return last;
}

// Where p lies, in words.
static const char *place(const struct region *r, const unsigned char *p)
{
    static char text[512];
    char name[256];
    if (r == &global_memory)
        return simt_describe_global(p, text, sizeof text);
    size_t at = (size_t)(p - r->base);
    const struct object *o = NULL; // the last one that begins before p
    for (int i = 0; i < n_objects && objects[i].at <= at; i++)
        o = &objects[i];
    if (o)
        simt_describe_symbol(o->name, name, sizeof name);
    if (o && is_dynamic(o))
        snprintf(text, sizeof text, "byte %zu of %zu bytes of dynamic shared memory", at - o->at,
                 dynamic_now);
    else if (o)
        snprintf(text, sizeof text, "byte %zu of the %zu bytes of %s in shared memory", at - o->at,
                 o->size, short_name(name));
    else
        snprintf(text, sizeof text, "shared memory");
    return text;
}

[[noreturn]] static void bad_state(const struct region *r, const unsigned char *p, size_t n,
                                   bool write, bool atomic, const void *pc)
{
    size_t at = (size_t)(p - r->base), i = 0;
    for (; i < n && r->state[at + i] != ABSENT; i++)
        continue;
    if (i < n) {
        simt_found(pc, "out-of-bounds %s %zu bytes at %s", verb(write, atomic), n, place(r, p));
        simt_abandon(cudaErrorIllegalAddress);
    }
    for (i = 0; r->state[at + i] != NO_VALUE; i++)
        continue;
    simt_found(pc, "uninitialised %s %zu bytes at %s", verb(write, atomic), n, place(r, p + i));
    simt_abandon(cudaErrorLaunchFailure);
}

[[noreturn]] static void race(const struct region *r, const unsigned char *p,
                              const struct record *other, bool other_writes, bool write,
                              bool atomic, size_t n, const void *pc)
{
    struct simt_who who = segments[other->segment].who;
    char there[512];
    simt_describe_place(pc_of(other), there, sizeof there);
    simt_found(pc,
               "race: nothing orders this %s %zu bytes at %s with the %s them by block %u, "
               "thread %u (counted through), %s",
               verb(write, atomic), n, place(r, p), verb(other_writes, is_atomic(other)), who.block,
               who.thread, there);
    simt_abandon(cudaErrorLaunchFailure);
}

// A thread's access to one byte, or to several with the same past.
static void check_past(const struct region *r, size_t at, size_t n, bool write, bool atomic,
                       const struct simt_thread_shadow *t, const void *pc)
{
    const uint32_t past[] = {r->write[at], r->read[at], r->also[at]};
    for (int i = 0; i < (write ? 3 : 1); i++) {
        if (past[i] < r->first)
            continue;
        const struct record *other = record_at(past[i]);
        if (!(atomic && is_atomic(other)) && !is_ordered(other, t))
            race(r, r->base + at, other, i == 0, write, atomic, n, pc);
    }
}

static void note_read(struct region *r, size_t at, uint32_t mine,
                      const struct simt_thread_shadow *t)
{
    uint32_t last = r->read[at];
    if (last == mine)
        return;
    if (last < r->first)
        r->also[at] = 0;
    else if (segments[record_at(last)->segment].who.thread != segments[t->segment].who.thread ||
             segments[record_at(last)->segment].who.block != segments[t->segment].who.block)
        r->also[at] = is_ordered(record_at(last), t) ? 0 : last;
    r->read[at] = mine;
}

// The first touch of a static object in a launch: what is in use now must fit into a block.
static void note_shared(size_t at, const void *pc)
{
    shared_touched = true;
    struct object *o = object_at[at] ? &objects[object_at[at] - 1] : NULL;
    if (!o || o->launch == launch || is_dynamic(o))
        return;
    o->launch = launch;
    static_now += o->size;
    if (static_now > 48 * 1024 || static_now + dynamic_now > (size_t)simt_device()->shared_optin) {
        simt_found(pc,
                   "%zu bytes of static and %zu of dynamic shared memory are more than a block "
                   "of %s has",
                   static_now, dynamic_now, simt_device()->arch);
        simt_abandon(cudaErrorLaunchFailure);
    }
}

template <size_t N> static bool all_equal(const uint32_t *p)
{
    uint32_t differ = 0;
    for (size_t i = 1; i < N; i++)
        differ |= p[i] ^ p[0];
    return differ == 0;
}

template <size_t N>
static void touch(struct region *r, const void *p, bool write, bool atomic, const void *pc)
{
    size_t at = (size_t)((const unsigned char *)p - r->base);
    unsigned char *state = r->state + at;
    bool good = true;
    for (size_t i = 0; i < N; i++)
        good &= state[i] >= (write && !atomic ? NO_VALUE : HAS_VALUE);
    if (!good)
        bad_state(r, (const unsigned char *)p, N, write, atomic, pc);
    struct simt_thread_shadow *t = simt_shadow;
    uint32_t mine = record_of(t, atomic, pc);
    if (all_equal<N>(r->write + at) && all_equal<N>(r->read + at) && all_equal<N>(r->also + at)) {
        check_past(r, at, N, write, atomic, t, pc);
        if (write) {
            for (size_t i = 0; i < N; i++)
                state[i] = HAS_VALUE;
            for (size_t i = 0; i < N; i++)
                r->write[at + i] = mine;
            for (size_t i = 0; i < N; i++)
                r->read[at + i] = r->also[at + i] = 0;
        } else {
            note_read(r, at, mine, t);
            uint32_t also = r->also[at];
            for (size_t i = 1; i < N; i++) {
                r->read[at + i] = mine;
                r->also[at + i] = also;
            }
        }
        return;
    }
    for (size_t i = 0; i < N; i++)
        touch<1>(r, (const unsigned char *)p + i, write, atomic, pc);
}

static struct region *region_of(const void *p)
{
    if ((size_t)((const unsigned char *)p - global_memory.base) < global_memory.size)
        return &global_memory;
    if ((size_t)((const unsigned char *)p - shared_memory.base) < shared_memory.size)
        return &shared_memory;
    return NULL;
}

// Of memory that is neither global nor shared a kernel may touch its own and what is compiled in.
static void check_other(const void *p, size_t n, bool write, bool atomic, const void *pc)
{
    const char *c = (const char *)p;
    if (simt_is_own_stack(p) || (c >= __executable_start && c < _end))
        return;
    if (simt_is_stack(p))
        simt_found(pc, "%s %zu bytes of another thread's local memory", verb(write, atomic), n);
    else
        simt_found(pc, "%s %zu bytes at %p, which is %s", verb(write, atomic), n, p,
                   (uintptr_t)p < 4096 ? "a null pointer" : "memory of the host");
    simt_abandon(cudaErrorIllegalAddress);
}

static void misaligned(const void *p, size_t align, const char *what, const void *pc)
{
    if (!simt_running)
        return;
    const struct region *r = region_of(p);
    simt_found(pc, "misaligned %s %s, whose address %zu does not divide", what,
               r ? place(r, (const unsigned char *)p) : "local memory", align);
    simt_abandon(cudaErrorMisalignedAddress);
}

// aligned: as the type of the access demands.
template <size_t N, bool aligned>
static inline void access(const void *p, bool write, bool atomic, const void *pc)
{
    if (!simt_running)
        return;
    struct region *r = region_of(p);
    if (!r) {
        check_other(p, N, write, atomic, pc);
        return;
    }
    if (aligned && (uintptr_t)p % N)
        misaligned(p, N, verb(write, atomic), pc);
    if (r == &shared_memory)
        note_shared((size_t)((const unsigned char *)p - r->base), pc);
    touch<N>(r, p, write, atomic, pc);
}

bool simt_library_touches(const char *library, const void *p, size_t n, bool writes)
{
    const unsigned char *c = (const unsigned char *)p;
    const bool inside = region_of(c) == &global_memory && n <= global_memory.size;
    for (size_t i = 0; i < n; i++) {
        if (inside &&
            global_memory.state[c + i - global_memory.base] >= (writes ? NO_VALUE : HAS_VALUE))
            continue;
        simt_find_in(NULL);
        simt_found(NULL, "%s %ss %zu bytes at %s that are not all there or have no value", library,
                   writes ? "write" : "read", n,
                   inside ? place(&global_memory, c + i) : "no device memory");
        simt_break(cudaErrorIllegalAddress);
        return false;
    }
    if (writes && n)
        simt_shadow_filled(p, n);
    return true;
}

void simt_library_finds(const char *library, const char *what)
{
    simt_find_in(NULL);
    simt_found(NULL, "%s %s", library, what);
    simt_break(cudaErrorLaunchFailure);
}

static void access_range(const void *p, size_t n, bool write, const void *pc)
{
    const unsigned char *c = (const unsigned char *)p;
    for (; n >= 16; c += 16, n -= 16)
        access<16, false>(c, write, false, pc);
    for (; n; c++, n--)
        access<1, false>(c, write, false, pc);
}

void simt_atomic(const void *p, size_t n, const void *pc)
{
    if (n == 4)
        access<4, true>(p, true, true, pc);
    else
        access<8, true>(p, true, true, pc);
}

// --- what the compiler calls --------------------------------------------------------------------

#define HERE __builtin_return_address(0)

extern "C" {
#define ACCESS(n)                                \
    void __tsan_read##n(void *p)                 \
    {                                            \
        access<n, true>(p, false, false, HERE);  \
    }                                            \
    void __tsan_write##n(void *p)                \
    {                                            \
        access<n, true>(p, true, false, HERE);   \
    }                                            \
    void __tsan_unaligned_read##n(void *p)       \
    {                                            \
        access<n, false>(p, false, false, HERE); \
    }                                            \
    void __tsan_unaligned_write##n(void *p)      \
    {                                            \
        access<n, false>(p, true, false, HERE);  \
    }                                            \
    void __tsan_volatile_read##n(void *p)        \
    {                                            \
        access<n, true>(p, false, false, HERE);  \
    }                                            \
    void __tsan_volatile_write##n(void *p)       \
    {                                            \
        access<n, true>(p, true, false, HERE);   \
    }                                            \
    void __tsan_read_write##n(void *p)           \
    {                                            \
        access<n, true>(p, false, false, HERE);  \
        access<n, true>(p, true, false, HERE);   \
    }                                            \
    void __tsan_unaligned_read_write##n(void *p) \
    {                                            \
        access<n, false>(p, false, false, HERE); \
        access<n, false>(p, true, false, HERE);  \
    }
ACCESS(1)
ACCESS(2)
ACCESS(4)
ACCESS(8)
ACCESS(16)

void __tsan_read_range(void *p, size_t n)
{
    access_range(p, n, false, HERE);
}

void __tsan_write_range(void *p, size_t n)
{
    access_range(p, n, true, HERE);
}

// clang's calls, and those of the header of the stand-in.
void *__tsan_memcpy(void *to, const void *from, size_t n)
{
    access_range(from, n, false, HERE);
    access_range(to, n, true, HERE);
    return memmove(to, from, n);
}

void *__tsan_memmove(void *to, const void *from, size_t n)
{
    access_range(from, n, false, HERE);
    access_range(to, n, true, HERE);
    return memmove(to, from, n);
}

void *__tsan_memset(void *p, int value, size_t n)
{
    access_range(p, n, true, HERE);
    return memset(p, value, n);
}

void __tsan_init(void)
{
}

void __tsan_func_entry(void *)
{
}

void __tsan_func_exit(void)
{
}

void __tsan_vptr_update(void **, void *)
{
}

void __tsan_vptr_read(void **)
{
}

// The handlers of -fsanitize=alignment,bounds,shift-exponent,float-cast-overflow. The last two are
// of what a device computes otherwise than the host: nobody may depend on it.
struct place_in_source {
    const char *file;
    uint32_t line, column;
};

struct type {
    uint16_t kind, info; // 0: an integer, info is signed, and its width's logarithm above that
    char name[1];
};

struct type_mismatch {
    struct place_in_source at;
    const struct type *type;
    unsigned char log_alignment, kind;
};

void __ubsan_handle_type_mismatch_v1(struct type_mismatch *m, void *p)
{
    static const char *const kinds[] = {"load of", "store to", "reference to", "member of"};
    misaligned(p, (size_t)1 << m->log_alignment, m->kind < 4 ? kinds[m->kind] : "use of", HERE);
}

/* clang: __builtin_assume_aligned has said more of a pointer than is true. */
void __ubsan_handle_alignment_assumption(void *, char *p, uintptr_t alignment, uintptr_t offset)
{
    misaligned(p - offset, alignment, "use of", HERE);
}

struct out_of_bounds {
    struct place_in_source at;
    const struct type *array, *index;
};

void __ubsan_handle_out_of_bounds(struct out_of_bounds *b, uintptr_t index)
{
    if (!simt_running)
        return;
    simt_found(HERE, "index %jd is out of bounds of %s", (intmax_t)index, b->array->name);
    simt_abandon(cudaErrorIllegalAddress);
}

struct bad_shift {
    struct place_in_source at;
    const struct type *left, *right;
};

void __ubsan_handle_shift_out_of_bounds(struct bad_shift *s, uintptr_t, uintptr_t by)
{
    if (!simt_running)
        return;
    simt_found(HERE, "shift by %jd of %s", (intmax_t)by, s->left->name);
    simt_abandon(cudaErrorLaunchFailure);
}

struct bad_cast {
    struct place_in_source at;
    const struct type *from, *to;
};

void __ubsan_handle_float_cast_overflow(struct bad_cast *c, uintptr_t)
{
    if (!simt_running)
        return;
    simt_found(HERE, "a value of %s that does not fit is cast to %s", c->from->name, c->to->name);
    simt_abandon(cudaErrorLaunchFailure);
}
}
