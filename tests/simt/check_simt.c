/* SPDX-License-Identifier: MIT
 *
 * The stand-in for the CUDA runtime: kernels give right results in every order of their threads,
 * and mistakes planted in them are found, each with its kernel, its thread and its place.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "tests/simt/planted.h"
#include "tests/simt/simt.h"
#include "tests/suite.h"

enum { SEEDS = 4 };

static void *upload(const void *from, size_t n)
{
    void *p = simt_to_device(from, n);
    ck_assert_ptr_nonnull(p);
    return p;
}

/* n numbers that differ, in memory that is never freed: each test is a process. */
static unsigned *numbers(size_t n)
{
    unsigned *p = malloc(n * sizeof *p);
    ck_assert_ptr_nonnull(p);
    for (size_t i = 0; i < n; i++)
        p[i] = (unsigned)i * 2654435761u >> 20;
    return p;
}

static unsigned *download(const void *from, size_t n)
{
    unsigned *p = malloc(n * sizeof *p);
    ck_assert_ptr_nonnull(p);
    ck_assert_int_eq(simt_from_device(p, from, n * sizeof *p), 0);
    return p;
}

START_TEST(test_million_threads)
{
    enum { N = 1 << 20 };
    unsigned *host = numbers(N), *in = upload(host, N * 4), *out = upload(NULL, N * 4);
    ck_assert_int_eq(simt_add_one(in, out, N), 0);
    unsigned *got = download(out, N);
    for (size_t i = 0; i < N; i++)
        ck_assert_uint_eq(got[i], host[i] + 1);
}
END_TEST

/* Shuffles add in one order whatever the order of threads: the sum of floats has one value. */
START_TEST(test_block_sums)
{
    enum { BLOCKS = 5, N = BLOCKS * 1024 };
    static float host[N], first[BLOCKS], got[BLOCKS];
    for (size_t i = 0; i < N; i++)
        host[i] = 1.0f / (float)(i + 1);
    void *in = upload(host, sizeof host), *out = upload(NULL, sizeof got);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        simt_set_seed(seed);
        ck_assert_int_eq(simt_block_sums(in, out, BLOCKS), 0);
        ck_assert_int_eq(simt_from_device(got, out, sizeof got), 0);
        if (seed == 0)
            memcpy(first, got, sizeof got);
        ck_assert_mem_eq(first, got, sizeof got);
    }
    for (size_t b = 0; b < BLOCKS; b++) {
        double sum = 0;
        for (size_t i = 0; i < 1024; i++)
            sum += host[b * 1024 + i];
        ck_assert_double_eq_tol(got[b], sum, sum * 1024 * 0x1p-24);
    }
}
END_TEST

/* A kernel whose bits depend on the order gives other bits in another order. */
START_TEST(test_other_orders)
{
    static float host[2048], first, got;
    int same = 0;
    for (size_t i = 0; i < 2048; i++)
        host[i] = 1.0f / (float)(i + 1);
    void *in = upload(host, sizeof host);
    for (uint64_t seed = 0; seed < 2 * SEEDS; seed++) {
        const float zero = 0;
        void *sum = upload(&zero, sizeof zero);
        simt_set_seed(seed);
        ck_assert_int_eq(simt_sum_as_they_come(in, sum, 2), 0);
        ck_assert_int_eq(simt_from_device(&got, sum, sizeof got), 0);
        first = seed ? first : got;
        same += memcmp(&got, &first, sizeof got) == 0;
    }
    ck_assert_int_lt(same, SEEDS);
    ck_assert_ptr_null(simt_finding());
}
END_TEST

START_TEST(test_block_scan)
{
    enum { BLOCKS = 3, THREADS = 200, N = BLOCKS * THREADS };
    unsigned *host = numbers(N), *in = upload(host, N * 4), *out = upload(NULL, N * 4);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        simt_set_seed(seed);
        ck_assert_int_eq(simt_block_scan(in, out, BLOCKS, THREADS), 0);
        unsigned *got = download(out, N), sum = 0;
        for (size_t i = 0; i < N; i++) {
            sum = i % THREADS ? sum + host[i] : host[i];
            ck_assert_uint_eq(got[i], sum);
        }
    }
}
END_TEST

