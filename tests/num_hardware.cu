/* SPDX-License-Identifier: MIT
 *
 * NVIDIA's conversions of elements, judged against schemes/num over their whole domains: the
 * instructions of the device (cvt.*, and __nv_cvt_* where it is one), what the toolkit's headers
 * compute where there is no instruction, and what they compute on the host.
 *
 *     num_hardware host|device [STRIDE]     binary32 inputs 0, STRIDE, 2 STRIDE ...; 1 takes all
 *                                           2^32; exit code 77: there is no device, or no nvcc
 *
 * A line for each conversion: whether it agrees, else the first input that disagrees and how many
 * do, by class. Both sides NaN with other bits is no disagreement, but is said. Left out: tf32,
 * which schemes/num does not have.
 */
#include <stdio.h>

#ifndef __CUDACC__
int main(void)
{
    puts("built without nvcc: NVIDIA's conversions are not judged");
    return 77;
}
#else
#pragma GCC diagnostic ignored "-Wunused-parameter" // of the toolkit's headers
#include <cuda_bf16.h>
#include <cuda_fp16.h>
#include <cuda_fp4.h>
#include <cuda_fp6.h>
#include <cuda_fp8.h>

#include "kernels/cuda/device.cuh"

/* --- the conversions ------------------------------------------------------------------------- */

/* Of what an input is: a binary32 number, a code of 16 or 8 bits or of fewer. */
#define F32 ((uint64_t)1 << 32)

/* Name, what it is judged against, inputs, the target's largest number and smallest normal one. */
#define CONVERSIONS(ROW)                                                                         \
    ROW(F32_BF16, "f32 -> bf16", "qg_bf16_encode", F32, 0x1.fep127, 0x1p-126)                    \
    ROW(F32_F16, "f32 -> f16", "qg_fp16_encode", F32, 65504, 0x1p-14)                            \
    ROW(F32_E4M3, "f32 -> e4m3 satfinite", "qg_e4m3_encode", F32, 448, 0x1p-6)                   \
    ROW(F32_E4M3_NAN, "f32 -> e4m3", "qg_e4m3_encode_nan", F32, 448, 0x1p-6)                     \
    ROW(F32_E5M2, "f32 -> e5m2 satfinite", "qg_e5m2_encode, limited", F32, 57344, 0x1p-14)       \
    ROW(F32_E5M2_INF, "f32 -> e5m2", "qg_e5m2_encode", F32, 57344, 0x1p-14)                      \
    ROW(F32_E2M1, "f32 -> e2m1 satfinite", "qg_e2m1_encode", F32, 6, 1)                          \
    ROW(F32_E2M3, "f32 -> e2m3 satfinite", "qg_e2m3_encode", F32, 7.5, 1)                        \
    ROW(F32_E3M2, "f32 -> e3m2 satfinite", "qg_e3m2_encode", F32, 28, 0.25)                      \
    ROW(F32_E8M0_DOWN, "f32 -> ue8m0 rz", "qg_e8m0_encode", F32, 0x1p127, 0x1p-127)              \
    ROW(F32_E8M0_UP, "f32 -> ue8m0 rp", "qg_e8m0_above of |x|", F32, 0x1p127, 0x1p-127)          \
    ROW(F32_E8M0_DOWN_SAT, "f32 -> ue8m0 rz satfinite", "qg_e8m0_encode, limited", F32, 0x1p127, \
        0x1p-127)                                                                                \
    ROW(F32_E8M0_UP_SAT, "f32 -> ue8m0 rp satfinite", "qg_e8m0_above of |x|, limited", F32,      \
        0x1p127, 0x1p-127)                                                                       \
    ROW(F32_S8, "f32 -> s8 rni sat", "qg_rint, limited, NaN 0", F32, 127, 1)                     \
    ROW(F16_E4M3, "f16 -> e4m3 satfinite", "qg_e4m3_encode", 0x10000, 448, 0x1p-6)               \
    ROW(F16_E5M2, "f16 -> e5m2 satfinite", "qg_e5m2_encode, limited", 0x10000, 57344, 0x1p-14)   \
    ROW(BF16_F32, "bf16 -> f32", "qg_bf16_decode", 0x10000, INFINITY, 0x1p-126)                  \
    ROW(F16_F32, "f16 -> f32", "qg_fp16_decode", 0x10000, INFINITY, 0x1p-126)                    \
    ROW(E4M3_F16, "e4m3 -> f16", "qg_e4m3_decode", 0x100, INFINITY, 0x1p-14)                     \
    ROW(E5M2_F16, "e5m2 -> f16", "qg_e5m2_decode", 0x100, INFINITY, 0x1p-14)                     \
    ROW(E2M1_F16, "e2m1 -> f16", "qg_e2m1_decode", 0x10, INFINITY, 0x1p-14)                      \
    ROW(E2M3_F16, "e2m3 -> f16", "qg_e2m3_decode", 0x40, INFINITY, 0x1p-14)                      \
    ROW(E3M2_F16, "e3m2 -> f16", "qg_e3m2_decode", 0x40, INFINITY, 0x1p-14)                      \
    ROW(E8M0_BF16, "ue8m0 -> bf16", "qg_e8m0_decode", 0x100, INFINITY, 0x1p-126)

