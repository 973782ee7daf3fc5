/* SPDX-License-Identifier: MIT
 *
 * The writer of files that appear whole or not at all: pieces in any order and by several threads,
 * what is missing at the end, what an interrupted run left.
 */
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/io/model.h"
#include "harness/io/safetensors.h"
#include "tests/folder.h"
#include "tests/suite.h"

static const char *path, *part;

static void begin(void)
{
    static char paths[2][96];
    enter();
    snprintf(paths[0], sizeof paths[0], "%s", at("t"));
    snprintf(paths[1], sizeof paths[1], "%s", at("t.part"));
    path = paths[0];
    part = paths[1];
}

static void leave(void)
{
    leave_without((const char *const[]){"t", NULL});
}

static bool exists(const char *name)
{
    return access(name, F_OK) == 0;
}

/* Three tensors of dtypes and ranks that nobody computes with. */
static const size_t five[] = {1, 2, 1, 3, 1}, three[] = {3}, odd[] = {7, 3};
static const unsigned char bytes[3][48] = {"forty-eight bytes of six 64-bit integers, no 0.", "nil",
                                           "seven"};

static void describe(struct qg_stored t[3])
{
    t[0] = (struct qg_stored){"wide", "I64", 5, five, 48, 0};
    t[1] = (struct qg_stored){"flags", "BOOL", 1, three, 3, 0};
    t[2] = (struct qg_stored){"new", "F2", 2, odd, 6, 0};
}

static struct qg_writer *create(struct qg_stored t[3], unsigned flags)
{
    struct qg_writer *w = NULL;
    struct qg_error err;
    describe(t);
    enum qg_status status = qg_safetensors_create(path, t, 3, NULL, flags, &w, &err);
    ck_assert_msg(status == QG_OK, "%s", err.message);
    return w;
}

static void put(struct qg_writer *w, size_t i, size_t at, size_t n)
{
    struct qg_error err;
    ck_assert_int_eq(qg_writer_put(w, i, at, bytes[i] + at, n, &err), QG_OK);
}

/* Finishes, closes, and compares with what was meant. */
static void expect_file(struct qg_writer *w)
{
    struct qg_error err;
    struct qg_model *m = NULL;
    unsigned char copy[48];
    struct qg_stored t[3];
    describe(t);
    enum qg_status status = qg_writer_finish(w, &err);
    ck_assert_msg(status == QG_OK, "%s", err.message);
    qg_writer_close(&w, false);
    ck_assert_ptr_null(w);
    ck_assert(!exists(part));
    ck_assert_int_eq(qg_model_open(path, &m, &err), QG_OK);
    ck_assert_uint_eq(qg_model_count(m), 3);
    for (size_t i = 0; i < 3; i++) {
        const struct qg_model_tensor *found = qg_model_at(m, i);
        ck_assert_str_eq(found->t.name, t[i].name);
        ck_assert_str_eq(found->dtype_word, t[i].dtype);
        ck_assert_int_eq(found->rank, t[i].rank);
        ck_assert_mem_eq(found->shape, t[i].shape, (size_t)t[i].rank * sizeof *t[i].shape);
        ck_assert_uint_eq(found->bytes, t[i].bytes);
        ck_assert_int_eq(qg_model_load(m, found, copy, &err), QG_OK);
        ck_assert_mem_eq(copy, bytes[i], t[i].bytes);
    }
    qg_model_close(&m);
}

START_TEST(any_order)
{
    struct qg_stored t[3];
    begin();
    struct qg_writer *w = create(t, 0);
    ck_assert(!qg_writer_resumed(w));
    ck_assert_uint_eq(t[1].at, t[0].at + 48);
    put(w, 2, 0, 6);
    put(w, 0, 20, 28);
    put(w, 1, 0, 3);
    put(w, 0, 0, 20);
    ck_assert(!exists(path) && exists(part));
    expect_file(w);
    leave();
}
END_TEST

