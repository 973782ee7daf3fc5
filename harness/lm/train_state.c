/* SPDX-License-Identifier: MIT
 *
 * The state of a run as a safetensors file: params, m and v in F32; "run", JSON with the steps done
 * and everything that decides the run's bits; "log", the caller's text.
 */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zlib.h>

#include "harness/io/json.h"
#include "harness/io/safetensors.h"
#include "harness/lm/trainer.h"

static uint32_t crc_of(const void *data, size_t n)
{
    return (uint32_t)crc32_z(0, data, n);
}

uint32_t qg_trainer_fingerprint(const struct qg_lm *m)
{
    return crc_of(m->params, m->n_params * sizeof *m->params);
}

/* What decides the bits. */
static cJSON *describe(const struct qg_trainer *t)
{
    const struct qg_train_options *o = &t->options;
    const struct {
        const char *key;
        double value;
    } numbers[] = {{"batch", (double)o->batch},
                   {"length", (double)o->length},
                   {"steps", (double)o->steps},
                   {"warmup", (double)o->warmup},
                   {"lr", o->lr},
                   {"lr_end", o->lr_end},
                   {"beta1", o->adamw.beta1},
                   {"beta2", o->adamw.beta2},
                   {"eps", o->adamw.eps},
                   {"decay", o->decay},
                   {"clip", o->clip},
                   {"trained parameters", (double)t->n},
                   {"fingerprint of the parameters at the start", t->start},
                   {"tokens of the text", (double)t->text.n},
                   {"fingerprint of the text", crc_of(t->text.id, t->text.n * sizeof *t->text.id)}};
    char seed[24];
    cJSON *j = cJSON_CreateObject();
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++)
        cJSON_AddNumberToObject(j, numbers[i].key, numbers[i].value);
    snprintf(seed, sizeof seed, "%" PRIu64, o->seed);
    cJSON_AddStringToObject(j, "seed", seed);
    return j;
}

static char *spell(const struct qg_trainer *t)
{
    cJSON *j = cJSON_CreateObject();
    cJSON_AddNumberToObject(j, "steps done", (double)t->step);
    cJSON_AddItemToObject(j, "run", describe(t));
    char *text = cJSON_PrintUnformatted(j);
    cJSON_Delete(j);
    return text;
}

enum qg_status qg_trainer_save(const struct qg_trainer *t, const char *path, const char *log,
                               struct qg_error *err)
{
    char *run = spell(t);
    if (!run)
        return qg_fail(err, QG_ENOMEM, "%s: no memory", path);
    const struct qg_tensor tensors[] = {
        {"params", QG_F32, 1, {t->n}, t->lm->params + t->lm->frozen},
        {"m", QG_F32, 1, {t->n}, t->m},
        {"v", QG_F32, 1, {t->n}, t->v},
        {"run", QG_U8, 1, {strlen(run)}, run},
        {"log", QG_U8, 1, {strlen(log)}, (char *)log},
    };
    enum qg_status status = qg_safetensors_write(path, tensors, 5, true, err);
    cJSON_free(run);
    return status;
}

/* --- and back -------------------------------------------------------------------------------- */

/* The text of a U8 tensor, ended by a NUL; the caller frees. */
static enum qg_status load_text(const struct qg_safetensors *f, const char *name, char **ret_text,
                                size_t *ret_n, struct qg_error *err)
{
    const struct qg_tensor *t = qg_safetensors_find(f, name);
    if (!t || t->dtype != QG_U8 || t->rank != 1)
        return qg_fail(err, QG_EFORMAT, "no text '%s': not the state of a training run", name);
    char *text = malloc(t->shape[0] + 1);
    if (!text)
        return qg_fail(err, QG_ENOMEM, "no memory for %zu bytes", t->shape[0]);
    enum qg_status status = qg_safetensors_load(f, t, text, err);
    text[t->shape[0]] = '\0';
    *ret_n = t->shape[0];
    if (status == QG_OK)
        *ret_text = text;
    else
        free(text);
    return status;
}

