/* SPDX-License-Identifier: MIT
 *
 * The golden files: inputs and the outputs that upstream libraries computed from them.
 *
 *     golden/data/FILE.h5           listed with its sha256 in golden/data/MANIFEST.tsv
 *       /SET                        one input and what became of it. Attributes (strings unless
 * said): scheme "int4", operand "weight", dtype "BF16", params "group=32 grad=torch" (those that
 * differ from default), library "torchao 0.18.0, torch 2.13.0+cu130 (CPU, AVX512)", function (what
 * was called), note (how derived, if it was), seed (int64), date "2026-11-21" /SET/OP/in/NAME
 * dataset: an input of operation OP ("x", "g", a plane) /SET/OP/out/NAME            dataset: what
 * upstream made of it
 *
 * OP is an operation's word ("fake-quant"). Datasets hold bits: BF16 and F16 as uint16, F32 as
 * float32, F8_* and U8 as uint8, I8 as int8, each with a string attribute "dtype". They are
 * chunked, gzip-compressed and carry Fletcher32 checksums.
 */
#ifndef QG_GOLDEN_H
#define QG_GOLDEN_H

#include <stdint.h>

#include "harness/base/error.h"
#include "schemes/num/tensor.h"

#define QG_GOLDEN_TENSORS 8

/* One operation of one set. Strings and tensors live until the next call or close. */
struct qg_golden_case {
    const char *file, *set, *scheme, *operand, *dtype, *params, *op;
    const char *library, *function, *note, *date;
    int64_t seed;
    int n_in, n_out;
    struct qg_tensor in[QG_GOLDEN_TENSORS], out[QG_GOLDEN_TENSORS];
};

struct qg_golden;

/* Opens a folder of goldens: reads MANIFEST.tsv and checks every file's sha256. QG_EABSENT when the
 * folder or the manifest is missing, QG_EFORMAT when a sum differs or a file is not listed. */
QG_MUST_CHECK enum qg_status qg_golden_open(const char *folder, struct qg_golden **ret_g,
                                            struct qg_error *err);

/* The next case, files in manifest order, sets and operations in the file's order; *ret_case is
 * NULL at the end. */
QG_MUST_CHECK enum qg_status qg_golden_next(struct qg_golden *g,
                                            const struct qg_golden_case **ret_case,
                                            struct qg_error *err);
void qg_golden_close(struct qg_golden **g);

#endif
