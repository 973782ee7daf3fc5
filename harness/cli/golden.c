/* SPDX-License-Identifier: MIT
 *
 * qgauge golden: what upstream libraries computed, and whether our definitions agree.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/cli/cli.h"
#include "harness/verify_golden.h"

extern const struct qg_command qg_command_golden;

static const char help[] =
    "usage: qgauge golden verify [--golden DIR] [--scheme NAME|--layer NAME] [--kernels]\n"
    "                            [--backend NAME] [--verbose]\n"
    "       qgauge golden list   [--golden DIR] [--scheme NAME|--layer NAME]\n"
    "\n"
    "Goldens are inputs and the outputs that upstream libraries computed from them.\n"
    "\n"
    "verify  judges every definition against every golden: fake-quant, convert and dequant to the\n"
    "        bit, matmul, lora, gradients and layers within the bound that the definition proves. "
    "Prints\n"
    "        one line per scheme or layer and operation and the first wrong element of every set.\n"
    "list    prints every case: file, set, scheme, operand, operation, dtype, parameters, and "
    "what\n"
    "        made it.\n"
    "\n"
    "  --golden DIR   the folder (default: $QG_GOLDEN_DIR, else golden/data of the source tree)\n"
    "  --scheme NAME  only this scheme\n"
    "  --layer NAME   only this layer\n"
    "  --kernels      judge the kernels as well\n"
    "  --backend NAME judge the kernels of this backend and nothing else\n"
    "  -v, --verbose  name each case on stderr\n"
    "\n"
    "Exit code 1: a mismatch, an operation without any golden, a kernel that its device could not "
    "run,\n"
    "or a filter that matched nothing. 77: the backend, or every kernel that was asked for, does "
    "not\n"
    "run here.\n";

struct options {
    struct qg_verify_request request;
    bool verbose, list, help;
};

/* Kernels of one backend were asked for: whether it is here. */
static int check_backend(struct options *o)
{
    char why[256];
    const struct qg_backend *b = qg_take_backend(&qg_command_golden, o->request.backend);
    o->request.kernels = true;
    if (!b)
        return QG_EXIT_USAGE;
    if (b->probe(why, sizeof why))
        return QG_EXIT_OK;
    fprintf(stderr, "qgauge golden: backend '%s' does not run here: %s\n", b->name, why);
    return QG_EXIT_SKIP;
}

/* The exit code of a wrong command line, or QG_EXIT_OK. */
static int parse(int argc, char **argv, struct options *o)
{
    static const struct option options[] = {
        {"golden", required_argument, NULL, 'g'},  {"scheme", required_argument, NULL, 's'},
        {"layer", required_argument, NULL, 'l'},   {"kernels", no_argument, NULL, 'k'},
        {"backend", required_argument, NULL, 'b'}, {"verbose", no_argument, NULL, 'v'},
        {"help", no_argument, NULL, 'h'},          {0}};
    int code;
    const char *scheme = NULL, *layer = NULL;
    const char *folder = getenv("QG_GOLDEN_DIR");
    o->request.folder = folder && *folder ? folder : QG_SOURCE_ROOT "/golden/data";
    opterr = 0;
    for (int c; (c = getopt_long(argc, argv, ":vh", options, NULL)) != -1;) {
        if (c == 'g')
            o->request.folder = optarg;
        else if (c == 's')
            scheme = optarg;
        else if (c == 'l')
            layer = optarg;
        else if (c == 'k')
            o->request.kernels = true;
        else if (c == 'b')
            o->request.backend = optarg;
        else if (c == 'v')
            o->verbose = true;
        else if (c == 'h')
            o->help = true;
        else
            return qg_usage_error(&qg_command_golden,
                                  c == ':' ? "'%s' needs a value" : "'%s' is not understood",
                                  argv[optind - 1]);
    }
    if (o->help)
        return QG_EXIT_OK;
    const char *word = argc - optind == 1 ? argv[optind] : "";
    o->list = strcmp(word, "list") == 0;
    if (!o->list && strcmp(word, "verify") != 0)
        return qg_usage_error(&qg_command_golden, "say 'verify' or 'list', one of them");
    if (o->list && (o->request.kernels || o->verbose))
        return qg_usage_error(&qg_command_golden, "--kernels and --verbose are for 'verify'");
    if (o->request.backend && (code = check_backend(o)) != QG_EXIT_OK)
        return code;
    if (scheme && layer)
        return qg_usage_error(&qg_command_golden, "--scheme or --layer, one of them");
    if ((scheme && !qg_take_scheme(&qg_command_golden, scheme)) ||
        (layer && !qg_take_layer(&qg_command_golden, layer)))
        return QG_EXIT_USAGE;
    o->request.name = scheme ? scheme : layer;
    return QG_EXIT_OK;
}

