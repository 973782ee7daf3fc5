/* SPDX-License-Identifier: MIT
 *
 * Reading and writing safetensors: what goes in comes out, and whatever a file says, the answer is
 * a sentence and never harm.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/base/rng.h"
#include "harness/io/safetensors.h"
#include "schemes/scheme.h"
#include "tests/suite.h"

static char folder[64], path[96];

static void enter(void)
{
    snprintf(folder, sizeof folder, "/tmp/qgauge-check-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/t", folder);
}

/* Fails when anything is left in the folder besides the file itself. */
static void leave(void)
{
    unlink(path);
    ck_assert_msg(rmdir(folder) == 0, "something was left in %s", folder);
}

static void put_file(const void *bytes, size_t n)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(bytes, 1, n, f), n);
    ck_assert_int_eq(fclose(f), 0);
}

/* A file with the given header and `data` bytes of data. */
static void put_header(const char *header, size_t length, size_t data)
{
    static unsigned char bytes[1 << 16];
    ck_assert_uint_le(8 + length + data, sizeof bytes);
    for (int i = 0; i < 8; i++)
        bytes[i] = (unsigned char)((uint64_t)length >> 8 * i);
    memcpy(bytes + 8, header, length);
    memset(bytes + 8 + length, 0x3c, data);
    put_file(bytes, 8 + length + data);
}

static void expect_refusal(enum qg_status status, const char *message)
{
    struct qg_safetensors *f = NULL;
    struct qg_error err = {QG_OK, ""};
    ck_assert_msg(qg_safetensors_open(path, &f, &err) != QG_OK, "accepted, expected '%s'", message);
    ck_assert_ptr_null(f);
    ck_assert_msg(strstr(err.message, message) && strncmp(err.message, path, strlen(path)) == 0,
                  "'%s' lacks '%s' or the file", err.message, message);
    ck_assert_int_eq(err.status, status);
}

static struct qg_safetensors *open_good(void)
{
    struct qg_safetensors *f = NULL;
    struct qg_error err = {QG_OK, ""};
    enum qg_status status = qg_safetensors_open(path, &f, &err);
    ck_assert_msg(status == QG_OK, "%s", err.message);
    ck_assert_str_eq(err.message, "");
    return f;
}

static void expect_tensor(const struct qg_safetensors *f, const struct qg_tensor *want)
{
    unsigned char copy[64];
    struct qg_error err;
    const struct qg_tensor *t = qg_safetensors_find(f, want->name);
    ck_assert_ptr_nonnull(t);
    ck_assert_int_eq(t->dtype, want->dtype);
    ck_assert_int_eq(t->rank, want->rank);
    for (int d = 0; d < t->rank; d++)
        ck_assert_uint_eq(t->shape[d], want->shape[d]);
    ck_assert_int_eq(qg_safetensors_load(f, t, copy, &err), QG_OK);
    ck_assert_mem_eq(copy, want->data, qg_bytes(want));
    ck_assert_int_eq(qg_safetensors_load(f, want, copy, &err), QG_EINVAL); // not of this file
}

/* Every dtype, every rank, names that need escapes, extents of 0, odd sizes that misalign the next.
 */
