/* SPDX-License-Identifier: MIT
 *
 * Checkpoints of one file and of shards: what is listed and read, and the sentence for each way in
 * which files can fail to belong together.
 */
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/io/model.h"
#include "harness/io/safetensors.h"
#include "tests/folder.h"
#include "tests/suite.h"

static void leave(void)
{
    static const char *const names[] = {"model.safetensors",
                                        "model.safetensors.index.json",
                                        "config.json",
                                        "a.safetensors",
                                        "b.safetensors",
                                        "other",
                                        NULL};
    unlink(at("sub/a.safetensors"));
    rmdir(at("sub"));
    leave_without(names);
}

/* A header as it stands, and `data` bytes 0, 1, 2, ... behind it. */
static void put_header(const char *name, const char *header, size_t data)
{
    size_t n = strlen(header);
    FILE *f = fopen(at(name), "wb");
    ck_assert_ptr_nonnull(f);
    for (int i = 0; i < 8; i++)
        fputc((int)(n >> 8 * i & 0xff), f);
    fputs(header, f);
    for (size_t i = 0; i < data; i++)
        fputc((int)i & 0xff, f);
    ck_assert_int_eq(fclose(f), 0);
}

static const float ramp[12] = {0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11};

/* A file of one or two [4,3] tensors in F32. */
static void put_tensors(const char *name, const char *first, const char *second)
{
    struct qg_error err;
    struct qg_tensor t[] = {{first, QG_F32, 2, {4, 3}, (void *)ramp},
                            {second, QG_F32, 2, {4, 3}, (void *)ramp}};
    ck_assert_int_eq(qg_safetensors_write(at(name), t, second ? 2 : 1, true, &err), QG_OK);
}

/* Two shards, a.safetensors with x and y, b.safetensors with z; and their index. */
static void put_shards(const char *index)
{
    put_tensors("a.safetensors", "x", "y");
    put_tensors("b.safetensors", "z", NULL);
    put_text("model.safetensors.index.json", index);
}

#define INDEX(map) "{\"metadata\": {\"total_size\": 1}, \"weight_map\": {" map "}}"
#define GOOD       INDEX("\"z\": \"b.safetensors\", \"x\": \"a.safetensors\", \"y\": \"a.safetensors\"")

static struct qg_model *open_good(const char *path)
{
    struct qg_model *m = NULL;
    struct qg_error err = {QG_OK, ""};
    enum qg_status status = qg_model_open(path, &m, &err);
    ck_assert_msg(status == QG_OK, "%s", err.message);
    return m;
}

static void expect_refusal(const char *path, enum qg_status status, const char *message)
{
    struct qg_model *m = NULL;
    struct qg_error err = {QG_OK, ""};
    ck_assert_msg(qg_model_open(path, &m, &err) != QG_OK, "accepted, expected '%s'", message);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.message, message) && strncmp(err.message, path, strlen(path)) == 0,
                  "'%s' lacks '%s' or the path", err.message, message);
    ck_assert_int_eq(err.status, status);
}

START_TEST(single_file)
{
    enter();
    put_tensors("model.safetensors", "x", "y");
    put_text("config.json", "{\"tie_word_embeddings\": true}");
    const char *paths[] = {folder, at("model.safetensors")};
    for (int i = 0; i < 2; i++) {
        struct qg_model *m = open_good(paths[i]);
        ck_assert_int_eq(qg_model_format(m), QG_MODEL_SAFETENSORS);
        ck_assert_uint_eq(qg_model_count(m), 2);
        ck_assert_str_eq(qg_model_at(m, 1)->t.name, "y");
        ck_assert_str_eq(qg_model_at(m, 1)->dtype_word, "F32");
        ck_assert_uint_eq(qg_model_at(m, 1)->bytes, 48);
        ck_assert_ptr_null(qg_model_at(m, 2));
        ck_assert_ptr_eq(qg_model_find(m, "y"), qg_model_at(m, 1));
        ck_assert_ptr_null(qg_model_find(m, "z"));
        ck_assert_str_eq(qg_model_file(m, 0), at("model.safetensors"));
        ck_assert_ptr_null(qg_model_file(m, 1));
        ck_assert(qg_model_tied(m));
        ck_assert_ptr_null(qg_model_quant_method(m));
        qg_model_close(&m);
        ck_assert_ptr_null(m);
    }
    leave();
}
END_TEST

