/* SPDX-License-Identifier: MIT
 *
 * qgauge doctor: what is installed, what is missing, and whether numbers timed here mean anything.
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/base/fpenv.h"
#include "harness/cli/cli.h"
#include "harness/cli/version.h"
#include "harness/machine.h"
#include "harness/bench.h"
#include "kernels/kernel.h"

extern const struct qg_command qg_command_doctor;

static void print_fact(const char *what, const char *value)
{
    printf("  %-18s %s\n", what, value);
}

/* "gnuplot 5.4 patchlevel 4"; false when there is none on the path. */
static bool gnuplot_version(char *text, size_t size)
{
    FILE *p = popen("gnuplot --version 2>/dev/null", "r");
    bool good = p && fgets(text, (int)size, p);
    text[good ? strcspn(text, "\n") : 0] = '\0';
    return (!p || pclose(p) == 0) && good;
}

static void print_installed(void)
{
    char text[256];
    puts("installed");
    for (int i = 0; qg_machine_library(i, text, sizeof text); i++)
        print_fact("", text);
    if (gnuplot_version(text, sizeof text))
        print_fact("", text);
    else
        print_fact("MISSING",
                   "gnuplot: reports have no plots without it (apt-get install gnuplot-nox)");
    for (size_t i = 0; qg_backend_at(i); i++) {
        const struct qg_backend *b = qg_backend_at(i);
        char what[64];
        snprintf(what, sizeof what, "backend %s", b->name);
        bool there = b->probe(text, sizeof text);
        printf("  %-18s %s%s\n", what, there ? "" : "absent: ", text);
    }
}

/* A fixed piece of work whose time has no reason to vary. */
static void work(const struct qg_args *a)
{
    volatile unsigned x = 1;
    (void)a;
    for (int i = 0; i < 20000; i++)
        x = x * 1664525u + 1013904223u;
}

/* Half the width of the 95 % interval and the spread of the samples, relative to the median. */
static void measure_noise(double *ret_interval, double *ret_spread)
{
    static struct qg_bench_result r;
    const struct qg_args none = {0};
    const struct qg_bench b = {0.2, false};
    double low = INFINITY, high = 0;
    qg_bench_run(work, &none, &b, &r);
    for (size_t i = 0; i < r.n_warm; i++) {
        low = fmin(low, r.s[i]);
        high = fmax(high, r.s[i]);
    }
    *ret_interval = (r.warm.high_s - r.warm.low_s) / 2 / r.warm.median_s;
    *ret_spread = (high - low) / r.warm.median_s;
}

static void advise(bool bad, const char *advice, int *count)
{
    if (!bad)
        return;
    printf("  - %s\n", advice);
    ++*count;
}

static void print_timing(const struct qg_meta *m)
{
    static const char *const facts[] = {"cpu",   "cpu_isa",   "cpus",
                                        "os",    "blas_core", "governor",
                                        "turbo", "load",      "clock_resolution_s"};
    const char *device = qg_meta_get(m, "device_settings");
    double interval, spread;
    int advices = 0;
    puts("machine");
    for (size_t i = 0; i < sizeof facts / sizeof facts[0]; i++)
        print_fact(facts[i], qg_meta_get(m, facts[i]));
    if (*device)
        print_fact("device_settings", device);
    measure_noise(&interval, &spread);
    printf("  %-18s 95 %% interval +-%.2f %%, extremes %.1f %% apart\n", "noise", 100 * interval,
           100 * spread);
    puts("for timing");
    const char *governor = qg_meta_get(m, "governor");
    advise(strcmp(governor, "performance") != 0 && strcmp(governor, "unknown") != 0,
           "the governor is not 'performance': clocks follow the load", &advices);
    advise(
        strcmp(governor, "unknown") == 0,
        "the clock's governor cannot be seen (a virtual machine?): others may share this processor",
        &advices);
    advise(strcmp(qg_meta_get(m, "turbo"), "on") == 0,
           "turbo is on: clocks depend on temperature and neighbours", &advices);
    advise(atof(qg_meta_get(m, "load")) > 0.5, "something else is running (load above 0.5)",
           &advices);
    advise(interval > 0.01 || spread > 0.5,
           "times vary: compare medians with their intervals, and repeat runs", &advices);
    advise(strstr(device, "persistence mode off"),
           "the device's persistence mode is off: the driver starts anew for every process "
           "(nvidia-smi -pm 1)",
           &advices);
    advise(
        strncmp(device, "unknown", 7) == 0,
        "nobody can ask the device for its clocks: samples count that it takes with lowered ones",
        &advices);
    if (!advices)
        puts("  nothing to complain of");
}

static int run(int argc, char **argv)
{
    struct qg_meta m = {0};
    struct qg_error err;
    if (argc > 1)
        return qg_usage_error(&qg_command_doctor, "'%s': it takes no arguments", argv[1]);
    printf("%s\n", QG_VERSION_LINE);
    print_installed();
    qg_machine_describe(&m);
    print_timing(&m);
    puts("floating point");
    print_fact("", qg_meta_get(&m, "fp_environment"));
    return qg_fpenv_check(&err) == QG_OK ? QG_EXIT_OK : QG_EXIT_HARD;
}

const struct qg_command qg_command_doctor = {
    .name = "doctor",
    .summary = "what is installed, and whether this machine is fit for timing",
    .help =
        "usage: qgauge doctor\n"
        "\n"
        "Prints versions of libraries and of gnuplot, the backends, processor, governor, turbo,\n"
        "load, the clock's resolution, the settings of a device that its times depend on, how "
        "much\n"
        "the time of constant work varies here, and the floating-point environment. Exit code 0\n"
        "when qgauge can be used.\n",
    .run = run,
};
