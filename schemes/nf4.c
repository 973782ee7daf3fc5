/* SPDX-License-Identifier: MIT
 *
 * NF4 as torchao has it: the flattened tensor in blocks of 64, their scalers in blocks of 256, and
 * every operation in the tensor's own dtype. R(.) is a rounding to it.
 *
 *     A = max|x| of a block, mu = R(mean of all A), D = R(A - mu)
 *     f = R(256 R(1 / R(2 max|D|)))                       per 256 blocks
 *     S = clamp(round(R(D f)), -128, 127)                 int8, per block
 *     code = the k with the smallest |R(R(x / A) - list[k])|, the first one of several
 *     x' = R(list[code] R(R(S / f) + mu))
 *
 * The list is NF4 to four decimals, then rounded to the dtype. Codes are chosen with the exact A.
 * (The rounding of the distances decides nothing in any of the three dtypes.) The mean is taken in
 * binary32 in torch's order (num/torch_sum.h; on one thread of an x86 CPU).
 *
 * Two codes share a byte, the first element in the high nibble. Only whole blocks of blocks: R*K
 * must be a multiple of 16384. There is no prepare path. Matmul: the weight dequantized, then
 * linear.
 *
 * Sources: ao:torchao/quantization/quantize_/workflows/nf4/nf4_tensor.py NF4Tensor.
 */
#include "schemes/dot.h"
#include "schemes/num/codebook.h"
#include "schemes/num/torch_sum.h"
#include "schemes/scheme.h"

enum { BLOCK = 64, BLOCKS = 256 }; /* elements to a scaler, scalers to a factor */

static size_t count_blocks(const struct qg_args *a)
{
    return a->rows * a->cols / BLOCK;
}

static float block_absmax(const struct qg_tensor *x, size_t at)
{
    float absmax = 0.0f;
    for (size_t i = at; i < at + BLOCK; i++)
        absmax = qg_max(absmax, qg_abs(qg_get(x, i)));
    return absmax;
}

/* A NaN is as near to the first as to all others. */
static unsigned nearest(enum qg_dtype t, float u)
{
    unsigned best = 0;
    float least = 0.0f;
    for (unsigned k = 0; k < 16; k++) {
        float distance = qg_abs(qg_round(t, qg_sub(u, qg_round(t, qg_nf4_short(k)))));
        if (k == 0 || distance < least) {
            best = k;
            least = distance;
        }
    }
    return best;
}

/* S and f of 256 scalers A[0..256), from their places `at` on. */
static void convert_scalers(const struct qg_args *a, const float *absmax, size_t at, float mean)
{
    enum qg_dtype t = a->dtype;
    float top = 0.0f;
    for (size_t j = at; j < at + BLOCKS; j++)
        top = qg_max(top, qg_abs(qg_round(t, qg_sub(absmax[j], mean))));
    // 256 / (2 top): torch divides a number by a tensor by way of the reciprocal
    float inverse = qg_round(t, qg_div(1.0f, qg_round(t, qg_mul(2.0f, top))));
    float factor = qg_round(t, qg_mul(inverse, 256.0f));
    for (size_t j = at; j < at + BLOCKS; j++) {
        float d = qg_round(t, qg_sub(absmax[j], mean));
        float s = qg_rint(qg_round(t, qg_mul(d, factor)));
        qg_put(&a->out[1], j, qg_clamp(s, -128.0f, 127.0f));
    }
    qg_put(&a->out[2], at / BLOCKS, factor);
}

