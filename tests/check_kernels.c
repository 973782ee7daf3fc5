/* SPDX-License-Identifier: MIT
 *
 * Every kernel in the table against the definition of its scheme: all dtypes, every choice of every
 * parameter, several groups, odd tails, and values that break kernels. Outputs must be equal to the
 * bit, or within the proved bound where the kernel claims no more; nothing else may be written.
 */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/call.h"
#include "harness/compare.h"
#include "kernels/c/rows.h"
#include "kernels/kernel.h"
#include "schemes/num/codebook.h"
#include "tests/suite.h"

/* --- the vectorised element functions -------------------------------------------------------- */

#define MISMATCH(what, i, want, got)                                                    \
    ck_abort_msg("%s of 0x%08x: 0x%08x expected, 0x%08x computed", what, (unsigned)(i), \
                 (unsigned)(want), (unsigned)(got))

/* Over every upper half and the lower halves around which roundings turn. */
START_TEST(test_elements)
{
    static const uint32_t lower[] = {0,      1,      0xfff,  0x1000, 0x1001, 0x2fff, 0x3000,
                                     0x7fff, 0x8000, 0x8001, 0xbfff, 0xf000, 0xffff};
    enum { N = 1 << 16 };
    static float x[N], rounded[3][N];
    static uint16_t bf16[N], f16[N];
    static uint8_t e4m3[N];
    for (size_t l = 0; l < sizeof lower / sizeof lower[0]; l++) {
        for (uint32_t i = 0; i < N; i++)
            x[i] = qg_f32_from_bits(i << 16 | lower[l]);
        for (size_t i = 0; i < N; i++) {
            bf16[i] = qg_bf16_of(x[i]);
            rounded[0][i] = qg_bf16_round(x[i]);
        }
        for (size_t i = 0; i < N; i++) {
            f16[i] = qg_f16_of(x[i]);
            rounded[1][i] = qg_f16_round(x[i]);
        }
        for (size_t i = 0; i < N; i++) {
            e4m3[i] = qg_e4m3_of(x[i]);
            rounded[2][i] = qg_e4m3_round(x[i]);
        }
        for (size_t i = 0; i < N; i++) {
            const enum qg_dtype types[] = {QG_BF16, QG_F16, QG_E4M3};
            uint32_t u = qg_f32_bits(x[i]);
            if (bf16[i] != qg_bf16_encode(x[i]).v)
                MISMATCH("bf16", u, qg_bf16_encode(x[i]).v, bf16[i]);
            if (f16[i] != qg_fp16_encode(x[i]).v)
                MISMATCH("f16", u, qg_fp16_encode(x[i]).v, f16[i]);
            if (e4m3[i] != qg_e4m3_encode(x[i]).v)
                MISMATCH("e4m3", u, qg_e4m3_encode(x[i]).v, e4m3[i]);
            for (int t = 0; t < 3; t++)
                if (qg_f32_bits(qg_round(types[t], x[i])) != qg_f32_bits(rounded[t][i]))
                    MISMATCH(qg_dtype_name(types[t]), u, qg_f32_bits(qg_round(types[t], x[i])),
                             qg_f32_bits(rounded[t][i]));
        }
    }
}
END_TEST

START_TEST(test_codes)
{
    enum { N = 1 << 16 };
    static uint16_t codes[N];
    static float got[N];
    for (size_t i = 0; i < N; i++)
        codes[i] = (uint16_t)i;
    for (int d = 0; d < 2; d++) {
        struct qg_tensor t = {"t", d ? QG_F16 : QG_BF16, 1, {N}, codes};
        qg_load(&t, 0, N, got);
        for (size_t i = 0; i < N; i++)
            if (qg_f32_bits(got[i]) != qg_f32_bits(qg_get(&t, i)))
                MISMATCH(qg_dtype_name(t.dtype), i, qg_f32_bits(qg_get(&t, i)),
                         qg_f32_bits(got[i]));
    }
    for (unsigned i = 0; i < 256; i++) {
        float want = qg_e4m3_decode((qg_e4m3){(uint8_t)i}), value = qg_e4m3_value((uint8_t)i);
        if (qg_f32_bits(want) != qg_f32_bits(value))
            MISMATCH("e4m3 code", i, qg_f32_bits(want), qg_f32_bits(value));
    }
}
END_TEST

