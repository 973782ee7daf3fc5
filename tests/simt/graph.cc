/* SPDX-License-Identifier: MIT
 *
 * Graphs: what is queued on any stream while a capture is open is kept in order and done, one after
 * the other, whenever the graph is launched.
 */
#include <stdlib.h>
#include <string.h>

#include "tests/simt/inside.h"

enum kind { LAUNCH, COPY, FILL, CALL, EVENT };

struct node {
    struct node *next;
    enum kind kind;
    cudaLaunchConfig_t config; /* of a launch */
    const void *kernel;
    void (*thread)(void *); /* of a call: what is called */
    void *context;          /* owned */
    void *to;               /* of a copy or a fill; the event */
    const void *from;
    int value; /* of a copy: its direction */
    size_t n;
};

struct CUgraph_st {
    struct node *first, **last;
};

/* The open capture, or NULL: there is one host thread. */
static struct CUgraph_st *open_graph;

bool simt_is_capturing(void)
{
    return open_graph != NULL;
}

static cudaError_t keep(const struct node &value)
{
    struct node *n = (struct node *)malloc(sizeof *n);
    if (!n)
        return cudaErrorMemoryAllocation;
    *n = value;
    n->next = NULL;
    *open_graph->last = n;
    open_graph->last = &n->next;
    return cudaSuccess;
}

cudaError_t simt_keep_launch(const cudaLaunchConfig_t *c, const void *kernel,
                             void (*thread)(void *), const void *context, size_t size)
{
    struct node n = {};
    n.kind = LAUNCH;
    n.config = *c;
    n.kernel = kernel;
    n.thread = thread;
    n.context = malloc(size);
    if (!n.context)
        return cudaErrorMemoryAllocation;
    memcpy(n.context, context, size);
    return keep(n);
}

bool simt_library_calls(void (*work)(void *), const void *context, size_t size)
{
    struct node n = {};
    n.kind = CALL;
    n.thread = work;
    n.context = malloc(size);
    if (!n.context)
        return false;
    memcpy(n.context, context, size);
    if (open_graph)
        return keep(n) == cudaSuccess;
    work(n.context);
    free(n.context);
    return cudaDeviceSynchronize() == cudaSuccess;
}

cudaError_t simt_keep_copy(void *to, const void *from, size_t n, enum cudaMemcpyKind kind)
{
    struct node k = {};
    k.kind = COPY;
    k.to = to;
    k.from = from;
    k.n = n;
    k.value = kind;
    return keep(k);
}

cudaError_t simt_keep_fill(void *to, int value, size_t n)
{
    struct node k = {};
    k.kind = FILL;
    k.to = to;
    k.value = value;
    k.n = n;
    return keep(k);
}

/* In a capture: recorded whenever the graph is launched. */
cudaError_t cudaEventRecordWithFlags(cudaEvent_t e, cudaStream_t s, unsigned flags)
{
    if (flags == cudaEventRecordDefault)
        return cudaEventRecord(e, s);
    if (flags != cudaEventRecordExternal || !open_graph)
        return cudaErrorInvalidValue;
    struct node n = {};
    n.kind = EVENT;
    n.to = e;
    return keep(n);
}

cudaError_t cudaStreamBeginCapture(cudaStream_t s, enum cudaStreamCaptureMode)
{
    if (!s) // the legacy stream
        return cudaErrorStreamCaptureUnsupported;
    if (open_graph)
        return cudaErrorIllegalState;
    open_graph = (struct CUgraph_st *)malloc(sizeof *open_graph);
    if (!open_graph)
        return cudaErrorMemoryAllocation;
    *open_graph = {NULL, &open_graph->first};
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t, cudaGraph_t *graph)
{
    if (!open_graph)
        return cudaErrorIllegalState;
    *graph = open_graph;
    open_graph = NULL;
    return cudaSuccess;
}

static void forget(struct node *n)
{
    while (n) {
        struct node *next = n->next;
        free(n->context);
        free(n);
        n = next;
    }
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    forget(graph->first);
    free(graph);
    return cudaSuccess;
}

/* An executable graph takes the nodes over: ours is instantiated once. */
cudaError_t cudaGraphInstantiate(cudaGraphExec_t *exec, cudaGraph_t graph, unsigned long long)
{
    *exec = (cudaGraphExec_t)graph->first;
    graph->first = NULL;
    graph->last = &graph->first;
    return cudaSuccess;
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t exec)
{
    forget((struct node *)exec);
    return cudaSuccess;
}

static cudaError_t perform(struct node *n)
{
    switch (n->kind) {
    case LAUNCH:
        return simt_launch(&n->config, n->kernel, n->thread, n->context);
    case COPY:
        return cudaMemcpy(n->to, n->from, n->n, (enum cudaMemcpyKind)n->value);
    case FILL:
        return cudaMemset(n->to, n->value, n->n);
    case EVENT:
        return cudaEventRecord((cudaEvent_t)n->to);
    default:
        n->thread(n->context);
        return cudaDeviceSynchronize();
    }
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t exec, cudaStream_t)
{
    cudaError_t e = cudaSuccess;
    for (struct node *n = (struct node *)exec; n && e == cudaSuccess; n = n->next)
        e = perform(n);
    return e;
}
