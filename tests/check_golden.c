/* SPDX-License-Identifier: MIT
 *
 * The goldens: every definition and every kernel agrees with upstream, a single wrong bit is found,
 * what a file says is believed only when the manifest vouches for it, and a file that is not what
 * golden.h says ends in a sentence.
 */
#include <hdf5.h>
#include <math.h>
#include <sha256.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "harness/call.h"
#include "harness/torch_model.h"
#include "harness/verify_golden.h"
#include "tests/suite.h"

#define DATA QG_SOURCE_ROOT "/golden/data"

static struct qg_error err;

static void print_first(const struct qg_verify_wrong *w, void *user)
{
    int *told = user;
    if ((*told)++ < 3)
        printf("# %s:%s %s '%s'[%zu]\n", w->golden->file, w->golden->set, w->golden->op,
               w->got->name, w->index);
}

START_TEST(everything_agrees_with_upstream)
{
    int told = 0;
    struct qg_verify v;
    struct qg_verify_request r = {
        .folder = DATA, .kernels = true, .on_wrong = print_first, .user = &told};
    ck_assert_msg(qg_verify_golden(&r, &v, &err) == QG_OK, "%s", err.message);
    ck_assert_msg(v.wrong == 0, "%llu mismatches", (unsigned long long)v.wrong);
    ck_assert_msg(v.missing == 0, "%llu operations have no golden", (unsigned long long)v.missing);
    ck_assert(v.elements > 0 && v.n_codes > 0);
    for (size_t i = 0; i < v.n_codes; i++)
        ck_assert_msg(v.codes[i].reached > v.codes[i].possible / 2, "%s: %d of %d codes",
                      v.codes[i].scheme->name, v.codes[i].reached, v.codes[i].possible);
    // Where nothing is summed, a bound must not excuse anything.
    for (size_t i = 0; i < v.n_rows; i++)
        if (!v.rows[i].layer && !qg_is_product(v.rows[i].op) && v.rows[i].op != QG_FAKE_QUANT_GRAD)
            ck_assert(v.rows[i].unequal == 0 && v.rows[i].unjudged == 0);
    qg_verify_free(&v);
}
END_TEST

/* --- a folder of our own --------------------------------------------------------------------- */

static char folder[64], path[128];

static void enter(void)
{
    snprintf(folder, sizeof folder, "/tmp/qgauge-check-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(folder));
    snprintf(path, sizeof path, "%s/t.h5", folder);
}

static void leave(void)
{
    char other[128];
    snprintf(other, sizeof other, "%s/MANIFEST.tsv", folder);
    unlink(other);
    unlink(path);
    ck_assert_msg(rmdir(folder) == 0, "something was left in %s", folder);
}

static void put_manifest(const char *text)
{
    char name[128];
    snprintf(name, sizeof name, "%s/MANIFEST.tsv", folder);
    FILE *f = fopen(name, "w");
    ck_assert_ptr_nonnull(f);
    fprintf(f, "file\tsha256\tbytes\tlibrary\tdate\n%s", text);
    ck_assert_int_eq(fclose(f), 0);
}

/* A manifest that vouches for t.h5 as it is. */
static void vouch(void)
{
    char sum[SHA256_DIGEST_STRING_LENGTH], line[256];
    ck_assert_ptr_nonnull(SHA256File(path, sum));
    snprintf(line, sizeof line, "t.h5\t%s\t1\tnone\t2026-01-01\n", sum);
    put_manifest(line);
}

static void copy_golden(const char *name)
{
    char from[256], bytes[4096];
    snprintf(from, sizeof from, DATA "/%s", name);
    FILE *in = fopen(from, "rb"), *out = fopen(path, "wb");
    ck_assert(in && out);
    for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;)
        ck_assert_uint_eq(fwrite(bytes, 1, n, out), n);
    fclose(in);
    ck_assert_int_eq(fclose(out), 0);
}

static void put_bytes(const char *bytes)
{
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    fputs(bytes, f);
    ck_assert_int_eq(fclose(f), 0);
}

/* Reads t.h5's folder to its end or first error. */
static enum qg_status read_all(void)
{
    struct qg_golden *g;
    const struct qg_golden_case *c;
    enum qg_status status = qg_golden_open(folder, NULL, &g, &err);
    if (status != QG_OK)
        return status;
    while ((status = qg_golden_next(g, &c, &err)) == QG_OK && c)
        ck_assert(c->n_in > 0 && c->n_out > 0 && c->library[0]);
    qg_golden_close(&g);
    ck_assert_ptr_null(g);
    return status;
}

