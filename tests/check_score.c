/* SPDX-License-Identifier: MIT
 *
 * From a file of tokens to an interval: what is read and refused, windows and words as
 * lm-evaluation-harness has them (golden/lm/rolling.tsv), scores of tokens, and intervals that hold
 * what they promise.
 */
#include <fcntl.h>
#include <float.h>
#include <gsl/gsl_cdf.h>
#include <gsl/gsl_statistics_double.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

#include "harness/base/rng.h"
#include "harness/lm/score.h"
#include "harness/lm/windows.h"
#include "tests/folder.h"
#include "tests/suite.h"

static const uint32_t comma = ',', zero;

/* --- tokens ---------------------------------------------------------------------------------- */

static void leave(void)
{
    static const char *const names[] = {"a.npy", "a.u16", "a.u32", "a.txt", "fifo", NULL};
    leave_without(names);
}

/* Documents as "first+n first+n", or the refusal. */
static const char *read_file(const char *name, size_t vocab, const uint32_t *separator, size_t most)
{
    static char text[1200];
    struct qg_tokens t;
    struct qg_error err = {QG_OK, ""};
    size_t n = 0;
    if (qg_tokens_read(at(name), vocab, separator, most, &t, &err) != QG_OK)
        snprintf(text, sizeof text, "%s", err.message);
    for (size_t d = 0; err.status == QG_OK && d < t.n_documents; d++)
        n += (size_t)snprintf(text + n, sizeof text - n, "%s%zu+%zu", d ? " " : "",
                              t.document[d].first, t.document[d].n);
    qg_tokens_free(&t);
    return text;
}

static void expect(const char *got, const char *text)
{
    ck_assert_msg(strstr(got, text) != NULL, "'%s' is not in '%s'", text, got);
}

/* A NumPy file with this dictionary (padded as given) and these bytes behind it. */
static void put_numpy(const char *header, const void *data, size_t bytes)
{
    unsigned char file[512] = "\x93NUMPY\x01";
    size_t n = strlen(header);
    file[8] = (unsigned char)n;
    memcpy(file + 10, header, n);
    memcpy(file + 10 + n, data, bytes);
    put_bytes("a.npy", file, 10 + n + bytes);
}

#define DICTIONARY(descr, order, shape) \
    "{'descr': '" descr "', 'fortran_order': " order ", 'shape': (" shape "), }      \n"

START_TEST(test_numpy)
{
    static const uint8_t u16[] = {7, 0, 0, 0, 255, 1, 9, 0};
    static const uint8_t i32[] = {7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff};
    static const uint8_t i64[] = {1, 0, 0, 0, 0, 0, 0, 0x80};
    enter();
    put_numpy(DICTIONARY("<u2", "False", "4,"), u16, 8);
    ck_assert_str_eq(read_file("a.npy", 512, &zero, 0), "1+1 3+2");
    ck_assert_str_eq(read_file("a.npy", 512, NULL, 0), "1+3");
    ck_assert_str_eq(read_file("a.npy", 512, &zero, 1), "1+1");
    expect(read_file("a.npy", 511, &zero, 0), "a.npy: token 2 is 511, the model's vocabulary ends "
                                              "at 510");
    put_numpy(DICTIONARY("<i4", "False", "2,"), i32, 8);
    expect(read_file("a.npy", 512, &zero, 0), "token 1 is -1");
    put_numpy(DICTIONARY("<u4", "False", "2,"), i32, 8);
    expect(read_file("a.npy", 512, &zero, 0), "token 1 is 4294967295, the model");
    put_numpy(DICTIONARY("<i8", "False", "1,"), i64, 8);
    expect(read_file("a.npy", 512, &zero, 0), "token 0 is -9223372036854775807");
    put_numpy(DICTIONARY("|u1", "False", "8,"), u16, 8);
    ck_assert_str_eq(read_file("a.npy", 512, &zero, 0), "1+1 3+3");
    put_numpy(DICTIONARY("<u2", "False", "3,"), u16, 8);
    expect(read_file("a.npy", 512, &zero, 0), "the header says 3 numbers, there are bytes for 4");
    put_numpy(DICTIONARY("<u2", "False", "4,"), u16, 7);
    expect(read_file("a.npy", 512, &zero, 0), "the header says 4 numbers");
    static const char *const others[] = {
        DICTIONARY("<f4", "False", "2,"),
        DICTIONARY("<u2", "False", "2, 2"),
        DICTIONARY(">u2", "False", "4,"),
        DICTIONARY("|i1", "False", "8,"),
        DICTIONARY("<u8", "False", "1,"),
        "{'descr': '<u2'}",
        DICTIONARY("<u2", "False", "99999999999999999999999,"),
    };
    for (size_t i = 0; i < sizeof others / sizeof others[0]; i++) {
        put_numpy(others[i], u16, 8);
        expect(read_file("a.npy", 512, &zero, 0), "is no NumPy array of one dimension of u1, u2");
    }
    put_bytes("a.npy", "\x93NUMPY\x01\x00\x40", 9);
    expect(read_file("a.npy", 512, &zero, 0), "ends within the header");
    put_bytes("a.npy", "\x93NUMPY\x01\x00\xff\xff abc", 14);
    expect(read_file("a.npy", 512, &zero, 0), "ends within the header");
    put_bytes("a.npy", "plain", 5);
    expect(read_file("a.npy", 512, &zero, 0), "does not begin as a NumPy array does");
    leave();
}
END_TEST

