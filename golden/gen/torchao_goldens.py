# SPDX-License-Identifier: MIT
"""What torchao, PyTorch's autograd and FBGEMM's quantizers make of int4 and fp8-int4."""
import upstream  # first: it sets up Triton's interpreter
from upstream import DERIVED, FBGEMM, FBGEMM_TRITON, MSLK_TRITON, TORCHAO, float8_cast

import numpy as np
import torch
from torchao.quantization import Float8DynamicActivationInt4WeightConfig, Int4WeightOnlyConfig
from torchao.quantization.granularity import PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig
from torchao.quantization.qat.fake_quantize_config import (
    Int4WeightFakeQuantizeConfig,
    _infer_fake_quantize_configs,
)
from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase

import exact
import inputs
from model import write_model
from store import WORDS, File

BF16, F16, F32, E4M3 = torch.bfloat16, torch.float16, torch.float32, torch.float8_e4m3fn
SCALE_DTYPES = {"bf16": BF16, "f16": F16, "f32": F32}
COMMON = ["normal", "normal-0.02", "uniform", "zeros", "constant", "outlier", "positive", "tiny",
          "small", "huge", "edges", "repeated", "few", "nonfinite"]
SHORT = ["normal-1e-3", "repeated", "tiny"]  # for parameters off their defaults


def short(dtype):
    return SHORT if dtype == torch.bfloat16 else SHORT[1:2]


def parameters(**p):
    """group=32 -> "group=32"; None is left out."""
    return " ".join(f"{k.replace('_', '-')}={v}" for k, v in p.items() if v is not None)


def gradient_of(function, x, g):
    x = x.clone().requires_grad_()
    (dx,) = torch.autograd.grad(function(x), x, g)
    return dx


def other_scale_dtypes(dtype):
    return [word for word, t in SCALE_DTYPES.items() if t != dtype]


class Sets:
    """The sets of one file. Inputs of one kind, shape and dtype are the same in all of them (and stored
    once); the kinds of gradients take turns."""

    def __init__(self, file):
        self.file, self.seed, self.turn = file, 1, 0

    def start(self, scheme, operand, dtype, kind, params, rows, cols, shared):
        self.turn += 1
        if dtype != BF16 and rows == 8:
            rows = 4  # the same arithmetic in another dtype: half the bytes are enough
        at = f"{scheme}.{operand}.{WORDS[dtype].lower()}.{kind}"
        if params:
            at += "." + params.replace(" ", ".")
        if at in self.file.h5:
            at += f".{self.turn}"
        self.file.group(at, scheme=scheme, operand=operand, dtype=WORDS[dtype], params=params,
                        seed=self.seed)
        return at, inputs.matrix(kind, rows, cols, shared, dtype, self.seed)

    def prepare(self, at, x, function, name, note="", grads=None):
        """fake-quant."""
        self.file.op(at, "fake-quant", (TORCHAO, name, note), {"x": x}, {"y": function(x).detach()})

    def gradient(self, at, x, function, name, note="", kind=None):
        """fake-quant-grad, with the kind of gradient that is next when none is given."""
        kinds = list(inputs.GRADIENTS)
        g = inputs.gradient(kind or kinds[self.turn % len(kinds)], x.shape, x.dtype, self.seed)
        self.file.op(at, "fake-quant-grad", (TORCHAO, "autograd through " + name, note),
                     {"x": x, "g": g}, {"dx": gradient_of(function, x, g)})


def fake_quantizers(config):
    """(activation's, weight's) fake quantizer of a base config, as QAT makes them."""
    return [c and FakeQuantizerBase.from_config(c) for c in _infer_fake_quantize_configs(config)]


# --- int4 ---------------------------------------------------------------------------------------


def int4_planes(w, group, scale_dtype):
    codes, scales, zeros = upstream.fbgemm_quantize.int4_row_quantize_zp(w, group)
    return {"codes": upstream.fbgemm_quantize.pack_int4(codes).view(torch.uint8),
            "scales": scales.to(scale_dtype), "zeros": zeros.to(scale_dtype)}


