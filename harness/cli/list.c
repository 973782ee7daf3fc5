/* SPDX-License-Identifier: MIT
 *
 * qgauge list: what there is. The JSON form is for programs: the same keys always, in the same
 * order.
 */
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cjson/cJSON.h>

#include "harness/cli/cli.h"
#include "harness/cli/version.h"
#include "harness/fill.h"
#include "harness/resources.h"
#include "kernels/kernel.h"
#include "schemes/layers/layer.h"

const struct qg_command qg_command_list;

/* --- what a scheme does, found out by asking it ---------------------------------------------- */

/* A call of `operand` with default parameters and a row of `cols` elements; false when refused. */
static bool probe(struct qg_args *a, const struct qg_scheme *s, enum qg_operand operand,
                  size_t cols)
{
    char why[256];
    enum qg_op op = QG_FAKE_QUANT;
    while (op < QG_MATMUL && !qg_definition(s, operand, op))
        op++;
    qg_params_default(a, s);
    return qg_args_init(a, s, op, operand, QG_BF16, 0, 1, cols, why, sizeof why);
}

/* The parameter that sets the group of an operand, or NULL: a whole row shares a scale. */
static const struct qg_param *group_param(const struct qg_scheme *s, enum qg_operand operand)
{
    struct qg_args a = {.scheme = s, .operand = operand, .cols = (size_t)1 << 20};
    qg_params_default(&a, s);
    size_t group = qg_group(&a);
    for (int i = 0; s->params[i].name; i++) {
        const struct qg_param *p = &s->params[i];
        a.param[i] = p->integer && p->def < p->max ? p->def + 1 : p->def;
        if (qg_group(&a) != group)
            return p;
        a.param[i] = p->def;
    }
    return NULL;
}

/* Elements that share a scale, with default parameters; 0: the row. */
static size_t group_size(const struct qg_scheme *s, enum qg_operand operand)
{
    struct qg_args a = {.scheme = s, .operand = operand, .cols = (size_t)1 << 20};
    qg_params_default(&a, s);
    return qg_group(&a) == a.cols ? 0 : qg_group(&a);
}

/* Whether K must be a multiple of the group (with default parameters). */
static bool group_must_divide(const struct qg_scheme *s, enum qg_operand operand)
{
    size_t group = group_size(s, operand);
    struct qg_args a;
    return group && !probe(&a, s, operand, group + 2);
}

static const char *extent_symbol(enum qg_operand operand, const struct qg_extent *e)
{
    static const char *const rows[] = {"N", "M", "V"};
    return e == &qg_ext_rows ? rows[operand] : e->symbol;
}

/* The dtype of a plane or of a layer's tensor. */
static void dtype_text(const struct qg_param *params, enum qg_dtype t, int dtype_param, char *text,
                       size_t size)
{
    snprintf(text, size, "%s%s", dtype_param ? "by " : "",
             dtype_param     ? params[dtype_param - 1].name
             : t == QG_INPUT ? "input"
                             : qg_dtype_name(t));
}

static bool has_operand(const struct qg_scheme *s, enum qg_operand operand)
{
    for (int op = 0; op < QG_OP_COUNT; op++)
        if (qg_definition(s, operand, (enum qg_op)op))
            return true;
    return false;
}

/* --- JSON ------------------------------------------------------------------------------------ */

static void add_text(cJSON *array, const char *text)
{
    cJSON_AddItemToArray(array, cJSON_CreateString(text));
}

static cJSON *add_object(cJSON *array)
{
    cJSON *o = cJSON_CreateObject();
    cJSON_AddItemToArray(array, o);
    return o;
}

static void add_param(cJSON *array, const struct qg_param *p)
{
    cJSON *o = add_object(array);
    cJSON_AddStringToObject(o, "name", p->name);
    cJSON_AddStringToObject(o, "doc", p->doc);
    if (p->choices) {
        cJSON_AddStringToObject(o, "default", p->choices[(int)p->def]);
        cJSON *choices = cJSON_AddArrayToObject(o, "choices");
        for (int c = 0; p->choices[c]; c++)
            add_text(choices, p->choices[c]);
        return;
    }
    cJSON_AddNumberToObject(o, "default", p->def);
    cJSON_AddNumberToObject(o, "min", p->min);
    cJSON_AddNumberToObject(o, "max", p->max);
    cJSON_AddBoolToObject(o, "integer", p->integer);
}

