# SPDX-License-Identifier: MIT
"""What torchao and TransformerEngine make of NVFP4: nvfp4, nvfp4-single, nvfp4-te."""
import upstream  # noqa: F401  first: threads of torch
from upstream import DERIVED, TORCHAO

import types
from fractions import Fraction
from unittest import mock

import numpy as np
import torch
from torchao.prototype.mx_formats import NVFP4WeightOnlyConfig
from torchao.prototype.mx_formats.nvfp4_tensor import (
    NVFP4Tensor,
    QuantizeTensorToNVFP4Kwargs,
    per_tensor_amax_to_scale,
)
from torchao.prototype.mx_formats.utils import from_blocked, to_blocked
from torchao.prototype.qat.nvfp4 import _NVFP4QuantizedForwardFakeQuantizedBackward
from torchao.quantization import quantize_

import exact
import inputs
import mx_goldens  # noqa: F401  its kinds of inputs
from torchao_goldens import BF16, F16, F32, Sets, matmul_op, parameters

BLOCK = 16
E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])
FLOAT_MAX = np.float32(np.finfo(np.float32).max)

# --- inputs -------------------------------------------------------------------------------------


def scales(tensor):
    """Blocks that want each e4m3 scale in turn, then the ties between them or the numbers beside those."""
    def fill(r, n, g, t):
        v = inputs.E4M3[4:]
        v = np.concatenate([v, (v[1:] + v[:-1]) / 2])[(np.arange(n) - n) % (2 * len(v) - 1)]
        v = v * np.where(np.arange(n) < len(inputs.E4M3), 1, 1 + r.integers(-1, 2, n) * torch.finfo(t).eps)
        v[-1] = 448
        x = 6 * v[:, None] * 2.0 ** -(np.arange(g) % 5) * r.choice([-1, 1], (n, g)) * tensor
        return x
    return fill


inputs.KINDS.update({"scales": scales(1.0), "scales-fine": scales(2.0**-14)})

# --- torchao ------------------------------------------------------------------------------------


def to_nvfp4(x, two_level, swizzled=False):
    scale = per_tensor_amax_to_scale(torch.max(torch.abs(x))) if two_level else None
    return NVFP4Tensor.to_nvfp4(x, per_tensor_scale=scale, is_swizzled_scales=swizzled)


def planes_of(q):
    planes = {"codes": q.qdata, "scales": q.scale}
    if q.per_tensor_scale is not None:
        planes["tensor_scale"] = q.per_tensor_scale.reshape(1)
    return planes


def nibbles(codes):
    c = codes.view(torch.uint8).numpy()
    return np.stack([c & 15, c >> 4], axis=-1).reshape(len(c), -1)


def scaled_values(codes, block_scales):
    """2 q 512 s, integers."""
    c = nibbles(codes)
    q = np.where(c & 8, -1, 1) * (E2M1[c & 7] * 2).astype(np.int64)
    s = (block_scales.double().numpy() * 512).astype(np.int64)
    return q * np.repeat(s, BLOCK, axis=1)


def exact_sums(a, b):
    """[M][N] of sums of a's and b's scaled values, rounded to binary32 once."""
    y = [[exact.to_format(Fraction(sum(int(i) * int(j) for i, j in zip(m, n)), 4 * 512 * 512), F32) for n in b]
         for m in a]
    return torch.tensor(y, dtype=torch.float64).to(torch.float32)


def scaled_mm(a, b, scale_a, scale_b, bias, out_dtype):
    """In the place of torch._scaled_mm, which needs tensor cores: exact sums, one rounding to binary32."""
    qa, qb = a.view(torch.uint8), b.view(torch.uint8).t()
    blocks = qa.shape[1] * 2 // BLOCK
    sa, sb = (from_blocked(s.flatten(), len(q), blocks) for s, q in ((scale_a, qa), (scale_b, qb)))
    return exact_sums(scaled_values(qa, sa), scaled_values(qb, sb)).to(out_dtype)


def multiply(sets, at, w, q, two_level, weight_only, kind, m):
    a = inputs.matrix(kind, m, w.shape[1], BLOCK, w.dtype, sets.seed + 1)
    if weight_only:
        module = torch.nn.Linear(*w.shape[::-1], bias=False, dtype=w.dtype)
        module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
        quantize_(module, NVFP4WeightOnlyConfig(use_dynamic_per_tensor_scale=two_level))
        y, name, note = module(a), "Linear after quantize_(NVFP4WeightOnlyConfig)", ""
    else:
        q.act_quant_kwargs = QuantizeTensorToNVFP4Kwargs(use_dynamic_per_tensor_scale=two_level)
        with mock.patch.object(torch, "_scaled_mm", scaled_mm):
            y = torch.nn.functional.linear(a, q)
        name = "linear of an NVFP4Tensor with act_quant_kwargs"
        note = "torch._scaled_mm, which needs tensor cores, replaced by exact sums in integers"
    matmul_op(sets, at, a, planes_of(q), y, TORCHAO, name, note)


