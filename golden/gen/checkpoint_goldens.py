# SPDX-License-Identifier: MIT
"""What compressed-tensors makes of ct-int4, ct-int8 and ct-fp8."""
import upstream  # first: it sets the threads of torch

import numpy as np
import torch
from compressed_tensors.compressors.base import compress_module, decompress_module
from compressed_tensors.config import CompressionFormat
from compressed_tensors.quantization import QuantizationArgs, QuantizationScheme, preset_name_to_scheme
from compressed_tensors.quantization.lifecycle.forward import dequantize, forward_quantize, quantize
from compressed_tensors.quantization.lifecycle.initialize import initialize_module_for_quantization
from compressed_tensors.quantization.utils import calculate_qparams, compute_dynamic_scales_and_zp

import inputs
from torchao_goldens import BF16, COMMON, F16, F32, Sets, matmul_op, parameters, short

COMPRESSED = (f"compressed-tensors {upstream.version('compressed-tensors')}, torch {torch.__version__} "
              f"(CPU, {torch.backends.cpu.get_cpu_capability()})")


def ties_compressed(half_range):
    """max|x| = half_range s, s a power of two, elements half-way between codes and at the clip edges."""
    def make(r, n, g, t):
        s = inputs._power(r, n)
        x = (r.integers(-int(half_range + 0.5), int(half_range + 0.5), (n, g)) + 0.5) * s
        x[:, 0] = half_range * s[:, 0] * r.choice([-1, 1], n)
        x[:, 1] = -x[:, 0]
        return np.clip(x, -half_range * s, half_range * s)
    return make


def every_e4m3(r, n, g, t):
    """Every number of e4m3 but -0 times a power of two, -0, and what becomes a code of -0 or 0."""
    numbers = np.concatenate([inputs.E4M3, -inputs.E4M3[1:], [-0.0, -(2.0**-11), 2.0**-11]])
    return np.resize(numbers, (n, g)) * inputs._power(r, n)


inputs.KINDS.update({"ties-15": ties_compressed(7.5), "ties-255": ties_compressed(127.5),
                     "every-e4m3": every_e4m3})


# --- compressed-tensors -------------------------------------------------------------------------


def compressed_scheme(name, group=128):
    """The preset's scheme, and the format that is inferred for it; ct-int8: its weight-only half."""
    if name == "ct-fp8":
        return preset_name_to_scheme("FP8_DYNAMIC", ["Linear"]), CompressionFormat.float_quantized
    if name == "ct-int8":
        weights = QuantizationArgs(num_bits=8, type="int", strategy="channel", symmetric=True)
        return QuantizationScheme(targets=["Linear"], weights=weights), CompressionFormat.pack_quantized
    weights = preset_name_to_scheme("W4A16", ["Linear"]).weights.model_copy(update={"group_size": group})
    return QuantizationScheme(targets=["Linear"], weights=weights), CompressionFormat.pack_quantized


def calibrated(x, scheme):
    """A Linear with weight x and scales from its minima and maxima."""
    n, k = x.shape
    module = torch.nn.Linear(k, n, bias=False)
    module.weight = torch.nn.Parameter(x.clone(), requires_grad=False)
    initialize_module_for_quantization(module, scheme)
    blocks = x.reshape(*module.weight_scale.shape, -1)
    scale, zero = calculate_qparams(blocks.amin(-1), blocks.amax(-1), scheme.weights)
    assert scale.dtype == x.dtype and not zero.to(F32).any()
    module.weight_scale.data.copy_(scale)
    return module


