/* SPDX-License-Identifier: MIT
 *
 * qgauge repro: one case, with everything that is known about it.
 */
#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "harness/cli/cli.h"
#include "harness/judge.h"
#include "schemes/num/int4.h"

extern const struct qg_command qg_command_repro;

#define TIMEOUT_S 60.0

static uint32_t bits_of(const struct qg_tensor *t, size_t i)
{
    const uint8_t *p = (const uint8_t *)t->data + i * qg_dtype_bytes(t->dtype);
    uint32_t bits = 0;
    for (size_t b = qg_dtype_bytes(t->dtype); b-- > 0;)
        bits = bits << 8 | p[b];
    return bits;
}

static void print_value(const char *label, const struct qg_tensor *t, size_t i)
{
    printf("  %-10s 0x%0*" PRIx32 "  %.9g\n", label, (int)(2 * qg_dtype_bytes(t->dtype)),
           bits_of(t, i), (double)qg_get(t, i));
}

/* "[3, 17]" */
static void print_index(const struct qg_tensor *t, size_t i)
{
    size_t index[QG_MAX_RANK];
    for (int d = t->rank; d-- > 0; i /= t->shape[d])
        index[d] = i % t->shape[d];
    for (int d = 0; d < t->rank; d++)
        printf("%s%zu", d ? ", " : "[", index[d]);
    printf("]");
}

/* The element of the quantized tensor [R,K] that an element of an output belongs to: itself, the
 * first of its byte, or the first of its group. A block that holds codes and scales together is
 * taken to be evenly filled. */
static size_t element_of(const struct qg_args *a, int out, size_t at)
{
    const struct qg_tensor *t = &a->out[out];
    if (a->op != QG_CONVERT)
        return at;
    const struct qg_plane *plane = &a->scheme->operand[a->operand].planes[out];
    size_t row = 0, col = 0;
    for (int d = t->rank; d-- > 0; at /= t->shape[d]) {
        size_t i = at % t->shape[d];
        row += plane->shape[d] == &qg_ext_rows ? i : 0;
        col += plane->shape[d] == &qg_ext_rows     ? 0
               : plane->shape[d] == &qg_ext_groups ? i * qg_group(a)
                                                   : i * a->cols / t->shape[d];
    }
    size_t element = row * a->cols + col;
    return element < a->rows * a->cols ? element : 0;
}

/* The definition's steps for one element: it runs once more, with a trace. */
static void print_trace(struct qg_judgement *j, size_t element)
{
    struct qg_trace trace = {.index = element};
    struct qg_args *w = &j->want.args;
    w->trace = &trace;
    qg_definition(w->scheme, w->operand, w->op)(w);
    w->trace = NULL;
    if (trace.n)
        printf("the definition, step by step, for element [%zu, %zu]:\n", element / w->cols,
               element % w->cols);
    for (int i = 0; i < trace.n; i++)
        printf("  %-28s 0x%08" PRIx32 "  %.9g\n", trace.step[i].what,
               qg_f32_bits(trace.step[i].value), (double)trace.step[i].value);
}

static void print_wrong(struct qg_judgement *j)
{
    struct qg_args *w = &j->want.args;
    const struct qg_tensor *want = &w->out[j->wrong_out], *got = &j->got.args.out[j->wrong_out];
    printf("first wrong element: '%s'", want->name);
    print_index(want, j->wrong_at);
    if (!qg_is_product(w->op)) {
        size_t e = element_of(w, j->wrong_out, j->wrong_at);
        printf(", row %zu, group %zu of %zu elements", e / w->cols, e % w->cols / qg_group(w),
               qg_group(w));
    }
    puts("");
    print_value("got", got, j->wrong_at);
    print_value("want", want, j->wrong_at);
    size_t at = j->wrong_at; // among all outputs
    for (int i = 0; i < j->wrong_out; i++)
        at += qg_count(&w->out[i]);
    if (w->exact)
        printf("  %-10s %.17g, bound %.3g\n", "exact", w->exact[at], w->bound[at]);
    if (w->op == QG_FAKE_QUANT || w->op == QG_FAKE_QUANT_GRAD || w->op == QG_CONVERT)
        print_value("x", &w->in[0], element_of(w, j->wrong_out, j->wrong_at));
    if (!qg_is_product(w->op) && w->op != QG_FAKE_QUANT_GRAD)
        print_trace(j, element_of(w, j->wrong_out, j->wrong_at));
}