START_TEST(test_raw)
{
    static const uint8_t raw[] = {7, 0, 0, 0, 9, 0, 0, 0};
    enter();
    put_bytes("a.u16", raw, 8);
    put_bytes("a.u32", raw, 8);
    ck_assert_str_eq(read_file("a.u16", 10, &zero, 0), "1+1 3+1");
    ck_assert_str_eq(read_file("a.u32", 10, &zero, 0), "1+2");
    put_bytes("a.u16", raw, 7);
    put_bytes("a.u32", raw, 6);
    expect(read_file("a.u16", 10, &zero, 0), "7 bytes are no whole count of numbers of 2 bytes");
    expect(read_file("a.u32", 10, &zero, 0), "6 bytes are no whole count of numbers of 4 bytes");
    put_bytes("a.u32", raw, 0);
    expect(read_file("a.u32", 10, &zero, 0), "holds no token");
    expect(read_file("a.u32", 10, NULL, 0), "holds no token");
    put_bytes("a.u32", raw, 4);
    expect(read_file("a.u32", 10, NULL, 0), "holds one token: there is none to predict");
    leave();
}
END_TEST

START_TEST(test_text)
{
    struct qg_tokens t;
    struct qg_error err;
    enter();
    put_text("a.txt", "one two,,three,");
    ck_assert_str_eq(read_file("a.txt", 256, &comma, 0), "1+7 9+5");
    ck_assert_str_eq(read_file("a.txt", 256, NULL, 0), "1+14");
    expect(read_file("a.txt", 257, &comma, 0), "this model's 257 tokens are not bytes: give token "
                                               "ids");
    ck_assert_int_eq(qg_tokens_read(at("a.txt"), 256, &comma, 0, &t, &err), QG_OK);
    ck_assert(t.text);
    ck_assert_uint_eq(t.n, 14);
    ck_assert_uint_eq(t.id[0], ',');
    ck_assert_uint_eq(t.id[8], ',');
    ck_assert_uint_eq(t.id[9], 't');
    ck_assert_uint_eq(t.document[0].bytes, 7);
    ck_assert_uint_eq(t.document[0].words, 2);
    ck_assert_uint_eq(t.document[1].words, 1);
    qg_tokens_free(&t);
    put_text("a.txt", ",,,");
    expect(read_file("a.txt", 256, &comma, 0), "holds nothing but separators");
    expect(read_file("a.u16", 256, &comma, 0), "a.u16: No such file");
    ck_assert_int_eq(mkfifo(at("fifo"), 0600), 0);
    expect(read_file("fifo", 256, &comma, 0), "is no regular file");
    leave();
}
END_TEST

/* --- windows --------------------------------------------------------------------------------- */

