/* SPDX-License-Identifier: MIT */
#include "harness/lm/base.h"

#include <cblas.h>
#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "harness/compare.h"

struct search {
    const struct qg_evaluation *e;
    const struct qg_lm *m;
    struct qg_logits_shape shape;
    char key[512], path[1024];
    void (*note)(void *user, const char *sentence);
    void *user;
};

bool qg_cache_folder(char *text, size_t size)
{
    const char *cache = getenv("XDG_CACHE_HOME"), *home = getenv("HOME");
    int n = cache && *cache ? snprintf(text, size, "%s/qgauge", cache)
            : home && *home ? snprintf(text, size, "%s/.cache/qgauge", home)
                            : -1;
    return n > 0 && (size_t)n < size;
}

/* Makes a folder and those above it. */
static bool make_folders(char *path)
{
    for (char *slash = strchr(path + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
        *slash = '\0';
        bool ok = mkdir(path, 0777) == 0 || errno == EEXIST;
        *slash = '/';
        if (!ok)
            return false;
    }
    return mkdir(path, 0777) == 0 || errno == EEXIST;
}

static void __attribute__((format(printf, 2, 3)))
tell(const struct search *s, const char *format, ...)
{
    char sentence[1536];
    va_list ap;
    va_start(ap, format);
    vsnprintf(sentence, sizeof sentence, format, ap);
    va_end(ap);
    if (s->note)
        s->note(s->user, sentence);
}

static void spell_key(struct search *s)
{
    snprintf(s->key, sizeof s->key,
             "logits of model %016" PRIx64 " on text %016" PRIx64
             ", %zu windows of %zu, %zu tokens, in %s, OpenBLAS core %s",
             qg_lm_hash(s->m), qg_text_hash(s->e->tokens), s->shape.windows, s->shape.context,
             s->shape.vocab, qg_dtype_name(s->m->linear[qg_lm_head(s->m)].order.dtype),
             openblas_get_corename());
}

/* Where they are kept; false, after a sentence, when there is no such place. */
static bool find_place(struct search *s, const char *folder)
{
    char made[sizeof s->path];
    int n = snprintf(made, sizeof made, "%s", folder);
    if (n < 0 || (size_t)n + 64 > sizeof made || !make_folders(made)) {
        tell(s, "%s: %s; the base logits are kept in memory", folder,
             (size_t)n + 64 > sizeof made ? "too long a name" : strerror(errno));
        return false;
    }
    snprintf(s->path, sizeof s->path, "%s/base-%016" PRIx64 ".h5", folder,
             qg_hash(QG_HASH_START, s->key, strlen(s->key)));
    return true;
}

/* From the file; false when it is not there or is no good. */
static bool take(const struct search *s, struct qg_logits **ret_l)
{
    struct qg_error err;
    enum qg_status status = qg_logits_open(s->path, s->key, &s->shape, ret_l, &err);
    if (status == QG_OK && (status = qg_evaluate_check(s->e, s->m, *ret_l, &err)) != QG_OK)
        qg_logits_close(ret_l);
    if (status != QG_OK && status != QG_EABSENT)
        tell(s, "%s; the base logits are computed anew", err.message);
    return status == QG_OK;
}

static enum qg_status make(const struct search *s, const char *path, struct qg_logits **ret_l,
                           bool *ret_stopped, struct qg_error *err)
{
    if (qg_logits_create(path, s->key, &s->shape, ret_l, err) != QG_OK)
        return err->status;
    enum qg_status status = qg_evaluate_base(s->e, s->m, *ret_l, ret_stopped, err);
    if (status == QG_OK && !*ret_stopped)
        status = qg_logits_finish(*ret_l, err);
    if (status != QG_OK || *ret_stopped)
        qg_logits_close(ret_l);
    return status;
}

enum qg_status qg_base_logits(const struct qg_evaluation *e, const struct qg_lm *m,
                              const char *folder, void (*note)(void *user, const char *sentence),
                              void *user, struct qg_logits **ret_l, bool *ret_stopped,
                              struct qg_error *err)
{
    struct search s = {.e = e, .m = m, .note = note, .user = user};
    s.shape = (struct qg_logits_shape){e->windows->n, e->windows->context, (size_t)m->config.vocab};
    *ret_l = NULL;
    *ret_stopped = false;
    spell_key(&s);
    if (!folder || !find_place(&s, folder))
        return make(&s, NULL, ret_l, ret_stopped, err);
    if (take(&s, ret_l))
        return QG_OK;
    enum qg_status status = make(&s, s.path, ret_l, ret_stopped, err);
    if (status != QG_EIO)
        return status;
    tell(&s, "%s; the base logits are kept in memory", err->message);
    return make(&s, NULL, ret_l, ret_stopped, err);
}
