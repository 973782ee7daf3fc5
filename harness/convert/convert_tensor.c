/* SPDX-License-Identifier: MIT */
#include "harness/convert/convert_tensor.h"

#include <math.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/convert/split.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { PIECE = 1 << 18, MOST_THREADS = 256 }; /* elements of a piece, where rows allow */

/* --- functions ------------------------------------------------------------------------------- */

/* The kernel of the operation that runs here, if it claims every bit, or the definition. */
static qg_op_fn *find_kernel(const struct qg_args *a, enum qg_op op, char *name, size_t size)
{
    const struct qg_kernel *k = qg_kernel_pick(a->scheme, a->operand, op, NULL);
    if (k && k->claim == QG_BIT_EXACT) {
        qg_kernel_name(k, name, size);
        return k->fn;
    }
    snprintf(name, size, "%s.%s, the definition", a->scheme->name, qg_op_name(op));
    return qg_definition(a->scheme, a->operand, op);
}

void qg_conversion_kernels(struct qg_conversion *c, char *kernel, size_t kernel_size)
{
    char ignored[128];
    c->convert = find_kernel(&c->args, QG_CONVERT, kernel, kernel_size);
    c->dequant = find_kernel(&c->args, QG_DEQUANT, ignored, sizeof ignored);
    c->kernel = kernel;
}

/* --- rows ------------------------------------------------------------------------------------ */

/* Interleaves the halves of each of the heads in rows[0 .. n * width). */
static enum qg_status interleave(char *rows, size_t n, size_t head, size_t width,
                                 struct qg_error *err)
{
    char *copy = malloc(head * width);
    if (!copy)
        return qg_fail(err, QG_ENOMEM, "no memory for a head of %zu rows", head);
    for (size_t at = 0; at < n; at += head) {
        memcpy(copy, rows + at * width, head * width);
        for (size_t r = 0; r < head; r++)
            memcpy(rows + (at + r) * width, copy + (r % 2 * (head / 2) + r / 2) * width, width);
    }
    free(copy);
    return QG_OK;
}

enum qg_status qg_convert_rows(const struct qg_conversion *c, size_t first, size_t n, void *dst,
                               struct qg_error *err)
{
    const struct qg_tensor *t = &c->as->tensor->t;
    size_t wide = qg_dtype_bytes(c->args.dtype), width = c->args.cols * wide;
    size_t own = t->shape[t->rank - 1] * wide;
    char *rows = dst;
    if (qg_model_rows(c->model, c->as->tensor, first, n, c->args.dtype, dst, err) != QG_OK)
        return err->status;
    for (size_t r = n; own < width && r-- > 0;) { // from the last one: none is overwritten
        memmove(rows + r * width, rows + r * own, own);
        memset(rows + r * width + own, 0, width - own);
    }
    return c->head ? interleave(rows, n, c->head, width, err) : QG_OK;
}

/* --- quality --------------------------------------------------------------------------------- */

/* Sums over a piece, and its worst block. */
struct sums {
    double signal, noise, worst; /* worst: noise / signal */
    size_t row, col, cols;
};

static void add_block(struct sums *s, double signal, double noise, size_t row, size_t col,
                      size_t cols)
{
    double ratio = signal > 0 || noise > 0 ? noise / signal : noise + signal; // keeps NaN
    s->signal += signal;
    s->noise += noise;
    if ((s->cols && ratio <= s->worst) || isnan(s->worst) || (signal == 0 && noise == 0))
        return;
    *s = (struct sums){s->signal, s->noise, ratio, row, col, cols};
}

/* Adds rows 0 .. n of x and y, which are rows first .. of the tensor. `wide`: two rows of floats.
 */
static void add_rows(struct sums *s, const struct qg_tensor *x, const struct qg_tensor *y,
                     size_t first, size_t n, size_t cols, size_t group, float *wide)
{
    float *xs = wide, *ys = wide + cols;
    for (size_t r = 0; r < n; r++) {
        qg_load(x, r * cols, cols, xs);
        qg_load(y, r * cols, cols, ys);
        for (size_t at = 0; at < cols; at += group) {
            size_t end = at + group < cols ? at + group : cols;
            double signal = 0, noise = 0;
            for (size_t k = at; k < end; k++) {
                double d = (double)xs[k] - (double)ys[k];
                signal += (double)xs[k] * (double)xs[k];
                noise += d * d;
            }
            add_block(s, signal, noise, first + r, at, end - at);
        }
    }
}

