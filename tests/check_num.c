/* SPDX-License-Identifier: MIT
 *
 * Element numerics against slow, obvious judges: every code decoded by the formula in the format's
 * definition, every encoder against a search for the nearest code. QG_SLOW=1 takes all 2^32 inputs.
 */
#include <math.h>
#include <stdbool.h>

#include "schemes/num/int4.h"
#include "schemes/num/tensor.h"
#include "tests/num_domain.h"
#include "tests/suite.h"

/* A binary floating-point format as its specification gives it. */
struct format {
    const char *name;
    int ebits, mbits, bias;
    uint32_t max;      /* code of the largest finite magnitude */
    uint32_t overflow; /* what magnitudes beyond the last tie become */
    uint32_t (*encode)(float);
    float (*decode)(uint32_t);
};

static uint32_t bf16_encode(float x)
{
    return qg_bf16_encode(x).v;
}
static uint32_t fp16_encode(float x)
{
    return qg_fp16_encode(x).v;
}
static uint32_t e4m3_encode(float x)
{
    return qg_e4m3_encode(x).v;
}
static uint32_t e4m3_encode_nan(float x)
{
    return qg_e4m3_encode_nan(x).v;
}
static uint32_t e5m2_encode(float x)
{
    return qg_e5m2_encode(x).v;
}
static uint32_t e2m1_encode(float x)
{
    return qg_e2m1_encode(x);
}
static uint32_t e2m3_encode(float x)
{
    return qg_e2m3_encode(x);
}
static uint32_t e3m2_encode(float x)
{
    return qg_e3m2_encode(x);
}
static float bf16_decode(uint32_t c)
{
    return qg_bf16_decode((qg_bf16){(uint16_t)c});
}
static float fp16_decode(uint32_t c)
{
    return qg_fp16_decode((qg_fp16){(uint16_t)c});
}
static float e4m3_decode(uint32_t c)
{
    return qg_e4m3_decode((qg_e4m3){(uint8_t)c});
}
static float e5m2_decode(uint32_t c)
{
    return qg_e5m2_decode((qg_e5m2){(uint8_t)c});
}
static float e2m1_decode(uint32_t c)
{
    return qg_e2m1_decode(c);
}
static float e2m3_decode(uint32_t c)
{
    return qg_e2m3_decode(c);
}
static float e3m2_decode(uint32_t c)
{
    return qg_e3m2_decode(c);
}

static const struct format formats[] = {
    {"bf16", 8, 7, 127, 0x7f7f, 0x7f80, bf16_encode, bf16_decode},
    {"fp16", 5, 10, 15, 0x7bff, 0x7c00, fp16_encode, fp16_decode},
    {"e4m3", 4, 3, 7, 0x7e, 0x7e, e4m3_encode, e4m3_decode},
    {"e4m3 to NaN", 4, 3, 7, 0x7e, 0x7f, e4m3_encode_nan, e4m3_decode},
    {"e5m2", 5, 2, 15, 0x7b, 0x7c, e5m2_encode, e5m2_decode},
    {"e2m1", 2, 1, 1, 7, 7, e2m1_encode, e2m1_decode},
    {"e2m3", 2, 3, 1, 31, 31, e2m3_encode, e2m3_decode},
    {"e3m2", 3, 2, 3, 31, 31, e3m2_encode, e3m2_decode},
};
enum { N_FORMATS = sizeof formats / sizeof formats[0] };

static uint32_t sign_bit(const struct format *f)
{
    return 1u << (f->ebits + f->mbits);
}

/* The magnitude of a code, as the specification writes it; codes past max run on, which gives the
 * place of the tie above max. */
static double magnitude(const struct format *f, uint32_t code)
{
    int e = (int)(code >> f->mbits), m = (int)(code & ((1u << f->mbits) - 1));
    double scale = ldexp(1.0, (e ? e : 1) - f->bias);
    return scale * ((e ? 1.0 : 0.0) + ldexp((double)m, -f->mbits));
}

/* The largest code whose magnitude is not above x, at most max + 1, by bisection. */
static uint32_t code_below(const struct format *f, double x)
{
    uint32_t low = 0, high = f->max + 2;
    while (high - low > 1) {
        uint32_t middle = (low + high) / 2;
        *(magnitude(f, middle) <= x ? &low : &high) = middle;
    }
    return low;
}

