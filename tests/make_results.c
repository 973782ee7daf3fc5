/* SPDX-License-Identifier: MIT
 *
 * make_results OUT.h5 [CHANGE]: a result file for the tests of what reads one, as a run would write
 * it, with one thing changed: bits, quality, fail, slow, missing, facts, hostile, empty, inputs,
 * incomplete, nothing; or a file of language models alone: models, and with one thing changed
 * there, models-worse, -other, -better, -gone, -failed, -foretold; or with resources of CUDA
 * kernels: resources, and with one thing changed there, resources-spill, -stack, -warps,
 * -registers, -gone, -hostile; resources-alone is those without a case; device: with cases of a
 * device, and with one thing changed there, algorithm, clocks, throttled.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/rng.h"
#include "harness/result.h"

enum { SAMPLES = 30 };

static const char *change;
static uint64_t noise_stream;

static bool is_change(const char *word)
{
    return strcmp(change, word) == 0;
}

static void check(enum qg_status status, const struct qg_error *err)
{
    if (status == QG_OK)
        return;
    fprintf(stderr, "make_results: %s\n", err->message);
    exit(99);
}

static const char *const schemes[] = {"int4",         "int4-old",        "fp8-int4",
                                      "fp8-int4-old", "fp8-int4-nocast", "int8",
                                      "int8-g32",     "int8-int4",       "unquantized"};
enum { COMMON = 8, UNQUANTIZED = COMMON }; /* in every file; of a device alone */
static const char *const fills[] = {"normal", "uniform", "heavy", "ties", "zeros", "tiny", "huge"};
static const char *const ops[] = {"fake-quant", "convert", "dequant", "matmul"};

static double sqnr_of(size_t scheme, size_t fill)
{
    static const double bits[] = {20.4, 20.1, 19.9, 15.5, 19.2, 44.1, 45.7, 20.9, INFINITY};
    static const double offset[] = {0, 2.1, -6.3, 4.4, NAN, -0.2, 0.3};
    return fill == 3 && scheme == 5 ? INFINITY : bits[scheme] + offset[fill];
}

static void fill_histogram(struct qg_record *r, size_t scheme)
{
    double width = scheme == 3 ? 0.8 : 0.5;
    for (uint64_t i = 0; i < 4096; i++) {
        double e = (2 * qg_rng_uniform(5, scheme, i) - 1) * width;
        r->error_histogram[(size_t)((e + 1) * QG_HISTOGRAM_BINS / 2)]++;
    }
}

static bool is_of_device(const struct qg_record *r)
{
    return strcmp(r->backend, "cuda") == 0 || strcmp(r->backend, "cublas") == 0;
}

static struct qg_conditions conditions_of(const struct qg_record *r)
{
    const struct qg_conditions none = {NAN, NAN, NAN, NAN, NAN, 0, ""},
                               usual = {1965, 1980, 2619, 45, 350.4, 0, ""},
                               slow = {1410, 1980, 2619, 87, 350.4, 7, "thermal"};
    return !is_of_device(r) ? none : is_change("clocks") || is_change("throttled") ? slow : usual;
}

static void time_case(struct qg_record *r, double *samples, double median)
{
    double offset = exp(0.005 * qg_rng_normal(7, noise_stream, r->input_hash));
    for (uint64_t k = 0; k < 2 * SAMPLES; k++)
        samples[k] = median * (k < SAMPLES ? 1 : 1.6) * offset *
                     exp(0.01 * qg_rng_normal(8, noise_stream + r->input_hash, k));
    double up = 1.01 * offset, down = 0.99 * offset;
    r->warm = (struct qg_timing){median * offset, median * down, median * up, SAMPLES};
    r->cold =
        (struct qg_timing){1.6 * median * offset, 1.6 * median * down, 1.6 * median * up, SAMPLES};
    r->warm.under = r->cold.under = conditions_of(r);
    r->overhead_s = 30e-9;
    if (is_change("throttled") && is_of_device(r)) {
        r->warm = r->cold = (struct qg_timing){NAN, NAN, NAN, 0, conditions_of(r)};
        snprintf(r->reason, sizeof r->reason, "not timed: 7 of 7 warm samples discarded");
    }
}

