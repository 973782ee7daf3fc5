/* SPDX-License-Identifier: MIT
 *
 * Makes and prints safetensors files for the tests of the command line.
 *
 *     tensors write FILE [NAME DTYPE SHAPE VALUES]...    SHAPE 2x128, VALUES 1,-2,0.5 (repeated)
 *     tensors print FILE       one line per tensor: name dtype shape values
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/io/safetensors.h"
#include "schemes/scheme.h"

static int fail(const char *message)
{
    fprintf(stderr, "tensors: %s\n", message);
    return EXIT_FAILURE;
}

/* VALUES over and over, until the tensor is full. */
static void fill(const struct qg_tensor *t, const char *values)
{
    const char *p = values;
    for (size_t i = 0; i < qg_count(t); i++) {
        char *end;
        qg_put(t, i, strtof(p, &end));
        p = *end == ',' ? end + 1 : values;
    }
}

static bool make(struct qg_tensor *t, char **words)
{
    *t = (struct qg_tensor){.name = words[0], .dtype = qg_dtype_parse(words[1])};
    for (char *p = words[2]; *p && t->rank < QG_MAX_RANK; p += *p == 'x')
        t->shape[t->rank++] = strtoul(p, &p, 10);
    t->data = calloc(qg_count(t) + 1, sizeof(float));
    if (t->dtype == QG_DTYPE_COUNT || !t->data)
        return false;
    fill(t, words[3]);
    return true;
}

static int write_file(const char *path, int n_words, char **words)
{
    struct qg_tensor tensors[16] = {{0}};
    struct qg_error err;
    size_t n = 0;
    for (; n_words >= 4 && n < 16; n_words -= 4, words += 4)
        if (!make(&tensors[n++], words))
            return fail("NAME DTYPE SHAPE VALUES");
    enum qg_status status = qg_safetensors_write(path, tensors, n, true, &err);
    for (size_t i = 0; i < n; i++)
        free(tensors[i].data);
    return status == QG_OK ? EXIT_SUCCESS : fail(err.message);
}

static int print_file(const char *path)
{
    struct qg_safetensors *f;
    struct qg_error err;
    if (qg_safetensors_open(path, &f, &err) != QG_OK)
        return fail(err.message);
    for (size_t i = 0; i < qg_safetensors_count(f); i++) {
        const struct qg_tensor *t = qg_safetensors_at(f, i);
        struct qg_tensor copy = *t;
        if (t->dtype == QG_DTYPE_COUNT) { // its values are none that tests look at
            printf("%s %s\n", t->name, qg_safetensors_dtype_word(f, i));
            continue;
        }
        copy.data = malloc(qg_bytes(t) + 1);
        if (!copy.data || qg_safetensors_load(f, t, copy.data, &err) != QG_OK)
            return fail("load");
        printf("%s %s ", t->name, qg_safetensors_dtype_word(f, i));
        for (int d = 0; d < t->rank; d++)
            printf("%s%zu", d ? "x" : "", t->shape[d]);
        for (size_t k = 0; k < qg_count(t); k++)
            printf(" %.9g", qg_get(&copy, k));
        putchar('\n');
        free(copy.data);
    }
    qg_safetensors_close(&f);
    return EXIT_SUCCESS;
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "write") == 0)
        return write_file(argv[2], argc - 3, argv + 3);
    if (argc == 3 && strcmp(argv[1], "print") == 0)
        return print_file(argv[2]);
    return fail("write FILE [NAME DTYPE SHAPE VALUES]... | print FILE");
}