enum conversion {
#define NAME(name, ...) name,
    CONVERSIONS(NAME)
#undef NAME
};

struct conversion_def {
    const char *name, *against;
    uint64_t inputs;
    double largest, normal;
};

static const struct conversion_def defs[] = {
#define DEF(name, ...) {__VA_ARGS__},
    CONVERSIONS(DEF)
#undef DEF
};
enum { COUNT = sizeof defs / sizeof defs[0] };

QG_FN uint32_t f16_value(uint32_t bits)
{
    const qg_fp16 h = {(uint16_t)bits};
    return qg_f32_bits(qg_fp16_decode(h));
}

QG_FN uint32_t f16_raw_value(__half_raw h)
{
    return f16_value(h.x);
}

QG_FN uint32_t s8_of(float x)
{
    int r = 0;
#ifdef __CUDA_ARCH__
    asm("cvt.rni.sat.s8.f32 %0, %1;" : "=r"(r) : "f"(x));
#else
    (void)x;
#endif
    return (uint32_t)r & 255u;
}

/* What NVIDIA makes of input u: a code, or the bits of a binary32 number. */
QG_FN uint32_t theirs(enum conversion c, uint32_t u)
{
    const float x = qg_f32_from_bits(u);
    const __nv_fp8_storage_t code = (__nv_fp8_storage_t)u;
    const cudaRoundMode near = cudaRoundNearest, up = cudaRoundPosInf, down = cudaRoundZero;
    __nv_bfloat16_raw bf16 = {};
    __half_raw half = {};
    bf16.x = half.x = (unsigned short)u;
    switch (c) {
    case F32_BF16:
        return __nv_bfloat16_raw(__float2bfloat16_rn(x)).x;
    case F32_F16:
        return __half_raw(__float2half_rn(x)).x;
    case F32_E4M3:
        return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E4M3);
    case F32_E4M3_NAN:
        return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E4M3);
    case F32_E5M2:
        return __nv_cvt_float_to_fp8(x, __NV_SATFINITE, __NV_E5M2);
    case F32_E5M2_INF:
        return __nv_cvt_float_to_fp8(x, __NV_NOSAT, __NV_E5M2);
    case F32_E2M1:
        return __nv_cvt_float_to_fp4(x, __NV_E2M1, near);
    case F32_E2M3:
        return __nv_cvt_float_to_fp6(x, __NV_E2M3, near);
    case F32_E3M2:
        return __nv_cvt_float_to_fp6(x, __NV_E3M2, near);
    case F32_E8M0_DOWN:
        return __nv_cvt_float_to_e8m0(x, __NV_NOSAT, down);
    case F32_E8M0_UP:
        return __nv_cvt_float_to_e8m0(x, __NV_NOSAT, up);
    case F32_E8M0_DOWN_SAT:
        return __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, down);
    case F32_E8M0_UP_SAT:
        return __nv_cvt_float_to_e8m0(x, __NV_SATFINITE, up);
    case F32_S8:
        return s8_of(x);
    case F16_E4M3:
        return __nv_cvt_halfraw_to_fp8(half, __NV_SATFINITE, __NV_E4M3);
    case F16_E5M2:
        return __nv_cvt_halfraw_to_fp8(half, __NV_SATFINITE, __NV_E5M2);
    case BF16_F32:
        return qg_f32_bits(__bfloat162float(__nv_bfloat16(bf16)));
    case F16_F32:
        return qg_f32_bits(__half2float(__half(half)));
    case E4M3_F16:
        return f16_raw_value(__nv_cvt_fp8_to_halfraw(code, __NV_E4M3));
    case E5M2_F16:
        return f16_raw_value(__nv_cvt_fp8_to_halfraw(code, __NV_E5M2));
    case E2M1_F16:
        return f16_raw_value(__nv_cvt_fp4_to_halfraw(code, __NV_E2M1));
    case E2M3_F16:
        return f16_raw_value(__nv_cvt_fp6_to_halfraw(code, __NV_E2M3));
    case E3M2_F16:
        return f16_raw_value(__nv_cvt_fp6_to_halfraw(code, __NV_E3M2));
    case E8M0_BF16:
        return (uint32_t)__nv_cvt_e8m0_to_bf16raw(code).x << 16;
    }
    return 0;
}

