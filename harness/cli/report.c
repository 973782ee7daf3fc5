/* SPDX-License-Identifier: MIT
 *
 * qgauge report: a result file as a page with plots.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/cli/cli.h"
#include "reports/report.h"

const struct qg_command qg_command_report;

struct request {
    const char *in, *dir;
    bool force;
};

static int parse(int argc, char **argv, struct request *q)
{
    static const struct option options[] = {
        {"output", required_argument, NULL, 'o'}, {"force", no_argument, NULL, 'w'}, {0}};
    *q = (struct request){0};
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "o:", options, NULL)) != -1;) {
        if (o == 'o')
            q->dir = optarg;
        else if (o == 'w')
            q->force = true;
        else
            return qg_usage_error(&qg_command_report, "'%s' is not understood", argv[optind - 1]);
    }
    if (argc - optind != 1 || !q->dir)
        return qg_usage_error(&qg_command_report, "one result file and -o DIR are needed");
    if (strlen(q->dir) > 3000)
        return qg_usage_error(&qg_command_report, "the name of the folder is too long");
    q->in = argv[optind];
    return QG_EXIT_OK;
}

static enum qg_status make_folder(const struct request *q, struct qg_error *err)
{
    char page[3100];
    snprintf(page, sizeof page, "%s/index.html", q->dir);
    if (mkdir(q->dir, 0777) != 0 && errno != EEXIST)
        return qg_fail(err, QG_EIO, "%s: %s", q->dir, strerror(errno));
    if (!q->force && access(page, F_OK) == 0)
        return qg_fail(err, QG_EIO, "%s: exists already; give another folder or --force", page);
    return QG_OK;
}

/* What the reader of the terminal would otherwise only see on the page. */
static void tell(const struct request *q, const struct qg_plot plot[QG_PLOTS])
{
    for (size_t i = 0; i < QG_PLOTS; i++) {
        const char *name = plot[i].name;
        if (plot[i].state == QG_PLOT_NO_GNUPLOT)
            fprintf(stderr, "qgauge report: no %s.svg: gnuplot is not installed\n", name);
        else if (plot[i].state == QG_PLOT_FAILED)
            fprintf(stderr, "qgauge report: no %s.svg: (cd %s && gnuplot %s.gp) says why\n", name,
                    q->dir, name);
        else if (plot[i].state == QG_PLOT_EMPTY)
            fprintf(stderr, "qgauge report: no %s.svg: the run holds nothing for it\n", name);
    }
    printf("%s/index.html\n", q->dir);
}

static int run(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    struct qg_result *r = NULL;
    struct qg_plot plot[QG_PLOTS];
    int code = parse(argc, argv, &q);
    if (code != QG_EXIT_OK)
        return code;
    if (qg_result_open(q.in, &r, &err) != QG_OK || make_folder(&q, &err) != QG_OK ||
        qg_report_html(r, q.in, q.dir, plot, &err) != QG_OK)
        code = qg_report_error(&qg_command_report, &err);
    else
        tell(&q, plot);
    qg_result_free(&r);
    return code;
}

const struct qg_command qg_command_report = {
    .name = "report",
    .summary = "a result file as a page with plots",
    .help =
        "usage: qgauge report RESULTS.h5 -o DIR [--force]\n"
        "\n"
        "Writes DIR/index.html, which needs neither network nor JavaScript, and for each plot its\n"
        "data (.tsv, columns by name), its script (.gp) and its picture (.svg); `gnuplot NAME.gp`\n"
        "in DIR draws it again. Without gnuplot the page says so and the data are there all the\n"
        "same. The same results give the same bytes. --force replaces an earlier report.\n"
        "\n"
        "Prints the name of the page.\n",
    .run = run,
};
