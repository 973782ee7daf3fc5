/* SPDX-License-Identifier: MIT
 *
 * Makes and prints tensor files for the tests of the command line, and for the readers and writers
 * to be compared with those of other libraries (golden/gen/readback.py).
 *
 *     tensors write FILE [NAME DTYPE SHAPE VALUES]...    SHAPE 2x128, VALUES 1,-2,0.5 (repeated)
 *     tensors print FILE       one line per tensor: name dtype shape values
 *     tensors values MODEL FILE    all of a checkpoint that can be computed with, as F32, to
 *                              safetensors
 *     tensors copy MODEL FILE  all of a checkpoint as it is stored, to one file of its format
 *     tensors lm FOLDER SCALE  a small random language model of bytes; SCALE: of its MLPs
 */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "harness/base/rng.h"
#include "harness/io/gguf.h"
#include "harness/io/model.h"
#include "harness/io/safetensors.h"
#include "harness/lm/lm.h"
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

/* --- checkpoints ----------------------------------------------------------------------------- */

struct job {
    struct qg_model *m;
    const char *to;
    bool values;
    struct qg_stored *t;
    const struct qg_model_tensor **of; /* of t[i] */
    size_t n;
};

static void list(struct job *j)
{
    for (size_t i = 0; i < qg_model_count(j->m); i++) {
        const struct qg_model_tensor *t = qg_model_at(j->m, i);
        struct qg_stored *s = &j->t[j->n];
        *s = (struct qg_stored){t->t.name, t->dtype_word, t->rank, t->shape, t->bytes, 0};
        if (j->values && (t->t.dtype == QG_DTYPE_COUNT || !t->rank || !qg_count(&t->t)))
            continue;
        if (j->values) {
            s->dtype = "F32";
            s->bytes = qg_count(&t->t) * sizeof(float);
        }
        j->of[j->n++] = t;
    }
}

static enum qg_status create_gguf(struct job *j, struct qg_writer **w, struct qg_error *err)
{
    const struct qg_gguf_file *f = qg_model_gguf(j->m);
    struct qg_gguf_meta *meta = qg_gguf_meta_new();
    enum qg_status status = meta ? QG_OK : qg_fail(err, QG_ENOMEM, "no memory");
    for (size_t i = 0; status == QG_OK && qg_gguf_entry_at(f, i); i++)
        status = qg_gguf_meta_add(meta, qg_gguf_entry_at(f, i), err);
    if (status == QG_OK)
        status = qg_gguf_create(j->to, j->t, j->n, meta, QG_WRITE_OVER, w, err);
    qg_gguf_meta_free(&meta);
    return status;
}

static enum qg_status put(const struct job *j, struct qg_writer *w, size_t i, struct qg_error *err)
{
    const struct qg_model_tensor *t = j->of[i];
    void *data = malloc(j->t[i].bytes + 1);
    if (!data)
        return qg_fail(err, QG_ENOMEM, "no memory");
    enum qg_status status =
        j->values ? qg_model_rows(j->m, t, 0, qg_count(&t->t) / t->t.shape[t->t.rank - 1], QG_F32,
                                  data, err)
                  : qg_model_load(j->m, t, data, err);
    if (status == QG_OK)
        status = qg_writer_put(w, i, 0, data, j->t[i].bytes, err);
    free(data);
    return status;
}

static int write_model(const char *verb, const char *from, const char *to)
{
    struct job j = {.to = to, .values = strcmp(verb, "values") == 0};
    struct qg_writer *w = NULL;
    struct qg_error err;
    if (qg_model_open(from, &j.m, &err) != QG_OK)
        return fail(err.message);
    j.t = calloc(qg_model_count(j.m) + 1, sizeof *j.t);
    j.of = calloc(qg_model_count(j.m) + 1, sizeof *j.of);
    if (!j.t || !j.of)
        return fail("no memory");
    list(&j);
    enum qg_status status =
        qg_model_format(j.m) == QG_MODEL_GGUF && !j.values
            ? create_gguf(&j, &w, &err)
            : qg_safetensors_create(to, j.t, j.n, NULL, QG_WRITE_OVER, &w, &err);
    for (size_t i = 0; i < j.n && status == QG_OK; i++)
        status = put(&j, w, i, &err);
    if (status == QG_OK)
        status = qg_writer_finish(w, &err);
    qg_writer_close(&w, false);
    qg_model_close(&j.m);
    free(j.t);
    free(j.of);
    return status == QG_OK ? EXIT_SUCCESS : fail(err.message);
}

static void fill_model(struct qg_lm *m, float scale)
{
    for (size_t i = 0; i < m->n_tensors; i++) {
        const struct qg_lm_tensor *t = &m->tensor[i];
        bool mlp = t->part == QG_LM_GATE || t->part == QG_LM_UP || t->part == QG_LM_DOWN;
        for (size_t k = 0; k < t->rows * t->cols; k++)
            m->params[t->at + k] =
                qg_lm_is_matrix(t)
                    ? (mlp ? scale : 1) * (float)qg_rng_normal(5, i, k) / sqrtf((float)t->cols)
                    : 1;
    }
}

static int write_lm(const char *folder, float scale)
{
    const struct qg_lm_config c = {.vocab = 256,
                                   .width = 64,
                                   .layers = 2,
                                   .heads = 4,
                                   .kv_heads = 2,
                                   .head = 16,
                                   .hidden = 128,
                                   .context = 32,
                                   .norm_eps = 1e-5,
                                   .rope_theta = 10000,
                                   .separator = 12,
                                   .has_separator = true};
    struct qg_lm *m;
    struct qg_error err;
    if (mkdir(folder, 0777) != 0)
        return fail("mkdir");
    if (qg_lm_make(&c, QG_BF16, &m, &err) != QG_OK)
        return fail(err.message);
    fill_model(m, scale);
    enum qg_status status = qg_lm_save(m, folder, QG_BF16, false, &err);
    qg_lm_free(&m);
    return status == QG_OK ? EXIT_SUCCESS : fail(err.message);
}

int main(int argc, char **argv)
{
    if (argc >= 3 && strcmp(argv[1], "write") == 0)
        return write_file(argv[2], argc - 3, argv + 3);
    if (argc == 3 && strcmp(argv[1], "print") == 0)
        return print_file(argv[2]);
    if (argc == 4 && (strcmp(argv[1], "values") == 0 || strcmp(argv[1], "copy") == 0))
        return write_model(argv[1], argv[2], argv[3]);
    if (argc == 4 && strcmp(argv[1], "lm") == 0)
        return write_lm(argv[2], strtof(argv[3], NULL));
    return fail("write FILE [NAME DTYPE SHAPE VALUES]... | print FILE | values MODEL FILE | "
                "copy MODEL FILE | lm FOLDER SCALE");
}
