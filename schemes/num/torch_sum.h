/* SPDX-License-Identifier: MIT
 *
 * The sum of binary32 numbers in the order of torch.sum over a whole contiguous tensor, on one
 * thread of an x86 CPU with AVX2 (also of one with AVX-512, whose kernels leave sums to AVX2's;
 * more threads take part from 32768 numbers on, and then the order is another one).
 *
 * Eight lanes, four accumulators: number i of a row of 32 goes to one of 32 partial sums. After
 * every 16 rows the partial sums are added to a second level and start anew, after every 256 rows
 * the second level to a third, and so on to the fourth; levels are added up in the end. (Beyond
 * 2^19 rows a level holds more.) Then: what is left of whole vectors goes to accumulator 0,
 * accumulators 1, 2, 3 are added to it; and the numbers that fill no vector are added up, then
 * lanes 0 to 7. Fewer than eight numbers are one lane.
 *
 * Source: pytorch:aten/src/ATen/native/cpu/SumKernel.cpp cascade_sum.
 */
#ifndef QG_NUM_TORCH_SUM_H
#define QG_NUM_TORCH_SUM_H

#include <stddef.h>

#include "schemes/num/fn.h"

#define QG_SUM_LEVELS 4
#define QG_SUM_WIDTH  32 /* four accumulators of eight lanes */

QG_FN float qg_torch_sum(const float *x, size_t n)
{
    size_t lanes = n < 8 ? 1 : 8, width = 4 * lanes, rows = n / width, power = 4;
    float level[QG_SUM_LEVELS][QG_SUM_WIDTH] = {{0}};
    while (rows > (size_t)1 << (4 * power + 3))
        power++;
    for (size_t i = 0; i < rows;) {
        for (size_t k = 0; k < width; k++)
            level[0][k] = qg_add(level[0][k], x[i * width + k]);
        i++;
        for (size_t l = 1; l < QG_SUM_LEVELS && i % ((size_t)1 << (l * power)) == 0; l++)
            for (size_t k = 0; k < width; k++) {
                level[l][k] = qg_add(level[l][k], level[l - 1][k]);
                level[l - 1][k] = 0;
            }
    }
    float *sum = level[0], total = 0;
    for (size_t l = 1; l < QG_SUM_LEVELS; l++)
        for (size_t k = 0; k < width; k++)
            sum[k] = qg_add(sum[k], level[l][k]);
    size_t at = rows * width;
    for (; at + lanes <= n; at += lanes)
        for (size_t k = 0; k < lanes; k++)
            sum[k] = qg_add(sum[k], x[at + k]);
    for (size_t k = lanes; k < width; k++)
        sum[k % lanes] = qg_add(sum[k % lanes], sum[k]);
    for (; at < n; at++)
        total = qg_add(total, x[at]);
    for (size_t k = 0; k < lanes; k++)
        total = qg_add(total, sum[k]);
    return total;
}

/* torch.mean: binary32 also where x holds numbers of a narrower dtype. */
QG_FN float qg_torch_mean(const float *x, size_t n)
{
    return qg_div(qg_torch_sum(x, n), (float)n);
}

#endif