START_TEST(shards)
{
    struct qg_error err;
    float y[12];
    enter();
    put_shards(GOOD);
    struct qg_model *m = open_good(folder);
    ck_assert_uint_eq(qg_model_count(m), 3);
    ck_assert_str_eq(qg_model_at(m, 0)->t.name, "x");
    ck_assert_str_eq(qg_model_at(m, 2)->t.name, "z");
    ck_assert_str_eq(qg_model_file(m, qg_model_at(m, 2)->file), at("b.safetensors"));
    ck_assert_int_eq(qg_model_load(m, qg_model_find(m, "z"), y, &err), QG_OK);
    ck_assert_mem_eq(y, ramp, sizeof y);
    ck_assert_ptr_null(qg_model_config(m));
    ck_assert(!qg_model_tied(m));
    qg_model_close(&m);

    // A folder below, and a link, are fine; so is a slash behind the folder.
    ck_assert_int_eq(mkdir(at("sub"), 0700), 0);
    ck_assert_int_eq(rename(at("a.safetensors"), at("sub/a.safetensors")), 0);
    ck_assert_int_eq(rename(at("b.safetensors"), at("other")), 0);
    ck_assert_int_eq(symlink("other", at("b.safetensors")), 0);
    put_text("model.safetensors.index.json",
             INDEX("\"x\": \"sub/a.safetensors\", \"y\": \"sub/a.safetensors\", "
                   "\"z\": \"b.safetensors\""));
    m = open_good(at(""));
    ck_assert_uint_eq(qg_model_count(m), 3);
    qg_model_close(&m);
    leave();
}
END_TEST

START_TEST(disagreeing_index)
{
    static const struct {
        const char *index, *message;
    } cases[] = {
        {INDEX("\"x\": \"a.safetensors\", \"y\": \"c.safetensors\""),
         "shard 'c.safetensors' is missing, which should hold tensor 'y'"},
        {INDEX("\"x\": \"a.safetensors\", \"y\": \"b.safetensors\", \"z\": \"b.safetensors\""),
         "tensor 'y' should be in shard 'b.safetensors', it is in 'a.safetensors'"},
        {INDEX("\"w\": \"b.safetensors\", \"x\": \"a.safetensors\", \"y\": \"a.safetensors\", "
               "\"z\": \"b.safetensors\""),
         "shard 'b.safetensors' lacks tensor 'w'"},
        {INDEX("\"x\": \"a.safetensors\", \"y\": \"a.safetensors\", \"z\": \"b.safetensors\", "
               "\"zz\": \"b.safetensors\""),
         "shard 'b.safetensors' lacks tensor 'zz'"},
        {INDEX("\"x\": \"a.safetensors\", \"z\": \"b.safetensors\""),
         "shard 'a.safetensors' has tensor 'y', which the index does not know"},
        {INDEX("\"x\": \"a.safetensors\", \"y\": \"a.safetensors\", \"x\": \"a.safetensors\""),
         "tensor 'x' is there twice"},
        {INDEX("\"x\": \"../a.safetensors\""), "'../a.safetensors', is not a file in this folder"},
        {INDEX("\"x\": \"sub/../../a\""), "'sub/../../a', is not a file in this folder"},
        {INDEX("\"x\": \"sub/..\""), "'sub/..', is not a file in this folder"},
        {INDEX("\"x\": \"/etc/passwd\""), "'/etc/passwd', is not a file in this folder"},
        {INDEX("\"x\": \"\""), "'', is not a file in this folder"},
        {INDEX("\"x\": 1"), "the shard of tensor 'x' is not a file's name"},
        {INDEX("\"x\": \"a\\u001b[2J\""), "the shard of tensor 'x' is not a file's name"},
        {INDEX("\"\\u001b[2J\": \"a\""), "the name of tensor 0 is not printable text"},
        {INDEX("\"x\": \"a\\u0000\""), "NUL byte"},
        {"{\"weight_map\": []}", "\"weight_map\" is not an object"},
        {"{\"weight_map\": {}, \"weight_map\": {}}", "\"weight_map\" is there twice"},
        {"{}", "\"weight_map\" (an object) is missing"},
        {"[]", "the file is not a JSON object"},
        {"", "the file is not JSON"},
        {GOOD "x", "text after the file's JSON"},
    };
    enter();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_shards(cases[i].index);
        expect_refusal(folder, QG_EFORMAT, cases[i].message);
    }
    put_shards(GOOD);
    put_tensors("b.safetensors", "z", "y");
    expect_refusal("", QG_EIO, "No such file");
    expect_refusal(folder, QG_EFORMAT, ".safetensors: tensor 'y' is in ");
    put_shards(GOOD);
    put_text("b.safetensors", "no tensors");
    expect_refusal(folder, QG_EFORMAT, "b.safetensors: not a safetensors file");
    leave();
}
END_TEST