static void describe(struct qg_record *r, size_t s, size_t o, const char *backend, size_t f)
{
    memset(r, 0, sizeof *r);
    r->rows = r->cols = 512;
    r->m = strcmp(ops[o], "matmul") == 0 ? 64 : 0;
    r->seed = 7;
    snprintf(r->scheme, sizeof r->scheme, "%s", schemes[s]);
    snprintf(r->op, sizeof r->op, "%s", ops[o]);
    snprintf(r->operand, sizeof r->operand, "weight");
    size_t word = strcspn(backend, "."); // a variant may follow
    snprintf(r->backend, sizeof r->backend, "%.*s", (int)word, backend);
    snprintf(r->variant, sizeof r->variant, "%s", backend + word + (backend[word] == '.'));
    snprintf(r->dtype, sizeof r->dtype, "BF16");
    snprintf(r->data, sizeof r->data, "%s", fills[f]);
    snprintf(r->spelling, sizeof r->spelling, "%s.%s.%s %s512x512 bf16 fill=%s seed=7", schemes[s],
             ops[o], backend, r->m ? "64x" : "", fills[f]);
    r->count = r->m ? 64 * 512 : 512 * 512;
    r->first_bad = -1;
    r->bound_used = r->m ? 0.3 : NAN;
    r->sqnr_db = strcmp(ops[o], "convert") == 0 ? NAN : sqnr_of(s, f);
    r->nmse = pow(10, -r->sqnr_db / 10);
    r->input_hash = f + 100 * s;
    r->output_hash = f + 100 * s + 10000 * o;
    r->bytes = 512 * 512 * 2.5;
    r->flops = r->m ? 2.0 * 64 * 512 * 512 : 0;
    if (strcmp(r->backend, "cublas") == 0) {
        r->flops *= 64;
        snprintf(r->algorithm, sizeof r->algorithm, "algorithm 66, tile %d, first of 8",
                 is_change("algorithm") && !r->variant[0] ? 20 : 18);
    }
    if (strcmp(fills[f], "zeros") == 0) {
        r->verdict = QG_MISTRUSTED;
        snprintf(r->reason, sizeof r->reason, "all outputs are zero");
    }
}

static void apply_change(struct qg_record *r, uint8_t *output, double *median)
{
    bool here = strcmp(r->scheme, "int4") == 0 && strcmp(r->op, "fake-quant") == 0 &&
                strcmp(r->data, "normal") == 0;
    if (is_change("hostile") && here) {
        snprintf(r->scheme, sizeof r->scheme, "<script>alert(1)<");
        snprintf(r->spelling, sizeof r->spelling, "x' <script>alert(1)</script> \x1b[31m\xff|`\"&");
        snprintf(r->reason, sizeof r->reason, "</td><script>alert(2)</script>,\"\n");
        snprintf(r->data, sizeof r->data, "<img src=x onerror=alert(3)>");
        r->verdict = QG_FAIL;
    }
    if (is_change("inputs"))
        r->input_hash++, r->output_hash++;
    if ((is_change("bits") || is_change("quality")) && here) {
        r->output_hash++;
        output[34] ^= 1;
        r->sqnr_db -= is_change("quality") ? 1 : 0;
    }
    if (is_change("fail") && here) {
        r->verdict = QG_FAIL;
        r->mismatches = 3, r->first_bad = 17;
        snprintf(r->reason, sizeof r->reason, "3 of 262144 elements differ, first at 17");
    }
    if (is_change("slow") && strcmp(r->scheme, "int8") == 0 && r->m)
        *median *= 1.25;
    if (is_change("clocks") && is_of_device(r))
        *median *= 1.4;
}

