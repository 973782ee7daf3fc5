/* SPDX-License-Identifier: MIT
 *
 * The result store: what is written is read back, a kill loses nothing that was appended, and no
 * file from a stranger does harm.
 */
#include <errno.h>
#include <fcntl.h>
#include <hdf5.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/result.h"
#include "tests/suite.h"

static struct qg_error err;

/* Every test starts in an empty folder of its own; Check forks, so no test sees another's. */
static void enter_folder(void)
{
    char name[] = "/tmp/qgauge-result-XXXXXX";
    ck_assert_ptr_nonnull(mkdtemp(name));
    ck_assert_int_eq(chdir(name), 0);
}

static void leave_folder(void)
{
    char name[256];
    ck_assert_ptr_nonnull(getcwd(name, sizeof name));
    ck_assert_int_eq(chdir("/"), 0);
    char command[300];
    snprintf(command, sizeof command, "rm -r '%s'", name);
    ck_assert_int_eq(system(command), 0);
}

#define ck_ok(call) ck_assert_msg((call) == QG_OK, "%s", err.message)

static struct qg_meta meta(void)
{
    struct qg_meta m = {0};
    qg_meta_set(&m, "suite", "smoke");
    qg_meta_set(&m, "seed", "7");
    qg_meta_set(&m, "binary", "0123456789abcdef");
    qg_meta_set(&m, "cpu", "");
    return m;
}

static struct qg_record record(unsigned i)
{
    struct qg_record r;
    memset(&r, 0xa5, sizeof r); // what the caller does not say must not reach the file
    snprintf(r.spelling, sizeof r.spelling, "int4.convert.c 256x4096 bf16 fill=normal seed=%u", i);
    snprintf(r.scheme, sizeof r.scheme, "int4");
    snprintf(r.op, sizeof r.op, "convert");
    snprintf(r.operand, sizeof r.operand, "weight");
    snprintf(r.backend, sizeof r.backend, "c");
    snprintf(r.variant, sizeof r.variant, "%s", "");
    snprintf(r.dtype, sizeof r.dtype, "BF16");
    snprintf(r.data, sizeof r.data, "normal");
    snprintf(r.params, sizeof r.params, "group=32");
    snprintf(r.reason, sizeof r.reason, "%s", "because");
    snprintf(r.algorithm, sizeof r.algorithm, "%s", "algorithm 66, tile 18");
    r.m = 0, r.rows = 256, r.cols = 4096, r.seed = i;
    r.verdict = i % QG_VERDICT_COUNT;
    r.count = 1u << 20, r.mismatches = i, r.class_mismatches = 0, r.first_bad = -1;
    r.codes = 1u << 20, r.codes_changed = 3;
    r.max_ulp = INFINITY, r.bound_used = NAN, r.sqnr_db = 20.5 + i, r.nmse = 0x1p-7;
    r.bytes = 1e6, r.flops = 0;
    r.warm = (struct qg_timing){1e-3, 0.9e-3, 1.1e-3, 5};
    r.cold = (struct qg_timing){2e-3, 1.9e-3, 2.1e-3, 3};
    r.warm.under = (struct qg_conditions){1965, 1980, 2619, 45, 350.5, i, "thermal, power cap"};
    r.cold.under = (struct qg_conditions){1950, 1995, NAN, 46, NAN, 0, ""};
    r.overhead_s = 1e-8, r.output_hash = UINT64_MAX, r.input_hash = i;
    for (unsigned b = 0; b < QG_HISTOGRAM_BINS; b++)
        r.error_histogram[b] = b * i;
    return r;
}

static enum qg_status append(struct qg_result_writer *w, unsigned i)
{
    struct qg_record r = record(i);
    double samples[8];
    uint8_t output[100];
    for (unsigned k = 0; k < 8; k++)
        samples[k] = i + k / 8.0;
    memset(output, (int)i, sizeof output);
    return qg_result_append(w, &r, samples, 8, output, sizeof output, &err);
}

static struct qg_gap gap(void)
{
    struct qg_gap g;
    memset(&g, 0xa5, sizeof g);
    strcpy(g.scheme, "fp8-int4");
    strcpy(g.params, "");
    strcpy(g.source, "torch-model");
    strcpy(g.what, "model");
    strcpy(g.cause, "the fp8 rounding");
    g.seed = 123, g.sqnr_db = INFINITY, g.sqnr_bf16_db = 22.375, g.count = 10, g.differ = 0;
    g.first = -1;
    return g;
}