/* Each of eight threads writes every eighth piece. */
enum { THREADS = 8, PIECES = 4096, PIECE = 24 };
struct job {
    struct qg_writer *w;
    size_t first;
    bool failed;
};

static void *write_pieces(void *user)
{
    struct job *j = user;
    struct qg_error err;
    for (size_t i = j->first; i < PIECES; i += THREADS) {
        unsigned char piece[PIECE];
        memset(piece, (int)(i * 37 % 251), sizeof piece);
        if (qg_writer_put(j->w, 0, i * PIECE, piece, PIECE, &err) != QG_OK)
            j->failed = true;
    }
    return NULL;
}

START_TEST(threads)
{
    static unsigned char copy[PIECES * PIECE];
    const size_t shape[] = {sizeof copy};
    struct qg_stored t = {"x", "U8", 1, shape, sizeof copy, 0};
    struct job job[THREADS];
    pthread_t id[THREADS];
    struct qg_writer *w = NULL;
    struct qg_safetensors *f = NULL;
    struct qg_error err;
    begin();
    ck_assert_int_eq(qg_safetensors_create(path, &t, 1, NULL, 0, &w, &err), QG_OK);
    for (size_t i = 0; i < THREADS; i++) {
        job[i] = (struct job){w, i, false};
        ck_assert_int_eq(pthread_create(&id[i], NULL, write_pieces, &job[i]), 0);
    }
    for (size_t i = 0; i < THREADS; i++) {
        ck_assert_int_eq(pthread_join(id[i], NULL), 0);
        ck_assert(!job[i].failed);
    }
    ck_assert_int_eq(qg_writer_finish(w, &err), QG_OK);
    qg_writer_close(&w, false);
    ck_assert_int_eq(qg_safetensors_open(path, &f, &err), QG_OK);
    ck_assert_int_eq(qg_safetensors_load(f, qg_safetensors_at(f, 0), copy, &err), QG_OK);
    for (size_t i = 0; i < sizeof copy; i++)
        ck_assert_uint_eq(copy[i], i / PIECE * 37 % 251);
    qg_safetensors_close(&f);
    leave();
}
END_TEST

START_TEST(incomplete)
{
    struct qg_stored t[3];
    struct qg_error err;
    begin();
    struct qg_writer *w = create(t, 0);
    put(w, 0, 0, 48);
    put(w, 2, 0, 6);
    put(w, 1, 1, 2);
    ck_assert_int_eq(qg_writer_finish(w, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "of tensor 'flags' there are 2 of 3 bytes") != NULL, "%s",
                  err.message);
    ck_assert_int_eq(qg_writer_put(w, 1, 2, bytes, 2, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "bytes 2 to 4 do not fit into tensor 'flags' of 3") != NULL,
                  "%s", err.message);
    ck_assert_int_eq(qg_writer_put(w, 1, (size_t)-1, bytes, 2, &err), QG_EINVAL);
    qg_writer_close(&w, false);
    ck_assert(!exists(path) && !exists(part));
    leave();
}
END_TEST

START_TEST(resume)
{
    struct qg_stored t[3];
    begin();
    struct qg_writer *w = create(t, QG_WRITE_RESUME);
    ck_assert(!qg_writer_resumed(w));
    put(w, 0, 0, 48);
    qg_writer_close(&w, true);
    ck_assert(!exists(path) && exists(part));

    w = create(t, QG_WRITE_RESUME);
    ck_assert(qg_writer_resumed(w));
    qg_writer_done(w, 0);
    put(w, 1, 0, 3);
    put(w, 2, 0, 6);
    expect_file(w);

    // The file is there now: only what may be overwritten is begun again.
    struct qg_error err;
    ck_assert_int_eq(qg_safetensors_create(path, t, 3, NULL, QG_WRITE_RESUME, &w, &err), QG_EIO);
    ck_assert_msg(strstr(err.message, "the file exists, nothing was written") != NULL, "%s",
                  err.message);
    leave();
}
END_TEST

