/* SPDX-License-Identifier: MIT
 *
 * The assembler's report of CUDA kernels, and how many warps of them fit on a multiprocessor.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/resources.h"
#include "tests/suite.h"

#define REQUIRE(call) ck_assert_msg((call) == QG_OK, "%s", err.message)

static struct qg_error err;

/* What ptxas of CUDA 13.0 said of two kernels for sm_90a, one of which keeps arrays and spills, and
 * of one that calls a function. */
static const char report[] =
    "ptxas info    : 0 bytes gmem\n"
    "ptxas info    : Compiling entry function 'void qg_spill<(anonymous namespace)::prepare>"
    "((anonymous namespace)::prepare, float*, int)' for 'sm_90a'\n"
    "ptxas info    : Function properties for void qg_spill<(anonymous namespace)::prepare>"
    "((anonymous namespace)::prepare, float*, int)\n"
    "    488 bytes stack frame, 652 bytes spill stores, 748 bytes spill loads\n"
    "ptxas info    : Used 32 registers, used 1 barriers, 488 bytes cumulative stack size\n"
    "ptxas info    : Compiling entry function 'void qg_each_piece<qg_spreading<(anonymous "
    "namespace)::product, true> >(qg_spreading<(anonymous namespace)::product, true>, unsigned "
    "long)' for 'sm_90a'\n"
    "ptxas info    : Function properties for void qg_each_piece<qg_spreading<(anonymous "
    "namespace)::product, true> >(qg_spreading<(anonymous namespace)::product, true>, unsigned "
    "long)\n"
    "    0 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 80 registers, used 2 barriers, 1200 bytes smem, 588 bytes cmem[0]\n"
    "ptxas info    : Compiling entry function 'qg_measure_tensor(qg_tensor, unsigned int*)' for "
    "'sm_80'\n"
    "ptxas info    : Function properties for qg_helper(float)\n"
    "    16 bytes stack frame, 4 bytes spill stores, 4 bytes spill loads\n"
    "ptxas info    : Function properties for qg_measure_tensor(qg_tensor, unsigned int*)\n"
    "    8 bytes stack frame, 0 bytes spill stores, 0 bytes spill loads\n"
    "ptxas info    : Used 29 registers, 424 bytes cmem[0]\n";

START_TEST(test_report)
{
    struct qg_resources list = {NULL, 0};
    REQUIRE(qg_resources_add(&list, "int4", report, &err));
    ck_assert_uint_eq(list.n, 3);
    const struct qg_resource *r = list.at;
    ck_assert_str_eq(r[0].file, "int4");
    ck_assert_str_eq(r[0].kernel, "spill<prepare>");
    ck_assert_str_eq(r[0].target, "sm_90a");
    ck_assert_uint_eq(r[0].registers, 32);
    ck_assert_uint_eq(r[0].stack, 488);
    ck_assert_uint_eq(r[0].spill_stores, 652);
    ck_assert_uint_eq(r[0].spill_loads, 748);
    ck_assert_uint_eq(r[0].shared, 0);
    ck_assert_uint_eq(r[0].barriers, 1);
    ck_assert_str_eq(r[1].kernel, "each_piece<spreading<product, true>>");
    ck_assert_uint_eq(r[1].shared, 1200);
    ck_assert_uint_eq(r[1].barriers, 2);
    ck_assert_uint_eq(r[1].stack, 0);
    ck_assert_str_eq(r[2].kernel, "measure_tensor");
    ck_assert_str_eq(r[2].target, "sm_80");
    ck_assert_uint_eq(r[2].stack, 8); // not that of the function it calls
    ck_assert_uint_eq(r[2].spill_loads, 0);
    ck_assert_uint_eq(r[2].registers, 29);
    ck_assert_uint_eq(r[2].barriers, 0);
    free(list.at);
}
END_TEST

/* A report without one of its lines says so, wherever the kernel stands, and adds nothing. */
START_TEST(test_torn_report)
{
    struct qg_resources list = {NULL, 0};
    static const char *const needed[] = {"488 bytes stack",     "Used 32",     "Used 80",
                                         "properties for qg_m", "    8 bytes", "Used 29"};
    for (size_t i = 0; i < sizeof needed / sizeof needed[0]; i++) {
        char text[sizeof report];
        size_t at = (size_t)(strstr(report, needed[i]) - report);
        while (at && report[at - 1] != '\n')
            at--;
        memcpy(text, report, at);
        strcpy(text + at, strchr(report + at, '\n') + 1);
        ck_assert_int_eq(qg_resources_add(&list, "int4", text, &err), QG_EFORMAT);
        ck_assert_msg(strstr(err.message, "int4 is torn at kernel"), "%s", err.message);
        ck_assert_uint_eq(list.n, 0);
    }
    free(list.at);
}
END_TEST

