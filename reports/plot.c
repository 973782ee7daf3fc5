/* SPDX-License-Identifier: MIT
 *
 * Plots, see plot.h: the data as TSV, the committed scripts beside them, gnuplot as a child.
 */
#define _GNU_SOURCE /* posix_spawn_file_actions_addchdir_np */
#include "reports/plot.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <spawn.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "reports/put.h"

/* A text as one field: gnuplot takes a double quote for the start of a quoted field. */
static void put_field(FILE *out, const char *s)
{
    for (const char *p = *s ? s : "-"; *p; p++)
        putc(*p == '"' ? '\'' : *p == '\t' || *p == '\n' ? ' ' : *p, out);
}

/* --- data: each writes a header and lines, and returns the number of lines ------------------- */

static size_t sqnr_data(const struct qg_digest *d, FILE *out)
{
    size_t lines = 0, y = 0;
    fputs("row\tcolumn\tscheme\tdata\tsqnr_db\tcases\n", out);
    for (size_t row = 0; row < d->row.n; row++) {
        size_t before = lines;
        for (size_t data = 0; data < d->data.n; data++) {
            size_t cases;
            double db = qg_digest_sqnr(d, row, "fake-quant", data, &cases);
            if (!cases)
                continue;
            fprintf(out, "%zu\t%zu\t", y, data);
            put_field(out, d->row.name[row]);
            putc('\t', out);
            put_field(out, d->data.name[data]);
            fprintf(out, "\t%s\t%zu\n", qg_text_exact(db).s, cases);
            lines++;
        }
        y += lines > before;
    }
    return lines;
}

/* The first comparison of the same scheme with the same parameters. */
static size_t first_like(const struct qg_result *r, const struct qg_gap *g)
{
    size_t i = 0;
    while (strcmp(r->gaps[i].scheme, g->scheme) != 0 || strcmp(r->gaps[i].params, g->params) != 0)
        i++;
    return i;
}

static size_t gap_data(const struct qg_digest *d, FILE *out)
{
    char source[sizeof d->r->gaps->source];
    fputs("column\tscheme\tparams\tsource\twhat\tseed\tsqnr_db\tsqnr_bf16_db\n", out);
    for (size_t i = 0; i < d->r->n_gaps; i++) {
        const struct qg_gap *g = &d->r->gaps[i];
        size_t column = 0; // in the order of first appearance
        for (size_t k = 0, first = first_like(d->r, g); k < first; k++)
            column += first_like(d->r, &d->r->gaps[k]) == k;
        fprintf(out, "%zu\t", column);
        put_field(out, g->scheme);
        putc('\t', out);
        put_field(out, g->params);
        putc('\t', out);
        qg_data_label(g->source, source, sizeof source);
        put_field(out, source);
        putc('\t', out);
        put_field(out, g->what);
        fprintf(out, "\t%llu\t%s\t%s\n", (unsigned long long)g->seed, qg_text_exact(g->sqnr_db).s,
                qg_text_exact(g->sqnr_bf16_db).s);
    }
    return d->r->n_gaps;
}

/* Sums the histograms of a row over the cases with data `data`, or all: QG_NAMES_MAX. */
static double sum_histogram(const struct qg_digest *d, size_t row, size_t data,
                            double sum[QG_HISTOGRAM_BINS])
{
    double all = 0;
    memset(sum, 0, QG_HISTOGRAM_BINS * sizeof *sum);
    for (size_t i = 0; i < d->r->n_cases; i++) {
        if (d->at[i][0] != row || (data != QG_NAMES_MAX && d->at[i][1] != data))
            continue;
        for (size_t b = 0; b < QG_HISTOGRAM_BINS; b++) {
            sum[b] += d->r->cases[i].error_histogram[b];
            all += d->r->cases[i].error_histogram[b];
        }
    }
    return all;
}

static size_t error_data(const struct qg_digest *d, FILE *out)
{
    size_t lines = 0, normal = 0, panel = 0;
    double sum[QG_HISTOGRAM_BINS];
    while (normal < d->data.n && strcmp(d->data.name[normal], "normal") != 0)
        normal++;
    if (normal == d->data.n)
        normal = QG_NAMES_MAX;
    fputs("panel\tscheme\tbin\tlow_steps\thigh_steps\tcount\tshare_percent\n", out);
    for (size_t row = 0; row < d->row.n; row++) {
        double all = sum_histogram(d, row, normal, sum);
        for (size_t b = 0; all > 0 && b < QG_HISTOGRAM_BINS; b++, lines++) {
            double low = 2.0 * (double)b / QG_HISTOGRAM_BINS - 1;
            fprintf(out, "%zu\t", panel);
            put_field(out, d->row.name[row]);
            fprintf(out, "\t%zu\t%.5f\t%.5f\t%.0f\t%.6f\n", b, low, low + 2.0 / QG_HISTOGRAM_BINS,
                    sum[b], 100 * sum[b] / all);
        }
        panel += all > 0;
    }
    return lines;
}

