/* SPDX-License-Identifier: MIT
 *
 * The blockwise formats of bitsandbytes (QLoRA): blocks of the flattened tensor, across row ends,
 * the last one short; per block one binary32 number; codes that are places in a list
 * (num/codebook.h).
 *
 *     a = max|x|,  s = x (1/a),  code = the nearest number of the list,  x' = list[code] a
 *
 * The reciprocal is an operation of its own. The nearest number is found by the middles of
 * neighbours, rounded to binary32; s on a middle goes down. Two 4-bit codes share a byte, the first
 * element in the high nibble; an odd last one is followed by the code of 0.
 *
 * bitsandbytes computes this in three ways that differ in bits:
 *
 *     torch   a at least 1e-38 where it divides, s clamped to +-1; a short last block stores that
 *             divisor and takes x / a. NaN goes to the last code. CPUs encode 4 bits so.
 *     c++     8 bits on CPUs: s is first rounded to one of 65536 points of [-1, 1], point
 *             floor((s + 1)/2 65535 + 1/2), and then to the nearest number of the list: an exact
 * zero becomes code 131, and codes 124 to 130 are out of reach. A block of zeros is all code 0.
 *     cuda    no lower bound, NaN is ignored by a and gets code 0, and so does all of a zero block
 *             (0 inf). 8 bits: s on a middle goes to the even code. fp4: middles of magnitudes,
 * five of them a few ulp off. Here all divisions are correctly rounded and subnormals kept; the
 * real kernels are compiled with fast math and may be an ulp off.
 *
 * The impl parameter: cpu is what bitsandbytes does on an x86 CPU, cuda what its kernels do there.
 * Decoding is one product in binary32, rounded to the dtype, in all of them. (The C++ decoder for
 * AVX-512 takes a block's number from the wrong place when the block does not divide K, and where
 * the CPU has bf16 instructions it flushes bf16 subnormals; here the torch decoder is the
 * definition.)
 *
 * Double quantization: the a of all blocks, less their mean, are a tensor themselves and go through
 * 8 bits in blocks of 256; decoding adds the mean again. The codes of x come from the exact a. The
 * mean's sum has torch's order (num/torch_sum.h), for cuda too, where no order is promised: the
 * mean is a plane, so it is seen.
 *
 * Matmul: the weight dequantized to x's dtype, then linear; the fused kernels of GPUs, and those of
 * CPUs for weights packed on purpose, round elsewhere and are not here.
 *
 * Sources: bnb:bitsandbytes/functional.py quantize_4bit, quantize_blockwise;
 * bnb:bitsandbytes/backends/default/ops.py; bnb:csrc/cpu_ops.cpp; bnb:csrc/kernels.cu.
 */
#include <float.h>

#include "schemes/dot.h"
#include "schemes/num/codebook.h"
#include "schemes/num/torch_sum.h"
#include "schemes/scheme.h"

enum { GROUP, IMPL };
enum impl { CPU, CUDA, TORCH }; /* 4 bits have no TORCH: their CPU is torch */

/* --- the nearest number of a list ------------------------------------------------------------ */

/* How many of n rising middles lie below s; all of them for NaN (torch.bucketize). */
static unsigned count_below(const float *middle, unsigned n, float s)
{
    unsigned low = 0;
    for (unsigned high = n; low < high;) {
        unsigned half = (low + high) / 2;
        if (middle[half] >= s)
            high = half;
        else
            low = half + 1;
    }
    return low;
}

static float middle_of(float low, float high)
{
    return qg_add(low, high) / 2;
}

/* A 4-bit list: numbers by code, codes in rising order of their numbers, and the middles between.
 */
struct list {
    float value[16], middle[15];
    uint8_t code[16];
};

static struct list list_of(const float *value, const uint8_t *code)
{
    struct list list;
    for (int i = 0; i < 16; i++) {
        list.value[i] = value[i];
        list.code[i] = code[i];
    }
    for (int i = 0; i < 15; i++)
        list.middle[i] = middle_of(value[code[i]], value[code[i + 1]]);
    return list;
}

static unsigned nf4_code(const struct list *list, enum impl impl, float s)
{
    return impl == CUDA && s != s ? 0 : count_below(list->middle, 15, s);
}

/* Below one half of the smallest magnitude there are two zeros: 0 and 8. cpu gives 8 to what is
 * positive, cuda to what is negative. */
