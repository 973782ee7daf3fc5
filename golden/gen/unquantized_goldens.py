# SPDX-License-Identifier: MIT
"""What PyTorch makes of a linear layer that nobody quantized."""
from upstream import PYTORCH  # first: it sets up the threads of torch

import torch

import inputs
from torchao_goldens import BF16, F16, F32, Sets, matmul_op


def layer(sets, dtype, kind, rows, cols, multiply):
    at, w = sets.start("unquantized", "weight", dtype, kind, "", rows, cols, cols)
    module = torch.nn.Linear(cols, rows, bias=False)
    module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    planes = {"weight": module.weight.data}
    sets.file.op(at, "convert", (PYTORCH, "Linear.weight", ""), {"x": w}, planes)
    sets.file.op(at, "dequant", (PYTORCH, "Linear.weight", ""), planes, {"y": module.weight.data})
    x = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
    with torch.backends.mkldnn.flags(enabled=False):  # its BF16 instructions take subnormals for zeros
        matmul_op(sets, at, x, planes, module(x), PYTORCH, "Linear.forward", "without oneDNN")


def unquantized_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind, rows, cols, multiply in (
            ("normal-0.02", 7, 77, "normal"), ("normal-0.02", 4, 96, "huge"), ("small", 5, 64, "tiny"),
            ("tiny", 8, 1024, "huge"), ("normal", 6, 2048, "outlier"), ("normal", 3, 1, "normal"),
            ("nonfinite", 4, 50, "normal"), ("normal", 4, 50, "nonfinite"), ("zeros", 4, 40, "normal"),
        ):
            layer(sets, dtype, kind, rows, cols, multiply)


FILES = {"unquantized.h5": unquantized_file}
