/* SPDX-License-Identifier: MIT */
#include "harness/resources.h"

#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "kernels/cuda/backend.h"
#include "kernels/kernel.h"

/* --- occupancy ------------------------------------------------------------------------------- */

enum {
    WARP = 32,
    REGISTERS = 65536,      /* of a multiprocessor, every capability below (Programming Guide) */
    PARTITIONS = 4,         /* cudaOccSubPartitionsPerMultiprocessor: each has a quarter of them */
    REGISTER_UNIT = 256,    /* cudaOccRegAllocationGranularity: of a warp */
    SHARED_UNIT = 128,      /* cudaOccSMemAllocationGranularity */
    SHARED_RESERVED = 1024, /* of each block, by the system (Programming Guide, 8.x and later) */
};

/* Of a multiprocessor: resident warps and blocks, shared memory (Programming Guide), and barriers
 * (cudaOccMaxBlocksPerSMBlockBarrierLimit, which is asked from 9.0 on; 0: they do not bound). */
static const struct capability {
    const char *number; /* of sm_NUMBER, without the letter behind it */
    unsigned warps, blocks, shared_kib, barriers;
} capabilities[] = {
    {"80", 64, 32, 164, 0},   {"86", 48, 16, 100, 0},   {"87", 48, 16, 164, 0},
    {"89", 48, 24, 100, 0},   {"90", 64, 32, 228, 64},  {"100", 64, 32, 228, 64},
    {"103", 64, 32, 228, 64}, {"120", 48, 24, 100, 24},
};

static const struct capability *capability_of(const char *target)
{
    size_t n = strncmp(target, "sm_", 3) == 0 ? strspn(target + 3, "0123456789") : 0;
    for (size_t i = 0; i < sizeof capabilities / sizeof capabilities[0]; i++)
        if (strlen(capabilities[i].number) == n &&
            strncmp(capabilities[i].number, target + 3, n) == 0)
            return &capabilities[i];
    return NULL;
}

static unsigned round_up(unsigned n, unsigned unit)
{
    return (n + unit - 1) / unit * unit;
}

/* Blocks that registers have room for (cudaOccMaxBlocksPerSMRegsLimit): each partition takes whole
 * warps. */
static unsigned by_registers(const struct qg_resource *r, unsigned warps)
{
    unsigned each = round_up(r->registers * WARP, REGISTER_UNIT);
    if (each * round_up(warps, PARTITIONS) > REGISTERS)
        return 0;
    return each ? REGISTERS / PARTITIONS / each * PARTITIONS / warps : UINT_MAX;
}

void qg_resource_occupancy(struct qg_resource *r)
{
    const struct capability *c = capability_of(r->target);
    r->warps = r->most_warps = 0;
    memset(r->limit, 0, sizeof r->limit);
    if (!c || !r->block || r->registers > 255 || r->shared > c->shared_kib * 1024)
        return;
    unsigned warps = (r->block + WARP - 1) / WARP;
    const struct {
        const char *name;
        unsigned blocks;
    } limits[] = {
        {"warps", c->warps / warps},
        {"blocks", c->blocks},
        {"registers", by_registers(r, warps)},
        {"shared", c->shared_kib * 1024 / round_up(r->shared + SHARED_RESERVED, SHARED_UNIT)},
        {"barriers", c->barriers && r->barriers ? c->barriers / r->barriers : UINT_MAX},
    };
    size_t least = 0;
    for (size_t i = 1; i < sizeof limits / sizeof limits[0]; i++)
        least = limits[i].blocks < limits[least].blocks ? i : least;
    r->warps = limits[least].blocks * warps;
    r->most_warps = c->warps;
    snprintf(r->limit, sizeof r->limit, "%s", limits[least].name);
}

/* --- the assembler's report ------------------------------------------------------------------ */

/* Where the arguments of a function's name begin, and in *ret_start the name behind its type. */
static const char *split(const char *name, const char **ret_start)
{
    int depth = 0;
    for (*ret_start = name; *name; name++) {
        if (*name == '<' || *name == '>')
            depth += *name == '<' ? 1 : -1;
        else if (*name == '(' && depth == 0)
            break;
        else if (*name == ' ' && depth == 0)
            *ret_start = name + 1;
    }
    return name;
}

/* "void qg_each_piece<qg_spreading<(anonymous namespace)::product, true> >(unsigned long)" as
 * "each_piece<spreading<product, true>>". */
static void shorten(char *text, size_t size, const char *name)
{
    static const char *const drop[] = {"(anonymous namespace)::", "qg_"};
    char plain[4096];
    size_t n = 0;
    for (const char *s = name; *s && n + 1 < sizeof plain;) {
        size_t skip = 0;
        bool starts = s == name || strchr(" <(,:", s[-1]);
        for (size_t i = 0; starts && i < sizeof drop / sizeof drop[0]; i++)
            if (strncmp(s, drop[i], strlen(drop[i])) == 0)
                skip = strlen(drop[i]);
        if (*s == ' ' && s[1] == '>')
            skip = 1;
        if (skip)
            s += skip;
        else
            plain[n++] = *s++;
    }
    plain[n] = '\0';
    const char *start, *end = split(plain, &start);
    snprintf(text, size, "%.*s", (int)(end - start), start);
}