/* A code of e5m2 without inf, of e8m0 whose 255 is NaN alone. */
QG_FN uint32_t finite_e5m2(float x)
{
    const uint32_t code = qg_e5m2_encode(x).v;
    return (code & 127u) == 0x7cu ? code - 1 : code;
}

QG_FN uint32_t finite_e8m0(float x, uint32_t code)
{
    return code == 255 && x == x ? 254 : code;
}

/* What schemes/num makes of it. */
QG_FN uint32_t ours(enum conversion c, uint32_t u)
{
    const float x = qg_f32_from_bits(u);
    const qg_bf16 bf16 = {(uint16_t)u};
    const qg_fp16 half = {(uint16_t)u};
    const qg_e4m3 e4m3 = {(uint8_t)u};
    const qg_e5m2 e5m2 = {(uint8_t)u};
    const qg_e8m0 e8m0 = {(uint8_t)u};
    switch (c) {
    case F32_BF16:
        return qg_bf16_encode(x).v;
    case F32_F16:
        return qg_fp16_encode(x).v;
    case F32_E4M3:
        return qg_e4m3_encode(x).v;
    case F32_E4M3_NAN:
        return qg_e4m3_encode_nan(x).v;
    case F32_E5M2:
        return finite_e5m2(x);
    case F32_E5M2_INF:
        return qg_e5m2_encode(x).v;
    case F32_E2M1:
        return qg_e2m1_encode(x);
    case F32_E2M3:
        return qg_e2m3_encode(x);
    case F32_E3M2:
        return qg_e3m2_encode(x);
    case F32_E8M0_DOWN:
        return qg_e8m0_encode(x).v;
    case F32_E8M0_UP:
        return qg_e8m0_above(qg_abs(x)).v;
    case F32_E8M0_DOWN_SAT:
        return finite_e8m0(x, qg_e8m0_encode(x).v);
    case F32_E8M0_UP_SAT:
        return finite_e8m0(x, qg_e8m0_above(qg_abs(x)).v);
    case F32_S8:
        return x == x ? (uint32_t)(int)qg_clamp(qg_rint(x), -128, 127) & 255u : 0;
    case F16_E4M3:
        return qg_e4m3_encode(qg_fp16_decode(half)).v;
    case F16_E5M2:
        return finite_e5m2(qg_fp16_decode(half));
    case BF16_F32:
        return qg_f32_bits(qg_bf16_decode(bf16));
    case F16_F32:
        return qg_f32_bits(qg_fp16_decode(half));
    case E4M3_F16:
        return qg_f32_bits(qg_e4m3_decode(e4m3));
    case E5M2_F16:
        return qg_f32_bits(qg_e5m2_decode(e5m2));
    case E2M1_F16:
        return qg_f32_bits(qg_e2m1_decode(u));
    case E2M3_F16:
        return qg_f32_bits(qg_e2m3_decode(u));
    case E3M2_F16:
        return qg_f32_bits(qg_e3m2_decode(u));
    case E8M0_BF16:
        return qg_f32_bits(qg_e8m0_decode(e8m0));
    }
    return 0;
}