static enum qg_status load_numbers(const struct qg_safetensors *f, const char *name, size_t n,
                                   float *dst, struct qg_error *err)
{
    const struct qg_tensor *t = qg_safetensors_find(f, name);
    if (!t || t->dtype != QG_F32 || t->rank != 1 || t->shape[0] != n)
        return qg_fail(err, QG_EFORMAT, "no '%s' of %zu F32: not the state of this run", name, n);
    return qg_safetensors_load(f, t, dst, err);
}

/* Both descriptions must agree in every member. */
static enum qg_status compare(const cJSON *theirs, const cJSON *ours, struct qg_error *err)
{
    const cJSON *j;
    cJSON_ArrayForEach(j, ours)
    {
        const cJSON *other = cJSON_GetObjectItemCaseSensitive(theirs, j->string);
        if (cJSON_Compare(j, other, true))
            continue;
        if (cJSON_IsNumber(j) && cJSON_IsNumber(other))
            return qg_fail(err, QG_EINVAL, "it is of another run: %s was %.17g, not %.17g",
                           j->string, other->valuedouble, j->valuedouble);
        return qg_fail(err, QG_EINVAL, "it is of another run: %s was another", j->string);
    }
    return QG_OK;
}

static enum qg_status check_run(const struct qg_trainer *t, const char *text, size_t n,
                                uint64_t *ret_step, struct qg_error *err)
{
    cJSON *j = NULL, *ours = describe(t);
    const cJSON *run = NULL, *step = NULL;
    enum qg_status status = qg_json_parse(text, n, "\"run\"", 0, &j, err);
    if (status == QG_OK && !(run = qg_json_member(j, "run", cJSON_Object, "an object", err)))
        status = err->status;
    if (status == QG_OK && !(step = qg_json_member(j, "steps done", cJSON_Number, "a number", err)))
        status = err->status;
    if (status == QG_OK)
        status = compare(run, ours, err);
    if (status == QG_OK &&
        !(step->valuedouble >= 0 && step->valuedouble <= (double)t->options.steps &&
          step->valuedouble == (double)(uint64_t)step->valuedouble))
        status = qg_fail(err, QG_EFORMAT, "%g steps done of %" PRIu64, step->valuedouble,
                         t->options.steps);
    if (status == QG_OK)
        *ret_step = (uint64_t)step->valuedouble;
    cJSON_Delete(j);
    cJSON_Delete(ours);
    return status;
}

static enum qg_status load(struct qg_trainer *t, const struct qg_safetensors *f, char **ret_log,
                           struct qg_error *err)
{
    char *run = NULL, *log = NULL;
    size_t n_run, n_log;
    uint64_t step = 0;
    enum qg_status status = load_text(f, "run", &run, &n_run, err);
    if (status == QG_OK)
        status = check_run(t, run, n_run, &step, err);
    if (status == QG_OK)
        status = load_text(f, "log", &log, &n_log, err);
    if (status == QG_OK)
        status = load_numbers(f, "params", t->n, t->lm->params + t->lm->frozen, err);
    if (status == QG_OK)
        status = load_numbers(f, "m", t->n, t->m, err);
    if (status == QG_OK)
        status = load_numbers(f, "v", t->n, t->v, err);
    free(run);
    if (status != QG_OK) {
        free(log);
        return status;
    }
    t->step = step;
    *ret_log = log;
    return QG_OK;
}

enum qg_status qg_trainer_resume(struct qg_trainer *t, const char *path, char **ret_log,
                                 struct qg_error *err)
{
    struct qg_safetensors *f;
    char *log;
    if (qg_safetensors_open(path, &f, err) != QG_OK)
        return err->status;
    enum qg_status status = load(t, f, &log, err);
    qg_safetensors_close(&f);
    if (status != QG_OK)
        return qg_context(err, "%s", path);
    if (qg_lm_refresh(t->lm, t->threads, err) != QG_OK) {
        free(log);
        return err->status;
    }
    *ret_log = log;
    return QG_OK;
}