START_TEST(folders)
{
    enter();
    expect_refusal(folder, QG_EFORMAT, "neither model.safetensors nor");
    put_shards(GOOD);
    put_tensors("model.safetensors", "x", "y");
    expect_refusal(folder, QG_EFORMAT, "both model.safetensors and");
    struct qg_model *m = open_good(at("model.safetensors"));
    ck_assert_uint_eq(qg_model_count(m), 2);
    qg_model_close(&m);
    expect_refusal(at("nothing"), QG_EIO, "No such file");
    expect_refusal(at("model.safetensors.index.json"), QG_EFORMAT, "not a safetensors file");
    leave();
}
END_TEST

START_TEST(configs)
{
    static const struct {
        const char *config, *tensor, *method;
        bool tied;
    } cases[] = {
        {"{}", "x", NULL, false},
        {"{\"quantization_config\": null}", "x", NULL, false},
        {"{\"quantization_config\": {\"quant_method\": \"awq\"}}", "x", "awq", false},
        {"{\"quantization_config\": {}}", "x", "unknown", false},
        {"{\"quantization_config\": 3}", "x", "unknown", false},
        {"{\"quantization_config\": {\"quant_method\": \"\\u001b\"}}", "x", "unknown", false},
        {"{\"quantization_config\": {\"load_in_4bit\": true}}", "x", "bitsandbytes", false},
        {"{\"text_config\": {\"quantization_config\": {\"quant_method\": \"fp8\"}}}", "x", "fp8",
         false},
        {"{\"text_config\": {\"tie_word_embeddings\": true}}", "x", NULL, true},
        {"{\"tie_word_embeddings\": false, \"architectures\": [\"AForCausalLM\"]}", "x", NULL,
         false},
        {"{\"architectures\": [\"AForCausalLM\"]}", "x", NULL, true},
        {"{\"architectures\": [\"AForCausalLM\"]}", "lm_head.weight", NULL, false},
        {"{\"architectures\": [\"BertModel\"]}", "x", NULL, false},
        {"{\"architectures\": 7, \"text_config\": [1]}", "x", NULL, false},
    };
    static char deep[200000];
    enter();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_tensors("model.safetensors", cases[i].tensor, NULL);
        put_text("config.json", cases[i].config);
        struct qg_model *m = open_good(folder);
        const char *method = qg_model_quant_method(m);
        ck_assert_ptr_nonnull(qg_model_config(m));
        ck_assert_msg(strcmp(method ? method : "", cases[i].method ? cases[i].method : "") == 0 &&
                          !method == !cases[i].method,
                      "%s: '%s'", cases[i].config, method ? method : "none");
        ck_assert_msg(qg_model_tied(m) == cases[i].tied, "%s", cases[i].config);
        qg_model_close(&m);
    }
    put_text("config.json", "{\"a\"");
    expect_refusal(folder, QG_EFORMAT, "config.json: the file is not JSON");
    memset(deep, '[', sizeof deep - 1);
    memcpy(deep, "{\"a\":", 5);
    put_text("config.json", deep);
    expect_refusal(folder, QG_EFORMAT, "nested too deeply");
    ck_assert_int_eq(truncate(at("config.json"), (16 << 20) + 1), 0);
    expect_refusal(folder, QG_EFORMAT, "16777217 bytes, more than the 16777216 that are read");
    unlink(at("config.json"));
    ck_assert_int_eq(mkfifo(at("config.json"), 0600), 0);
    expect_refusal(folder, QG_EFORMAT, "config.json: not a regular file");
    leave();
}
END_TEST