START_TEST(test_histogram)
{
    enum { BLOCKS = 4, N = BLOCKS * 512 };
    static const unsigned zero[16];
    unsigned *host = numbers(N), *in = upload(host, N * 4), want[16] = {0};
    for (size_t i = 0; i < N; i++)
        want[host[i] % 16]++;
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        unsigned *counts = upload(zero, sizeof zero);
        simt_set_seed(seed);
        ck_assert_int_eq(simt_histogram(in, counts, BLOCKS), 0);
        ck_assert_mem_eq(download(counts, 16), want, sizeof want);
    }
}
END_TEST

START_TEST(test_warp_operations)
{
    enum { BLOCKS = 2, N = BLOCKS * 96 };
    unsigned *out = upload(NULL, N * 4);
    for (uint64_t seed = 0; seed < SEEDS; seed++) {
        simt_set_seed(seed);
        ck_assert_int_eq(simt_warp_operations(out, BLOCKS), 0);
        unsigned *got = download(out, N);
        for (size_t i = 0; i < N; i++)
            ck_assert_uint_eq(got[i], 1);
    }
    ck_assert_ptr_null(simt_finding());
}
END_TEST

/* --- planted mistakes ------------------------------------------------------------------------ */

enum {
    INVALID_VALUE = 1,
    INVALID_CONFIGURATION = 9,
    ILLEGAL_ADDRESS = 700,
    MISALIGNED = 716,
    FAILURE = 719
};

static const struct simt_shape usual = {2, 1, 64, 64 * sizeof(float), 0};

/* What is said of each, in the order of threads first to last. where: of the block and the thread;
 * what: parts that the sentence has. */