static void append_case(struct qg_result_writer *w, size_t s, size_t o, const char *backend,
                        size_t f)
{
    struct qg_record r;
    struct qg_error err;
    double samples[2 * SAMPLES], median = 2e-5 * (double)(1 + s + 3 * o);
    uint8_t output[64];
    describe(&r, s, o, backend, f);
    if (r.m && strcmp(backend, "c") == 0)
        median *= 9;
    for (size_t i = 0; i < sizeof output; i++)
        output[i] = (uint8_t)qg_rng_bits(9, r.input_hash, i);
    if (o == 0)
        fill_histogram(&r, s);
    apply_change(&r, output, &median);
    time_case(&r, samples, median);
    if (!(is_change("missing") && s == 2))
        check(qg_result_append(w, &r, samples, 2 * SAMPLES, output, sizeof output, &err), &err);
}

static void append_gaps(struct qg_result_writer *w)
{
    static const double model[] = {45.5, 15.06, 22.375, 15.5, 19.25, INFINITY, INFINITY, INFINITY};
    for (size_t s = 0; s < COMMON; s++) {
        for (uint64_t seed = 123; seed < 144; seed++) {
            struct qg_error err;
            struct qg_gap g = {.seed = seed, .count = 327680, .first = -1};
            double db = model[s] + (seed == 123 ? 0 : 0.5 * qg_rng_normal(4, s, seed));
            snprintf(g.scheme, sizeof g.scheme, "%s", schemes[s]);
            snprintf(g.source, sizeof g.source, "torch-model");
            snprintf(g.what, sizeof g.what, "model");
            g.sqnr_db = g.sqnr_bf16_db = db;
            g.differ = isinf(db) ? 0 : 1000 + seed;
            g.first = isinf(db) ? -1 : 5;
            if (!isinf(db))
                snprintf(g.cause, sizeof g.cause, "two roundings");
            check(qg_result_append_row(w, QG_TABLE_GAP, &g, &err), &err);
        }
    }
}

/* What one scheme did to a model; KL and ln ppl with intervals of a tenth of them. */
static void append_modelled(struct qg_result_writer *w, size_t s, const char *path)
{
    struct qg_error err;
    struct qg_modelled m = {.context = 256, .documents = 8, .tokens = 4096, .level = 0.95};
    double factor = s != 0                       ? 1
                    : is_change("models-worse")  ? 1.3
                    : is_change("models-better") ? 0.7
                    : is_change("models-other")  ? 1.05
                                                 : 1;
    snprintf(m.model_hash, sizeof m.model_hash, "0123456789abcdef");
    snprintf(m.what, sizeof m.what, "scheme");
    snprintf(m.name, sizeof m.name, "%s", schemes[s]);
    snprintf(m.path, sizeof m.path, "%s", path);
    snprintf(m.dtype, sizeof m.dtype, "BF16");
    m.kl = 1e-3 * (double)(s + 1) * factor, m.kl_low = 0.9 * m.kl, m.kl_high = 1.1 * m.kl;
    m.delta = m.kl, m.delta_low = m.kl - 2e-3, m.delta_high = m.kl + 2e-3;
    m.ppl = 3.5 * exp(m.delta), m.ppl_low = m.ppl - 0.1, m.ppl_high = m.ppl + 0.1;
    if (is_change("models-failed") && s == 0)
        snprintf(m.reason, sizeof m.reason, "document 0, token 3: logits are not finite");
    check(qg_result_append_row(w, QG_TABLE_LM, &m, &err), &err);
}

static void append_models(struct qg_result_writer *w)
{
    for (size_t s = 0; s < COMMON; s++) {
        struct qg_error err;
        struct qg_foretold f = {.documents = 8, .bits_per_weight = 4.5};
        snprintf(f.model_hash, sizeof f.model_hash, "0123456789abcdef");
        snprintf(f.what, sizeof f.what, "scheme");
        snprintf(f.name, sizeof f.name, "%s", schemes[s]);
        f.kl_by_weights = f.kl_by_outputs = 1e-3 * (double)(s + 1);
        if (is_change("models-foretold") && s == 2)
            f.kl_by_outputs = nextafter(f.kl_by_outputs, 1);
        append_modelled(w, s, "prepared");
        if (!(is_change("models-gone") && s == 1))
            append_modelled(w, s, "converted");
        check(qg_result_append_row(w, QG_TABLE_PROXY, &f, &err), &err);
    }
}