/* The number that a result stands for. */
QG_FN float result_value(enum conversion c, uint32_t r)
{
    const qg_bf16 bf16 = {(uint16_t)r};
    const qg_fp16 half = {(uint16_t)r};
    const qg_e4m3 e4m3 = {(uint8_t)r};
    const qg_e5m2 e5m2 = {(uint8_t)r};
    const qg_e8m0 e8m0 = {(uint8_t)r};
    if (c == F32_BF16)
        return qg_bf16_decode(bf16);
    if (c == F32_F16)
        return qg_fp16_decode(half);
    if (c == F32_E4M3 || c == F32_E4M3_NAN || c == F16_E4M3)
        return qg_e4m3_decode(e4m3);
    if (c == F32_E5M2 || c == F32_E5M2_INF || c == F16_E5M2)
        return qg_e5m2_decode(e5m2);
    if (c == F32_E2M1)
        return qg_e2m1_decode(r);
    if (c == F32_E2M3)
        return qg_e2m3_decode(r);
    if (c == F32_E3M2)
        return qg_e3m2_decode(r);
    if (c >= F32_E8M0_DOWN && c <= F32_E8M0_UP_SAT)
        return qg_e8m0_decode(e8m0);
    return c == F32_S8 ? (float)(int8_t)r : qg_f32_from_bits(r);
}

/* The number that is converted: of a code, what it stands for here. */
QG_FN float input_value(enum conversion c, uint32_t u)
{
    if (c <= F32_S8)
        return qg_f32_from_bits(u);
    return qg_f32_from_bits(c <= F16_E5M2 ? f16_value(u) : ours(c, u));
}

/* --- the judgement --------------------------------------------------------------------------- */

enum kind { AGREE, PAYLOAD, NOT_A_NUMBER, INFINITE, OVERFLOWS, TIE, SUBNORMAL, ELSE, KINDS };
static const char *const kinds[] = {
    "",     "NaN with other bits",           "NaN",  "inf", "beyond the largest",
    "ties", "below the smallest normal one", "other"};

/* The least of (input, their result) of each kind, and how many there are. */
struct tally {
    unsigned long long first[KINDS], count[KINDS];
};

QG_FN enum kind kind_of(enum conversion c, double largest, double normal, uint32_t u, uint32_t a,
                        uint32_t b)
{
    const double x = input_value(c, u), r = result_value(c, a), s = result_value(c, b);
    if (a == b)
        return AGREE;
    if (r != r && s != s)
        return PAYLOAD;
    if (x != x)
        return NOT_A_NUMBER;
    if (x - x != 0)
        return INFINITE;
    if (fabs(x) > largest)
        return OVERFLOWS;
    if (r != s && fabs(x - r) == fabs(x - s))
        return TIE;
    return fabs(x) < normal ? SUBNORMAL : ELSE;
}

QG_FN void note(struct tally *t, enum kind k, unsigned long long first)
{
#ifdef __CUDA_ARCH__
    atomicMin(&t->first[k], first);
    atomicAdd(&t->count[k], 1ull);
#else
    t->first[k] = t->first[k] < first ? t->first[k] : first;
    t->count[k]++;
#endif
}

/* Judges every step-th of the n inputs from number i on, which are stride apart. */
QG_FN void judge(enum conversion c, double largest, double normal, uint64_t i, uint64_t step,
                 uint64_t n, uint64_t stride, struct tally *t)
{
    for (; i < n; i += step) {
        const uint32_t u = (uint32_t)(i * stride), r = theirs(c, u);
        const enum kind k = kind_of(c, largest, normal, u, ours(c, u), r);
        if (k != AGREE)
            note(t, k, (unsigned long long)u << 32 | r);
    }
}

static __global__ void judge_all(enum conversion c, double largest, double normal, uint64_t n,
                                 uint64_t stride, struct tally *t)
{
    judge(c, largest, normal, qg_thread(), (uint64_t)gridDim.x * blockDim.x, n, stride, t);
}

/* What computes a conversion. */
enum maker { HOST, SOFTWARE, INSTRUCTION };
static const char *const makers[] = {"host", "software", "instruction"};

QG_FN enum maker maker_of(enum conversion c)
{
#ifdef __CUDA_ARCH__
    const bool ocp = __CUDA_FP8_INTERNAL_CAN_RELY_ON_PTX_FOR_SHORTTYPESCVT__;
    switch (c) {
    case F32_E4M3_NAN:
    case F32_E5M2_INF:
        return SOFTWARE;
    case BF16_F32:
        return __CUDA_ARCH__ >= 900 ? INSTRUCTION : SOFTWARE;
    case F32_E4M3:
    case F32_E5M2:
    case F16_E4M3:
    case F16_E5M2:
    case E4M3_F16:
    case E5M2_F16:
        return __CUDA_ARCH__ >= 890 ? INSTRUCTION : SOFTWARE;
    case F32_BF16:
    case F32_F16:
    case F32_S8:
    case F16_F32:
        return INSTRUCTION;
    default:
        return ocp ? INSTRUCTION : SOFTWARE;
    }
#else
    (void)c;
    return HOST;
#endif
}

