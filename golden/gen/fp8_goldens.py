# SPDX-License-Identifier: MIT
"""What torchao, PyTorch's autograd, FBGEMM, MSLK, transformers and unsloth make of the fp8 schemes."""
import upstream  # first: it sets up Triton's interpreter
from upstream import DERIVED, FBGEMM_TRITON, TORCHAO, TORCHAO_TRITON, TRANSFORMERS, UNSLOTH_TRITON, float8_cast

import types

import torch
from torchao.float8.inference import Float8MMConfig
from torchao.quantization import (
    Float8DynamicActivationFloat8WeightConfig,
    Float8WeightOnlyConfig,
    quantize_,
)
from torchao.quantization.granularity import PerBlock, PerRow, PerTensor
from torchao.quantization.quantize_.common import KernelPreference
from torchao.quantization.quantize_.workflows.float8.float8_tensor import (
    Float8Tensor,
    QuantizeTensorToFloat8Kwargs,
)
from torchao.quantization.quantize_.workflows.int4 import int4_tensor
from transformers.integrations import finegrained_fp8
from transformers.utils.quantization_config import FineGrainedFP8Config

import exact
import inputs
from torchao_goldens import (
    BF16,
    CAST_NOTES,
    COMMON,
    E4M3,
    F16,
    F32,
    Sets,
    fake_quantizers,
    fp8_activation_side,
    fp8_fake,
    matmul_op,
    nibbles,
    parameters,
    quantize_rows,
    short,
)

GRANULARITY = {"fp8-fp8": PerRow(), "fp8-fp8-tensor": PerTensor(), "fp8": PerRow()}
MM = Float8MMConfig(use_fast_accum=True)
ROW_EPS = {"mslk": 1 / 512, "fbgemm": 1e-12}


EXTREMES = ["zeros", "tiny", "small", "huge", "repeated", "nonfinite", "ties-e4m3"]


def kinds(dtype, operand):
    """All in bf16; the arithmetic in other dtypes differs at the extremes, and operands not at all."""
    if dtype == BF16:
        return COMMON + ["normal-1e-3", "ties-e4m3"]
    return EXTREMES if operand == "weight" else EXTREMES[:3]


def float8(x, scheme, scale):
    """(Float8Tensor, made_by) of x by a quantizer of convert."""
    g = GRANULARITY[scheme]
    kwargs = QuantizeTensorToFloat8Kwargs(granularity=g) if scheme != "fp8" else None
    if scale == "torch":
        q = Float8Tensor.from_hp(x, granularity=g, mm_config=MM, act_quant_kwargs=kwargs)
        return q, (TORCHAO, f"Float8Tensor.from_hp, {g}", "PyTorch's quantizer, as without a GPU")
    codes, scales, made_by = quantize_rows(x, scale, ROW_EPS[scale])
    return Float8Tensor(codes, scales.reshape(-1, 1), block_size=[1, x.shape[1]], mm_config=MM,
                        act_quant_kwargs=kwargs, kernel_preference=KernelPreference.AUTO,
                        dtype=x.dtype), made_by


def product(sets, at, planes, scheme, scale, w, q, kind):
    """matmul: forward of the converted weight; of another quantizer's operands, torchao's product of them."""
    x = inputs.matrix(kind, 5, w.shape[1], w.shape[1], w.dtype, sets.seed)
    if scheme == "fp8":
        y, name = torch.matmul(x, q.dequantize().t()), "torch.matmul with Float8Tensor.dequantize"
        if scale == "torch":
            module = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
            module.weight = torch.nn.Parameter(w, requires_grad=False)
            quantize_(module, Float8WeightOnlyConfig())
            y, name = module(x), "forward of a Linear after quantize_(Float8WeightOnlyConfig)"
    elif scale == "torch":
        y, name = torch.nn.functional.linear(x, q), "torch.nn.functional.linear of a Float8Tensor"
    else:
        a, _ = float8(x, scheme, scale)
        y = torch._scaled_mm(a.qdata, q.qdata.t(), scale_a=a.scale, scale_b=q.scale.t(), out_dtype=w.dtype)
        name = "torch._scaled_mm, as torchao's linear calls it"
    matmul_op(sets, at, x, planes, y, TORCHAO, name, "")


