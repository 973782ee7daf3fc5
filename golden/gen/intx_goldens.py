# SPDX-License-Identifier: MIT
"""What torchao and PyTorch's autograd make of the integer schemes."""
from upstream import TORCHAO  # first: it sets up Triton's interpreter

import torch
from torchao.quantization import Int8DynamicActivationIntxWeightConfig, IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig
from torchao.quantization.qat.linear import Int8DynActInt4WeightQATQuantizer
from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase
from torchao.quantization.quant_primitives import (
    MappingType,
    choose_qparams_affine,
    dequantize_affine,
    quantize_affine,
)
from torchao.quantization.utils import _get_per_token_block_size, per_token_dynamic_quant

import inputs
from torchao_goldens import (
    BF16,
    COMMON,
    F16,
    F32,
    SCALE_DTYPES,
    Sets,
    fake_quantizers,
    matmul_op,
    other_scale_dtypes,
    parameters,
    short,
)

def intx_convert(x, config, embedding):
    """The weight's IntxUnpackedToInt8Tensor, by quantize_ on a module."""
    n, k = x.shape
    module = torch.nn.Embedding(n, k) if embedding else torch.nn.Linear(k, n, bias=False)
    module.weight = torch.nn.Parameter(x.clone(), requires_grad=False)
    quantize_(module, config, filter_fn=lambda m, name: m is module)
    return module


def target_dtype(bits):
    return getattr(torch, f"int{bits}")


def intx_weight(sets, scheme, operand, dtype, kind, rows, cols, group=None, default_group=None, bits=8,
                default_bits=None, scale_dtype=None, eps=None, multiply=None, kind_of_gradient=None):
    """group None: PerAxis(0). default_bits None: the scheme has no such parameter. multiply: kind of
    the input of a matmul, or None. The planes."""
    granularity = PerGroup(group) if group else PerAxis(0)
    params = parameters(eps=eps, scale_dtype=scale_dtype,
                        group=(group or 0) if default_group and group != default_group else None,
                        bits=bits if default_bits and bits != default_bits else None)
    at, x = sets.start(scheme, operand, dtype, kind, params, rows, cols, group or cols)
    dynamic = scheme in ("int8-int4", "intx-dynamic") and operand == "weight"
    target = target_dtype(bits)
    held = SCALE_DTYPES.get(scale_dtype)
    if dynamic:
        config = Int8DynamicActivationIntxWeightConfig(target, granularity, weight_scale_dtype=held)
    else:
        config = IntxWeightOnlyConfig(target, granularity, scale_dtype=held)
    base = type(config).__name__
    if bits == 1:  # QAT refuses it
        fake = None
    elif held or eps:
        fake = FakeQuantizerBase.from_config(IntxFakeQuantizeConfig(
            target, granularity, is_symmetric=True, scale_precision=held, eps=eps))
        name = f"IntxFakeQuantizer({bits} bits, {granularity}, scale_precision={held}, eps={eps})"
    else:
        fake = fake_quantizers(config)[1]
        name = f"IntxFakeQuantizer of {base}({bits} bits, {granularity})"
    if fake:
        sets.prepare(at, x, fake, name)
    if fake and kind not in ("nonfinite", "huge"):
        sets.gradient(at, x, fake, name, kind=kind_of_gradient)
    if eps:
        low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
        block = (1, group or cols)
        s, z = choose_qparams_affine(x, MappingType.SYMMETRIC, block, torch.int8, low, high, eps=eps,
                                     zero_point_dtype=torch.int8, keepdim=True)
        planes = {"codes": quantize_affine(x, block, s, z, torch.int8, low, high), "scales": s, "zeros": z}
        sets.file.op(at, "convert", (TORCHAO, "choose_qparams_affine, quantize_affine", ""), {"x": x}, planes)
        return planes
    module = intx_convert(x, config, operand == "embedding")
    q = module.weight
    planes = {"codes": q.qdata, "scales": q.scale, "zeros": q.zero_point}
    sets.file.op(at, "convert", (TORCHAO, f"quantize_({base}) on {type(module).__name__}", ""),
                 {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "IntxUnpackedToInt8Tensor.dequantize", ""), planes,
                 {"y": q.dequantize()})
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a), TORCHAO, f"forward of a Linear after quantize_({base})", "")
    return planes


