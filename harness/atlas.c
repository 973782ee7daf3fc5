/* SPDX-License-Identifier: MIT */
#include "harness/atlas.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "harness/call.h"
#include "harness/fill.h"

static const struct qg_atlas_pair pairs[] = {
    {"mxfp4", "mxfp4", "scale=floor", "mxfp4-ggml", "",
     "ggml takes the nearest value with ties to the smaller magnitude and has no -0; torchao takes "
     "ties to the even code"},
    {"mxfp4", "mxfp4", "scale=floor", "mxfp4-mxc", "",
     "microxcaling takes ties away from zero; its scale is 2^floor(log2 amax) by a logarithm that "
     "rounds"},
    {"mxfp4", "mxfp4", "", "mxfp4", "scale=floor",
     "RCEIL, which torchao's layers ask for, takes a scale that nothing saturates; FLOOR, the rule "
     "of the OCP text and of to_mx alone, never steps it up and clips above 6"},
    {"mxfp4", "mxfp4", "", "mxfp4", "scale=even",
     "EVEN steps the scale up from 1.75 times a power of two on, RCEIL from 1.5 on"},
    {"mxfp8", "mxfp8-e4m3", "", "mxfp8-e4m3", "scale=floor",
     "RCEIL never saturates; FLOOR clips above 448 where amax is more than 1.75 times a power of "
     "two"},
    {"nvfp4", "nvfp4", "", "nvfp4-te", "",
     "TransformerEngine multiplies by reciprocals where torchao divides, and lets block scales be "
     "subnormal; both scale the tensor first"},
    {"nvfp4", "nvfp4-single", "", "nvfp4-ggml", "",
     "torchao lifts block scales to 2^-6, ggml keeps three subnormal bits and rounds them half up; "
     "ggml's codes take ties to the smaller magnitude"},
    {"nf4", "nf4", "", "nf4-bnb", "",
     "torchao rounds the list to four decimals and the scale to int8, bitsandbytes keeps both"},
    {"nf4", "nf4-bnb", "", "nf4-bnb-double", "",
     "double quantization changes the scales alone: codes were chosen with the exact ones"},
    {"fp4-bnb", "fp4-bnb", "", "fp4-bnb", "impl=cuda",
     "of the two zeros the CPU gives 8 to what is positive and CUDA to what is negative; CUDA's "
     "limits are decimals"},
    {"int8", "int8-g32", "", "q8_0", "",
     "torchao's step is max/127.5, which clips the largest positive; ggml's is max/127, held in "
     "fp16, and it rounds halves away from zero"},
    {"int8", "int8-row", "", "llm-int8", "",
     "Int8Tensor's step is max/127.5 with codes from -128; LLM.int8's is max/127 of weights that "
     "are rounded to fp16 first"},
    {"int8-bnb", "int8-bnb", "", "int8-bnb", "impl=torch",
     "the C++ library rounds x / absmax to one of 65536 points first, zero among them to code 131"},
    {"fp8", "fp8-fp8", "", "fp8-fp8", "scale=torch",
     "the kernel divides by amax/448 in binary32, but takes no amax below 1/512; torch's scale is "
     "rounded to the tensor's dtype (in F32: not at all)"},
    {"fp8", "fp8-fp8", "", "fp8-fp8", "scale=fbgemm",
     "FBGEMM multiplies by 448/amax, MSLK divides by amax/448 and takes no amax below 1/512"},
    {"fp8-int4", "fp8-int4", "", "fp8-int4", "row=mslk",
     "FBGEMM's row quantizer multiplies by 448/max, its successor MSLK divides by max/448 and lets "
     "no row's maximum lie below 1/512"},
};

const struct qg_atlas_pair *qg_atlas_at(size_t i)
{
    return i < sizeof pairs / sizeof pairs[0] ? &pairs[i] : NULL;
}

/* One side of a pair: its planes, and the values that they stand for. */
struct side {
    struct qg_call convert, dequant;
};

static void side_free(struct side *s)
{
    qg_call_free(&s->convert);
    qg_call_free(&s->dequant);
}

static enum qg_status side_make(const char *name, const char *params, const struct qg_tensor *w,
                                struct side *ret_s, struct qg_error *err)
{
    struct side s = {0};
    size_t n = w->shape[0], k = w->shape[1];
    const struct qg_scheme *scheme = qg_scheme_find(name);
    if (!scheme)
        return qg_fail(err, QG_EABSENT, "there is no scheme '%s'", name);
    if (qg_call_make(scheme, params, QG_CONVERT, QG_WEIGHT, w->dtype, 0, n, k, &s.convert, err) ||
        qg_call_make(scheme, params, QG_DEQUANT, QG_WEIGHT, w->dtype, 0, n, k, &s.dequant, err)) {
        side_free(&s);
        return err->status;
    }
    memcpy(s.convert.args.in[0].data, w->data, qg_bytes(w));
    qg_definition(scheme, QG_WEIGHT, QG_CONVERT)(&s.convert.args);
    for (int i = 0; i < s.convert.args.n_out; i++)
        memcpy(s.dequant.args.in[i].data, s.convert.args.out[i].data,
               qg_bytes(&s.convert.args.out[i]));
    qg_definition(scheme, QG_WEIGHT, QG_DEQUANT)(&s.dequant.args);
    *ret_s = s;
    return QG_OK;
}