/* One line of rolling.tsv: the windows of a document of n tokens. */
static void compare_windows(char *line)
{
    char *save, *word = strtok_r(line, "\t", &save);
    size_t n = strtoul(strtok_r(NULL, "\t", &save), NULL, 10);
    size_t context = strtoul(strtok_r(NULL, "\t", &save), NULL, 10), seen = 0, at_token = 0;
    struct qg_document one = {.first = 1, .n = n};
    const struct qg_tokens t = {.n = n + 1, .document = &one, .n_documents = 1};
    struct qg_windows w;
    struct qg_error err;
    ck_assert_int_eq(qg_windows_make(&t, context, &w, &err), QG_OK);
    while ((word = strtok_r(NULL, "\t\n", &save))) {
        const struct qg_window *of = w.of; // one length: batches are in the order of the text
        char ours[80];
        ck_assert_uint_lt(seen, w.n);
        snprintf(ours, sizeof ours, "%zu:%zu:%zu", of[seen].first - 1, of[seen].length,
                 of[seen].scored);
        ck_assert_str_eq(ours, word);
        ck_assert_uint_eq(of[seen].at, at_token);
        at_token += of[seen++].scored;
    }
    ck_assert_uint_eq(seen, w.n);
    ck_assert_uint_eq(w.scored, n);
    qg_windows_free(&w);
}

static void compare_words(const char *line)
{
    char hex[512];
    uint8_t text[256];
    unsigned long long words;
    size_t n = 0;
    ck_assert_int_eq(sscanf(line, "words\t%511s\t%llu", hex, &words), 2);
    for (unsigned byte; hex[0] != '-' && sscanf(hex + 2 * n, "%2x", &byte) == 1; n++)
        text[n] = (uint8_t)byte;
    ck_assert_msg(qg_words(text, n) == words, "%s: %llu words, not %llu", hex, words,
                  (unsigned long long)qg_words(text, n));
}

START_TEST(test_rolling)
{
    char path[512], line[4096];
    size_t windows = 0, words = 0;
    snprintf(path, sizeof path, "%s/golden/lm/rolling.tsv", getenv("QG_SOURCE"));
    FILE *f = fopen(path, "r");
    ck_assert_ptr_nonnull(f);
    while (fgets(line, sizeof line, f)) {
        if (strncmp(line, "windows", 7) == 0)
            compare_windows(line), windows++;
        else if (strncmp(line, "words", 5) == 0)
            compare_words(line), words++;
    }
    fclose(f);
    ck_assert_uint_ge(windows, 50);
    ck_assert_uint_ge(words, 20);
}
END_TEST

/* Batches: every window once, lengths equal within, no more than there is room for. */
START_TEST(test_batches)
{
    static const struct qg_document docs[] = {{.first = 1, .n = 700},
                                              {.first = 702, .n = 10},
                                              {.first = 713, .n = 256},
                                              {.first = 970, .n = 10},
                                              {.first = 981, .n = 2000}};
    const struct qg_tokens t = {.document = (struct qg_document *)docs, .n_documents = 5};
    struct qg_windows w;
    struct qg_error err;
    bool seen[14] = {false};
    size_t next = 0;
    ck_assert_int_eq(qg_windows_make(&t, 256, &w, &err), QG_OK);
    ck_assert_uint_eq(w.n, 14);
    ck_assert_uint_eq(w.widest, 4);
    ck_assert_uint_eq(w.scored, 2976);
    for (size_t b = 0; b < w.n_batches; b++) {
        ck_assert_uint_eq(w.batch[b].first, next);
        for (size_t i = 0; i < w.batch[b].n; i++, next++) {
            ck_assert_uint_eq(w.of[next].length, w.of[w.batch[b].first].length);
            ck_assert(!seen[w.of[next].number]);
            seen[w.of[next].number] = true;
        }
    }
    ck_assert_uint_eq(next, 14);
    ck_assert_uint_eq(w.n_batches, 4);
    ck_assert_uint_eq(w.of[13].document, 3);
    qg_windows_free(&w);
}
END_TEST

/* --- scores ---------------------------------------------------------------------------------- */

enum { VOCAB = 300 };

static void draw_logits(uint64_t stream, float *l)
{
    for (size_t i = 0; i < VOCAB; i++)
        l[i] = (float)(5 * qg_rng_normal(11, stream, i));
}

/* ln p in 64 bits of mantissa, as the textbook has it. */
static long double log_p(const float *l, size_t i)
{
    long double sum = 0;
    for (size_t k = 0; k < VOCAB; k++)
        sum += expl((long double)l[k]);
    return (long double)l[i] - logl(sum);
}

