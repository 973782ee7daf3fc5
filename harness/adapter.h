/* SPDX-License-Identifier: MIT
 *
 * A LoRA adapter as peft saves it: a folder with adapter_config.json and adapter_model.safetensors,
 * whose tensors are named
 *
 *     base_model.model.MODULE.lora_A.weight            [R,K]
 *     base_model.model.MODULE.lora_B.weight            [N,R]
 *     base_model.model.MODULE.lora_magnitude_vector    [N], DoRA only
 *
 * (peft:utils/save_and_load.py). MODULE's weight W becomes W + s B A, where s is lora_alpha / r, or
 * lora_alpha / sqrt(r) with use_rslora, both of them after alpha_pattern and rank_pattern; with
 * fan_in_fan_out the weight is stored transposed. What an adapter may hold besides is refused by
 * name, never left out.
 */
#ifndef QG_PEFT_ADAPTER_H
#define QG_PEFT_ADAPTER_H

#include <stdbool.h>

#include "harness/base/error.h"
#include "schemes/num/tensor.h"

/* The low-rank pair of one module, in memory of the adapter; F32, BF16 or F16, all finite. */
struct qg_adapter_pair {
    char *module;          /* "model.layers.0.self_attn.q_proj" */
    struct qg_tensor a, b; /* [R,K], [N,R], of one dtype */
    struct qg_tensor m;    /* [N]; data NULL without DoRA */
    double scale;          /* s */
};

struct qg_adapter {
    struct qg_adapter_pair *pair; /* by name */
    size_t n;
    bool dora, fan_in_fan_out;
};

/* Reads an adapter. QG_EFORMAT, with file, tensor and what to do, for one that is not what it says:
 * half a pair, a rank that is not the configuration's, NaN or inf. QG_EINVAL for one that is more
 * than pairs: another peft_type, modules_to_save, trained biases, initializations that changed the
 * base weights. The caller closes. */
QG_MUST_CHECK enum qg_status qg_adapter_open(const char *folder, struct qg_adapter *ret_a,
                                             struct qg_error *err);
void qg_adapter_close(struct qg_adapter *a);

#endif