def compressed_weight(sets, name, dtype, kind, rows=8, cols=256, group=128, multiply=None):
    params = parameters(group=group if group != 128 else None)
    scheme, form = compressed_scheme(name, group)
    at, x = sets.start(name, "weight", dtype, kind, params, rows, cols, group if name == "ct-int4" else cols)
    module = calibrated(x, scheme)
    y = forward_quantize(module, module.weight.data, "weight", scheme.weights)
    sets.file.op(at, "fake-quant", (COMPRESSED, "calculate_qparams, forward_quantize", ""), {"x": x},
                 {"y": y})
    compress_module(module)
    assert scheme.format == form
    codes = module.weight.data if name == "ct-fp8" else module.weight_packed.data
    planes = {"codes": codes.clone(), "scales": module.weight_scale.data.clone()}
    sets.file.op(at, "convert", (COMPRESSED, f"calculate_qparams, compress_module ({form.value})", ""),
                 {"x": x}, planes)
    decompress_module(module)
    sets.file.op(at, "dequant", (COMPRESSED, f"decompress_module ({form.value})", ""), planes,
                 {"y": module.weight.data})
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        y = module(a[None])[0]  # of rank 3: one scale per token
        matmul_op(sets, at, a, planes, y, COMPRESSED, "forward of a Linear after decompress_module", "")


def compressed_tokens(sets, dtype, kind, rows=8, cols=200):
    at, x = sets.start("ct-fp8", "activation", dtype, kind, "", rows, cols, cols)
    args = compressed_scheme("ct-fp8")[0].input_activations
    module = torch.nn.Linear(cols, 1, bias=False)
    initialize_module_for_quantization(module, compressed_scheme("ct-fp8")[0])
    y = forward_quantize(module, x[None], "input", args)[0]
    sets.file.op(at, "fake-quant", (COMPRESSED, "forward_quantize of a dynamic input", "input of rank 3"),
                 {"x": x}, {"y": y})
    scale, zero = compute_dynamic_scales_and_zp(x[None], args, module)
    codes = quantize(x[None], scale, zero, args, dtype=args.pytorch_dtype())
    planes = {"codes": codes[0], "scales": scale[0]}
    sets.file.op(at, "convert", (COMPRESSED, "compute_dynamic_scales_and_zp, quantize", "input of rank 3"),
                 {"x": x}, planes)
    y = dequantize(codes, scale, None, args)[0]
    sets.file.op(at, "dequant", (COMPRESSED, "dequantize", ""), planes, {"y": y})


def ct_int4_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        compressed_weight(sets, "ct-int4", dtype, "normal-0.02", 16, 512, multiply="normal")
        for kind in COMMON + ["ties-15", "ties-symmetric4"]:
            compressed_weight(sets, "ct-int4", dtype, kind, 4)
        for group in (32, 64, 256):
            for kind in short(dtype):
                compressed_weight(sets, "ct-int4", dtype, kind, 4, group=group,
                                  multiply="normal" if kind == "repeated" else None)
        compressed_weight(sets, "ct-int4", dtype, "normal", 4, 47 * 3, group=47, multiply="nonfinite")
        compressed_weight(sets, "ct-int4", dtype, "normal", 4, 33 * 2, group=33)


def ct_int8_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        compressed_weight(sets, "ct-int8", dtype, "normal-0.02", 16, 512, multiply="normal")
        for kind in COMMON + ["ties-255", "ties-symmetric8"]:
            compressed_weight(sets, "ct-int8", dtype, kind, 8 if kind == "ties-255" else 4, 128)
        for cols in (7, 333):
            compressed_weight(sets, "ct-int8", dtype, "normal", 9, cols, multiply="nonfinite")


def ct_fp8_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        compressed_weight(sets, "ct-fp8", dtype, "normal-0.02", 16, 512, multiply="normal")
        for kind in COMMON + ["ties-e4m3"]:
            compressed_weight(sets, "ct-fp8", dtype, kind, 4, 128,
                              multiply="outlier" if kind == "few" else None)
            compressed_tokens(sets, dtype, kind, 4, 100)
        compressed_weight(sets, "ct-fp8", dtype, "every-e4m3", 2, 512)
        compressed_tokens(sets, dtype, "every-e4m3", 2, 512)
        for cols in (7, 333):
            compressed_weight(sets, "ct-fp8", dtype, "normal", 9, cols, multiply="nonfinite")


FILES = {
    "ct-fp8.h5": ct_fp8_file,
    "ct-int4.h5": ct_int4_file,
    "ct-int8.h5": ct_int8_file,
}
