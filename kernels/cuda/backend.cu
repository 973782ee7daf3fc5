/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/backend.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/backend.cuh"

/* --- what is there --------------------------------------------------------------------------- */

struct found {
    int arch; /* 90 for sm_90; 0, and text says why: there is none */
    bool alone;
    char text[256];
};

static void describe(struct found *f)
{
    int driver = 0, runtime = 0, count = 0, mode = cudaComputeModeDefault;
    char *text = f->text;
    const size_t size = sizeof f->text;
    cudaDeviceProp p;
    cudaError_t e = cudaGetDeviceCount(&count);
    (void)cudaDriverGetVersion(&driver);
    (void)cudaRuntimeGetVersion(&runtime);
    if (e == cudaErrorInsufficientDriver && driver == 0) {
        snprintf(text, size, "no NVIDIA driver here");
    } else if (e == cudaErrorInsufficientDriver) {
        snprintf(text, size, "the driver is for CUDA %d.%d and too old for %d.%d", driver / 1000,
                 driver % 1000 / 10, runtime / 1000, runtime % 1000 / 10);
    } else if (e == cudaErrorNoDevice || (e == cudaSuccess && count == 0)) {
        snprintf(text, size, "a driver but no device");
    } else if (e != cudaSuccess || (e = cudaGetDeviceProperties(&p, 0)) != cudaSuccess) {
        snprintf(text, size, "%s", cudaGetErrorString(e));
    } else if (p.major < 8) {
        snprintf(text, size, "%.100s is sm_%d%d, too old: sm_80 is the least", p.name, p.major,
                 p.minor);
    } else if ((e = cudaDeviceGetAttribute(&mode, cudaDevAttrComputeMode, 0)) != cudaSuccess) {
        snprintf(text, size, "%s", cudaGetErrorString(e));
    } else if (mode == cudaComputeModeProhibited) {
        snprintf(text, size, "%.100s, whose compute mode is 'prohibited'", p.name);
    } else {
        f->alone = mode != cudaComputeModeDefault;
        f->arch = 10 * p.major + p.minor;
        snprintf(text, size, "%.100s, sm_%d, CUDA %d.%d, driver for %d.%d%s", p.name, f->arch,
                 runtime / 1000, runtime % 1000 / 10, driver / 1000, driver % 1000 / 10,
                 f->alone ? ", for one process at a time" : "");
    }
}

static void answer(int fd)
{
    struct found f = {};
    describe(&f);
    ssize_t written = write(fd, &f, sizeof f);
    _exit(written == (ssize_t)sizeof f ? 0 : 1);
}

static struct found ask(void)
{
    const struct found nobody = {0, false, "no process to ask the driver in"};
    struct found f = nobody;
    int ends[2], status;
    if (pipe(ends) != 0)
        return f;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        answer(ends[1]);
    close(ends[1]);
    ssize_t got = child < 0 ? 0 : read(ends[0], &f, sizeof f);
    close(ends[0]);
    if (child > 0)
        waitpid(child, &status, 0);
    return got == (ssize_t)sizeof f ? f : nobody;
}

static const struct found *the_device(void)
{
    static const struct found found = ask(); // once: devices do not come and go
    return &found;
}

bool qg_cuda_probe(char *text, size_t size)
{
    snprintf(text, size, "%s", the_device()->text);
    return the_device()->arch > 0;
}

bool qg_cuda_is_alone(void)
{
    return the_device()->alone;
}

int qg_cuda_arch(void)
{
    return the_device()->arch;
}

/* --- one call -------------------------------------------------------------------------------- */

cudaError_t qg_cuda_lend(const struct qg_args *a, struct qg_args *d)
{
    cudaError_t e = cudaSuccess;
    *d = *a;
    d->work = NULL;
    for (int i = 0; i < QG_MAX_TENSORS; i++)
        d->in[i].data = d->out[i].data = NULL;
    for (int i = 0; i < a->n_in && e == cudaSuccess; i++)
        if ((e = cudaMalloc(&d->in[i].data, qg_bytes(&a->in[i]))) == cudaSuccess)
            e = cudaMemcpy(d->in[i].data, a->in[i].data, qg_bytes(&a->in[i]),
                           cudaMemcpyHostToDevice);
    for (int i = 0; i < a->n_out && e == cudaSuccess; i++)
        if ((e = cudaMalloc(&d->out[i].data, qg_bytes(&a->out[i]))) == cudaSuccess)
            e = cudaMemcpy(d->out[i].data, a->out[i].data, qg_bytes(&a->out[i]),
                           cudaMemcpyHostToDevice); // its poison goes with it
    if (e == cudaSuccess)
        e = cudaMalloc((void **)&d->work, qg_work_floats(a) * sizeof(float));
    return e;
}

static cudaError_t take_back(const struct qg_args *a, const struct qg_args *d)
{
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < a->n_out && e == cudaSuccess; i++)
        e = cudaMemcpy(a->out[i].data, d->out[i].data, qg_bytes(&a->out[i]),
                       cudaMemcpyDeviceToHost);
    return e;
}

void qg_cuda_take(struct qg_args *d)
{
    for (int i = 0; i < d->n_in; i++)
        (void)cudaFree(d->in[i].data);
    for (int i = 0; i < d->n_out; i++)
        (void)cudaFree(d->out[i].data);
    (void)cudaFree(d->work);
}

static void fail(const struct qg_args *a, bool no_room, cudaError_t e)
{
    if (!a->failure || a->failure->text[0]) // the launch has said why
        return;
    a->failure->no_room = no_room;
    snprintf(a->failure->text, sizeof a->failure->text, "%s: %s",
             no_room ? "memory on the device" : "the device says", cudaGetErrorString(e));
}

void qg_cuda_run(qg_op_fn *launch, const struct qg_args *a)
{
    struct qg_args d;
    cudaError_t e = qg_cuda_lend(a, &d);
    if (e != cudaSuccess) {
        fail(a, true, e);
    } else {
        (void)cudaGetLastError(); // of an earlier call that could do without
        launch(&d);
        e = cudaGetLastError();
        if (e == cudaSuccess)
            e = cudaStreamSynchronize(qg_cuda_stream());
        if (e == cudaSuccess)
            e = take_back(a, &d);
        if (e != cudaSuccess)
            fail(a, false, e);
    }
    qg_cuda_take(&d);
}
