/* SPDX-License-Identifier: MIT
 *
 * qgauge report: a result file as a page with plots.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
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

enum { PATH_SIZE = 4096 };

static void join(char path[PATH_SIZE], const char *dir, const char *name)
{
    snprintf(path, PATH_SIZE, "%s/%s", dir, name);
}

/* Nothing that a report is made of may be there, unless it may be replaced; the results never. */
static enum qg_status look_for_others(const struct request *q, struct qg_error *err)
{
    char name[64], path[PATH_SIZE];
    struct stat results, there;
    if (stat(q->in, &results) != 0)
        return qg_fail(err, QG_EIO, "%s: %s", q->in, strerror(errno));
    for (size_t i = 0; qg_report_file(i, name, sizeof name); i++) {
        join(path, q->dir, name);
        if (lstat(path, &there) != 0)
            continue;
        if (there.st_dev == results.st_dev && there.st_ino == results.st_ino)
            return qg_fail(err, QG_EINVAL, "%s: is the result file itself; give another folder",
                           path);
        if (!q->force)
            return qg_fail(err, QG_EIO, "%s: exists already; give another folder or --force", path);
    }
    return QG_OK;
}

/* Makes the folder where it is absent, and in it an empty one to work in. */
static enum qg_status make_folders(const struct request *q, char work[PATH_SIZE],
                                   struct qg_error *err)
{
    if (mkdir(q->dir, 0777) != 0 && errno != EEXIST)
        return qg_fail(err, QG_EIO, "%s: %s", q->dir, strerror(errno));
    join(work, q->dir, "report.XXXXXX");
    return mkdtemp(work) ? QG_OK : qg_fail(err, QG_EIO, "%s: %s", q->dir, strerror(errno));
}

/* Moves a whole report to its place. What an earlier one had and this one has not goes away. */
static enum qg_status publish(const struct request *q, const char *work, struct qg_error *err)
{
    char name[64], from[PATH_SIZE], to[PATH_SIZE];
    for (size_t i = 0; qg_report_file(i, name, sizeof name); i++) {
        join(from, work, name);
        join(to, q->dir, name);
        bool done =
            access(from, F_OK) == 0 ? rename(from, to) == 0 : unlink(to) == 0 || errno == ENOENT;
        if (!done)
            return qg_fail(err, QG_EIO, "%s: %s", to, strerror(errno));
    }
    return QG_OK;
}

/* Removes the working folder, and after a failure the other one if nothing else is in it. */
static void clear(const struct request *q, const char *work, bool failed)
{
    char name[64], path[PATH_SIZE];
    for (size_t i = 0; qg_report_file(i, name, sizeof name); i++) {
        join(path, work, name);
        unlink(path);
    }
    rmdir(work);
    if (failed)
        rmdir(q->dir);
}

/* The report is written beside its place and moved there when it is whole. */
static enum qg_status make_report(const struct request *q, const struct qg_result *r,
                                  struct qg_plot plot[QG_PLOTS], struct qg_error *err)
{
    char work[PATH_SIZE];
    if (look_for_others(q, err) != QG_OK || make_folders(q, work, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_report_html(r, q->in, work, plot, err);
    if (status == QG_OK)
        status = publish(q, work, err);
    clear(q, work, status != QG_OK);
    return status;
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
    if (qg_result_open(q.in, &r, &err) != QG_OK || make_report(&q, r, plot, &err) != QG_OK)
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
        "same. The same results give the same bytes. Files that are there are kept, and the report "
        "is\n"
        "not written; --force replaces them, once the new report is whole.\n"
        "\n"
        "Prints the name of the page.\n",
    .run = run,
};
