/* SPDX-License-Identifier: MIT */
#include "kernels/cuda/backend.h"

#include <stdio.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kernels/cuda/backend.cuh"
#include "kernels/cuda/nvml.h"

/* --- what is there --------------------------------------------------------------------------- */

struct found {
    int arch; /* 90 for sm_90; 0, and text says why: there is none */
    bool alone;
    char text[256];
};

static void describe_device(struct found *f)
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

static void describe_settings(struct found *f)
{
    qg_nvml_settings(f->text, sizeof f->text);
}

static void answer(int fd, void (*describe)(struct found *f))
{
    struct found f = {};
    describe(&f);
    ssize_t written = write(fd, &f, sizeof f);
    _exit(written == (ssize_t)sizeof f ? 0 : 1);
}

static struct found ask(void (*describe)(struct found *f))
{
    const struct found nobody = {0, false, "no process to ask the driver in"};
    struct found f = nobody;
    int ends[2], status;
    if (pipe(ends) != 0)
        return f;
    fflush(NULL);
    pid_t child = fork();
    if (child == 0)
        answer(ends[1], describe);
    close(ends[1]);
    ssize_t got = child < 0 ? 0 : read(ends[0], &f, sizeof f);
    close(ends[0]);
    if (child > 0)
        waitpid(child, &status, 0);
    return got == (ssize_t)sizeof f ? f : nobody;
}