static void add_plane(cJSON *array, const struct qg_scheme *s, enum qg_operand operand,
                      const struct qg_plane *p)
{
    char dtype[64];
    cJSON *o = add_object(array);
    dtype_text(s->params, p->dtype, p->dtype_param, dtype, sizeof dtype);
    cJSON_AddStringToObject(o, "name", p->name);
    cJSON_AddStringToObject(o, "dtype", dtype);
    cJSON *shape = cJSON_AddArrayToObject(o, "shape");
    for (int d = 0; d < QG_MAX_RANK && p->shape[d]; d++)
        add_text(shape, extent_symbol(operand, p->shape[d]));
    cJSON_AddStringToObject(o, "packing", p->packing);
}

static void add_operand(cJSON *operands, const struct qg_scheme *s, enum qg_operand operand)
{
    cJSON *o = cJSON_AddObjectToObject(operands, qg_operand_name(operand));
    cJSON *ops = cJSON_AddArrayToObject(o, "ops");
    for (int op = 0; op < QG_OP_COUNT; op++)
        if (qg_definition(s, operand, (enum qg_op)op))
            add_text(ops, qg_op_name((enum qg_op)op));
    cJSON *planes = cJSON_AddArrayToObject(o, "planes");
    for (int i = 0; i < qg_plane_count(s, operand); i++)
        add_plane(planes, s, operand, &s->operand[operand].planes[i]);
    const struct qg_param *p = group_param(s, operand);
    cJSON *group = cJSON_AddObjectToObject(o, "group");
    size_t size = group_size(s, operand);
    const bool scales = s->operand[operand].code_bits;
    cJSON_AddStringToObject(group, "rule",
                            !scales ? "none"
                            : p     ? "parameter"
                            : size  ? "fixed"
                                    : "row");
    if (p)
        cJSON_AddStringToObject(group, "parameter", p->name);
    else if (size)
        cJSON_AddNumberToObject(group, "elements", (double)size);
    cJSON_AddBoolToObject(group, "must_divide_k", group_must_divide(s, operand));
    cJSON_AddNumberToObject(o, "code_bits", s->operand[operand].code_bits);
}

static void schemes_json(cJSON *root)
{
    const struct qg_scheme *s;
    cJSON *array = cJSON_AddArrayToObject(root, "schemes");
    for (size_t i = 0; (s = qg_scheme_at(i)); i++) {
        cJSON *o = add_object(array);
        cJSON_AddStringToObject(o, "name", s->name);
        cJSON_AddStringToObject(o, "summary", s->summary);
        cJSON_AddStringToObject(o, "upstream", s->upstream);
        cJSON_AddStringToObject(o, "nonfinite", s->nonfinite);
        cJSON *params = cJSON_AddArrayToObject(o, "params");
        for (int p = 0; s->params[p].name; p++)
            add_param(params, &s->params[p]);
        cJSON *operands = cJSON_AddObjectToObject(o, "operands");
        for (int operand = 0; operand < QG_OPERAND_COUNT; operand++)
            if (has_operand(s, (enum qg_operand)operand))
                add_operand(operands, s, (enum qg_operand)operand);
        cJSON_AddBoolToObject(o, "matmul", s->matmul != NULL);
    }
}

static void add_layer_tensors(cJSON *array, const struct qg_layer *l,
                              const struct qg_layer_tensor *t)
{
    for (; t->name; t++) {
        char dtype[64], letter[2] = "";
        cJSON *o = add_object(array);
        dtype_text(l->params, t->dtype, t->dtype_param, dtype, sizeof dtype);
        cJSON_AddStringToObject(o, "name", t->name);
        cJSON_AddStringToObject(o, "dtype", dtype);
        cJSON *shape = cJSON_AddArrayToObject(o, "shape");
        for (const char *c = t->shape; *c; c++) {
            letter[0] = *c;
            add_text(shape, letter);
        }
        cJSON_AddStringToObject(o, "only", t->only ? qg_op_name(t->only) : "");
        cJSON_AddStringToObject(o, "when", t->when ? l->params[t->when - 1].name : "");
        cJSON_AddBoolToObject(o, "base", t->base);
        cJSON_AddStringToObject(o, "doc", t->doc);
    }
}

