/* SPDX-License-Identifier: MIT
 *
 * Timing on the device: the tensors of one call stay in its memory, and launches are one graph with
 * an event before and an event behind them, so that no time of the host's is in between.
 */
#include <time.h>

#include "kernels/cuda/backend.cuh"
#include "kernels/cuda/device.cuh"
#include "kernels/cuda/nvml.h"

namespace
{

struct session {
    struct qg_args a, d; /* in host memory and here */
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

/* Puts `runs` launches into s->graph, between the events. */
cudaError_t capture(struct session *s, size_t runs)
{
    cudaGraph_t graph = NULL;
    forget_graph(s);
    cudaError_t e = cudaStreamBeginCapture(qg_cuda_stream(), cudaStreamCaptureModeThreadLocal);
    if (e != cudaSuccess)
        return e;
    const cudaError_t begun =
        cudaEventRecordWithFlags(s->begin, qg_cuda_stream(), cudaEventRecordExternal);
    for (size_t i = 0; i < runs; i++)
        s->launch(&s->d);
    const cudaError_t ended =
        cudaEventRecordWithFlags(s->end, qg_cuda_stream(), cudaEventRecordExternal);
    e = cudaStreamEndCapture(qg_cuda_stream(), &graph);
    if (e == cudaSuccess)
        e = begun != cudaSuccess ? begun : ended;
    if (e == cudaSuccess)
        e = cudaGraphInstantiate(&s->graph, graph, 0);
    if (graph)
        (void)cudaGraphDestroy(graph);
    s->graph_runs = e == cudaSuccess ? runs : 0;
    return e;
}

/* Other data for the cache, or nothing; the graph. */
cudaError_t run(struct session *s, bool cold)
{
    cudaError_t e = cudaSuccess;
    const cudaStream_t stream = qg_cuda_stream();
    if (cold)
        e = cudaMemsetAsync(s->other, 0, s->other_bytes, stream);
    if (e == cudaSuccess)
        e = cudaGraphLaunch(s->graph, stream);
    return e == cudaSuccess ? cudaStreamSynchronize(stream) : e;
}

double now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Keeps the device busy for a while: one that had nothing to do has low clocks. */
cudaError_t wake(struct session *s)
{
    const double until = now() + 0.05;
    cudaError_t e = capture(s, 1);
    do
        e = e == cudaSuccess ? run(s, false) : e;
    while (e == cudaSuccess && now() < until);
    return e;
}

/* What the runs that count do not write stays other than what runs before them left. */
cudaError_t poison(const struct session *s)
{
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < s->d.n_out && e == cudaSuccess; i++)
        e = cudaMemset(s->d.out[i].data, 0x69, qg_bytes(&s->d.out[i]));
    return e;
}

void *start(qg_op_fn *launch, const struct qg_args *a, struct qg_failure *ret)
{
    struct session *s = (struct session *)calloc(1, sizeof *s);
    cudaError_t e = s ? qg_cuda_lend(a, &s->d) : cudaErrorMemoryAllocation;
    if (s) {
        s->a = *a;
        s->launch = launch;
    }
    if (e == cudaSuccess)
        e = open_session(s);
    if (e == cudaSuccess)
        e = wake(s);
    if (e == cudaSuccess)
        e = poison(s);
    if (e == cudaSuccess) {
        struct qg_device_state unused;
        qg_nvml_look(true, &unused); // the first in a process loads the library
        return s;
    }
    qg_cuda_say(ret, e);
    if (s)
        qg_cuda_stopwatch.stop(s, ret);
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
    return s->failed != cudaSuccess ? (double)NAN : 1e-3 * (double)ms;
}

void stop(void *session, struct qg_failure *ret)
{
    struct session *s = (struct session *)session;
    s->a.failure = ret;
    if (s->failed == cudaSuccess && !ret->text[0])
        s->failed = qg_cuda_take_back(&s->a, &s->d);
    if (s->failed != cudaSuccess)
        qg_cuda_say(ret, s->failed);
    forget_graph(s);
    if (s->begin)
        (void)cudaEventDestroy(s->begin);
    if (s->end)
        (void)cudaEventDestroy(s->end);
    (void)cudaFree(s->other);
    qg_cuda_take(&s->d);
    free(s);
}

/* The device has just been busy: an idle one says so for its low clocks only after a while. */
void look(void *, bool all, struct qg_device_state *ret)
{
    qg_nvml_look(all, ret);
}

} // namespace

const struct qg_stopwatch qg_cuda_stopwatch = {start, seconds, stop, look, qg_cuda_settings};