/* One line: a row of the plot is an operation on a weight; the backends share it. */
static void put_time(FILE *out, size_t y, const char *scheme, const struct qg_record *c)
{
    const struct qg_timing *t = &c->warm;
    fprintf(out, "%zu\t", y);
    put_field(out, c->op);
    putc('\t', out);
    put_field(out, scheme);
    putc('\t', out);
    put_field(out, c->backend);
    fprintf(out, "%s%s\t", *c->variant ? "." : "", c->variant);
    fprintf(out, "%llu\t%llu\t%llu", (unsigned long long)c->m, (unsigned long long)c->rows,
            (unsigned long long)c->cols);
    const double numbers[] = {t->median_s,
                              t->low_s,
                              t->high_s,
                              c->bytes / t->median_s,
                              c->bytes / t->high_s,
                              c->bytes / t->low_s,
                              c->flops / t->median_s};
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        fprintf(out, "\t%s", qg_text_exact(numbers[i]).s);
    putc('\n', out);
}

static bool starts_with_op(const char *how, const char *op)
{
    size_t n = strlen(op);
    return strncmp(how, op, n) == 0 && how[n] == ' ';
}

static size_t time_data(const struct qg_digest *d, FILE *out)
{
    static const char *const ops[] = {"fake-quant", "fake-quant-grad", "convert",
                                      "dequant",    "matmul",          "lora"};
    size_t lines = 0, y = 0;
    fputs("row\top\tscheme\tbackend\tm\trows\tcols\tmedian_s\tlow_s\thigh_s\tbytes_per_s\t"
          "low_bytes_per_s\thigh_bytes_per_s\tflops_per_s\n",
          out);
    for (size_t o = 0; o < sizeof ops / sizeof ops[0]; o++) {
        for (size_t row = 0; row < d->row.n; row++) {
            size_t before = lines;
            for (size_t how = 0; how < d->how.n; how++) {
                const struct qg_record *c = starts_with_op(d->how.name[how], ops[o])
                                                ? qg_digest_largest(d, row, how, qg_is_timed)
                                                : NULL;
                if (!c || strcmp(c->operand, "weight") != 0)
                    continue;
                put_time(out, y, d->row.name[row], c);
                lines++;
            }
            y += lines > before;
        }
    }
    return lines;
}

/* Whether a row is one that the plot shows: the model as it is shipped, of the first model and text
 * of the file. */
static bool is_shown(const struct qg_result *r, const struct qg_modelled *m)
{
    const struct qg_modelled *first = &r->modelled[0];
    return strcmp(m->path, "converted") == 0 && !m->reason[0] && !m->training[0] && m->kl > 0 &&
           m->bits_per_weight > 0 && strcmp(m->model_hash, first->model_hash) == 0 &&
           strcmp(m->text_hash, first->text_hash) == 0 && m->context == first->context;
}

static int by_size(const void *a, const void *b)
{
    const struct qg_modelled *x = *(const struct qg_modelled *const *)a,
                             *y = *(const struct qg_modelled *const *)b;
    if (x->bits_per_weight != y->bits_per_weight)
        return x->bits_per_weight < y->bits_per_weight ? -1 : 1;
    return x->kl < y->kl ? -1 : x->kl > y->kl;
}

/* A line of the plot; rows are in the order of their size. */
static void put_quality(FILE *out, const struct qg_modelled *const *rows, size_t n, size_t i)
{
    const struct qg_modelled *m = rows[i];
    size_t slot = 0; // names stand in the order of their KL
    bool front = true;
    for (size_t k = 0; k < n; k++) {
        slot += rows[k]->kl < m->kl || (rows[k]->kl == m->kl && k < i);
        front = front && (k >= i || rows[k]->kl > m->kl);
    }
    fprintf(out, "%zu\t%d\t", slot, front);
    put_field(out, m->name);
    putc('\t', out);
    put_field(out, m->params);
    const double numbers[] = {m->bits_per_weight, m->bytes, m->kl,        m->kl_low,
                              m->kl_high,         m->delta, m->delta_low, m->delta_high};
    for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
        fprintf(out, "\t%s", qg_text_exact(numbers[k]).s);
    putc('\t', out);
    put_field(out, m->verdict);
    putc('\n', out);
}