/* --- kernels --------------------------------------------------------------------------------- */

enum fill {
    NORMAL,
    SMALL, /* subnormal in binary16 */
    TINY,  /* around the least normal number, and below */
    HUGE_, /* near the largest number */
    TIES,
    CONSTANT,
    ZEROS, /* of both signs */
    POSITIVE,
    NEGATIVE,
    ONE_NAN,
    ONE_INF,
    BITS,    /* any pattern at all */
    LEAST,   /* a few times the least number, and zeros */
    MIDDLES, /* between neighbours of the lists of 4-bit floats, and next to that */
    FILLS
};

/* Of a list whose largest magnitude, 1, stands among every eight numbers; bf16's and binary16's
 * places of a list are rounded before they are compared. */
static float middle(enum qg_dtype t, uint64_t bits, size_t i)
{
    unsigned k = bits >> 8 & 15, list = bits >> 12 & 3;
    float a, b, step = qg_smallest_normal(t);
    if (i % 8 == 3)
        return bits & 1 ? 1.0f : -1.0f;
    if (list == 0) { // whose codes are not in their numbers' order
        float sign = k & 8 ? -1.0f : 1.0f, twelfths[] = {0, 0.0625f, 2, 3, 4, 6, 8, 12};
        a = sign * twelfths[k % 7] / 12, b = sign * twelfths[k % 7 + 1] / 12;
    } else {
        k %= 15;
        a = list == 1 ? qg_nf4(k) : qg_round(t, qg_nf4_short(k));
        b = list == 1 ? qg_nf4(k + 1) : qg_round(t, qg_nf4_short(k + 1));
    }
    float m = qg_round(t, (a + b) / 2);
    step = fmaxf(step, ldexpf(1.0f, ilogbf(m) - qg_mantissa_bits(t)));
    return m + step * (float)((int)(bits % 3) - 1);
}

static float value(enum fill fill, enum qg_dtype t, uint64_t seed, size_t i)
{
    float normal = (float)qg_rng_normal(seed, 1, i);
    uint64_t bits = qg_rng_bits(seed, 2, i);
    switch (fill) {
    case SMALL:
        return normal * 0x1p-18f;
    case TINY:
        return normal * qg_smallest_normal(t) * (bits & 1 ? 1.0f : 0x1p-8f);
    case HUGE_:
        return normal * (t == QG_F16 ? 0x1p13f : 0x1p125f);
    case TIES:
        return (float)((int)(bits % 31) - 15) * 0.5f;
    case CONSTANT:
        return 1.25f;
    case ZEROS:
        return bits & 1 ? 0.0f : -0.0f;
    case POSITIVE:
        return 3.0f + fabsf(normal);
    case NEGATIVE:
        return -fabsf(normal);
    case ONE_NAN: // in the first piece of a group, or the last
        return i == (seed % 2 ? 5 : 29) ? NAN : normal;
    case ONE_INF:
        return i == (seed % 2 ? 6 : 30) ? -INFINITY : normal;
    case LEAST:
        return normal * qg_smallest_normal(t) * ldexpf(2.0f, -qg_mantissa_bits(t));
    case MIDDLES:
        return middle(t, bits, i);
    case BITS:
        return qg_f32_from_bits((uint32_t)bits);
    default:
        return normal;
    }
}

/* Fills any tensor; the bits of integers and of what takes one byte are random. */
static void fill_tensor(const struct qg_tensor *t, enum fill fill, uint64_t seed)
{
    for (size_t i = 0; i < qg_count(t); i++) {
        if (qg_dtype_bytes(t->dtype) == 1)
            ((uint8_t *)t->data)[i] = (uint8_t)qg_rng_bits(seed, 3, i);
        else if (t->dtype == QG_I16)
            ((uint16_t *)t->data)[i] = (uint16_t)qg_rng_bits(seed, 3, i);
        else if (t->dtype == QG_I32)
            ((uint32_t *)t->data)[i] = (uint32_t)qg_rng_bits(seed, 3, i);
        else
            qg_put(t, i, value(fill, t->dtype, seed, i));
    }
}