static const struct mistake {
    const char *kernel;
    int error;
    const char *where, *what[3];
} mistakes[] = {
    {"read_beyond",
     ILLEGAL_ADDRESS,
     "block 1, thread 6,",
     {"out-of-bounds read of 4 bytes at byte 512 of an allocation of 512 bytes"}},
    {"write_before",
     ILLEGAL_ADDRESS,
     "block 1, thread 6,",
     {"out-of-bounds write of 4 bytes at 4 bytes before the start of an allocation"}},
    {"read_far",
     ILLEGAL_ADDRESS,
     "block 1, thread 6,",
     {"out-of-bounds read of 4 bytes at an address in global memory that is not allocated"}},
    {"read_freed",
     ILLEGAL_ADDRESS,
     "block 0, thread 0,",
     {"out-of-bounds read of 4 bytes at byte 0 of a freed allocation of 512 bytes"}},
    {"read_host", ILLEGAL_ADDRESS, "block 0, thread 0,", {"read of 4 bytes", "memory of the host"}},
    {"read_null", ILLEGAL_ADDRESS, "block 0, thread 0,", {"read of 4 bytes", "a null pointer"}},
    {"copy_beyond",
     ILLEGAL_ADDRESS,
     "block 1, thread 0,",
     {"out-of-bounds read of 16 bytes at byte 512 of an allocation"}},
    {"dynamic_beyond",
     ILLEGAL_ADDRESS,
     "block 0, thread 5,",
     {"out-of-bounds write of 4 bytes at byte 256 of 256 bytes of dynamic shared memory"}},
    {"static_beyond",
     ILLEGAL_ADDRESS,
     "block 0, thread 5,",
     {"index 64 is out of bounds of 'float"}},
    {"other_local",
     ILLEGAL_ADDRESS,
     "block 0, thread 1,",
     {"read of 4 bytes of another thread's local memory"}},
    {"empty_global",
     FAILURE,
     "block 0, thread 0,",
     {"uninitialised read of 4 bytes at byte 0 of an allocation of 512 bytes"}},
    {"empty_shared",
     FAILURE,
     "block 0, thread 9,",
     {"uninitialised read of 4 bytes at byte 36 of the 256 bytes of tile "
      "in shared memory"}},
    {"empty_next_block", FAILURE, "block 1, thread 0,", {"uninitialised read"}},
    {"race_shared",
     FAILURE,
     "block 0, thread 0,",
     {"race: nothing orders this read of 4 bytes", "the write of them by block 0, thread 63",
      "at planted.cu:"}},
    {"race_after_read",
     FAILURE,
     "block 0, thread 31,",
     {"race: nothing orders this read of 4 bytes", "the write of them by block 0, thread 0"}},
    {"race_many_readers",
     FAILURE,
     "block 0, thread 63,",
     {"race: nothing orders this write of 4 bytes", "the read of them by block 0, thread 62"}},
    {"race_blocks",
     FAILURE,
     "block 1, thread 3,",
     {"race: nothing orders this write of 4 bytes", "the write of them by block 0, thread 3"}},
    {"race_warp",
     FAILURE,
     "block 0, thread 1,",
     {"race: nothing orders this write of 4 bytes", "the read of them by block 0, thread 0"}},
    {"race_shuffle",
     FAILURE,
     "block 0, thread 0,",
     {"race: nothing orders this read of 4 bytes", "the write of them by block 0, thread 1"}},
    {"race_half_warp",
     FAILURE,
     "block 0, thread 0,",
     {"race: nothing orders this read of 4 bytes", "the write of them by block 0, thread 16"}},
    {"race_atomic",
     FAILURE,
     "block 1, thread 7,",
     {"race: nothing orders this atomic operation on 4 bytes",
      "the write of them by block 1, thread 6"}},
    {"barrier_two_places",
     FAILURE,
     "block 0, thread 32,",
     {"barrier in divergent code", "thread 0 waits in one at planted.cu:"}},
    {"barrier_not_all",
     FAILURE,
     "block 0, thread 0,",
     {"deadlock: 1 thread from 0 on in __syncwarp at planted.cu:",
      "63 threads from 1 on in __syncthreads at planted.cu:"}},
    {"mask_without_caller",
     FAILURE,
     "block 0, thread 5,",
     {"__shfl_sync with mask 0xffffffdf, which lacks the calling lane 5"}},
    {"mask_names_returned", FAILURE, "block 0, thread 32,", {"names lane 8 that has returned"}},
    {"mask_names_returning", FAILURE, "block 0, thread 32,", {"names lane 31 that has returned"}},
    {"masks_differ",
     FAILURE,
     "block 0, thread 1,",
     {"__syncwarp with mask 0x00000003, but lane 0 waits in __syncwarp with mask 0xffffffff"}},
    {"operations_differ",
     FAILURE,
     "block 0, thread 1,",
     {"__any_sync with mask 0xffffffff, but lane 0 waits in __all_sync"}},
    {"lane_not_in_mask",
     FAILURE,
     "block 0, thread 0,",
     {"__shfl_sync reads lane 20, which is not in mask 0x0000ffff"}},
    {"odd_width", FAILURE, "block 0, thread 0,", {"__shfl_sync of width 12"}},
    {"misaligned_vector",
     MISALIGNED,
     "block 0, thread 2,",
     {"misaligned", "byte 36 of an allocation", "16 does not divide"}},
    {"misaligned_store",
     MISALIGNED,
     "block 0, thread 2,",
     {"misaligned", "byte 18 of an allocation", "8 does not divide"}},
    {"shift_too_far", FAILURE, "block 0, thread 32,", {"shift by 32"}},
    {"cast_too_large", FAILURE, "block 0, thread 9,", {"to 'int'"}},
    {"trapped", FAILURE, "block 1, thread 6,", {"__trap() was called"}},
};
enum { MISTAKES = sizeof mistakes / sizeof mistakes[0] };

static void expect(const char *part)
{
    const char *said = simt_finding();
    ck_assert_msg(said != NULL, "nothing was found; expected: %s", part);
    ck_assert_msg(strstr(said, part) != NULL, "'%s' is not in: %s", part, said);
}

