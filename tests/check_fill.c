/* SPDX-License-Identifier: MIT
 *
 * Fills: what each promises, for every dtype; and that an element depends on its place alone.
 */
#include <stdio.h>
#include <string.h>

#include "harness/fill.h"
#include "tests/suite.h"

enum { ROWS = 24, COLS = 512, GROUP = 32, N = ROWS * COLS };

static const enum qg_dtype dtypes[] = {QG_F32, QG_BF16, QG_F16};
#define EACH_DTYPE(d) (size_t d = 0; d < sizeof dtypes / sizeof dtypes[0]; d++)

static void fill(const char *name, uint64_t seed, enum qg_dtype t, size_t rows, float *values)
{
    static uint8_t memory[4 * N];
    const struct qg_tensor x = {"x", t, 2, {rows, COLS}, memory};
    qg_fill_tensor(qg_fill_find(name), seed, GROUP, 0.02, &x);
    for (size_t i = 0; i < rows * COLS; i++)
        values[i] = qg_get(&x, i);
}

START_TEST(test_place_alone)
{
    static float all[N], part[N], other[N];
    for (size_t f = 0; qg_fill_at(f); f++) {
        const char *name = qg_fill_at(f)->name;
        fill(name, 7, QG_BF16, ROWS, all);
        fill(name, 7, QG_BF16, ROWS / 3, part);
        ck_assert_msg(memcmp(all, part, sizeof all / 3) == 0, "%s: rows depend on later rows",
                      name);
        fill(name, 8, QG_BF16, ROWS, other);
        ck_assert_msg(memcmp(all, other, sizeof all) != 0, "%s: the seed does nothing", name);
    }
}
END_TEST

START_TEST(test_tensors_differ)
{
    float memory[2][64];
    struct qg_tensor t[] = {{"x", QG_F32, 1, {64}, memory[0]}, {"w", QG_F32, 1, {64}, memory[1]}};
    for (int i = 0; i < 2; i++)
        qg_fill_tensor(qg_fill_find("normal"), 7, 32, 1, &t[i]);
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            ck_assert_float_ne(memory[0][i], memory[1][j]);
}
END_TEST

/* What is kept is what would be made anew, whichever word of the question differs from before. */
START_TEST(test_again)
{
    enum { LARGE = 1 << 20 };
    static uint8_t made[2 * LARGE], again[2 * LARGE];
    static const struct {
        const char *name;
        enum qg_dtype dtype;
        size_t count, cols, group;
        uint64_t seed;
        double sigma;
    } asked[] = {
        {"x", QG_BF16, LARGE / 2, 512, 32, 7, 0.02}, {"x", QG_BF16, LARGE / 2, 512, 48, 7, 0.02},
        {"x", QG_BF16, LARGE / 2, 256, 32, 7, 0.02}, {"x", QG_F16, LARGE / 2, 512, 32, 7, 0.02},
        {"x", QG_BF16, LARGE / 2, 512, 32, 8, 0.02}, {"x", QG_BF16, LARGE / 2, 512, 48, 7, 1},
        {"w", QG_BF16, LARGE / 2, 512, 32, 7, 0.02}, {"x", QG_BF16, LARGE / 2, 512, 48, 7, 1},
        {"x", QG_BF16, LARGE / 2, 512, 32, 7, 0.02}, {"x", QG_BF16, LARGE, 512, 32, 7, 0.02},
    };
    for (size_t f = 0; qg_fill_at(f); f++)
        for (size_t i = 0; i < sizeof asked / sizeof asked[0]; i++) {
            const size_t cols = asked[i].cols;
            struct qg_tensor t = {
                asked[i].name, asked[i].dtype, 2, {asked[i].count / cols, cols}, made};
            if (i > 2 && f % 4) // the other fills see but the groups and the extents
                continue;
            qg_fill_tensor(qg_fill_at(f), asked[i].seed, asked[i].group, asked[i].sigma, &t);
            t.data = again;
            qg_fill_again(qg_fill_at(f), asked[i].seed, asked[i].group, asked[i].sigma, &t);
            ck_assert_msg(memcmp(made, again, qg_bytes(&t)) == 0, "%s, question %zu",
                          qg_fill_at(f)->name, i);
        }
}
END_TEST

START_TEST(test_finite)
{
    static float x[N];
    for (size_t f = 0; qg_fill_at(f); f++)
        for
            EACH_DTYPE(d)
            {
                bool finite = true;
                fill(qg_fill_at(f)->name, 3, dtypes[d], ROWS, x);
                for (int i = 0; i < N; i++)
                    finite &= isfinite(x[i]);
                ck_assert_msg(finite == (strcmp(qg_fill_at(f)->name, "nonfinite") != 0), "%s in %d",
                              qg_fill_at(f)->name, (int)dtypes[d]);
            }
}
END_TEST

START_TEST(test_normal)
{
    static float x[N];
    double sum = 0, squares = 0;
    fill("normal", 1, QG_F32, ROWS, x);
    for (int i = 0; i < N; i++) {
        sum += x[i];
        squares += (double)x[i] * x[i];
    }
    ck_assert_double_lt(fabs(sum / N), 5 * 0.02 / sqrt(N)); // five standard errors each
    ck_assert_double_lt(fabs(squares / N / 4e-4 - 1), 5 * sqrt(2.0 / N));
}
END_TEST

