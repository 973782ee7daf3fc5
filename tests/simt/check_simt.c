/* SPDX-License-Identifier: MIT
 *
 * The stand-in for the CUDA runtime: kernels give right results in every order of their threads.
 */
#include <stdint.h>
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

QG_SUITE(simt, test_million_threads, test_block_sums, test_block_scan, test_histogram,
         test_warp_operations)
