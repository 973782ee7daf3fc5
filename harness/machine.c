/* SPDX-License-Identifier: MIT */
#define _DEFAULT_SOURCE /* getloadavg */
#include "harness/machine.h"

#include <cJSON.h>
#include <cblas.h>
#include <cyaml/cyaml.h>
#include <gsl/gsl_version.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "harness/base/fpenv.h"
#include "harness/bench.h"
#include "harness/blas_core.h"
#include "harness/compare.h"
#include "kernels/kernel.h"

/* The first line of a small file, or "unknown". */
static void first_line(const char *path, char *text, size_t size)
{
    FILE *f = fopen(path, "r");
    if (!f || !fgets(text, (int)size, f))
        snprintf(text, size, "unknown");
    text[strcspn(text, "\n")] = '\0';
    if (f)
        fclose(f);
}

/* The value of the first "key : value" line of /proc/cpuinfo, or "unknown". */
static void cpuinfo(const char *key, char *text, size_t size)
{
    char line[8192];
    FILE *f = fopen("/proc/cpuinfo", "r");
    snprintf(text, size, "unknown");
    while (f && fgets(line, sizeof line, f)) {
        char *colon = strchr(line, ':');
        if (strncmp(line, key, strlen(key)) != 0 || !colon)
            continue;
        colon += 1 + (colon[1] == ' ');
        colon[strcspn(colon, "\n")] = '\0';
        snprintf(text, size, "%s", colon);
        break;
    }
    if (f)
        fclose(f);
}

/* Of the processor's many flags, those of instruction sets that arithmetic is written for. */
static void describe_isa(char *text, size_t size)
{
    char flags[8192], *save = NULL;
    size_t n = 0;
    cpuinfo("flags", flags, sizeof flags);
    text[0] = '\0';
    for (char *w = strtok_r(flags, " ", &save); w && n < size; w = strtok_r(NULL, " ", &save))
        if (strncmp(w, "avx", 3) == 0 || strncmp(w, "amx", 3) == 0 || strcmp(w, "fma") == 0 ||
            strcmp(w, "f16c") == 0 || strncmp(w, "sse4", 4) == 0)
            n += (size_t)snprintf(text + n, size - n, "%s%s", n ? " " : "", w);
}

static void describe_turbo(char *text, size_t size)
{
    char no_turbo[16], boost[16];
    first_line("/sys/devices/system/cpu/intel_pstate/no_turbo", no_turbo, sizeof no_turbo);
    first_line("/sys/devices/system/cpu/cpufreq/boost", boost, sizeof boost);
    bool on = strcmp(no_turbo, "0") == 0 || strcmp(boost, "1") == 0;
    bool off = strcmp(no_turbo, "1") == 0 || strcmp(boost, "0") == 0;
    snprintf(text, size, "%s", on ? "on" : off ? "off" : "unknown");
}

static void describe_time(char *text, size_t size)
{
    const char *epoch = getenv("SOURCE_DATE_EPOCH");
    time_t t = epoch ? (time_t)strtoll(epoch, NULL, 10) : time(NULL);
    struct tm tm;
    gmtime_r(&t, &tm);
    strftime(text, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* 64-bit hash of a file's bytes; false when it cannot be read. */
static bool hash_file(const char *path, uint64_t *ret_hash)
{
    char block[65536];
    size_t n;
    FILE *f = fopen(path, "rb");
    *ret_hash = QG_HASH_START;
    while (f && (n = fread(block, 1, sizeof block, f)) > 0)
        *ret_hash = qg_hash(*ret_hash, block, n);
    bool good = f && !ferror(f);
    if (f)
        fclose(f);
    return good;
}

static void set_hash(struct qg_meta *m, const char *key, const char *path)
{
    char text[32] = "unknown";
    uint64_t hash;
    if (hash_file(path, &hash))
        snprintf(text, sizeof text, "%016" PRIx64, hash);
    qg_meta_set(m, key, text);
}

const char *qg_machine_library(int i, char *text, size_t size)
{
    switch (i) {
    case 0:
        qg_result_library(text, size);
        return text;
    case 1:
        snprintf(text, size, "%s", openblas_get_config());
        return text;
    case 2:
        snprintf(text, size, "GSL %s", gsl_version);
        return text;
    case 3:
        snprintf(text, size, "cJSON %s", cJSON_Version());
        return text;
    case 4:
        snprintf(text, size, "libcyaml %s", cyaml_version_str);
        return text;
    default:
        return NULL;
    }
}

static void set_libraries(struct qg_meta *m)
{
    char all[256] = "", one[160];
    size_t n = 0;
    for (int i = 0; qg_machine_library(i, one, sizeof one) && n < sizeof all; i++)
        n += (size_t)snprintf(all + n, sizeof all - n, "%s%s", n ? "; " : "", one);
    qg_meta_set(m, "libraries", all);
}

/* What differs from run to run. */
static void measure(struct qg_meta *m)
{
    char text[32] = "unknown";
    double load[1];
    if (getloadavg(load, 1) == 1)
        snprintf(text, sizeof text, "%.2f", load[0]);
    qg_meta_set(m, "load", text);
    snprintf(text, sizeof text, "%.3g", qg_clock_resolution());
    qg_meta_set(m, "clock_resolution_s", text);
}

/* What each backend runs on, or why its cases are SKIP; and how the device of the last that has one
 * is set. */
static void describe_backends(struct qg_meta *m)
{
    const struct qg_backend *b;
    const struct qg_stopwatch *stopwatch = NULL;
    char key[64], why[256], text[280];
    for (size_t i = 0; (b = qg_backend_at(i)); i++) {
        bool there = b->probe(why, sizeof why);
        snprintf(key, sizeof key, "backend_%s", b->name);
        snprintf(text, sizeof text, "%s%s", there ? "" : "SKIP: ", why);
        qg_meta_set(m, key, text);
        if (there && b->stopwatch)
            stopwatch = b->stopwatch;
    }
    if (stopwatch) {
        stopwatch->settings(text, sizeof text);
        qg_meta_set(m, "device_settings", text);
    }
}

void qg_machine_describe(struct qg_meta *m)
{
    char text[256];
    struct utsname u;
    cpuinfo("model name", text, sizeof text);
    qg_meta_set(m, "cpu", text);
    describe_isa(text, sizeof text);
    qg_meta_set(m, "cpu_isa", text);
    snprintf(text, sizeof text, "%ld", sysconf(_SC_NPROCESSORS_ONLN));
    qg_meta_set(m, "cpus", text);
    first_line("/sys/devices/system/cpu/cpu0/cpufreq/scaling_governor", text, sizeof text);
    qg_meta_set(m, "governor", text);
    describe_turbo(text, sizeof text);
    qg_meta_set(m, "turbo", text);
    if (!getenv("SOURCE_DATE_EPOCH"))
        measure(m);
    if (uname(&u) == 0) {
        snprintf(text, sizeof text, "%s %s %s", u.sysname, u.release, u.machine);
        qg_meta_set(m, "os", text);
    }
    set_libraries(m);
    qg_blas_core_describe(text, sizeof text);
    qg_meta_set(m, "blas_core", text);
    describe_backends(m);
    qg_fpenv_describe(text, sizeof text);
    qg_meta_set(m, "fp_environment", text);
    qg_meta_set(m, "cold_method", qg_bench_cold_method());
    describe_time(text, sizeof text);
    qg_meta_set(m, "time_utc", text);
    set_hash(m, "binary", "/proc/self/exe");
    set_hash(m, "goldens", QG_SOURCE_ROOT "/golden/data/MANIFEST.tsv");
}