/* Every value must be a whole number of half steps of a grid on which the group's extremes lie as
 * int4 and int8 want them, and both extremes must come twice. */
START_TEST(test_ties)
{
    static const double widths[] = {30, 32, 510}; // in half steps
    static float x[N];
    for
        EACH_DTYPE(d)
        {
            fill("ties", 5, dtypes[d], ROWS, x);
            for (int g = 0; g < N; g += GROUP) {
                double low = x[g], high = x[g];
                int lows = 0, highs = 0;
                bool good = false;
                for (int i = g; i < g + GROUP; i++) {
                    low = fmin(low, x[i]);
                    high = fmax(high, x[i]);
                }
                for (int i = g; i < g + GROUP; i++) {
                    lows += x[i] == low;
                    highs += x[i] == high;
                }
                for (size_t w = 0; w < 3; w++) {
                    double half = (high - low) / widths[w];
                    int e, whole = 0;
                    if (frexp(half, &e) != 0.5) // not a power of two
                        continue;
                    for (int i = g; i < g + GROUP; i++)
                        whole += x[i] / half == rint(x[i] / half);
                    good |= whole == GROUP || (widths[w] == 510 && dtypes[d] == QG_BF16);
                }
                ck_assert_msg(good && lows >= 2 && highs >= 2, "group %d: %g .. %g", g / GROUP, low,
                              high);
            }
        }
}
END_TEST

START_TEST(test_zeros)
{
    static float x[N];
    int plus = 0, minus = 0, other = 0, zero_groups = 0;
    fill("zeros", 5, QG_BF16, ROWS, x);
    for (int i = 0; i < N; i++) {
        plus += x[i] == 0 && !signbit(x[i]);
        minus += x[i] == 0 && signbit(x[i]);
        other += x[i] != 0;
    }
    for (int g = 0; g < N; g += GROUP) {
        int zeros = 0;
        for (int i = g; i < g + GROUP; i++)
            zeros += x[i] == 0;
        zero_groups += zeros == GROUP;
    }
    ck_assert_int_gt(plus, N / 10);
    ck_assert_int_gt(minus, N / 10);
    ck_assert_int_gt(other, N / 10);
    ck_assert_int_gt(zero_groups, N / GROUP / 4);
}
END_TEST

START_TEST(test_tiny_and_huge)
{
    static float x[N];
    for
        EACH_DTYPE(d)
        {
            double normal = dtypes[d] == QG_F16 ? 0x1p-14 : 0x1p-126;
            double top = dtypes[d] == QG_F16 ? 65504 : 0x1.fep127;
            int below = 0, above = 0;
            fill("tiny", 5, dtypes[d], ROWS, x);
            for (int i = 0; i < N; i++) {
                below += fabs(x[i]) < normal && x[i] != 0;
                above += fabs(x[i]) >= normal;
            }
            ck_assert_int_gt(below, N / 4);
            ck_assert_int_gt(above, N / 10);
            fill("huge", 5, dtypes[d], ROWS, x);
            for (int row = 0; row < ROWS; row++) {
                double sum = 0;
                for (int i = row * COLS; i < (row + 1) * COLS; i++)
                    sum += 8 * fabs(x[i]); // beside x of 8 sigma
                ck_assert_double_le(sum, 1.01 * top);
                ck_assert_double_ge(sum, 0.4 * top);
            }
        }
}
END_TEST

START_TEST(test_edges)
{
    static float x[N];
    int constant = 0, positive = 0, negative = 0;
    fill("edges", 5, QG_BF16, ROWS, x);
    for (int g = 0; g < N; g += GROUP) {
        int same = 0, plus = 0, minus = 0;
        for (int i = g; i < g + GROUP; i++) {
            same += x[i] == x[g];
            plus += x[i] > 0;
            minus += x[i] < 0;
        }
        constant += same == GROUP;
        positive += same < GROUP && plus == GROUP;
        negative += same < GROUP && minus == GROUP;
    }
    ck_assert_int_gt(constant, 10);
    ck_assert_int_gt(positive, 10);
    ck_assert_int_gt(negative, 10);
}
END_TEST

START_TEST(test_nonfinite)
{
    static float x[N];
    int nan = 0, plus = 0, minus = 0, rows = 0;
    fill("nonfinite", 5, QG_F16, ROWS, x);
    for (int row = 0; row < ROWS; row++) {
        bool finite = true;
        for (int i = row * COLS; i < (row + 1) * COLS; i++) {
            nan += isnan(x[i]);
            plus += x[i] == INFINITY;
            minus += x[i] == -INFINITY;
            finite &= isfinite(x[i]);
        }
        rows += !finite;
    }
    ck_assert(nan > 0 && plus > 0 && minus > 0);
    ck_assert_int_eq(rows, ROWS / 3);
}
END_TEST

START_TEST(test_names)
{
    ck_assert_ptr_null(qg_fill_find("norma"));
    for (size_t i = 0; qg_fill_at(i); i++)
        ck_assert_ptr_eq(qg_fill_find(qg_fill_at(i)->name), qg_fill_at(i));
}
END_TEST

QG_SUITE(fill, test_place_alone, test_tensors_differ, test_again, test_finite, test_normal,
         test_ties, test_zeros, test_tiny_and_huge, test_edges, test_nonfinite, test_names)
