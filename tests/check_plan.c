/* SPDX-License-Identifier: MIT
 *
 * Suites: what they expand to, and what is said of mistakes in them.
 */
#define _DEFAULT_SOURCE /* mkstemps */
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "harness/plan.h"
#include "harness/io/safetensors.h"
#include "tests/suite.h"

static struct qg_plan plan;
static struct qg_error err;

static enum qg_status load_text(const char *text, const struct qg_plan_options *o)
{
    char path[] = "plan-XXXXXX.yaml";
    int fd = mkstemps(path, 5);
    ck_assert_int_ge(fd, 0);
    ck_assert_int_eq(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
    err.message[0] = '\0';
    enum qg_status status = qg_plan_load(path, o, &plan, &err);
    unlink(path);
    return status;
}

static const struct qg_plan_options plain;

/* --- mistakes -------------------------------------------------------------------------------- */

START_TEST(test_mistakes)
{
    static const char *const bad[][2] = {
        {"", "the file is empty"},
        {"# nothing\n", "there is nothing in it"},
        {"about: x\n", "cases"},
        {"about: x\ncasez:\n  - shapes: [2x128]\n",
         "line 2: there is no key 'casez' here; there are: about"},
        {"about: x\ncases:\n  - schemes: [int4]\n\n    shapez: [2x128]\n",
         "line 5: there is no key 'shapez' here; there are: schemes"},
        {"about: x\ncases:\n  - schemes:\n    - int4\n    - int5\n    shapes: [2x128]\n",
         "line 5: schemes: there is no 'int5' (did you mean 'int4'?); there are: fp8-int4"},
        {"about: x\ncases:\n  - ops: [convert, covert]\n    shapes: [2x128]\n",
         "line 3: ops: there is no 'covert' (did you mean 'convert'?); there are: fake-quant"},
        {"about: x\ncases:\n  - operands: [bias]\n    shapes: [2x128]\n",
         "line 3: operands: there is no 'bias'; there are: weight"},
        {"about: x\ncases:\n  - backends: [fpga]\n    shapes: [2x128]\n",
         "line 3: backends: there is no 'fpga'; there are: c, blas"},
        {"about: x\ncases:\n  - fills: [gauss]\n    shapes: [2x128]\n",
         "line 3: fills: there is no 'gauss'; there are: normal"},
        {"about: x\ncases:\n  - dtypes: [int8]\n    shapes: [2x128]\n",
         "line 3: dtypes: there is no 'int8'; there are: bf16, f32, f16"},
        {"about: x\ncold: maybe\ncases:\n  - shapes: [2x128]\n",
         "line 2: cold: there is no 'maybe'; there are: yes"},
        {"about: x\ntime: soon\ncases:\n  - shapes: [2x128]\n",
         "line 2: Invalid FLOAT value: soon"},
        {"about: x\ntime: -1\ncases:\n  - shapes: [2x128]\n", "time is from 0 to 3600"},
        {"about: x\ncases:\n  - schemes: [int4]\n", "entry 1: it has no shapes"},
        {"about: x\ncases:\n  - shapes: [2x128]\n  - shapes: [2y128]\n",
         "entry 2: '2y128' is not a shape"},
        {"about: x\ncases:\n  - shapes: [2x128]\n    params: [group]\n",
         "'group' is not NAME=VALUE"},
        {"about: x\ncases:\n  - schemes: [int4]\n    shapes: [2x128]\n    params: [group=7]\n",
         "from 32 to 256, not '7'"},
        {"about: x\ncases:\n  - shapes: [2x128]\n    params: [grupo=7]\n", "no case to run"},
        {"about: x\ncases:\n  - ops: [matmul]\n    shapes: [2x128]\n", "no case to run"},
        {"about: x\ncases: [\n", "line 2"},
        {"about: x\ncases: 3\n", "line 2"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_msg(load_text(bad[i][0], &plain) == QG_EINVAL, "accepted: %s", bad[i][0]);
        ck_assert_msg(strstr(err.message, bad[i][1]), "%s\n%s", bad[i][0], err.message);
    }
}
END_TEST

START_TEST(test_absent)
{
    ck_assert(qg_plan_load("smok", &plain, &plan, &err) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "there are smoke, ci, nightly and gpu"), "%s", err.message);
    ck_assert(qg_plan_load("./absent.yaml", &plain, &plan, &err) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "No such file"), "%s", err.message);
}
END_TEST