static struct qg_atlas atlas(unsigned i)
{
    struct qg_atlas a;
    memset(&a, 0xa5, sizeof a);
    strcpy(a.format, "mxfp4");
    snprintf(a.left, sizeof a.left, "left scale=%u", i);
    strcpy(a.right, "right");
    strcpy(a.source, "normal");
    strcpy(a.rule, "ties");
    a.seed = i, a.first = -1;
    return a;
}

static struct qg_shipped shipped(void)
{
    struct qg_shipped s;
    memset(&s, 0xa5, sizeof s);
    strcpy(s.tensor, "model.layers.0.mlp.up_proj.weight");
    strcpy(s.scheme, "int4");
    strcpy(s.params, "group=32");
    strcpy(s.kernel, "int4.convert.c");
    strcpy(s.layout, "qgauge");
    strcpy(s.dtype, "BF16");
    s.sqnr_db = 20.5, s.worst_db = INFINITY;
    return s;
}

static struct qg_modelled modelled(unsigned i)
{
    struct qg_modelled m;
    memset(&m, 0xa5, sizeof m);
    strcpy(m.model, "golden/lm/model");
    strcpy(m.model_hash, "0123456789abcdef");
    strcpy(m.text, "heldout.txt");
    strcpy(m.text_hash, "fedcba9876543210");
    strcpy(m.what, "scheme");
    strcpy(m.name, "int4");
    snprintf(m.params, sizeof m.params, "group=%u", 32 << i);
    strcpy(m.training, "");
    strcpy(m.path, "converted");
    strcpy(m.backend, "blas");
    strcpy(m.dtype, "BF16");
    strcpy(m.clusters_of, "documents");
    strcpy(m.verdict, "worse");
    strcpy(m.reason, "");
    m.kl = 0x1p-9, m.gap = NAN;
    return m;
}

static struct qg_foretold foretold(unsigned i)
{
    struct qg_foretold f;
    memset(&f, 0xa5, sizeof f);
    strcpy(f.model, "golden/lm/model");
    strcpy(f.model_hash, "0123456789abcdef");
    strcpy(f.text, "heldout.txt");
    strcpy(f.text_hash, "fedcba9876543210");
    strcpy(f.what, "scheme");
    strcpy(f.name, "int4");
    snprintf(f.params, sizeof f.params, "group=%u", 32 << i);
    strcpy(f.dtype, "BF16");
    strcpy(f.inputs, "plain");
    strcpy(f.measured_in, "");
    strcpy(f.reason, "");
    f.documents = 32, f.kl_by_outputs = 0x1p-8, f.kl = NAN;
    return f;
}

static struct qg_resource resource(unsigned i)
{
    struct qg_resource r;
    memset(&r, 0xa5, sizeof r);
    strcpy(r.file, "int4");
    snprintf(r.kernel, sizeof r.kernel, "each_piece<spreading<product, %s>>", i ? "true" : "false");
    strcpy(r.target, "sm_90a");
    strcpy(r.limit, "registers");
    r.registers = 27 + i, r.warps = 64;
    return r;
}

static void write_file(const char *path, unsigned n)
{
    struct qg_result_writer *w;
    struct qg_meta m = meta();
    struct qg_gap g = gap();
    ck_ok(qg_result_create(path, &m, false, QG_RESULT_NEW, &w, &err));
    for (unsigned i = 0; i < n; i++)
        ck_ok(append(w, i));
    ck_ok(qg_result_append_row(w, QG_TABLE_GAP, &g, &err));
    for (unsigned i = 0; i < 2; i++) {
        struct qg_atlas a = atlas(i), other = atlas(i + 1);
        ck_ok(qg_result_append_row(w, QG_TABLE_ATLAS, &a, &err));
        ck_assert(qg_result_has_atlas(w, &a) && !qg_result_has_atlas(w, &other));
    }
    struct qg_shipped s = shipped();
    ck_ok(qg_result_append_row(w, QG_TABLE_CONVERT, &s, &err));
    for (unsigned i = 0; i < 2; i++) {
        struct qg_modelled l = modelled(i);
        ck_assert_ptr_null(qg_result_find_modelled(w, &l));
        ck_ok(qg_result_append_row(w, QG_TABLE_LM, &l, &err));
        ck_assert_str_eq(qg_result_find_modelled(w, &l)->params, l.params);
        struct qg_foretold f = foretold(i);
        ck_ok(qg_result_append_row(w, QG_TABLE_PROXY, &f, &err));
        struct qg_resource t = resource(i);
        ck_assert_uint_eq(qg_result_count(w, QG_TABLE_RESOURCES), i);
        ck_ok(qg_result_append_row(w, QG_TABLE_RESOURCES, &t, &err));
    }
    ck_ok(qg_result_close(&w, &err));
    ck_assert_ptr_null(w);
}