static void layers_json(cJSON *root)
{
    const struct qg_layer *l;
    cJSON *array = cJSON_AddArrayToObject(root, "layers");
    for (size_t i = 0; (l = qg_layer_at(i)); i++) {
        cJSON *o = add_object(array);
        cJSON_AddStringToObject(o, "name", l->name);
        cJSON_AddStringToObject(o, "summary", l->summary);
        cJSON_AddStringToObject(o, "upstream", l->upstream);
        cJSON_AddStringToObject(o, "nonfinite", l->nonfinite);
        cJSON *params = cJSON_AddArrayToObject(o, "params");
        for (int p = 0; l->params[p].name; p++)
            add_param(params, &l->params[p]);
        cJSON *ops = cJSON_AddArrayToObject(o, "ops");
        for (int op = QG_FORWARD; op <= QG_BACKWARD; op++)
            if (qg_layer_definition(l, (enum qg_op)op))
                add_text(ops, qg_op_name((enum qg_op)op));
        add_layer_tensors(cJSON_AddArrayToObject(o, "in"), l, l->in);
        add_layer_tensors(cJSON_AddArrayToObject(o, "out"), l, l->out);
    }
}

static const char *const trait_words[] = {"fuses",        "reorders", "flushes",
                                          "approximates", "widens",   "shortens"};
enum { TRAITS = sizeof trait_words / sizeof trait_words[0] };

static const char *claim_word(const struct qg_kernel *k)
{
    return k->claim == QG_BIT_EXACT ? "bit-exact" : "within-bound";
}

static void kernels_json(cJSON *root)
{
    const struct qg_kernel *k;
    cJSON *array = cJSON_AddArrayToObject(root, "kernels");
    for (size_t i = 0; (k = qg_kernel_at(i)); i++) {
        char name[128];
        cJSON *o = add_object(array);
        qg_kernel_name(k, name, sizeof name);
        cJSON_AddStringToObject(o, "name", name);
        cJSON_AddStringToObject(o, "scheme", k->scheme);
        cJSON_AddStringToObject(o, "op", qg_op_name(k->op));
        cJSON_AddStringToObject(o, "operand", qg_operand_name(k->operand));
        cJSON_AddStringToObject(o, "backend", k->backend);
        cJSON_AddStringToObject(o, "variant", k->variant);
        cJSON_AddStringToObject(o, "claim", claim_word(k));
        cJSON *traits = cJSON_AddArrayToObject(o, "traits");
        for (int t = 0; t < TRAITS; t++)
            if (k->traits >> t & 1)
                add_text(traits, trait_words[t]);
    }
}

static void backends_json(cJSON *root)
{
    const struct qg_backend *b;
    cJSON *array = cJSON_AddArrayToObject(root, "backends");
    for (size_t i = 0; (b = qg_backend_at(i)); i++) {
        char text[256] = "";
        cJSON *o = add_object(array);
        bool available = b->probe(text, sizeof text);
        cJSON_AddStringToObject(o, "name", b->name);
        cJSON_AddStringToObject(o, "summary", b->summary);
        cJSON_AddBoolToObject(o, "available", available);
        cJSON_AddStringToObject(o, "detail", text);
    }
}

static void fills_json(cJSON *root)
{
    const struct qg_fill *f;
    cJSON *array = cJSON_AddArrayToObject(root, "fills");
    for (size_t i = 0; (f = qg_fill_at(i)); i++) {
        cJSON *o = add_object(array);
        cJSON_AddStringToObject(o, "name", f->name);
        cJSON_AddStringToObject(o, "summary", f->summary);
    }
}

/* What CUDA kernels take, or a sentence why nothing is known; NULL: list->at is the caller's. */
static const char *take_resources(struct qg_resources *list)
{
    static struct qg_error err;
    const char *why;
    *list = (struct qg_resources){NULL, 0};
    if (qg_resources_built(list, &why, &err) == QG_OK)
        return why;
    free(list->at);
    list->at = NULL;
    return err.message;
}