def token_activation(sets, scheme, dtype, kind, rows=8, cols=200, kind_of_gradient=None):
    at, x = sets.start(scheme, "activation", dtype, kind, "", rows, cols, cols)
    fake, _ = fake_quantizers(Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32)))
    name = "IntxFakeQuantizer of Int8DynamicActivationIntxWeightConfig (per token)"
    sets.prepare(at, x, fake, name)
    if kind not in ("nonfinite", "huge"):
        sets.gradient(at, x, fake, name, kind=kind_of_gradient)
    block = _get_per_token_block_size(x)
    s, z = choose_qparams_affine(x, MappingType.ASYMMETRIC, block, torch.int8, -128, 127,
                                 zero_point_dtype=torch.int8)
    codes = quantize_affine(x, block, s, z, torch.int8, -128, 127)
    planes = {"codes": codes, "scales": s.reshape(-1, 1), "zeros": z.reshape(-1, 1)}
    sets.file.op(at, "convert", (TORCHAO, "choose_qparams_affine, quantize_affine",
                                 "as in _apply_int8_act_asym_per_token_quant_dequant"), {"x": x}, planes)
    y = dequantize_affine(codes, block, s, z, torch.int8, -128, 127, output_dtype=dtype)
    sets.file.op(at, "dequant", (TORCHAO, "dequantize_affine", ""), planes, {"y": y})


def int8_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for operand in ("weight", "embedding"):
            linear = operand == "weight"
            intx_weight(sets, "int8", operand, dtype, "normal-0.02", 16, 512,
                        multiply="normal" if linear else None)
            for kind in COMMON + ["normal-1e-3", "ties-symmetric8"]:
                intx_weight(sets, "int8", operand, dtype, kind, 8, 128 if linear else 64)
        for cols in (7, 333):
            intx_weight(sets, "int8", "weight", dtype, "normal", 9, cols, multiply="normal")
        for word in other_scale_dtypes(dtype):
            for kind in short(dtype) + ["normal"]:
                intx_weight(sets, "int8", "weight", dtype, kind, 4, 128, scale_dtype=word,
                            multiply="normal" if kind == "normal" else None)
        for eps in (2.0**-7, 2.0**-23, 1e-6):
            for kind in ("normal-1e-3", "small"):
                intx_weight(sets, "int8", "weight", dtype, kind, 4, 128, eps=eps)
        for kind in inputs.GRADIENTS:
            intx_weight(sets, "int8", "weight", dtype, "normal-0.02", 4, 128, kind_of_gradient=kind)


def grouped_file(scheme, bits):
    def write(file):
        sets = Sets(file)
        p = {"default_group": 32, "bits": bits}
        for dtype in (BF16, F32, F16):
            linear = scheme == "int8-int4"  # int8-g32 has an embedding with the same arithmetic
            intx_weight(sets, scheme, "weight", dtype, "normal-0.02", 16, 512, 32, multiply="normal", **p)
            intx_weight(sets, scheme, "weight", dtype, "normal", 4, 32, 32, multiply="nonfinite", **p)
            for kind in COMMON + ["normal-1e-3", "ties-symmetric8" if bits == 8 else "ties-symmetric4"]:
                intx_weight(sets, scheme, "weight", dtype, kind, 8, 128, 32, **p)
                if linear:
                    token_activation(sets, scheme, dtype, kind)
            for kind in ("normal", "tiny", "nonfinite", "ties-symmetric8", "zeros", "codes-8"):
                if linear:  # the embedding is int8 per row
                    intx_weight(sets, scheme, "embedding", dtype, kind, 8, 96)
                else:
                    intx_weight(sets, scheme, "embedding", dtype, kind, 8, 96, 32, **p)
            for group in (64, 128, 256):
                for kind in short(dtype):
                    intx_weight(sets, scheme, "weight", dtype, kind, 4, 256, group, **p)
            for word in other_scale_dtypes(dtype):
                for kind in short(dtype) + ["normal"]:
                    intx_weight(sets, scheme, "weight", dtype, kind, 4, 128, 32, scale_dtype=word,
                                multiply="normal" if kind == "normal" else None, **p)
            for kind in ("normal-1e-3", "small"):
                intx_weight(sets, scheme, "weight", dtype, kind, 8, 128, 32, eps=2.0**-7, **p)
            for kind in inputs.GRADIENTS:
                intx_weight(sets, scheme, "weight", dtype, "normal-0.02", 4, 128, 32,
                            kind_of_gradient=kind, **p)
                if linear:
                    token_activation(sets, scheme, dtype, "normal", 4, kind_of_gradient=kind)

    return write