static struct qg_result *open_file(const char *path)
{
    struct qg_result *r;
    ck_ok(qg_result_open(path, &r, &err));
    return r;
}

/* That the file is refused with `status`, and that the sentence says `why`. */
static void refused(const char *path, enum qg_status status, const char *why)
{
    struct qg_result *r = NULL;
    ck_assert_int_eq(qg_result_open(path, &r, &err), status);
    ck_assert_ptr_null(r);
    ck_assert_msg(strstr(err.message, why) && strstr(err.message, path), "'%s' without '%s'",
                  err.message, why);
}

static void *slurp(const char *path, size_t *n)
{
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    char *data = malloc(1 << 22);
    *n = fread(data, 1, 1 << 22, f);
    fclose(f);
    return data;
}

static void spill(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(data, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* That two rows agree in every field; texts up to their end, numbers by their bits. */
static void same_row(const struct qg_field *fields, const void *a, const void *b)
{
    for (const struct qg_field *f = fields; f->name; f++) {
        const char *x = (const char *)a + f->offset, *y = (const char *)b + f->offset;
        bool same =
            f->kind == QG_FIELD_TEXT ? strcmp(x, y) == 0 : memcmp(x, y, f->size * f->count) == 0;
        ck_assert_msg(same, "field %s differs", f->name);
    }
}

START_TEST(test_round_trip)
{
    enter_folder();
    write_file("r.h5", 70);
    ck_assert_int_ne(access("r.h5.journal", F_OK), 0);
    ck_assert_int_ne(access("r.h5.part", F_OK), 0);
    struct qg_result *r = open_file("r.h5");
    ck_assert_uint_eq(r->n_cases, 70);
    ck_assert_uint_eq(r->n_gaps, 1);
    ck_assert_uint_eq(r->n_atlas, 2);
    ck_assert_uint_eq(r->n_samples, 70 * 8);
    ck_assert_uint_eq(r->n_output, 70 * 100);
    ck_assert_uint_eq(r->meta.n, 4);
    ck_assert_str_eq(qg_meta_get(&r->meta, "suite"), "smoke");
    ck_assert_str_eq(qg_meta_get(&r->meta, "cpu"), "");
    for (unsigned i = 0; i < 70; i++) {
        struct qg_record want = record(i);
        want.samples_at = 8 * i, want.samples_n = 8, want.output_at = 100 * i, want.output_n = 100;
        same_row(qg_record_fields, &want, &r->cases[i]);
        ck_assert(r->samples[8 * i + 7] == i + 7 / 8.0);
        ck_assert_uint_eq(r->output[100 * i + 99], i);
    }
    struct qg_gap g = gap();
    same_row(qg_gap_fields, &g, r->gaps);
    for (unsigned i = 0; i < 2; i++) {
        struct qg_atlas a = atlas(i);
        same_row(qg_atlas_fields, &a, &r->atlas[i]);
    }
    struct qg_shipped s = shipped();
    ck_assert_uint_eq(r->n_shipped, 1);
    same_row(qg_shipped_fields, &s, r->shipped);
    ck_assert_uint_eq(r->n_modelled, 2);
    for (unsigned i = 0; i < 2; i++) {
        struct qg_modelled m = modelled(i);
        same_row(qg_modelled_fields, &m, &r->modelled[i]);
        struct qg_foretold f = foretold(i);
        same_row(qg_foretold_fields, &f, &r->foretold[i]);
        struct qg_resource t = resource(i);
        same_row(qg_resource_fields, &t, &r->resources[i]);
    }
    qg_result_free(&r);
    ck_assert_ptr_null(r);
    write_file("empty.h5", 0);
    r = open_file("empty.h5");
    ck_assert_uint_eq(r->n_cases + r->n_samples + r->n_output, 0);
    qg_result_free(&r);
    leave_folder();
}
END_TEST

/* The fields cover the structs: no byte belongs to no field, but for padding of a few bytes. */
START_TEST(test_fields_are_complete)
{
    for (int t = 0; t < QG_TABLES; t++) {
        size_t end = 0;
        for (const struct qg_field *f = qg_tables[t].fields; f->name; f++) {
            ck_assert_msg(f->offset >= end && f->offset < end + 8, "a hole before %s", f->name);
            end = f->offset + f->size * f->count;
        }
        ck_assert_uint_ge(end + 8, qg_tables[t].size + 1);
    }
}
END_TEST

START_TEST(test_same_bytes)
{
    enter_folder();
    size_t na, nb;
    write_file("a.h5", 5);
    sleep(1); // HDF5 would note the second at which an object was made
    write_file("b.h5", 5);
    void *a = slurp("a.h5", &na), *b = slurp("b.h5", &nb);
    ck_assert_uint_eq(na, nb);
    ck_assert_mem_eq(a, b, na);
    free(a);
    free(b);
    leave_folder();
}
END_TEST

START_TEST(test_refuses_to_overwrite)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    write_file("r.h5", 1);
    ck_assert_int_eq(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err), QG_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "exists"));
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_REPLACE, &w, &err));
    ck_ok(qg_result_close(&w, &err));
    struct qg_result *r = open_file("r.h5");
    ck_assert_uint_eq(r->n_cases, 0);
    qg_result_free(&r);
    // A file that appears while we run is not ours to replace.
    ck_ok(qg_result_create("s.h5", &m, false, QG_RESULT_NEW, &w, &err));
    ck_ok(append(w, 1));
    spill("s.h5", "x", 1);
    ck_assert_int_eq(qg_result_close(&w, &err), QG_EIO);
    ck_assert_int_eq(access("s.h5.journal", F_OK), 0);
    ck_assert_int_eq(qg_result_create("no/r.h5", &m, false, QG_RESULT_NEW, &w, &err), QG_EIO);
    leave_folder();
}
END_TEST