def one(sets, scheme, operand, dtype, kind, scale=None, cast="torch", rows=8, cols=192, multiply=None,
        gradient=None, only_gradient=False):
    """One set. scale None: the only one there is; cast: as float8_cast has it."""
    tensor = scheme == "fp8-fp8-tensor"
    params = parameters(scale=scale if scale != "mslk" else None, cast="none" if cast == "none" else None,
                        grad="ideal" if cast == "ideal" else None)
    at, x = sets.start(scheme, operand, dtype, kind, params, rows, cols, rows * cols if tensor else cols)
    if tensor:  # one block: what the kind lays out per block
        x = inputs.matrix(kind, 1, x.numel(), x.numel(), dtype, sets.seed).reshape(x.shape)
    if scheme != "fp8":
        act, weight = fake_quantizers(Float8DynamicActivationFloat8WeightConfig(granularity=GRANULARITY[scheme]))
        fake = act if operand == "activation" else weight
        name = f"Float8FakeQuantizer of Float8DynamicActivationFloat8WeightConfig({GRANULARITY[scheme]})"
        with float8_cast(cast):
            if not only_gradient:
                sets.prepare(at, x, fake, name, CAST_NOTES[cast])
            if kind not in ("nonfinite", "huge"):
                sets.gradient(at, x, fake, name, CAST_NOTES[cast], gradient)
    if only_gradient or (kind == "nonfinite" and scale in ROW_EPS):
        return
    q, made_by = float8(x, scheme, scale or "torch")
    planes = {"codes": q.qdata, "scales": q.scale}
    sets.file.op(at, "convert", made_by, {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "Float8Tensor.dequantize", ""), planes, {"y": q.dequantize()})
    if multiply:
        product(sets, at, planes, scheme, scale or "torch", x, q, multiply)


def fp8_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for scheme in ("fp8-fp8", "fp8-fp8-tensor"):
            first = "mslk" if scheme == "fp8-fp8" else None
            for operand in ("weight", "activation"):
                linear = "normal" if operand == "weight" else None
                one(sets, scheme, operand, dtype, "normal-0.02", first, rows=16, cols=256, multiply=linear)
                for kind in kinds(dtype, operand):
                    one(sets, scheme, operand, dtype, kind, first)
                one(sets, scheme, operand, dtype, "every-e4m3", first, rows=4, cols=256)
                for kind in short(dtype) + ["ties-e4m3"]:
                    one(sets, scheme, operand, dtype, kind, first, "ideal", rows=4)
                    one(sets, scheme, operand, dtype, kind, first, "none", rows=4)
                for kind in inputs.GRADIENTS if operand == "weight" or dtype == BF16 else ():
                    for cast in ("torch", "ideal") if dtype == BF16 else ("ideal",):
                        one(sets, scheme, operand, dtype, "normal-0.02", first, cast, 3, 256,
                            gradient=kind, only_gradient=True)
            for scale in ("fbgemm", "torch") if scheme == "fp8-fp8" else ():
                for operand in ("weight", "activation"):
                    linear = "normal" if operand == "weight" else None
                    one(sets, scheme, operand, dtype, "normal-0.02", scale, rows=16, cols=256, multiply=linear)
                    for kind in EXTREMES if operand == "weight" else EXTREMES[:2]:
                        one(sets, scheme, operand, dtype, kind, scale, rows=4)
        for scale in ("mslk", "fbgemm", "torch"):
            one(sets, "fp8", "weight", dtype, "normal-0.02", scale, rows=16, cols=256, multiply="normal")
            one(sets, "fp8", "weight", dtype, "normal", scale, rows=4, cols=33, multiply="outlier")
            for kind in EXTREMES + ["outlier"]:
                one(sets, "fp8", "weight", dtype, kind, scale, rows=4)


# --- fp8-block ----------------------------------------------------------------------------------

DEEPSEEK = (TORCHAO_TRITON, "fp8_blockwise_act_quant, fp8_blockwise_weight_quant",
            "kernels in Triton's interpreter up to the cast, which is PyTorch's; / is correctly rounded")
QUANTIZER = types.SimpleNamespace(quantization_config=FineGrainedFP8Config(weight_block_size=(128, 128)))