static size_t quality_data(const struct qg_digest *d, FILE *out)
{
    size_t n = 0;
    const struct qg_modelled **rows = calloc(d->r->n_modelled + 1, sizeof *rows);
    fputs("slot\tfront\tname\tparams\tbits_per_weight\tbytes\tkl\tkl_low\tkl_high\tdelta\t"
          "delta_low\tdelta_high\tverdict\n",
          out);
    for (size_t i = 0; rows && i < d->r->n_modelled; i++)
        if (is_shown(d->r, &d->r->modelled[i]))
            rows[n++] = &d->r->modelled[i];
    if (n)
        qsort(rows, n, sizeof *rows, by_size);
    for (size_t i = 0; i < n; i++)
        put_quality(out, rows, n, i);
    free(rows);
    return n;
}

/* A point of the plot: what was foretold, and what came. */
struct point {
    const struct qg_foretold *f;
    struct qg_measured_kl m;
};

static int by_prediction(const void *a, const void *b)
{
    double x = ((const struct point *)a)->f->kl_by_outputs,
           y = ((const struct point *)b)->f->kl_by_outputs;
    return x < y ? -1 : x > y;
}

static void put_point(FILE *out, const struct point *p, size_t slot)
{
    fprintf(out, "%zu\t%d\t", slot, qg_is_off(p->f, &p->m));
    put_field(out, p->f->name);
    putc('\t', out);
    put_field(out, p->f->params);
    putc('\t', out);
    put_field(out, p->f->inputs);
    const double numbers[] = {p->f->kl_by_weights, p->f->kl_by_outputs, p->m.value, p->m.low,
                              p->m.high};
    for (size_t k = 0; k < sizeof numbers / sizeof numbers[0]; k++)
        fprintf(out, "\t%s", qg_text_exact(numbers[k]).s);
    putc('\n', out);
}

/* In the order of what was foretold, in which the names of those that are off stand. */
static size_t proxy_data(const struct qg_digest *d, FILE *out)
{
    size_t n = 0, slot = 0;
    struct point *points = calloc(d->r->n_foretold + 1, sizeof *points);
    fputs("slot\toff\tname\tparams\tinputs\tkl_by_weights\tkl_by_outputs\tkl\tkl_low\tkl_high\n",
          out);
    for (size_t i = 0; points && i < d->r->n_foretold; i++) {
        const struct qg_foretold *f = &d->r->foretold[i];
        struct point p = {f, qg_kl_measured(d->r, f)};
        if (p.m.value > 0 && f->kl_by_outputs > 0)
            points[n++] = p;
    }
    if (n)
        qsort(points, n, sizeof *points, by_prediction);
    for (size_t i = 0; i < n; i++) {
        put_point(out, &points[i], slot);
        slot += qg_is_off(points[i].f, &points[i].m);
    }
    free(points);
    return n;
}

/* --- drawing --------------------------------------------------------------------------------- */

static const struct {
    const char *name, *title, *caption;
    size_t (*data)(const struct qg_digest *d, FILE *out);
} plots[QG_PLOTS] = {
    {"sqnr", "What each scheme keeps of each kind of data",
     "SQNR of the prepare (fake-quant) path against the unquantized tensor, in dB; more is better, "
     "6 dB is one bit. inf: nothing was lost. A dash: no number, as for data that are all zero or "
     "not finite.",
     sqnr_data},
    {"gap", "How far the prepare path is from the converted model",
     "Each point is one comparison of training-time and converted arithmetic: higher is closer, "
     "and "
     "the row at the top marks those that agree in every bit.",
     gap_data},
    {"error", "Where the rounding errors lie on the grid",
     "Error of the prepare path in steps of the group's scale. Rounding to the nearest code stays "
     "within the shaded half step; mass outside is clipping, a second rounding that is coarser "
     "(bf16 is, for int8 "
     "codes), or a bug.",
     error_data},
    {"time", "Time and bandwidth of the kernels",
     "Warm calls on the largest shape of the run: medians with 95 % intervals. Bandwidth counts "
     "the "
     "least traffic that the operation needs.",
     time_data},
    {"quality", "Quality of a model",
     "Mean KL of the predictions of the model as it is to those of the converted one, with its "
     "interval, against the size of the whole model. The line joins those that nothing of their "
     "size or smaller beats; names stand in the order of their KL.",
     quality_data},
    {"proxy", "What errors of matrices foretell",
     "Mean KL foretold from the relative errors of what the matrices put out, without a run of the "
     "model, against the KL that was measured, with its interval. Within the band a prediction is "
     "off by less than 10 %; names are those outside, with what was foretold over what came.",
     proxy_data},
};