static void expect(enum qg_status status, const char *message)
{
    err.message[0] = '\0';
    enum qg_status got = read_all();
    ck_assert_msg(got == status && strstr(err.message, message), "status %d '%s', want %d '%s'",
                  got, err.message, status, message);
}

/* --- a wrong bit ----------------------------------------------------------------------------- */

#define FLIP_SET "int4.weight.bf16.normal"

/* Flips the lowest bit of element 5 of the prepared weights. */
static void flip_bit(void)
{
    static uint16_t y[8 * 256];
    hid_t file = H5Fopen(path, H5F_ACC_RDWR, H5P_DEFAULT);
    hid_t data = H5Dopen2(file, FLIP_SET "/fake-quant/out/y", H5P_DEFAULT);
    ck_assert(data >= 0);
    ck_assert(H5Dread(data, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, y) >= 0);
    y[5] ^= 1;
    ck_assert(H5Dwrite(data, H5T_NATIVE_UINT16, H5S_ALL, H5S_ALL, H5P_DEFAULT, y) >= 0);
    H5Dclose(data);
    H5Fclose(file);
}

static void remember(const struct qg_verify_wrong *w, void *user)
{
    ck_assert_str_eq(w->golden->set, FLIP_SET);
    ck_assert_str_eq(w->got->name, "y");
    ck_assert(w->index == 5 && w->wrong == 1 && w->count == 8 * 256);
    ++*(int *)user;
}

START_TEST(one_wrong_bit_is_found)
{
    enter();
    copy_golden("int4.h5");
    flip_bit();
    vouch();
    int told = 0;
    struct qg_verify v;
    struct qg_verify_request r = {
        .folder = folder, .name = "int4", .on_wrong = remember, .user = &told};
    ck_assert_msg(qg_verify_golden(&r, &v, &err) == QG_OK, "%s", err.message);
    // Goldens of lora lie in a file of their own.
    ck_assert(v.wrong == 1 && told == 1 && v.files == 1 && v.missing == 1);
    qg_verify_free(&v);
    // The other schemes have no golden in this folder, and that is said.
    r = (struct qg_verify_request){.folder = folder, .name = "int8"};
    ck_assert(qg_verify_golden(&r, &v, &err) == QG_OK);
    ck_assert(v.elements == 0 && v.missing > 0);
    qg_verify_free(&v);
    r.name = "int5";
    ck_assert(qg_verify_golden(&r, &v, &err) == QG_EINVAL);
    leave();
}
END_TEST

/* --- what is refused ------------------------------------------------------------------------- */

START_TEST(only_what_the_manifest_lists)
{
    enter();
    expect(QG_EABSENT, "MANIFEST.tsv': No such file");
    put_manifest("");
    expect(QG_EABSENT, "lists no file");
    put_bytes("no HDF5");
    vouch();
    expect(QG_EFORMAT, "is not an HDF5 file");
    put_bytes("no HDF6");
    expect(QG_EFORMAT, "the manifest says");
    put_manifest(
        "other.h5\t0123456789012345678901234567890123456789012345678901234567890123\t1\t\t\n");
    expect(QG_EFORMAT, "'t.h5' is not in MANIFEST.tsv");
    unlink(path);
    expect(QG_EABSENT, "other.h5': No such file");
    put_manifest(
        "../t.h5\t0123456789012345678901234567890123456789012345678901234567890123\t1\t\t\n");
    expect(QG_EFORMAT, "line 2");
    put_manifest("t.h5\t0123\t1\t\t\n");
    expect(QG_EFORMAT, "line 2");
    leave();
    snprintf(folder, sizeof folder, "/nowhere");
    expect(QG_EABSENT, "/nowhere");
}
END_TEST

static void put_text(hid_t object, const char *name, const char *text)
{
    hid_t type = H5Tcopy(H5T_C_S1), space = H5Screate(H5S_SCALAR);
    H5Tset_size(type, strlen(text) + 1);
    hid_t a = H5Acreate2(object, name, type, space, H5P_DEFAULT, H5P_DEFAULT);
    ck_assert(a >= 0 && H5Awrite(a, type, text) >= 0);
    H5Aclose(a);
    H5Sclose(space);
    H5Tclose(type);
}

/* What is wrong with the file that `build` makes. */
enum flaw {
    NONE,
    NO_DTYPE,
    WRONG_TYPE,
    CONTIGUOUS,
    EXTERNAL,
    HUGE_EXTENT,
    SOFT,
    OUTSIDE,
    NO_SCHEME,
    NO_OUT
};