START_TEST(round_trip)
{
    static const char *const names[] = {"F32",
                                        "BF16",
                                        "a \"quoted\" \\ name",
                                        "\xc3\xa9t\xc3\xa9",
                                        "",
                                        "model.layers.0.weight",
                                        "U8",
                                        "words",
                                        "I32",
                                        "scales"};
    static const size_t shapes[][QG_MAX_RANK] = {{3, 5}, {7},       {0, 4}, {1, 2, 3, 1}, {1},
                                                 {3, 3}, {2, 1, 5}, {5},    {2},          {4, 4}};
    static const int ranks[] = {2, 1, 2, 4, 0, 2, 3, 1, 1, 2};
    static unsigned char data[64];
    struct qg_tensor tensors[QG_DTYPE_COUNT];
    struct qg_error err;
    for (size_t i = 0; i < sizeof data; i++)
        data[i] = (unsigned char)qg_rng_bits(1, 0, i);
    for (int i = 0; i < QG_DTYPE_COUNT; i++) {
        tensors[i] = (struct qg_tensor){names[i], (enum qg_dtype)i, ranks[i], {0}, data};
        memcpy(tensors[i].shape, shapes[i], sizeof shapes[i]);
    }
    enter();
    ck_assert_int_eq(qg_safetensors_write(path, tensors, QG_DTYPE_COUNT, false, &err), QG_OK);
    struct qg_safetensors *f = open_good();
    ck_assert_uint_eq(qg_safetensors_count(f), QG_DTYPE_COUNT);
    for (int i = 0; i < QG_DTYPE_COUNT; i++) {
        expect_tensor(f, &tensors[i]);
        ck_assert_str_eq(qg_safetensors_at(f, (size_t)i)->name, names[i]);
        ck_assert_str_eq(qg_safetensors_dtype_word(f, (size_t)i), qg_dtype_name((enum qg_dtype)i));
    }
    ck_assert_ptr_null(qg_safetensors_at(f, QG_DTYPE_COUNT));
    ck_assert_ptr_null(qg_safetensors_find(f, "f32"));
    qg_safetensors_close(&f);
    ck_assert_ptr_null(f);
    qg_safetensors_close(&f);
    leave();
}
END_TEST

/* The bytes themselves, worked out from the format's description. */
START_TEST(written_bytes)
{
    static const char want[] = "\x40\0\0\0\0\0\0\0"
                               "{\"x\":{\"dtype\":\"BF16\",\"shape\":[2,1],\"data_offsets\":[0,4]}}"
                               "       \x80\x3f\x00\xc0";
    uint16_t x[] = {0x3f80, 0xc000}; // 1, -2
    struct qg_tensor t = {"x", QG_BF16, 2, {2, 1}, x};
    struct qg_error err;
    char got[128];
    enter();
    ck_assert_int_eq(qg_safetensors_write(path, &t, 1, false, &err), QG_OK);
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fread(got, 1, sizeof got, f), sizeof want - 1);
    fclose(f);
    ck_assert_mem_eq(got, want, sizeof want - 1);
    leave();
}
END_TEST

START_TEST(foreign_but_fine)
{
    struct qg_safetensors *f;
    static const char header[] =
        " {\"b\" : {\"shape\":[2],\"dtype\":\"I64\",\"data_offsets\":[4,20],\"note\":\"x\"},\n"
        "\"deep\":{\"dtype\":\"F32\",\"shape\":[1,1,1,1,1],\"data_offsets\":[0,4]},"
        "\"none\":{\"dtype\":\"U8\",\"shape\":[0],\"data_offsets\":[20,20]},"
        "\"new\":{\"dtype\":\"F2\",\"shape\":[9],\"data_offsets\":[20,23]},"
        "\"low\":{\"dtype\":\"bf16\",\"shape\":[1],\"data_offsets\":[23,25]},"
        "\"__metadata__\":{\"note\":\"line\\nline\"}} \n\t ";
    enter();
    put_header(header + 1, sizeof header - 2, 25);
    f = open_good();
    ck_assert_uint_eq(qg_safetensors_count(f), 5);
    ck_assert_str_eq(qg_safetensors_at(f, 0)->name, "deep"); // in the order of the offsets
    ck_assert_str_eq(qg_safetensors_dtype_word(f, 0), "F32 of rank 5");
    ck_assert_str_eq(qg_safetensors_dtype_word(f, 1), "I64");
    ck_assert_str_eq(qg_safetensors_dtype_word(f, 3), "F2");
    ck_assert_str_eq(qg_safetensors_dtype_word(f, 4), "bf16"); // dtypes are upper case
    for (size_t i = 0; i < 5; i++) {
        bool usable = i == 2;
        ck_assert_int_eq(qg_safetensors_at(f, i)->dtype == QG_DTYPE_COUNT, !usable);
    }
    qg_safetensors_close(&f);
    put_header("{}", 2, 0);
    f = open_good();
    ck_assert_uint_eq(qg_safetensors_count(f), 0);
    qg_safetensors_close(&f);
    leave();
}
END_TEST

