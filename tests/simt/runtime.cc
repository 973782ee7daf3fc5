// SPDX-License-Identifier: MIT
//
// The CUDA runtime's calls: memory, streams, events, the device, errors.
#include <sys/mman.h>
#include <time.h>

#include "tests/simt/inside.h"

// --- the device ---------------------------------------------------------------------------------

#define KIB 1024

// sm_75 is here to be refused: the kernels are for sm_80 and later.
static const struct simt_arch devices[] = {
    {"sm_75", "simt sm_75 (T4's limits)", 7, 5, 40, 64 * KIB, 64 * KIB, 4096 * KIB, 1024},
    {"sm_80", "simt sm_80 (A100's limits)", 8, 0, 108, 163 * KIB, 164 * KIB, 40960 * KIB, 2048},
    {"sm_90", "simt sm_90 (H100's limits)", 9, 0, 132, 227 * KIB, 228 * KIB, 51200 * KIB, 2048},
    {"sm_100", "simt sm_100 (B200's limits)", 10, 0, 148, 227 * KIB, 228 * KIB, 129024 * KIB, 2048},
};

const struct simt_arch *simt_device(void)
{
    const char *arch = getenv("QG_SIMT_ARCH");
    if (!arch)
        return &devices[2];
    for (const struct simt_arch &d : devices)
        if (strcmp(d.arch, arch) == 0)
            return &d;
    return NULL;
}

// The memory of the device: QG_SIMT_MEMORY bytes, or 16 GiB.
static size_t memory_size(void)
{
    const char *s = getenv("QG_SIMT_MEMORY");
    return s ? (size_t)strtoull(s, NULL, 0) : (size_t)16 << 30;
}

// --- errors -------------------------------------------------------------------------------------

static cudaError_t last_error, broken;

static cudaError_t fail(cudaError_t e)
{
    if (e != cudaSuccess)
        last_error = e;
    return e;
}

void simt_break(cudaError_t e)
{
    broken = e;
}

cudaError_t simt_broken(void)
{
    return broken;
}

// The version of CUDA that the driver is for: QG_SIMT_DRIVER, or the runtime's; 0: there is none.
static int driver_version(void)
{
    const char *s = getenv("QG_SIMT_DRIVER");
    return s ? atoi(s) : CUDART_VERSION;
}

// What a call that needs the device and was itself right returns. A driver of the same major
// version does.
static cudaError_t done(void)
{
    if (driver_version() < CUDART_VERSION / 1000 * 1000)
        return fail(cudaErrorInsufficientDriver);
    return fail(broken ? broken : simt_device() ? cudaSuccess : cudaErrorNoDevice);
}

cudaError_t cudaGetLastError(void)
{
    cudaError_t e = broken ? broken : last_error;
    last_error = cudaSuccess;
    return e;
}

cudaError_t cudaPeekAtLastError(void)
{
    return broken ? broken : last_error;
}

// Of the error that broke the device it is the finding, which says more.
const char *cudaGetErrorString(cudaError_t e)
{
    if (e == broken && broken && simt_finding())
        return simt_finding();
#define TEXT(name, value, text) \
    case value:                 \
        return text;
    switch ((int)e) {
        SIMT_ERRORS(TEXT)
    }
    return "unrecognized error code";
}

const char *cudaGetErrorName(cudaError_t e)
{
#define NAME(name, value, text) \
    case value:                 \
        return #name;
    switch ((int)e) {
        SIMT_ERRORS(NAME)
    }
    return "unrecognized error code";
}

// --- memory -------------------------------------------------------------------------------------

#define ALIGN   256
#define REDZONE 256
#define ARENA   ((size_t)64 << 30)  // of addresses
#define HORIZON ((size_t)256 << 20) // beyond it addresses are used again

struct block {
    size_t at, size; // in the arena, with redzones
    size_t bytes;    // as asked for
    struct block *next;
};

static unsigned char *arena;
static struct block *blocks;    // live, by address
static size_t cursor, used;     // where the next block is looked for: a freed one comes again last
static struct block freed[256]; // the last ones
static unsigned n_freed;

