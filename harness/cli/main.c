/* SPDX-License-Identifier: MIT
 *
 * qgauge: finds the command and runs it. The list of commands is in meson.build.
 */
#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "harness/base/fpenv.h"
#include "harness/blas_core.h"
#include "harness/case.h"
#include "harness/cli/cli.h"
#include "harness/cli/version.h"
#include "harness/machine.h"
#include "harness/select.h"
#include "kernels/kernel.h"

#define QG_COMMAND(word) extern const struct qg_command qg_command_##word;
#include "harness/cli/command_list.h"
#undef QG_COMMAND

static const struct qg_command *const commands[] = {
#define QG_COMMAND(word) &qg_command_##word,
#include "harness/cli/command_list.h"
#undef QG_COMMAND
    NULL,
};

static void print_overview(FILE *out)
{
    fputs("qgauge: the gauge for quantization numerics\n\n"
          "usage: qgauge COMMAND [OPTION]...\n\n",
          out);
    for (size_t i = 0; commands[i]; i++)
        fprintf(out, "  %-10s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\nqgauge COMMAND --help tells more. Exit codes: 0 fine, 1 failure or regression, 2 "
          "usage,\n"
          "77 skipped, 99 hard error.\n",
          out);
}

int qg_usage_error(const struct qg_command *c, const char *format, ...)
{
    va_list ap;
    va_start(ap, format);
    fprintf(stderr, "qgauge %s: ", c->name);
    vfprintf(stderr, format, ap);
    fprintf(stderr, "\nTry 'qgauge %s --help'.\n", c->name);
    va_end(ap);
    return QG_EXIT_USAGE;
}

int qg_report_error(const struct qg_command *c, const struct qg_error *err)
{
    fprintf(stderr, "qgauge %s: %s\n", c->name, err->message);
    switch (err->status) {
    case QG_EINVAL:
        return QG_EXIT_USAGE;
    case QG_EFORMAT:
    case QG_EABSENT:
        return QG_EXIT_FAIL;
    default:
        return QG_EXIT_HARD;
    }
}

/* Appends ", NAME" while there is room. */
static void add_name(char *text, size_t size, size_t *n, const char *name)
{
    if (*n < size)
        *n += (size_t)snprintf(text + *n, size - *n, "%s%s", *n ? ", " : "", name);
}

static const char *scheme_name(const void *user, size_t i)
{
    (void)user;
    return qg_scheme_at(i) ? qg_scheme_at(i)->name : NULL;
}

const struct qg_scheme *qg_take_scheme(const struct qg_command *c, const char *name)
{
    char all[2048] = "";
    size_t n = 0;
    if (qg_scheme_find(name))
        return qg_scheme_find(name);
    for (size_t i = 0; qg_scheme_at(i); i++)
        add_name(all, sizeof all, &n, qg_scheme_at(i)->name);
    const char *near = qg_nearest_name(name, scheme_name, NULL);
    qg_usage_error(c, "there is no scheme '%s'%s%s%s; there are: %s", name,
                   near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "", all);
    return NULL;
}

const struct qg_backend *qg_take_backend(const struct qg_command *c, const char *name)
{
    const struct qg_backend *b = qg_backend_find(name);
    if (!b)
        qg_usage_error(c, "there is no backend '%s' (qgauge list backends)", name);
    return b;
}

const struct qg_layer *qg_take_layer(const struct qg_command *c, const char *name)
{
    char all[2048] = "";
    size_t n = 0;
    if (qg_layer_find(name))
        return qg_layer_find(name);
    for (size_t i = 0; qg_layer_at(i); i++)
        add_name(all, sizeof all, &n, qg_layer_at(i)->name);
    qg_usage_error(c, "there is no layer '%s'; there are: %s", name, all);
    return NULL;
}

bool qg_take_dtype(const struct qg_command *c, const char *word, enum qg_dtype *ret_t)
{
    *ret_t = qg_dtype_parse(word);
    if (*ret_t == QG_F32 || *ret_t == QG_BF16 || *ret_t == QG_F16)
        return true;
    qg_usage_error(c, "--dtype is F32, BF16 or F16, not '%s'", word);
    return false;
}

bool qg_take_whole(const struct qg_command *c, const char *option, uint64_t least, uint64_t most,
                   uint64_t *ret)
{
    if (qg_whole_parse(optarg, most, ret) && *ret >= least)
        return true;
    qg_usage_error(c, "--%s is a whole number of %" PRIu64 " to %" PRIu64 ", not '%s'", option,
                   least, most, optarg);
    return false;
}

