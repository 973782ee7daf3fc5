/* SPDX-License-Identifier: MIT
 *
 * LLM.int8() of bitsandbytes: int8 rows of W and of x, and x's outlier columns apart. Everything
 * that is quantized is cast to binary16 first; h is that value.
 *
 *     r = max|h| of the row,  q = round(h (127/r)),  w' = (q r) 1/127           binary32 each
 *
 * Of x, elements with |h| >= threshold are outliers: r leaves them out, and a column that holds one
 * is zero in all rows of q. (Its other elements still count in r.)
 *
 *     y = T(the int32 product, scaled) + x[:, outlier columns] . T(w'[:, outlier columns])^T
 *
 * where T is x's own dtype, x is not cast, and the sum is one addmm: rounded once.
 *
 * The impl parameter: the torch backend that CPUs use and the CUDA kernels differ in bits.
 *
 *     cpu    127/r is 127 (1/r), two roundings; the int32 product times (r c), times 6.200124e-05,
 *            which is 18 ppm more than 1/127^2; rounded to T
 *     cuda   127/r (here correctly rounded; there a fast division); the product times r, times c,
 *            times 6.200012e-05; rounded to binary16 even where T is not, then to T
 *
 * In training mode on a CPU upstream takes another path, dequantizes and multiplies in T; that is
 * not here.
 *
 * Sources: bnb:bitsandbytes/backends/default/ops.py int8_vectorwise_quant, int8_mixed_scaled_mm,
 * int8_mm_dequant; bnb:bitsandbytes/autograd/_functions.py MatMul8bitLt;
 * bnb:bitsandbytes/_ops.py int8_vectorwise_dequant; bnb:csrc/kernels.cu.
 */
#include "schemes/dot.h"
#include "schemes/scheme.h"

enum { THRESHOLD, IMPL };
enum impl { CPU, CUDA };

static float half(const struct qg_tensor *x, size_t i)
{
    return qg_round(QG_F16, qg_get(x, i));
}

/* --- rows ------------------------------------------------------------------------------------ */

/* A threshold of 0 makes no outliers. It is compared as a binary16 number. */
static bool is_outlier(float h, double threshold)
{
    return threshold > 0 && qg_abs(h) >= qg_round(QG_F16, (float)threshold);
}

static bool is_outlier_column(const struct qg_tensor *x, size_t rows, size_t cols, size_t k,
                              double threshold)
{
    for (size_t r = 0; r < rows; r++)
        if (is_outlier(half(x, r * cols + k), threshold))
            return true;
    return false;
}

/* r of the row x[at .. at+k), outliers left out. */
static float row_absmax(const struct qg_tensor *x, size_t at, size_t k, double threshold,
                        enum impl impl)
{
    float absmax = 0.0f;
    for (size_t i = at; i < at + k; i++) {
        float m = qg_abs(half(x, i));
        if (is_outlier(m, threshold) || (impl == CUDA && m != m))
            continue;
        absmax = qg_max(absmax, m);
    }
    return absmax;
}

static float factor_of(float absmax, enum impl impl)
{
    return impl == CPU ? qg_mul(qg_div(1.0f, absmax), 127.0f) : qg_div(127.0f, absmax);
}

/* An int8: the NaN of a row of zeros (0 inf) is 0. */
static float code_of(float h, float factor)
{
    float q = qg_rint(qg_mul(h, factor));
    return q != q ? 0.0f : q;
}

static void weight_convert(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    enum impl impl = (enum impl)a->param[IMPL];
    for (size_t row = 0; row < a->rows; row++) {
        float absmax = row_absmax(x, row * a->cols, a->cols, 0, impl);
        float factor = factor_of(absmax, impl);
        qg_put(&a->out[1], row, absmax);
        for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
            qg_put(&a->out[0], i, code_of(half(x, i), factor));
            qg_note(a, i, "f16(x)", half(x, i));
            qg_note(a, i, "127/r", factor);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    }
}

static void activation_convert(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0], *outliers = &a->out[2];
    enum impl impl = (enum impl)a->param[IMPL];
    double threshold = a->param[THRESHOLD];
    for (size_t k = 0; k < a->cols; k++)
        qg_put(outliers, k, is_outlier_column(x, a->rows, a->cols, k, threshold) ? 1.0f : 0.0f);
    for (size_t row = 0; row < a->rows; row++) {
        float absmax = row_absmax(x, row * a->cols, a->cols, threshold, impl);
        float factor = factor_of(absmax, impl);
        qg_put(&a->out[1], row, absmax);
        for (size_t i = row * a->cols; i < (row + 1) * a->cols; i++) {
            bool apart = qg_get(outliers, i % a->cols) != 0;
            qg_put(&a->out[0], i, apart ? 0.0f : code_of(half(x, i), factor));
            qg_note(a, i, "f16(x)", half(x, i));
            qg_note(a, i, "outlier column", apart ? 1.0f : 0.0f);
            qg_note(a, i, "127/r", factor);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    }
}

