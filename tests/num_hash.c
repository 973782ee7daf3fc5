/* SPDX-License-Identifier: MIT
 *
 * One hash over what schemes/num makes of its inputs. num_hash.sh builds this with every compiler
 * and level at hand and wants one answer: the compiler is a suspect too.
 *
 *     num_hash [STRIDE]    binary32 inputs 0, STRIDE, 2 STRIDE ...; 1 takes all 2^32
 */
#include <stdio.h>
#include <stdlib.h>

#include "tests/num_domain.h"

static float x[QG_SUMMANDS];

int main(int argc, char **argv)
{
    uint32_t stride = argc > 1 ? (uint32_t)strtoul(argv[1], NULL, 10) : 1021, u = 0;
    uint32_t decoded[QG_DECODED], encoded[QG_ENCODED];
    uint64_t hash = QG_DOMAIN_HASH;
    for (uint32_t c = 0; c < 0x10000; c++) {
        qg_decode_all(c, decoded);
        hash = qg_domain_hash(hash, decoded, QG_DECODED);
    }
    do {
        qg_encode_all(u, encoded);
        hash = qg_domain_hash(hash, encoded, QG_ENCODED);
        u += stride;
    } while (u >= stride);
    for (uint32_t i = 0; i < QG_SUMMANDS; i++)
        x[i] = qg_summand(i);
    for (size_t i = 0; i < QG_TORCH_SUMS; i++) {
        uint32_t mean = qg_f32_bits(qg_torch_mean(x, qg_torch_sums[i].n));
        hash = qg_domain_hash(hash, &mean, 1);
    }
    printf("%016llx\n", (unsigned long long)hash);
    return 0;
}
