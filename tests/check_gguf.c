/* SPDX-License-Identifier: MIT
 *
 * GGUF files, built here byte by byte from the format's description: what is read, what is copied
 * byte for byte, and a sentence for everything that is not so.
 */
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/io/gguf.h"
#include "harness/io/model.h"
#include "tests/folder.h"
#include "tests/suite.h"

static char path[96];

static void leave(void)
{
    leave_without((const char *const[]){"t.gguf", "copy.gguf", NULL});
}

/* --- files byte by byte ---------------------------------------------------------------------- */

static struct {
    unsigned char byte[1 << 14];
    size_t n;
} file;

static void number(uint64_t v, int bytes)
{
    for (int i = 0; i < bytes; i++)
        file.byte[file.n++] = (unsigned char)(v >> 8 * i);
}

static void text(const char *s)
{
    number(strlen(s), 8);
    memcpy(file.byte + file.n, s, strlen(s));
    file.n += strlen(s);
}

static void key(const char *name, unsigned type)
{
    text(name);
    number(type, 4);
}

static void begin(unsigned version, size_t tensors, size_t entries)
{
    file.n = 0;
    memset(&file, 0, sizeof file);
    number(0x46554747, 4); // "GGUF"
    number(version, 4);
    number(tensors, 8);
    number(entries, 8);
}

/* A tensor of two extents, contiguous one first. */
static void tensor(const char *name, size_t k, size_t n, unsigned type, size_t offset)
{
    text(name);
    number(2, 4);
    number(k, 8);
    number(n, 8);
    number(type, 4);
    number(offset, 8);
}

static void align(size_t alignment)
{
    file.n = (file.n + alignment - 1) / alignment * alignment;
}

static void save(void)
{
    snprintf(path, sizeof path, "%s", at("t.gguf"));
    put_bytes("t.gguf", file.byte, file.n);
}

/* Every type of metadata; F32 x [2,3], Q8_0 q [2,32], I64 i [1,1]; alignment 64. */
static void build(unsigned version)
{
    begin(version, 3, 16);
    key("general.alignment", QG_GGUF_U32), number(64, 4);
    key("u8", QG_GGUF_U8), number(200, 1);
    key("i8", QG_GGUF_I8), number(0xfd, 1); // -3
    key("u16", QG_GGUF_U16), number(60000, 2);
    key("i16", QG_GGUF_I16), number(0xfffe, 2); // -2
    key("u32", QG_GGUF_U32), number(4000000000, 4);
    key("i32", QG_GGUF_I32), number(0xffffffff, 4); // -1
    key("f32", QG_GGUF_F32), number(0x3fc00000, 4); // 1.5
    key("yes", QG_GGUF_BOOL), number(1, 1);
    key("text", QG_GGUF_STRING), text("two\nlines");
    key("u64", QG_GGUF_U64), number((uint64_t)1 << 63, 8);
    key("i64", QG_GGUF_I64), number(~(uint64_t)4, 8);       // -5
    key("f64", QG_GGUF_F64), number(0x3fd0000000000000, 8); // 0.25
    key("words", QG_GGUF_ARRAY), number(QG_GGUF_STRING, 4), number(2, 8), text("a"), text("");
    key("nested", QG_GGUF_ARRAY), number(QG_GGUF_ARRAY, 4), number(2, 8);
    number(QG_GGUF_U16, 4), number(2, 8), number(7, 2), number(8, 2);
    number(QG_GGUF_BOOL, 4), number(0, 8);
    key("nul", QG_GGUF_STRING), number(3, 8), number('a', 1), number(0, 1), number('b', 1);
    tensor("q", 32, 2, 8, 64);
    tensor("x", 3, 2, 0, 0);
    tensor("i", 1, 1, 27, 192);
    align(64);
    for (int i = 0; i < 6; i++)
        number(0x3f800000 + (unsigned)i, 4); // x: 1 and the next numbers
    align(64);
    for (int row = 0; row < 2; row++) { // q: scales 1 and 2, codes -16 .. 15
        number(row ? 0x4000 : 0x3c00, 2);
        for (int i = -16; i < 16; i++)
            number((unsigned)i, 1);
    }
    align(64);
    number(0x1122334455667788, 8);
    align(64);
}

static struct qg_model *open_good(void)
{
    struct qg_model *m = NULL;
    struct qg_error err;
    enum qg_status status = qg_model_open(path, &m, &err);
    ck_assert_msg(status == QG_OK, "%s", err.message);
    return m;
}