#define T(name, dtype, shape, offsets) \
    "\"" name "\":{\"dtype\":\"" dtype "\",\"shape\":" shape ",\"data_offsets\":" offsets "}"

START_TEST(hostile_headers)
{
    static const struct {
        const char *header, *message;
        size_t data;
    } cases[] = {
        {"{" T("a", "U8", "[2]", "[0,2]") "," T("a", "U8", "[2]", "[2,4]") "}",
         "'a' is there twice", 4},
        {"{" T("a", "U8", "[2]", "[0,2]") "," T("\\u0061", "U8", "[2]", "[2,4]") "}",
         "'a' is there twice", 4},
        {"{" T("a", "U8", "[3]", "[0,3]") "," T("b", "U8", "[2]", "[2,4]") "}",
         "'a' and 'b' overlap", 4},
        {"{" T("a", "U8", "[4]", "[0,4]") "," T("b", "U8", "[0]", "[2,2]") "}",
         "'a' and 'b' overlap", 4},
        {"{" T("a", "U8", "[1]", "[0,1]") "," T("b", "U8", "[2]", "[2,4]") "}",
         "1 bytes before tensor 'b' belong to no tensor", 4},
        {"{" T("a", "U8", "[2]", "[1,3]") "}", "1 bytes before tensor 'a' belong to no tensor", 3},
        {"{" T("a", "U8", "[2]", "[0,2]") "}", "the last 2 bytes belong to no tensor", 4},
        {"{}", "the last 1 bytes belong to no tensor", 1},
        {"{" T("a", "U8", "[4]", "[0,4]") "}", "tensor 'a': its offsets 0..4 are not inside the 3",
         3},
        {"{" T("a", "U8", "[4]", "[4,0]") "}", "tensor 'a': its offsets 4..0 are not inside the 4",
         4},
        {"{" T("a", "U8", "[4]", "[0,18446744073709551615]") "}", "are not two whole numbers", 4},
        {"{" T("a", "U8", "[4]", "[0,9007199254740991]") "}", "are not inside the 4", 4},
        {"{" T("a", "U8", "[4]", "[-4,0]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "[0.5,4]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "[0,4,8]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "[]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "[\"0\",4]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "[0,1e400]") "}", "are not two whole numbers from 0", 4},
        {"{" T("a", "U8", "[4]", "{\"0\":0}") "}", "\"data_offsets\" is not a list", 4},
        {"{" T("a", "F32", "[2]", "[0,4]") "}", "2 elements of F32 do not fill the 4 bytes at 0..4",
         4},
        {"{" T("a", "F4", "[3]", "[0,1]") "}", "3 elements of F4 do not fill", 1},
        {"{" T("a", "U8", "[4294967296,4294967296]", "[0,0]") "}",
         "tensor 'a': the shape has more elements than can be addressed", 0},
        {"{" T("a", "U8", "[4503599627370496,4503599627370496,0]", "[0,0]") "}",
         "more elements than can be addressed", 0},
        {"{" T("a", "F64", "[2305843009213693953]", "[0,8]") "}", "dimension 0 of the shape", 8},
        {"{" T("a", "U8", "[2,-2]", "[0,4]") "}", "dimension 1 of the shape is not a whole number",
         4},
        {"{" T("a", "U8", "[1.5]", "[0,1]") "}", "dimension 0 of the shape is not a whole number",
         1},
        {"{" T("a", "U8", "[null]", "[0,1]") "}", "dimension 0 of the shape is not a whole number",
         1},
        {"{" T("a", "U8", "4", "[0,4]") "}", "\"shape\" is not a list", 4},
        {"{\"a\":{\"dtype\":8,\"shape\":[4],\"data_offsets\":[0,4]}}", "\"dtype\" is not a string",
         4},
        {"{\"a\":{\"shape\":[4],\"data_offsets\":[0,4]}}", "\"dtype\" (a string) is missing", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"data_offsets\":[0,4]}}", "\"shape\" (a list) is missing", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"shape\":[4]}}", "\"data_offsets\" (a list) is missing", 4},
        {"{\"a\":{\"dtype\":\"U8\",\"dtype\":\"I8\",\"shape\":[4],\"data_offsets\":[0,4]}}",
         "\"dtype\" is there twice", 4},
        {"{" T("a", "\\u001b[31m", "[4]", "[0,4]") "}", "its dtype is not printable", 4},
        {"{\"a\":[1,2]}", "tensor 'a': its entry in the header is not an object", 0},
        {"{\"a\":null}", "tensor 'a': its entry in the header is not an object", 0},
        {"{" T("a\\u0000b", "U8", "[4]", "[0,4]") "}", "NUL byte (\\u0000 at byte 11)", 4},
        {"{" T("\\u001b]0;owned\\u0007", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{" T("a\xff", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{" T("a\xc0\x80", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{" T("a\xc2\x9b", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{" T("a\xed\xa0\x80", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{" T("a\xe2\x82", "U8", "[4]", "[0,4]") "}", "tensor 0 is not printable", 4},
        {"{\"__metadata__\":[]}", "__metadata__ is not one object", 0},
        {"{\"__metadata__\":{},\"__metadata__\":{}}", "__metadata__ is not one object", 0},
        {"{\"a\":", "the header is not JSON, or nested too deeply", 0},
        {"{\"a\" \"b\"}", "the header is not JSON, or nested too deeply", 0},
        {"{} {}", "text after the header's JSON (at byte 11)", 0},
        {"[]", "the header does not begin with '{'", 0},
        {" {}", "the header does not begin with '{'", 0},
        {"\xef\xbb\xbf{}", "the header does not begin with '{'", 0},
    };
    enter();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_header(cases[i].header, strlen(cases[i].header), cases[i].data);
        expect_refusal(QG_EFORMAT, cases[i].message);
    }
    put_header("{\"a\0\":1}", 9, 0);
    expect_refusal(QG_EFORMAT, "NUL byte (at byte 11)");
    leave();
}
END_TEST

START_TEST(nested)
{
    static char header[50000];
    memset(header, '[', sizeof header);
    memcpy(header, "{\"a\":", 5);
    enter();
    put_header(header, sizeof header, 0);
    expect_refusal(QG_EFORMAT, "nested too deeply");
    leave();
}
END_TEST

/* Millions of values in a header that is within its limit. */
START_TEST(many_values)
{
    size_t n = 9 << 20;
    char *bytes = malloc(8 + n);
    ck_assert_ptr_nonnull(bytes);
    for (size_t i = 0; i < n; i++)
        bytes[8 + i] = i % 2 ? ',' : '1';
    for (int i = 0; i < 8; i++)
        bytes[i] = (char)((uint64_t)n >> 8 * i);
    memcpy(bytes + 8, "{\"a\":[", 6);
    enter();
    put_file(bytes, 8 + n);
    free(bytes);
    expect_refusal(QG_EFORMAT, "more than 4194304 values");
    leave();
}
END_TEST

START_TEST(lengths)
{
    static const struct {
        const char *bytes, *message;
        size_t n;
    } cases[] = {
        {"", "0 bytes are too few", 0},
        {"\2\0\0\0\0\0\0", "7 bytes are too few", 7},
        {"\2\0\0\0\0\0\0\0", "truncated: the header should have 2 bytes, the file ends after 0", 8},
        {"\3\0\0\0\0\0\0\0{}", "truncated: the header should have 3 bytes, the file ends after 2",
         10},
        {"\0\0\0\0\0\0\0\0{}", "not a safetensors file: a header of 0 bytes", 10},
        {"\1\0\0\0\0\0\0\0{}", "not a safetensors file: a header of 1 bytes", 10},
        {"\xff\xff\xff\xff\xff\xff\xff\xff{}", "a header of 18446744073709551615 bytes", 10},
        {"\xf8\xff\xff\xff\xff\xff\xff\xff{}", "a header of 18446744073709551608 bytes", 10},
        {"\x01\xe1\xf5\x05\0\0\0\0{}", "a header of 100000001 bytes (2 to 100000000 are allowed)",
         10},
        {"\x00\xe1\xf5\x05\0\0\0\0{}", "truncated: the header should have 100000000 bytes", 10},
    };
    enter();
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        put_file(cases[i].bytes, cases[i].n);
        expect_refusal(QG_EFORMAT, cases[i].message);
    }
    leave();
}
END_TEST

START_TEST(not_a_file)
{
    enter();
    expect_refusal(QG_EIO, "No such file");
    ck_assert_int_eq(mkdir(path, 0700), 0);
    expect_refusal(QG_EFORMAT, "not a regular file");
    ck_assert_int_eq(rmdir(path), 0);
    ck_assert_int_eq(mkfifo(path, 0600), 0);
    expect_refusal(QG_EFORMAT, "not a regular file");
    leave();
}
END_TEST

START_TEST(shrinking_file)
{
    unsigned char copy[4];
    struct qg_error err;
    static const char header[] = "{" T("a", "U8", "[4]", "[0,4]") "}";
    enter();
    put_header(header, sizeof header - 1, 4);
    struct qg_safetensors *f = open_good();
    ck_assert_int_eq(truncate(path, 8 + sizeof header - 1 + 2), 0);
    ck_assert_int_eq(qg_safetensors_load(f, qg_safetensors_at(f, 0), copy, &err), QG_EIO);
    ck_assert_str_eq(err.message, "tensor 'a': the file became shorter while it was read");
    qg_safetensors_close(&f);
    leave();
}
END_TEST

START_TEST(existing_output)
{
    static unsigned char data[4];
    struct qg_tensor t = {"x", QG_U8, 1, {4}, data};
    struct qg_error err;
    enter();
    put_file("precious", 8);
    ck_assert_int_eq(qg_safetensors_write(path, &t, 1, false, &err), QG_EIO);
    ck_assert_msg(strstr(err.message, "the file exists, nothing was written") != NULL, "%s",
                  err.message);
    expect_refusal(QG_EFORMAT, "not a safetensors file"); // "precious" is what is still there
    ck_assert_int_eq(qg_safetensors_write(path, &t, 1, true, &err), QG_OK);
    struct qg_safetensors *f = open_good();
    expect_tensor(f, &t);
    qg_safetensors_close(&f);
    unlink(path);
    ck_assert_int_eq(mkdir(path, 0700), 0);
    ck_assert_int_eq(qg_safetensors_write(path, &t, 1, true, &err), QG_EIO);
    ck_assert_msg(strstr(err.message, "not a regular file") != NULL, "%s", err.message);
    ck_assert_int_eq(rmdir(path), 0);
    leave();
}
END_TEST

/* What an interrupted run left does not stop the next one, and a link is not followed. */
START_TEST(leftover_part)
{
    static unsigned char data[4];
    struct qg_tensor t = {"x", QG_U8, 1, {4}, data};
    struct qg_error err;
    char part[128], victim[128];
    enter();
    snprintf(part, sizeof part, "%s.part", path);
    snprintf(victim, sizeof victim, "%s.victim", path);
    put_file("precious", 8);
    ck_assert_int_eq(rename(path, victim), 0);
    ck_assert_int_eq(symlink(victim, part), 0);
    ck_assert_int_eq(qg_safetensors_write(path, &t, 1, false, &err), QG_OK);
    struct stat st;
    ck_assert_int_eq(stat(victim, &st), 0);
    ck_assert_int_eq(st.st_size, 8);
    ck_assert_int_eq(unlink(victim), 0);
    leave();
}
END_TEST

START_TEST(full_disk)
{
    static unsigned char data[1 << 16];
    struct qg_tensor t = {"x", QG_U8, 1, {sizeof data}, data};
    struct rlimit limit = {1 << 12, RLIM_INFINITY}, old;
    struct qg_error err;
    enter();
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &old), 0);
    signal(SIGXFSZ, SIG_IGN);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
    enum qg_status status = qg_safetensors_write(path, &t, 1, false, &err);
    ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &old), 0);
    ck_assert_int_eq(status, QG_EIO);
    ck_assert_msg(strstr(err.message, "nothing was written: File too large") != NULL, "%s",
                  err.message);
    ck_assert_int_ne(access(path, F_OK), 0);
    leave(); // neither is there a t.part
}
END_TEST

/* A valid file with bytes flipped, cut off, repeated or replaced by telling ones: any answer will
 * do that is an error or a file whose every tensor can be read. */
static size_t mutate(unsigned char *bytes, size_t n, size_t room, uint64_t seed)
{
    static const char *const telling[] = {"9",
                                          "-",
                                          "\\u0000",
                                          "1e308",
                                          "[",
                                          "{",
                                          "}",
                                          "]",
                                          "\"",
                                          ",",
                                          "18446744073709551615",
                                          "4503599627370496"};
    uint64_t r[4];
    for (uint64_t i = 0; i < 1 + qg_rng_bits(seed, 1, 0) % 3; i++) {
        for (uint64_t k = 0; k < 4; k++)
            r[k] = qg_rng_bits(seed, 2 + i, k);
        size_t at = r[1] % n, length = 1 + r[2] % 16;
        const char *word = telling[r[3] % (sizeof telling / sizeof telling[0])];
        switch (r[0] % 5) {
        case 0:
            bytes[at] ^= (unsigned char)(1u << r[2] % 8);
            break;
        case 1:
            n = at + 1;
            break;
        case 2: // some bytes again
            length = length < n - at ? length : n - at;
            length = length < room - n ? length : room - n;
            memmove(bytes + at + length, bytes + at, n - at);
            n += length;
            break;
        case 3: // some bytes less
            length = length < n - at ? length : n - at;
            memmove(bytes + at, bytes + at + length, n - at - length);
            n = n - length ? n - length : 1;
            break;
        default:
            length = strlen(word) < n - at ? strlen(word) : n - at;
            memcpy(bytes + at, word, length);
        }
    }
    return n;
}

START_TEST(mutations)
{
    static const char header[] = "{" T("weight", "F32", "[2,3]", "[0,24]") "," T(
        "b", "BF16", "[4]",
        "[24,32]") ","
                   "\"__metadata__\":{\"format\":\"pt\"}," T("c", "I64", "[1,1]", "[32,40]") "}   ";
    unsigned char bytes[1024], copy[1024];
    size_t accepted = 0, trials = 4000;
    struct qg_error err;
    enter();
    for (uint64_t seed = 0; seed < trials; seed++) {
        size_t n = 8 + sizeof header - 1 + 40;
        memset(bytes, 0, sizeof bytes);
        bytes[0] = (sizeof header - 1) & 0xff, bytes[1] = (sizeof header - 1) >> 8;
        memcpy(bytes + 8, header, sizeof header - 1);
        n = mutate(bytes, n, sizeof bytes, seed);
        if (qg_rng_bits(seed, 0, 0) % 2 && n > 8 + 40) // make the length right again
            bytes[0] = (unsigned char)(n - 48), bytes[1] = (unsigned char)((n - 48) >> 8);
        put_file(bytes, n);
        struct qg_safetensors *f = NULL;
        if (qg_safetensors_open(path, &f, &err) != QG_OK)
            continue;
        accepted++;
        for (size_t i = 0; i < qg_safetensors_count(f); i++) {
            const struct qg_tensor *t = qg_safetensors_at(f, i);
            if (t->dtype != QG_DTYPE_COUNT) {
                ck_assert_uint_le(qg_bytes(t), n);
                ck_assert_int_eq(qg_safetensors_load(f, t, copy, &err), QG_OK);
            }
        }
        qg_safetensors_close(&f);
    }
    // Changes of data bytes and names are legal: neither all nor none may pass.
    ck_assert_uint_gt(accepted, trials / 50);
    ck_assert_uint_lt(accepted, trials / 2);
    leave();
}
END_TEST

QG_SUITE(safetensors, round_trip, written_bytes, foreign_but_fine, hostile_headers, nested,
         many_values, lengths, not_a_file, shrinking_file, existing_output, leftover_part,
         full_disk, mutations)
