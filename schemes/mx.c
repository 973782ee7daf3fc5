/* SPDX-License-Identifier: MIT
 *
 * The OCP Microscaling formats as torchao has them: blocks of 32 elements along K, each element a
 * small floating-point number, each block with a scale that is a power of two (E8M0: byte b means
 * 2^(b - 127), 255 NaN). Weights and, at run time, activations; bf16 or binary32 in.
 *
 * With amax = max|x| of a block, E its exponent, p the exponent of the element's largest number:
 *
 *     floor   s = 2^(E - p)                                  up to 2^(p+1) - max saturates
 *     ceil    s = 2^(E - p), E + 1 where amax is no power of two
 *     even    s = 2^(E - p), E + 1 where amax >= (2 - 2^-(mantissa bits + 1)) 2^E
 *     rceil   s = the smallest power of two that is not below amax / max     (the default)
 *     q = element(x / s), saturating      x' = R(q s)
 *
 * The exponent is limited to what E8M0 holds. R(.) is a rounding to the tensor's dtype; q s is
 * exact unless it is subnormal or overflows there. rceil is what torchao's configuration of layers
 * (MXDynamicActivationMXWeightConfig) and of training (MXFakeQuantizeConfig) ask for; to_mx alone
 * would take floor.
 *
 * Two versions of torchao differ at the ends of the range:
 *
 *     0.18       rceil takes ceil(log2f(amax / max)): where a quotient is so little above a power
 *                of two that log2f rounds down to it, s is the power below. inf: byte 254. Byte 0
 *                means 2^-127, yet x is divided by 1. The others divide by at least 2^-126; an
 *                infinite amax counts as 2^128.
 *     snapshot   rceil works on the bits of amax f32(1/max). x is multiplied with 2^(127 - b), for
 *                every b. A block with NaN or inf, or whose amax rounds up to inf (even), has
 *                byte 255.
 *
 * Prepare and convert take the same steps (torchao trains on the very tensor that it ships), here
 * once in powers of two and once in bits. Backward, the quantizers pass the gradient straight
 * through: no mask where elements saturate, nothing for the scale.
 *
 * Matmul: both operands dequantized to the dtype, then an ordinary product (kernel preference
 * EMULATED, for all elements). The block-scaled product of tensor cores (AUTO; e4m3 and e2m1, bf16
 * out) sums the same numbers: they are exact in the dtype, so it lies within the same bound. Where
 * one overflows there (q s of an infinite x) the two have nothing in common: no bound for a kernel
 * that widens.
 *
 * Sources: ao:torchao/prototype/mx_formats/mx_tensor.py to_mx, to_dtype, _addmm_mx_dispatch;
 * .../config.py; ao:torchao/prototype/custom_fp_utils.py; ao:torchao/prototype/qat/mx.py. 0.18:
 * release 0.18.0; snapshot: commit 36027d82 of 2026-08-21.
 */
#include "schemes/blocked.h"
#include "schemes/dot.h"

enum { SCALE, VERSION, LAYOUT };
enum { FLOOR, CEIL, EVEN, RCEIL };
enum { RELEASE_0_18, SNAPSHOT };
enum { BLOCK = 32, NAN_BYTE = 255 };

static const char *const scale_words[] = {"floor", "ceil", "even", "rceil", NULL};
static const char *const version_words[] = {"0.18", "snapshot", NULL};

/* An element: its largest number and that number's exponent. */
struct element {
    float max;
    int top, mbits;
    unsigned (*encode)(float x);
    float (*decode)(unsigned code);
};

static unsigned e4m3_encode(float x)
{
    return qg_e4m3_encode(x).v;
}

static float e4m3_decode(unsigned code)
{
    return qg_e4m3_decode((qg_e4m3){(uint8_t)code});
}

static unsigned e5m2_encode(float x)
{
    return qg_e5m2_encode(x).v;
}

static float e5m2_decode(unsigned code)
{
    return qg_e5m2_decode((qg_e5m2){(uint8_t)code});
}