def nibbles(packed):
    p = packed.to(torch.int16)
    q = torch.stack([p & 15, p >> 4], dim=-1).reshape(p.shape[0], -1)
    return torch.where(q > 7, q - 16, q)


def int4_dequant(planes, group, dtype, two_step):
    """q*s + z in the scales' dtype, in rational numbers."""
    q = nibbles(planes["codes"]).tolist()
    s, z, t = planes["scales"].double().t().tolist(), planes["zeros"].double().t().tolist(), planes["scales"].dtype
    y = []
    for row in range(len(q)):
        for k, code in enumerate(q[row]):
            a, b = s[row][k // group], z[row][k // group]
            y.append(exact.total(exact.product(code, a, t), b, t) if two_step
                     else exact.fused(code, a, b, t))
    return exact.tensor(y, (len(q), -1), t).to(dtype)


INT4_CONVERT = (FBGEMM, "fbgemm_gpu.experimental.gen_ai.quantize int4_row_quantize_zp, pack_int4; "
                "scales and zeros cast by torch", "")


def int4_kernel_side(sets, at, x, group=128, scale_dtype=None, mode=None):
    """convert, dequant and (where the last is made of finite numbers of usual size) matmul."""
    planes = int4_planes(x, group, SCALE_DTYPES.get(scale_dtype, x.dtype))
    sets.file.op(at, "convert", INT4_CONVERT, {"x": x}, planes)
    two_step = mode == "two-step"
    y = int4_dequant(planes, group, x.dtype, two_step)
    sets.file.op(at, "dequant", (DERIVED, "q*s + z in rational numbers, rounded by hand",
                                 "the kernel's arithmetic (bf16i4bf16.cu, mixed_input_utils.hpp) "
                                 + ("with two roundings" if two_step else "fused: one rounding")),
                 planes, {"y": y})
    return planes, y


def matmul_op(sets, at, x, planes, y, library, name, note):
    sets.file.op(at, "matmul", (library, name, note), {"x": x, **planes}, {"y": y})


def linear_op(sets, at, planes, w, m, seed):
    x = inputs.matrix("normal", m, w.shape[1], w.shape[1], w.dtype, seed)
    matmul_op(sets, at, x, planes, torch.nn.functional.linear(x, w), TORCHAO,
              "torch.nn.functional.linear on the dequantized weight",
              "the weight as in dequant of this set")


def int4_file(file):
    sets = Sets(file)
    name = "Int4WeightFakeQuantizer of Int4WeightOnlyConfig"

    def one(dtype, kind, rows=8, cols=256, group=128, scale_dtype=None, mode=None, multiply=False):
        params = parameters(group=group if group != 128 else None, scale_dtype=scale_dtype, dequant=mode)
        at, x = sets.start("int4", "weight", dtype, kind, params, rows, cols, group)
        _, fake = fake_quantizers(Int4WeightOnlyConfig(group_size=group))
        sets.prepare(at, x, fake, name)
        if kind not in ("nonfinite", "huge"):
            sets.gradient(at, x, fake, name)
        planes, w = int4_kernel_side(sets, at, x, group, scale_dtype, mode)
        if multiply:
            linear_op(sets, at, planes, w, 5, sets.seed)

    for dtype in (BF16, F32, F16):
        one(dtype, "normal-0.02", rows=16, cols=512, multiply=True)
        one(dtype, "normal-1e-3", rows=32)
        for kind in COMMON + ["ties-asymmetric"]:
            one(dtype, kind)
        for group in (32, 64, 256):
            for kind in short(dtype):
                one(dtype, kind, 4, group=group, multiply=kind == "repeated")
        for kind in short(dtype):
            one(dtype, kind, 4, mode="two-step", multiply=kind == "repeated")
        for scale_dtype in other_scale_dtypes(dtype):
            for kind in ("normal-1e-3", "tiny"):
                one(dtype, kind, 4, scale_dtype=scale_dtype)
            one(dtype, "normal", 4, scale_dtype=scale_dtype, mode="two-step")
    for dtype in (BF16, F32):
        for cols, group in ((200, 128), (34, 32), (130, 64)):
            params = parameters(group=group if group != 128 else None, ragged="short")
            at, x = sets.start("int4", "weight", dtype, "normal-0.02", params, 8, cols, group)
            int4_kernel_side(sets, at, x, group)
    for kind in inputs.GRADIENTS:
        for dtype in (BF16, F32, F16):
            at, x = sets.start("int4", "weight", dtype, "normal-0.02", "", 8, 256, 128)
            sets.gradient(at, x, fake_quantizers(Int4WeightOnlyConfig())[1], name, kind=kind)


def old_weight(sets, scheme, dtype, kind, group, eps, rows=8, cols=256):
    """The prepare path that int4-old and fp8-int4-old share. eps None: upstream's default."""
    fake = FakeQuantizerBase.from_config(
        IntxFakeQuantizeConfig(torch.int4, PerGroup(group), is_symmetric=True, eps=eps))
    params = parameters(group=group if group != 128 else None, prepare_eps=0 if eps is None else None)
    at, x = sets.start(scheme, "weight", dtype, kind, params, rows, cols, group)
    name = f"IntxFakeQuantizer(int4, PerGroup({group}), eps={eps})"
    note = "default binary32 scales; eps set to what torchao used before 0.18.0" if eps else ""
    sets.prepare(at, x, fake, name, note)
    if kind not in ("nonfinite", "huge"):
        sets.gradient(at, x, fake, name, note)
    return at, x


def int4_old_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in COMMON + ["normal-1e-3", "ties-symmetric4"]:
            old_weight(sets, "int4-old", dtype, kind, 128, 2.0**-7)
        for group in (32, 256):
            for kind in ("normal-1e-3", "repeated"):
                old_weight(sets, "int4-old", dtype, kind, group, 2.0**-7, 4)
        for kind in SHORT + ["ties-symmetric4", "nonfinite"]:
            old_weight(sets, "int4-old", dtype, kind, 128, None, 4)
    for dtype in (BF16, F32, F16):
        at, x = sets.start("int4-old", "weight", dtype, "normal", "", 8, 256, 128)
        planes, w = int4_kernel_side(sets, at, x)
        linear_op(sets, at, planes, w, 5, sets.seed)


# --- fp8-int4 -----------------------------------------------------------------------------------


def quantize_rows(x, row, eps=1e-12):
    """(codes, scales, made_by) of a row quantizer."""
    if row == "fbgemm":
        return *upstream.fbgemm_row_triton(x), (FBGEMM_TRITON, "fp8_gemm.py triton_quantize_fp8_row",
            "kernel in Triton's interpreter up to the cast, which is PyTorch's; / is correctly rounded")
    if row == "fbgemm-cpu":
        return *upstream.fbgemm_row_cpu(x), (FBGEMM, "fp8_gemm.py quantize_fp8_row on the CPU", "")
    return *upstream.mslk_row_triton(x, eps), (MSLK_TRITON, "fp8_quantize.py triton_quantize_fp8_row",
        "kernel in Triton's interpreter up to the cast, which is PyTorch's")


def fp8_int4_planes(w, group, row, eps=1e-12):
    codes, row_scales, (library, name, note) = quantize_rows(w, row, eps)
    q, scales = upstream.fbgemm_quantize.int4_row_quantize(codes, group)
    return ({"codes": upstream.fbgemm_quantize.pack_int4(q).view(torch.uint8), "scales": scales.to(E4M3),
             "row_scales": row_scales},
            (library if row != "mslk" else f"{library}; {FBGEMM}",
             name + "; gen_ai/quantize.py int4_row_quantize, pack_int4; group scales cast by torch", note))


def table(planes, group, product):
    """[rows][cols] of the numbers that the kernel multiplies with, in rational numbers."""
    q, s = nibbles(planes["codes"]).tolist(), planes["scales"].double().t().tolist()
    t = E4M3 if product == "e4m3" else F32
    return [[exact.product(-1.0 if c <= 0 else 1.0, exact.product(abs(c), s[r][k // group], t), F32)
             for k, c in enumerate(q[r])] for r in range(len(q))]


def scaled(values, scales, dtype):
    """R(f32(value * scale of its row))."""
    y = [exact.product(v, s, F32) for row, s in zip(values, scales.tolist()) for v in row]
    return exact.tensor(y, (len(values), -1), F32).to(dtype)


def fp8_matmul(x, planes, group, row, eps, product):
    """y = R(f32(row scale of w * f32(scale of x * f32(sum)))), the sum in integers."""
    codes, scales, _ = quantize_rows(x, row, eps)
    grid = 2.0**-18  # of an exact product of an e4m3 number and an exact |q| s
    a = (codes.double() * 512).to(torch.int64).numpy()
    b = np.array(table(planes, group, product)) / grid
    assert np.array_equal(b, np.rint(b))
    y = []
    for m in range(len(a)):
        for n in range(len(b)):
            total = sum(int(i) * int(j) for i, j in zip(a[m], b[n]))
            acc = exact.to_format(exact.Fraction(total, 512 * 2**18), F32)
            t = exact.product(float(scales[m]), acc, F32)
            y.append(exact.product(float(planes["row_scales"][n]), t, F32))
    return exact.tensor(y, (len(a), -1), F32).to(x.dtype)


def fp8_kernel_side(sets, at, x, group, row, eps, product, multiply=False):
    planes, made_by = fp8_int4_planes(x, group, row, eps)
    sets.file.op(at, "convert", made_by, {"x": x}, planes)
    y = scaled(table(planes, group, product), planes["row_scales"], x.dtype)
    sets.file.op(at, "dequant", (DERIVED, "table of |q| s times row scale, rounded by hand",
                                 "the kernel's table: cutlass mixed_dtype_utils.hpp; f8i4bf16_shuffled.cu"),
                 planes, {"y": y})
    if multiply:
        a = inputs.matrix("normal", 4, x.shape[1], x.shape[1], x.dtype, sets.seed)
        y = fp8_matmul(a, planes, group, row, eps, product)
        matmul_op(sets, at, a, planes, y, DERIVED, "integer sums, epilogue in rational numbers",
                  "f8i4bf16_shuffled.cu; row quantizer as in convert of this set")


def fp8_activation_side(sets, at, x, row, eps):
    codes, scales, made_by = quantize_rows(x, row, eps)
    sets.file.op(at, "convert", made_by, {"x": x}, {"codes": codes, "scales": scales})
    y = scaled(codes.double().tolist(), scales, x.dtype)
    sets.file.op(at, "dequant", (DERIVED, "code times scale, rounded by hand",
                                 "the kernel applies the scale in its epilogue"),
                 {"codes": codes, "scales": scales}, {"y": y})


CAST_NOTES = {"torch": "", "ideal": "torchao's cast to float8 replaced by one of the same value that hands "
              "the gradient on in binary32",
              "none": "torchao's cast to float8 left out"}


def fp8_fake(sets, at, x, operand, cast, group=128, only_gradient=False, kind=None, forward=True):
    act, weight = fake_quantizers(Float8DynamicActivationInt4WeightConfig())
    if group != 128:
        weight = FakeQuantizerBase.from_config(Int4WeightFakeQuantizeConfig(group, E4M3))
    fake = act if operand == "activation" else weight
    name = type(fake).__name__ + " of Float8DynamicActivationInt4WeightConfig"
    with float8_cast(cast):
        if not only_gradient:
            sets.prepare(at, x, fake, name, CAST_NOTES[cast])
        if forward != "only":
            sets.gradient(at, x, fake, name, CAST_NOTES[cast], kind)


def fp8_int4_file(file):
    sets = Sets(file)

    def weight(dtype, kind, group=128, row="fbgemm", eps=1e-12, product="e4m3", grad="torch", rows=8,
               cols=256, multiply=False):
        params = parameters(group=group if group != 128 else None, row=row if row != "fbgemm" else None,
                            row_eps=eps if eps != 1e-12 else None,
                            product=product if product != "e4m3" else None,
                            grad=grad if grad != "torch" else None)
        at, x = sets.start("fp8-int4", "weight", dtype, kind, params, rows, cols, cols)
        fp8_fake(sets, at, x, "weight", grad, group, forward="only" if kind in ("nonfinite", "huge") else True)
        if kind != "nonfinite" or row == "fbgemm-cpu":
            fp8_kernel_side(sets, at, x, group, row, eps, product, multiply)

    def activation(dtype, kind, row="fbgemm", eps=1e-12, grad="torch", rows=8, cols=200):
        params = parameters(row=row if row != "fbgemm" else None, row_eps=eps if eps != 1e-12 else None,
                            grad=grad if grad != "torch" else None)
        at, x = sets.start("fp8-int4", "activation", dtype, kind, params, rows, cols, cols)
        fp8_fake(sets, at, x, "activation", grad, forward="only" if kind in ("nonfinite", "huge") else True)
        if kind != "nonfinite" or row == "fbgemm-cpu":
            fp8_activation_side(sets, at, x, row, eps)

    rows = [("fbgemm-cpu", 1e-12), ("mslk", 1e-12), ("mslk", 0.001953125)]
    for dtype in (BF16, F32, F16):
        weight(dtype, "normal-0.02", rows=16, cols=512, multiply=True)
        for kind in COMMON + ["normal-1e-3", "ties-e4m3"]:
            weight(dtype, kind)
            activation(dtype, kind)
        for row, eps in rows:
            for kind in short(dtype) + ["zeros", "tiny"][: 2 if dtype != BF16 else 1]:
                weight(dtype, kind, row=row, eps=eps, rows=4, multiply=kind == "repeated")
                activation(dtype, kind, row=row, eps=eps, rows=4)
        weight(dtype, "nonfinite", row="fbgemm-cpu")
        activation(dtype, "nonfinite", row="fbgemm-cpu")
        for kind in ("normal", "repeated", "ties-e4m3", "positive", "small")[: 5 if dtype == BF16 else 2]:
            weight(dtype, kind, grad="ideal", rows=4)
            activation(dtype, kind, grad="ideal", rows=4)
        for group in (32, 64, 256):
            weight(dtype, "normal-0.02", group=group, rows=4)
            weight(dtype, "repeated", group=group, grad="ideal", rows=4)
        weight(dtype, "normal-0.02", product="exact", rows=4, multiply=True)
    for operand in ("weight", "activation"):
        for kind in inputs.GRADIENTS:
            for dtype in (BF16, F32, F16):
                for grad in ("torch", "ideal"):
                    at, x = sets.start("fp8-int4", operand, dtype, "normal-0.02",
                                       parameters(grad="ideal" if grad == "ideal" else None), 3, 256, 256)
                    fp8_fake(sets, at, x, operand, grad, only_gradient=True, kind=kind)


def fp8_variants_file(file):
    """fp8-int4-old and fp8-int4-nocast: their own prepare paths; convert as fp8-int4."""
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in COMMON + ["normal-1e-3", "ties-symmetric4"]:
            old_weight(sets, "fp8-int4-old", dtype, kind, 128, 2.0**-7, 4)
            for scheme, operand in (("fp8-int4-nocast", "weight"), ("fp8-int4-nocast", "activation"),
                                    ("fp8-int4-old", "activation")):
                if scheme == "fp8-int4-old" and kind not in ("normal", "zeros", "tiny", "repeated"):
                    continue
                at, x = sets.start(scheme, operand, dtype, kind, "", 4, 256, 256)
                fp8_fake(sets, at, x, operand, "none",
                         forward="only" if kind in ("nonfinite", "huge") else True)
        for scheme in ("fp8-int4-old", "fp8-int4-nocast"):
            at, x = sets.start(scheme, "weight", dtype, "normal-0.02", "", 8, 256, 256)
            fp8_kernel_side(sets, at, x, 128, "fbgemm", 1e-12, "e4m3", multiply=True)
            for kind in ("normal-0.02", "every-e4m3", "ties-e4m3", "zeros"):
                at, x = sets.start(scheme, "activation", dtype, kind, "", 8, 256, 256)
                fp8_activation_side(sets, at, x, "fbgemm", 1e-12)


FILES = {
    "fp8-int4.h5": fp8_int4_file,
    "fp8-int4-variants.h5": fp8_variants_file,
    "int4.h5": int4_file,
    "int4-old.h5": int4_old_file,
    "torch_model.h5": write_model,
}