START_TEST(test_adds_to_a_file)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    struct qg_modelled known = modelled(1), unknown = modelled(2);
    struct qg_foretold again = foretold(0);
    write_file("r.h5", 70);
    qg_meta_set(&m, "suite", "ppl");
    known.kl = 0x1p-10, again.kl_by_outputs = 0x1p-7;
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_ADD, &w, &err));
    ck_assert_str_eq(qg_result_journal(w), "r.h5.ppl.journal");
    ck_ok(qg_result_append_row(w, QG_TABLE_LM, &known, &err));
    ck_ok(qg_result_append_row(w, QG_TABLE_LM, &unknown, &err));
    ck_ok(qg_result_append_row(w, QG_TABLE_PROXY, &again, &err));
    qg_result_abandon(&w);
    ck_ok(qg_result_create("r.h5", &m, true, QG_RESULT_ADD, &w, &err));
    ck_ok(qg_result_close(&w, &err));
    ck_assert_int_ne(access("r.h5.ppl.journal", F_OK), 0);
    struct qg_result *r = open_file("r.h5");
    ck_assert_str_eq(qg_meta_get(&r->meta, "suite"), "smoke");
    ck_assert_uint_eq(r->n_cases, 70);
    ck_assert(r->samples[8 * 69 + 7] == 69 + 7 / 8.0);
    ck_assert_uint_eq(r->output[100 * 69 + 99], 69);
    ck_assert_uint_eq(r->n_atlas, 2);
    ck_assert_uint_eq(r->n_modelled, 3);
    struct qg_modelled first = modelled(0);
    same_row(qg_modelled_fields, &first, &r->modelled[0]);
    same_row(qg_modelled_fields, &known, &r->modelled[1]);
    same_row(qg_modelled_fields, &unknown, &r->modelled[2]);
    struct qg_foretold kept = foretold(1);
    ck_assert_uint_eq(r->n_foretold, 2);
    same_row(qg_foretold_fields, &kept, &r->foretold[0]);
    same_row(qg_foretold_fields, &again, &r->foretold[1]);
    qg_result_free(&r);
    // What another build found is not mixed with this one's.
    qg_meta_set(&m, "binary", "another");
    ck_assert_int_eq(qg_result_create("r.h5", &m, false, QG_RESULT_ADD, &w, &err), QG_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "r.h5: another build of qgauge made it"));
    spill("s.h5", "x", 1);
    ck_assert_int_eq(qg_result_create("s.h5", &m, false, QG_RESULT_ADD, &w, &err), QG_EFORMAT);
    ck_ok(qg_result_create("new.h5", &m, false, QG_RESULT_ADD, &w, &err));
    ck_ok(qg_result_append_row(w, QG_TABLE_LM, &known, &err));
    ck_ok(qg_result_close(&w, &err));
    r = open_file("new.h5");
    ck_assert_uint_eq(r->n_modelled, 1);
    qg_result_free(&r);
    leave_folder();
}
END_TEST