static double value(const struct side *s, size_t i)
{
    return qg_get(&s->dequant.args.out[0], i);
}

/* Whether the block [at, at+n) has one scale on both sides: where the codes are equal, so are the
 * values. A block without an equal code other than 0 has nothing to show, and counts as scaled. */
static bool same_scale(const struct side *a, const struct side *b, size_t at, size_t n)
{
    for (size_t i = at; i < at + n; i++)
        if (qg_code(&a->convert.args, i) == qg_code(&b->convert.args, i) && value(a, i) != 0)
            return value(a, i) == value(b, i);
    return false;
}

/* Why the codes of x differ, for values y and z in a block of one scale. */
static void classify(double x, double y, double z, struct qg_atlas *r)
{
    // Values carry at most four roundings to binary32: scale, code times scale, and their factors.
    double dy = fabs(y - x), dz = fabs(z - x), slack = 0x1p-22 * fmax(fabs(y), fabs(z));
    if (y == z)
        r->same_value++;
    else if (fabs(x) > fmax(fabs(y), fabs(z)) + slack)
        r->clip++;
    else if (dy == dz)
        r->tie++;
    else if (fabs(dy - dz) <= slack)
        r->rounding++;
    else
        r->other++;
}

static void compare(const struct side *a, const struct side *b, const struct qg_tensor *w,
                    struct qg_atlas *r)
{
    size_t k = w->shape[1], ga = qg_group(&a->convert.args), gb = qg_group(&b->convert.args);
    size_t group = ga < gb ? ga : gb;
    for (size_t at = 0, n; at < qg_count(w); at += n, r->blocks++) {
        n = k - at % k < group ? k - at % k : group;
        bool same = same_scale(a, b, at, n);
        r->blocks_scaled += !same;
        for (size_t i = at; i < at + n; i++, r->count++) {
            if (qg_code(&a->convert.args, i) == qg_code(&b->convert.args, i))
                continue;
            if (r->differ++ == 0)
                r->first = (int64_t)i;
            if (!same && value(a, i) != value(b, i))
                r->scale++;
            else
                classify(qg_get(w, i), value(a, i), value(b, i), r);
        }
    }
}

static void side_name(const char *scheme, const char *params, char *text, size_t size)
{
    snprintf(text, size, "%s%s%s", scheme, *params ? " " : "", params);
}

enum qg_status qg_atlas_compare(const struct qg_atlas_pair *p, const struct qg_tensor *w,
                                const char *source, uint64_t seed, struct qg_atlas *ret,
                                struct qg_error *err)
{
    struct side a, b;
    struct qg_atlas r = {.seed = seed, .first = -1};
    snprintf(r.format, sizeof r.format, "%s", p->format);
    side_name(p->left, p->left_params, r.left, sizeof r.left);
    side_name(p->right, p->right_params, r.right, sizeof r.right);
    snprintf(r.source, sizeof r.source, "%s", source);
    snprintf(r.rule, sizeof r.rule, "%s", p->rule);
    if (side_make(p->left, p->left_params, w, &a, err) != QG_OK)
        return err->status;
    if (side_make(p->right, p->right_params, w, &b, err) != QG_OK) {
        side_free(&a);
        return err->status;
    }
    compare(&a, &b, w, &r);
    side_free(&a);
    side_free(&b);
    *ret = r;
    return QG_OK;
}

enum qg_status qg_atlas_weights(const char *fill, uint64_t seed, struct qg_tensor *ret_w,
                                struct qg_error *err)
{
    struct qg_tensor w = {"w", QG_F32, 2, {256, 1024}, NULL}, narrow = w;
    narrow.dtype = QG_BF16;
    w.data = malloc(qg_bytes(&w));
    narrow.data = malloc(qg_bytes(&narrow));
    if (!w.data || !narrow.data) {
        free(w.data);
        free(narrow.data);
        return qg_fail(err, QG_ENOMEM, "no memory for the atlas");
    }
    qg_fill_tensor(qg_fill_find(fill), seed, 32, 0.02, &narrow);
    for (size_t i = 0; i < qg_count(&w); i++)
        qg_put(&w, i, qg_get(&narrow, i));
    free(narrow.data);
    *ret_w = w;
    return QG_OK;
}