/* In the order of the table below. */
static const struct element elements[] = {
    {6.0f, 2, 1, qg_e2m1_encode, qg_e2m1_decode},  {7.5f, 2, 3, qg_e2m3_encode, qg_e2m3_decode},
    {28.0f, 4, 2, qg_e3m2_encode, qg_e3m2_decode}, {448.0f, 8, 3, e4m3_encode, e4m3_decode},
    {57344.0f, 15, 2, e5m2_encode, e5m2_decode},
};

extern const struct qg_scheme qg_schemes_mx[];

static const struct element *element_of(const struct qg_args *a)
{
    return &elements[a->scheme - qg_schemes_mx];
}

static size_t block(const struct qg_args *a)
{
    (void)a;
    return BLOCK;
}

static float amax_of(const struct qg_tensor *x, size_t at)
{
    float amax = 0.0f;
    for (size_t i = at; i < at + BLOCK; i++)
        amax = qg_max(amax, qg_abs(qg_get(x, i)));
    return amax;
}

/* --- prepare --------------------------------------------------------------------------------- */

/* ceil(log2(x)) where log2 is rounded to binary32; x > 0. */
static int ceil_log2f(float x)
{
    return (int)ceilf((float)log2((double)x));
}

/* The smallest e with 2^e >= x > 0. */
static int exponent_above(float x)
{
    int e;
    float f = frexpf(x, &e); // x = f 2^e, 1/2 <= f < 1
    return f == 0.5f ? e - 1 : e;
}

/* The exponent of the scale before it is limited; amax is finite and not 0. */
static int prepare_exponent(const struct qg_args *a, float amax)
{
    const struct element *el = element_of(a);
    int e = ilogbf(amax);
    switch ((int)a->param[SCALE]) {
    case FLOOR:
        return e - el->top;
    case CEIL:
        return exponent_above(amax) - el->top;
    case EVEN:
        return e + (ldexpf(amax, -e) >= 2.0f - ldexpf(1.0f, -el->mbits - 1)) - el->top;
    default:
        break;
    }
    float quotient = a->param[VERSION] == RELEASE_0_18 ? qg_div(amax, el->max)
                                                       : qg_mul(amax, qg_div(1.0f, el->max));
    if (quotient == 0)
        return -127;
    return a->param[VERSION] == RELEASE_0_18 ? ceil_log2f(quotient) : exponent_above(quotient);
}

/* The scale of a block as a number. */
static float prepare_scale(const struct qg_args *a, float amax)
{
    bool old = a->param[VERSION] == RELEASE_0_18;
    const int infinite = a->param[SCALE] == RCEIL ? 127 : 128 - element_of(a)->top;
    if (amax != amax || (!old && amax == INFINITY))
        return NAN;
    int e = amax == INFINITY ? infinite : amax == 0 ? -127 : prepare_exponent(a, amax);
    if (!old && a->param[SCALE] == EVEN && amax != 0 && e + element_of(a)->top == 128)
        return NAN; // rounded up to infinity
    return ldexpf(1.0f, e < -127 ? -127 : e > 127 ? 127 : e);
}

/* x over the scale, as the version does it. */
static float prepare_quotient(const struct qg_args *a, float x, float scale)
{
    if (scale != scale)
        return NAN;
    if (a->param[VERSION] == SNAPSHOT)
        return qg_mul(x, qg_div(1.0f, scale));
    if (a->param[SCALE] == RCEIL)
        return scale == 0x1p-127f ? x : qg_mul(x, qg_div(1.0f, scale));
    return qg_div(x, qg_max(scale, 0x1p-126f));
}