static unsigned fp4_code(const struct list *list, enum impl impl, float s)
{
    static const float middle[7] = {0.00260417f, 0.0859375f, 0.20833333f, 0.29166667f,
                                    0.4166667f,  0.583333f,  0.8333333f};
    static const uint8_t rising[8] = {0, 1, 6, 7, 4, 5, 2, 3};
    if (impl == CPU)
        return list->code[count_below(list->middle, 15, s)];
    return s != s ? 0 : (s < 0 ? 8u : 0u) + rising[count_below(middle, 7, qg_abs(s))];
}

static struct list nf4_list(enum impl impl)
{
    static const uint8_t code[16] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15};
    float value[16];
    (void)impl;
    for (unsigned i = 0; i < 16; i++)
        value[i] = qg_nf4(i);
    return list_of(value, code);
}

/* The order of the two zeros, 0 before 8, is torch.argsort's. */
static struct list fp4_list(enum impl impl)
{
    static const uint8_t code[16] = {11, 10, 13, 12, 15, 14, 9, 0, 8, 1, 6, 7, 4, 5, 2, 3};
    float value[16];
    for (unsigned i = 0; i < 16; i++)
        value[i] = i < 8 ? qg_fp4(i) : -qg_fp4(i - 8);
    if (impl == CPU)
        value[8] = 0.0f;
    return list_of(value, code);
}

/* --- blocks ---------------------------------------------------------------------------------- */

struct block {
    size_t at, n;          /* elements at .. at+n of the flattened tensor */
    float absmax, divisor; /* as stored, and what x is divided by */
    bool divides;          /* x / divisor, not x (1/divisor) */
    enum impl impl;
};

static float block_absmax(const struct qg_tensor *x, const struct block *b)
{
    bool ignores_nan = b->impl != TORCH;
    float absmax = b->impl == CUDA ? -FLT_MAX : 0.0f;
    for (size_t i = b->at; i < b->at + b->n; i++) {
        float m = qg_abs(qg_get(x, i));
        absmax = ignores_nan ? (m > absmax ? m : absmax) : qg_max(absmax, m);
    }
    return absmax;
}

/* Block number i. */
static struct block block_of(const struct qg_args *a, size_t i, enum impl impl)
{
    size_t total = a->rows * a->cols, group = qg_group(a);
    struct block b = {.at = i * group, .n = group, .impl = impl};
    if (total - b.at < group)
        b.n = total - b.at;
    b.absmax = b.divisor = block_absmax(&a->in[0], &b);
    if (impl != TORCH)
        return b;
    b.divisor = qg_max(b.absmax, 1e-38f);
    b.divides = b.n < group;
    if (b.divides)
        b.absmax = b.divisor;
    return b;
}

static float scaled(const struct block *b, float x)
{
    float s = b->divides ? qg_div(x, b->divisor) : qg_mul(x, qg_div(1.0f, b->divisor));
    return b->impl == CUDA ? s : qg_clamp(s, -1.0f, 1.0f);
}

static size_t count_blocks(const struct qg_args *a)
{
    return (a->rows * a->cols + qg_group(a) - 1) / qg_group(a);
}

/* --- 4 bits ---------------------------------------------------------------------------------- */

struct four_bits {
    struct list (*list)(enum impl impl);
    unsigned (*code)(const struct list *list, enum impl impl, float s);
};
static const struct four_bits nf4 = {nf4_list, nf4_code}, fp4 = {fp4_list, fp4_code};