/* Rows as they are, and cast. */
START_TEST(rows)
{
    struct qg_error err;
    float y[12] = {0};
    uint16_t h[6];
    enter();
    put_tensors("model.safetensors", "x", NULL);
    struct qg_model *m = open_good(folder);
    const struct qg_model_tensor *t = qg_model_at(m, 0);
    ck_assert_int_eq(qg_model_rows(m, t, 1, 3, QG_F32, y, &err), QG_OK);
    ck_assert_mem_eq(y, ramp + 3, 9 * sizeof *y);
    ck_assert_int_eq(qg_model_rows(m, t, 2, 2, QG_BF16, h, &err), QG_OK);
    ck_assert_uint_eq(h[0], 0x40c0); // 6
    ck_assert_uint_eq(h[5], 0x4130); // 11
    ck_assert_int_eq(qg_model_rows(m, t, 4, 0, QG_F32, y, &err), QG_OK);
    ck_assert_int_eq(qg_model_rows(m, t, 2, 3, QG_F32, y, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "rows 2 to 5 were asked of its 4") != NULL, "%s",
                  err.message);
    ck_assert_int_eq(qg_model_rows(m, t, 5, (size_t)-1, QG_F32, y, &err), QG_EINVAL);
    ck_assert_int_eq(qg_model_rows(m, t, 0, 1, QG_I8, y, &err), QG_EINVAL);
    qg_model_close(&m);
    leave();
}
END_TEST

/* More elements than are cast at once, of another dtype than F32, of rank 3. */
START_TEST(many_rows)
{
    enum { A = 3, B = 700, C = 101 };
    static uint16_t data[A * B * C];
    static float y[A * B * C];
    struct qg_error err;
    struct qg_tensor t = {"x", QG_BF16, 3, {A, B, C}, data};
    for (size_t i = 0; i < A * B * C; i++)
        data[i] = (uint16_t)(qg_rng_bits(7, 0, i) % 0x7f80); // any number but NaN
    enter();
    ck_assert_int_eq(qg_safetensors_write(at("model.safetensors"), &t, 1, true, &err), QG_OK);
    struct qg_model *m = open_good(folder);
    ck_assert_int_eq(qg_model_rows(m, qg_model_at(m, 0), 5, A * B - 5, QG_F32, y, &err), QG_OK);
    for (size_t i = 0; i < (A * B - 5) * C; i++)
        ck_assert_uint_eq(qg_f32_bits(y[i]), (uint32_t)data[i + 5 * C] << 16);
    qg_model_close(&m);
    leave();
}
END_TEST