static bool arena_open(void)
{
    if (arena)
        return true;
    void *p = mmap(NULL, ARENA, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
                   -1, 0);
    if (p == MAP_FAILED)
        return false;
    arena = (unsigned char *)p;
    simt_shadow_open(p, ARENA);
    return true;
}

// The first room for n bytes at or behind the cursor; NULL: none before the arena's end.
static struct block **room(size_t n, size_t *ret_at)
{
    size_t at = cursor;
    struct block **link = &blocks;
    for (; *link; link = &(*link)->next) {
        if ((*link)->at + (*link)->size <= at)
            continue;
        if ((*link)->at >= at + n)
            break;
        at = (*link)->at + (*link)->size;
    }
    *ret_at = at;
    return at + n <= ARENA ? link : NULL;
}

// A block's size here counts the redzones around it and the rounding.
static size_t whole(size_t n)
{
    return (n + ALIGN - 1) / ALIGN * ALIGN + 2 * REDZONE;
}

cudaError_t cudaMalloc(void **p, size_t n)
{
    if (!p)
        return fail(cudaErrorInvalidValue);
    *p = NULL;
    if (done() != cudaSuccess || n == 0)
        return done();
    size_t size = whole(n), at;
    if (n > memory_size() || used + size > memory_size() || !arena_open())
        return fail(cudaErrorMemoryAllocation);
    if (cursor > HORIZON)
        cursor = 0;
    struct block **link = room(size, &at);
    if (!link) {
        cursor = 0;
        link = room(size, &at);
    }
    struct block *b = link ? (struct block *)malloc(sizeof *b) : NULL;
    if (!b)
        return fail(cudaErrorMemoryAllocation);
    *b = {at, size, n, *link};
    *link = b;
    cursor = at + size;
    used += size;
    *p = arena + at + REDZONE;
    simt_shadow_allocated(*p, n);
    return cudaSuccess;
}

cudaError_t cudaFree(void *p)
{
    if (!p || done() != cudaSuccess)
        return done();
    for (struct block **link = &blocks; *link; link = &(*link)->next) {
        struct block *b = *link;
        if (arena + b->at + REDZONE != p)
            continue;
        *link = b->next;
        used -= b->size;
        simt_shadow_freed(p, b->bytes);
        freed[n_freed++ % 256] = *b;
        free(b);
        return cudaSuccess;
    }
    return fail(cudaErrorInvalidValue);
}

cudaError_t cudaMallocAsync(void **p, size_t n, cudaStream_t)
{
    return cudaMalloc(p, n);
}

cudaError_t cudaFreeAsync(void *p, cudaStream_t)
{
    return cudaFree(p);
}

cudaError_t cudaMallocHost(void **p, size_t n)
{
    *p = malloc(n ? n : 1);
    return *p ? done() : fail(cudaErrorMemoryAllocation);
}

cudaError_t cudaFreeHost(void *p)
{
    free(p);
    return done();
}

cudaError_t cudaMemGetInfo(size_t *available, size_t *total)
{
    *total = memory_size();
    *available = *total > used ? *total - used : 0;
    return done();
}

static bool is_device(const void *p)
{
    return arena && (const unsigned char *)p >= arena && (const unsigned char *)p < arena + ARENA;
}

// Whether [p, p + n) lies in one live allocation.
static bool is_allocated(const void *p, size_t n)
{
    size_t at = (size_t)((const unsigned char *)p - arena);
    for (const struct block *b = blocks; b && b->at <= at; b = b->next)
        if (at >= b->at + REDZONE && at + n <= b->at + REDZONE + b->bytes)
            return true;
    return false;
}

// Whether a copy's end is where its kind says: 0 host, 1 device, 2 anywhere.
static bool end_is_right(const void *p, size_t n, int where)
{
    if (where == 0)
        return !is_device(p);
    return is_device(p) ? is_allocated(p, n) : where == 2;
}

static bool covers(const struct block *b, size_t at)
{
    return at >= b->at && at < b->at + b->size;
}