/* Nearest code of a finite magnitude that lies at or above code `low`; ties to the even code. */
static uint32_t nearest(const struct format *f, double x, uint32_t low)
{
    if (low > f->max)
        return f->overflow;
    double down = x - magnitude(f, low), up = magnitude(f, low + 1) - x;
    uint32_t code = down < up || (down == up && low % 2 == 0) ? low : low + 1;
    return code > f->max ? f->overflow : code;
}

/* What a NaN may become: a NaN, or the largest number where the format has none. */
static bool stands_for_nan(const struct format *f, uint32_t code)
{
    float y = f->decode(code);
    bool has_nan = f->max + 1 < sign_bit(f);
    return has_nan ? y != y : code == f->max;
}

/* Judges one input; `low` is code_below of its magnitude, where that is finite. */
static void check_from(const struct format *f, uint32_t bits, uint32_t low)
{
    float x = qg_f32_from_bits(bits);
    uint32_t got = f->encode(x);
    if (x != x) {
        ck_assert_msg(stands_for_nan(f, got), "%s: NaN %08x became %x", f->name, bits, got);
        return;
    }
    uint32_t want = isinf(x) ? f->overflow : nearest(f, fabs((double)x), low);
    want |= signbit(x) ? sign_bit(f) : 0;
    if (got != want)
        ck_abort_msg("%s: %08x (%a) became %x, nearest is %x", f->name, bits, (double)x, got, want);
}

static void check_input(const struct format *f, uint32_t bits)
{
    check_from(f, bits, code_below(f, fabs((double)qg_f32_from_bits(bits))));
}

START_TEST(every_code_decodes)
{
    for (int i = 0; i < N_FORMATS; i++) {
        const struct format *f = &formats[i];
        uint32_t infinity = f->ebits == 4 ? 0 : f->max + 1;
        for (uint32_t code = 0; code < 2 * sign_bit(f); code++) {
            uint32_t m = code & (sign_bit(f) - 1);
            float y = f->decode(code);
            if (m > f->max && m != infinity) {
                ck_assert_msg(y != y, "%s: code %x is %a, not NaN", f->name, code, (double)y);
                continue;
            }
            double want = m > f->max ? (double)INFINITY : magnitude(f, m);
            ck_assert_msg(fabs((double)y) == want && !signbit(y) == !(code & sign_bit(f)),
                          "%s: code %x is %a", f->name, code, (double)y);
            uint32_t back = m > f->max ? f->overflow : m;
            ck_assert_msg(f->encode(y) == ((code & sign_bit(f)) | back),
                          "%s: code %x does not survive", f->name, code);
        }
    }
}
END_TEST

START_TEST(encodes_every_bf16)
{
    for (int i = 0; i < N_FORMATS; i++)
        for (uint32_t u = 0; u < 0x10000; u++)
            check_input(&formats[i], u << 16);
}
END_TEST

/* Every tie between neighbouring codes, and the floats on both sides of it. */
START_TEST(encodes_every_tie)
{
    for (int i = 0; i < N_FORMATS; i++) {
        const struct format *f = &formats[i];
        for (uint32_t code = 0; code <= f->max; code++) {
            double tie = (magnitude(f, code) + magnitude(f, code + 1)) / 2;
            if (tie > 0x1.fffffep127)
                continue;
            uint32_t bits = qg_f32_bits((float)tie);
            for (uint32_t side = bits ? bits - 1 : 0; side <= bits + 1; side++) {
                check_input(f, side);
                check_input(f, side | 0x80000000u);
            }
        }
    }
}
END_TEST

/* All magnitudes in order, so that the code below moves along instead of being searched. */
START_TEST(encodes_floats)
{
    // An odd stride walks through all low-order patterns; the slow suite takes every float.
    uint32_t stride = getenv("QG_SLOW") ? 1 : 1021;
    for (int i = 0; i < N_FORMATS; i++) {
        const struct format *f = &formats[i];
        uint32_t low = 0;
        for (uint32_t u = 0; u < 0x80000000u; u += stride) {
            double x = fabs((double)qg_f32_from_bits(u));
            while (low <= f->max && magnitude(f, low + 1) <= x)
                low++;
            check_from(f, u, low);
            check_from(f, u | 0x80000000u, low);
        }
    }
}
END_TEST

START_TEST(powers_of_two)
{
    for (int b = 0; b < 255; b++) {
        float x = qg_e8m0_decode((qg_e8m0){(uint8_t)b});
        ck_assert_msg((double)x == ldexp(1.0, b - 127), "e8m0 byte %d is %a", b, (double)x);
        ck_assert_uint_eq(qg_e8m0_encode(x).v, (unsigned)b);
    }
    ck_assert(isnan(qg_e8m0_decode((qg_e8m0){255})));
    ck_assert_uint_eq(qg_e8m0_encode(NAN).v, 255);
    ck_assert_uint_eq(qg_e8m0_encode(INFINITY).v, 255);
}
END_TEST