/* Everything can be listed and copied; what cannot be computed with says so. */
START_TEST(odd_tensors)
{
    static const struct {
        const char *name, *message;
        size_t bytes;
    } cases[] = {
        {"wide", "it is I64 of rank 1, which can only be copied", 8},
        {"new", "it is F9 of rank 1, which can only be copied", 3},
        {"deep", "it is U8 of rank 5, which can only be copied", 2},
        {"none", "it is empty: 0 rows of 4", 0},
        {"hollow", "it is empty: 3 rows of 0", 0},
        {"one", "it is a single number, it has no rows", 1},
    };
    struct qg_error err;
    unsigned char copy[8];
    enter();
    put_header("model.safetensors",
               "{\"wide\":{\"dtype\":\"I64\",\"shape\":[1],\"data_offsets\":[0,8]},"
               "\"new\":{\"dtype\":\"F9\",\"shape\":[7],\"data_offsets\":[8,11]},"
               "\"deep\":{\"dtype\":\"U8\",\"shape\":[1,1,2,1,1],\"data_offsets\":[11,13]},"
               "\"none\":{\"dtype\":\"F32\",\"shape\":[0,4],\"data_offsets\":[13,13]},"
               "\"hollow\":{\"dtype\":\"F32\",\"shape\":[3,0],\"data_offsets\":[13,13]},"
               "\"one\":{\"dtype\":\"U8\",\"shape\":[],\"data_offsets\":[13,14]}}",
               14);
    struct qg_model *m = open_good(folder);
    ck_assert_uint_eq(qg_model_count(m), 6);
    for (size_t i = 0; i < 6; i++) {
        const struct qg_model_tensor *t = qg_model_find(m, cases[i].name);
        ck_assert_ptr_nonnull(t);
        ck_assert_uint_eq(t->bytes, cases[i].bytes);
        ck_assert_int_eq(qg_model_load(m, t, copy, &err), QG_OK);
        ck_assert_int_eq(qg_model_rows(m, t, 0, 0, QG_F32, copy, &err), QG_EINVAL);
        ck_assert_msg(strstr(err.message, cases[i].message) != NULL, "'%s'", err.message);
    }
    const struct qg_model_tensor *deep = qg_model_find(m, "deep");
    ck_assert_int_eq(deep->rank, 5);
    ck_assert_uint_eq(deep->shape[2], 2);
    ck_assert_int_eq(qg_model_load(m, deep, copy, &err), QG_OK);
    ck_assert_uint_eq(copy[0], 11);
    qg_model_close(&m);
    leave();
}
END_TEST

/* A file that is written to, cut, or replaced after it was opened. */
START_TEST(changing_files)
{
    struct qg_error err;
    float y[12];
    enter();
    for (int how = 0; how < 4; how++) {
        put_tensors("model.safetensors", "x", NULL);
        struct qg_model *m = open_good(folder);
        const struct qg_model_tensor *t = qg_model_at(m, 0);
        const char *path = at("model.safetensors");
        struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_sec = 1, .tv_nsec = 1}};
        ck_assert_int_eq(qg_model_load(m, t, y, &err), QG_OK);
        if (how == 0)
            ck_assert_int_eq(utimensat(AT_FDCWD, path, times, 0), 0);
        else if (how == 1)
            ck_assert_int_eq(truncate(path, 9), 0);
        else if (how == 2)
            put_tensors("model.safetensors", "x", "y"); // another inode
        else
            unlink(path);
        ck_assert_int_eq(qg_model_load(m, t, y, &err), QG_EIO);
        ck_assert_msg(strstr(err.message, "model.safetensors: tensor 'x': the file ") != NULL, "%s",
                      err.message);
        qg_model_close(&m);
    }
    leave();
}
END_TEST

/* Every truncation and many changed bytes of an index and a configuration. */
START_TEST(mutations)
{
    static const char config[] = "{\"tie_word_embeddings\": true, \"quantization_config\": "
                                 "{\"quant_method\": \"awq\"}, \"architectures\": [\"B\"]}";
    char text[sizeof GOOD + sizeof config];
    struct qg_error err;
    size_t accepted = 0, trials = 3000;
    enter();
    put_shards(GOOD);
    for (size_t seed = 0; seed < trials; seed++) {
        bool of_index = seed % 2;
        const char *whole = of_index ? GOOD : config;
        size_t n = strlen(whole), k = seed / 2;
        memcpy(text, whole, n + 1);
        if (k < n)
            text[k] = '\0';
        else
            text[qg_rng_bits(seed, 0, 0) % n] = (char)qg_rng_bits(seed, 0, 1);
        put_text("config.json", of_index ? config : text);
        put_text("model.safetensors.index.json", of_index ? text : GOOD);
        struct qg_model *m = NULL;
        err.message[0] = '\0';
        if (qg_model_open(folder, &m, &err) == QG_OK)
            accepted++;
        else
            ck_assert_msg(strncmp(err.message, folder, strlen(folder)) == 0, "%s", err.message);
        qg_model_close(&m);
    }
    ck_assert_uint_gt(accepted, trials / 50);
    ck_assert_uint_lt(accepted, trials);
    leave();
}
END_TEST

QG_SUITE(model, single_file, shards, disagreeing_index, folders, configs, rows, many_rows,
         odd_tensors, changing_files, mutations)