/* Bits of element i, as many hexadecimal digits as the dtype has. */
static void print_bits(const struct qg_tensor *t, size_t i)
{
    size_t n = qg_dtype_bytes(t->dtype);
    uint32_t bits = 0;
    memcpy(&bits, (const char *)t->data + i * n, n); // little-endian, as everything this runs on
    printf("0x%0*" PRIx32 " (%.9g)", (int)(2 * n), bits, (double)qg_get(t, i));
}

static void print_params(const struct qg_args *a)
{
    const struct qg_param *list = a->layer ? a->layer->params : a->scheme->params;
    for (const struct qg_param *p = list; p->name; p++) {
        double v = a->param[p - list];
        if (p->choices)
            printf(" %s=%s", p->name, p->choices[(int)v]);
        else
            printf(" %s=%.17g", p->name, v);
    }
}

/* "4 x 256", or the extents of a layer by letter. */
static void print_extents(const struct qg_args *a)
{
    if (!a->layer)
        printf(" %zu x %zu", a->rows, a->cols);
    for (char letter = 'A'; a->layer && letter <= 'Z'; letter++)
        if (qg_extent_of(a, letter))
            printf(" %c=%zu", letter, qg_extent_of(a, letter));
}

static void subject_name(const struct qg_kernel *k, char *text, size_t size)
{
    if (k)
        qg_kernel_name(k, text, size);
    else
        snprintf(text, size, "definition");
}

static void print_wrong(const struct qg_verify_wrong *w, void *user)
{
    const struct qg_golden_case *c = w->golden;
    const struct qg_args *a = w->args;
    char subject[128];
    (void)user;
    subject_name(w->kernel, subject, sizeof subject);
    printf("WRONG %s: %s:%s %s %s %s: %" PRIu64 " of %" PRIu64 " elements of '%s'; first at %zu\n",
           subject, c->file, c->set, c->scheme, c->operand, c->op, w->wrong, w->count, w->got->name,
           w->index);
    printf("  got ");
    print_bits(w->got, w->index);
    printf(", want ");
    print_bits(w->want, w->index);
    if (w->exact)
        printf(", exact %.17g, bound %.3g", w->exact[w->index], w->bound[w->index]);
    printf("\n  %s", c->dtype);
    print_extents(a);
    print_params(a);
    printf("\n  by %s, %s%s%s\n", c->library, c->function, c->note[0] ? "; " : "", c->note);
}

static void print_case(const struct qg_golden_case *c, void *user)
{
    (void)user;
    fprintf(stderr, "%s:%s %s\n", c->file, c->set, c->op);
}

static void print_row(const struct qg_verify_row *row)
{
    char subject[128] = "";
    if (row->kernel)
        qg_kernel_name(row->kernel, subject, sizeof subject);
    printf("%-16s %-10s %-15s ", row->layer ? row->layer->name : row->scheme->name,
           row->layer ? "layer" : qg_operand_name(row->operand), qg_op_name(row->op));
    if (row->absent)
        printf("  SKIP: %s", row->why);
    else if (row->sets == 0 && row->failed)
        printf("  FAIL: %s", row->why);
    else if (row->sets == 0 && row->lost)
        printf("  not judged");
    else if (row->sets == 0)
        printf("  MISSING: there is no golden");
    else
        printf("%5" PRIu64 " %9" PRIu64 " %10" PRIu64 " %9" PRIu64 " %8" PRIu64, row->sets,
               row->elements, row->elements - row->unequal - row->unjudged, row->wrong,
               row->unjudged);
    printf("%s%s", subject[0] ? "  " : "", subject);
    if (row->sets && row->failed)
        printf(" (FAIL of %" PRIu64 " sets more: %s)", row->failed, row->why);
    else if (row->sets && row->skipped)
        printf(" (SKIP of %" PRIu64 " sets more: %s)", row->skipped, row->why);
    if (row->sets && row->lost)
        printf(" (%" PRIu64 " sets more are not judged)", row->lost);
    putchar('\n');
}