static void expect_refusal(const char *message)
{
    struct qg_model *m = NULL;
    struct qg_error err = {QG_OK, ""};
    ck_assert_msg(qg_model_open(path, &m, &err) != QG_OK, "accepted, expected '%s'", message);
    ck_assert_ptr_null(m);
    ck_assert_msg(strstr(err.message, message) && strncmp(err.message, path, strlen(path)) == 0,
                  "'%s' lacks '%s' or the file", err.message, message);
    ck_assert_int_eq(err.status, QG_EFORMAT);
}

/* --- tests ----------------------------------------------------------------------------------- */

START_TEST(tensors)
{
    struct qg_error err;
    float y[64];
    uint16_t h[32];
    uint64_t word;
    enter();
    for (unsigned version = 2; version <= 3; version++) {
        build(version);
        save();
        struct qg_model *m = open_good();
        ck_assert_int_eq(qg_model_format(m), QG_MODEL_GGUF);
        ck_assert_uint_eq(qg_model_count(m), 3);
        const struct qg_model_tensor *x = qg_model_at(m, 0), *q = qg_model_find(m, "q"),
                                     *i = qg_model_find(m, "i");
        ck_assert_str_eq(x->t.name, "x");
        ck_assert_int_eq(x->t.rank, 2);
        ck_assert_uint_eq(x->t.shape[0], 2);
        ck_assert_uint_eq(x->t.shape[1], 3);
        ck_assert_uint_eq(x->bytes, 24);
        ck_assert_int_eq(qg_model_rows(m, x, 1, 1, QG_F32, y, &err), QG_OK);
        ck_assert_uint_eq(qg_f32_bits(y[2]), 0x3f800005);

        ck_assert_str_eq(q->dtype_word, "Q8_0");
        ck_assert_str_eq(q->scheme->name, "q8_0");
        ck_assert_int_eq(q->t.dtype, QG_F32);
        ck_assert_uint_eq(q->bytes, 68);
        ck_assert_int_eq(qg_model_rows(m, q, 0, 2, QG_F32, y, &err), QG_OK);
        for (int k = 0; k < 64; k++)
            ck_assert(y[k] == (float)((k % 32 - 16) * (k < 32 ? 1 : 2)));
        ck_assert_int_eq(qg_model_rows(m, q, 1, 1, QG_BF16, h, &err), QG_OK);
        ck_assert_uint_eq(h[0], 0xc200); // -32
        ck_assert_int_eq(qg_model_rows(m, q, 2, 1, QG_F32, y, &err), QG_EINVAL);

        ck_assert_int_eq(i->t.dtype, QG_DTYPE_COUNT);
        ck_assert_int_eq(qg_model_load(m, i, &word, &err), QG_OK);
        ck_assert(word == 0x1122334455667788);
        ck_assert_int_eq(qg_model_rows(m, i, 0, 1, QG_F32, y, &err), QG_EINVAL);
        ck_assert_msg(strstr(err.message, "it is I64 of rank 2, which can only be copied"), "%s",
                      err.message);
        qg_model_close(&m);
    }
    leave();
}
END_TEST

START_TEST(metadata)
{
    static const struct {
        const char *key;
        double value;
    } numbers[] = {{"u8", 200},
                   {"i8", -3},
                   {"u16", 60000},
                   {"i16", -2},
                   {"u32", 4000000000},
                   {"i32", -1},
                   {"f32", 1.5},
                   {"u64", 0x1p63},
                   {"i64", -5},
                   {"f64", 0.25},
                   {"general.alignment", 64}};
    enter();
    build(3);
    save();
    struct qg_model *m = open_good();
    const cJSON *config = qg_model_config(m);
    for (size_t i = 0; i < sizeof numbers / sizeof numbers[0]; i++) {
        const cJSON *j = cJSON_GetObjectItemCaseSensitive(config, numbers[i].key);
        ck_assert_msg(cJSON_IsNumber(j) && j->valuedouble == numbers[i].value, "%s",
                      numbers[i].key);
    }
    ck_assert(cJSON_IsTrue(cJSON_GetObjectItemCaseSensitive(config, "yes")));
    ck_assert_str_eq(cJSON_GetObjectItemCaseSensitive(config, "text")->valuestring, "two\nlines");
    ck_assert_int_eq(cJSON_GetArraySize(config), 13); // neither arrays nor the NUL
    ck_assert(!qg_model_tied(m));                     // no embeddings
    ck_assert_ptr_null(qg_model_quant_method(m));
    qg_model_close(&m);
    leave();
}
END_TEST