const char *simt_describe_global(const void *p, char *text, size_t size)
{
    size_t at = (size_t)((const unsigned char *)p - arena);
    const struct block *b = blocks;
    while (b && !covers(b, at))
        b = b->next;
    const char *state = "allocation";
    for (int i = 0; i < 256 && !b; i++)
        if (covers(&freed[i], at)) {
            b = &freed[i];
            state = "freed allocation";
        }
    if (!b)
        snprintf(text, size, "an address in global memory that is not allocated");
    else if (at < b->at + REDZONE)
        snprintf(text, size, "%zu bytes before the start of an %s of %zu bytes",
                 b->at + REDZONE - at, state, b->bytes);
    else
        snprintf(text, size, "byte %zu of %s %s of %zu bytes", at - b->at - REDZONE,
                 state[0] == 'a' ? "an" : "a", state, b->bytes);
    return text;
}

cudaError_t cudaMemcpy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
    static const signed char ends[][2] = {{0, 0}, {1, 0}, {0, 1}, {1, 1}, {2, 2}}; // to, from
    if ((unsigned)kind > cudaMemcpyDefault)
        return fail(cudaErrorInvalidMemcpyDirection);
    if (done() != cudaSuccess || n == 0)
        return done();
    if (!end_is_right(to, n, ends[kind][0]) || !end_is_right(from, n, ends[kind][1]))
        return fail(cudaErrorInvalidValue);
    memmove(to, from, n);
    if (is_device(to) && is_device(from))
        simt_shadow_copied(to, from, n);
    else if (is_device(to))
        simt_shadow_filled(to, n);
    return cudaSuccess;
}

cudaError_t cudaMemcpyAsync(void *to, const void *from, size_t n, enum cudaMemcpyKind kind,
                            cudaStream_t)
{
    return simt_is_capturing() ? simt_keep_copy(to, from, n, kind) : cudaMemcpy(to, from, n, kind);
}

cudaError_t cudaMemset(void *p, int value, size_t n)
{
    if (done() != cudaSuccess || n == 0)
        return done();
    if (!is_device(p) || !is_allocated(p, n))
        return fail(cudaErrorInvalidValue);
    memset(p, value, n);
    simt_shadow_filled(p, n);
    return cudaSuccess;
}

cudaError_t cudaMemsetAsync(void *p, int value, size_t n, cudaStream_t)
{
    return simt_is_capturing() ? simt_keep_fill(p, value, n) : cudaMemset(p, value, n);
}

// --- atomics ------------------------------------------------------------------------------------

static float without_subnormals(float f)
{
    return fabsf(f) < 0x1p-126f ? copysignf(0.0f, f) : f;
}

float atomicAdd(float *p, float v)
{
    simt_atomic(p, sizeof *p, __builtin_return_address(0));
    float was = *p;
    *p = is_device(p) ? without_subnormals(without_subnormals(was) + without_subnormals(v))
                      : was + v;
    return was;
}

#define ATOMIC(T, name, next)                                   \
    T name(T *p, T v)                                           \
    {                                                           \
        simt_atomic(p, sizeof *p, __builtin_return_address(0)); \
        T was = *p;                                             \
        *p = next;                                              \
        return was;                                             \
    }
ATOMIC(double, atomicAdd, was + v)
ATOMIC(float, atomicExch, v)
#define ATOMICS(T)                                              \
    ATOMIC(T, atomicMin, was < v ? was : v)                     \
    ATOMIC(T, atomicMax, was > v ? was : v)                     \
    ATOMIC(T, atomicAnd, was &v)                                \
    ATOMIC(T, atomicOr, was | v)                                \
    ATOMIC(T, atomicXor, was ^ v)                               \
    ATOMIC(T, atomicExch, v)                                    \
    T atomicCAS(T *p, T compare, T v)                           \
    {                                                           \
        simt_atomic(p, sizeof *p, __builtin_return_address(0)); \
        T was = *p;                                             \
        *p = was == compare ? v : was;                          \
        return was;                                             \
    }
ATOMICS(int)
ATOMICS(unsigned)
ATOMICS(unsigned long long)
ATOMIC(unsigned, atomicAdd, was + v)
ATOMIC(unsigned long long, atomicAdd, was + v)
ATOMIC(int, atomicAdd, (int)((unsigned)was + (unsigned)v))
ATOMIC(unsigned, atomicSub, was - v)
ATOMIC(int, atomicSub, (int)((unsigned)was - (unsigned)v))
ATOMIC(unsigned, atomicInc, was >= v ? 0 : was + 1)
ATOMIC(unsigned, atomicDec, was == 0 || was > v ? v : was - 1)