START_TEST(test_killed_and_resumed)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    int pipe_fd[2];
    ck_assert_int_eq(pipe(pipe_fd), 0);
    pid_t child = fork();
    if (child == 0) {
        if (qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err) != QG_OK)
            _exit(1);
        struct qg_resource first = resource(0);
        if (qg_result_append_row(w, QG_TABLE_RESOURCES, &first, &err) != QG_OK)
            _exit(1);
        for (unsigned i = 0;; i++)
            if (append(w, i) != QG_OK || write(pipe_fd[1], "x", 1) != 1)
                _exit(1);
    }
    char c;
    close(pipe_fd[1]);
    for (int i = 0; i < 20; i++)
        ck_assert_int_eq(read(pipe_fd[0], &c, 1), 1);
    // While it lives, nobody else may go on with its journal.
    ck_assert_int_eq(qg_result_create("r.h5", &m, true, QG_RESULT_NEW, &w, &err), QG_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "another run"));
    unsigned told = 20;
    kill(child, SIGKILL);
    waitpid(child, NULL, 0);
    while (read(pipe_fd[0], &c, 1) == 1)
        told++;
    ck_assert_int_ne(access("r.h5", F_OK), 0);
    ck_assert_int_eq(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err), QG_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "--resume"));
    ck_ok(qg_result_create("r.h5", &m, true, QG_RESULT_NEW, &w, &err));
    ck_assert_uint_eq(qg_result_count(w, QG_TABLE_RESOURCES), 1);
    for (unsigned i = 0; i < told; i++) {
        struct qg_record r = record(i);
        ck_assert(qg_result_has(w, r.spelling));
    }
    ck_assert(!qg_result_has(w, "int4.convert.c 256x4096 bf16 fill=normal seed=123456789"));
    unsigned n = told;
    for (struct qg_record r = record(n); qg_result_has(w, r.spelling); r = record(n))
        n++;
    ck_assert_uint_le(n, told + 1); // the one in flight may have made it
    ck_ok(append(w, n));
    ck_ok(qg_result_close(&w, &err));
    struct qg_result *r = open_file("r.h5");
    ck_assert_uint_eq(r->n_cases, n + 1);
    ck_assert_uint_eq(r->output[100 * n], n % 256);
    qg_result_free(&r);
    leave_folder();
}
END_TEST

/* A journal cut at any byte gives the entries before the cut, and takes new ones. */
START_TEST(test_torn_journal)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    struct qg_result *r;
    struct stat st;
    long whole[4];
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err));
    for (unsigned i = 0; i < 4; i++) {
        ck_assert_int_eq(stat("r.h5.journal", &st), 0);
        whole[i] = st.st_size;
        if (i < 3)
            ck_ok(append(w, i));
    }
    qg_result_abandon(&w);
    size_t n;
    char *journal = slurp("r.h5.journal", &n);
    for (long cut = whole[0]; cut <= whole[3]; cut += cut + 1 < whole[3] && cut % 7 ? 37 : 1) {
        spill("t.h5.journal", journal, (size_t)cut);
        ck_ok(qg_result_create("t.h5", &m, true, QG_RESULT_REPLACE, &w, &err));
        unsigned complete = 0;
        while (complete < 3 && cut >= whole[complete + 1])
            complete++;
        for (unsigned i = 0; i < 3; i++)
            ck_assert_int_eq(qg_result_has(w, record(i).spelling), i < complete);
        ck_ok(append(w, 9));
        ck_ok(qg_result_close(&w, &err));
        r = open_file("t.h5");
        ck_assert_uint_eq(r->n_cases, complete + 1);
        same_row(qg_record_fields + 3, &r->cases[complete], &r->cases[complete]);
        ck_assert_uint_eq(r->cases[complete].seed, 9);
        qg_result_free(&r);
    }
    // A flipped byte in the last entry drops it; one before that is no torn tail.
    journal[n - 9] ^= 1;
    spill("t.h5.journal", journal, n);
    ck_ok(qg_result_create("t.h5", &m, true, QG_RESULT_REPLACE, &w, &err));
    ck_assert(qg_result_has(w, record(1).spelling) && !qg_result_has(w, record(2).spelling));
    qg_result_abandon(&w);
    journal[whole[1] + 100] ^= 1;
    spill("t.h5.journal", journal, n);
    ck_assert_int_eq(qg_result_create("t.h5", &m, true, QG_RESULT_REPLACE, &w, &err), QG_EFORMAT);
    ck_assert_ptr_nonnull(strstr(err.message, "damaged"));
    spill("t.h5.journal", "QGJR", 4);
    ck_assert_int_eq(qg_result_create("t.h5", &m, true, QG_RESULT_REPLACE, &w, &err), QG_EFORMAT);
    spill("t.h5.journal", journal, 8);
    ck_assert_int_eq(qg_result_create("t.h5", &m, true, QG_RESULT_REPLACE, &w, &err), QG_EFORMAT);
    free(journal);
    leave_folder();
}
END_TEST

