/* SPDX-License-Identifier: MIT
 *
 * What schemes/num makes of one input, for hashes over whole domains: the same text for every
 * compiler and for the device.
 */
#ifndef QG_NUM_DOMAIN_H
#define QG_NUM_DOMAIN_H

#include "schemes/num/tensor.h"
#include "schemes/num/torch_sum.h"

enum { QG_DECODED = 4, QG_ENCODED = 7 };

/* Sums of the numbers qg_summand(0 .. n-1) as torch.sum gives them (torch 2.13, one thread), of
 * lengths that reach each level of its order. */
struct qg_torch_sum_of {
    uint32_t n, bits;
};
static const struct qg_torch_sum_of qg_torch_sums[] = {
    {7, 0x3f16294e},      {8, 0x3ec27940},      {31, 0x3eb4b5b4},     {100, 0xbf6b7373},
    {511, 0xc1104532},    {512, 0xc11681ad},    {8191, 0x416eae48},   {8192, 0x4174cda1},
    {20000, 0x4217264d},  {131071, 0x435c9946}, {131072, 0x435c3a82}, {140001, 0x435eda8e},
    {400003, 0x43296c68},
};
enum { QG_TORCH_SUMS = sizeof qg_torch_sums / sizeof qg_torch_sums[0], QG_SUMMANDS = 400003 };

/* Between -1/2 and 1/2: what a sum's order changes is not lost in its size. */
QG_FN float qg_summand(uint32_t i)
{
    uint32_t h = i * 2654435761u + 12345u;
    h = (h ^ h >> 15) * 2246822519u;
    h ^= h >> 13;
    return (float)(h >> 8) * 0x1p-24f - 0.5f;
}

/* Values of the 16-bit code c (its low byte for 8-bit formats), as bits. */
QG_FN void qg_decode_all(uint32_t c, uint32_t out[QG_DECODED])
{
    const qg_bf16 bf16 = {(uint16_t)c};
    const qg_fp16 fp16 = {(uint16_t)c};
    const qg_e4m3 e4m3 = {(uint8_t)c};
    const qg_e5m2 e5m2 = {(uint8_t)c};
    out[0] = qg_f32_bits(qg_bf16_decode(bf16));
    out[1] = qg_f32_bits(qg_fp16_decode(fp16));
    out[2] = qg_f32_bits(qg_e4m3_decode(e4m3));
    out[3] = qg_f32_bits(qg_e5m2_decode(e5m2));
}

/* Codes of the binary32 number with bits u, and what arithmetic makes of it; NaN counts as 0. */
QG_FN void qg_encode_all(uint32_t u, uint32_t out[QG_ENCODED])
{
    const float x = qg_f32_from_bits(u), integer = qg_rint(x), fused = qg_fma_odd(x, 0.7f, 3.0f);
    out[0] = qg_bf16_encode(x).v;
    out[1] = qg_fp16_encode(x).v;
    out[2] = qg_e4m3_encode(x).v;
    out[3] = qg_e4m3_encode_nan(x).v;
    out[4] = qg_e5m2_encode(x).v;
    out[5] = integer == integer ? qg_f32_bits(integer) : 0;
    out[6] = fused == fused ? qg_f32_bits(fused) : 0;
}

/* The hash of words in their order (FNV-1a, a word at a time). */
#define QG_DOMAIN_HASH 0xcbf29ce484222325u

QG_FN uint64_t qg_domain_hash(uint64_t hash, const uint32_t *word, size_t n)
{
    for (size_t i = 0; i < n; i++)
        hash = (hash ^ word[i]) * 0x100000001b3u;
    return hash;
}

#endif