enum qg_status qg_take_checkpoint(const char *path, const char *tensors, enum qg_dtype dtype,
                                  struct qg_checkpoint *ret_c, struct qg_error *err)
{
    enum qg_status status = qg_checkpoint_open(path, tensors, dtype, ret_c, err);
    if (ret_c->left_out)
        fprintf(stderr, "left out, not [N,K] of F32, BF16 or F16: %zu of the tensors\n",
                ret_c->left_out);
    return status;
}

void qg_describe_program(struct qg_meta *m)
{
    qg_machine_describe(m);
    qg_meta_set(m, "version", QG_VERSION);
    qg_meta_set(m, "commit", QG_COMMIT);
    qg_meta_set(m, "compiler", QG_COMPILER);
    qg_meta_set(m, "flags", QG_FLAGS);
    qg_meta_set(m, "nvcc", qg_compiler_reports()->file ? QG_NVCC : "compiled no kernel");
}

static void print_refusal(const char *sentence, void *user)
{
    (void)user;
    fprintf(stderr, "refused: %s\n", sentence);
}

enum qg_status qg_take_plan(const char *recipe, const char *model, struct qg_prescription *ret_p,
                            struct qg_error *err)
{
    *ret_p = (struct qg_prescription){0};
    return qg_recipe_open(recipe, &ret_p->recipe, err) == QG_OK ? qg_take_model(ret_p, model, err)
                                                                : err->status;
}

enum qg_status qg_take_model(struct qg_prescription *p, const char *model, struct qg_error *err)
{
    if (qg_model_open(model, &p->model, err) != QG_OK)
        return err->status;
    return qg_recipe_apply(p->recipe, p->model, print_refusal, NULL, &p->plan, err);
}

void qg_drop_plan(struct qg_prescription *p)
{
    qg_recipe_plan_free(&p->plan);
    qg_model_close(&p->model);
    qg_recipe_close(&p->recipe);
}

bool qg_bar_wanted(void)
{
    const char *term = getenv("TERM");
    return isatty(STDERR_FILENO) && term && strcmp(term, "dumb") != 0;
}

void qg_bar_draw(double share, const char *amount, double left, const char *what)
{
    enum { WIDTH = 20 };
    int full = (int)(share * WIDTH);
    fprintf(stderr, "\r\033[K[%.*s%*s] %s", full, "####################", WIDTH - full, "", amount);
    if (left == left)
        fprintf(stderr, "  %d:%02d left", (int)left / 60, (int)left % 60);
    fprintf(stderr, "  %.60s", what);
    fflush(stderr);
}

void qg_bar_clear(void)
{
    fputs("\r\033[K", stderr);
}

int qg_finish_stdout(const struct qg_command *c, int code)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return code;
    if (errno != EPIPE)
        fprintf(stderr, "qgauge %s: stdout: %s\n", c->name, strerror(errno));
    return QG_EXIT_HARD;
}

int main(int argc, char **argv)
{
    const struct qg_command self = {.name = "--help"};
    struct qg_error err;
    qg_blas_core_settle(argv);
    // A reader that goes away (| head) ends us quietly, at the next write.
    signal(SIGPIPE, SIG_DFL);
    // A file size limit is a full disk: an error to report, not a signal to die of.
    signal(SIGXFSZ, SIG_IGN);
    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 ||
        (strcmp(argv[1], "help") == 0 && argc == 2)) {
        print_overview(argc < 2 ? stderr : stdout);
        return argc < 2 ? QG_EXIT_USAGE : qg_finish_stdout(&self, QG_EXIT_OK);
    }
    if (strcmp(argv[1], "--version") == 0) {
        printf("%s\n", QG_VERSION_LINE);
        return qg_finish_stdout(&self, QG_EXIT_OK);
    }
    if (qg_fpenv_check(&err) != QG_OK) {
        fprintf(stderr, "qgauge: %s\n", err.message);
        return QG_EXIT_HARD;
    }
    bool help = strcmp(argv[1], "help") == 0;
    const char *name = help ? argv[2] : argv[1];
    for (size_t i = 0; commands[i]; i++) {
        if (strcmp(commands[i]->name, name) != 0)
            continue;
        if (help || (argc > 2 && (strcmp(argv[2], "--help") == 0 || strcmp(argv[2], "-h") == 0))) {
            fputs(commands[i]->help, stdout);
            return qg_finish_stdout(commands[i], QG_EXIT_OK);
        }
        return qg_finish_stdout(commands[i], commands[i]->run(argc - 1, argv + 1));
    }
    fprintf(stderr, "qgauge: there is no command '%s'; qgauge --help lists them\n", name);
    return QG_EXIT_USAGE;
}
