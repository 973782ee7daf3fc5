// SPDX-License-Identifier: MIT
//
// What is said of a mistake: the sentence, and where in the source it was made.
#include <dlfcn.h>
#include <link.h>
#include <stdarg.h>
#include <unistd.h>

#include "tests/simt/inside.h"

static char finding[2048];
static const void *kernel;

const char *simt_finding(void)
{
    return finding[0] ? finding : NULL;
}

void simt_reset(void)
{
    finding[0] = 0;
    simt_break(cudaSuccess);
}

void simt_find_in(const void *k)
{
    kernel = k;
}

// --- places -------------------------------------------------------------------------------------

// How far the program lies above the addresses in its file.
static int note_bias(struct dl_phdr_info *i, size_t, void *bias)
{
    *(uintptr_t *)bias = i->dlpi_addr;
    return 1; // the program comes first
}

// addr2line's answer for an address: the innermost function first, two lines each.
static FILE *ask_for(uintptr_t address)
{
    char path[1024], command[1200];
    uintptr_t bias = 0;
    ssize_t n = readlink("/proc/self/exe", path, sizeof path - 1);
    if (n < 0)
        return NULL;
    path[n] = 0;
    dl_iterate_phdr(note_bias, &bias);
    snprintf(command, sizeof command, "addr2line -C -f -i -e '%s' 0x%lx 2>/dev/null", path,
             (unsigned long)(address - bias));
    fflush(NULL);
    return popen(command, "r");
}

static bool read_line(FILE *f, char *line, size_t size)
{
    if (!fgets(line, (int)size, f))
        return false;
    line[strcspn(line, "\n")] = 0;
    return true;
}

// "../dir/x.cu:12 (discriminator 3)" as "x.cu:12", in place.
static char *short_place(char *line)
{
    char *slash = strrchr(line, '/'), *name = slash ? slash + 1 : line;
    name[strcspn(name, " ")] = 0;
    return name;
}

void simt_describe_place(const void *pc, char *text, size_t size)
{
    char function[1024], line[1024], inner[256] = "", outer[256] = "";
    FILE *f = ask_for((uintptr_t)pc - 1); // within the call, which pc is behind
    while (f && read_line(f, function, sizeof function) && read_line(f, line, sizeof line)) {
        const char *name = short_place(line);
        if (strncmp(name, "cuda_runtime.h", 14) == 0 || name[0] == '?')
            continue; // the stand-in's own, or not known
        snprintf(outer, sizeof outer, "%s", name);
        if (!inner[0])
            snprintf(inner, sizeof inner, "%s", name);
    }
    if (f)
        pclose(f);
    if (!inner[0])
        snprintf(text, size, "at %p (addr2line and -g would say where)", pc);
    else if (strcmp(inner, outer) == 0)
        snprintf(text, size, "at %s", inner);
    else
        snprintf(text, size, "at %s called from %s", inner, outer);
}

void simt_describe_symbol(const char *symbol, char *text, size_t size)
{
    char command[600];
    snprintf(command, sizeof command, "c++filt -- '%s' 2>/dev/null", symbol);
    fflush(NULL);
    FILE *f = popen(command, "r");
    if (!f || !read_line(f, text, size))
        snprintf(text, size, "%s", symbol);
    if (f)
        pclose(f);
}

bool simt_same_place(const void *a, const void *b)
{
    static const void *same[16][2]; // as found before
    static unsigned n_same;
    if (a == b)
        return true;
    for (const auto &s : same)
        if ((s[0] == a && s[1] == b) || (s[0] == b && s[1] == a))
            return true;
    char x[512], y[512];
    simt_describe_place(a, x, sizeof x);
    simt_describe_place(b, y, sizeof y);
    if (strcmp(x, y) != 0)
        return false;
    const void **s = same[n_same++ % 16];
    s[0] = a;
    s[1] = b;
    return true;
}

// The kernel's name without its parameters.
static void name_kernel(char *text, size_t size)
{
    FILE *f = ask_for((uintptr_t)kernel);
    char line[1024] = "?", function[1024], place[1024];
    while (f && read_line(f, function, sizeof function) && read_line(f, place, sizeof place))
        memcpy(line, function, sizeof line); // the last one: others are inlined into it
    if (f)
        pclose(f);
    if (line[0] == '?')
        snprintf(line, sizeof line, "at %p", kernel);
    char *open = strstr(line, ">("); // of a template: its arguments are part of the name
    if (open)
        open[1] = 0;
    else
        line[strcspn(line, "(")] = 0;
    const char *name = strncmp(line, "void ", 5) == 0 ? line + 5 : line;
    snprintf(text, size, "%.200s", name);
}

// "17", or "(17, 2, 0)" where there are more dimensions.
static void write_index(char *text, size_t size, uint3 i, dim3 of)
{
    if (of.y * of.z == 1)
        snprintf(text, size, "%u", i.x);
    else
        snprintf(text, size, "(%u, %u, %u)", i.x, i.y, i.z);
}

// --- the sentence -------------------------------------------------------------------------------

void simt_found(const void *pc, const char *format, ...)
{
    char what[1024], where[512], name[256] = "";
    if (finding[0])
        return; // the first one counts
    va_list args;
    va_start(args, format);
    vsnprintf(what, sizeof what, format, args);
    va_end(args);
    char block[64], thread[64];
    if (kernel)
        name_kernel(name, sizeof name);
    if (!kernel) {
        snprintf(finding, sizeof finding, "%s", what);
    } else if (pc) {
        simt_describe_place(pc, where, sizeof where);
        write_index(block, sizeof block, blockIdx, gridDim);
        write_index(thread, sizeof thread, threadIdx, blockDim);
        snprintf(finding, sizeof finding, "kernel %s, block %s, thread %s, %s: %s", name, block,
                 thread, where, what);
    } else {
        snprintf(finding, sizeof finding, "kernel %s: %s", name, what);
    }
    fprintf(stderr, "simt: %s\n", finding);
}

void __trap(void)
{
    simt_found(__builtin_return_address(0), "__trap() was called");
    simt_abandon(cudaErrorLaunchFailure);
}
