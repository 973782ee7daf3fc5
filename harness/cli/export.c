/* SPDX-License-Identifier: MIT
 *
 * qgauge export: a result file as CSV or JSON.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/cli/cli.h"
#include "reports/report.h"

const struct qg_command qg_command_export;

struct request {
    const char *in, *out; /* out: NULL for stdout */
    bool json, force;
    enum qg_table_id table; /* of CSV */
};

static int take_table(struct request *q, const char *name)
{
    char all[128] = "";
    size_t n = 0;
    for (int t = 0; t < QG_TABLES; t++) {
        if (strcmp(qg_tables[t].name, name) == 0) {
            q->table = (enum qg_table_id)t;
            return QG_EXIT_OK;
        }
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", t ? ", " : "", qg_tables[t].name);
    }
    return qg_usage_error(&qg_command_export, "there is no table '%s'; there are: %s", name, all);
}

static int parse(int argc, char **argv, struct request *q)
{
    static const struct option options[] = {{"format", required_argument, NULL, 'f'},
                                            {"output", required_argument, NULL, 'o'},
                                            {"table", required_argument, NULL, 't'},
                                            {"force", no_argument, NULL, 'w'},
                                            {0}};
    const char *format = NULL, *table = NULL;
    *q = (struct request){0};
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "o:", options, NULL)) != -1;) {
        if (o == 'f')
            format = optarg;
        else if (o == 'o')
            q->out = strcmp(optarg, "-") == 0 ? NULL : optarg;
        else if (o == 't')
            table = optarg;
        else if (o == 'w')
            q->force = true;
        else
            return qg_usage_error(&qg_command_export, "'%s' is not understood", argv[optind - 1]);
    }
    if (!format || (strcmp(format, "csv") != 0 && strcmp(format, "json") != 0))
        return qg_usage_error(&qg_command_export, "--format csv or --format json is needed");
    if (argc - optind != 1)
        return qg_usage_error(&qg_command_export, "one result file is needed");
    q->json = strcmp(format, "json") == 0;
    q->in = argv[optind];
    if (table && q->json)
        return qg_usage_error(&qg_command_export, "--table is of csv; json has all tables");
    return table ? take_table(q, table) : QG_EXIT_OK;
}

static enum qg_status put(const struct request *q, const struct qg_result *r, FILE *out,
                          struct qg_error *err)
{
    if (q->json)
        return qg_export_json(r, out, err);
    qg_export_csv(r, q->table, out);
    return QG_OK;
}

static bool is_same_file(const char *a, const char *b)
{
    struct stat x, y;
    return stat(a, &x) == 0 && stat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

static enum qg_status put_file(const struct request *q, const struct qg_result *r,
                               struct qg_error *err)
{
    if (is_same_file(q->in, q->out))
        return qg_fail(err, QG_EINVAL, "%s: is the result file itself; give another name", q->out);
    FILE *out = fopen(q->out, q->force ? "w" : "wx");
    if (!out && errno == EEXIST)
        return qg_fail(err, QG_EIO, "%s: exists already; give another name or --force", q->out);
    if (!out)
        return qg_fail(err, QG_EIO, "%s: %s", q->out, strerror(errno));
    enum qg_status status = put(q, r, out, err);
    bool failed = ferror(out) != 0;
    if ((fclose(out) != 0 || failed) && status == QG_OK)
        status = qg_fail(err, QG_EIO, "%s: write: %s", q->out, strerror(errno));
    if (status != QG_OK)
        unlink(q->out);
    return status;
}

static int run(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    struct qg_result *r = NULL;
    int code = parse(argc, argv, &q);
    if (code != QG_EXIT_OK)
        return code;
    if (qg_result_open(q.in, &r, &err) != QG_OK ||
        (q.out ? put_file(&q, r, &err) : put(&q, r, stdout, &err)) != QG_OK)
        code = qg_report_error(&qg_command_export, &err);
    qg_result_free(&r);
    return code;
}

const struct qg_command qg_command_export = {
    .name = "export",
    .summary = "a result file as CSV or JSON",
    .help =
        "usage: qgauge export RESULTS.h5 --format csv|json [--table NAME] [-o FILE] [--force]\n"
        "\n"
        "csv   one line per row of a table: cases (default), gap, atlas, convert, lm, proxy,\n"
        "      resources; columns as in the file, arrays with spaces between\n"
        "json  {\"schema_version\", \"meta\", \"cases\", \"gaps\", \"atlas\", \"convert\", "
        "\"lm\", \"proxy\",\n"
        "      \"resources\"}; inf and nan are strings\n"
        "\n"
        "Units are in the names: _s seconds, _db decibels; bytes and flops of one call. Absent\n"
        "numbers are nan, infinite ones inf or -inf, in both formats and in every locale.\n"
        "Numbers read back to the very bits. Without -o the text goes to stdout.\n",
    .run = run,
};
