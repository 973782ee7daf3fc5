/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of LLM.int8(): rows in pieces, an integer product, then the outlier columns by a
 * list of them.
 */
#include "kernels/c/matmul.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { THRESHOLD, IMPL };
enum { CPU, CUDA };

/* Elements as binary16 numbers. */
static void load_half(const struct qg_tensor *x, size_t at, size_t n, float *restrict f)
{
    qg_load(x, at, n, f);
    for (size_t i = 0; i < n; i++)
        f[i] = qg_f16_round(f[i]);
}

/* Bits of the least magnitude that is an outlier; more than any number has where none are. */
static int32_t outlier_bits(double threshold)
{
    return threshold > 0 ? qg_magnitude(qg_f16_round((float)threshold)) : 0x7f800001;
}

QG_INLINE bool is_outlier(float h, int32_t bits)
{
    int32_t m = qg_magnitude(h);
    return m >= bits && m <= 0x7f800000;
}

static void mark_columns(const struct qg_tensor *x, size_t rows, size_t cols, int32_t bits,
                         uint8_t *restrict marks)
{
    float f[QG_CHUNK];
    memset(marks, 0, cols);
    for (size_t row = 0; row < rows; row++)
        for (size_t at = 0; at < cols; at += QG_CHUNK) {
            size_t n = qg_smaller(cols - at, QG_CHUNK);
            load_half(x, row * cols + at, n, f);
            for (size_t k = 0; k < n; k++)
                marks[at + k] = (uint8_t)(marks[at + k] | is_outlier(f[k], bits));
        }
}

/* r of a row; NaN counts unless skips_nan. */
static float row_absmax(const struct qg_tensor *x, size_t at, size_t cols, int32_t bits,
                        bool skips_nan)
{
    float f[QG_CHUNK];
    int32_t high = 0;
    for (size_t i = 0; i < cols; i += QG_CHUNK) {
        size_t n = qg_smaller(cols - i, QG_CHUNK);
        load_half(x, at + i, n, f);
        for (size_t k = 0; k < n; k++) {
            int32_t m = qg_magnitude(f[k]);
            m = is_outlier(f[k], bits) || (skips_nan && m > 0x7f800000) ? 0 : m;
            high = m > high ? m : high;
        }
    }
    return qg_f32_from_bits((uint32_t)high);
}

/* Codes of one row, 0 in marked columns (marks may be NULL); returns r. */
static float encode_row(const struct qg_args *a, size_t row, int32_t bits,
                        const uint8_t *restrict marks, int8_t *restrict codes)
{
    float f[QG_CHUNK];
    bool cuda = a->param[IMPL] == CUDA;
    float absmax = row_absmax(&a->in[0], row * a->cols, a->cols, bits, cuda);
    float factor = cuda ? 127.0f / absmax : 1.0f / absmax * 127.0f;
    for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
        size_t n = qg_smaller(a->cols - at, QG_CHUNK);
        load_half(&a->in[0], row * a->cols + at, n, f);
        for (size_t k = 0; k < n; k++)
            codes[at + k] = (int8_t)(marks && marks[at + k] ? 0 : qg_int_small(f[k] * factor));
    }
    return absmax;
}

static void weight_convert(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++) {
        int8_t *codes = (int8_t *)a->out[0].data + row * a->cols;
        qg_put(&a->out[1], row, encode_row(a, row, outlier_bits(0), NULL, codes));
    }
}

static void activation_convert(const struct qg_args *a)
{
    int32_t bits = outlier_bits(a->param[THRESHOLD]);
    uint8_t *marks = a->out[2].data;
    mark_columns(&a->in[0], a->rows, a->cols, bits, marks);
    for (size_t row = 0; row < a->rows; row++) {
        int8_t *codes = (int8_t *)a->out[0].data + row * a->cols;
        qg_put(&a->out[1], row, encode_row(a, row, bits, marks, codes));
    }
}

QG_INLINE float value_of(int8_t code, float absmax)
{
    return (float)code * absmax * 7.874015718698502e-3f;
}

