/* SPDX-License-Identifier: MIT
 *
 * Timing on the device: the tensors of one call stay in its memory, and events stand before and
 * behind launches that are queued as one graph, so that short kernels do not wait for the host.
 */
#include <dlfcn.h>
#include <stdio.h>

#include "kernels/cuda/backend.cuh"
#include "kernels/cuda/device.cuh"

namespace
{

/* --- NVML ------------------------------------------------------------------------------------ */

/* Of NVIDIA's NVML reference: nvmlDeviceGetCurrentClocksEventReasons and its bits for clocks that
 * the device itself has lowered: software power cap, hardware slowdown, software and hardware
 * thermal slowdown, power brake. */
enum { LOWERED = 0x4 | 0x8 | 0x20 | 0x40 | 0x80 };

struct nvml {
    void *device;
    int (*reasons)(void *device, unsigned long long *ret);
};

struct nvml find_nvml(void)
{
    struct nvml n = {};
    int device = 0;
    char bus[32];
    void *from = dlopen("libnvidia-ml.so.1", RTLD_NOW | RTLD_LOCAL);
    if (!from || cudaGetDevice(&device) != cudaSuccess ||
        cudaDeviceGetPCIBusId(bus, sizeof bus, device) != cudaSuccess)
        return n;
    int (*init)(void) = (int (*)(void))dlsym(from, "nvmlInit_v2");
    int (*find)(const char *, void **) =
        (int (*)(const char *, void **))dlsym(from, "nvmlDeviceGetHandleByPciBusId_v2");
    void *reasons = dlsym(from, "nvmlDeviceGetCurrentClocksEventReasons");
    if (!reasons) // its name before driver 535
        reasons = dlsym(from, "nvmlDeviceGetCurrentClocksThrottleReasons");
    if (!init || !find || !reasons || init() != 0 || find(bus, &n.device) != 0)
        return {};
    n.reasons = (int (*)(void *, unsigned long long *))reasons;
    return n;
}

/* Whether the device says that it runs slower than it could; false where nobody can say. */
bool is_throttled(void)
{
    static const struct nvml n = find_nvml();
    unsigned long long why = 0;
    return n.reasons && n.reasons(n.device, &why) == 0 && (why & LOWERED);
}

/* --- a session ------------------------------------------------------------------------------- */

struct session {
    struct qg_args d;
    qg_op_fn *launch;
    cudaEvent_t begin, end;
    void *other; /* twice the second-level cache */
    size_t other_bytes;
    cudaGraphExec_t graph;
    size_t graph_runs;
    cudaError_t failed;
};

cudaError_t open_session(struct session *s)
{
    int cache = 0, device = 0;
    cudaError_t e = cudaEventCreate(&s->begin);
    if (e == cudaSuccess)
        e = cudaEventCreate(&s->end);
    if (e == cudaSuccess)
        e = cudaGetDevice(&device);
    if (e == cudaSuccess)
        e = cudaDeviceGetAttribute(&cache, cudaDevAttrL2CacheSize, device);
    s->other_bytes = 2 * (size_t)cache;
    if (e == cudaSuccess)
        e = cudaMalloc(&s->other, s->other_bytes);
    return e;
}

void forget_graph(struct session *s)
{
    if (s->graph)
        (void)cudaGraphExecDestroy(s->graph);
    s->graph = NULL;
    s->graph_runs = 0;
}

/* Puts `runs` launches into s->graph. */
cudaError_t capture(struct session *s, size_t runs)
{
    cudaGraph_t graph = NULL;
    forget_graph(s);
    cudaError_t e = cudaStreamBeginCapture(qg_cuda_stream(), cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess)
        return e;
    for (size_t i = 0; i < runs; i++)
        s->launch(&s->d);
    e = cudaStreamEndCapture(qg_cuda_stream(), &graph);
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&s->graph, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    s->graph_runs = e == cudaSuccess ? runs : 0;
    return e;
}

/* Queues other data for the cache, or nothing; the events; the graph between them. */
cudaError_t run(struct session *s, bool cold)
{
    cudaError_t e = cudaSuccess;
    const cudaStream_t stream = qg_cuda_stream();
    if (cold)
        e = cudaMemsetAsync(s->other, 0, s->other_bytes, stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(s->begin, stream);
    if (e == cudaSuccess)
        e = cudaGraphLaunch(s->graph, stream);
    if (e == cudaSuccess)
        e = cudaEventRecord(s->end, stream);
    return e == cudaSuccess ? cudaEventSynchronize(s->end) : e;
}

void *start(qg_op_fn *launch, const struct qg_args *a, struct qg_failure *ret)
{
    struct session *s = (struct session *)calloc(1, sizeof *s);
    cudaError_t e = s ? qg_cuda_lend(a, &s->d) : cudaErrorMemoryAllocation;
    if (e == cudaSuccess)
        e = open_session(s);
    if (e == cudaSuccess) {
        s->launch = launch;
        return s;
    }
    if (s)
        qg_cuda_stopwatch.stop(s, ret);
    ret->no_room = true;
    snprintf(ret->text, sizeof ret->text, "memory on the device: %s", cudaGetErrorString(e));
    return NULL;
}

double seconds(void *session, size_t runs, bool cold)
{
    struct session *s = (struct session *)session;
    float ms = 0;
    if (s->failed == cudaSuccess && s->graph_runs != runs)
        s->failed = capture(s, runs);
    if (s->failed == cudaSuccess)
        s->failed = run(s, cold);
    if (s->failed == cudaSuccess)
        s->failed = cudaEventElapsedTime(&ms, s->begin, s->end);
    return s->failed != cudaSuccess || is_throttled() ? (double)NAN : 1e-3 * (double)ms;
}

void stop(void *session, struct qg_failure *ret)
{
    struct session *s = (struct session *)session;
    if (s->failed != cudaSuccess)
        snprintf(ret->text, sizeof ret->text, "timed, the device says: %s",
                 cudaGetErrorString(s->failed));
    forget_graph(s);
    if (s->begin)
        (void)cudaEventDestroy(s->begin);
    if (s->end)
        (void)cudaEventDestroy(s->end);
    (void)cudaFree(s->other);
    qg_cuda_take(&s->d);
    free(s);
}

} // namespace

const struct qg_stopwatch qg_cuda_stopwatch = {start, seconds, stop};
