/* SPDX-License-Identifier: MIT */
#include "harness/yaml.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define DEPTH 4

void qg_yaml_add(struct qg_yaml_words *w, const char *word, int64_t value)
{
    if (w->n < QG_YAML_WORDS)
        w->word[w->n++] = (cyaml_strval_t){word, value};
}

void qg_yaml_yes_no(struct qg_yaml_words *w)
{
    qg_yaml_add(w, "yes", 1);
    qg_yaml_add(w, "no", 0);
    qg_yaml_add(w, "true", 1);
    qg_yaml_add(w, "false", 0);
}

/* What libcyaml says of the first error: a sentence, then the place, innermost first. */
struct complaint {
    char text[160], field[DEPTH][32];
    int depth;
    size_t line;
};

static void on_log(cyaml_log_t level, void *context, const char *format, va_list args)
{
    struct complaint *c = context;
    char text[256];
    size_t line;
    (void)level;
    vsnprintf(text, sizeof text, format, args);
    text[strcspn(text, "\n")] = '\0';
    char *at = strstr(text, "(line: ");
    if (strncmp(text, "Load: ", 6) == 0 && !c->text[0])
        snprintf(c->text, sizeof c->text, "%s", text + 6);
    if (!at || sscanf(at, "(line: %zu", &line) != 1)
        return;
    if (!c->line)
        c->line = line;
    if (c->depth < DEPTH && sscanf(text, " in mapping field '%31[^']'", c->field[c->depth]) == 1)
        c->depth++;
}

static void list_words(const struct qg_yaml_words *w, char *text, size_t size)
{
    size_t n = 0;
    for (unsigned i = 0; i < w->n && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", w->word[i].str);
}

static void list_keys(const cyaml_schema_field_t *f, char *text, size_t size)
{
    size_t n = 0;
    for (int i = 0; f[i].key && n < size; i++)
        n += (size_t)snprintf(text + n, size - n, "%s%s", i ? ", " : "", f[i].key);
}

/* libcyaml knows the line before an unknown key, not its own. */
static size_t line_of_key(const char *path, const char *key, size_t from)
{
    char line[512];
    size_t n = 0, length = strlen(key);
    FILE *f = fopen(path, "r");
    while (f && fgets(line, sizeof line, f)) {
        const char *at = line + strspn(line, " -");
        if (++n >= from && strncmp(at, key, length) == 0 && strchr(" :\n", at[length])) {
            from = n;
            break;
        }
    }
    if (f)
        fclose(f);
    return from;
}

static const struct qg_yaml_words *words_of(const struct qg_yaml *y, const struct complaint *c)
{
    for (int i = 0; c->depth && y->words[i].key; i++)
        if (strcmp(y->words[i].key, c->field[0]) == 0)
            return y->words[i].words;
    return NULL;
}

/* The keys of the innermost mapping that the complaint is in. */
static const cyaml_schema_field_t *keys_at(const struct qg_yaml *y, const struct complaint *c)
{
    for (int d = 0; d < c->depth; d++)
        for (int i = 0; y->blocks[i].key; i++)
            if (strcmp(y->blocks[i].key, c->field[d]) == 0)
                return y->blocks[i].keys;
    return y->keys;
}

static enum qg_status refuse_file(const struct qg_yaml *y, const char *path,
                                  const struct complaint *c, const char *otherwise,
                                  struct qg_error *err)
{
    char word[128], known[700];
    const struct qg_yaml_words *w = words_of(y, c);
    if (w && sscanf(c->text, "Invalid ENUM value: %127[^\n]", word) == 1) {
        list_words(w, known, sizeof known);
        return qg_fail(err, QG_EINVAL, "%s '%s' line %zu: '%s' is none of the %s; there are: %s",
                       y->what, path, c->line, word, c->field[0], known);
    }
    if (sscanf(c->text, "Unexpected key: %127[^\n]", word) == 1) {
        list_keys(keys_at(y, c), known, sizeof known);
        return qg_fail(err, QG_EINVAL, "%s '%s' line %zu: there is no key '%s' here; there are: %s",
                       y->what, path, line_of_key(path, word, c->line), word, known);
    }
    return qg_fail(err, QG_EINVAL, "%s '%s' line %zu: %s%s%s", y->what, path, c->line,
                   c->text[0] ? c->text : otherwise, c->depth ? ", at key " : "", c->field[0]);
}

static enum qg_status check_readable(const char *what, const char *path, struct qg_error *err)
{
    FILE *f = fopen(path, "r");
    if (!f)
        return qg_fail(err, QG_EINVAL, "%s '%s': %s", what, path, strerror(errno));
    enum qg_status status = QG_OK;
    errno = 0;
    if (fgetc(f) == EOF)
        status = qg_fail(err, QG_EINVAL, "%s '%s': %s", what, path,
                         ferror(f) ? strerror(errno) : "the file is empty");
    fclose(f);
    return status;
}

static cyaml_config_t config_for(struct complaint *c)
{
    return (cyaml_config_t){
        .log_fn = on_log, .log_ctx = c, .mem_fn = cyaml_mem, .log_level = CYAML_LOG_ERROR};
}

enum qg_status qg_yaml_load(const struct qg_yaml *y, const char *path, void **ret,
                            struct qg_error *err)
{
    struct complaint complaint = {.text = ""};
    const cyaml_config_t config = config_for(&complaint);
    if (check_readable(y->what, path, err) != QG_OK)
        return err->status;
    *ret = NULL;
    cyaml_err_t e = cyaml_load_file(path, &config, y->top, ret, NULL);
    if (e != CYAML_OK)
        return refuse_file(y, path, &complaint, cyaml_strerror(e), err);
    if (!*ret)
        return qg_fail(err, QG_EINVAL, "%s '%s': there is nothing in it", y->what, path);
    return QG_OK;
}

void qg_yaml_free(const struct qg_yaml *y, void *data)
{
    struct complaint none = {.text = ""};
    const cyaml_config_t config = config_for(&none);
    cyaml_free(&config, y->top, data, 0);
}
