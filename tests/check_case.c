/* SPDX-License-Identifier: MIT
 *
 * Spellings of cases: parse and format are inverse for every kernel, and a bad one is told what is
 * wrong with it.
 */
#include <stdio.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/case.h"
#include "tests/suite.h"

static uint64_t draw(uint64_t i, uint64_t n)
{
    return (qg_rng_bits(20, 0, i) >> 8) % n;
}

/* A parameter value within its range, a different one for each i. */
static double draw_param(const struct qg_param *p, uint64_t i)
{
    int n = 0;
    while (p->choices && p->choices[n])
        n++;
    if (p->choices)
        return (double)draw(i, (uint64_t)n);
    double v = p->min + (p->max - p->min) * qg_rng_uniform(21, 0, i);
    return p->integer ? floor(v) : v;
}

static void draw_case(struct qg_case *c, const struct qg_kernel *k, uint64_t i)
{
    static const enum qg_dtype dtypes[] = {QG_F32, QG_BF16, QG_F16};
    static const char odd[] = "a b%c'd/e=f\tg\"h";
    *c = (struct qg_case){.scheme = qg_scheme_find(k->scheme), .kernel = k};
    c->dtype = dtypes[draw(i, 3)];
    c->m = qg_is_product(k->op) ? 1 + draw(i + 1, 100) : 0;
    c->rank = k->op == QG_LORA ? 1 + draw(i + 1, 64) : 0;
    c->rows = 1 + draw(i + 2, 1000000);
    c->cols = 1 + draw(i + 3, 5000);
    c->seed = qg_rng_bits(22, 0, i);
    if (i % 2) {
        c->fill = qg_fill_at(draw(i + 4, 9));
    } else {
        snprintf(c->file, sizeof c->file, "%.*s.safetensors", 1 + (int)draw(i, 14), odd);
        snprintf(c->tensor, sizeof c->tensor, "layer.%.*s", (int)draw(i + 9, 15), odd);
    }
    for (int p = 0; c->scheme->params[p].name; p++)
        c->param[p] = draw(i + 5 + (uint64_t)p, 2) ? c->scheme->params[p].def
                                                   : draw_param(&c->scheme->params[p], i + 99);
}

START_TEST(test_inverse)
{
    struct qg_error err;
    size_t kernels = 0;
    for (; qg_kernel_at(kernels); kernels++)
        for (uint64_t i = 0; i < 40; i++) {
            struct qg_case c, d;
            char text[QG_SPELLING_SIZE], again[QG_SPELLING_SIZE];
            draw_case(&c, qg_kernel_at(kernels), 100 * kernels + i);
            ck_assert_msg(qg_case_format(&c, text, sizeof text, &err) == QG_OK, "%s", err.message);
            ck_assert_msg(qg_case_parse(&d, text, &err) == QG_OK, "%s: %s", text, err.message);
            ck_assert_msg(memcmp(&c, &d, sizeof c) == 0, "%s", text);
            ck_assert(qg_case_format(&d, again, sizeof again, &err) == QG_OK);
            ck_assert_str_eq(text, again);
        }
    ck_assert_uint_gt(kernels, 0);
}
END_TEST

START_TEST(test_spelling)
{
    struct qg_case c;
    struct qg_error err;
    char text[QG_SPELLING_SIZE];
    const char *words = "int4.convert.c 256x4096 bf16 fill=normal seed=7 group=32";
    ck_assert_msg(qg_case_parse(&c, words, &err) == QG_OK, "%s", err.message);
    ck_assert_str_eq(c.scheme->name, "int4");
    ck_assert_uint_eq(c.rows, 256);
    ck_assert_uint_eq(c.cols, 4096);
    ck_assert_uint_eq(c.m, 0);
    ck_assert(c.dtype == QG_BF16 && c.seed == 7 && c.param[0] == 32);
    ck_assert(qg_case_format(&c, text, sizeof text, &err) == QG_OK);
    ck_assert_str_eq(text, words);
}
END_TEST

START_TEST(test_bad)
{
    static const char *const bad[][2] = {
        {"", "empty case"},
        {"int5.convert.c 2x128 bf16 fill=normal seed=7", "no scheme 'int5'"},
        {"int4.convert.fpga 2x128 bf16 fill=normal seed=7", "no kernel 'int4.convert.fpga'"},
        {"int4.convert.c", "not a shape"},
        {"int4.convert.c 128 bf16 fill=normal seed=7", "takes RxK"},
        {"int4.convert.c 2x2x128 bf16 fill=normal seed=7", "takes RxK"},
        {"int4.matmul.c 2x128 bf16 fill=normal seed=7", "takes MxNxK"},
        {"int4.convert.c 0x128 bf16 fill=normal seed=7", "not a shape"},
        {"int4.convert.c 2x99999999999999999999 bf16 fill=normal seed=7", "not a shape"},
        {"int4.convert.c 2x128x bf16 fill=normal seed=7", "not a shape"},
        {"int4.convert.c 2x128 int8 fill=normal seed=7", "it is f32, bf16 or f16"},
        {"int4.convert.c 2x128 bf16 fill=gauss seed=7", "there are: normal"},
        {"int4.convert.c 2x128 bf16 normal seed=7", "is not NAME=VALUE"},
        {"int4.convert.c 2x128 bf16 seed=7", "either fill=NAME or"},
        {"int4.convert.c 2x128 bf16 fill=normal weights=a tensor=b seed=7", "either fill=NAME or"},
        {"int4.convert.c 2x128 bf16 weights=a seed=7", "either fill=NAME or"},
        {"int4.convert.c 2x128 bf16 weights=a%zz tensor=b seed=7", "bad %"},
        {"int4.convert.c 2x128 bf16 fill=normal", "seed is missing"},
        {"int4.convert.c 2x128 bf16 fill=normal seed=-1", "a seed is a whole number"},
        {"int4.convert.c 2x128 bf16 fill=normal seed=7 grupo=32", "no parameter 'grupo'"},
        {"int4.convert.c 2x128 bf16 fill=normal seed=7 group=7", "from 32 to 256"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct qg_case c;
        struct qg_error err = {.message = ""};
        ck_assert_msg(qg_case_parse(&c, bad[i][0], &err) == QG_EINVAL, "accepted: %s", bad[i][0]);
        ck_assert_msg(strstr(err.message, bad[i][1]), "%s: %s", bad[i][0], err.message);
    }
}
END_TEST

START_TEST(test_too_long)
{
    struct qg_case c;
    struct qg_error err;
    char text[QG_SPELLING_SIZE];
    draw_case(&c, qg_kernel_at(0), 2);
    memset(c.file, ' ', 400); // three characters each
    c.file[400] = '\0';
    ck_assert(qg_case_format(&c, text, sizeof text, &err) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "use a shorter path"), "%s", err.message);
}
END_TEST

START_TEST(test_refusal_names_the_tensor)
{
    struct qg_case c;
    struct qg_args a;
    struct qg_error err;
    char why[256];
    ck_assert(qg_case_parse(&c, "int4.convert.c 2x100 bf16 weights=f tensor=layer.0 seed=7",
                            &err) == QG_OK);
    ck_assert(!qg_case_args(&c, &a, why, sizeof why));
    ck_assert_msg(strstr(why, "tensor 'layer.0'") && strstr(why, "K = 100") &&
                      strstr(why, "group = 128"),
                  "%s", why);
}
END_TEST

QG_SUITE(case, test_inverse, test_spelling, test_bad, test_too_long, test_refusal_names_the_tensor)