def blocks(x, operand, flavour):
    """(codes, scales, made_by) of a tensor in tiles."""
    rows = 128 if operand == "weight" else 1
    note = DEEPSEEK[2]
    if operand == "weight" and flavour in ("hf", "unsloth"):
        made = finegrained_fp8.Fp8Quantize(QUANTIZER).convert({"w.weight": x})
        return made["w.weight"], made["w.weight_scale_inv"], (TRANSFORMERS, "Fp8Quantize.convert", "")
    if flavour == "torchao":
        q = Float8Tensor.from_hp(x, granularity=PerBlock([rows, 128]))
        return q.qdata, q.scale, (TORCHAO, f"Float8Tensor.from_hp, PerBlock([{rows}, 128])", "")
    if flavour == "training":
        return *upstream.training_block(x, rows), (TORCHAO_TRITON, "triton_fp8_blockwise_act_quant_lhs, "
            "triton_fp8_blockwise_weight_quant_rhs of blockwise_fp8_training", note)
    if flavour == "fbgemm":
        return *upstream.fbgemm_block_triton(x, rows), (FBGEMM_TRITON, "fp8_gemm.py _kernel_quantize_fp8_block", note)
    if flavour == "unsloth":
        return *upstream.unsloth_block(x), (UNSLOTH_TRITON, "kernels/fp8.py act_quant_kernel", note)
    return *upstream.deepseek_block(x, rows), DEEPSEEK


def block_set(sets, operand, dtype, kind, flavour, rows, cols, multiply=False, shared=None, dequant=True):
    at, x = sets.start("fp8-block", operand, dtype, kind, parameters(flavour=flavour if flavour != "hf" else None),
                       rows, cols, shared or min(cols, 128))
    codes, scales, made_by = blocks(x, operand, flavour)
    planes = {"codes": codes, "scales": scales}
    sets.file.op(at, "convert", made_by, {"x": x}, planes)
    if dequant:
        tile = [128 if operand == "weight" else 1, 128]
        y = finegrained_fp8._dequantize_fp8_weight(codes, scales, tile, F32).to(dtype)
        sets.file.op(at, "dequant", (TRANSFORMERS, "_dequantize_fp8_weight", "in binary32, then cast by torch"),
                     planes, {"y": y})
    if multiply:
        a = inputs.matrix("normal", 16, cols, 128, dtype, sets.seed)
        a_codes, a_scales, (library, name, note) = blocks(a, "activation", flavour)
        y = upstream.block_product(a_codes, a_scales, codes, scales).to(dtype)
        matmul_op(sets, at, a, planes, y, library if library == TORCHAO_TRITON else f"{library}; {TORCHAO_TRITON}",
                  f"{name}; triton_fp8_gemm_1x128_128x128", note)


def block_file(file):
    sets = Sets(file)
    flavours = ("hf", "deepseek", "torchao", "training", "fbgemm", "unsloth")
    unclear = ("nonfinite",)  # for kernels in the interpreter: see README.md
    for dtype in (BF16, F32, F16):
        for flavour in flavours:
            for kind in (COMMON if dtype == BF16 else EXTREMES[:3]) + ["ties-e4m3", "every-e4m3"]:
                if kind not in unclear or flavour == "torchao":
                    block_set(sets, "activation", dtype, kind, flavour, 4, 256)
            if flavour == "unsloth":
                continue  # weights as transformers has them
            # Many tiles, of few values: small files.
            block_set(sets, "weight", dtype, "few", flavour, 256 if dtype == BF16 else 128, 256, multiply=True,
                      dequant=dtype == BF16)
            block_set(sets, "weight", dtype, "every-e4m3", flavour, 128, 128, shared=128 * 128, dequant=False)
            for kind in ("zeros", "tiny", "nonfinite"):
                if kind == "zeros" or (dtype == BF16 and (kind not in unclear or flavour in ("hf", "torchao"))):
                    block_set(sets, "weight", dtype, kind, flavour, 128, 128, shared=128 * 128, dequant=False)
            if dtype == BF16:
                block_set(sets, "weight", dtype, "normal-0.02", flavour, 128, 128, dequant=flavour == "hf")
        for operand, rows, cols in (("weight", 130, 130), ("weight", 3, 200), ("activation", 3, 200)):
            block_set(sets, operand, dtype, "normal-0.02", "fbgemm", rows, cols)


# --- fp8-int4-plain -----------------------------------------------------------------------------


