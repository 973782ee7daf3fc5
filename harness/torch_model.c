/* SPDX-License-Identifier: MIT
 *
 * The stream is that of ATen's CPU generator: MT19937 (Matsumoto, Nishimura 1998) seeded by
 * init_genrand with the low 32 bits of the seed; a uniform float takes the low 24 bits of one
 * output (pytorch:aten/src/ATen/core/TransformationHelper.h); normals come from blocks of 16
 * uniforms, the first eight giving radii, the last eight angles (pytorch:aten/src/ATen/native/cpu/
 * DistributionTemplates.h normal_fill).
 */
#include "harness/torch_model.h"

#include <math.h>
#include <stdlib.h>

#include "schemes/num/fn.h"

enum { MT_N = 624, MT_M = 397 };

struct mt19937 {
    uint32_t state[MT_N];
    int next;
};

static void mt_seed(struct mt19937 *g, uint32_t seed)
{
    g->state[0] = seed;
    for (uint32_t i = 1; i < MT_N; i++)
        g->state[i] = 1812433253u * (g->state[i - 1] ^ g->state[i - 1] >> 30) + i;
    g->next = MT_N;
}

static uint32_t mt_bits(struct mt19937 *g)
{
    if (g->next == MT_N) {
        for (int i = 0; i < MT_N; i++) {
            uint32_t *s = g->state;
            uint32_t y = (s[i] & 0x80000000u) | (s[(i + 1) % MT_N] & 0x7fffffffu);
            s[i] = s[(i + MT_M) % MT_N] ^ y >> 1 ^ (y & 1 ? 0x9908b0dfu : 0);
        }
        g->next = 0;
    }
    uint32_t y = g->state[g->next++];
    y ^= y >> 11;
    y ^= y << 7 & 0x9d2c5680u;
    y ^= y << 15 & 0xefc60000u;
    return y ^ y >> 18;
}

/* Uniform in [0, 1) with 24 bits. */
static float uniform(struct mt19937 *g)
{
    return (float)(mt_bits(g) & 0xffffffu) * 0x1p-24f;
}

/* torch.nn.Linear's default: kaiming_uniform_(a = sqrt 5), whose bound is sqrt 3 sqrt(1/3) / sqrt
 * K. */
static void fill_weight(struct mt19937 *g, qg_bf16 *w, size_t rows, size_t cols)
{
    double std = sqrt(2.0 / 6.0) / sqrt((double)cols), bound = sqrt(3.0) * std;
    float low = (float)-bound, width = qg_sub((float)bound, low);
    for (size_t i = 0; i < rows * cols; i++)
        w[i] = qg_bf16_encode(qg_fma(uniform(g), width, low)); // fused in PyTorch's builds
}

static void fill_normal(struct mt19937 *g, qg_bf16 *x, size_t n)
{
    for (size_t at = 0; at < n; at += 16) {
        float u[16];
        for (int j = 0; j < 16; j++)
            u[j] = uniform(g);
        for (int j = 0; j < 8; j++) {
            float logarithm = (float)log((double)qg_sub(1.0f, u[j]));
            float radius = (float)sqrt((double)qg_mul(-2.0f, logarithm));
            double angle = (double)qg_mul(6.28318530717958647692f, u[j + 8]);
            x[at + (size_t)j] = qg_bf16_encode(qg_mul(radius, (float)cos(angle)));
            x[at + (size_t)j + 8] = qg_bf16_encode(qg_mul(radius, (float)sin(angle)));
        }
    }
}

struct qg_torch_model *qg_torch_model_create(uint64_t seed)
{
    static const size_t rows[] = {256, 256, 512}, cols[] = {512, 256, 256};
    struct mt19937 g;
    mt_seed(&g, (uint32_t)seed);
    struct qg_torch_model *m = calloc(1, sizeof *m);
    for (int l = 0; m && l < QG_MODEL_LAYERS; l++) {
        m->rows[l] = rows[l];
        m->cols[l] = cols[l];
        m->weight[l] = malloc(rows[l] * cols[l] * sizeof *m->weight[l]);
        if (!m->weight[l])
            qg_torch_model_free(&m);
        else
            fill_weight(&g, m->weight[l], rows[l], cols[l]);
    }
    if (m)
        fill_normal(&g, m->x, QG_MODEL_WIDTH);
    return m;
}

void qg_torch_model_free(struct qg_torch_model **m)
{
    for (int l = 0; *m && l < QG_MODEL_LAYERS; l++)
        free((*m)->weight[l]);
    free(*m);
    *m = NULL;
}