static void build_data(hid_t side, const char *name, enum flaw flaw)
{
    hsize_t extent[2] = {2, flaw == HUGE_EXTENT ? (hsize_t)1 << 60 : 32}, chunk[2] = {2, 32};
    hid_t space = H5Screate_simple(2, extent, NULL), plist = H5Pcreate(H5P_DATASET_CREATE);
    if (flaw != CONTIGUOUS && flaw != EXTERNAL)
        H5Pset_chunk(plist, 2, chunk);
    if (flaw == EXTERNAL)
        H5Pset_external(plist, "/etc/hostname", 0, 4096);
    hid_t data = H5Dcreate2(side, name, flaw == WRONG_TYPE ? H5T_STD_I64LE : H5T_STD_U16LE, space,
                            H5P_DEFAULT, plist, H5P_DEFAULT);
    ck_assert(data >= 0);
    if (flaw != NO_DTYPE)
        put_text(data, "dtype", "BF16");
    H5Dclose(data);
    H5Pclose(plist);
    H5Sclose(space);
}

static void build_side(hid_t op, const char *side, const char *name, enum flaw flaw)
{
    hid_t group = H5Gcreate2(op, side, H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    if (flaw == SOFT)
        H5Lcreate_soft("/s", group, name, H5P_DEFAULT, H5P_DEFAULT);
    else if (flaw == OUTSIDE)
        H5Lcreate_external(DATA "/int4.h5", "/" FLIP_SET "/fake-quant/in/x", group, name,
                           H5P_DEFAULT, H5P_DEFAULT);
    else
        build_data(group, name, flaw);
    H5Gclose(group);
}

static void build(enum flaw flaw)
{
    static const int64_t seed = 1;
    static const char *const words[] = {"operand", "weight", "dtype", "BF16",
                                        "params",  "",       "date",  "today"};
    hid_t file = H5Fcreate(path, H5F_ACC_TRUNC, H5P_DEFAULT, H5P_DEFAULT);
    hid_t set = H5Gcreate2(file, "s", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t op = H5Gcreate2(set, "fake-quant", H5P_DEFAULT, H5P_DEFAULT, H5P_DEFAULT);
    hid_t space = H5Screate(H5S_SCALAR);
    hid_t a = H5Acreate2(set, "seed", H5T_STD_I64LE, space, H5P_DEFAULT, H5P_DEFAULT);
    H5Awrite(a, H5T_NATIVE_INT64, &seed);
    H5Aclose(a);
    H5Sclose(space);
    if (flaw != NO_SCHEME)
        put_text(set, "scheme", "int8");
    for (int i = 0; i < 8; i += 2)
        put_text(set, words[i], words[i + 1]);
    put_text(op, "library", "ours");
    put_text(op, "function", "f");
    put_text(op, "note", "");
    build_side(op, "in", "x", flaw);
    if (flaw != NO_OUT)
        build_side(op, "out", "y", NONE);
    H5Gclose(op);
    H5Gclose(set);
    H5Fclose(file);
    vouch();
}

START_TEST(only_what_the_header_says)
{
    enter();
    build(NONE);
    ck_assert_msg(read_all() == QG_OK, "%s", err.message);
    for (enum flaw flaw = NO_DTYPE; flaw <= NO_OUT; flaw++) {
        build(flaw);
        expect(QG_EFORMAT, flaw == NO_SCHEME ? "no attribute 'scheme'" : "golden.h says");
    }
    leave();
}
END_TEST

/* --- the test model -------------------------------------------------------------------------- */

START_TEST(torch_model_is_reproduced)
{
    for (int64_t seed = -1; seed < 20; seed++) {
        struct qg_golden_model g;
        ck_assert_msg(qg_golden_model(DATA, seed < 0 ? 123 : seed, &g, &err) == QG_OK, "%s",
                      err.message);
        struct qg_torch_model *m = qg_torch_model_create((uint64_t)g.seed);
        for (int i = 0; i < QG_MODEL_LAYERS; i++) {
            char sum[SHA256_DIGEST_STRING_LENGTH];
            SHA256Data((const uint8_t *)m->weight[i], m->rows[i] * m->cols[i] * sizeof(qg_bf16),
                       sum);
            ck_assert_str_eq(sum, g.weight_sha256[i]);
        }
        ck_assert(memcmp(m->x, g.x, sizeof g.x) == 0);
        ck_assert((g.n_outputs > 0) == (seed < 5));
        qg_torch_model_free(&m);
    }
}
END_TEST

/* in [R,K] through the definition of fake-quant, bf16. */
static void fake_quantize(const struct qg_scheme *s, enum qg_operand operand,
                          const struct qg_tensor *in, qg_bf16 *out)
{
    struct qg_args a;
    struct qg_call c;
    char why[256];
    qg_params_default(&a, s);
    ck_assert_msg(qg_args_init(&a, s, QG_FAKE_QUANT, operand, QG_BF16, 0, in->shape[0],
                               in->shape[1], why, sizeof why),
                  "%s", why);
    ck_assert(qg_call_alloc(&c, &a, false, &err) == QG_OK);
    memcpy(c.args.in[0].data, in->data, qg_bytes(in));
    qg_definition(s, operand, QG_FAKE_QUANT)(&c.args);
    memcpy(out, c.args.out[0].data, qg_bytes(in));
    qg_call_free(&c);
}

/* x through layer l of the prepared model, sums in binary64 and rounded to binary32, then to bf16.
 */
static void prepared_layer(const struct qg_scheme *s, const struct qg_torch_model *m, int l,
                           qg_bf16 *x)
{
    static qg_bf16 w[QG_MODEL_WIDTH * QG_MODEL_WIDTH], input[QG_MODEL_WIDTH];
    size_t rows = m->rows[l], cols = m->cols[l];
    struct qg_tensor weight = {"w", QG_BF16, 2, {rows, cols}, m->weight[l]};
    struct qg_tensor in = {"x", QG_BF16, 2, {1, cols}, x};
    fake_quantize(s, QG_WEIGHT, &weight, w);
    memcpy(input, x, cols * sizeof *x);
    if (qg_definition(s, QG_ACTIVATION, QG_FAKE_QUANT))
        fake_quantize(s, QG_ACTIVATION, &in, input);
    for (size_t n = 0; n < rows; n++) {
        double sum = 0;
        for (size_t k = 0; k < cols; k++)
            sum += (double)qg_bf16_decode(input[k]) * qg_bf16_decode(w[n * cols + k]);
        x[n] = qg_bf16_encode((float)sum);
    }
}

/* PyTorch's matmuls add up in another order; on these seeds no output of any layer notices. */
START_TEST(prepared_model_is_reproduced)
{
    for (int64_t seed = -1; seed < 5; seed++) {
        struct qg_golden_model g;
        int prepared = 0;
        ck_assert(qg_golden_model(DATA, seed < 0 ? 123 : seed, &g, &err) == QG_OK);
        struct qg_torch_model *m = qg_torch_model_create((uint64_t)g.seed);
        for (int i = 0; i < g.n_outputs; i++) {
            qg_bf16 x[QG_MODEL_WIDTH];
            if (g.output[i].converted)
                continue;
            memcpy(x, m->x, sizeof x);
            for (int l = 0; l < QG_MODEL_LAYERS; l++)
                prepared_layer(qg_scheme_find(g.output[i].scheme), m, l, x);
            ck_assert_msg(memcmp(x, g.output[i].y, sizeof x) == 0, "%s, seed %d",
                          g.output[i].scheme, (int)g.seed);
            prepared++;
        }
        ck_assert_int_eq(prepared, 8);
        qg_torch_model_free(&m);
    }
}
END_TEST

START_TEST(integer_schemes_have_no_gap_upstream)
{
    struct qg_golden_model g;
    ck_assert(qg_golden_model(DATA, 123, &g, &err) == QG_OK);
    int converted = 0;
    for (int i = 0; i < g.n_outputs; i++)
        for (int j = 0; g.output[i].converted && j < g.n_outputs; j++)
            if (!g.output[j].converted && strcmp(g.output[i].scheme, g.output[j].scheme) == 0) {
                ck_assert(isinf(g.output[i].compute_error));
                ck_assert(memcmp(g.output[i].y, g.output[j].y, sizeof g.output[i].y) == 0);
                converted++;
            }
    ck_assert_int_eq(converted, 3);
    ck_assert(qg_golden_model(DATA, 77, &g, &err) == QG_EABSENT);
}
END_TEST

QG_SUITE(golden, everything_agrees_with_upstream, one_wrong_bit_is_found,
         only_what_the_manifest_lists, only_what_the_header_says, torch_model_is_reproduced,
         prepared_model_is_reproduced, integer_schemes_have_no_gap_upstream)