static void print_verdict(const struct qg_verify *v)
{
    uint64_t bounded = 0, equal = 0;
    printf("%-16s %-10s %-15s %5s %9s %10s %9s %8s\n", "scheme", "operand", "operation", "sets",
           "elements", "bit-equal", "mismatch", "unjudged");
    for (size_t i = 0; i < v->n_rows; i++) {
        const struct qg_verify_row *row = &v->rows[i];
        print_row(row);
        if (row->layer || qg_is_product(row->op) || row->op == QG_FAKE_QUANT_GRAD) {
            bounded += row->elements;
            equal += row->elements - row->unequal - row->unjudged;
        }
    }
    printf("\ndistinct codes in the goldens of convert:\n");
    for (size_t i = 0; i < v->n_codes; i++)
        printf("%-16s %-10s %3d of %d\n", v->codes[i].scheme->name,
               qg_operand_name(v->codes[i].operand), v->codes[i].reached, v->codes[i].possible);
    printf("\n%" PRIu64 " elements, %" PRIu64 " mismatches, %" PRIu64
           " operations without a golden; %" PRIu64 " cases of %" PRIu64
           " sets in %d files; of %" PRIu64 " elements judged by a bound %" PRIu64
           " are equal to the bit\n",
           v->elements, v->wrong, v->missing, v->cases, v->sets, v->files, bounded, equal);
}

/* Kernels that have no results, and what their failure did to the others. */
static void print_failures(const struct qg_verify *v)
{
    char name[128];
    size_t lost = 0;
    for (size_t i = 0; i < v->n_rows; i++)
        lost += v->rows[i].lost > 0;
    if (v->failed)
        printf("kernels that failed on their device: %" PRIu64 "\n", v->failed);
    if (!v->broke)
        return;
    qg_kernel_name(v->broke, name, sizeof name);
    printf("after %s the device does nothing more in this process; kernels that are not judged, or "
           "not by all sets: %zu\n",
           name, lost);
}

static int verify(const struct options *o)
{
    struct qg_error err;
    struct qg_verify v;
    if (qg_verify_golden(&o->request, &v, &err) != QG_OK)
        return qg_report_error(&qg_command_golden, &err);
    print_verdict(&v);
    print_failures(&v);
    size_t absent = 0;
    for (size_t i = 0; i < v.n_rows; i++)
        absent += v.rows[i].absent;
    bool none = absent > 0 && absent == v.n_rows;
    bool good = v.wrong == 0 && v.missing == 0 && v.failed == 0 && v.elements > 0;
    qg_verify_free(&v);
    return none ? QG_EXIT_SKIP : good ? QG_EXIT_OK : QG_EXIT_FAIL;
}

static int list(const struct options *o)
{
    struct qg_error err;
    struct qg_golden *g;
    const struct qg_golden_case *c;
    const char *only = o->request.name;
    size_t n = 0;
    if (qg_golden_open(o->request.folder, only, &g, &err) != QG_OK)
        return qg_report_error(&qg_command_golden, &err);
    enum qg_status status;
    while ((status = qg_golden_next(g, &c, &err)) == QG_OK && c) {
        n++;
        printf("%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\t%s\n", c->file, c->set, c->scheme, c->operand,
               c->op, c->dtype, c->params, c->library, c->function, c->note);
    }
    qg_golden_close(&g);
    if (status != QG_OK)
        return qg_report_error(&qg_command_golden, &err);
    if (n == 0)
        fprintf(stderr, "qgauge golden: no golden%s%s\n", only ? " of " : "", only ? only : "");
    return n > 0 ? QG_EXIT_OK : QG_EXIT_FAIL;
}

static int run(int argc, char **argv)
{
    struct options o = {.request = {.on_wrong = print_wrong}};
    int code = parse(argc, argv, &o);
    if (code != QG_EXIT_OK)
        return code;
    if (o.help) {
        fputs(help, stdout);
        return QG_EXIT_OK;
    }
    if (o.verbose)
        o.request.on_case = print_case;
    return o.list ? list(&o) : verify(&o);
}

const struct qg_command qg_command_golden = {
    .name = "golden",
    .summary = "judges the definitions against what upstream libraries computed",
    .help = help,
    .run = run,
};
