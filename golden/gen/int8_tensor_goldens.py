# SPDX-License-Identifier: MIT
"""What torchao's Int8Tensor makes of int8-row and int8-int8."""
from upstream import TORCHAO  # first: it sets up Triton's interpreter

import torch
from torchao.quantization import Int8DynamicActivationInt8WeightConfig, Int8WeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerRow
from torchao.quantization.quant_primitives import MappingType
from torchao.quantization.quantize_.workflows.int8.int8_tensor import Int8Tensor

import inputs
from intx_goldens import check_all_codes
from torchao_goldens import BF16, COMMON, F16, F32, Sets, matmul_op, parameters

MAPPINGS = {"symmetric": MappingType.SYMMETRIC, "asymmetric": MappingType.ASYMMETRIC}


def planes_of(sets, at, x, q, name):
    planes = {"codes": q.qdata, "scales": q.scale, "zeros": q.zero_point}
    sets.file.op(at, "convert", (TORCHAO, name, ""), {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "Int8Tensor.dequantize", ""), planes, {"y": q.dequantize()})
    return planes


def words(mapping, reduced):
    return parameters(act_mapping=mapping if mapping != "symmetric" else None,
                      reduce_range="yes" if reduced else None)


def weight(sets, scheme, dtype, kind, rows=4, cols=96, mapping="symmetric", reduced=False, multiply=None):
    at, x = sets.start(scheme, "weight", dtype, kind, words(mapping, reduced), rows, cols, cols)
    config = Int8WeightOnlyConfig(set_inductor_config=False) if scheme == "int8-row" else \
        Int8DynamicActivationInt8WeightConfig(act_mapping_type=MAPPINGS[mapping], reduce_range=reduced,
                                              set_inductor_config=False)
    module = torch.nn.Linear(cols, rows, bias=False)
    module.weight = torch.nn.Parameter(x.clone(), requires_grad=False)
    quantize_(module, config, filter_fn=lambda m, name: m is module)
    planes = planes_of(sets, at, x, module.weight, f"quantize_({type(config).__name__}) on Linear")
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a), TORCHAO,
                  f"forward of a Linear after quantize_({type(config).__name__})", "")
    return planes


def activation(sets, dtype, kind, mapping, reduced):
    at, x = sets.start("int8-int8", "activation", dtype, kind, words(mapping, reduced), 4, 100, 100)
    q = Int8Tensor.from_hp(x, PerRow(), mapping_type=MAPPINGS[mapping], reduce_range=reduced)
    return planes_of(sets, at, x, q, "Int8Tensor.from_hp")


def row_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in ("codes-8", "ties-symmetric8", "normal-1e-3"):
            weight(sets, "int8-row", dtype, kind)
        for kind in COMMON if dtype == BF16 else ("tiny", "small", "huge", "zeros", "nonfinite"):
            weight(sets, "int8-row", dtype, kind)
        for kind in ("normal", "huge", "tiny", "nonfinite"):  # of x
            weight(sets, "int8-row", dtype, "normal-0.02", 7, 77, multiply=kind)
        weight(sets, "int8-row", dtype, "small", 5, 64, multiply="normal")
        weight(sets, "int8-row", dtype, "tiny", 8, 1024, multiply="huge")


def int8_file(file):
    sets = Sets(file)
    for mapping in MAPPINGS:
        for reduced in (False, True):
            seen = {"weight": set(), "activation": set()}
            for dtype in (BF16, F32, F16):
                bits = 7 if reduced else 8
                for kind in (f"codes-{bits}", "normal") + (("nonfinite",) if dtype == BF16 else ()):
                    w = weight(sets, "int8-int8", dtype, kind, mapping=mapping, reduced=reduced,
                               multiply=kind)
                    seen["weight"] |= set(w["codes"].unique().tolist())
                plain = not reduced and dtype == BF16
                for kind in COMMON if plain else ("codes-8", "normal", "positive", "tiny", "nonfinite"):
                    x = activation(sets, dtype, kind, mapping, reduced)
                    seen["activation"] |= set(x["codes"].unique().tolist())
                if not reduced:
                    for kind in ("huge", "tiny", "small"):
                        weight(sets, "int8-int8", dtype, "normal-0.02", 3, 50, mapping, multiply=kind)
                    weight(sets, "int8-int8", dtype, "constant", 8, 2048, mapping, multiply="positive")
            check_all_codes(seen["weight"], bits)
            check_all_codes(seen["activation"], bits)


FILES = {
    "int8-row.h5": row_file,
    "int8-int8.h5": int8_file,
}