static void convert(const struct qg_args *a)
{
    const struct qg_tensor *x = &a->in[0];
    uint8_t *codes = a->out[0].data;
    float *absmax = a->work;
    for (size_t j = 0; j < count_blocks(a); j++)
        absmax[j] = block_absmax(x, j * BLOCK);
    float mean = qg_round(a->dtype, qg_torch_mean(absmax, count_blocks(a)));
    qg_put(&a->out[3], 0, mean);
    for (size_t j = 0; j < count_blocks(a); j += BLOCKS)
        convert_scalers(a, absmax, j, mean);
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        float u = qg_round(a->dtype, qg_div(qg_get(x, i), absmax[i / BLOCK]));
        unsigned code = nearest(a->dtype, u);
        codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | code : code << 4);
        qg_note(a, i, "absmax", absmax[i / BLOCK]);
        qg_note(a, i, "mean of absmax", mean);
        qg_note(a, i, "scaler code", qg_get(&a->out[1], i / BLOCK));
        qg_note(a, i, "x / absmax", u);
        qg_note(a, i, "code", (float)code);
    }
}

static unsigned code_at(const uint8_t *codes, size_t i)
{
    return codes[i / 2] >> (i % 2 ? 0 : 4) & 15u;
}

static unsigned code_of(const struct qg_args *a, size_t i)
{
    return code_at(a->out[0].data, i);
}

static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t i)
{
    enum qg_dtype t = a->dtype;
    float s = qg_get(&planes[1], i / BLOCK), factor = qg_get(&planes[2], i / BLOCK / BLOCKS);
    float scaler = qg_round(t, qg_add(qg_round(t, qg_div(s, factor)), qg_get(&planes[3], 0)));
    qg_note(a, i, "scaler (stored)", scaler);
    return qg_round(t, qg_mul(qg_round(t, qg_nf4_short(code_at(planes[0].data, i))), scaler));
}

static void dequant(const struct qg_args *a)
{
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value_at(a, a->in, i));
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

static void matmul(const struct qg_args *a)
{
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, n * a->cols + k);
        qg_matmul_row(a, n, a->work);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t group(const struct qg_args *a)
{
    (void)a;
    return BLOCK;
}

static size_t half_of_all(const struct qg_args *a)
{
    return a->rows * a->cols / 2;
}

static size_t count_factors(const struct qg_args *a)
{
    return a->rows * a->cols / (BLOCK * BLOCKS);
}

static const char *refuse(const struct qg_args *a)
{
    return a->rows * a->cols % (BLOCK * BLOCKS) == 0
               ? NULL
               : "R*K is no multiple of 16384 (256 scalers of 64 elements); upstream raises "
                 "AssertionError: choose a shape that is, or a scheme with shorter blocks";
}

static const struct qg_extent packed = {"R*K/2", half_of_all}, blocks = {"R*K/64", count_blocks},
                              factors = {"R*K/16384", count_factors};
static const struct qg_plane planes[] = {
    {"codes", QG_U8, 0, {&packed}, "two 4-bit codes per byte of the flattened tensor, first high"},
    {"scalers", QG_I8, 0, {&blocks}, "one per 64 elements of the flattened tensor"},
    {"factors", QG_INPUT, 0, {&factors}, "one per 256 scalers: they were multiplied with it"},
    {"mean", QG_INPUT, 0, {&qg_ext_one}, "of all scalers"},
    {NULL},
};

static const struct qg_param params[] = {{NULL}};

const struct qg_scheme qg_schemes_nf4[] = {
    {.name = "nf4",
     .summary = "NF4 of torchao: blocks of 64, int8 scalers in blocks of 256, all in the dtype",
     .upstream = "ao:torchao/quantization/quantize_/workflows/nf4/nf4_tensor.py to_nf4",
     .nonfinite =
         "NaN: its block's codes are 0, and the mean is NaN: all scalers are 0 (a NaN in int8, on "
         "x86), all factors and values NaN. inf: its code 0 and those of its block's numbers 7; "
         "the "
         "mean is inf, scalers 0, values NaN. All-zero block: codes 0, which is -1 times what its "
         "scaler decodes to. All scalers equal: the factor is inf, scalers 0, values exact.",
     .params = params,
     .operand = {[QG_WEIGHT] = {.convert = convert,
                                .dequant = dequant,
                                .group = group,
                                .planes = planes,
                                .code_bits = 4,
                                .code = code_of,
                                .spans_rows = true}},
     .matmul = matmul,
     .adapts = true,
     .refuse = refuse},
    {.name = NULL},
};