START_TEST(test_score)
{
    float base[VOCAB], other[VOCAB];
    struct qg_score s;
    draw_logits(1, base);
    draw_logits(2, other);
    qg_score_token(base, other, VOCAB, 17, &s);
    long double kl = 0, size = 0;
    for (size_t i = 0; i < VOCAB; i++) {
        long double p = log_p(base, i), q = log_p(other, i);
        kl += expl(p) * (p - q);
        size += expl(p) * (fabsl(p) + fabsl(q));
    }
    // VOCAB additions, and a few roundings of each term.
    long double unit = (VOCAB + 16) * (long double)DBL_EPSILON;
    ck_assert(fabsl((long double)s.kl - kl) <= unit * size);
    ck_assert(fabsl((long double)s.base + log_p(base, 17)) <= unit * fabsl(log_p(base, 17)));
    ck_assert(fabsl((long double)s.nll + log_p(other, 17)) <= unit * fabsl(log_p(other, 17)));
    ck_assert(fabsl((long double)s.change - expl(log_p(other, 17)) + expl(log_p(base, 17))) <=
              unit);
    ck_assert(!s.same);
    qg_score_token(base, base, VOCAB, 299, &s);
    ck_assert(s.kl == 0 && s.change == 0 && s.nll == s.base && s.same);
    // A shift of all logits is no change, but for the roundings of the shifted numbers.
    for (size_t i = 0; i < VOCAB; i++)
        base[i] = (float)(int)base[i], other[i] = base[i] + 1024;
    qg_score_token(base, other, VOCAB, 0, &s);
    ck_assert(fabs(s.kl) <= (double)unit * 1024 && s.same);
}
END_TEST

START_TEST(test_summary)
{
    struct qg_score s[100];
    uint32_t cluster[100];
    struct qg_quality q;
    struct qg_error err;
    for (uint32_t i = 0; i < 100; i++) {
        s[i] = (struct qg_score){.base = 2,
                                 .nll = 3,
                                 .kl = (double)((i * 37) % 100),
                                 .change = i % 2 ? 0.5 : -0.25,
                                 .same = i % 4 != 0};
        cluster[i] = i / 30;
    }
    ck_assert_int_eq(qg_score_sum(s, cluster, 100, 4, 0.95, &q, &err), QG_OK);
    ck_assert(q.tokens == 100 && q.clusters == 4);
    ck_assert(q.base.value == 2 && q.nll.value == 3 && q.delta.value == 1);
    ck_assert(q.delta.low == 1 && q.delta.high == 1);
    ck_assert(q.kl.value == 49.5 && q.kl_median == 49.5 && q.kl_max == 99);
    ck_assert(fabs(q.kl_90 - 89.1) < 1e-12 && fabs(q.kl_99 - 98.01) < 1e-12);
    ck_assert(q.same == 0.75 && q.change_mean == 0.125);
    ck_assert(q.change_rms == sqrt((0.25 + 0.0625) / 2));
    ck_assert_int_eq(qg_score_sum(s, cluster, 30, 1, 0.95, &q, &err), QG_OK);
    ck_assert(q.delta.value == 1 && isnan(q.delta.low) && isnan(q.delta.high));
    ck_assert_str_eq(qg_verdict_of_difference(&q.delta), "cannot tell");
    ck_assert_str_eq(qg_verdict_of_difference(&(struct qg_estimate){0, 0, 0}), "equal");
    ck_assert_str_eq(qg_verdict_of_difference(&(struct qg_estimate){0, -1, 1}), "cannot tell");
    ck_assert_str_eq(qg_verdict_of_difference(&(struct qg_estimate){2, 1, 3}), "worse");
    ck_assert_str_eq(qg_verdict_of_difference(&(struct qg_estimate){-2, -3, -1}), "better");
}
END_TEST

/* --- intervals ------------------------------------------------------------------------------- */

enum { CLUSTERS = 32 };

/* With clusters of one size the ratio is a mean of means, and its interval the textbook's. */
START_TEST(test_textbook)
{
    double sum[CLUSTERS], n[CLUSTERS], mean[CLUSTERS];
    for (size_t j = 0; j < CLUSTERS; j++) {
        n[j] = 64;
        mean[j] = qg_rng_normal(3, 1, j);
        sum[j] = mean[j] * n[j];
    }
    struct qg_estimate e = qg_estimate_ratio(sum, n, CLUSTERS, 0.9);
    double m = gsl_stats_mean(mean, 1, CLUSTERS), sd = gsl_stats_sd_m(mean, 1, CLUSTERS, m);
    double wide = gsl_cdf_tdist_Pinv(0.95, CLUSTERS - 1) * sd / sqrt(CLUSTERS);
    double unit = 64 * CLUSTERS * DBL_EPSILON;
    ck_assert(fabs(e.value - m) <= unit);
    ck_assert(fabs(e.high - e.value - wide) <= unit && fabs(e.value - e.low - wide) <= unit);
}
END_TEST