START_TEST(test_resume_checks_the_run)
{
    enter_folder();
    static const char *const keys[] = {"suite", "seed", "binary"};
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err));
    ck_ok(append(w, 1));
    qg_result_abandon(&w);
    for (int i = 0; i < 3; i++) {
        struct qg_meta other = meta();
        qg_meta_set(&other, keys[i], "other");
        ck_assert_int_eq(qg_result_create("r.h5", &other, true, QG_RESULT_NEW, &w, &err),
                         QG_EFORMAT);
        ck_assert_ptr_nonnull(strstr(err.message, keys[i]));
    }
    qg_meta_set(&m, "cpu", "faster");
    ck_ok(qg_result_create("r.h5", &m, true, QG_RESULT_NEW, &w, &err));
    qg_result_abandon(&w);
    leave_folder();
}
END_TEST

START_TEST(test_limits_of_a_record)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    struct qg_record r = record(0);
    uint8_t *large = calloc(1, QG_OUTPUT_LIMIT + 1);
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err));
    ck_assert_int_eq(qg_result_append(w, &r, NULL, 0, NULL, 0, &err), QG_EINVAL);
    r.warm.samples = r.cold.samples = 0;
    ck_ok(qg_result_append(w, &r, NULL, 0, large, QG_OUTPUT_LIMIT, &err));
    ck_ok(qg_result_append(w, &r, NULL, 0, large, QG_OUTPUT_LIMIT + 1, &err));
    r.verdict = QG_VERDICT_COUNT;
    ck_assert_int_eq(qg_result_append(w, &r, NULL, 0, NULL, 0, &err), QG_EINVAL);
    ck_ok(qg_result_close(&w, &err));
    struct qg_result *read = open_file("r.h5");
    ck_assert_uint_eq(read->n_cases, 2);
    ck_assert_uint_eq(read->cases[0].output_n, QG_OUTPUT_LIMIT);
    ck_assert_uint_eq(read->cases[1].output_n, 0);
    qg_result_free(&read);
    free(large);
    struct qg_meta full = {0};
    char key[32];
    for (int i = 0; i < 70; i++) {
        snprintf(key, sizeof key, "key%d", i);
        qg_meta_set(&full, key, "x");
    }
    ck_assert_uint_eq(full.n, 64);
    qg_meta_set(&full, "key3", "y");
    ck_assert_str_eq(qg_meta_get(&full, "key3"), "y");
    ck_ok(qg_result_create("m.h5", &full, false, QG_RESULT_NEW, &w, &err));
    ck_ok(qg_result_close(&w, &err));
    read = open_file("m.h5");
    ck_assert_uint_eq(read->meta.n, 64);
    qg_result_free(&read);
    leave_folder();
}
END_TEST

static void limit_file_size(rlim_t bytes)
{
    struct rlimit limit;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &limit), 0);
    limit.rlim_cur = bytes;
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
}

START_TEST(test_full_disk)
{
    enter_folder();
    struct qg_result_writer *w = NULL;
    struct qg_meta m = meta();
    struct stat st;
    signal(SIGXFSZ, SIG_IGN);
    ck_ok(qg_result_create("r.h5", &m, false, QG_RESULT_NEW, &w, &err));
    ck_ok(append(w, 0));
    ck_assert_int_eq(stat("r.h5.journal", &st), 0);
    // In the middle of an entry: it is cut off again, and a later one finds its place.
    limit_file_size((rlim_t)st.st_size + 100);
    ck_assert_int_eq(append(w, 1), QG_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "r.h5.journal"));
    limit_file_size(RLIM_INFINITY);
    ck_ok(append(w, 2));
    // In the middle of the final file: it goes away, the journal stays.
    limit_file_size(2000);
    ck_assert_int_eq(qg_result_close(&w, &err), QG_EIO);
    ck_assert_ptr_nonnull(strstr(err.message, "--resume"));
    limit_file_size(RLIM_INFINITY);
    ck_assert_int_ne(access("r.h5.part", F_OK), 0);
    ck_assert_int_ne(access("r.h5", F_OK), 0);
    ck_ok(qg_result_create("r.h5", &m, true, QG_RESULT_NEW, &w, &err));
    ck_assert(qg_result_has(w, record(0).spelling) && !qg_result_has(w, record(1).spelling) &&
              qg_result_has(w, record(2).spelling));
    ck_ok(qg_result_close(&w, &err));
    leave_folder();
}
END_TEST

/* --- files of strangers, made with HDF5 itself ----------------------------------------------- */