START_TEST(test_mistakes)
{
    const struct mistake *m = &mistakes[_i];
    ck_assert_int_eq(simt_plant(m->kernel, 1, &usual), m->error);
    char kernel[64];
    snprintf(kernel, sizeof kernel, "kernel %s,", m->kernel);
    expect(kernel);
    expect(m->where);
    expect(", at planted.cu:");
    for (int i = 0; i < 3 && m->what[i]; i++)
        expect(m->what[i]);
    // the device is broken from then on
    ck_assert_ptr_null(simt_to_device(NULL, 4));
    simt_reset();
    ck_assert_ptr_nonnull(simt_to_device(NULL, 4));
}
END_TEST

/* In other orders, the same mistakes, perhaps by others; without them, silence in every order. */
START_TEST(test_orders)
{
    const struct mistake *m = &mistakes[_i];
    for (uint64_t seed = 0; seed < 2 * SEEDS; seed++) {
        simt_set_seed(seed);
        ck_assert_int_eq(simt_plant(m->kernel, 0, &usual), 0);
        ck_assert_ptr_null(simt_finding());
        ck_assert_int_ne(simt_plant(m->kernel, 1, &usual), 0);
        ck_assert_ptr_nonnull(simt_finding());
        simt_reset();
    }
}
END_TEST

/* --- launches over the limits ---------------------------------------------------------------- */

static void launch_fails(const char *arch, const char *kernel, struct simt_shape s, int error,
                         const char *what)
{
    setenv("QG_SIMT_ARCH", arch, 1);
    ck_assert_int_eq(simt_plant(kernel, 0, &s), error);
    if (what)
        expect(what);
    simt_reset();
}

START_TEST(test_limits)
{
    const char *k = "shared_sum"; // 16 KiB of static shared memory
    launch_fails("sm_90", k, (struct simt_shape){1, 1, 1025, 0, 0}, INVALID_CONFIGURATION,
                 "a grid of 1x1x1 blocks of 1025x1x1 threads is over the limits of sm_90");
    launch_fails("sm_90", k, (struct simt_shape){1, 65536, 64, 0, 0}, INVALID_CONFIGURATION,
                 "a grid of 1x65536x1 blocks");
    launch_fails("sm_90", k, (struct simt_shape){0, 1, 64, 0, 0}, INVALID_CONFIGURATION, "0x1x1");
    launch_fails("sm_90", k, (struct simt_shape){2, 1, 64, 49153, 0}, INVALID_VALUE,
                 "49153 bytes of dynamic shared memory");
    launch_fails("sm_80", k, (struct simt_shape){2, 1, 64, 163 * 1024 + 1, 1}, INVALID_VALUE, NULL);
    launch_fails("sm_80", k, (struct simt_shape){2, 1, 64, 150 * 1024, 1}, FAILURE,
                 "16384 bytes of static and 153600 of dynamic shared memory are more than a block "
                 "of sm_80 has");
    launch_fails("sm_90", k, (struct simt_shape){2, 1, 64, 150 * 1024, 1}, 0, NULL);
    ck_assert_ptr_null(simt_finding());
    launch_fails("sm_100", k, (struct simt_shape){2, 1, 64, 211 * 1024, 1}, 0, NULL);
}
END_TEST

/* --- cuBLASLt -------------------------------------------------------------------------------- */

enum { NOTHING_DONE = 13 }; /* CUBLAS_STATUS_EXECUTION_FAILED */

static void multiply(size_t i, int captured)
{
    const struct simt_product_case *c = simt_product_at(i);
    setenv("QG_SIMT_ARCH", simt_product_arch(i), 1);
    ck_assert_msg(simt_multiply(i, 0, captured) == 0, "%s, without it: %s", c->name,
                  simt_finding() ? simt_finding() : "no finding");
    setenv("QG_SIMT_ARCH", c->arch, 1);
    int status = simt_multiply(i, 1, captured);
    ck_assert_msg(status == (c->finding ? NOTHING_DONE : c->status), "%s: status %d", c->name,
                  status);
    if (c->finding)
        expect(c->finding);
    simt_reset();
}