/* The degrees of freedom from the whole matrix, as the paper writes them; then the interval. */
START_TEST(test_matrix)
{
    double sum[CLUSTERS], n[CLUSTERS], all = 0, total = 0, v = 0, trace = 0, square = 0;
    for (size_t j = 0; j < CLUSTERS; j++) {
        n[j] = ceil(100 * exp(qg_rng_normal(5, 0, j)));
        sum[j] = n[j] * qg_rng_normal(5, 1, j);
        all += n[j];
        total += sum[j];
    }
    for (size_t i = 0; i < CLUSTERS; i++)
        for (size_t j = 0; j < CLUSTERS; j++) {
            double g = 0;
            for (size_t k = 0; k < CLUSTERS; k++) // (I - H)[i,k] W[k] (I - H)[j,k]
                g += ((i == k) - n[i] / all) * n[k] * n[k] * ((j == k) - n[j] / all);
            g /= sqrt((1 - n[i] / all) * (1 - n[j] / all));
            trace += i == j ? g : 0;
            square += g * g;
        }
    for (size_t j = 0; j < CLUSTERS; j++)
        v += pow(sum[j] - total / all * n[j], 2) / (1 - n[j] / all) / (all * all);
    struct qg_estimate e = qg_estimate_ratio(sum, n, CLUSTERS, 0.95);
    double wide = gsl_cdf_tdist_Pinv(0.975, trace * trace / square) * sqrt(v);
    ck_assert(fabs(e.value - total / all) <= 1e3 * DBL_EPSILON);
    ck_assert(fabs(e.high - e.value - wide) <= 1e3 * DBL_EPSILON * wide);
    ck_assert(trace * trace / square < CLUSTERS - 2); // sizes differ: less is known
}
END_TEST

/* Student's t with 5 degrees of freedom: a normal over the root of a mean of five squares. */
static double heavy(uint64_t seed, uint64_t i)
{
    double squares = 0;
    for (uint64_t k = 0; k < 5; k++)
        squares += pow(qg_rng_normal(seed, 100 + k, i), 2);
    return qg_rng_normal(seed, 99, i) / sqrt(squares / 5);
}

/* How many of `rounds` intervals hold the true mean 0.01. Sizes are lognormal; the tokens of a
 * cluster share a heavy-tailed term. `spread`: of the sizes. */
static unsigned count_hits(unsigned rounds, double spread, size_t m)
{
    double sum[256], n[256];
    unsigned hits = 0;
    for (uint64_t seed = 0; seed < rounds; seed++) {
        for (size_t j = 0; j < m; j++) {
            n[j] = ceil(200 * exp(spread * qg_rng_normal(seed, 1, j)));
            sum[j] = n[j] * (0.01 + 0.02 * heavy(seed, j)) +
                     sqrt(n[j]) * 0.3 * qg_rng_normal(seed, 2, j);
        }
        struct qg_estimate e = qg_estimate_ratio(sum, n, m, 0.95);
        hits += e.low <= 0.01 && 0.01 <= e.high;
    }
    return hits;
}

/* At least 95 % hold the truth: fewer hits than a fair interval would have once in a million times
 * are a fault. Where sizes are alike, not many more than 95 % either. */
START_TEST(test_coverage)
{
    enum { DRAWS = 400000 }; // of clusters
    static const struct {
        double spread;
        size_t m;
    } cases[] = {{0, 32}, {0, 128}, {0.5, 32}, {1, 32}, {1, 128}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        unsigned rounds = DRAWS / (unsigned)cases[i].m;
        unsigned hits = count_hits(rounds, cases[i].spread, cases[i].m);
        ck_assert_msg(gsl_cdf_binomial_P(hits, 0.95, rounds) > 1e-6,
                      "%u of %u intervals hold the truth (spread %g, %zu clusters)", hits, rounds,
                      cases[i].spread, cases[i].m);
        ck_assert_msg(cases[i].spread > 0 || gsl_cdf_binomial_Q(hits, 0.95, rounds) > 1e-6,
                      "%u of %u intervals hold the truth: they are too wide", hits, rounds);
    }
}
END_TEST

QG_SUITE(score, test_numpy, test_raw, test_text, test_rolling, test_batches, test_score,
         test_summary, test_textbook, test_matrix, test_coverage)