static double decibel(double noise_by_signal)
{
    return -10 * log10(noise_by_signal);
}

/* All pieces together, in their order. */
static struct qg_quality total(const struct sums *piece, size_t n)
{
    struct sums all = {0};
    for (size_t i = 0; i < n; i++) {
        struct sums before = all;
        if (piece[i].cols && (!all.cols || !(piece[i].worst <= all.worst)) && !isnan(all.worst))
            all = piece[i];
        all.signal = before.signal + piece[i].signal;
        all.noise = before.noise + piece[i].noise;
    }
    if (!all.cols) // nothing but zeros
        return (struct qg_quality){.sqnr_db = INFINITY, .worst_db = INFINITY};
    return (struct qg_quality){decibel(all.noise / all.signal), decibel(all.worst), all.row,
                               all.col, all.cols};
}

/* --- pieces ---------------------------------------------------------------------------------- */

struct work {
    const struct qg_conversion *c;
    const struct qg_args *planes; /* of the whole */
    struct qg_split split;
    size_t rows, n; /* of a piece but the last; pieces */
    struct sums *sums;
    atomic_size_t next;
    atomic_bool ended;
    pthread_mutex_t lock;
    struct qg_error *err; /* of the first that failed */
};

/* Memory of one thread. */
struct hand {
    struct qg_call call;
    struct qg_buffer y, wide;
};

static size_t common_multiple(size_t a, size_t b)
{
    size_t x = a, y = b;
    while (y) {
        size_t rest = x % y;
        x = y, y = rest;
    }
    return a / x * b;
}

/* How many rows a piece has: as many as make PIECE elements, in multiples of what can be apart. */
static size_t piece_rows(const struct qg_conversion *c, const struct qg_split *s)
{
    if (!s->rows)
        return c->args.rows;
    size_t unit = common_multiple(s->rows, c->head ? c->head : 1);
    size_t rows = PIECE / c->args.cols / unit * unit;
    rows = rows ? rows : unit;
    return rows < c->args.rows ? rows : c->args.rows;
}

static enum qg_status hand_open(const struct work *w, struct hand *h, struct qg_error *err)
{
    struct qg_args a = qg_split_piece(&w->split, w->planes, 0, w->rows);
    if (qg_call_alloc(&h->call, &a, false, err) != QG_OK)
        return err->status;
    if (!w->c->measure)
        return QG_OK;
    // Where the tensor is one piece, y takes the place of x.
    if (qg_buffer_alloc(&h->wide, 2 * a.cols * sizeof(float), err) != QG_OK)
        return err->status;
    return w->n == 1 ? QG_OK : qg_buffer_alloc(&h->y, qg_bytes(&a.in[0]), err);
}

static void hand_close(struct hand *h)
{
    qg_call_free(&h->call);
    qg_buffer_free(&h->y);
    qg_buffer_free(&h->wide);
}

/* What the planes of `piece` mean, into y. */
static struct qg_tensor dequantized(const struct qg_conversion *c, const struct qg_args *piece,
                                    void *y)
{
    struct qg_args a = *piece;
    char why[256];
    qg_args_init(&a, piece->scheme, QG_DEQUANT, piece->operand, piece->dtype, 0, piece->rows,
                 piece->cols, why, sizeof why);
    for (int p = 0; p < a.n_in; p++)
        a.in[p].data = piece->out[p].data;
    a.out[0].data = y;
    a.work = piece->work;
    c->dequant(&a);
    return a.out[0];
}

/* The tensor is one piece, and y has taken x's place: x is read again, a few rows at a time. */
static enum qg_status measure_whole(const struct work *w, const struct hand *h,
                                    const struct qg_args *piece, struct qg_error *err)
{
    const struct qg_conversion *c = w->c;
    struct qg_buffer again;
    size_t unit = c->head ? c->head : 1, step = PIECE / piece->cols / unit * unit;
    size_t row = piece->cols * qg_dtype_bytes(piece->dtype);
    step = step ? step : unit;
    step = step < piece->rows ? step : piece->rows;
    struct qg_tensor y = dequantized(c, piece, piece->in[0].data), x = y;
    if (qg_buffer_alloc(&again, step * row, err) != QG_OK)
        return err->status;
    enum qg_status status = QG_OK;
    for (size_t at = 0, n; at < piece->rows && status == QG_OK; at += n) {
        n = step < piece->rows - at ? step : piece->rows - at;
        x.data = again.data;
        y.data = (char *)piece->in[0].data + at * row;
        if ((status = qg_convert_rows(c, at, n, x.data, err)) == QG_OK)
            add_rows(&w->sums[0], &x, &y, at, n, piece->cols, qg_group(piece), h->wide.data);
    }
    qg_buffer_free(&again);
    return status;
}

