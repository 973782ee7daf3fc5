/* SPDX-License-Identifier: MIT */
#include "harness/yaml.h"

#include <stdio.h>
#include <string.h>

#include "harness/io/file.h"
#include "harness/select.h"

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
    int depth, above; /* field[above] is the list whose entry it is in */
    unsigned entry;   /* from 1; 0: in no list */
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
    else if (!c->entry && sscanf(text, " in sequence entry '%u'", &c->entry) == 1)
        c->above = c->depth;
}

static const char *word_at(const void *user, size_t i)
{
    const struct qg_yaml_words *w = user;
    return i < w->n ? w->word[i].str : NULL;
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

/* The sentence for a word that its key does not take. */
static void explain_word(const struct qg_yaml *y, const struct complaint *c, const char *word,
                         char *text, size_t size)
{
    char known[700] = "";
    const struct qg_yaml_words *w = words_of(y, c);
    const char *near = w ? qg_nearest_name(word, word_at, w) : NULL;
    if (w)
        list_words(w, known, sizeof known);
    snprintf(text, size, "%s: there is no '%s'%s%s%s; there are: %s", c->field[0], word,
             near ? " (did you mean '" : "", near ? near : "", near ? "'?)" : "", known);
}

/* The sentence for a list where there is none to be, and the like. */
static void explain_kind(const struct qg_yaml *y, const struct complaint *c, const char *want,
                         const char *got, char *text, size_t size)
{
    char keys[400];
    const char *key = c->depth ? c->field[0] : "it";
    list_keys(keys_at(y, c), keys, sizeof keys);
    if (strcmp(want, "SEQUENCE") == 0)
        snprintf(text, size, "%s takes a list: [one, two], or an entry on each line, after '- '",
                 key);
    else if (strcmp(want, "MAPPING") == 0)
        snprintf(text, size, "%s takes keys, each with a value ('key: value'); there are: %s", key,
                 keys);
    else
        snprintf(text, size, "%s takes one value, not %s", key,
                 strncmp(got, "SEQUENCE", 8) == 0 ? "a list" : "keys with values");
}

/* A key that must be there: libcyaml names the key that was read last, and its line. */
static enum qg_status refuse_missing(const struct qg_yaml *y, const char *path,
                                     const struct complaint *c, const char *key,
                                     struct qg_error *err)
{
    if (c->entry && c->above < c->depth)
        return qg_fail(err, QG_EINVAL, "%s '%s': entry %u of %s: the key '%s' is missing", y->what,
                       path, c->entry, c->field[c->above], key);
    return qg_fail(err, QG_EINVAL, "%s '%s': the key '%s' is missing", y->what, path, key);
}

/* What libyaml says of text that is no YAML, and what people did then. */
static void explain_syntax(const char *said, char *text, size_t size)
{
    const char *hint = strstr(said, "cannot start any token") ? " (a tab? YAML indents with spaces)"
                       : strstr(said, " tab ")                ? " (YAML indents with spaces)"
                       : strstr(said, "UTF-8") || strstr(said, "control characters")
                           ? " (is it a text file?)"
                           : "";
    snprintf(text, size, "%s%s", said, hint);
}

/* libcyaml's sentence in words of the file; as it is where there are no better ones. */
static void explain(const struct qg_yaml *y, const struct complaint *c, char *text, size_t size)
{
    char word[128] = "", got[32];
    unsigned have, need;
    const char *key = c->depth ? c->field[0] : y->what;
    if (strncmp(c->text, "Invalid ENUM value: ", 20) == 0 && !c->text[20])
        snprintf(text, size, "%s has no value", key);
    else if (sscanf(c->text, "Invalid ENUM value: %127[^\n]", word) == 1)
        explain_word(y, c, word, text, size);
    else if (sscanf(c->text, "Expecting %127[^,], got event: %31s", word, got) == 2)
        explain_kind(y, c, word, got, text, size);
    else if (sscanf(c->text, "Invalid uint64_t value: %127[^\n]", word) == 1 ||
             sscanf(c->text, "Invalid UINT value: %127[^\n]", word) == 1)
        snprintf(text, size, "%s takes a whole number, not %s", key, word);
    else if (sscanf(c->text, "Mapping field already seen: %127[^\n]", word) == 1)
        snprintf(text, size, "the key '%s' stands there twice", word);
    else if (sscanf(c->text, "Insufficient entries (%u of %u", &have, &need) == 2)
        snprintf(text, size, "%s has %u entries; it needs %u at least", key, have, need);
    else if (sscanf(c->text, "libyaml: %127[^\n]", word) == 1)
        explain_syntax(word, text, size);
    else
        snprintf(text, size, "%s%s%s", c->text, c->depth ? ", at key " : "", c->field[0]);
}

static enum qg_status refuse_file(const struct qg_yaml *y, const char *path,
                                  const struct complaint *c, const char *otherwise,
                                  struct qg_error *err)
{
    char word[128], text[1000];
    if (sscanf(c->text, "Missing required mapping field: %127[^\n]", word) == 1)
        return refuse_missing(y, path, c, word, err);
    if (sscanf(c->text, "Unexpected key: %127[^\n]", word) == 1) {
        list_keys(keys_at(y, c), text, sizeof text);
        return qg_fail(err, QG_EINVAL, "%s '%s' line %zu: there is no key '%s' here; there are: %s",
                       y->what, path, line_of_key(path, word, c->line), word, text);
    }
    explain(y, c, text, sizeof text);
    if (!c->line)
        return qg_fail(err, QG_EINVAL, "%s '%s': %s", y->what, path, c->text[0] ? text : otherwise);
    // Of what is no YAML, libcyaml knows the line of the key before.
    const char *near = strncmp(c->text, "libyaml: ", 9) == 0 ? "near " : "";
    return qg_fail(err, QG_EINVAL, "%s '%s' %sline %zu: %s", y->what, path, near, c->line,
                   c->text[0] ? text : otherwise);
}

/* Regular files alone: a FIFO would keep us waiting. */
static enum qg_status check_readable(const char *what, const char *path, struct qg_error *err)
{
    struct qg_file f;
    enum qg_status status = qg_file_open(path, &f, err);
    if (status == QG_OK && !f.size)
        status = qg_fail(err, QG_EINVAL, "the file is empty");
    qg_file_close(&f);
    if (status == QG_OK)
        return QG_OK;
    err->status = status == QG_ENOMEM ? status : QG_EINVAL;
    return qg_context(err, "%s '%s'", what, path);
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