def pass_back(sets, at, operand, x, q, kind):
    """The backward of the training module, with the identity for the other operand."""
    g = inputs.gradient(kind, x.shape, x.dtype, sets.seed)
    k = x.shape[1]
    codes = torch.eye(k, dtype=torch.uint8) * 2  # e2m1 for 1
    ones = NVFP4Tensor(codes[:, ::2] | codes[:, 1::2] << 4, torch.ones(k, k // BLOCK).to(torch.float8_e4m3fn),
                       BLOCK, x.dtype)
    assert torch.equal(ones.dequantize(), torch.eye(k, dtype=x.dtype))
    saved, dy = ((ones, q), g.t().contiguous()) if operand == "weight" else ((q, ones), g)
    context = types.SimpleNamespace(saved_tensors=saved, _fwd_used_autocast=False, _dtype=None)
    dx, dw, *rest = _NVFP4QuantizedForwardFakeQuantizedBackward.backward(context, dy)
    assert rest == [None] * 3
    sets.file.op(at, "fake-quant-grad", (TORCHAO, "_NVFP4QuantizedForwardFakeQuantizedBackward.backward",
                                         "called with the identity as the other operand"),
                 {"x": x, "g": g}, {"dx": dw if operand == "weight" else dx})


def defined(x, two_level):
    """Whether no element is NaN before it becomes a code, which has none."""
    if not torch.isfinite(x).all():
        return not two_level and not torch.isnan(x).any()
    return not two_level or x.abs().max() > 2.0**-115


def one(sets, scheme, operand, dtype, kind, swizzled=False, weight_only=False, rows=4, cols=128,
        gradient=None, by=None):
    params = parameters(layout="swizzled" if swizzled else None, matmul="weight-only" if weight_only else None)
    two_level = scheme == "nvfp4"
    at, x = sets.start(scheme, operand, dtype, kind, params, rows, cols, BLOCK)
    q = to_nvfp4(x, two_level, swizzled)
    planes = planes_of(q)
    name = f"NVFP4Tensor.to_nvfp4({'per_tensor_scale' if two_level else ''}{', swizzled' if swizzled else ''})"
    if defined(x, two_level) or torch.isnan(q.get_hp_scales()).any():
        sets.file.op(at, "fake-quant", (TORCHAO, name + ", dequantize", "what NVFP4FakeQuantizedLinear multiplies"),
                     {"x": x}, {"y": q.dequantize()})
    if gradient:
        pass_back(sets, at, operand, x, q, gradient)
    if defined(x, two_level):
        sets.file.op(at, "convert", (TORCHAO, name, ""), {"x": x}, planes)
        sets.file.op(at, "dequant", (TORCHAO, "NVFP4Tensor.dequantize", "planes as in convert of this set"),
                     planes, {"y": q.dequantize()})
    if by:
        multiply(sets, at, x, q, two_level, weight_only, *by)


def every_plane_value(sets, scheme, dtype):
    """dequant of every code under every e4m3 scale, NaN and negative ones among them."""
    at, _ = sets.start(scheme, "weight", dtype, "normal", "", 1, BLOCK, BLOCK)
    codes = torch.arange(16, dtype=torch.uint8)
    codes = (codes[::2] | codes[1::2] << 4).repeat(16, 16)
    block_scales = torch.arange(256, dtype=torch.uint8).reshape(16, 16).view(torch.float8_e4m3fn)
    tensor = torch.tensor(0.0123) if scheme != "nvfp4-single" else None
    q = NVFP4Tensor(codes, block_scales, BLOCK, dtype, per_tensor_scale=tensor)
    sets.file.op(at, "dequant", (TORCHAO, "NVFP4Tensor.dequantize", "planes made by hand"),
                 planes_of(q), {"y": q.dequantize()})


def torchao_file(scheme):
    def write(file):
        sets = Sets(file)
        kinds = ["codes-e2m1", "ties-e2m1", "scales", "scales-fine", "normal", "normal-1e-3", "zeros", "outlier",
                 "constant", "huge", "small", "tiny", "few", "infinite", "nonfinite"]
        for dtype in (BF16, F32):
            one(sets, scheme, "weight", dtype, "normal-0.02", rows=16, cols=256, by=("normal", 5))
            one(sets, scheme, "weight", dtype, "normal-0.02", weight_only=True, rows=16, swizzled=True,
                by=("normal", 3))
            for kind in kinds:
                cols = 512 if kind.startswith("scales") else 128
                one(sets, scheme, "weight", dtype, kind, rows=8, cols=cols,
                    by=("few", 3) if kind in ("ties-e2m1", "outlier") else None)
            for kind in ("codes-e2m1", "scales-fine", "zeros", "nonfinite"):
                one(sets, scheme, "activation", dtype, kind, rows=8)
            for i, kind in enumerate(inputs.GRADIENTS):
                one(sets, scheme, ("weight", "activation")[i % 2], dtype, "few", gradient=kind)
            every_plane_value(sets, scheme, dtype)
        one(sets, scheme, "weight", BF16, "normal-0.02", swizzled=True, rows=130, cols=80, by=("normal", 2))
        one(sets, scheme, "weight", F32, "normal-0.02", weight_only=True, rows=16, cols=96, by=("scales-fine", 3))
        one(sets, scheme, "activation", BF16, "normal", swizzled=True, rows=5, cols=48)

    return write


# --- TransformerEngine --------------------------------------------------------------------------

TE_NOTE = ("transformer_engine/pytorch/custom_recipes/reference_nvfp4.py, _quantize_blockwise_reference: the "
           "package needs a GPU")


def te_quantize(x):
    """(codes 0..15, block scales as e4m3, amax): binary32 steps."""
    f = x.float().numpy().reshape(len(x), -1, BLOCK)
    one_, six = np.float32(1), np.float32(6)
    with np.errstate(all="ignore"):
        amax = np.abs(f).max()
        s = np.minimum(np.float32(2688) / amax, FLOAT_MAX)
        s = one_ if amax == 0 or s == 0 else s
        wanted = np.minimum(np.abs(f).max(axis=2) * (s * (one_ / six)), np.float32(448))
        scale = torch.from_numpy(wanted).to(torch.float8_e4m3fn)
        factor = np.minimum(one_ / (scale.float().numpy() * (one_ / s)), FLOAT_MAX)
        v = (f * factor[:, :, None]).reshape(x.shape)
    assert v.dtype == np.float32
    middle = (E2M1[1:] + E2M1[:-1]) / 2
    a = np.abs(v).astype(np.float64)
    i = np.searchsorted(middle, a, "left")
    tie = (i < 7) & (a == middle[np.minimum(i, 6)])
    codes = (i + (tie & (i % 2 == 1)) | np.where(np.signbit(v), 8, 0)).astype(np.uint8)
    return codes, scale, torch.tensor([amax])


def te_planes(x, swizzled=False):
    codes, scale, amax = te_quantize(x)
    packed = torch.from_numpy(codes[:, ::2] | codes[:, 1::2] << 4)
    if swizzled:
        scale = to_blocked(scale).view(-(-len(x) // 128) * 32, -(-x.shape[1] // 64) * 16)
    return {"codes": packed, "scales": scale, "tensor_amax": amax}


def te_dequantize(planes, dtype):
    c = nibbles(planes["codes"])
    scale = planes["scales"].float().numpy()
    with np.errstate(all="ignore"):
        step = scale * planes["tensor_amax"].numpy()[0] * (np.float32(1) / np.float32(2688))
        q = (np.where(c & 8, -1.0, 1.0) * E2M1[c & 7]).astype(np.float32)
        y = q * np.repeat(step, BLOCK, axis=1)
    assert y.dtype == np.float32
    return torch.from_numpy(y).to(dtype)


def te_one(sets, operand, dtype, kind, swizzled=False, rows=4, cols=128, by=None):
    params = parameters(layout="swizzled" if swizzled else None)
    at, x = sets.start("nvfp4-te", operand, dtype, kind, params, rows, cols, BLOCK)
    planes, plain = te_planes(x, swizzled), te_planes(x)
    sets.file.op(at, "convert", (DERIVED, "binary32 steps in numpy, cast to e4m3 by torch", TE_NOTE),
                 {"x": x}, planes)
    sets.file.op(at, "dequant", (DERIVED, "binary32 steps in numpy",
                                 "transformer_engine/common/cast/nvfp4/dequantize_nvfp4.cuh"),
                 planes, {"y": te_dequantize(plain, dtype)})
    if by:
        a = inputs.matrix(by[0], by[1], cols, BLOCK, dtype, sets.seed + 1)
        p = te_planes(a)
        sums = exact_sums(scaled_values(p["codes"], p["scales"]), scaled_values(plain["codes"], plain["scales"]))
        alpha = p["tensor_amax"] * planes["tensor_amax"] * torch.tensor(1 / 2688**2, dtype=F32)
        matmul_op(sets, at, a, planes, (sums * alpha).to(dtype), DERIVED, "integer sums, epilogue in binary32",
                  "transformer_engine/common/recipe/nvfp4.cu for the factor of the product")


def te_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        te_one(sets, "weight", dtype, "normal-0.02", rows=16, cols=256, by=("normal", 4))
        for kind in ("codes-e2m1", "ties-e2m1", "scales", "scales-fine", "normal", "zeros", "outlier", "constant",
                     "huge", "small", "tiny", "few"):
            if dtype == F16 and kind == "scales":
                continue  # up to 2688: the same as scales-fine
            te_one(sets, "weight", dtype, kind, rows=8, cols=512 if kind.startswith("scales") else 128,
                   by=("few", 3) if kind == "outlier" else None)
        for kind in ("codes-e2m1", "scales-fine"):
            te_one(sets, "activation", dtype, kind, rows=8)
    te_one(sets, "weight", BF16, "normal-0.02", True, 130, 80, ("normal", 2))
    te_one(sets, "activation", BF16, "normal", True, 5, 48)


FILES = {"nvfp4.h5": torchao_file("nvfp4"), "nvfp4-single.h5": torchao_file("nvfp4-single"),
         "nvfp4-te.h5": te_file}