/* Planes as the definition's convert makes them of filled weights. */
static void convert_planes(const struct qg_args *a, const struct qg_tensor *planes, enum fill fill,
                           uint64_t seed)
{
    struct qg_error err;
    struct qg_args c = *a;
    struct qg_call call;
    char why[256];
    ck_assert_msg(qg_args_init(&c, a->scheme, QG_CONVERT, a->operand, a->dtype, 0, a->rows, a->cols,
                               why, sizeof why),
                  "%s", why);
    ck_assert_msg(qg_call_alloc(&call, &c, false, &err) == QG_OK, "%s", err.message);
    fill_tensor(&call.args.in[0], fill, seed);
    qg_definition(a->scheme, a->operand, QG_CONVERT)(&call.args);
    for (int i = 0; i < call.args.n_out; i++)
        memcpy(planes[i].data, call.args.out[i].data, qg_bytes(&planes[i]));
    qg_call_free(&call);
}

/* Whether the slack before the buffer's first byte is still zero; the page behind it is guarded. */
static bool untouched(const struct qg_buffer *b)
{
    const char *p = (const char *)b->map + sysconf(_SC_PAGESIZE);
    for (; p < (const char *)b->data; p++)
        if (*p)
            return false;
    return true;
}

/* What weights are filled with where x takes `fill`: tiny numbers meet huge ones, whose products
 * are of usual size again. */
static enum fill of_weights(const struct qg_kernel *k, enum fill fill)
{
    return qg_is_product(k->op) && (fill == TINY || fill == LEAST) ? HUGE_ : fill;
}

/* Outputs are equal, or within the bound; nothing else was written. */
static void compare(const struct qg_kernel *k, const struct qg_call *want,
                    const struct qg_call *got, enum fill fill, bool raw, const char *name)
{
    const struct qg_args *args = &want->args;
    char params[128];
    qg_params_format(args, params, sizeof params);
    size_t at = 0;
    for (int i = 0; i < args->n_out; at += qg_count(&args->out[i]), i++) {
        struct qg_diff d = qg_no_diff;
        bool bounded = k->claim == QG_WITHIN_BOUND;
        qg_compare(&want->args.out[i], &got->args.out[i], bounded ? want->args.exact + at : NULL,
                   bounded ? want->args.bound + at : NULL, &d);
        if (d.wrong)
            ck_abort_msg(
                "%s %s %zu x %zu, m %zu [%s] fill %d%s, %s[%lld]: %a expected, %a computed; "
                "%llu of %llu wrong; exact %a bound %a",
                name, qg_dtype_name(args->dtype), args->rows, args->cols, args->m, params,
                (int)fill, raw ? " raw" : "", args->out[i].name, (long long)d.first_wrong,
                (double)qg_get(&want->args.out[i], (size_t)d.first_wrong),
                (double)qg_get(&got->args.out[i], (size_t)d.first_wrong),
                (unsigned long long)d.wrong, (unsigned long long)d.count,
                bounded ? want->args.exact[at + (size_t)d.first_wrong] : 0.0,
                bounded ? want->args.bound[at + (size_t)d.first_wrong] : 0.0);
        ck_assert_msg(untouched(&got->out[i]), "%s wrote before %s", name, args->out[i].name);
    }
    for (int i = 0; i < args->n_in; i++)
        ck_assert_msg(memcmp(got->args.in[i].data, want->args.in[i].data, want->in[i].bytes) == 0 &&
                          untouched(&got->in[i]),
                      "%s wrote to its input", name);
    ck_assert_msg(untouched(&got->work), "%s wrote before its scratch", name);
}

/* What is skipped and why, once for a row of calls. */
static void say_skip(const char *name, const char *why)
{
    static char said[384];
    char line[sizeof said];
    snprintf(line, sizeof line, "%s: %s", name, why);
    if (strcmp(line, said) != 0)
        printf("# SKIP %s\n", line);
    memcpy(said, line, sizeof said);
}

/* Where QG_MAY_REFUSE is set, as on a device, a library's refusal is no failure; the stand-in's,
 * which has a kernel for everything, is. */