/* What cuBLASLt refuses, and what it would do wrong, at once and when a graph is launched. */
START_TEST(test_products)
{
    for (size_t i = 0; simt_product_at(i); i++) {
        multiply(i, 0);
        multiply(i, 1);
    }
}
END_TEST

/* What NVML refuses: its functions are declared here as programs do that look them up. */
int nvmlInit_v2(void);
int nvmlSystemGetDriverVersion(char *text, unsigned size);
int nvmlDeviceGetHandleByPciBusId_v2(const char *bus, void **ret);
int nvmlDeviceGetClockInfo(void *device, int which, unsigned *ret);
int nvmlDeviceGetPowerUsage(void *device, unsigned *ret);
int nvmlDeviceGetEccMode(void *device, unsigned *ret_now, unsigned *ret_next);

START_TEST(test_nvml)
{
    enum {
        UNINITIALIZED = 1,
        INVALID_ARGUMENT,
        NOT_SUPPORTED,
        NOT_FOUND = 6,
        NO_ROOM,
        NO_DRIVER = 9
    };
    void *device = &device;
    unsigned x = 0;
    char text[16];
    ck_assert_int_eq(nvmlDeviceGetHandleByPciBusId_v2("0000:0a:00.0", &device), UNINITIALIZED);
    ck_assert_int_eq(nvmlDeviceGetClockInfo(device, 1, &x), UNINITIALIZED);
    setenv("QG_SIMT_NVML", "0", 1);
    ck_assert_int_eq(nvmlInit_v2(), NO_DRIVER);
    unsetenv("QG_SIMT_NVML");
    ck_assert_int_eq(nvmlInit_v2(), 0);
    ck_assert_int_eq(nvmlDeviceGetClockInfo(device, 1, &x), INVALID_ARGUMENT);
    ck_assert_int_eq(nvmlDeviceGetHandleByPciBusId_v2("0000:0b:00.0", &device), NOT_FOUND);
    ck_assert_int_eq(nvmlDeviceGetHandleByPciBusId_v2(NULL, &device), INVALID_ARGUMENT);
    ck_assert_int_eq(nvmlDeviceGetHandleByPciBusId_v2("0000:0a:00.0", &device), 0);
    ck_assert_int_eq(nvmlDeviceGetClockInfo(device, 4, &x), INVALID_ARGUMENT);
    ck_assert_int_eq(nvmlDeviceGetClockInfo(device, 1, NULL), INVALID_ARGUMENT);
    ck_assert_int_eq(nvmlDeviceGetEccMode(device, &x, NULL), INVALID_ARGUMENT);
    ck_assert_int_eq(nvmlSystemGetDriverVersion(text, 4), NO_ROOM);
    ck_assert(nvmlDeviceGetClockInfo(device, 2, &x) == 0 && x == 2619);
    ck_assert(nvmlDeviceGetPowerUsage(device, &x) == 0 && x == 350500);
    setenv("QG_SIMT_WATTS", "700,none,0x10", 1); // its first answer is given
    ck_assert_int_eq(nvmlDeviceGetPowerUsage(device, &x), NOT_SUPPORTED);
    for (int i = 0; i < 2; i++)
        ck_assert(nvmlDeviceGetPowerUsage(device, &x) == 0 && x == 16000);
}
END_TEST

int main(void)
{
    Suite *suite = suite_create("simt");
    TCase *tcase = tcase_create("simt");
    const TTest *const tests[] = {test_million_threads, test_block_sums,      test_block_scan,
                                  test_histogram,       test_warp_operations, test_limits,
                                  test_other_orders,    test_products,        test_nvml};
    tcase_set_timeout(tcase, 240);
    for (size_t i = 0; i < sizeof tests / sizeof tests[0]; i++)
        tcase_add_test(tcase, tests[i]);
    tcase_add_loop_test(tcase, test_mistakes, 0, MISTAKES);
    tcase_add_loop_test(tcase, test_orders, 0, MISTAKES);
    suite_add_tcase(suite, tcase);
    SRunner *runner = srunner_create(suite);
    srunner_run_all(runner, CK_ENV);
    int failed = srunner_ntests_failed(runner);
    srunner_free(runner);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