static void print_record(const struct qg_record *r)
{
    printf("%s%s%s\n", qg_verdict_name((enum qg_verdict)r->verdict), *r->reason ? ": " : "",
           r->reason);
    printf("  elements %" PRIu64 ", different bits %" PRIu64 ", other class %" PRIu64
           ", max ulp %g\n",
           r->count, r->mismatches, r->class_mismatches, r->max_ulp);
    if (*r->algorithm)
        printf("  cuBLASLt chose %s\n", r->algorithm);
    if (r->codes)
        printf("  codes %" PRIu64 ", changed %" PRIu64 "\n", r->codes, r->codes_changed);
    if (isfinite(r->bound_used))
        printf("  share of the proved bound used %.3g\n", r->bound_used);
    if (!isnan(r->sqnr_db))
        printf("  SQNR %.4f dB, NMSE %.6g, against the unquantized numbers\n", r->sqnr_db, r->nmse);
    printf("  hash of inputs %016" PRIx64 ", of outputs %016" PRIx64 "\n", r->input_hash,
           r->output_hash);
}

static void print_shapes(const struct qg_judgement *j)
{
    const struct qg_args *a = &j->got.args;
    for (int i = 0; i < a->n_in + a->n_out; i++) {
        const struct qg_tensor *t = i < a->n_in ? &a->in[i] : &a->out[i - a->n_in];
        printf("  %s %-8s %-8s [", i < a->n_in ? "in " : "out", t->name, qg_dtype_name(t->dtype));
        for (int d = 0; d < t->rank; d++)
            printf("%s%zu", d ? ", " : "", t->shape[d]);
        puts("]");
    }
}

static int print_judgement(struct qg_judgement *j)
{
    const struct qg_record *r = &j->record;
    printf("%s\n", r->spelling);
    print_shapes(j);
    print_record(r);
    if (j->wrong_out >= 0)
        print_wrong(j);
    bool bad = r->verdict == QG_FAIL || r->verdict == QG_CRASH || r->verdict == QG_TIMEOUT;
    return bad ? QG_EXIT_FAIL : r->verdict == QG_SKIP ? QG_EXIT_SKIP : QG_EXIT_OK;
}

static int reproduce(const char *spelling)
{
    struct qg_case c;
    struct qg_error err;
    struct qg_model *file = NULL;
    struct qg_judgement j = {0};
    const struct qg_bench no_timing = {0};
    enum qg_status status = qg_case_parse(&c, spelling, &err);
    if (status == QG_OK && !c.fill)
        status = qg_model_open(c.file, &file, &err);
    if (status == QG_OK && !c.fill)
        status = qg_case_bind(&c, file, &err);
    if (status == QG_OK)
        status = qg_judge(&c, &no_timing, TIMEOUT_S, &j, &err);
    int code = status == QG_OK ? print_judgement(&j) : qg_report_error(&qg_command_repro, &err);
    qg_judgement_free(&j);
    qg_model_close(&file);
    return code;
}

static int run(int argc, char **argv)
{
    char spelling[1024];
    size_t n = 0;
    spelling[0] = '\0';
    for (int i = 1; i < argc && n < sizeof spelling; i++) // quoted or not
        n += (size_t)snprintf(spelling + n, sizeof spelling - n, "%s%s", i > 1 ? " " : "", argv[i]);
    if (argc < 2 || argv[1][0] == '-')
        return qg_usage_error(&qg_command_repro, "which case? give its spelling");
    return reproduce(spelling);
}

const struct qg_command qg_command_repro = {
    .name = "repro",
    .summary = "repeat one case and show its first wrong element",
    .help =
        "usage: qgauge repro 'SPELLING'\n"
        "\n"
        "Repeats one case bit for bit, as `qgauge run` prints it:\n"
        "  qgauge repro 'int4.convert.c 256x4096 bf16 fill=normal seed=7'\n"
        "  qgauge repro 'int4.matmul.c 8x256x4096 bf16 weights=model.safetensors tensor=up "
        "seed=7'\n"
        "and prints verdict, quality, hashes and, when it is wrong, the first wrong element with\n"
        "what the definition computes there step by step. Exit code 1 when it is wrong, 77 when\n"
        "the scheme refuses the shape.\n",
    .run = run,
};
