/* SPDX-License-Identifier: MIT
 *
 * Reading results, from anybody. HDF5 1.10 can be made to crash by a file: it works in a child
 * process, and what the child hands over is checked again here.
 */
#define _DEFAULT_SOURCE /* the limits of a process */
#include "harness/result_image.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/journal.h"

#define MAX_FILE    ((size_t)1 << 32)
#define MAX_SECONDS 300 /* of work on one file; a gigabyte takes ten */

/* What the child hands over: this, and when all is well the tables, samples and outputs. */
struct answer {
    struct qg_error err; /* .status QG_OK when all is well */
    struct qg_meta meta;
    uint64_t n_rows[QG_TABLES], n_samples, n_output;
};

static bool within(uint64_t at, uint64_t n, size_t total)
{
    return at <= total && n <= total - at;
}

static enum qg_status check_cases(const struct qg_result *r, const char *path, struct qg_error *err)
{
    for (size_t i = 0; i < r->n_cases; i++) {
        const struct qg_record *c = &r->cases[i];
        if (!within(c->samples_at, c->samples_n, r->n_samples) ||
            !within(c->output_at, c->output_n, r->n_output) ||
            (uint64_t)c->warm.samples + c->cold.samples > c->samples_n)
            return qg_fail(err, QG_EFORMAT, "%s: cases: row %zu points outside the file", path, i);
        if (c->verdict >= QG_VERDICT_COUNT)
            return qg_fail(err, QG_EFORMAT, "%s: cases: row %zu has verdict %u, which is none",
                           path, i, c->verdict);
    }
    return QG_OK;
}

/* Nobody reads what HDF5, malloc or a sanitizer say about a file, and nobody needs a core dump. */
static void be_quiet_and_mortal(void)
{
    const struct rlimit none = {0, 0}, time = {MAX_SECONDS, MAX_SECONDS};
    int null = open("/dev/null", O_WRONLY);
    if (null >= 0)
        dup2(null, STDERR_FILENO);
    setrlimit(RLIMIT_CORE, &none);
    setrlimit(RLIMIT_CPU, &time);
}

static bool tell_tables(int fd, const char *path, const struct qg_result *r)
{
    struct qg_error err;
    bool ok = true;
    for (int t = 0; ok && t < QG_TABLES; t++) {
        struct qg_rows rows = qg_result_rows(r, (enum qg_table_id)t);
        ok = qg_write_all(fd, path, rows.at, rows.n * qg_tables[t].size, &err) == QG_OK;
    }
    return ok;
}

/* The child: parses and hands over. A failed write means that nobody listens any more. */
static void parse_and_tell(int fd, void *image, size_t bytes, const char *path)
{
    struct answer a = {.err.status = QG_OK};
    struct qg_result *r = NULL;
    struct qg_error err;
    be_quiet_and_mortal();
    if (qg_result_image_parse(image, bytes, path, &r, &a.err) == QG_OK) {
        a.err.status = QG_OK;
        a.meta = r->meta;
        for (int t = 0; t < QG_TABLES; t++)
            a.n_rows[t] = qg_result_rows(r, (enum qg_table_id)t).n;
        a.n_samples = r->n_samples;
        a.n_output = r->n_output;
    }
    bool ok =
        qg_write_all(fd, path, &a, sizeof a, &err) == QG_OK && r && tell_tables(fd, path, r) &&
        qg_write_all(fd, path, r->samples, r->n_samples * sizeof *r->samples, &err) == QG_OK &&
        qg_write_all(fd, path, r->output, r->n_output, &err) == QG_OK;
    _exit(ok ? 0 : 1);
}

static bool hear_array(int fd, void **ret_data, uint64_t n, size_t size)
{
    if (n > QG_RESULT_LIMIT / size)
        return false;
    *ret_data = calloc(n ? (size_t)n : 1, size);
    return *ret_data && qg_read_exactly(fd, *ret_data, (size_t)n * size);
}

static bool hear_tables(int fd, const struct answer *a, struct qg_result *r)
{
    bool ok = true;
    for (int t = 0; ok && t < QG_TABLES; t++) {
        struct qg_rows rows = {NULL, (size_t)a->n_rows[t]};
        ok = hear_array(fd, &rows.at, a->n_rows[t], qg_tables[t].size);
        qg_result_set_rows(r, (enum qg_table_id)t, rows);
    }
    return ok;
}

static bool hear_result(int fd, struct answer *a, struct qg_result *r)
{
    void *samples = NULL, *output = NULL;
    bool ok = qg_read_exactly(fd, a, sizeof *a);
    if (ok && a->err.status == QG_OK)
        ok = a->meta.n <= QG_META_ITEMS && hear_tables(fd, a, r) &&
             hear_array(fd, &samples, a->n_samples, sizeof *r->samples) &&
             hear_array(fd, &output, a->n_output, 1);
    r->samples = samples;
    r->output = output;
    return ok;
}