START_TEST(fused_rounds_once)
{
    // q*s + z where the product sits on a bf16 tie and z is far below it: two roundings would lose
    // z.
    float up = qg_fma_odd(257.0f, 1.0f, 0x1p-60f), down = qg_fma_odd(257.0f, 1.0f, -0x1p-60f);
    ck_assert(qg_round(QG_BF16, up) == 258.0f && qg_round(QG_BF16, down) == 256.0f);
    ck_assert(qg_round(QG_BF16, qg_fma_odd(257.0f, 1.0f, 0.0f)) == 256.0f);
    ck_assert(qg_fma_odd(0x1p-100f, 0x1p-100f, 0.0f) == 0x1p-149f);
    ck_assert(qg_fma_odd(-0x1p-100f, 0x1p-100f, 0.0f) == -0x1p-149f);
    ck_assert(isinf(qg_fma_odd(INFINITY, 1.0f, 1.0f)) && isnan(qg_fma_odd(NAN, 1.0f, 1.0f)));
    // Against exact integers: a*b + c with everything below 2^50 is exact in binary64.
    for (uint32_t i = 0; i < 200000; i++) {
        uint32_t h = i * 2654435761u;
        float a = (float)(h % 31) - 15, b = (float)(h >> 8 & 0xff) * 0x1p-7f;
        float c = (float)((int)(h >> 16 & 0xff) - 128) * ((h & 1) ? 0x1p-20f : 0x1p-3f);
        double exact = (double)a * b + c;
        uint32_t want = (signbit(exact) ? 0x8000u : 0) |
                        nearest(&formats[0], fabs(exact), code_below(&formats[0], fabs(exact)));
        uint32_t got = qg_bf16_encode(qg_fma_odd(a, b, c)).v;
        ck_assert_msg(got == want || exact == 0, "%a * %a + %a is %x, not %x", (double)a, (double)b,
                      (double)c, got, want);
    }
}
END_TEST

START_TEST(sums_in_torchs_order)
{
    static float x[QG_SUMMANDS];
    for (uint32_t i = 0; i < QG_SUMMANDS; i++)
        x[i] = qg_summand(i);
    for (size_t i = 0; i < QG_TORCH_SUMS; i++)
        ck_assert_msg(qg_f32_bits(qg_torch_sum(x, qg_torch_sums[i].n)) == qg_torch_sums[i].bits,
                      "%u numbers", qg_torch_sums[i].n);
}
END_TEST

START_TEST(integers_round_half_to_even)
{
    const float ties[][2] = {{0.5f, 0},
                             {1.5f, 2},
                             {2.5f, 2},
                             {-0.5f, 0},
                             {-1.5f, -2},
                             {7.5f, 8},
                             {8388607.5f, 8388608},
                             {0x1p30f, 0x1p30f}};
    for (size_t i = 0; i < sizeof ties / sizeof ties[0]; i++)
        ck_assert(qg_rint(ties[i][0]) == ties[i][1]);
    ck_assert(signbit(qg_rint(-0.25f)));
    ck_assert(isnan(qg_clamp(NAN, 0, 1)) && isnan(qg_max(NAN, 1)) && isnan(qg_min(1, NAN)));
    ck_assert(qg_clamp(2, 0, 1) == 1 && qg_clamp(-2, 0, 1) == 0 && qg_clamp(0.5f, 0, 1) == 0.5f);
}
END_TEST

START_TEST(int4_packs)
{
    uint8_t bytes[128] = {0};
    for (int low = -8; low < 8; low++)
        for (int high = -8; high < 8; high++) {
            qg_int4_put(bytes, 6, low);
            qg_int4_put(bytes, 7, high);
            ck_assert_uint_eq(bytes[3], (unsigned)((low & 15) | (high & 15) << 4));
            ck_assert_int_eq(qg_int4_get(bytes, 6), low);
            ck_assert_int_eq(qg_int4_get(bytes, 7), high);
        }
    ck_assert_uint_eq(bytes[2] | bytes[4], 0);
}
END_TEST

QG_SUITE(num, every_code_decodes, encodes_every_bf16, encodes_every_tie, encodes_floats,
         powers_of_two, fused_rounds_once, sums_in_torchs_order, integers_round_half_to_even,
         int4_packs)