static void fake_quant(const struct qg_args *a)
{
    const struct element *el = element_of(a);
    for (size_t at = 0; at < a->rows * a->cols; at += BLOCK) {
        float amax = amax_of(&a->in[0], at), scale = prepare_scale(a, amax);
        for (size_t i = at; i < at + BLOCK; i++) {
            float v = prepare_quotient(a, qg_get(&a->in[0], i), scale);
            float q = el->decode(el->encode(qg_clamp(v, -el->max, el->max)));
            qg_put(&a->out[0], i, qg_mul(q, scale));
            qg_note(a, i, "max |x|", amax);
            qg_note(a, i, "scale", scale);
            qg_note(a, i, "x / scale", v);
            qg_note(a, i, "element", q);
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
    }
}

/* --- convert --------------------------------------------------------------------------------- */

static unsigned rceil_byte(const struct qg_args *a, float amax)
{
    float max = element_of(a)->max;
    if (a->param[VERSION] == SNAPSHOT)
        return qg_e8m0_above(qg_mul(amax, qg_div(1.0f, max))).v;
    float quotient = qg_div(amax, max);
    if (quotient - quotient != 0)
        return quotient != quotient ? NAN_BYTE : 254u;
    if (quotient == 0)
        return 0;
    int e = ceil_log2f(quotient);
    return e < -127 ? 0u : (unsigned)(e + 127);
}

/* The E8M0 byte of a block's scale. */
static unsigned scale_byte(const struct qg_args *a, float amax)
{
    const struct element *el = element_of(a);
    uint32_t u = qg_f32_bits(amax);
    if (a->param[SCALE] == RCEIL)
        return rceil_byte(a, amax);
    if (amax != amax)
        return NAN_BYTE;
    if (a->param[SCALE] == EVEN)
        u = (u + (1u << (22 - el->mbits))) & 0x7f800000u; // half a mantissa step more
    int field = (int)(u >> 23);
    if (field == 255 && a->param[VERSION] == SNAPSHOT)
        return NAN_BYTE;
    field += a->param[SCALE] == CEIL && (u & 0x7fffffu) != 0;
    return field < el->top ? 0u : (unsigned)(field - el->top);
}

/* What an element of a block with that byte is multiplied or divided by before it is rounded. */
static float convert_quotient(const struct qg_args *a, float x, unsigned byte)
{
    float inverse = qg_e8m0_decode((qg_e8m0){(uint8_t)(254u - byte)}); // 254 - 255 wraps to 255
    if (a->param[VERSION] == SNAPSHOT)
        return qg_mul(x, inverse);
    if (a->param[SCALE] == RCEIL)
        return qg_mul(x, byte ? inverse : 1.0f);
    float divisor = byte == NAN_BYTE ? INFINITY : qg_e8m0_decode((qg_e8m0){(uint8_t)byte});
    return qg_div(x, qg_max(divisor, 0x1p-126f));
}

static unsigned convert_code(const struct qg_args *a, float x, unsigned byte)
{
    const struct element *el = element_of(a);
    return el->encode(qg_clamp(convert_quotient(a, x, byte), -el->max, el->max));
}

/* Where the scale of block j of a row lies in its plane. */
static size_t scale_at(const struct qg_args *a, size_t row, size_t j)
{
    return qg_layout_at(a->param[LAYOUT], a->cols / BLOCK, row, j);
}

static bool two_per_byte(const struct qg_args *a)
{
    return a->scheme->operand[a->operand].code_bits == 4;
}

static void put_code(const struct qg_args *a, size_t i, unsigned code)
{
    uint8_t *codes = a->out[0].data;
    if (!two_per_byte(a))
        codes[i] = (uint8_t)code;
    else if (i % 2 == 0)
        codes[i / 2] = (uint8_t)code;
    else
        codes[i / 2] = (uint8_t)(codes[i / 2] | code << 4);
}

static unsigned get_code(const struct qg_args *a, const struct qg_tensor *plane, size_t i)
{
    const uint8_t *codes = plane->data;
    return two_per_byte(a) ? codes[i / 2] >> (i % 2 * 4) & 15u : codes[i];
}

static unsigned code(const struct qg_args *a, size_t i)
{
    return get_code(a, &a->out[0], i);
}

static void convert(const struct qg_args *a)
{
    uint8_t *scales = a->out[1].data;
    memset(scales, 0, qg_bytes(&a->out[1])); // what pads the last tiles
    for (size_t row = 0; row < a->rows; row++)
        for (size_t j = 0; j < a->cols / BLOCK; j++) {
            size_t at = row * a->cols + j * BLOCK;
            unsigned byte = scale_byte(a, amax_of(&a->in[0], at));
            scales[scale_at(a, row, j)] = (uint8_t)byte;
            for (size_t i = at; i < at + BLOCK; i++) {
                float x = qg_get(&a->in[0], i);
                put_code(a, i, convert_code(a, x, byte));
                qg_note(a, i, "scale byte", (float)byte);
                qg_note(a, i, "x / scale", convert_quotient(a, x, byte));
                qg_note(a, i, "code", (float)code(a, i));
            }
        }
}

/* Element (row, col) of a dequantized operand. fp6 codes lie in the low six bits of a byte. */
static float value_at(const struct qg_args *a, const struct qg_tensor *planes, size_t row,
                      size_t col)
{
    const struct element *el = element_of(a);
    size_t i = row * a->cols + col;
    qg_e8m0 scale = ((const qg_e8m0 *)planes[1].data)[scale_at(a, row, col / BLOCK)];
    float q = el->decode(get_code(a, &planes[0], i));
    qg_note(a, i, "scale (stored)", qg_e8m0_decode(scale));
    qg_note(a, i, "element", q);
    return qg_round(a->dtype, qg_mul(q, qg_e8m0_decode(scale)));
}

static void dequant(const struct qg_args *a)
{
    for (size_t row = 0; row < a->rows; row++)
        for (size_t col = 0; col < a->cols; col++) {
            size_t i = row * a->cols + col;
            qg_put(&a->out[0], i, value_at(a, a->in, row, col));
            qg_note(a, i, "y", qg_get(&a->out[0], i));
        }
}

/* y[0 .. 32): a block of x through convert and dequant. */
static void quantize_block(const struct qg_args *a, size_t at, float *y)
{
    unsigned byte = scale_byte(a, amax_of(&a->in[0], at));
    float scale = qg_e8m0_decode((qg_e8m0){(uint8_t)byte});
    for (size_t j = 0; j < BLOCK; j++) {
        float q = element_of(a)->decode(convert_code(a, qg_get(&a->in[0], at + j), byte));
        y[j] = qg_round(a->dtype, qg_mul(q, scale));
    }
}

static bool any_infinite(const float *x, size_t n)
{
    bool any = false;
    for (size_t i = 0; i < n; i++)
        any |= isinf(x[i]) != 0;
    return any;
}

/* Of y's column n: x . w with inf in one of them. */
static void disown_overflows(const struct qg_args *a, size_t n, const float *w, const float *x)
{
    bool of_w = any_infinite(w, a->cols);
    for (size_t m = 0; m < a->m; m++)
        if (of_w || any_infinite(x + m * a->cols, a->cols))
            qg_emit(a, m * a->rows + n, qg_get(&a->out[0], m * a->rows + n), 0, (double)INFINITY);
}

/* a->work holds a row of W, then x. */
static void matmul(const struct qg_args *a)
{
    float *x = a->work + a->cols;
    for (size_t at = 0; at < a->m * a->cols; at += BLOCK)
        quantize_block(a, at, x + at);
    struct qg_args b = *a;
    b.in[0].dtype = QG_F32;
    b.in[0].data = x;
    for (size_t n = 0; n < a->rows; n++) {
        for (size_t k = 0; k < a->cols; k++)
            a->work[k] = value_at(a, a->in + 1, n, k);
        qg_matmul_row(&b, n, a->work);
        if (a->wide)
            disown_overflows(a, n, a->work, x);
    }
}

/* --- the table ------------------------------------------------------------------------------- */

static const struct qg_param params[] = {
    [SCALE] = {"scale", "how a block's power of two follows from its largest magnitude", RCEIL, 0,
               0, scale_words, false},
    [VERSION] = {"version", "torchao release or later source, where byte 0 and inf differ",
                 RELEASE_0_18, 0, 0, version_words, false},
    [LAYOUT] = {"layout", "order of the scales: row-major, or the tiles that tensor cores read",
                QG_PLAIN, 0, 0, qg_layout_words, false},
    {NULL},
};

static const char *const variants[] = {"scale=floor", "scale=ceil", "scale=even",
                                       "version=snapshot", NULL};

static const char *refuse(const struct qg_args *a)
{
    return a->cols % BLOCK == 0 ? NULL
                                : "blocks of 32 do not divide K; upstream raises AssertionError in "
                                  "prepare and convert; pad K to a multiple of 32";
}

static size_t scale_rows(const struct qg_args *a)
{
    return qg_layout_rows(a->param[LAYOUT], a->rows);
}

static size_t scale_cols(const struct qg_args *a)
{
    return qg_layout_cols(a->param[LAYOUT], a->cols / BLOCK);
}

static const struct qg_extent ext_scale_rows = {"R (swizzled 32*ceil(R/128))", scale_rows},
                              ext_scale_cols = {"K/32 (swizzled 16*ceil(K/128))", scale_cols};

#define PLANES(dtype, cols, packing)                        \
    {                                                       \
        {"codes", dtype, 0, {&qg_ext_rows, cols}, packing}, \
            {"scales",                                      \
             QG_E8M0,                                       \
             0,                                             \
             {&ext_scale_rows, &ext_scale_cols},            \
             "2^(b-127); row-major or tiles of 128 x 4"},   \
            {NULL},                                         \
    }
static const struct qg_plane fp4_planes[] =
    PLANES(QG_U8, &qg_ext_nibble, "two codes per byte, even element low");
static const struct qg_plane fp6_planes[] =
    PLANES(QG_U8, &qg_ext_cols, "one code per byte, in its low six bits");
static const struct qg_plane e4m3_planes[] = PLANES(QG_E4M3, &qg_ext_cols, "one code per byte");
static const struct qg_plane e5m2_planes[] = PLANES(QG_E5M2, &qg_ext_cols, "one code per byte");

/* `number`: how many codes convert can write. */
#define OPERAND(plane, bits, number)                                                          \
    {                                                                                         \
        .fake_quant = fake_quant, .fake_quant_grad = qg_straight_through, .convert = convert, \
        .dequant = dequant, .group = block, .planes = plane, .code_bits = bits, .code = code, \
        .codes = number                                                                       \
    }

#define ROW(scheme, element, plane, bits, number)                                                 \
    {                                                                                             \
        .name = scheme,                                                                           \
        .summary = "OCP Microscaling " element ", a power of two per 32, both operands",          \
        .upstream = "ao:torchao/prototype/mx_formats/mx_tensor.py to_mx", .nonfinite = nonfinite, \
        .params = params, .variants = variants, .dtypes = 1u << QG_F32 | 1u << QG_BF16,           \
        .operand = {[QG_WEIGHT] = OPERAND(plane, bits, number),                                   \
                    [QG_ACTIVATION] = OPERAND(plane, bits, number)},                              \
        .matmul = matmul, .refuse = refuse, .adapts = true                                        \
    }

static const char nonfinite[] =
    "NaN in a block: scale byte 255, values NaN; fp8 codes of NaN elements are NaN, fp4 and fp6 "
    "codes of NaN the largest positive (torchao's are arbitrary). inf: 0.18 saturates it in a "
    "block scaled for 2^128 (rceil: byte 254), snapshot has byte 255. All-zero block: byte 0, "
    "codes 0 with their signs.";

// e4m3: all but the two NaN. e5m2: neither NaN nor inf, for x is clamped before.
const struct qg_scheme qg_schemes_mx[] = {
    ROW("mxfp4", "fp4 e2m1", fp4_planes, 4, 16),
    ROW("mxfp6-e2m3", "fp6 e2m3", fp6_planes, 6, 64),
    ROW("mxfp6-e3m2", "fp6 e3m2", fp6_planes, 6, 64),
    ROW("mxfp8-e4m3", "fp8 e4m3", e4m3_planes, 8, 254),
    ROW("mxfp8-e5m2", "fp8 e5m2", e5m2_planes, 8, 248),
    {NULL},
};