/* Codes to out[0], a of every block to `absmax`. */
static void encode(const struct qg_args *a, const struct four_bits *format, float *absmax)
{
    enum impl impl = (enum impl)a->param[IMPL];
    struct list list = format->list(impl);
    uint8_t *codes = a->out[0].data;
    for (size_t j = 0; j < count_blocks(a); j++) {
        struct block b = block_of(a, j, impl == CPU ? TORCH : impl);
        absmax[j] = b.absmax;
        for (size_t i = b.at; i < b.at + b.n; i++) {
            float s = scaled(&b, qg_get(&a->in[0], i));
            unsigned code = format->code(&list, impl, s);
            codes[i / 2] = (uint8_t)(i % 2 ? codes[i / 2] | code : code << 4);
            qg_note(a, i, "absmax", b.absmax);
            qg_note(a, i, "x / absmax", s);
            qg_note(a, i, "code", (float)code);
        }
        if ((b.at + b.n) % 2) // a last byte that is half empty
            codes[(b.at + b.n) / 2] |=
                (uint8_t)format->code(&list, impl, impl == CPU ? 0.0f : scaled(&b, 0.0f));
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

/* Element i of the dequantized tensor; absmax is that of its block. */
static float value_at(const struct qg_args *a, const struct list *list, const uint8_t *codes,
                      size_t i, float absmax)
{
    return qg_round(a->dtype, qg_mul(list->value[code_at(codes, i)], absmax));
}

/* Writes the number of every block to `absmax`. */
typedef void absmax_fn(const struct qg_args *a, const struct qg_tensor *planes, float *absmax);

static void plain_absmax(const struct qg_args *a, const struct qg_tensor *planes, float *absmax)
{
    for (size_t j = 0; j < count_blocks(a); j++)
        absmax[j] = qg_get(&planes[1], j);
}

static void decode(const struct qg_args *a, const struct four_bits *format, absmax_fn *load)
{
    struct list list = format->list((enum impl)a->param[IMPL]);
    float *absmax = a->work;
    load(a, a->in, absmax);
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        qg_put(&a->out[0], i, value_at(a, &list, a->in[0].data, i, absmax[i / qg_group(a)]));
        qg_note(a, i, "absmax (stored)", absmax[i / qg_group(a)]);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* a->work holds a row of W, then the numbers of all blocks. */
static void multiply(const struct qg_args *a, const struct four_bits *format, absmax_fn *load)
{
    struct list list = format->list((enum impl)a->param[IMPL]);
    float *absmax = a->work + a->cols;
    load(a, a->in + 1, absmax);
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++) {
            size_t i = n * a->cols + k;
            a->work[k] = value_at(a, &list, a->in[1].data, i, absmax[i / qg_group(a)]);
        }
        qg_matmul_row(a, n, a->work);
    }
}

static void nf4_convert(const struct qg_args *a)
{
    encode(a, &nf4, a->out[1].data);
}

static void nf4_dequant(const struct qg_args *a)
{
    decode(a, &nf4, plain_absmax);
}

static void nf4_matmul(const struct qg_args *a)
{
    multiply(a, &nf4, plain_absmax);
}

static void fp4_convert(const struct qg_args *a)
{
    encode(a, &fp4, a->out[1].data);
}

static void fp4_dequant(const struct qg_args *a)
{
    decode(a, &fp4, plain_absmax);
}

static void fp4_matmul(const struct qg_args *a)
{
    multiply(a, &fp4, plain_absmax);
}

/* --- 8 bits ---------------------------------------------------------------------------------- */

/* s as the C++ library sees it: one of 65536 points. Its NaN is the first one (on x86). */
static float snapped(float s)
{
    float place = qg_add(qg_mul(qg_add(s, 1.0f) / 2, 65535.0f), 0.5f);
    unsigned point = place >= 0 ? (unsigned)place : 0;
    return qg_add(-1.0f, qg_div(2.0f * (float)point, 65535.0f));
}

static unsigned byte_code(const float *middle, enum impl impl, float s)
{
    unsigned code = count_below(middle, 255, impl == CPU ? snapped(s) : s);
    if (impl != CUDA)
        return code;
    bool tie = code < 255 && middle[code] == s;
    return s != s ? 0 : code + (tie && code % 2);
}

/* in[0] to codes out[0] and the numbers of the blocks out[1]. */
static void bytes_convert(const struct qg_args *a)
{
    enum impl impl = (enum impl)a->param[IMPL];
    float map[256], middle[255];
    qg_dynamic_map(map);
    for (int i = 0; i < 255; i++)
        middle[i] = middle_of(map[i], map[i + 1]);
    for (size_t j = 0; j < count_blocks(a); j++) {
        struct block b = block_of(a, j, impl);
        qg_put(&a->out[1], j, b.absmax);
        for (size_t i = b.at; i < b.at + b.n; i++) {
            float s = scaled(&b, qg_get(&a->in[0], i));
            qg_put(&a->out[0], i, (float)byte_code(middle, impl, s));
            qg_note(a, i, "absmax", b.absmax);
            qg_note(a, i, "x / absmax", s);
            qg_note(a, i, "code", qg_get(&a->out[0], i));
        }
    }
}

static void bytes_dequant(const struct qg_args *a)
{
    float map[256];
    qg_dynamic_map(map);
    for (size_t i = 0; i < a->rows * a->cols; i++) {
        float absmax = qg_get(&a->in[1], i / qg_group(a));
        qg_put(&a->out[0], i, qg_mul(map[((const uint8_t *)a->in[0].data)[i]], absmax));
        qg_note(a, i, "absmax (stored)", absmax);
        qg_note(a, i, "y", qg_get(&a->out[0], i));
    }
}

/* --- double quantization --------------------------------------------------------------------- */

enum { NESTED = 256 };

static void double_convert(const struct qg_args *a)
{
    size_t n = count_blocks(a);
    float *absmax = a->work;
    encode(a, &nf4, absmax);
    float offset = qg_torch_mean(absmax, n);
    for (size_t j = 0; j < n; j++)
        absmax[j] = qg_sub(absmax[j], offset);
    struct qg_args b = *a; // the numbers of all blocks are one row
    b.rows = 1;
    b.cols = n;
    b.param[GROUP] = NESTED;
    b.in[0] = (struct qg_tensor){.dtype = QG_F32, .rank = 1, .shape = {n}, .data = absmax};
    b.out[0] = a->out[1];
    b.out[1] = a->out[2];
    b.trace = NULL;
    bytes_convert(&b);
    qg_put(&a->out[3], 0, offset);
}

static void double_absmax(const struct qg_args *a, const struct qg_tensor *planes, float *absmax)
{
    float map[256], offset = qg_get(&planes[3], 0);
    qg_dynamic_map(map);
    for (size_t j = 0; j < count_blocks(a); j++) {
        uint8_t code = ((const uint8_t *)planes[1].data)[j];
        absmax[j] = qg_add(qg_mul(map[code], qg_get(&planes[2], j / NESTED)), offset);
    }
}

static void double_dequant(const struct qg_args *a)
{
    decode(a, &nf4, double_absmax);
}

static void double_matmul(const struct qg_args *a)
{
    multiply(a, &nf4, double_absmax);
}

/* --- the table ------------------------------------------------------------------------------- */

static size_t group_param(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

static size_t half_of_all(const struct qg_args *a)
{
    return (a->rows * a->cols + 1) / 2;
}

static size_t everything(const struct qg_args *a)
{
    return a->rows * a->cols;
}

static size_t count_nested(const struct qg_args *a)
{
    return (count_blocks(a) + NESTED - 1) / NESTED;
}

static const struct qg_extent packed = {"(R*K+1)/2", half_of_all}, all = {"R*K", everything},
                              blocks = {"R*K/g", count_blocks},
                              nested = {"R*K/g/256", count_nested};

static const char *refuse_4bit(const struct qg_args *a)
{
    size_t g = qg_group(a);
    return g & (g - 1) ? "blocks are 32, 64, 128, .. 4096 elements; upstream raises ValueError: "
                         "choose one of these"
                       : NULL;
}

#define FOUR_BITS_PACKING "two 4-bit codes per byte of the flattened tensor, the first one high"
static const struct qg_plane absmax_planes[] = {
    {"codes", QG_U8, 0, {&packed}, FOUR_BITS_PACKING},
    {"absmax", QG_F32, 0, {&blocks}, "one per block of the flattened tensor"},
    {NULL},
};

static const struct qg_plane double_planes[] = {
    {"codes", QG_U8, 0, {&packed}, FOUR_BITS_PACKING},
    {"absmax", QG_U8, 0, {&blocks}, "places in the dynamic map, one per block"},
    {"nested_absmax", QG_F32, 0, {&nested}, "one per 256 blocks"},
    {"offset", QG_F32, 0, {&qg_ext_one}, "mean of all absmax"},
    {NULL},
};
static const struct qg_plane byte_planes[] = {
    {"codes", QG_U8, 0, {&all}, "places in the dynamic map, of the flattened tensor"},
    {"absmax", QG_F32, 0, {&blocks}, "one per block of the flattened tensor"},
    {NULL},
};

static const char *const impls[] = {"cpu", "cuda", NULL};
static const struct qg_param params_4bit[] = {
    [GROUP] = {"group", "elements of the flattened tensor that share a scale; a power of two", 64,
               32, 4096, NULL, true},
    [IMPL] = {"impl", "whose arithmetic: torch's on a CPU, or that of the CUDA kernels", 0, 0, 0,
              impls, false},
    {NULL},
};

static const char *const byte_impls[] = {"cpu", "cuda", "torch", NULL};
static const struct qg_param byte_params[] = {
    [GROUP] = {"group", "elements of the flattened tensor that share a scale", 4096, 16, 4096, NULL,
               true},
    [IMPL] = {"impl", "whose encoder: the C++ library's, the CUDA kernel's, or torch's", 0, 0, 0,
              byte_impls, false},
    {NULL},
};
static const char *const byte_variants[] = {"impl=cuda", "impl=torch", NULL};

#define FOUR_BITS(name, what)                                                        \
    {                                                                                \
        .convert = name##_convert, .dequant = name##_dequant, .group = group_param,  \
        .planes = what##_planes, .code_bits = 4, .code = code_of, .spans_rows = true \
    }

static const char *const variants_4bit[] = {"group=128", "impl=cuda", NULL};

#define NONFINITE_4BIT(last, zero)                                                                \
    "cpu: NaN makes the block's absmax NaN and all its codes " last "; inf: absmax inf, its own " \
    "codes " last " (inf * 0), all others that of 0; values NaN. All-zero block: codes " zero     \
    ", absmax 0 (1e-38 in a short block). cuda: NaN is ignored, its code 0; all-zero block: "     \
    "codes 0, absmax 0. Subnormal absmax: cpu divides by 1e-38 at least."

const struct qg_scheme qg_schemes_bnb[] = {
    {.name = "nf4-bnb",
     .summary = "NF4 of bitsandbytes: 4-bit quantiles of the normal, binary32 absmax per block",
     .upstream = "bnb:bitsandbytes/functional.py quantize_4bit quant_type nf4",
     .nonfinite = NONFINITE_4BIT("15", "7"),
     .params = params_4bit,
     .variants = variants_4bit,
     .operand = {[QG_WEIGHT] = FOUR_BITS(nf4, absmax)},
     .matmul = nf4_matmul,
     .adapts = true,
     .refuse = refuse_4bit},
    {.name = "nf4-bnb-double",
     .summary = "NF4 of bitsandbytes with double quantization: absmax in 8 bits (QLoRA)",
     .upstream = "bnb:bitsandbytes/functional.py quantize_4bit compress_statistics",
     .nonfinite =
         NONFINITE_4BIT("15", "7") " NaN or inf anywhere: the mean and all values are NaN.",
     .params = params_4bit,
     .variants = variants_4bit,
     .operand = {[QG_WEIGHT] = FOUR_BITS(double, double)},
     .matmul = double_matmul,
     .adapts = true,
     .refuse = refuse_4bit},
    {.name = "fp4-bnb",
     .summary = "FP4 of bitsandbytes: its own 4-bit floats (1/192 to 1), binary32 absmax per block",
     .upstream = "bnb:bitsandbytes/functional.py quantize_4bit quant_type fp4",
     .nonfinite = NONFINITE_4BIT("3", "0"),
     .params = params_4bit,
     .variants = variants_4bit,
     .operand = {[QG_WEIGHT] = FOUR_BITS(fp4, absmax)},
     .matmul = fp4_matmul,
     .adapts = true,
     .refuse = refuse_4bit},
    {.name = "int8-bnb",
     .summary = "8-bit blocks of bitsandbytes: 256 numbers over seven decades (dynamic map)",
     .upstream = "bnb:bitsandbytes/functional.py quantize_blockwise",
     .nonfinite =
         "cpu (on x86) and cuda: NaN is ignored by absmax and gets code 0; inf: absmax inf, its "
         "own "
         "code 0, values NaN or inf; all-zero block: codes 0, absmax 0. torch: NaN makes absmax "
         "NaN "
         "and all codes 255; inf: its own code 255, all others 127; all-zero block: codes 127.",
     .params = byte_params,
     .variants = byte_variants,
     .operand = {[QG_WEIGHT] = {.convert = bytes_convert,
                                .dequant = bytes_dequant,
                                .group = group_param,
                                .planes = byte_planes,
                                .code_bits = 8,
                                .spans_rows = true}}},
    {.name = NULL},
};