/* Metadata and tensors of one file to another: the same bytes. */
START_TEST(copied)
{
    static unsigned char data[256], other[sizeof file.byte];
    struct qg_gguf_file *f = NULL;
    struct qg_writer *w = NULL;
    struct qg_error err;
    struct qg_stored t[3];
    enter();
    build(3);
    // The order of infos is that of the offsets: as a writer leaves it.
    save();
    ck_assert_int_eq(qg_gguf_open(path, &f, &err), QG_OK);
    struct qg_gguf_meta *meta = qg_gguf_meta_new();
    for (size_t i = 0; qg_gguf_entry_at(f, i); i++)
        ck_assert_int_eq(qg_gguf_meta_add(meta, qg_gguf_entry_at(f, i), &err), QG_OK);
    ck_assert_uint_eq(qg_gguf_entry_find(f, "words")->bytes, 4 + 8 + 9 + 8);
    for (size_t i = 0; i < 3; i++)
        t[i] = *qg_gguf_stored(f, i);
    ck_assert_int_eq(qg_gguf_create(at("copy.gguf"), t, 3, meta, 0, &w, &err), QG_OK);
    for (size_t i = 3; i-- > 0;) {
        const struct qg_stored *s = qg_gguf_stored(f, i);
        ck_assert_uint_eq(s->at, t[i].at);
        ck_assert_int_eq(qg_file_read(qg_gguf_source(f), data, s->bytes, s->at, &err), QG_OK);
        ck_assert_int_eq(qg_writer_put(w, i, 0, data, s->bytes, &err), QG_OK);
    }
    ck_assert_int_eq(qg_writer_finish(w, &err), QG_OK);
    qg_writer_close(&w, false);
    qg_gguf_meta_free(&meta);
    qg_gguf_close(&f);

    // All but the infos of q and x, which change places: their extents, types and offsets.
    FILE *in = fopen(at("copy.gguf"), "rb");
    ck_assert_ptr_nonnull(in);
    ck_assert_uint_eq(fread(other, 1, sizeof other, in), file.n);
    fclose(in);
    size_t info = 41, at = 0; // bytes of an info with a name of one letter
    while (memcmp(file.byte + at, "\1\0\0\0\0\0\0\0q\2\0\0\0", 13) != 0)
        at++;
    ck_assert_mem_eq(other, file.byte, at);
    ck_assert_mem_eq(other + at, file.byte + at + info, info);
    ck_assert_mem_eq(other + at + info, file.byte + at, info);
    ck_assert_mem_eq(other + at + 2 * info, file.byte + at + 2 * info, file.n - at - 2 * info);
    leave();
}
END_TEST