/* --- products -------------------------------------------------------------------------------- */

static void expect(const char *text, const struct qg_plan_options *o, size_t n,
                   const char *const *spellings)
{
    ck_assert_msg(load_text(text, o) == QG_OK, "%s", err.message);
    ck_assert_uint_eq(plan.n, n);
    for (size_t i = 0; i < n; i++)
        ck_assert_str_eq(plan.cases[i].spelling, spellings[i]);
    qg_plan_free(&plan);
}

#define INT4 \
    "about: x\ncases:\n  - schemes: [int4]\n    ops: [convert, matmul]\n    backends: [c]\n"

START_TEST(test_product)
{
    static const char *const want[] = {
        "int4.convert.c 2x128 bf16 fill=normal seed=7",
        "int4.convert.c 2x128 bf16 fill=ties seed=7",
        "int4.convert.c 2x128 bf16 fill=normal seed=7 group=32",
        "int4.convert.c 2x128 bf16 fill=ties seed=7 group=32",
    };
    expect(INT4 "    shapes: [2x128]\n    fills: [normal, ties]\n    params: [\"\", group=32]\n",
           &plain, 4, want);
}
END_TEST

START_TEST(test_repeats_run_once)
{
    static const char *const want[] = {"int4.convert.c 2x128 bf16 fill=normal seed=7"};
    ck_assert(load_text(INT4 "    shapes: [2x128, 2x128]\n    timed: no\n"
                             "  - shapes: [2x128]\n    schemes: [int4]\n    ops: [convert]\n"
                             "    params: [\"\", group=128]\n",
                        &plain) == QG_OK);
    ck_assert_uint_eq(plan.n, 1);
    ck_assert_str_eq(plan.cases[0].spelling, want[0]);
    ck_assert(plan.cases[0].timed); // the second time it was asked to be
    qg_plan_free(&plan);
}
END_TEST

START_TEST(test_seed)
{
    const uint64_t seed = 9;
    const struct qg_plan_options o = {.seed = &seed};
    static const char *const nine[] = {"int4.convert.c 2x128 bf16 fill=normal seed=9"};
    static const char *const five[] = {"int4.convert.c 2x128 bf16 fill=normal seed=5"};
    expect("seed: 5\n" INT4 "    shapes: [2x128]\n", &o, 1, nine);
    expect("seed: 5\n" INT4 "    shapes: [2x128]\n", &plain, 1, five);
}
END_TEST

START_TEST(test_match)
{
    struct qg_plan_options o = {.match = "^int8\\.convert\\.c.*fill=(ties|huge)"};
    const char *text = "about: x\ncases:\n  - shapes: [2x128]\n    fills: [normal, ties]\n";
    ck_assert(load_text(text, &o) == QG_OK);
    ck_assert_uint_eq(plan.n, 1);
    ck_assert_uint_gt(plan.not_matched, 10);
    qg_plan_free(&plan);
    o.match = "nothing like it";
    ck_assert(load_text(text, &o) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "matches none of the"), "%s", err.message);
    o.match = "(";
    ck_assert(load_text(text, &o) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "is not a regular expression"), "%s", err.message);
}
END_TEST