def check_all_codes(seen, bits):
    """The goldens reach every code of every width, not only of the widest."""
    expected = set(range(-(2 ** (bits - 1)), 2 ** (bits - 1)))
    assert seen == expected, f"{bits} bits: codes {sorted(expected - seen)} are not reached"


def widths_of(sets, scheme, operand, default_bits, dtypes, kinds):
    """All widths x PerGroup(32), PerAxis(0). kinds: of a number of bits and a dtype."""
    for bits in range(1, 9):
        seen = set()
        for group in (32, None):
            for dtype in dtypes:
                for kind in kinds(bits, dtype):
                    multiply = "normal" if kind.startswith("normal") and operand == "weight" else None
                    planes = intx_weight(sets, scheme, operand, dtype, kind, 4, 128, group, default_group=32,
                                         bits=bits, default_bits=default_bits, multiply=multiply)
                    seen |= set(planes["codes"].unique().tolist())
        check_all_codes(seen, bits)


def intx_kinds(bits, dtype):
    if dtype != BF16 and bits not in (1, 2, 5, 8):
        return []
    kinds = [f"codes-{bits}", "normal-0.02"]
    if bits == 1:  # only a reciprocal that is subnormal reaches -1, see schemes/intx.c
        kinds += ["huge", "nonfinite"]
    return kinds + ([f"ties-symmetric{bits}"] if dtype == BF16 else [])


def intx_file(file):
    sets = Sets(file)
    widths_of(sets, "intx", "weight", 4, (BF16, F32, F16), intx_kinds)
    widths_of(sets, "intx", "embedding", 4, (BF16,),
              lambda bits, dtype: [f"codes-{bits}"] + (["huge"] if bits == 1 else []))
    p = {"default_group": 32, "default_bits": 4}
    for dtype in (BF16, F32, F16):
        for kind in COMMON if dtype == BF16 else ("tiny", "huge", "nonfinite"):
            intx_weight(sets, "intx", "weight", dtype, kind, 4, 64, 32, bits=3, **p)
        for word in other_scale_dtypes(dtype):
            intx_weight(sets, "intx", "weight", dtype, "normal", 4, 96, 32, bits=5, scale_dtype=word,
                        multiply="normal", **p)
        intx_weight(sets, "intx", "weight", dtype, "small", 4, 96, 32, bits=6, eps=2.0**-7, **p)
    intx_weight(sets, "intx", "weight", BF16, "normal", 3, 35, None, bits=7, multiply="normal", **p)
    intx_weight(sets, "intx", "weight", BF16, "normal", 3, 35, 7, bits=2, multiply="normal", **p)


