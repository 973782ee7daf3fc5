/* SPDX-License-Identifier: MIT
 *
 * The golden files: inputs and the outputs that upstream libraries computed from them. Every
 * golden/data/FILE.h5 is listed with its sha256 in golden/data/MANIFEST.tsv and holds:
 *
 *     /SET              one input and what became of it; strings: scheme "int4", operand "weight",
 *                       dtype "BF16", params "group=32 grad=torch" (those that differ from the
 *                       default), date "2026-11-21"; an int64: seed
 *     /SET/OP           one operation ("fake-quant") and its provenance; strings: library
 *                       "torchao 0.18.0, torch 2.13.0+cu130 (CPU, AVX512)", function (what was
 *                       called), note (how it was derived, if it was)
 *     /SET/OP/in/NAME   dataset: an input of the operation ("x", "g", a plane)
 *     /SET/OP/out/NAME  dataset: what upstream made of it
 *
 * A set whose operand is "layer" is one of a layer: "scheme" names it, and OP is forward or
 * backward.
 *
 * A set whose scheme is "" is no operation but torchao's test model (three Linear without bias,
 * 512 -> 256 -> 256 -> 512) under one seed of PyTorch's generator:
 *
 *     /SET                   strings: scheme "", date, library, function, note; an int64: seed; and
 *                            linear1, sub.linear, linear2: the sha256 in hexadecimal of the bytes
 *                            of each weight, BF16 [out, in]
 *     /SET/x                 dataset: the input, BF16 [1, 512]
 *     /SET/prepared/SCHEME   dataset: the output of the model with fake quantizers, BF16 [1, 512]
 *     /SET/converted/SCHEME  dataset: that of the quantized model, where upstream's runs on a CPU;
 *                            a float64: compute_error, what torchao's function of that name gives
 *                            for the two outputs, in dB
 *
 * A set whose scheme is "" and that has no seed holds numbers of a language model, and what
 * upstream made of them:
 *
 *     /SET                   strings: scheme "", date; config: its config.json
 *     /SET/GROUP             strings: date, library, function, note
 *     /SET/GROUP/NAME        dataset: F64, F32 or I32
 *
 * Sets of steps of an optimizer are such, too: golden/gen/lm_adamw.py.
 *
 * Datasets hold bits: BF16 and F16 as uint16, F32 and F64 as float32 and float64, F8_* and U8 as
 * uint8, I8, I16 and I32 as int8, int16 and int32, each with a string attribute "dtype". They are
 * chunked, gzip-compressed (those of several bytes shuffled before) and carry Fletcher32 checksums.
 * Strings are of fixed length. A dataset may have several names (hard links).
 */
#ifndef QG_GOLDEN_H
#define QG_GOLDEN_H

#include <stdint.h>

#include "harness/base/error.h"
#include "schemes/num/tensor.h"

#define QG_GOLDEN_TENSORS 24

/* One operation of one set. Strings and tensors live until the next call or close. */
struct qg_golden_case {
    const char *file, *set, *scheme, *operand, *dtype, *params, *op;
    const char *library, *function, *note, *date;
    int64_t seed;
    int n_in, n_out;
    struct qg_tensor in[QG_GOLDEN_TENSORS], out[QG_GOLDEN_TENSORS];
};

struct qg_golden;

/* Opens a folder of goldens: reads MANIFEST.tsv and looks for files that it does not list.
 * QG_EABSENT when the folder or the manifest is missing, QG_EFORMAT when a file is not listed. A
 * listed file is opened, and its sha256 checked, when the reading comes to it. `only`: cases of
 * this scheme or layer alone, a name that lives longer than *ret_g; NULL: all. */
QG_MUST_CHECK enum qg_status qg_golden_open(const char *folder, const char *only,
                                            struct qg_golden **ret_g, struct qg_error *err);

/* The next case, files in manifest order, sets and operations in alphabetical order; *ret_case is
 * NULL at the end. Sets of the test model are passed over. */
QG_MUST_CHECK enum qg_status qg_golden_next(struct qg_golden *g,
                                            const struct qg_golden_case **ret_case,
                                            struct qg_error *err);
void qg_golden_close(struct qg_golden **g);

#define QG_GOLDEN_WIDTH   512
#define QG_GOLDEN_OUTPUTS 24

/* torchao's test model under one seed: its input, the fingerprints of its weights and what it made
 * of the input. Values are BF16 bits. */
struct qg_golden_model {
    int64_t seed;
    uint16_t x[QG_GOLDEN_WIDTH];
    char weight_sha256[3][65]; /* linear1, sub.linear, linear2 */
    int n_outputs;
    struct {
        char scheme[32];
        int converted;        /* 0: with fake quantizers, 1: quantized */
        double compute_error; /* of a converted output against the prepared one, else NaN */
        uint16_t y[QG_GOLDEN_WIDTH];
    } output[QG_GOLDEN_OUTPUTS];
};

/* The model of a seed from the folder's goldens. QG_EABSENT when there is none for that seed. */
QG_MUST_CHECK enum qg_status qg_golden_model(const char *folder, int64_t seed,
                                             struct qg_golden_model *ret_m, struct qg_error *err);

/* A set of numbers, in binary64. Freed with qg_golden_numbers_free. */
struct qg_golden_numbers {
    char config[1024];
    size_t n;
    struct qg_golden_array {
        char group[64], name[96];
        int rank;
        size_t shape[QG_MAX_RANK], count;
        double *value;
    } * array;
};

/* Reads a set of numbers from FILE of the folder. QG_EABSENT when the manifest does not list FILE
 * or it has no such set. */
QG_MUST_CHECK enum qg_status qg_golden_numbers(const char *folder, const char *file,
                                               const char *set, struct qg_golden_numbers *ret_n,
                                               struct qg_error *err);
void qg_golden_numbers_free(struct qg_golden_numbers *n);

/* NULL when there is none. */
const struct qg_golden_array *qg_golden_array(const struct qg_golden_numbers *n, const char *group,
                                              const char *name);

#endif
