/* SPDX-License-Identifier: MIT
 *
 * One hash over what schemes/num makes of its inputs. num_hash.sh builds this with every compiler
 * and level at hand and wants one answer: the compiler is a suspect too.
 *
 *     num_hash [STRIDE]    binary32 inputs 0, STRIDE, 2 STRIDE ...; 1 takes all 2^32
 */
#include <stdio.h>
#include <stdlib.h>

#include "schemes/num/tensor.h"

static uint64_t hash = 0xcbf29ce484222325u;

static void add(uint32_t v)
{
    hash = (hash ^ v) * 0x100000001b3u;
}

int main(int argc, char **argv)
{
    uint32_t stride = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1021, u = 0;
    for (uint32_t c = 0; c < 0x10000; c++) {
        add(qg_f32_bits(qg_bf16_decode((qg_bf16){(uint16_t)c})));
        add(qg_f32_bits(qg_fp16_decode((qg_fp16){(uint16_t)c})));
        add(qg_f32_bits(qg_e4m3_decode((qg_e4m3){(uint8_t)c})));
        add(qg_f32_bits(qg_e5m2_decode((qg_e5m2){(uint8_t)c})));
    }
    do {
        float x = qg_f32_from_bits(u);
        add(qg_bf16_encode(x).v);
        add(qg_fp16_encode(x).v);
        add(qg_e4m3_encode(x).v);
        add(qg_e4m3_encode_nan(x).v);
        add(qg_e5m2_encode(x).v);
        float integer = qg_rint(x), fused = qg_fma_odd(x, 0.7f, 3.0f);
        add(integer == integer ? qg_f32_bits(integer) : 0);
        add(fused == fused ? qg_f32_bits(fused) : 0);
        u += stride;
    } while (u >= stride);
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