/* A kernel while its lines come. */
struct reading {
    struct qg_resource row;
    const char *name; /* in full; NULL: no kernel */
    bool ours;        /* the numbers that follow are this function's, not of one that it calls */
    bool has_stack, has_used;
};

/* "ptxas info    : Compiling entry function 'NAME' for 'TARGET'" */
static bool read_entry(char *line, struct reading *k)
{
    static const char head[] = "Compiling entry function '", middle[] = "' for '";
    char *name = strstr(line, head), *target = name ? strstr(name, middle) : NULL, *end;
    if (!target || !(end = strchr(target + sizeof middle - 1, '\'')))
        return false;
    *target = *end = '\0';
    name += sizeof head - 1;
    *k = (struct reading){.name = name};
    shorten(k->row.kernel, sizeof k->row.kernel, name);
    snprintf(k->row.target, sizeof k->row.target, "%s", target + sizeof middle - 1);
    return true;
}

/* "0 bytes stack frame, 8 bytes spill stores, 4 bytes spill loads" */
static bool read_stack(const char *line, struct qg_resource *r)
{
    return sscanf(line, " %9u bytes stack frame, %9u bytes spill stores, %9u bytes spill loads",
                  &r->stack, &r->spill_stores, &r->spill_loads) == 3;
}

/* "ptxas info    : Used 80 registers, used 1 barriers, 64 bytes smem, 588 bytes cmem[0]", of which
 * all but the registers may be absent. */
static bool read_used(const char *line, struct qg_resource *r)
{
    const char *used = strstr(line, ": Used ");
    unsigned n;
    char word[8];
    if (!used || sscanf(used, ": Used %9u registers", &r->registers) != 1)
        return false;
    for (const char *s = used; (s = strchr(s, ',')); s++) {
        if (sscanf(s, ", used %9u barriers", &n) == 1)
            r->barriers = n;
        else if (sscanf(s, ", %9u bytes %7s", &n, word) == 2 && strncmp(word, "smem", 4) == 0)
            r->shared = n;
    }
    return true;
}

static enum qg_status keep(struct qg_resources *list, struct reading *k, const char *file,
                           struct qg_error *err)
{
    if (!k->name)
        return QG_OK;
    if (!k->has_stack || !k->has_used)
        return qg_fail(err, QG_EFORMAT, "the assembler's report of %s is torn at kernel %s for %s",
                       file, k->row.kernel, k->row.target);
    struct qg_resource *more = realloc(list->at, (list->n + 1) * sizeof *more);
    if (!more)
        return qg_fail(err, QG_ENOMEM, "no memory for the resources of kernels");
    snprintf(k->row.file, sizeof k->row.file, "%s", file);
    k->row.block = QG_BLOCK;
    qg_resource_occupancy(&k->row);
    list->at = more;
    list->at[list->n++] = k->row;
    return QG_OK;
}

static enum qg_status read_line(struct qg_resources *list, struct reading *k, char *line,
                                const char *file, struct qg_error *err)
{
    static const char properties[] = "Function properties for ";
    struct reading next;
    const char *of = strstr(line, properties);
    if (read_entry(line, &next)) {
        enum qg_status status = keep(list, k, file, err);
        *k = next;
        return status;
    }
    if (of)
        k->ours = k->name && strcmp(of + sizeof properties - 1, k->name) == 0;
    else if (k->ours && !k->has_stack)
        k->has_stack = read_stack(line, &k->row);
    else if (k->name && !k->has_used)
        k->has_used = read_used(line, &k->row);
    return QG_OK;
}

enum qg_status qg_resources_add(struct qg_resources *list, const char *file, const char *text,
                                struct qg_error *err)
{
    struct reading k = {.name = NULL};
    const size_t before = list->n;
    char *copy = strdup(text), *rest = NULL;
    enum qg_status status = copy ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory for a report");
    for (char *line = copy ? strtok_r(copy, "\n", &rest) : NULL; line && status == QG_OK;
         line = strtok_r(NULL, "\n", &rest))
        status = read_line(list, &k, line, file, err);
    if (status == QG_OK)
        status = keep(list, &k, file, err);
    if (status != QG_OK)
        list->n = before;
    free(copy);
    return status;
}

enum qg_status qg_resources_built(struct qg_resources *list, const char **ret_why,
                                  struct qg_error *err)
{
    const struct qg_compiler_report *r = qg_compiler_reports();
    enum qg_status status = QG_OK;
    *ret_why = r->file ? NULL
                       : "nvcc compiled no kernel of this program: configure with -Dcuda=enabled, "
                         "which needs the CUDA toolkit 12.9 or later";
    for (; r->file && status == QG_OK; r++)
        status = qg_resources_add(list, r->file, r->text, err);
    return status;
}
