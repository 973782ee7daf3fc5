/* SPDX-License-Identifier: MIT
 *
 * qgauge compare: what moved between two result files.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/cli/cli.h"
#include "reports/digest.h"
#include "reports/report.h"

const struct qg_command qg_command_compare;

struct request {
    const char *base, *head;
    bool markdown, verbose, exit_zero;
    unsigned on;
    double margin;
};

static bool parse_kinds(char *list, unsigned *ret_on)
{
    unsigned on = 0;
    for (char *rest = NULL, *word = strtok_r(list, ",", &rest); word;
         word = strtok_r(NULL, ",", &rest)) {
        unsigned kind = qg_on_parse(word);
        if (!kind)
            return false;
        on |= kind;
    }
    *ret_on = on;
    return on != 0;
}

static bool parse_margin(const char *text, double *ret_margin)
{
    char *end;
    double percent = strtod(text, &end);
    if (end == text || *end || !(percent >= 0) || percent > 1000)
        return false;
    *ret_margin = percent / 100;
    return true;
}

/* QG_EXIT_OK, or a usage error that was printed. */
static int parse(int argc, char **argv, struct request *q)
{
    static const struct option options[] = {
        {"format", required_argument, NULL, 'f'}, {"fail-on", required_argument, NULL, 'o'},
        {"margin", required_argument, NULL, 'm'}, {"exit-zero", no_argument, NULL, 'z'},
        {"verbose", no_argument, NULL, 'v'},      {0}};
    *q = (struct request){.on = QG_ON_DEFAULT, .margin = 0.05};
    opterr = 0;
    for (int o; (o = getopt_long(argc, argv, "v", options, NULL)) != -1;) {
        switch (o) {
        case 'f':
            q->markdown = strcmp(optarg, "markdown") == 0;
            if (!q->markdown && strcmp(optarg, "text") != 0)
                return qg_usage_error(&qg_command_compare, "--format %s: text or markdown", optarg);
            break;
        case 'o':
            if (!parse_kinds(optarg, &q->on))
                return qg_usage_error(&qg_command_compare,
                                      "--fail-on takes a list of verdict, quality, slower, bits, "
                                      "undecided, missing, resources");
            break;
        case 'm':
            if (!parse_margin(optarg, &q->margin))
                return qg_usage_error(&qg_command_compare, "--margin %s: percent, 0 to 1000",
                                      optarg);
            break;
        case 'z':
            q->exit_zero = true;
            break;
        case 'v':
            q->verbose = true;
            break;
        default:
            return qg_usage_error(&qg_command_compare, "'%s' is not understood", argv[optind - 1]);
        }
    }
    if (argc - optind != 2)
        return qg_usage_error(&qg_command_compare, "two result files are needed, BASE and HEAD");
    q->base = argv[optind];
    q->head = argv[optind + 1];
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    struct request q;
    struct qg_error err;
    struct qg_result *base = NULL, *head = NULL;
    struct qg_comparison *c = NULL;
    int code = parse(argc, argv, &q);
    if (code != QG_EXIT_OK)
        return code;
    if (qg_result_open(q.base, &base, &err) != QG_OK ||
        qg_result_open(q.head, &head, &err) != QG_OK ||
        qg_comparison_make(base, head, q.margin, &c, &err) != QG_OK) {
        code = qg_report_error(&qg_command_compare, &err);
    } else {
        (q.markdown ? qg_compare_markdown : qg_compare_text)(c, q.on, q.verbose, stdout);
        bool incomplete = qg_cases_planned(head) > head->n_cases;
        if (!q.exit_zero && (incomplete || qg_comparison_regressions(c, q.on)))
            code = QG_EXIT_FAIL;
    }
    qg_comparison_free(&c);
    qg_result_free(&head);
    qg_result_free(&base);
    return code;
}

const struct qg_command qg_command_compare = {
    .name = "compare",
    .summary = "what moved between two runs: bits, quality, verdicts, time",
    .help =
        "usage: qgauge compare BASE.h5 HEAD.h5 [OPTION]...\n"
        "\n"
        "Matches cases by their spelling and says, for each kernel, which of three things "
        "happened:\n"
        "  same bits                 every output is byte for byte what it was\n"
        "  other bits, same quality  outputs differ, but the SQNR moved by less than another draw "
        "of\n"
        "                            as much data would move it (two standard errors,\n"
        "                            12.3 dB / sqrt(elements))\n"
        "  quality moved             the SQNR rose or fell by more than that\n"
        "and which verdicts and times changed. Cases that are in one file only are counted.\n"
        "\n"
        "Rows of language models (/lm: of the same model, text, scheme and path) moved when the "
        "two\n"
        "intervals of ppl, of the change of ln ppl or of KL have no point in common: files hold\n"
        "intervals, not what each document gave, so nothing is paired. Worse counts as quality.\n"
        "Predictions (/proxy) are exact: any other number is named, and counts as bits.\n"
        "CUDA kernels (/resources: of the same file, name and target) are heavier when they spill "
        "more\n"
        "bytes, have more stack, or fewer of their warps fit on a multiprocessor: no device is "
        "needed\n"
        "to see that.\n"
        "\n"
        "  --format text|markdown  markdown is for a pull request\n"
        "  --fail-on LIST          what is a regression: any of verdict (a case is new or passed "
        "before,\n"
        "                          and does not now), quality (SQNR down), slower, bits (outputs\n"
        "                          differ at all), undecided (time), missing (case not in HEAD),\n"
        "                          resources (a CUDA kernel is heavier).\n"
        "                          Default: verdict,quality,slower,resources\n"
        "  --margin PERCENT        least change of time that is ever called one (default 5)\n"
        "  --exit-zero             0 also after a regression\n"
        "  -v, --verbose           every kernel and every case\n"
        "\n"
        "Time. The ratio of the medians HEAD/BASE has a 95 % interval: the rectangle of two 97.5 "
        "%\n"
        "order-statistic intervals, which needs no assumption about the distribution (7 samples "
        "at\n"
        "least). Two runs of one program differ by more than that, since the samples of a process\n"
        "share its luck. A case is slower or faster only when the whole interval is outside the\n"
        "margin: the largest of --margin and of what the noise between these two runs may reach, "
        "plus\n"
        "the difference of their call overheads. The noise is the spread of that half of all "
        "ratios\n"
        "that agrees best, taken so many times that noise alone raises an alarm in 1 % of "
        "comparisons.\n"
        "'same': the interval is inside the margin. All else, and any comparison across machines, "
        "is\n"
        "undecided. Changes of a few percent need interleaved runs.\n"
        "Where a device told its clocks and they differ by more than 2 %, they stand beside the "
        "ratio;\n"
        "cases that lost their times to lowered clocks are named. Neither is a regression by "
        "itself.\n"
        "\n"
        "Exit codes: 0 no regression, 1 regression (also: nothing was compared, or HEAD is of an\n"
        "interrupted run), 2 usage, 99 hard error.\n",
    .run = run,
};
