/* SPDX-License-Identifier: MIT
 *
 * The blocked ("swizzled") layout of block scales that tensor cores of compute capability 10 read
 * (cuBLAS, "Scaling factors layout"; ao:torchao/prototype/mx_formats/utils.py to_blocked). A
 * matrix of scales is cut into tiles of 128 rows and 4 columns, padded with zeros at its ends; the
 * tiles follow each other row by row. In a tile of 512 bytes, rows 32 apart lie beside each other:
 *
 *     scale (r, c) of a tile is byte 16 (r mod 32) + 4 (r div 32) + c
 *
 * The plane is written as a matrix too: every tile is 32 rows of 16, as upstream shapes it.
 */
#ifndef QG_BLOCKED_H
#define QG_BLOCKED_H

#include <stddef.h>

#include "schemes/num/fn.h"

/* The choices of a scheme's parameter "layout". */
enum { QG_PLAIN, QG_SWIZZLED };
static const char *const qg_layout_words[] = {"plain", "swizzled", NULL};

/* Extents of the plane for a matrix of scales with that many rows and columns. */
static inline size_t qg_layout_rows(double layout, size_t rows)
{
    return (int)layout == QG_SWIZZLED ? (rows + 127) / 128 * 32 : rows;
}

static inline size_t qg_layout_cols(double layout, size_t cols)
{
    return (int)layout == QG_SWIZZLED ? (cols + 3) / 4 * 16 : cols;
}

/* Where scale (r, c) of a matrix with `cols` columns lies. */
QG_FN size_t qg_layout_at(double layout, size_t cols, size_t r, size_t c)
{
    size_t tile = r / 128 * ((cols + 3) / 4) + c / 4;
    return (int)layout == QG_SWIZZLED ? tile * 512 + r % 32 * 16 + r % 128 / 32 * 4 + c % 4
                                      : r * cols + c;
}

#endif