static void dequant(const struct qg_args *a)
{
    float f[QG_CHUNK];
    const int8_t *codes = a->in[0].data;
    const float *absmax = a->in[1].data;
    for (size_t row = 0; row < a->rows; row++)
        for (size_t at = 0; at < a->cols; at += QG_CHUNK) {
            size_t n = qg_smaller(a->cols - at, QG_CHUNK), first = row * a->cols + at;
            for (size_t k = 0; k < n; k++)
                f[k] = value_of(codes[first + k], absmax[row]);
            qg_store(&a->out[0], first, n, f);
        }
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* Pieces are short enough for 32 bits. */
static int64_t dot(size_t n, const int8_t *restrict x, const int8_t *restrict w)
{
    int64_t sum = 0;
    for (size_t at = 0; at < n; at += QG_CHUNK) {
        size_t end = qg_smaller(at + QG_CHUNK, n);
        int32_t part = 0;
        for (size_t k = at; k < end; k++)
            part += x[k] * w[k];
        sum += part;
    }
    return sum;
}

static float scaled(const struct qg_args *a, int64_t product, float r, float c)
{
    float p = (float)product;
    if (a->param[IMPL] == CPU)
        return qg_round_as(a->dtype, p * (r * c) * 6.200124e-05f);
    return qg_round_as(a->dtype, qg_f16_round(p * r * c * 6.200012e-05f + 0.0f));
}

/* Columns that are marked, by number; returns how many. */
static size_t list_columns(size_t cols, const uint8_t *marks, uint32_t *list)
{
    size_t n = 0;
    for (size_t k = 0; k < cols; k++)
        if (marks[k])
            list[n++] = (uint32_t)k;
    return n;
}

/* x[row m] . w[row n] over the listed columns. */
static float dot_listed(const struct qg_args *a, size_t m, size_t n, const uint32_t *list,
                        size_t count)
{
    const int8_t *codes = (const int8_t *)a->in[1].data + n * a->cols;
    float c = ((const float *)a->in[2].data)[n], sum = 0;
    for (size_t i = 0; i < count; i++) {
        float w = qg_round_as(a->dtype, value_of(codes[list[i]], c));
        sum += qg_get(&a->in[0], m * a->cols + list[i]) * w;
    }
    return sum;
}

/* Scratch: marks, the list of columns, codes of a row of x. */
static void matmul(const struct qg_args *a)
{
    uint32_t *list = (uint32_t *)(void *)a->work;
    uint8_t *marks = (uint8_t *)(list + a->cols);
    int8_t *codes = (int8_t *)(list + 2 * a->cols);
    int32_t bits = outlier_bits(a->param[THRESHOLD]);
    mark_columns(&a->in[0], a->m, a->cols, bits, marks);
    size_t count = list_columns(a->cols, marks, list);
    for (size_t m = 0; m < a->m; m++) {
        float r = encode_row(a, m, bits, marks, codes);
        for (size_t n = 0; n < a->rows; n++) {
            const int8_t *w = (const int8_t *)a->in[1].data + n * a->cols;
            float y = scaled(a, dot(a->cols, codes, w), r, ((const float *)a->in[2].data)[n]);
            if (count)
                y += dot_listed(a, m, n, list, count);
            qg_put(&a->out[0], m * a->rows + n, y);
        }
    }
}

/* x's outlier columns and w' in them, [rows, count] each. */
static void gather(const struct qg_args *a, const uint32_t *list, size_t count, float *x, float *w)
{
    const int8_t *codes = a->in[1].data;
    const float *c = a->in[2].data;
    for (size_t m = 0; m < a->m; m++)
        for (size_t i = 0; i < count; i++)
            *x++ = qg_get(&a->in[0], m * a->cols + list[i]);
    for (size_t n = 0; n < a->rows; n++)
        for (size_t i = 0; i < count; i++)
            *w++ = qg_round_as(a->dtype, value_of(codes[n * a->cols + list[i]], c[n]));
}

struct scales_and_outliers {
    const float *r, *outliers; /* of x's rows; of y, or NULL */
};

static void take_sums(const struct qg_args *a, size_t m, size_t n, size_t count, const int64_t *sum,
                      const void *user)
{
    const struct scales_and_outliers *s = user;
    const float *c = a->in[2].data;
    for (size_t i = 0; i < count; i++) {
        size_t at = m * a->rows + n + i;
        float y = scaled(a, sum[i], s->r[m], c[n + i]);
        qg_put(&a->out[0], at, s->outliers ? y + s->outliers[at] : y);
    }
}

/* Scratch: x, w, the product of outlier columns, scales; marks, their list, codes of a row of x. */
static void matmul_blas(const struct qg_args *a)
{
    size_t m = a->m, n = a->rows, k = a->cols;
    float *x = a->work, *w = x + m * k, *y = w + n * k, *r = y + m * n;
    uint32_t *list = (uint32_t *)(void *)(r + m);
    uint8_t *marks = (uint8_t *)(list + k);
    int8_t *codes = (int8_t *)(list + 2 * k);
    int32_t bits = outlier_bits(a->param[THRESHOLD]);
    mark_columns(&a->in[0], m, k, bits, marks);
    size_t count = list_columns(k, marks, list);
    if (count) {
        gather(a, list, count, x, w);
        qg_sgemm(m, n, count, x, w, y);
    }
    for (size_t i = 0; i < m; i++) {
        r[i] = encode_row(a, i, bits, marks, codes);
        qg_codes_as_floats(k, codes, x + i * k);
    }
    qg_codes_as_floats(n * k, a->in[1].data, w);
    const struct scales_and_outliers s = {r, count ? y : NULL};
    qg_multiply_integers(a, x, w, take_sums, &s);
}

#define ROW(what, o, f)                                                                        \
    {                                                                                          \
        .scheme = "llm-int8", .backend = "c", .variant = "", .op = o, .operand = what, .fn = f \
    }

/* A sum over n outlier columns starts at 0 and ends with the int8 part. */
static size_t depth(size_t k)
{
    return k + 1;
}

const struct qg_kernel qg_kernels_llm_int8_c[] = {
    ROW(QG_WEIGHT, QG_CONVERT, weight_convert),
    ROW(QG_WEIGHT, QG_DEQUANT, dequant),
    ROW(QG_ACTIVATION, QG_CONVERT, activation_convert),
    ROW(QG_ACTIVATION, QG_DEQUANT, dequant),
    {.scheme = "llm-int8",
     .backend = "c",
     .variant = "",
     .op = QG_MATMUL,
     .operand = QG_WEIGHT,
     .claim = QG_WITHIN_BOUND,
     .depth = depth,
     .fn = matmul},
    QG_BLAS_ROW("llm-int8", depth, matmul_blas),
    {.scheme = NULL},
};
