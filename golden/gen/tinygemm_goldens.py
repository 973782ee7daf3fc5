# SPDX-License-Identifier: MIT
"""int4-tinygemm: torchao's quantizers, PyTorch's CPU kernel, and by hand what only CUDA does."""
from upstream import DERIVED, TORCHAO  # first: it sets up Triton's interpreter

import numpy as np
import torch
from torchao.quantization.qat.linear import Int4WeightOnlyQATQuantizer
from torchao.quantization.quant_primitives import (
    MappingType,
    _choose_qparams_affine_tinygemm,
    _dequantize_affine_tinygemm,
    _quantize_affine_tinygemm,
)
from torchao.quantization.utils import groupwise_affine_quantize_tensor, pack_tinygemm_scales_and_zeros

import exact
import inputs
from torchao_goldens import BF16, COMMON, Sets, matmul_op, parameters

CONVERT = ("_choose_qparams_affine_tinygemm, _quantize_affine_tinygemm, pack_tinygemm_scales_and_zeros, as in "
           "Int4TilePackedTo4dTensor.from_hp")
TILES = "the order of codes, _convert_weight_to_int4pack's on CUDA, by numpy (int4mm.cu)"


def multiple(n, of):
    return -(-n // of) * of


def tiles(codes):
    """[N,K] of 0..15 as int32 [N/8, K/128, 32, 4]."""
    n, k = codes.shape
    # row in tile, block of 128 columns, word, half of 16 columns, eighth, thread's pair, of a pair
    q = codes.numpy().astype(np.uint32).reshape(n // 8, 8, k // 128, 4, 2, 2, 4, 2)
    #                        n8 k128 row pair word | parity half eighth: from the lowest nibble up
    q = q.transpose(0, 2, 1, 6, 3, 7, 4, 5).reshape(n // 8, k // 128, 32, 4, 8)
    words = (q << (4 * np.arange(8, dtype=np.uint32))).sum(axis=-1, dtype=np.uint32)
    return torch.from_numpy(words.view(np.int32).copy())


def quantize(x, group, eps):
    """(codes of the padded x, scales, zeros, made by)."""
    n, k = x.shape
    w = torch.nn.functional.pad(x, (0, multiple(k, 1024) - k, 0, multiple(n, 8) - n))
    if eps:
        codes, pairs = groupwise_affine_quantize_tensor(w, 4, group)
        s, z = pairs.transpose(0, 1).unbind(-1)
        return codes, s, z, "groupwise_affine_quantize_tensor, as in Int4WeightOnlyQATQuantizer.convert; padded"
    s, z = _choose_qparams_affine_tinygemm(w, MappingType.ASYMMETRIC, (1, group), torch.int32, 0, 15,
                                           scale_dtype=BF16, zero_point_dtype=BF16)
    codes = _quantize_affine_tinygemm(w, (1, group), s, z, torch.int32, 0, 15)
    return codes, s.reshape(len(w), -1), z.reshape(len(w), -1), CONVERT


def fused(codes, s, z, group, dtype):
    """(q - 8) s + z with one rounding, in rational numbers."""
    q, s, z = (codes - 8).tolist(), s.double().tolist(), z.double().tolist()
    y = [exact.fused(q[r][k], s[r][k // group], z[r][k // group], dtype)
         for r in range(len(q)) for k in range(len(q[0]))]
    return exact.tensor(y, codes.shape, dtype)


def values(codes, s, z, group, dequant):
    """What the codes stand for, and who says so."""
    if dequant == "torchao":
        y = _dequantize_affine_tinygemm(codes, (1, group), s, z, torch.int32, 0, 15, output_dtype=BF16)
        return y, (TORCHAO, "_dequantize_affine_tinygemm", "")
    if dequant == "cuda":
        return fused(codes, s, z, group, BF16), (DERIVED, "(q - 8) s + z in rational numbers, rounded by hand",
                                                 "the kernel's arithmetic: int4mm.cu")
    return (fused(codes, s, z, group, torch.float32),
            (DERIVED, "(q - 8) s + z in rational numbers, rounded to binary32, then to bf16",
             "int4mm_kernel.cpp keeps binary32; AVX512"))


def product(x, w, codes, pairs, group, dequant):
    if dequant != "cpu":
        return torch.nn.functional.linear(x, w), (TORCHAO, "torch.nn.functional.linear on the dequantized weight",
                                                  "the weight as in dequant of this set")
    packed = torch.ops.aten._convert_weight_to_int4pack_for_cpu(codes, 1)
    return (torch.ops.aten._weight_int4pack_mm_for_cpu(x, packed, group, pairs),
            (TORCHAO, "_convert_weight_to_int4pack_for_cpu, _weight_int4pack_mm_for_cpu",
             "the same codes in the CPU's order, unpadded"))


def one(sets, kind, rows=4, cols=128, group=128, dequant="cuda", eps=0, multiply=None, prepare=True,
        kind_of_gradient=None):
    params = parameters(group=group if group != 128 else None, eps=eps or None,
                        dequant=dequant if dequant != "cuda" else None)
    at, x = sets.start("int4-tinygemm", "weight", BF16, kind, params, rows, cols, group)
    if prepare:
        module = torch.nn.Sequential(torch.nn.Linear(cols, rows, bias=False, dtype=BF16))
        module[0].weight = torch.nn.Parameter(x.clone())
        fake = Int4WeightOnlyQATQuantizer(groupsize=group).prepare(module)[0].weight_fake_quantizer
        name = "weight fake quantizer of Int4WeightOnlyQATQuantizer.prepare"
        sets.prepare(at, x, fake, name)
        if kind not in ("nonfinite", "huge"):
            sets.gradient(at, x, fake, name, kind=kind_of_gradient)
    codes, s, z, name = quantize(x, group, eps)
    pairs = pack_tinygemm_scales_and_zeros(s, z)
    # A NaN becomes an int32 whose last bits are 0: what is left of it in a nibble.
    planes = {"codes": tiles(codes & 15), "scale_and_zero": pairs}
    sets.file.op(at, "convert", (TORCHAO, name, TILES), {"x": x}, planes)
    inner = (codes & 15)[:rows, :cols].contiguous(), s[:rows, : cols // group], z[:rows, : cols // group]
    w, made_by = values(*inner, group, dequant)
    sets.file.op(at, "dequant", made_by, planes, {"y": w.to(BF16)})
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, BF16, sets.seed)
        y, made_by = product(a, w, inner[0], pairs[: cols // group, :rows].contiguous(), group, dequant)
        matmul_op(sets, at, a, planes, y, *made_by)


def tinygemm_file(file):
    sets = Sets(file)
    for dequant in ("cuda", "torchao", "cpu"):
        rows = 16 if dequant == "cpu" else 3  # what PyTorch's CPU kernel takes
        for kind in ("normal-0.02", "positive", "ties-asymmetric"):
            one(sets, kind, rows, 128, dequant=dequant, multiply="normal")
        for group in (32, 64, 256):
            one(sets, "normal-1e-3", rows, 256, group, dequant, multiply="normal")
        one(sets, "normal", rows, 1152, 128, dequant, multiply="normal")
    for kind in COMMON + ["normal-1e-3"]:
        one(sets, kind)
    for kind in ("small", "tiny", "zeros", "constant", "normal-1e-3"):
        one(sets, kind, 4, 128, 32, "torchao", 1e-6)
    for rows, cols, group in ((3, 96, 32), (13, 64, 64), (1, 1056, 32)):
        one(sets, "normal-0.02", rows, cols, group, multiply="normal", prepare=False)
    for kind in inputs.GRADIENTS:
        one(sets, "normal-0.02", 4, 128, kind_of_gradient=kind)


FILES = {"int4-tinygemm.h5": tinygemm_file}