/* What has no kernel is counted: the baseline computes matmuls only. */
START_TEST(test_missing)
{
    ck_assert(load_text("about: x\ncases:\n  - schemes: [int8]\n    operands: [weight]\n"
                        "    backends: [blas]\n    shapes: [2x128, 2x2x128]\n",
                        &plain) == QG_OK);
    ck_assert_uint_eq(plan.no_kernel, 4); // fake-quant, its gradient, convert, dequant
    ck_assert_msg(strstr(plan.no_kernel_names, "int8.convert of weight"), "%s",
                  plan.no_kernel_names);
    ck_assert_uint_eq(plan.n, 1);
    qg_plan_free(&plan);
    ck_assert(load_text("about: x\ncases:\n  - shapes: [2x128]\n    schemes: [int8, int4]\n"
                        "    ops: [convert]\n    params: [group=32]\n",
                        &plain) == QG_OK);
    ck_assert_uint_eq(plan.no_param, 2); // int8 of weight and of embedding
    ck_assert_uint_eq(plan.n, 1);
    qg_plan_free(&plan);
}
END_TEST

START_TEST(test_shipped_suites)
{
    static const char *const suites[] = {"smoke", "ci", "nightly"};
    for (size_t s = 0; s < 3; s++) {
        ck_assert_msg(qg_plan_load(suites[s], &plain, &plan, &err) == QG_OK, "%s", err.message);
        // Every kernel there is must be in it.
        for (size_t k = 0; qg_kernel_at(k); k++) {
            bool there = false;
            for (size_t i = 0; i < plan.n; i++)
                there |= plan.cases[i].c.kernel == qg_kernel_at(k);
            ck_assert_msg(there, "%s: %s %s", suites[s], qg_kernel_at(k)->scheme,
                          qg_op_name(qg_kernel_at(k)->op));
        }
        qg_plan_free(&plan);
    }
}
END_TEST

/* --- tensors of a file ----------------------------------------------------------------------- */

START_TEST(test_weights)
{
    static float memory[4 * 128];
    static const char *const want[] = {
        "int4.convert.c 4x128 f32 weights=plan.safetensors tensor=up seed=7",
        "int4.convert.c 2x256 bf16 weights=plan.safetensors tensor=embed seed=7",
        "int4.matmul.c 3x4x128 f32 weights=plan.safetensors tensor=up seed=7",
        "int4.matmul.c 3x2x256 bf16 weights=plan.safetensors tensor=embed seed=7",
    };
    const struct qg_tensor tensors[] = {
        {"up", QG_F32, 2, {4, 128}, memory},
        {"embed", QG_BF16, 2, {2, 256}, memory},
        {"norm", QG_F32, 1, {128}, memory},
        {"codes", QG_U8, 2, {2, 64}, memory},
    };
    struct qg_model *f;
    ck_assert(qg_safetensors_write("plan.safetensors", tensors, 4, true, &err) == QG_OK);
    ck_assert(qg_model_open("plan.safetensors", &f, &err) == QG_OK);
    struct qg_plan_options o = {.weights = f, .weights_path = "plan.safetensors"};
    const char *text = INT4 "    shapes: [2x64, 3x2x64, 3x5x64]\n    fills: [normal, ties]\n";
    ck_assert_msg(load_text(text, &o) == QG_OK, "%s", err.message);
    ck_assert_uint_eq(plan.n, 4);
    ck_assert_uint_eq(plan.tensors, 4);
    ck_assert_uint_eq(plan.wrong_rank, 1);
    ck_assert_uint_eq(plan.wrong_dtype, 1);
    for (size_t w = 0; w < 4; w++) {
        bool there = false;
        for (size_t i = 0; i < plan.n; i++)
            there |= strcmp(plan.cases[i].spelling, want[w]) == 0;
        ck_assert_msg(there, "%s", want[w]);
    }
    qg_plan_free(&plan);
    o.tensors = "^emb";
    ck_assert(load_text(text, &o) == QG_OK);
    ck_assert_uint_eq(plan.n, 2);
    qg_plan_free(&plan);
    o.tensors = "norm";
    ck_assert(load_text(text, &o) == QG_EINVAL);
    ck_assert_msg(strstr(err.message, "no tensor of 'plan.safetensors' can be used"), "%s",
                  err.message);
    qg_model_close(&f);
    unlink("plan.safetensors");
}
END_TEST

QG_SUITE(plan, test_mistakes, test_absent, test_product, test_repeats_run_once, test_seed,
         test_match, test_missing, test_shipped_suites, test_weights)