def intx_dynamic_file(file):
    sets = Sets(file)
    widths_of(sets, "intx-dynamic", "weight", 8, (BF16,),
              lambda bits, dtype: [f"codes-{bits}", "normal-0.02"] + (["huge"] if bits == 1 else []))
    for dtype in (BF16, F32, F16):
        for kind in COMMON if dtype == BF16 else ("normal", "tiny", "huge", "nonfinite"):
            token_activation(sets, "intx-dynamic", dtype, kind, 4, 100)
        token_activation(sets, "intx-dynamic", dtype, "codes-8", 4, 100)
        for kind in ("normal", "nonfinite"):
            intx_weight(sets, "intx-dynamic", "weight", dtype, "normal", 4, 64, 64, default_group=32, bits=3,
                        default_bits=8, multiply=kind)


# --- int8-int4-legacy, 8da4w --------------------------------------------------------------------


def affine(x, block, bits, eps, scale_dtype=None, zero_dtype=torch.int8, mapping=MappingType.SYMMETRIC):
    """The planes of torchao's primitives and what they stand for."""
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    s, z = choose_qparams_affine(x, mapping, block, torch.int8, low, high, eps=eps, scale_dtype=scale_dtype,
                                 zero_point_dtype=zero_dtype, keepdim=True)
    codes = quantize_affine(x, block, s, z, torch.int8, low, high)
    y = dequantize_affine(codes, block, s, z, torch.int8, low, high, output_dtype=x.dtype)
    return {"codes": codes, "scales": s, "zeros": z}, y


AFFINE = "choose_qparams_affine, quantize_affine"
GONE = "with the arguments of Int8DynamicActivationInt4WeightConfig, which 0.18.0 has no more; zero points, all 0, as int8"


def fake_and_gradient(sets, at, x, kind, fake, name, kind_of_gradient=None):
    sets.prepare(at, x, fake, name)
    if kind not in ("nonfinite", "huge"):
        sets.gradient(at, x, fake, name, kind=kind_of_gradient)


def planes_and_values(sets, at, x, planes, y, name, note=""):
    sets.file.op(at, "convert", (TORCHAO, name, note), {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "dequantize_affine", ""), planes, {"y": y})


def legacy_tokens(x):
    return affine(x, (1, x.shape[1]), 8, torch.finfo(F32).eps, F32, mapping=MappingType.ASYMMETRIC)


def legacy_weight(sets, dtype, kind, rows=4, cols=96, group=32, held=None, eps="step", multiply=None):
    params = parameters(group=group if group != 32 else None, prepare_scale="input" if held else None,
                        eps=eps if eps != "step" else None)
    at, x = sets.start("int8-int4-legacy", "weight", dtype, kind, params, rows, cols, group)
    bound = torch.finfo(dtype).eps if eps == "step" else None
    held = dtype if held else F32
    fake = FakeQuantizerBase.from_config(IntxFakeQuantizeConfig(
        torch.int4, PerGroup(group), is_symmetric=True, scale_precision=held, eps=bound))
    fake_and_gradient(sets, at, x, kind, fake, f"IntxFakeQuantizer(4 bits, PerGroup({group}), "
                      f"scale_precision={held}, eps={bound})")
    planes, w = affine(x, (1, group), 4, bound)
    planes_and_values(sets, at, x, planes, w, AFFINE, GONE)
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        _, b = legacy_tokens(a)
        matmul_op(sets, at, a, planes, torch.nn.functional.linear(b, w), TORCHAO,
                  AFFINE + ", dequantize_affine, linear", GONE)


def legacy_activation(sets, dtype, kind, eps="step"):
    at, x = sets.start("int8-int4-legacy", "activation", dtype, kind,
                       parameters(eps=eps if eps != "step" else None), 4, 100, 100)
    bound = torch.finfo(dtype).eps if eps == "step" else None
    fake = FakeQuantizerBase.from_config(IntxFakeQuantizeConfig(torch.int8, "per_token", is_symmetric=False,
                                                                eps=bound))
    fake_and_gradient(sets, at, x, kind, fake, f"IntxFakeQuantizer(8 bits, per token, eps={bound})")
    planes_and_values(sets, at, x, *legacy_tokens(x), AFFINE, GONE)