static void judge(const struct qg_kernel *k, const struct qg_args *args, enum fill fill,
                  uint64_t seed, bool raw, const char *name)
{
    struct qg_call want, got;
    struct qg_error err;
    ck_assert_msg(qg_call_alloc(&want, args, true, &err) == QG_OK, "%s", err.message);
    ck_assert_msg(qg_call_alloc(&got, args, false, &err) == QG_OK, "%s", err.message);
    for (int i = 0; i < args->n_in; i++)
        fill_tensor(&want.args.in[i], fill, seed + (uint64_t)i);
    if (!raw && (k->op == QG_DEQUANT || qg_is_product(k->op)))
        convert_planes(args, want.args.in + qg_is_product(k->op), of_weights(k, fill), seed);
    for (int i = 0; i < args->n_in; i++)
        memcpy(got.args.in[i].data, want.args.in[i].data, want.in[i].bytes);
    for (int i = 0; i < args->n_out; i++)
        memset(got.args.out[i].data, 0xa5, got.out[i].bytes);
    memset(got.args.work, 0xff, got.work.bytes);
    qg_kernel_claims(k, &want.args);
    qg_definition(args->scheme, args->operand, args->op)(&want.args);
    struct qg_failure failure = {0};
    got.args.failure = &failure;
    k->fn(&got.args);
    const bool refused = failure.cause == QG_CAUSE_ABSENT && getenv("QG_MAY_REFUSE");
    ck_assert_msg(refused || !failure.text[0], "%s %s %zu x %zu, m %zu, fill %d: %s", name,
                  qg_dtype_name(args->dtype), args->rows, args->cols, args->m, (int)fill,
                  failure.text);
    if (refused)
        say_skip(name, failure.text);
    else
        compare(k, &want, &got, fill, raw, name);
    qg_call_free(&want);
    qg_call_free(&got);
}

/* Sets the parameters of combination c: choices count as a mixed radix number, numbers take turns.
 */
static void set_params(struct qg_args *a, const struct qg_scheme *s, unsigned c, unsigned turn)
{
    static const double groups[] = {128, 32, 64, 33, 256, 47};
    unsigned numbers = turn / 2 + c; // turns of one combination are all even or all odd
    qg_params_default(a, s);
    for (int i = 0; s->params[i].name; i++) {
        const struct qg_param *p = &s->params[i];
        if (p->choices) {
            unsigned n = 0;
            while (p->choices[n])
                n++;
            a->param[i] = c % n;
            c /= n;
        } else if (strcmp(p->name, "group") == 0) {
            a->param[i] = turn ? groups[numbers % 6] : p->def;
            if (turn % 7 == 5 && p->min == 0)
                a->param[i] = 0;
        } else if (p->integer) {
            a->param[i] = turn ? p->min + fmod(turn, p->max - p->min + 1) : p->def;
        } else {
            double some[] = {p->def, p->min, 1e-3, p->max, p->def, 3e-7};
            a->param[i] = some[numbers % 6];
        }
    }
}

static unsigned combinations(const struct qg_scheme *s)
{
    unsigned product = 1;
    for (const struct qg_param *p = s->params; p->name; p++) {
        unsigned n = 0;
        while (p->choices && p->choices[n])
            n++;
        product *= p->choices ? n : 1;
    }
    return product;
}

struct shape {
    size_t m, rows, groups, extra, rank;
};

/* Sets up the call with the first shape that the scheme takes: odd and ragged K, else an even
 * number of whole groups, last whole tiles and blocks of any scheme. */
static bool find_shape(struct qg_args *a, const struct qg_kernel *k, const struct qg_scheme *s,
                       enum qg_dtype t, const struct shape *shape, char *why, size_t why_size)
{
    a->cols = 96; // where the group is the row
    size_t g = s->operand[k->operand].group(a), cols = g * shape->groups;
    if (cols > 4000)
        cols = 4000 / g * g;
    const size_t tries[][2] = {{shape->rows, cols + shape->extra},
                               {shape->rows, cols + shape->extra + 1},
                               {shape->rows, cols},
                               {shape->rows, cols + g},
                               {16, 1024},
                               {32, 256},
                               {128, 256},
                               {32, 32 * g}};
    a->rank = shape->rank;
    for (size_t i = 0; i < sizeof tries / sizeof tries[0]; i++)
        if (qg_args_init(a, s, k->op, k->operand, t, shape->m, tries[i][0], tries[i][1], why,
                         why_size))
            return true;
    return false;
}