/* Length of the UTF-8 sequence at s that stands for a printable character, or 0. */
static size_t printable(const unsigned char *s)
{
    if (s[0] < 0x80)
        return s[0] >= 0x20 && s[0] != 0x7f;
    size_t n = s[0] >= 0xf0 ? 4 : s[0] >= 0xe0 ? 3 : 2;
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    uint32_t c = s[0] & (0xffu >> (n + 1));
    for (size_t i = 1; i < n; i++) {
        if ((s[i] & 0xc0) != 0x80)
            return 0;
        c = c << 6 | (s[i] & 0x3f);
    }
    bool ok = (s[0] & 0xc0) == 0xc0 && s[0] < 0xf8 && c >= least[n] && c >= 0xa0 && c <= 0x10ffff &&
              (c < 0xd800 || c > 0xdfff);
    return ok ? n : 0;
}

/* Control characters, and bytes that are no UTF-8, become '?': no text of a stranger's speaks to a
 * terminal or breaks the encoding of a report. */
static void make_harmless(char *text)
{
    for (unsigned char *s = (unsigned char *)text; *s;) {
        size_t n = printable(s);
        if (n == 0)
            *s = '?';
        s += n ? n : 1;
    }
}

static void make_row_harmless(void *row, const struct qg_field *fields)
{
    qg_result_tidy(row, fields);
    for (const struct qg_field *f = fields; f->name; f++)
        if (f->kind == QG_FIELD_TEXT)
            make_harmless((char *)row + f->offset);
}

/* Takes over what the answer says about the arrays, and makes every text harmless. */
static void adopt(const struct answer *a, struct qg_result *r)
{
    r->meta = a->meta;
    for (size_t i = 0; i < r->meta.n; i++) {
        r->meta.item[i].key[sizeof r->meta.item[i].key - 1] = '\0';
        r->meta.item[i].value[sizeof r->meta.item[i].value - 1] = '\0';
        make_harmless(r->meta.item[i].key);
        make_harmless(r->meta.item[i].value);
    }
    r->n_samples = (size_t)a->n_samples;
    r->n_output = (size_t)a->n_output;
    for (int t = 0; t < QG_TABLES; t++) {
        struct qg_rows rows = qg_result_rows(r, (enum qg_table_id)t);
        for (size_t i = 0; i < rows.n; i++)
            make_row_harmless((char *)rows.at + i * qg_tables[t].size, qg_tables[t].fields);
    }
}

/* Parses in a child; *a and *r get what it said. */
static enum qg_status parse_apart(void *image, size_t bytes, const char *path, struct answer *a,
                                  struct qg_result *r, struct qg_error *err)
{
    int fd[2], how = 0;
    if (pipe(fd) != 0)
        return qg_fail(err, QG_EIO, "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0)
        parse_and_tell(fd[1], image, bytes, path);
    int reason = errno;
    close(fd[1]);
    bool ok = child > 0 && hear_result(fd[0], a, r);
    close(fd[0]); // a child that still writes is told that nobody listens
    if (child < 0)
        return qg_fail(err, QG_EIO, "fork: %s", strerror(reason));
    while (waitpid(child, &how, 0) < 0 && errno == EINTR)
        ;
    if (!ok)
        return qg_fail(err, QG_EFORMAT, "%s: damaged: HDF5 %s on it", path,
                       WIFSIGNALED(how) ? strsignal(WTERMSIG(how)) : "gave up");
    if (a->err.status != QG_OK) {
        a->err.message[sizeof a->err.message - 1] = '\0';
        *err = a->err;
        return err->status;
    }
    adopt(a, r);
    return check_cases(r, path, err);
}

enum qg_status qg_result_open(const char *path, struct qg_result **ret_r, struct qg_error *err)
{
    static const unsigned char signature[8] = {0x89, 'H', 'D', 'F', '\r', '\n', 0x1a, '\n'};
    void *image;
    size_t bytes;
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (fd < 0)
        return qg_fail(err, QG_EIO, "%s: %s", path, strerror(errno));
    enum qg_status status = qg_read_all(fd, path, MAX_FILE, &image, &bytes, err);
    close(fd);
    if (status != QG_OK)
        return status;
    struct qg_result *r = calloc(1, sizeof *r);
    struct answer *a = calloc(1, sizeof *a);
    if (!r || !a)
        status = qg_fail(err, QG_ENOMEM, "no memory for a result");
    else if (bytes < sizeof signature || memcmp(image, signature, sizeof signature) != 0)
        status = qg_fail(err, QG_EFORMAT, "%s: is no HDF5 file", path);
    else
        status = parse_apart(image, bytes, path, a, r, err);
    free(image);
    free(a);
    if (status != QG_OK)
        qg_result_free(&r);
    else
        *ret_r = r;
    return status;
}
