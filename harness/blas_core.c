/* SPDX-License-Identifier: MIT */
#include "harness/blas_core.h"

#include <cblas.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What OpenBLAS reads, and where the program that starts itself again leaves the name of the core
 * that OpenBLAS had taken: the mark that it must not do so twice. */
static const char core_variable[] = "OPENBLAS_CORETYPE", mark[] = "QGAUGE_BLAS_CORE_WAS";

/* Cores for processors without AVX2, and those for AVX2 without AVX-512. A core in neither list is
 * left alone: it may be newer than the lists. */
static const char *const old_cores[] = {
    "Katmai",    "Coppermine",  "Northwood",    "Prescott", "Banias",      "Atom",
    "Core2",     "Penryn",      "Dunnington",   "Nehalem",  "Sandybridge", "Athlon",
    "Opteron",   "Barcelona",   "Opteron_SSE3", "Bobcat",   "Bulldozer",   "Piledriver",
    "Excavator", "Steamroller", "Nano",         "Unknown",  NULL};
static const char *const avx2_cores[] = {"Haswell", "Zen", NULL};

static bool is_one_of(const char *const *names, const char *name)
{
    while (*names && strcmp(*names, name) != 0)
        names++;
    return *names;
}

#if defined(__x86_64__)
static bool has_avx2(void)
{
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
}

static bool has_avx512(void)
{
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
           __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}
#else
static bool has_avx2(void)
{
    return false;
}

static bool has_avx512(void)
{
    return false;
}
#endif

/* The core for what this processor has, where OpenBLAS took one for less; NULL where it did not,
 * or was built with one only. */
static const char *faster_core(void)
{
    const char *core = openblas_get_corename();
    bool old = is_one_of(old_cores, core);
    if (!strstr(openblas_get_config(), "DYNAMIC_ARCH"))
        return NULL;
    if (has_avx512() && (old || is_one_of(avx2_cores, core)))
        return "SkylakeX";
    return has_avx2() && old ? "Haswell" : NULL;
}

void qg_blas_core_settle(char **argv)
{
    char program[4096];
    const char *faster = faster_core();
    ssize_t n = readlink("/proc/self/exe", program, sizeof program - 1);
    if (!faster || n < 0 || getenv(core_variable) || getenv(mark))
        return;
    program[n] = '\0';
    if (setenv(mark, openblas_get_corename(), 1) != 0 || setenv(core_variable, faster, 1) != 0)
        return;
    execv(program, argv);
    unsetenv(core_variable); // it did not take effect
}

void qg_blas_core_describe(char *text, size_t size)
{
    const char *core = openblas_get_corename(), *faster = faster_core(), *was = getenv(mark);
    const char *wish = getenv(core_variable);
    if (faster && wish)
        snprintf(text, size, "%s (OPENBLAS_CORETYPE is %s; %s would be faster)", core, wish,
                 faster);
    else if (faster)
        snprintf(text, size,
                 "%s (OPENBLAS_CORETYPE=%s would be faster; qgauge could not start itself again "
                 "with it: set it by hand)",
                 core, faster);
    else if (was && wish)
        snprintf(text, size, "%s, chosen by qgauge (OpenBLAS by itself takes %s)", core, was);
    else
        snprintf(text, size, "%s, chosen by %s", core, wish ? core_variable : "OpenBLAS");
}