/* w' in binary32. */
static float value_of(float code, float absmax)
{
    return qg_mul(qg_mul(code, absmax), 7.874015718698502e-3f);
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        float absmax = qg_get(&a->in[1], i / a->cols);
        qg_put(&a->out[0], i, value_of(qg_get(&a->in[0], i), absmax));
        qg_note(a, i, "r (stored)", absmax);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* --- matmul ---------------------------------------------------------------------------------- */

/* The int32 product in x's dtype. */
static float scaled(const struct qg_args *a, int64_t product, float r, float c)
{
    float p = (float)product;
    if (a->param[IMPL] == CPU)
        return qg_round(a->dtype, qg_mul(qg_mul(p, qg_mul(r, c)), 6.200124e-05f));
    float y = qg_fma(qg_mul(qg_mul(p, r), c), 6.200012e-05f, 0.0f);
    return qg_round(a->dtype, qg_round(QG_F16, y));
}

/* Row n of W with row m of x, whose codes are q; `apart` tells the outlier columns. */
static void multiply(const struct qg_args *a, size_t m, size_t n, const float *q, float r,
                     const float *apart)
{
    const struct qg_tensor *x = &a->in[0], *codes = &a->in[1];
    float c = qg_get(&a->in[2], n);
    int64_t product = 0;
    size_t terms = 1;
    struct qg_sum s = {0};
    for (size_t k = 0; k < a->cols; k++) {
        float w = qg_get(codes, n * a->cols + k);
        product += (int64_t)q[k] * (int64_t)w;
        if (apart[k] == 0)
            continue;
        terms++;
        qg_sum_add(&s, (double)qg_get(x, m * a->cols + k) * qg_round(a->dtype, value_of(w, c)));
    }
    float y = scaled(a, product, r, c);
    if (terms == 1) {
        qg_emit(a, m * a->rows + n, y, y, 0);
        return;
    }
    qg_sum_add(&s, y);
    double exact = qg_sum_value(&s);
    qg_emit(a, m * a->rows + n, (float)exact, exact, qg_sum_bound(&s, terms, a->depth, 1));
}

/* a->work holds the outlier columns and a row of codes. */
static void matmul(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    enum impl impl = (enum impl)a->param[IMPL];
    double threshold = a->param[THRESHOLD];
    float *apart = a->work, *q = apart + a->cols;
    for (size_t k = 0; k < a->cols; k++)
        apart[k] = is_outlier_column(x, a->m, a->cols, k, threshold) ? 1.0f : 0.0f;
    for (size_t m = 0; m < a->m; m++) {
        float r = row_absmax(x, m * a->cols, a->cols, threshold, impl), factor = factor_of(r, impl);
        for (size_t k = 0; k < a->cols; k++)
            q[k] = apart[k] != 0 ? 0.0f : code_of(half(x, m * a->cols + k), factor);
        for (size_t n = 0; n < a->rows; n++)
            multiply(a, m, n, q, r, apart);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static bool overflows(const struct qg_tensor *numbers)
{
    for (size_t i = 0; i < qg_count(numbers); i++)
        if (isinf(half(numbers, i)))
            return true;
    return false;
}

/* What upstream's own arithmetic makes uniform. */
static const char *uniform(const struct qg_args *a)
{
    const struct qg_tensor *numbers = a->op == QG_DEQUANT  ? &a->in[1]
                                      : a->op == QG_MATMUL ? &a->in[2]
                                                           : &a->in[0];
    float outliers = 0;
    for (size_t k = 0; a->operand == QG_ACTIVATION && k < a->cols; k++)
        outliers += qg_get(a->op == QG_CONVERT ? &a->out[2] : &a->in[2], k);
    if (outliers > (float)a->cols / 2)
        return "most columns hold an outlier, and codes of outlier columns are 0";
    return overflows(numbers) ? "numbers this large overflow the cast to binary16" : NULL;
}

static size_t whole_row(const struct qg_args *a)
{
    return a->cols;
}

static const struct qg_plane weight_planes[] = {
    {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, "one code per byte (CB)"},
    {"scales", QG_F32, 0, {&qg_ext_rows}, "largest magnitude of the row (SCB)"},
    {NULL},
};
static const struct qg_plane activation_planes[] = {
    {"codes", QG_I8, 0, {&qg_ext_rows, &qg_ext_cols}, "one code per byte (CA)"},
    {"scales", QG_F32, 0, {&qg_ext_rows}, "largest magnitude of the row (SCA)"},
    {"outliers", QG_U8, 0, {&qg_ext_cols}, "1 for an outlier column, whose codes are 0"},
    {NULL},
};

static const char *const impls[] = {"cpu", "cuda", NULL};
static const struct qg_param params[] = {
    [THRESHOLD] = {"threshold", "activations of at least this magnitude are outliers; 0: none are",
                   6, 0, 65504, NULL, false},
    [IMPL] = {"impl", "whose arithmetic: the torch backend's, or that of the CUDA kernels", 0, 0, 0,
              impls, false},
    {NULL},
};
static const char *const variants[] = {"threshold=0", "impl=cuda", NULL};

const struct qg_scheme qg_schemes_llm_int8[] = {
    {.name = "llm-int8",
     .summary = "int8 rows x int8 rows, outlier columns of x apart (bitsandbytes LLM.int8())",
     .upstream = "bnb:bitsandbytes/autograd/_functions.py MatMul8bitLt",
     .nonfinite =
         "NaN in a row: cpu: r NaN, all codes of the row 0 (a NaN in int8, on x86); cuda: r leaves "
         "it out, its code is 0. inf, or what overflows binary16, in a weight: r inf, codes 0, "
         "values NaN; in x it is an outlier. All-zero row: codes 0 (0 inf, on x86), r 0.",
     .params = params,
     .variants = variants,
     // r maps to 127 and never beyond: -128 is no code.
     .operand = {[QG_WEIGHT] = {.convert = weight_convert,
                                .dequant = dequant,
                                .group = whole_row,
                                .planes = weight_planes,
                                .code_bits = 8,
                                .codes = 255},
                 [QG_ACTIVATION] = {.convert = activation_convert,
                                    .dequant = dequant,
                                    .group = whole_row,
                                    .planes = activation_planes,
                                    .code_bits = 8,
                                    .codes = 255,
                                    .spans_rows = true}},
     .matmul = matmul,
     .uniform = uniform},
    {.name = NULL},
};