/* What three kernels take, for two targets. */
static void append_resources(struct qg_result_writer *w)
{
    static const char *const kernels[] = {"quantize_units<prepare>", "quantize_units<storing>",
                                          "each_piece<restoring>"};
    for (size_t i = 0; i < 6; i++) {
        struct qg_error err;
        struct qg_resource r = {.registers = 80, .barriers = 1, .block = 256, .shared = 64};
        bool changed = i == 1;
        if (changed && is_change("resources-gone"))
            continue;
        snprintf(r.file, sizeof r.file, "int4");
        snprintf(r.kernel, sizeof r.kernel, "%s",
                 changed && is_change("resources-hostile") ? "<script>\033[2J|*" : kernels[i / 2]);
        snprintf(r.target, sizeof r.target, "%s", i % 2 ? "sm_90a" : "sm_80");
        snprintf(r.limit, sizeof r.limit, "registers");
        r.warps = 24, r.most_warps = 64;
        r.stack = r.spill_stores = r.spill_loads = changed && is_change("resources-spill") ? 8 : 0;
        r.stack += changed && is_change("resources-stack") ? 32 : 0;
        r.registers += changed && is_change("resources-registers");
        if (changed && is_change("resources-warps"))
            r.registers = 90, r.warps = 16;
        check(qg_result_append_row(w, QG_TABLE_RESOURCES, &r, &err), &err);
    }
}

int main(int argc, char **argv)
{
    struct qg_result_writer *w;
    struct qg_error err;
    struct qg_meta m = {0};
    if (argc < 2)
        return 2;
    change = argc > 2 ? argv[2] : "nothing";
    noise_stream = strlen(change);
    qg_meta_set(&m, "version", "0.1.0");
    qg_meta_set(&m, "commit", is_change("nothing") ? "0000000" : "1111111");
    qg_meta_set(&m, "compiler", is_change("facts") ? "clang 14" : "gcc 12.2.0");
    qg_meta_set(&m, "cpu", "a test's cpu");
    qg_meta_set(&m, "suite", "smoke");
    qg_meta_set(&m, "seed", "7");
    qg_meta_set(&m, "time_utc", "2026-01-02T03:04:05Z");
    if (is_change("incomplete") || is_change("nothing")) // older files do not say
        qg_meta_set(&m, "cases_planned", is_change("incomplete") ? "300" : "280");
    check(qg_result_create(argv[1], &m, false, QG_RESULT_REPLACE, &w, &err), &err);
    bool models = strncmp(change, "models", 6) == 0;
    bool cases = !models && !is_change("empty") && !is_change("resources-alone");
    for (size_t s = 0; s < COMMON && cases; s++)
        for (size_t o = 0; o < sizeof ops / sizeof *ops; o++)
            for (size_t f = 0; f < sizeof fills / sizeof *fills; f++) {
                append_case(w, s, o, "c", f);
                if (strcmp(ops[o], "matmul") == 0)
                    append_case(w, s, o, "blas", f);
            }
    if (cases)
        append_gaps(w);
    if (is_change("device") || is_change("algorithm") || is_change("clocks") ||
        is_change("throttled")) {
        append_case(w, 0, 1, "cuda", 0);
        append_case(w, 0, 3, "cuda", 0);
        append_case(w, 0, 3, "cublas", 0);
        append_case(w, 0, 3, "cublas.nvfp4", 0);
        append_case(w, 2, 3, "cublas.e4m3", 0);
        append_case(w, UNQUANTIZED, 3, "cublas", 0);
        append_case(w, UNQUANTIZED, 3, "cublas.tf32", 0);
    }
    if (models)
        append_models(w);
    if (strncmp(change, "resources", 9) == 0)
        append_resources(w);
    check(qg_result_close(&w, &err), &err);
    return 0;
}