/* Another head, another size, no wish to resume: begun again. */
START_TEST(other_part)
{
    struct qg_stored t[3];
    struct qg_error err;
    struct qg_writer *w = NULL;
    begin();
    for (int how = 0; how < 3; how++) {
        describe(t);
        t[2].name = how == 0 ? "old" : "new";
        ck_assert_int_eq(qg_safetensors_create(path, t, 3, NULL, 0, &w, &err), QG_OK);
        qg_writer_close(&w, true);
        if (how == 1)
            ck_assert_int_eq(truncate(part, (off_t)t[2].at), 0);
        w = create(t, how == 2 ? 0 : QG_WRITE_RESUME);
        ck_assert(!qg_writer_resumed(w));
        put(w, 0, 0, 48);
        put(w, 1, 0, 3);
        put(w, 2, 0, 6);
        expect_file(w);
        unlink(path);
    }
    leave();
}
END_TEST

START_TEST(two_processes)
{
    struct qg_stored t[3];
    struct qg_error err;
    int status;
    begin();
    struct qg_writer *w = create(t, 0);
    pid_t child = fork();
    if (child == 0) {
        struct qg_writer *second = NULL;
        _exit(qg_safetensors_create(path, t, 3, NULL, QG_WRITE_RESUME, &second, &err) == QG_EIO &&
                      strstr(err.message, "another run is writing it")
                  ? 0
                  : 1);
    }
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert_int_eq(status, 0);
    ck_assert(exists(part));
    qg_writer_close(&w, false);
    leave();
}
END_TEST

START_TEST(metadata)
{
    struct qg_stored t[3];
    struct qg_error err;
    struct qg_writer *w = NULL;
    char head[128] = "";
    begin();
    cJSON *j = cJSON_CreateObject();
    cJSON_AddStringToObject(j, "format", "pt");
    describe(t);
    ck_assert_int_eq(qg_safetensors_create(path, t, 3, j, 0, &w, &err), QG_OK);
    put(w, 0, 0, 48);
    put(w, 1, 0, 3);
    put(w, 2, 0, 6);
    expect_file(w);
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(head, 1, 100, f), 100);
    fclose(f);
    static const char expected[] = "{\"__metadata__\":{\"format\":\"pt\"},\"wide\":{\"dtype\"";
    ck_assert_mem_eq(head + 8, expected, sizeof expected - 1);

    cJSON_AddNumberToObject(j, "count", 3);
    ck_assert_int_eq(qg_safetensors_create(path, t, 3, j, QG_WRITE_OVER, &w, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "metadata 'count' is not a string") != NULL, "%s",
                  err.message);
    cJSON_Delete(j);
    leave();
}
END_TEST

START_TEST(refusals)
{
    static const struct {
        const char *name, *dtype, *message;
        size_t bytes;
    } cases[] = {
        {"wide", "BOOL", "tensor 'wide' is there twice", 3},
        {"__metadata__", "BOOL", "tensor 1 cannot have its name", 3},
        {"a\nb", "BOOL", "tensor 1 cannot have its name", 3},
        {"x", "F32", "tensor 'x': 3 elements of F32 are not 11 bytes", 11},
        {"x", "F4", "tensor 'x': 3 elements of F4 are not 1 bytes", 1},
    };
    struct qg_stored t[3];
    struct qg_writer *w = NULL;
    struct qg_error err;
    begin();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        describe(t);
        t[1] = (struct qg_stored){cases[i].name, cases[i].dtype, 1, three, cases[i].bytes, 0};
        ck_assert_int_eq(qg_safetensors_create(path, t, 3, NULL, 0, &w, &err), QG_EINVAL);
        ck_assert_ptr_null(w);
        ck_assert_msg(strstr(err.message, cases[i].message) != NULL, "%s", err.message);
    }
    leave();
}
END_TEST

QG_SUITE(writer, any_order, threads, incomplete, resume, other_part, two_processes, metadata,
         refusals)