static __global__ void ask_makers(enum maker *ret)
{
    const size_t c = qg_thread();
    if (c < COUNT)
        ret[c] = maker_of((enum conversion)c);
}

/* --- the program ----------------------------------------------------------------------------- */

/* Exits where the device reports an error. */
static void want(cudaError_t e)
{
    if (e == cudaSuccess)
        return;
    fprintf(stderr, "num_hardware: %s\n", cudaGetErrorString(e));
    exit(99);
}

/* The host's memory, which the device reaches too. */
static void *shared(size_t bytes)
{
    void *p;
    want(cudaMallocHost(&p, bytes));
    return p;
}

static void judge_on_device(enum conversion c, uint64_t n, uint64_t stride, struct tally *t)
{
    qg_launch(judge_all, n < 1 << 20 ? (size_t)n : (size_t)1 << 20, c, defs[c].largest,
              defs[c].normal, n, stride, t);
    want(cudaGetLastError());
    want(cudaStreamSynchronize(qg_cuda_stream()));
}

static void print_kinds(const struct tally *t, const char *between)
{
    for (int k = NOT_A_NUMBER; k < KINDS; k++)
        if (t->count[k]) {
            printf("%s%llu %s", between, t->count[k], kinds[k]);
            between = ", ";
        }
}

/* One line; true when nothing disagrees. */
static bool report(enum conversion c, enum maker m, uint64_t n, const struct tally *t)
{
    unsigned long long first = ~0ull;
    for (int k = NOT_A_NUMBER; k < KINDS; k++)
        first = t->first[k] < first ? t->first[k] : first;
    printf("%-26s %-29s %-11s %10llu  ", defs[c].name, defs[c].against, makers[m],
           (unsigned long long)n);
    if (first == ~0ull) {
        printf("agrees");
    } else {
        const uint32_t u = (uint32_t)(first >> 32);
        printf("DISAGREES, first at 0x%x: 0x%x, here 0x%x;", (unsigned)u, (unsigned)first,
               (unsigned)ours(c, u));
        print_kinds(t, " ");
    }
    if (t->count[PAYLOAD])
        printf("; %llu %s, first 0x%x: 0x%x, here 0x%x", t->count[PAYLOAD], kinds[PAYLOAD],
               (unsigned)(t->first[PAYLOAD] >> 32), (unsigned)t->first[PAYLOAD],
               (unsigned)ours(c, (uint32_t)(t->first[PAYLOAD] >> 32)));
    putchar('\n');
    fflush(stdout);
    return first == ~0ull;
}

int main(int argc, char **argv)
{
    const bool device = argc > 1 && strcmp(argv[1], "device") == 0;
    const uint64_t stride = argc > 2 ? strtoull(argv[2], NULL, 10) : 1021;
    struct tally here, *t = &here;
    enum maker on_host[COUNT] = {}, *maker = on_host;
    bool good = true;
    char text[256] = "the host, by the toolkit's headers";
    if (argc < 2 || (!device && strcmp(argv[1], "host") != 0) || stride == 0)
        return 99;
    if (device && !qg_cuda_probe(text, sizeof text)) {
        puts(text);
        return 77;
    }
    printf("%s\n", text);
    if (device) {
        t = (struct tally *)shared(sizeof *t);
        maker = (enum maker *)shared(sizeof on_host);
        qg_launch(ask_makers, COUNT, maker);
        want(cudaStreamSynchronize(qg_cuda_stream()));
    }
    for (int c = 0; c < COUNT; c++) {
        const uint64_t step = defs[c].inputs == F32 ? stride : 1;
        const uint64_t n = (defs[c].inputs + step - 1) / step;
        memset(t->first, 255, sizeof t->first);
        memset(t->count, 0, sizeof t->count);
        if (c == F32_S8 && !device) {
            printf("%-26s SKIP: an instruction that the toolkit does not have on the host\n",
                   defs[c].name);
            continue;
        }
        if (device)
            judge_on_device((enum conversion)c, n, step, t);
        else
            judge((enum conversion)c, defs[c].largest, defs[c].normal, 0, 1, n, step, t);
        good &= report((enum conversion)c, maker[c], n, t);
    }
    return good ? 0 : 1;
}
#endif