static void resources_json(cJSON *root)
{
    struct qg_resources list;
    cJSON *object = cJSON_AddObjectToObject(root, "resources");
    const char *why = take_resources(&list);
    cJSON_AddStringToObject(object, "detail", why ? why : "nvcc " QG_NVCC);
    cJSON *array = cJSON_AddArrayToObject(object, "kernels");
    for (size_t i = 0; !why && i < list.n; i++) {
        cJSON *o = add_object(array);
        for (const struct qg_field *f = qg_resource_fields; f->name; f++) {
            const void *at = (const char *)&list.at[i] + f->offset;
            if (f->kind == QG_FIELD_TEXT)
                cJSON_AddStringToObject(o, f->name, at);
            else
                cJSON_AddNumberToObject(o, f->name, *(const uint32_t *)at);
        }
    }
    free(list.at);
}

/* --- text ------------------------------------------------------------------------------------ */

/* A paragraph, broken between words before column 100. */
static void print_wrapped(int indent, const char *text)
{
    int column = printf("%*s", indent, "");
    while (*text) {
        int word = (int)strcspn(text, " ");
        if (column > indent && column + 1 + word > 100)
            column = printf("\n%*s", indent, "") - 1;
        column += printf("%s%.*s", column > indent ? " " : "", word, text);
        text += word + strspn(text + word, " ");
    }
    putchar('\n');
}

static void print_param(const struct qg_param *p)
{
    printf("    %-12s %s\n    %-12s ", p->name, p->doc, "");
    for (int c = 0; p->choices && p->choices[c]; c++)
        printf("%s%s%s", c ? " | " : "", p->choices[c], c == (int)p->def ? " (default)" : "");
    if (!p->choices)
        printf("%g to %g%s (default %g)", p->min, p->max, p->integer ? ", whole" : "", p->def);
    putchar('\n');
}

static void print_operand(const struct qg_scheme *s, enum qg_operand operand)
{
    const struct qg_param *p = group_param(s, operand);
    printf("  %s:", qg_operand_name(operand));
    for (int op = 0; op < QG_OP_COUNT; op++)
        if (qg_definition(s, operand, (enum qg_op)op))
            printf(" %s", qg_op_name((enum qg_op)op));
    const char *rule = group_must_divide(s, operand) ? ", which must divide K" : "";
    if (!s->operand[operand].code_bits)
        puts("\n    no scales");
    else if (p)
        printf("\n    one scale per group of g elements (parameter %s)%s\n", p->name, rule);
    else if (group_size(s, operand))
        printf("\n    one scale per %zu elements%s\n", group_size(s, operand), rule);
    else
        printf("\n    one scale %s\n",
               s->operand[operand].spans_rows ? "for elements of several rows" : "per row");
    for (int i = 0; i < qg_plane_count(s, operand); i++) {
        const struct qg_plane *plane = &s->operand[operand].planes[i];
        char dtype[64], shape[64];
        dtype_text(s->params, plane->dtype, plane->dtype_param, dtype, sizeof dtype);
        size_t n = (size_t)snprintf(shape, sizeof shape, "[");
        for (int d = 0; d < QG_MAX_RANK && plane->shape[d]; d++)
            n += (size_t)snprintf(shape + n, sizeof shape - n, "%s%s", d ? ", " : "",
                                  extent_symbol(operand, plane->shape[d]));
        printf("    %-12s %-14s %-9s  %s\n", plane->name, dtype, strcat(shape, "]"),
               plane->packing);
    }
}

static void schemes_text(bool verbose)
{
    const struct qg_scheme *s;
    for (size_t i = 0; (s = qg_scheme_at(i)); i++) {
        printf("%s%-16s %s\n", verbose && i ? "\n" : "", s->name, s->summary);
        if (!verbose)
            continue;
        puts("  upstream:");
        print_wrapped(4, s->upstream);
        puts("  NaN, inf and groups of zeros:");
        print_wrapped(4, s->nonfinite);
        for (int operand = 0; operand < QG_OPERAND_COUNT; operand++)
            if (has_operand(s, (enum qg_operand)operand))
                print_operand(s, (enum qg_operand)operand);
        puts("  parameters:");
        for (int p = 0; s->params[p].name; p++)
            print_param(&s->params[p]);
    }
}

