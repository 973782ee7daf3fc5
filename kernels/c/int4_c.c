/* SPDX-License-Identifier: MIT
 *
 * Plain C kernels of int4 and int4-old, one group of a row at a time.
 */
#include "kernels/c/rows.h"
#include "kernels/kernel.h"

enum { GROUP, EPS, SCALE_DTYPE, DEQUANT, RAGGED, PREPARE_EPS };
#define MAX_GROUP 256

static size_t group(const struct qg_args *a)
{
    return (size_t)a->param[GROUP];
}

/* What a group's codes count from and in which steps. */
struct grid {
    float min, max, scale, zero;
};

static struct grid grid_of(size_t n, const float *w, float eps)
{
    struct qg_span s = qg_span_of(n, w);
    float scale = qg_div(qg_max(qg_sub(s.max, s.min), eps), 15.0f);
    return (struct grid){s.min, s.max, scale, qg_add(s.min, qg_mul(scale, 8.0f))};
}

/* Codes are clamped before they are rounded: 0 and 15 are integers, so the order does not matter,
 * and what is rounded is small or NaN. */
static void encode(size_t n, const float *restrict w, const struct grid *g, uint8_t *restrict codes)
{
    float min = g->min, scale = g->scale;
    for (size_t i = 0; i < n; i++) {
        float u = qg_clamp((w[i] - min) / scale, 0.0f, 15.0f);
        int32_t code = qg_int_small(u) - 8;
        codes[i] = (uint8_t)(u == u ? code : 0);
    }
}

static void convert(const struct qg_args *a)
{
    size_t g = group(a), k = a->cols;
    uint8_t *codes = (uint8_t *)a->work; // of a row: an odd group ends within a byte
    float w[MAX_GROUP];
    for (size_t row = 0; row < a->rows; row++) {
        for (size_t at = 0; at < k; at += g) {
            size_t n = k - at < g ? k - at : g;
            qg_load(&a->in[0], row * k + at, n, w);
            struct grid grid = grid_of(n, w, (float)a->param[EPS]);
            encode(n, w, &grid, codes + at);
            qg_put(&a->out[1], at / g * a->rows + row, grid.scale);
            qg_put(&a->out[2], at / g * a->rows + row, grid.zero);
        }
        qg_nibbles_pack(k, codes, (uint8_t *)a->out[0].data + row * (k / 2));
    }
}

#define ROW(s, o, f)                                                                       \
    {                                                                                      \
        .scheme = s, .backend = "c", .variant = "", .op = o, .operand = QG_WEIGHT, .fn = f \
    }

const struct qg_kernel qg_kernels_int4_c[] = {
    ROW("int4", QG_CONVERT, convert),
    ROW("int4-old", QG_CONVERT, convert),
    {.scheme = NULL},
};