/* One thing of a small file is wrong. */
static void build_wrong(int what)
{
    static const char *const messages[] = {
        "not a safetensors file", // the magic
        "version 1 of GGUF; 2 and 3 are read",
        "a big-endian file",
        "18446744073709551615 pieces of metadata and 2 tensors do not fit",
        "1 pieces of metadata and 4611686018427387904 tensors do not fit",
        "metadata 0: truncated: 18446744073709551615 bytes should follow",
        "metadata 'a': there is no type 13 of values",
        "metadata 'a': truncated: 2305843009213693952 bytes should follow",
        "metadata 'a': truncated: 9223372036854775808 bytes should follow",
        "metadata 'a': arrays are nested more than 4 deep",
        "metadata 'a': truncated: ", // an array of 2^60 strings
        "metadata 'a': there is no type 99",
        "metadata 0: the name before byte 33 is not printable text",
        "metadata 'a' is there twice",
        "general.alignment is no uint32 that is a power of two",
        "general.alignment is no uint32 that is a power of two",
        "general.alignment is no uint32 that is a power of two",
        "tensor 'x': it has 5 dimensions; at most 4 are allowed",
        "tensor 'x': the shape has more elements than can be addressed",
        "tensor 'x': rows of 31 are not whole blocks of 32 (Q8_0)",
        "tensor 'x': its type, 9, is not known, so neither is its size",
        "tensor 'x': its offset 8 is not aligned to 32",
        "tensor 'x': its 16 bytes at 9223372036854775808 are not inside the 64 of data",
        "tensor 'x': its 4096 bytes at 0 are not inside the 64 of data",
        "tensors 'x' and 'y' overlap",
        "tensor 'x' is there twice",
        "tensor 0: the name before byte 47 is not printable text",
        "one of the 3 files of a split model",
    };
    const uint64_t huge = ~(uint64_t)0;
    int n_entries = what == 13 ? 2 : 1;
    begin(what == 1   ? 1
          : what == 2 ? 0x03000000
                      : 3,
          what == 4 ? (size_t)1 << 62 : 2, what == 3 ? huge : (size_t)n_entries);
    if (what == 0)
        file.byte[0] = 'X';
    for (int i = 0; i < n_entries; i++)
        switch (what) {
        case 5:
            number(huge, 8);
            break;
        case 6:
            key("a", 13), number(0, 8);
            break;
        case 7:
            key("a", QG_GGUF_ARRAY), number(QG_GGUF_U64, 4), number((uint64_t)1 << 58, 8);
            break;
        case 8:
            key("a", QG_GGUF_STRING), number((uint64_t)1 << 63, 8);
            break;
        case 9:
            key("a", QG_GGUF_ARRAY);
            for (int d = 0; d < 6; d++)
                number(QG_GGUF_ARRAY, 4), number(1, 8);
            break;
        case 10:
            key("a", QG_GGUF_ARRAY), number(QG_GGUF_STRING, 4), number((uint64_t)1 << 60, 8);
            break;
        case 11:
            key("a", QG_GGUF_ARRAY), number(99, 4), number(1, 8);
            break;
        case 12:
            key("\x1b", QG_GGUF_U8), number(0, 1);
            break;
        case 14:
            key("general.alignment", QG_GGUF_U32), number(0, 4);
            break;
        case 15:
            key("general.alignment", QG_GGUF_U32), number(48, 4);
            break;
        case 16:
            key("general.alignment", QG_GGUF_U64), number(32, 8);
            break;
        case 27:
            key("split.count", QG_GGUF_U16), number(3, 2);
            break;
        default:
            key("a", QG_GGUF_U8), number(0, 1);
        }
    if (what == 17) {
        text("x"), number(5, 4);
        for (int d = 0; d < 5; d++)
            number(1, 8);
        number(0, 4), number(0, 8);
    } else {
        tensor(what == 26 ? "\n" : "x",
               what == 18   ? (size_t)1 << 40
               : what == 19 ? 31
               : what == 23 ? 1024
                            : 4,
               what == 18 ? (size_t)1 << 40 : 1,
               what == 19   ? 8
               : what == 20 ? 9
                            : 0,
               what == 21   ? 8
               : what == 22 ? (size_t)1 << 63
                            : 0);
    }
    tensor(what == 25 ? "x" : "y", 4, 1, 0, what == 24 ? 0 : 32);
    align(32);
    file.n += 64;
    save();
    expect_refusal(messages[what]);
}

START_TEST(hostile)
{
    enter();
    for (int what = 0; what < 28; what++)
        build_wrong(what);
    leave();
}
END_TEST

/* What a file says is either refused or can be read to the last byte. */
static size_t read_all(void)
{
    static unsigned char data[1 << 14];
    static float y[1 << 12];
    struct qg_model *m = NULL;
    struct qg_error err = {QG_OK, ""};
    if (qg_model_open(path, &m, &err) != QG_OK) {
        ck_assert_msg(strncmp(err.message, path, strlen(path)) == 0, "%s", err.message);
        return 0;
    }
    for (size_t i = 0; i < qg_model_count(m); i++) {
        const struct qg_model_tensor *t = qg_model_at(m, i);
        ck_assert_uint_le(t->bytes, sizeof data);
        ck_assert_int_eq(qg_model_load(m, t, data, &err), QG_OK);
        if (t->t.dtype != QG_DTYPE_COUNT && t->t.rank > 0 && qg_count(&t->t) > 0 &&
            t->t.shape[t->t.rank - 1] <= sizeof y / sizeof *y)
            ck_assert_int_eq(qg_model_rows(m, t, 0, 1, QG_F32, y, &err), QG_OK);
    }
    qg_model_close(&m);
    return 1;
}

START_TEST(truncations)
{
    enter();
    build(3);
    size_t whole = file.n, accepted = 0;
    for (file.n = 0; file.n < whole; file.n++) {
        save();
        accepted += read_all();
    }
    ck_assert_uint_eq(accepted, 64 - 8); // the padding behind the last tensor may be missing
    leave();
}
END_TEST

START_TEST(mutations)
{
    size_t accepted = 0, trials = 6000;
    enter();
    for (uint64_t seed = 0; seed < trials; seed++) {
        build(3);
        for (uint64_t i = 0; i < 1 + seed % 3; i++) {
            unsigned char *p = &file.byte[qg_rng_bits(seed, i, 0) % file.n];
            uint64_t r = qg_rng_bits(seed, i, 1);
            *p = r % 3 == 0   ? *p ^ (unsigned char)(1 << r / 3 % 8)
                 : r % 3 == 1 ? 0xff
                              : (unsigned char)(r >> 32);
        }
        save();
        accepted += read_all();
    }
    ck_assert_uint_gt(accepted, trials / 50);
    ck_assert_uint_lt(accepted, trials);
    leave();
}
END_TEST