static void print_layer_tensors(const struct qg_layer *l, const struct qg_layer_tensor *t)
{
    for (; t->name; t++) {
        char dtype[64], shape[64];
        dtype_text(l->params, t->dtype, t->dtype_param, dtype, sizeof dtype);
        size_t n = (size_t)snprintf(shape, sizeof shape, "[");
        for (const char *c = t->shape; *c; c++)
            n +=
                (size_t)snprintf(shape + n, sizeof shape - n, "%s%c", c > t->shape ? ", " : "", *c);
        printf("    %-12s %-18s %-9s  %s%s%s%s%s\n", t->name, dtype, strcat(shape, "]"), t->doc,
               t->only ? "; " : "", t->only ? qg_op_name(t->only) : "", t->when ? "; with " : "",
               t->when ? l->params[t->when - 1].name : "");
    }
}

static void layers_text(bool verbose)
{
    const struct qg_layer *l;
    for (size_t i = 0; (l = qg_layer_at(i)); i++) {
        printf("%s%-16s %s\n", verbose && i ? "\n" : "", l->name, l->summary);
        if (!verbose)
            continue;
        puts("  upstream:");
        print_wrapped(4, l->upstream);
        puts("  NaN, inf and zeros:");
        print_wrapped(4, l->nonfinite);
        printf("  reads%s:\n", l->backward ? "" : " (there is no backward)");
        print_layer_tensors(l, l->in);
        puts("  writes:");
        print_layer_tensors(l, l->out);
        puts("  parameters:");
        for (int p = 0; l->params[p].name; p++)
            print_param(&l->params[p]);
    }
}

static void kernels_text(bool verbose)
{
    const struct qg_kernel *k;
    (void)verbose;
    for (size_t i = 0; (k = qg_kernel_at(i)); i++) {
        char name[128], why[256];
        qg_kernel_name(k, name, sizeof name);
        printf("%-44s %s", name, claim_word(k));
        for (int t = 0; t < TRAITS; t++)
            if (k->traits >> t & 1)
                printf(", %s", trait_words[t]);
        if (k->probe && qg_backend_find(k->backend)->probe(why, sizeof why) &&
            !qg_kernel_runs(k, NULL, why, sizeof why))
            printf(" (not here: %s)", why);
        putchar('\n');
    }
}

static void backends_text(bool verbose)
{
    const struct qg_backend *b;
    (void)verbose;
    for (size_t i = 0; (b = qg_backend_at(i)); i++) {
        char text[256] = "";
        bool available = b->probe(text, sizeof text);
        printf("%-16s %s (%s%s)\n", b->name, b->summary, available ? "" : "not here: ", text);
    }
}

static void fills_text(bool verbose)
{
    const struct qg_fill *f;
    (void)verbose;
    for (size_t i = 0; (f = qg_fill_at(i)); i++)
        printf("%-16s %s\n", f->name, f->summary);
}

static void resources_text(bool verbose)
{
    struct qg_resources list;
    const char *why = take_resources(&list);
    (void)verbose;
    if (why) {
        puts(why);
        return;
    }
    printf("%-8s %-50s %9s %5s %6s %6s %8s %5s  %s\n", "target", "kernel, nvcc " QG_NVCC,
           "registers", "stack", "spills", "shared", "barriers", "warps", "bound by");
    for (size_t i = 0; i < list.n; i++) {
        const struct qg_resource *r = &list.at[i];
        char name[sizeof r->file + sizeof r->kernel];
        snprintf(name, sizeof name, "%s %s", r->file, r->kernel);
        printf("%-8s %-50s %9u %5u %6u %6u %8u %2u/%-2u  %s\n", r->target, name, r->registers,
               r->stack, r->spill_stores + r->spill_loads, r->shared, r->barriers, r->warps,
               r->most_warps, r->limit);
    }
    free(list.at);
}

/* --- the command ----------------------------------------------------------------------------- */

static const struct section {
    const char *name;
    void (*text)(bool verbose);
    void (*json)(cJSON *root);
} sections[] = {
    {"schemes", schemes_text, schemes_json}, {"layers", layers_text, layers_json},
    {"kernels", kernels_text, kernels_json}, {"backends", backends_text, backends_json},
    {"fills", fills_text, fills_json},       {"resources", resources_text, resources_json},
};