def legacy_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        legacy_weight(sets, dtype, "normal-0.02", multiply="normal")
        legacy_weight(sets, dtype, "normal", multiply="nonfinite")
        for kind in COMMON if dtype == BF16 else ("small", "tiny", "huge", "nonfinite"):
            legacy_weight(sets, dtype, kind)
            legacy_activation(sets, dtype, kind)
        for kind in ("codes-4", "ties-symmetric4", "normal-1e-3"):
            legacy_weight(sets, dtype, kind)
        for kind in ("codes-8", "normal-1e-3"):
            legacy_activation(sets, dtype, kind)
        legacy_activation(sets, dtype, "normal-1e-3", "normal")
        legacy_weight(sets, dtype, "normal-0.02", held="input")
        legacy_weight(sets, dtype, "normal-0.02", eps="normal")
        legacy_weight(sets, dtype, "small", cols=128, group=64, eps="normal")


def eight_da_four_w(sets, dtype, kind, rows=4, cols=256, group=256, multiply=None):
    params = parameters(group=group if group != 256 else None)
    at, x = sets.start("8da4w", "weight", dtype, kind, params, rows, cols, group)
    quantizer = Int8DynActInt4WeightQATQuantizer(groupsize=group, precision=dtype)
    module = torch.nn.Sequential(torch.nn.Linear(cols, rows, bias=False, dtype=dtype))
    module[0].weight = torch.nn.Parameter(x.clone())
    module = quantizer.prepare(module)
    fake_and_gradient(sets, at, x, kind, module[0].weight_fake_quantizer,
                      "weight fake quantizer of Int8DynActInt4WeightQATQuantizer.prepare")
    if kind == "nonfinite":
        return  # upstream's convert refuses NaN
    module = quantizer.convert(module)
    q = module[0]
    planes = {"codes": q.weight, "scales": q.scales, "zeros": q.zeros}
    y = dequantize_affine(q.weight, (1, group), q.scales, q.zeros, torch.int8, -8, 7, output_dtype=dtype)
    planes_and_values(sets, at, x, planes, y, "Int8DynActInt4WeightQATQuantizer.convert")
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a), TORCHAO, "Int8DynActInt4WeightLinear.forward", "")


def tokens_8da4w(sets, dtype, kind):
    at, x = sets.start("8da4w", "activation", dtype, kind, "", 4, 100, 100)
    fake = FakeQuantizerBase.from_config(
        Int8DynActInt4WeightQATQuantizer().get_activation_fake_quantize_config())
    fake_and_gradient(sets, at, x, kind, fake, "activation fake quantizer of Int8DynActInt4WeightQATQuantizer")
    eps = torch.finfo(F32).eps
    planes, y = affine(x, (1, 100), 8, eps, F32, F32, MappingType.ASYMMETRIC)
    assert torch.equal(y.nan_to_num(), per_token_dynamic_quant(x, eps=eps).nan_to_num())
    planes_and_values(sets, at, x, planes, y, AFFINE, "as in per_token_dynamic_quant")


def file_8da4w(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        eight_da_four_w(sets, dtype, "normal-0.02", multiply="normal")
        for kind in COMMON if dtype == BF16 else ("small", "tiny", "huge", "nonfinite"):
            eight_da_four_w(sets, dtype, kind, cols=64, group=32)
            tokens_8da4w(sets, dtype, kind)
        for kind in ("codes-4", "ties-symmetric4"):
            eight_da_four_w(sets, dtype, kind, cols=64, group=32)
        for kind in ("codes-8", "normal-1e-3"):
            tokens_8da4w(sets, dtype, kind)
        eight_da_four_w(sets, dtype, "normal", cols=128, group=64, multiply="nonfinite")


FILES = {
    "8da4w.h5": file_8da4w,
    "int8-int4-legacy.h5": legacy_file,
    "int8.h5": int8_file,
    "int8-g32.h5": grouped_file("int8-g32", 8),
    "int8-int4.h5": grouped_file("int8-int4", 4),
    "intx.h5": intx_file,
    "intx-dynamic.h5": intx_dynamic_file,
}