def plain_weight(w, group):
    """Int4Tensor.from_hp with MSLK's quantizer, which it imports where MSLK is installed."""
    names = {name: getattr(upstream.mslk_quantize, name)
             for name in ("int4_row_quantize", "int4_row_quantize_zp", "pack_int4")}
    with upstream.replaced(int4_tensor, **names):
        q = int4_tensor.Int4Tensor.from_hp(w, [1, group], activation_dtype=E4M3)
    assert not q.zero_point.any()
    return {"codes": q.qdata.view(torch.uint8), "scales": q.scale}


def plain_values(planes, group, product):
    """[rows][cols] of the numbers that the kernel multiplies with, in rational numbers."""
    q, s, t = nibbles(planes["codes"]).tolist(), planes["scales"].double().t().tolist(), planes["scales"].dtype
    values = [[exact.product(c, s[r][k // group], t) for k, c in enumerate(q[r])] for r in range(len(q))]
    if product == "exact":
        return values
    return [[exact.product(v, 1.0, E4M3) for v in row] for row in values]


def plain_product(x, values, row):
    """y = R(f32(scale of x * f32(sum))), the sum in integers."""
    codes, scales, _ = quantize_rows(x, row)
    a, b = ((v.double() * 512).to(torch.int64).tolist() for v in (codes, torch.tensor(values)))
    y = [exact.product(float(scales[m]), exact.to_format(exact.Fraction(sum(i * j for i, j in zip(a[m], n)), 512**2), F32),
                       F32) for m in range(len(a)) for n in b]
    return exact.tensor(y, (len(a), -1), F32).to(x.dtype)


def plain_set(sets, dtype, kind, group=128, product="e4m3", cast="torch", rows=8, cols=256, multiply=False):
    params = parameters(group=group if group != 128 else None, product=product if product != "e4m3" else None,
                        grad="ideal" if cast == "ideal" else None, cast="none" if cast == "none" else None)
    at, x = sets.start("fp8-int4-plain", "weight", dtype, kind, params, rows, cols, group)
    if group == 128:
        fp8_fake(sets, at, x, "weight", cast, forward="only" if kind in ("nonfinite", "huge") else True)
    if kind == "nonfinite":
        return  # NaN to int8 is undefined
    planes = plain_weight(x, group)
    sets.file.op(at, "convert", (f"{upstream.MSLK}; {TORCHAO}", "Int4Tensor.from_hp with activation_dtype e4m3: "
                                 "int4_row_quantize, pack_int4", ""), {"x": x}, planes)
    values = plain_values(planes, group, product)
    y = exact.tensor([v for row in values for v in row], x.shape, F32).to(dtype)
    note = "mslk csrc/gemm/cutlass f8i4bf16_rowwise: e4m3 of the product in the scale's dtype"
    sets.file.op(at, "dequant", (DERIVED, "e4m3(R(q s)), rounded by hand", note), planes, {"y": y})
    if multiply:
        a = inputs.matrix("normal", 4, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, plain_product(a, values, "fbgemm"), DERIVED,
                  "integer sums, epilogue in rational numbers", note)


def plain_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        plain_set(sets, dtype, "normal-0.02", rows=16, multiply=True)
        for kind in COMMON + ["normal-1e-3", "ties-symmetric4"] if dtype == BF16 else EXTREMES[:6]:
            plain_set(sets, dtype, kind, rows=4)
        for group in (32, 256):
            plain_set(sets, dtype, "normal-0.02", group, rows=4, multiply=True)
        plain_set(sets, dtype, "normal", product="exact", rows=4)
        for cast in ("ideal", "none"):
            plain_set(sets, dtype, "normal-0.02", cast=cast, rows=4)
        for kind in ("normal-0.02", "every-e4m3", "zeros"):
            at, x = sets.start("fp8-int4-plain", "activation", dtype, kind, "", 4, 256, 256)
            fp8_fake(sets, at, x, "activation", "torch")
            fp8_activation_side(sets, at, x, "fbgemm", 1e-12)
        at, x = sets.start("fp8-int4-plain", "activation", dtype, "normal-0.02", "cast=none", 4, 256, 256)
        fp8_fake(sets, at, x, "activation", "none")


FILES = {"fp8-int4-plain.h5": plain_file, "fp8.h5": fp8_file, "fp8-block.h5": block_file}