enum { SECTIONS = sizeof sections / sizeof sections[0] };

/* Prints sections first to last. */
static int print_json(int first, int last)
{
    cJSON *root = cJSON_CreateObject();
    for (int i = first; i <= last; i++)
        sections[i].json(root);
    char *text = cJSON_Print(root);
    cJSON_Delete(root);
    if (!text) {
        struct qg_error err;
        qg_fail(&err, QG_ENOMEM, "no memory");
        return qg_report_error(&qg_command_list, &err);
    }
    puts(text);
    cJSON_free(text);
    return QG_EXIT_OK;
}

static int print_text(int first, int last, bool verbose)
{
    for (int i = first; i <= last; i++) {
        if (first != last)
            printf("%s%s:\n", i > first ? "\n" : "", sections[i].name);
        sections[i].text(verbose);
    }
    return QG_EXIT_OK;
}

static int run(int argc, char **argv)
{
    static const struct option options[] = {{"format", required_argument, NULL, 'f'},
                                            {"verbose", no_argument, NULL, 'v'},
                                            {"help", no_argument, NULL, 'h'},
                                            {NULL, 0, NULL, 0}};
    bool json = false, verbose = false;
    int option, first = 0, last = SECTIONS - 1;
    opterr = 0;
    while ((option = getopt_long(argc, argv, ":vh", options, NULL)) != -1) {
        if (option == 'h') {
            fputs(qg_command_list.help, stdout);
            return QG_EXIT_OK;
        }
        if (option == ':' || option == '?')
            return qg_usage_error(&qg_command_list,
                                  option == ':' ? "'%s' needs a value" : "there is no option '%s'",
                                  argv[optind - 1]);
        if (option == 'f' && strcmp(optarg, "json") != 0 && strcmp(optarg, "text") != 0)
            return qg_usage_error(&qg_command_list, "--format is text or json, not '%s'", optarg);
        json = option == 'f' ? strcmp(optarg, "json") == 0 : json;
        verbose |= option == 'v';
    }
    if (argc - optind > 1)
        return qg_usage_error(&qg_command_list, "one list at a time, or all of them");
    if (argc - optind == 1) {
        while (first < SECTIONS && strcmp(sections[first].name, argv[optind]) != 0)
            first++;
        if (first == SECTIONS)
            return qg_usage_error(
                &qg_command_list,
                "there is no list '%s'; there are: schemes, layers, kernels, backends, fills, "
                "resources",
                argv[optind]);
        last = first;
    }
    return json ? print_json(first, last) : print_text(first, last, verbose);
}

const struct qg_command qg_command_list = {
    .name = "list",
    .summary = "schemes, layers, kernels, backends, fills, resources",
    .help =
        "usage: qgauge list [schemes|layers|kernels|backends|fills|resources] [-v] [--format "
        "text|json]\n"
        "\n"
        "  schemes   what qgauge can quantize, and how; -v adds operations, planes, parameters,\n"
        "            what NaN and inf become, and where the formulas come from\n"
        "  layers    what is computed around a quantized base weight (LoRA, ...); -v adds tensors\n"
        "            and parameters\n"
        "  kernels   SCHEME.OP[:OPERAND].BACKEND[.VARIANT] and what each claims: bit-exact, or\n"
        "            within the proved rounding bound\n"
        "  backends  where kernels run, and why one does not run here\n"
        "  fills     named test data of qgauge run\n"
        "  resources registers, stack, spills (bytes of a thread), shared memory and barriers (of "
        "a\n"
        "            block) of every CUDA kernel and target, as nvcc's assembler reported them, "
        "and "
        "how\n"
        "            many warps of a multiprocessor's fit at a time\n"
        "\n"
        "Without a word: all of them. Shapes of planes are in N (rows of a weight), M (rows of an\n"
        "activation), V (rows of an embedding table), K (columns) and g (the group, the last one\n"
        "may be short); \"by scale-dtype\" is the dtype that this parameter names, \"input\" that\n"
        "of the quantized tensor.\n"
        "\n"
        "  -v, --verbose  more about each scheme\n"
        "  --format WORD  text (default), or json: one object with a key per list\n",
    .run = run,
};