// --- streams and events -------------------------------------------------------------------------

struct CUstream_st {
    unsigned flags;
};

struct CUevent_st {
    unsigned flags;
    bool recorded;
    struct timespec at;
};

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *s, unsigned flags)
{
    if (!s || flags > cudaStreamNonBlocking)
        return fail(cudaErrorInvalidValue);
    *s = (cudaStream_t)malloc(sizeof **s);
    if (!*s)
        return fail(cudaErrorMemoryAllocation);
    **s = {flags};
    return done();
}

cudaError_t cudaStreamCreate(cudaStream_t *s)
{
    return cudaStreamCreateWithFlags(s, cudaStreamDefault);
}

cudaError_t cudaStreamDestroy(cudaStream_t s)
{
    if (!s || s == cudaStreamLegacy || s == cudaStreamPerThread)
        return fail(cudaErrorInvalidResourceHandle);
    free(s);
    return done();
}

cudaError_t cudaStreamSynchronize(cudaStream_t)
{
    return done();
}

cudaError_t cudaStreamQuery(cudaStream_t)
{
    return done();
}

cudaError_t cudaStreamWaitEvent(cudaStream_t, cudaEvent_t e, unsigned)
{
    return e ? done() : fail(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventCreateWithFlags(cudaEvent_t *e, unsigned flags)
{
    if (!e)
        return fail(cudaErrorInvalidValue);
    *e = (cudaEvent_t)calloc(1, sizeof **e);
    if (!*e)
        return fail(cudaErrorMemoryAllocation);
    (*e)->flags = flags;
    return done();
}

cudaError_t cudaEventCreate(cudaEvent_t *e)
{
    return cudaEventCreateWithFlags(e, cudaEventDefault);
}

cudaError_t cudaEventDestroy(cudaEvent_t e)
{
    if (!e)
        return fail(cudaErrorInvalidResourceHandle);
    free(e);
    return done();
}

cudaError_t cudaEventRecord(cudaEvent_t e, cudaStream_t)
{
    if (!e)
        return fail(cudaErrorInvalidResourceHandle);
    e->recorded = !simt_is_capturing(); // else it orders within the graph, and tells no time
    clock_gettime(CLOCK_MONOTONIC, &e->at);
    return done();
}

cudaError_t cudaEventQuery(cudaEvent_t e)
{
    return e ? done() : fail(cudaErrorInvalidResourceHandle);
}

cudaError_t cudaEventSynchronize(cudaEvent_t e)
{
    return cudaEventQuery(e);
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    if (!ms)
        return fail(cudaErrorInvalidValue);
    if (!start || !end || !start->recorded || !end->recorded ||
        (start->flags | end->flags) & cudaEventDisableTiming)
        return fail(cudaErrorInvalidResourceHandle);
    *ms = (float)((double)(end->at.tv_sec - start->at.tv_sec) * 1e3 +
                  (double)(end->at.tv_nsec - start->at.tv_nsec) * 1e-6);
    return done();
}

// --- devices ------------------------------------------------------------------------------------

cudaError_t cudaGetDeviceCount(int *count)
{
    *count = simt_device() ? 1 : 0;
    return done();
}

cudaError_t cudaSetDevice(int device)
{
    return device == 0 ? done() : fail(cudaErrorInvalidDevice);
}

cudaError_t cudaGetDevice(int *device)
{
    *device = 0;
    return done();
}

cudaError_t cudaGetDeviceProperties(struct cudaDeviceProp *p, int device)
{
    const struct simt_arch *d = simt_device();
    if (!d || device != 0)
        return fail(cudaErrorInvalidDevice);
    *p = {};
    snprintf(p->name, sizeof p->name, "%s", d->name);
    p->totalGlobalMem = memory_size();
    p->sharedMemPerBlock = 48 * KIB;
    p->sharedMemPerBlockOptin = (size_t)d->shared_optin;
    p->sharedMemPerMultiprocessor = (size_t)d->shared_processor;
    p->regsPerBlock = p->regsPerMultiprocessor = 65536;
    p->warpSize = 32;
    p->maxThreadsPerBlock = SIMT_THREADS;
    p->maxThreadsDim[0] = p->maxThreadsDim[1] = SIMT_THREADS;
    p->maxThreadsDim[2] = 64;
    p->maxGridSize[0] = INT32_MAX;
    p->maxGridSize[1] = p->maxGridSize[2] = 65535;
    p->major = d->major;
    p->minor = d->minor;
    p->multiProcessorCount = d->processors;
    p->memoryBusWidth = 5120;
    p->l2CacheSize = d->l2_bytes;
    p->maxThreadsPerMultiProcessor = d->threads_processor;
    return done();
}

cudaError_t cudaDeviceGetPCIBusId(char *text, int size, int device)
{
    if (!text || size < 13 || device != 0)
        return fail(text && size >= 13 ? cudaErrorInvalidDevice : cudaErrorInvalidValue);
    snprintf(text, (size_t)size, "0000:0a:00.0"); // where nvml.cc has it
    return done();
}

cudaError_t cudaDeviceGetAttribute(int *value, enum cudaDeviceAttr which, int device)
{
    struct cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceProperties(&p, device);
    if (e != cudaSuccess)
        return e;
    if (which == cudaDevAttrComputeMode) {
        const char *mode = getenv("QG_SIMT_MODE");
        *value = mode ? atoi(mode) : cudaComputeModeDefault;
        return cudaSuccess;
    }
    switch (which) {
#define ATTRIBUTE(name, member)   \
    case name:                    \
        *value = (int)(p.member); \
        return cudaSuccess;
        ATTRIBUTE(cudaDevAttrMaxThreadsPerBlock, maxThreadsPerBlock)
        ATTRIBUTE(cudaDevAttrMaxBlockDimX, maxThreadsDim[0])
        ATTRIBUTE(cudaDevAttrMaxBlockDimY, maxThreadsDim[1])
        ATTRIBUTE(cudaDevAttrMaxBlockDimZ, maxThreadsDim[2])
        ATTRIBUTE(cudaDevAttrMaxGridDimX, maxGridSize[0])
        ATTRIBUTE(cudaDevAttrMaxGridDimY, maxGridSize[1])
        ATTRIBUTE(cudaDevAttrMaxGridDimZ, maxGridSize[2])
        ATTRIBUTE(cudaDevAttrMaxSharedMemoryPerBlock, sharedMemPerBlock)
        ATTRIBUTE(cudaDevAttrWarpSize, warpSize)
        ATTRIBUTE(cudaDevAttrMaxRegistersPerBlock, regsPerBlock)
        ATTRIBUTE(cudaDevAttrMultiProcessorCount, multiProcessorCount)
        ATTRIBUTE(cudaDevAttrGlobalMemoryBusWidth, memoryBusWidth)
        ATTRIBUTE(cudaDevAttrL2CacheSize, l2CacheSize)
        ATTRIBUTE(cudaDevAttrMaxThreadsPerMultiProcessor, maxThreadsPerMultiProcessor)
        ATTRIBUTE(cudaDevAttrComputeCapabilityMajor, major)
        ATTRIBUTE(cudaDevAttrComputeCapabilityMinor, minor)
        ATTRIBUTE(cudaDevAttrMaxSharedMemoryPerMultiprocessor, sharedMemPerMultiprocessor)
        ATTRIBUTE(cudaDevAttrMaxSharedMemoryPerBlockOptin, sharedMemPerBlockOptin)
    default: // clocks: there is nothing that ticks
        return fail(cudaErrorNotSupported);
    }
}

cudaError_t cudaDeviceSynchronize(void)
{
    return done();
}

cudaError_t cudaDeviceReset(void)
{
    while (blocks) {
        struct block *b = blocks;
        blocks = b->next;
        free(b);
    }
    used = 0;
    last_error = cudaSuccess; // but a device once broken stays so: its process must end
    return broken;
}

cudaError_t cudaDriverGetVersion(int *version)
{
    *version = driver_version();
    return cudaSuccess;
}

cudaError_t cudaRuntimeGetVersion(int *version)
{
    *version = CUDART_VERSION;
    return cudaSuccess;
}

// --- launches -----------------------------------------------------------------------------------

// The kernels whose dynamic shared memory was raised above 48 KiB.
static struct {
    const void *kernel;
    int bytes;
} raised[256];
static int n_raised;

size_t simt_dynamic_limit(const void *kernel)
{
    for (int i = 0; i < n_raised; i++)
        if (raised[i].kernel == kernel)
            return (size_t)raised[i].bytes;
    return 48 * KIB;
}

cudaError_t cudaFuncSetAttribute(const void *kernel, enum cudaFuncAttribute which, int value)
{
    if (done() != cudaSuccess)
        return done();
    if (which == cudaFuncAttributePreferredSharedMemoryCarveout)
        return value >= -1 && value <= 100 ? cudaSuccess : fail(cudaErrorInvalidValue);
    if (which != cudaFuncAttributeMaxDynamicSharedMemorySize || value < 0 ||
        value > simt_device()->shared_optin)
        return fail(cudaErrorInvalidValue);
    int i = 0;
    while (i < n_raised && raised[i].kernel != kernel)
        i++;
    if (i == (int)(sizeof raised / sizeof raised[0]))
        return fail(cudaErrorMemoryAllocation);
    raised[i] = {kernel, value};
    n_raised = i == n_raised ? i + 1 : n_raised;
    return cudaSuccess;
}

// What the compiler for the device would know (registers, static shared memory) is 0.
cudaError_t cudaFuncGetAttributes(struct cudaFuncAttributes *a, const void *kernel)
{
    if (done() != cudaSuccess)
        return done();
    *a = {};
    a->maxThreadsPerBlock = SIMT_THREADS;
    a->ptxVersion = a->binaryVersion = simt_device()->major * 10 + simt_device()->minor;
    a->maxDynamicSharedSizeBytes = (int)simt_dynamic_limit(kernel);
    return cudaSuccess;
}

static bool dims_are_right(const cudaLaunchConfig_t *c)
{
    dim3 b = c->blockDim, g = c->gridDim;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    return threads > 0 && threads <= SIMT_THREADS && b.x <= SIMT_THREADS && b.y <= SIMT_THREADS &&
           b.z <= 64 && g.x > 0 && g.y > 0 && g.z > 0 && g.x <= INT32_MAX && g.y <= 65535 &&
           g.z <= 65535;
}

// Whether the device fails now: it does QG_SIMT_LAUNCHES launches of a process and no more.
static bool gives_way(void)
{
    static uint64_t launches;
    const char *most = getenv("QG_SIMT_LAUNCHES");
    return most && ++launches > strtoull(most, NULL, 0);
}

cudaError_t simt_launch(const cudaLaunchConfig_t *c, const void *kernel, void (*thread)(void *),
                        void *context)
{
    if (done() != cudaSuccess)
        return done();
    if (gives_way()) {
        simt_break(cudaErrorLaunchFailure);
        return done();
    }
    simt_find_in(kernel);
    if (!dims_are_right(c)) {
        simt_found(NULL, "a grid of %ux%ux%u blocks of %ux%ux%u threads is over the limits of %s",
                   c->gridDim.x, c->gridDim.y, c->gridDim.z, c->blockDim.x, c->blockDim.y,
                   c->blockDim.z, simt_device()->arch);
        return fail(cudaErrorInvalidConfiguration);
    }
    if (c->dynamicSmemBytes > simt_dynamic_limit(kernel)) {
        simt_found(NULL,
                   "%zu bytes of dynamic shared memory are over the %zu bytes that it may have",
                   c->dynamicSmemBytes, simt_dynamic_limit(kernel));
        return fail(cudaErrorInvalidValue);
    }
    for (unsigned i = 0; i < c->numAttrs; i++)
        if (c->attrs[i].id != cudaLaunchAttributeIgnore)
            return fail(cudaErrorNotSupported);
    simt_run_grid(c, thread, context);
    return done(); // the kernel's error, if it had one, is the device's now
}