static const struct found *the_device(void)
{
    static const struct found found = ask(describe_device); // once: devices do not come and go
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

void qg_cuda_settings(char *text, size_t size)
{
    const struct found f = ask(describe_settings);
    snprintf(text, size, "%s", f.text);
}

int qg_cuda_arch(void)
{
    return the_device()->arch;
}

/* --- memory that is watched ------------------------------------------------------------------ */

/* A device has no page that ends where a tensor does, so marked bytes lie on both sides of each,
 * and inputs are looked at afterwards. tests/simt knows the state of every byte and finds more
 * where there are no marks and scratch holds nothing. */
enum {
#ifdef __CUDACC__
    MARGIN = 256,
#else
    MARGIN = 0,
#endif
    MARK = 0xc3
};

static cudaError_t allocate(void **ret, size_t bytes)
{
    char *base = NULL;
    cudaError_t e = cudaMalloc((void **)&base, bytes + 2 * MARGIN);
    if (e != cudaSuccess || MARGIN == 0) {
        *ret = base;
        return e;
    }
    *ret = base + MARGIN;
    e = cudaMemset(base, MARK, MARGIN);
    return e == cudaSuccess ? cudaMemset(base + MARGIN + bytes, MARK, MARGIN) : e;
}

static void release(void *p)
{
    (void)cudaFree(p ? (char *)p - MARGIN : NULL);
}

static bool is_marked(const char *at, cudaError_t *e)
{
    char got[MARGIN + 1];
    *e = cudaMemcpy(got, at, MARGIN, cudaMemcpyDeviceToHost);
    for (int i = 0; i < MARGIN; i++)
        if (*e == cudaSuccess && (uint8_t)got[i] != MARK)
            return false;
    return true;
}

static void blame(const struct qg_args *a, const char *did, const char *name)
{
    if (a->failure && !a->failure->text[0])
        snprintf(a->failure->text, sizeof a->failure->text, "%s '%s' in the device's memory", did,
                 name);
}

/* Says so when one of the bytes beside p was written. */
static cudaError_t check_margins(const struct qg_args *a, const void *p, size_t bytes,
                                 const char *name)
{
    cudaError_t e = cudaSuccess;
    if (MARGIN == 0)
        return e;
    if (!is_marked((const char *)p - MARGIN, &e))
        blame(a, "writes before", name);
    else if (e == cudaSuccess && !is_marked((const char *)p + bytes, &e))
        blame(a, "writes behind", name);
    return e;
}

/* Says so when an input is no longer what it was. */
static cudaError_t check_input(const struct qg_args *a, const struct qg_tensor *was, const void *is)
{
    const size_t bytes = qg_bytes(was);
    void *got = malloc(bytes + 1);
    if (!got)
        return cudaErrorMemoryAllocation;
    cudaError_t e = cudaMemcpy(got, is, bytes, cudaMemcpyDeviceToHost);
    if (e == cudaSuccess && memcmp(got, was->data, bytes) != 0)
        blame(a, "changes its input", was->name);
    free(got);
    return e == cudaSuccess ? check_margins(a, is, bytes, was->name) : e;
}

/* --- one call -------------------------------------------------------------------------------- */

static cudaError_t lend_tensor(const struct qg_tensor *t, struct qg_tensor *d)
{
    cudaError_t e = allocate(&d->data, qg_bytes(t));
    return e == cudaSuccess ? cudaMemcpy(d->data, t->data, qg_bytes(t), cudaMemcpyHostToDevice) : e;
}

static size_t work_bytes(const struct qg_args *a)
{
    return qg_work_floats(a) * sizeof(float);
}

cudaError_t qg_cuda_lend(const struct qg_args *a, struct qg_args *d)
{
    cudaError_t e = cudaSuccess;
    *d = *a;
    d->work = NULL;
    for (int i = 0; i < QG_MAX_TENSORS; i++)
        d->in[i].data = d->out[i].data = NULL;
    for (int i = 0; i < a->n_in && e == cudaSuccess; i++)
        e = lend_tensor(&a->in[i], &d->in[i]);
    for (int i = 0; i < a->n_out && e == cudaSuccess; i++)
        e = lend_tensor(&a->out[i], &d->out[i]); // its poison goes with it
    if (e == cudaSuccess)
        e = allocate((void **)&d->work, work_bytes(a));
    if (e == cudaSuccess && MARGIN > 0 && a->work) // the poison of scratch
        e = cudaMemset(d->work, *(const uint8_t *)a->work, work_bytes(a));
    return e;
}

cudaError_t qg_cuda_take_back(const struct qg_args *a, const struct qg_args *d)
{
    cudaError_t e = cudaSuccess;
    for (int i = 0; i < a->n_out && e == cudaSuccess; i++) {
        const size_t bytes = qg_bytes(&a->out[i]);
        e = cudaMemcpy(a->out[i].data, d->out[i].data, bytes, cudaMemcpyDeviceToHost);
        if (e == cudaSuccess)
            e = check_margins(a, d->out[i].data, bytes, a->out[i].name);
    }
    for (int i = 0; i < a->n_in && e == cudaSuccess; i++)
        e = check_input(a, &a->in[i], d->in[i].data);
    return e == cudaSuccess ? check_margins(a, d->work, work_bytes(a), "scratch") : e;
}

void qg_cuda_take(struct qg_args *d)
{
    for (int i = 0; i < d->n_in; i++)
        release(d->in[i].data);
    for (int i = 0; i < d->n_out; i++)
        release(d->out[i].data);
    release(d->work);
}

/* An error that breaks the context is every later call's, too. */
static bool is_broken(void)
{
    (void)cudaGetLastError();
    return cudaStreamSynchronize(qg_cuda_stream()) != cudaSuccess;
}

void qg_cuda_say(struct qg_failure *f, cudaError_t e)
{
    if (!f)
        return;
    f->broken = is_broken();
    if (f->text[0]) // the launch has said why
        return;
    const bool no_room = e == cudaErrorMemoryAllocation;
    f->cause = no_room ? QG_CAUSE_NO_ROOM : QG_CAUSE_KERNEL;
    snprintf(f->text, sizeof f->text, "%s: %s",
             no_room ? "memory on the device" : "the device says", cudaGetErrorString(e));
}

void qg_cuda_run(qg_op_fn *launch, const struct qg_args *a)
{
    struct qg_args d;
    cudaError_t e = qg_cuda_lend(a, &d);
    if (e == cudaSuccess) {
        (void)cudaGetLastError(); // of an earlier call that could do without
        launch(&d);
        e = cudaGetLastError();
    }
    if (e == cudaSuccess)
        e = cudaStreamSynchronize(qg_cuda_stream());
    if (e == cudaSuccess && !(a->failure && a->failure->text[0]))
        e = qg_cuda_take_back(a, &d);
    if (e != cudaSuccess)
        qg_cuda_say(a->failure, e);
    qg_cuda_take(&d);
}