/* Whether a kernel whose backend is here runs (a NULL), or takes this call; if not, says so. */
static bool runs(const struct qg_kernel *k, const struct qg_args *a, const char *name)
{
    char why[256];
    if (qg_kernel_runs(k, a, why, sizeof why))
        return true;
    say_skip(name, why);
    return false;
}

/* All fills of one set of parameters and dtype, shapes and turns going round with them. */
static size_t check_fills(const struct qg_kernel *k, const struct qg_scheme *s, enum qg_dtype t,
                          unsigned combination, const char *name)
{
    static const struct shape shapes[] = {{1, 1, 1, 0, 1},    {2, 3, 2, 0, 8},  {5, 17, 3, 0, 5},
                                          {16, 2, 3, 21, 40}, {33, 3, 1, 1, 3}, {1, 2, 70, 2, 16}};
    struct qg_args a = {.scheme = s, .operand = k->operand};
    char why[256];
    size_t cases = 0;
    for (unsigned f = 0; f < FILLS; f++) {
        if (combination && (f + combination + t) % 2)
            continue; // every fill meets every combination in one dtype at least
        unsigned turn = f + combination + t, last = turn + 14;
        const struct shape *shape = &shapes[(f + 5 * combination + turn / 6) % 6];
        set_params(&a, s, combination, turn);
        // Numbers that the operation refuses (1 bit in QAT) give way to the next turn's.
        while (!find_shape(&a, k, s, t, shape, why, sizeof why)) {
            ck_assert_msg(turn < last, "%s: %s", name, why);
            set_params(&a, s, combination, ++turn);
        }
        if (!runs(k, &a, name))
            break;
        for (int raw = 0; raw < (k->op == QG_DEQUANT ? 2 : 1); raw++) {
            judge(k, &a, (enum fill)f, 1000 * combination + 10 * f + t, raw, name);
            cases++;
        }
    }
    return cases;
}

/* Whether the backend of kernel i is here and, where QG_BACKEND, QG_SCHEME or QG_VARIANT names one,
 * all are those. QG_PART=1/2: every second kernel, beginning with the first. */
static bool is_asked(size_t i)
{
    const struct qg_kernel *k = qg_kernel_at(i);
    const char *backend = getenv("QG_BACKEND"), *scheme = getenv("QG_SCHEME"),
               *variant = getenv("QG_VARIANT");
    const char *part = getenv("QG_PART");
    unsigned first = 1, step = 1;
    char why[256];
    ck_assert(!part || (sscanf(part, "%u/%u", &first, &step) == 2 && first && first <= step));
    return i % step == first - 1 && (!backend || strcmp(backend, k->backend) == 0) &&
           (!scheme || strcmp(scheme, k->scheme) == 0) &&
           (!variant || strcmp(variant, k->variant) == 0) &&
           qg_backend_find(k->backend)->probe(why, sizeof why);
}

START_TEST(test_kernels)
{
    const struct qg_kernel *k;
    size_t cases = 0, rows = 0, skipped = 0;
    for (size_t i = 0; (k = qg_kernel_at(i)); i++) {
        const struct qg_scheme *s = qg_scheme_find(k->scheme);
        unsigned dtypes = s && s->dtypes ? s->dtypes : ~0u;
        char name[96];
        qg_kernel_name(k, name, sizeof name);
        ck_assert_msg(s && qg_definition(s, k->operand, k->op), "%s: no such definition", name);
        ck_assert_msg(qg_backend_find(k->backend) != NULL, "%s: no such backend", name);
        if (!is_asked(i))
            continue;
        if (!runs(k, NULL, name)) {
            skipped++;
            continue;
        }
        rows++;
        ck_assert_msg(k->claim == QG_BIT_EXACT || qg_is_product(k->op) ||
                          k->op == QG_FAKE_QUANT_GRAD,
                      "%s claims less than bits", name);
        // What parameters make of the weight is seen in matmul.
        for (unsigned c = 0; c < (k->op == QG_LORA ? 1 : combinations(s)); c++)
            for (enum qg_dtype t = QG_F32; t <= QG_F16; t++)
                cases += dtypes >> t & 1 ? check_fills(k, s, t, c, name) : 0;
    }
    ck_assert_uint_gt(rows + skipped, 0);
    ck_assert(cases > 10 * rows || rows == 0);
}
END_TEST

QG_SUITE(kernels, test_elements, test_codes, test_kernels)