START_TEST(not_written)
{
    static const size_t shape[] = {1, 1, 1, 2, 32}, odd[] = {2, 33};
    static const char name[] = "a name of sixty-four bytes, which is one more than ggml allows..";
    static const struct {
        struct qg_stored t;
        const char *message;
    } cases[] = {
        {{name, "F32", 2, shape + 3, 256, 0}, "at most 63 bytes long"},
        {{"x", "I9", 2, shape + 3, 64, 0}, "tensor 'x': GGUF has no type I9"},
        {{"x", "F32", 5, shape, 256, 0}, "tensor 'x': it has 5 dimensions; GGUF allows 4"},
        {{"x", "Q8_0", 2, odd, 68, 0}, "tensor 'x': rows of 33 are not whole blocks of 32"},
        {{"x", "Q8_0", 2, shape + 3, 64, 0}, "tensor 'x': it has 64 bytes, its shape and type 68"},
    };
    struct qg_writer *w = NULL;
    struct qg_error err;
    enter();
    struct qg_gguf_meta *meta = qg_gguf_meta_new();
    ck_assert_int_eq(qg_gguf_meta_string(meta, "general.architecture", "llama", &err), QG_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct qg_stored t = cases[i].t;
        ck_assert_int_eq(qg_gguf_create(at("t.gguf"), &t, 1, meta, 0, &w, &err), QG_EINVAL);
        ck_assert_msg(strstr(err.message, cases[i].message) != NULL, "%s", err.message);
    }
    struct qg_stored good = {"x", "Q8_0", 2, shape + 3, 68, 0}, twice[] = {good, good};
    ck_assert_int_eq(qg_gguf_create(at("t.gguf"), twice, 2, meta, 0, &w, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "tensor 'x' is there twice") != NULL, "%s", err.message);
    ck_assert_int_eq(qg_gguf_meta_u32(meta, "general.architecture", 1, &err), QG_OK);
    ck_assert_int_eq(qg_gguf_create(at("t.gguf"), &good, 1, meta, 0, &w, &err), QG_EINVAL);
    ck_assert_msg(strstr(err.message, "'general.architecture' is there twice") != NULL, "%s",
                  err.message);
    ck_assert_int_eq(qg_gguf_meta_u32(meta, "\n", 1, &err), QG_EINVAL);
    qg_gguf_meta_free(&meta);
    leave();
}
END_TEST

/* A head of its own, or an encoder, or neither. */
START_TEST(tied)
{
    static const struct {
        const char *first, *second;
        bool causal, tied;
    } cases[] = {{"token_embd.weight", "x", true, true},
                 {"token_embd.weight", "output.weight", true, false},
                 {"token_embd.weight", "x", false, false},
                 {"y", "x", true, false}};
    enter();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        begin(3, 2, 2);
        key("general.architecture", QG_GGUF_STRING), text("bert");
        key("bert.attention.causal", QG_GGUF_BOOL), number(cases[i].causal, 1);
        tensor(cases[i].first, 4, 1, 0, 0);
        tensor(cases[i].second, 4, 1, 0, 32);
        align(32);
        file.n += 64;
        save();
        struct qg_model *m = open_good();
        ck_assert(qg_model_tied(m) == cases[i].tied);
        qg_model_close(&m);
    }
    leave();
}
END_TEST

/* Every type with a scheme: a block is what the scheme says it is. */
START_TEST(types)
{
    const struct qg_gguf_type *type;
    for (size_t i = 0; (type = qg_gguf_type_at(i)); i++) {
        ck_assert_ptr_eq(qg_gguf_type_find(type->word), type);
        if (!type->scheme)
            continue;
        const struct qg_scheme *s = qg_scheme_find(type->scheme);
        struct qg_args a = {0};
        char why[256];
        ck_assert_msg(s != NULL, "%s", type->scheme);
        ck_assert_ptr_eq(qg_gguf_type_of_scheme(s), type);
        qg_params_default(&a, s);
        ck_assert_msg(qg_args_init(&a, s, QG_DEQUANT, QG_WEIGHT, QG_F32, 0, 3, 2 * type->elements,
                                   why, sizeof why),
                      "%s", why);
        ck_assert_uint_eq(qg_bytes(&a.in[0]), 6 * type->bytes);
    }
    ck_assert_ptr_null(qg_gguf_type_find("Q8_1"));
}
END_TEST

QG_SUITE(gguf, tensors, metadata, copied, hostile, truncations, mutations, tied, not_written, types)
