/* SPDX-License-Identifier: MIT
 *
 * torchao's own test model and PyTorch's random stream behind it, so that the figures that
 * upstream's tests and pull requests print can be reproduced to the bit on any machine
 * (ao:test/quantization/test_qat.py class M, _test_quantize_api_against_ptq).
 */
#ifndef QG_TORCH_MODEL_H
#define QG_TORCH_MODEL_H

#include <stddef.h>
#include <stdint.h>

#include "schemes/num/bf16.h"

#define QG_MODEL_LAYERS 3
#define QG_MODEL_WIDTH  512 /* of the input and of the output */

/* Three linear layers without bias, 512 -> 256 -> 256 -> 512, and one input row. */
struct qg_torch_model {
    qg_bf16 *weight[QG_MODEL_LAYERS]; /* [rows, cols] */
    size_t rows[QG_MODEL_LAYERS], cols[QG_MODEL_LAYERS];
    qg_bf16 x[QG_MODEL_WIDTH];
};

/* Makes the model as `torch.manual_seed(seed); m = M().to(torch.bfloat16); x = torch.randn(1, 512)`
 * does on a CPU: weights uniform in +-1/sqrt(cols) from MT19937, the input by Box-Muller in blocks
 * of 16, both binary32, then rounded to bf16. NULL when memory is out; the caller frees. */
struct qg_torch_model *qg_torch_model_create(uint64_t seed);
void qg_torch_model_free(struct qg_torch_model **m);

#endif