const char *qg_plot_name(size_t i)
{
    return plots[i].name;
}

static char *path_of(const char *dir, const char *name, const char *suffix)
{
    size_t n = strlen(dir) + strlen(name) + strlen(suffix) + 2;
    char *path = malloc(n);
    if (path)
        snprintf(path, n, "%s/%s%s", dir, name, suffix);
    return path;
}

static enum qg_status finish(FILE *f, const char *path, struct qg_error *err)
{
    bool failed = ferror(f) != 0;
    if (fclose(f) == 0 && !failed)
        return QG_OK;
    return qg_fail(err, QG_EIO, "%s: write: %s", path, strerror(errno));
}

static enum qg_status write_data(const struct qg_digest *d, const char *dir, size_t i,
                                 size_t *ret_lines, struct qg_error *err)
{
    char *path = path_of(dir, plots[i].name, ".tsv");
    FILE *out = path ? fopen(path, "w") : NULL;
    enum qg_status status = QG_OK;
    if (!out)
        status = qg_fail(err, QG_EIO, "%s/%s.tsv: %s", dir, plots[i].name, strerror(errno));
    else {
        *ret_lines = plots[i].data(d, out);
        status = finish(out, path, err);
    }
    free(path);
    return status;
}

static enum qg_status copy_script(const char *dir, const char *name, struct qg_error *err)
{
    char *from = path_of(QG_SOURCE_ROOT "/reports/plots", name, ".gp");
    char *to = path_of(dir, name, ".gp");
    FILE *in = from ? fopen(from, "r") : NULL, *out = in && to ? fopen(to, "w") : NULL;
    enum qg_status status = QG_OK;
    if (!out)
        status = qg_fail(err, QG_EIO, "%s: %s", in ? to : from, strerror(errno));
    for (int c; out && (c = getc(in)) != EOF;)
        putc(c, out);
    if (in)
        fclose(in);
    if (out)
        status = finish(out, to, err);
    free(from);
    free(to);
    return status;
}

/* Runs `gnuplot NAME.gp` in the folder, without the user's start-up file and locale, and silent. */
static enum qg_plot_state draw(const char *dir, const char *name)
{
    char script[32], path[4096];
    const char *search = getenv("PATH");
    snprintf(script, sizeof script, "%s.gp", name);
    snprintf(path, sizeof path, "PATH=%s", search ? search : "/usr/bin:/bin");
    char *arguments[] = {"gnuplot", "--default-settings", script, NULL};
    char *environment[] = {path, "LC_ALL=C", NULL};
    posix_spawn_file_actions_t actions;
    pid_t child;
    int how = 0;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addopen(&actions, STDERR_FILENO, "/dev/null", O_WRONLY, 0);
    posix_spawn_file_actions_addchdir_np(&actions, dir);
    int failed = posix_spawnp(&child, "gnuplot", &actions, NULL, arguments, environment);
    posix_spawn_file_actions_destroy(&actions);
    if (failed)
        return failed == ENOENT ? QG_PLOT_NO_GNUPLOT : QG_PLOT_FAILED;
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        ;
    return WIFEXITED(how) && WEXITSTATUS(how) == 0 ? QG_PLOT_DRAWN : QG_PLOT_FAILED;
}

/* Plots are of cases, but for those of models and of what was foretold. */
static enum qg_plot_state empty_state(const struct qg_result *r, size_t i)
{
    bool other = plots[i].data == quality_data ? r->n_modelled == 0
                 : plots[i].data == proxy_data ? r->n_foretold == 0
                                               : (r->n_modelled || r->n_foretold) && !r->n_cases;
    return other ? QG_PLOT_NOT_MEANT : QG_PLOT_EMPTY;
}

enum qg_status qg_plot_all(const struct qg_digest *d, const char *dir,
                           struct qg_plot ret_plot[QG_PLOTS], struct qg_error *err)
{
    for (size_t i = 0; i < QG_PLOTS; i++) {
        size_t lines = 0;
        if (write_data(d, dir, i, &lines, err) != QG_OK ||
            copy_script(dir, plots[i].name, err) != QG_OK)
            return err->status;
        ret_plot[i] = (struct qg_plot){plots[i].name, plots[i].title, plots[i].caption,
                                       lines ? draw(dir, plots[i].name) : empty_state(d->r, i)};
    }
    return QG_OK;
}