static enum qg_status do_piece(struct work *w, struct hand *h, size_t i, struct qg_error *err)
{
    const struct qg_conversion *c = w->c;
    size_t first = i * w->rows, left = c->args.rows - first;
    struct qg_args piece =
        qg_split_piece(&w->split, w->planes, first, left < w->rows ? left : w->rows);
    piece.in[0].data = h->call.in[0].data;
    piece.work = h->call.work.data;
    for (int p = 0; p < piece.n_out; p++)
        if (!piece.out[p].data)
            piece.out[p].data = h->call.out[p].data;
    if (qg_convert_rows(c, first, piece.rows, piece.in[0].data, err) != QG_OK)
        return err->status;
    c->convert(&piece);
    qg_split_place(&w->split, w->planes, first, &piece);
    if (!c->measure)
        return QG_OK;
    if (w->n == 1)
        return measure_whole(w, h, &piece, err);
    struct qg_tensor y = dequantized(c, &piece, h->y.data);
    add_rows(&w->sums[i], &piece.in[0], &y, first, piece.rows, piece.cols, qg_group(&piece),
             h->wide.data);
    return QG_OK;
}

static void fail(struct work *w, const struct qg_error *err)
{
    pthread_mutex_lock(&w->lock);
    if (!atomic_exchange(&w->ended, true))
        *w->err = *err;
    pthread_mutex_unlock(&w->lock);
}

/* Takes pieces until there are none; the caller's own thread also asks whether to stop. */
static void do_pieces(struct work *w, bool own)
{
    struct qg_error err = {QG_OK, ""};
    struct hand h = {0};
    if (hand_open(w, &h, &err) != QG_OK)
        fail(w, &err);
    for (size_t i; !atomic_load(&w->ended) && (i = atomic_fetch_add(&w->next, 1)) < w->n;) {
        if (do_piece(w, &h, i, &err) != QG_OK)
            fail(w, &err);
        else if (own && w->c->stop && w->c->stop(w->c->user, i * w->rows)) {
            qg_fail(&err, QG_EABSENT, "stopped");
            fail(w, &err);
        }
    }
    hand_close(&h);
}

static void *helper(void *work)
{
    do_pieces(work, false);
    return NULL;
}

static enum qg_status run(struct work *w)
{
    pthread_t thread[MOST_THREADS];
    int started = 0, wanted = w->c->threads < MOST_THREADS ? w->c->threads : MOST_THREADS;
    pthread_mutex_init(&w->lock, NULL);
    // One that cannot be started is work for the others.
    while (started + 1 < wanted && (size_t)started + 1 < w->n &&
           pthread_create(&thread[started], NULL, helper, w) == 0)
        started++;
    do_pieces(w, true);
    for (int i = 0; i < started; i++)
        pthread_join(thread[i], NULL);
    pthread_mutex_destroy(&w->lock);
    return w->err->status;
}

enum qg_status qg_convert_tensor(const struct qg_conversion *c, struct qg_call *ret_planes,
                                 struct qg_quality *ret_q, struct qg_error *err)
{
    struct qg_call planes = {.args = c->args};
    enum qg_status status = QG_OK;
    err->status = QG_OK;
    for (int p = 0; p < c->args.n_out && status == QG_OK; p++) {
        status = qg_buffer_alloc(&planes.out[p], qg_bytes(&c->args.out[p]), err);
        planes.args.out[p].data = planes.out[p].data;
    }
    struct work w = {.c = c, .planes = &planes.args, .split = qg_split_of(&c->args), .err = err};
    w.rows = piece_rows(c, &w.split);
    w.n = (c->args.rows + w.rows - 1) / w.rows;
    if (status == QG_OK && !(w.sums = calloc(w.n, sizeof *w.sums)))
        status = qg_fail(err, QG_ENOMEM, "no memory for %zu pieces", w.n);
    if (status == QG_OK)
        status = run(&w);
    if (status == QG_OK) {
        *ret_q = c->measure ? total(w.sums, w.n) : (struct qg_quality){NAN, NAN, 0, 0, 0};
        *ret_planes = planes;
    } else
        qg_call_free(&planes);
    free(w.sums);
    return status == QG_OK ? QG_OK : qg_context(err, "tensor '%.80s'", c->as->name);
}