static hid_t begin_foreign(const char *path, int version)
{
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t group = H5Gcreate2(file, "meta", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(group, "schema_version", H5T_NATIVE_INT, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert_int_ge(H5Awrite(a, H5T_NATIVE_INT, &version), 0);
    H5Aclose(a);
    H5Sclose(space);
    H5Gclose(group);
    return file;
}

static void put_foreign(hid_t file, const char *name, hid_t type, hsize_t n, hid_t plist,
                        const void *data)
{
    hsize_t max = H5S_UNLIMITED;
    hid_t space = H5Screate_simple(1, &n, plist == H5P_DEFAULT ? NULL : &max);
    hid_t set = H5Dcreate2(file, name, type, space, H5P_DEFAULT, plist, H5P_DEFAULT);
    ck_assert_int_ge(set, 0);
    if (data)
        ck_assert_int_ge(H5Dwrite(set, type, H5S_ALL, H5S_ALL, H5P_DEFAULT, data), 0);
    H5Dclose(set);
    H5Sclose(space);
}

struct small_row {
    char spelling[8];
    uint32_t verdict;
    uint64_t samples_at, samples_n;
};

static hid_t small_type(void)
{
    hid_t text = H5Tcopy(H5T_C_S1), word = H5Tenum_create(H5T_NATIVE_UINT32);
    H5Tset_size(text, 8);
    H5Tset_cset(text, H5T_CSET_UTF8);
    for (uint32_t v = 0; v < QG_VERDICT_COUNT; v++)
        H5Tenum_insert(word, qg_verdict_name(v), &v);
    hid_t t = H5Tcreate(H5T_COMPOUND, sizeof(struct small_row));
    H5Tinsert(t, "spelling", offsetof(struct small_row, spelling), text);
    H5Tinsert(t, "verdict", offsetof(struct small_row, verdict), word);
    H5Tinsert(t, "samples_at", offsetof(struct small_row, samples_at), H5T_NATIVE_UINT64);
    H5Tinsert(t, "samples_n", offsetof(struct small_row, samples_n), H5T_NATIVE_UINT64);
    H5Tclose(text);
    H5Tclose(word);
    return t;
}

static hid_t gap_type(void)
{
    hid_t text = H5Tcopy(H5T_C_S1), t = H5Tcreate(H5T_COMPOUND, 8);
    H5Tset_size(text, 8);
    H5Tset_cset(text, H5T_CSET_UTF8);
    H5Tinsert(t, "scheme", 0, text);
    H5Tclose(text);
    return t;
}

/* A file with the given row in /cases, or with n rows of which no byte is there. */
static void make_foreign(const char *path, int version, const struct small_row *row, hsize_t n)
{
    double samples[2] = {1, 2};
    hid_t file = begin_foreign(path, version), type = small_type(), gaps = gap_type();
    hid_t chunked = H5Pcreate(H5P_DATASET_CREATE);
    hsize_t chunk = 16;
    H5Pset_chunk(chunked, 1, &chunk);
    put_foreign(file, "cases", type, n, row ? H5P_DEFAULT : chunked, row);
    put_foreign(file, "gap", gaps, 0, H5P_DEFAULT, NULL);
    put_foreign(file, "samples", H5T_NATIVE_DOUBLE, 2, H5P_DEFAULT, samples);
    put_foreign(file, "outputs", H5T_NATIVE_UINT8, 0, H5P_DEFAULT, NULL);
    H5Pclose(chunked);
    H5Tclose(type);
    H5Tclose(gaps);
    H5Fclose(file);
}

/* A file with fewer columns than we know is an older one: what it lacks is absent, not garbage. */
START_TEST(test_older_file)
{
    enter_folder();
    struct small_row row = {"eightchr", QG_FAIL, 1, 1}; // the text has no terminator
    make_foreign("old.h5", 1, &row, 1);
    struct qg_result *r = open_file("old.h5");
    ck_assert_uint_eq(r->n_cases, 1);
    ck_assert_str_eq(r->cases[0].spelling, "eightchr");
    ck_assert_uint_eq(r->cases[0].verdict, QG_FAIL);
    ck_assert_uint_eq(r->cases[0].samples_n, 1);
    ck_assert(isnan(r->cases[0].sqnr_db) && isnan(r->cases[0].warm.median_s));
    ck_assert_int_eq(r->cases[0].first_bad, -1);
    ck_assert_str_eq(r->cases[0].scheme, "");
    const struct qg_conditions *u = &r->cases[0].warm.under;
    ck_assert(isnan(u->sm_mhz_low) && isnan(u->watts) && u->discarded == 0 && !*u->lowered_by);
    qg_result_free(&r);
    leave_folder();
}
END_TEST

START_TEST(test_foreign_files)
{
    enter_folder();
    struct small_row row = {"x", QG_PASS, 1, 1};
    refused("none.h5", QG_EIO, "No such file");
    refused(".", QG_EFORMAT, "no regular file");
    spill("text.h5", "hello", 5);
    refused("text.h5", QG_EFORMAT, "no HDF5 file");
    spill("empty.h5", "", 0);
    refused("empty.h5", QG_EFORMAT, "no HDF5 file");
    hid_t file = H5Fcreate("bare.h5", H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refused("bare.h5", QG_EFORMAT, "meta");
    make_foreign("new.h5", 7, &row, 1);
    refused("new.h5", QG_EFORMAT, "schema version 7");
    make_foreign("huge.h5", 1, NULL, (hsize_t)1 << 60);
    refused("huge.h5", QG_EFORMAT, "more data than the file can hold");
    row.samples_n = 2;
    make_foreign("range.h5", 1, &row, 1);
    refused("range.h5", QG_EFORMAT, "outside the file");
    row.samples_at = UINT64_MAX;
    make_foreign("wrap.h5", 1, &row, 1);
    refused("wrap.h5", QG_EFORMAT, "outside the file");
    row = (struct small_row){"x", 99, 0, 0};
    make_foreign("verdict.h5", 1, &row, 1);
    refused("verdict.h5", QG_EFORMAT, "verdict");
    leave_folder();
}
END_TEST

/* Datasets whose bytes lie elsewhere would let a stranger's file show us /etc/passwd. */
START_TEST(test_data_outside_the_file)
{
    enter_folder();
    spill("secret", "0123456789abcdef", 16);
    struct small_row row = {"x", QG_PASS, 0, 0};
    make_foreign("a.h5", 1, &row, 1);
    hid_t file = H5Fopen("a.h5", H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t plist = H5Pcreate(H5P_DATASET_CREATE);
    H5Pset_external(plist, "secret", 0, 16);
    H5Ldelete(file, "samples", H5P_DEFAULT);
    hsize_t two = 2;
    hid_t space = H5Screate_simple(1, &two, NULL);
    H5Dclose(
        H5Dcreate2(file, "samples", H5T_NATIVE_DOUBLE, space, H5P_DEFAULT, plist, H5P_DEFAULT));
    H5Sclose(space);
    H5Pclose(plist);
    H5Fclose(file);
    refused("a.h5", QG_EFORMAT, "outside this file");
    make_foreign("b.h5", 1, &row, 1);
    make_foreign("c.h5", 1, &row, 1);
    file = H5Fopen("b.h5", H5F_ACC_RDWR, H5P_DEFAULT);
    H5Ldelete(file, "samples", H5P_DEFAULT);
    H5Lcreate_external("c.h5", "/samples", file, "samples", H5P_DEFAULT, H5P_DEFAULT);
    H5Fclose(file);
    refused("b.h5", QG_EFORMAT, "samples");
    leave_folder();
}
END_TEST

/* Cut at many places, and with bytes changed: an answer or a sentence, never harm. */
START_TEST(test_damaged_files)
{
    enter_folder();
    write_file("r.h5", 3);
    size_t n;
    unsigned char *good = slurp("r.h5", &n), *bad = malloc(n);
    struct qg_result *r = NULL;
    for (size_t cut = 1; cut < n; cut += 1 + n / 60) {
        spill("t.h5", good, cut);
        refused("t.h5", QG_EFORMAT, "t.h5");
    }
    unsigned accepted = 0, changed = 200;
    for (unsigned i = 0; i < changed; i++) {
        memcpy(bad, good, n);
        for (unsigned k = 0; k < 1 + i % 4; k++)
            bad[qg_rng_bits(1, i, k) % n] = (unsigned char)qg_rng_bits(2, i, k);
        spill("t.h5", bad, n);
        if (qg_result_open("t.h5", &r, &err) == QG_OK) {
            accepted++;
            ck_assert_uint_lt(r->n_cases, 1000);
            qg_result_free(&r);
        }
        ck_assert_ptr_null(r);
    }
    ck_assert_uint_lt(accepted, changed); // most of a small file is slack; data carry checksums
    free(good);
    free(bad);
    leave_folder();
}
END_TEST

QG_SUITE(result, test_round_trip, test_fields_are_complete, test_same_bytes,
         test_refuses_to_overwrite, test_killed_and_resumed, test_torn_journal, test_adds_to_a_file,
         test_killed_and_resumed, test_torn_journal, test_resume_checks_the_run,
         test_limits_of_a_record, test_full_disk, test_older_file, test_foreign_files,
         test_data_outside_the_file, test_damaged_files)