/* Every beginning of the report, and every byte of it another one: no crash, no half a row. */
START_TEST(test_hostile_report)
{
    char text[sizeof report];
    for (size_t n = 0; n < sizeof report; n++)
        for (int c = 0; c < 4; c++) {
            struct qg_resources list = {NULL, 0};
            memcpy(text, report, sizeof text);
            text[n] = "\0\n'9"[c];
            text[sizeof text - 1] = '\0';
            if (qg_resources_add(&list, "int4", text, &err) != QG_OK)
                ck_assert_uint_eq(list.n, 0);
            for (size_t i = 0; i < list.n; i++)
                ck_assert(memchr(list.at[i].kernel, 0, sizeof list.at[i].kernel));
            free(list.at);
        }
}
END_TEST

static struct qg_resource kernel(const char *target, unsigned registers, unsigned shared,
                                 unsigned barriers, unsigned block)
{
    struct qg_resource r = {
        .registers = registers, .shared = shared, .barriers = barriers, .block = block};
    snprintf(r.target, sizeof r.target, "%s", target);
    qg_resource_occupancy(&r);
    return r;
}

/* What cudaOccMaxActiveBlocksPerMultiprocessor of the toolkit's <cuda_occupancy.h> answers. */
START_TEST(test_occupancy)
{
    static const struct {
        const char *target;
        unsigned registers, shared, barriers, block, warps, most;
        const char *limit;
    } known[] = {
        {"sm_90a", 32, 0, 0, 256, 64, 64, "warps"},
        {"sm_90a", 33, 0, 0, 256, 48, 64, "registers"},
        {"sm_90a", 41, 0, 0, 256, 40, 64, "registers"},
        {"sm_90a", 80, 64, 1, 256, 24, 64, "registers"},
        {"sm_90a", 255, 0, 0, 256, 8, 64, "registers"},
        {"sm_90a", 255, 0, 0, 512, 0, 64, "registers"},
        {"sm_80", 16, 0, 0, 32, 32, 64, "blocks"},
        {"sm_80", 32, 48 * 1024, 1, 256, 24, 64, "shared"},
        {"sm_100a", 32, 48 * 1024, 1, 256, 32, 64, "shared"},
        {"sm_90a", 32, 0, 16, 256, 32, 64, "barriers"},
        {"sm_86", 40, 0, 0, 256, 48, 48, "warps"},
        {"sm_120", 16, 0, 0, 32, 24, 48, "blocks"},
        {"sm_42", 16, 0, 0, 32, 0, 0, ""},
        {"sm_9", 16, 0, 0, 32, 0, 0, ""},
        {"gfx90a", 16, 0, 0, 32, 0, 0, ""},
    };
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++) {
        struct qg_resource r = kernel(known[i].target, known[i].registers, known[i].shared,
                                      known[i].barriers, known[i].block);
        ck_assert_msg(r.warps == known[i].warps && r.most_warps == known[i].most &&
                          strcmp(r.limit, known[i].limit) == 0,
                      "%zu: %u of %u by %s", i, r.warps, r.most_warps, r.limit);
    }
}
END_TEST

/* What this program was built with can be read, and is there when nvcc was; no two kernels have one
 * name. */
START_TEST(test_built)
{
    struct qg_resources list = {NULL, 0};
    const char *why;
    REQUIRE(qg_resources_built(&list, &why, &err));
    ck_assert((list.n == 0) == (why != NULL));
    for (size_t i = 0; i < list.n; i++) {
        const struct qg_resource *r = &list.at[i];
        ck_assert_msg(r->warps > 0 && r->warps <= r->most_warps, "%s for %s", r->kernel, r->target);
        for (size_t k = 0; k < i; k++) // compare tells kernels apart by these
            ck_assert_msg(strcmp(r->file, list.at[k].file) != 0 ||
                              strcmp(r->kernel, list.at[k].kernel) != 0 ||
                              strcmp(r->target, list.at[k].target) != 0,
                          "two kernels of %s are called %s", r->file, r->kernel);
    }
    free(list.at);
}
END_TEST

QG_SUITE(resources, test_report, test_torn_report, test_hostile_report, test_occupancy, test_built)
