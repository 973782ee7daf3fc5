# SPDX-License-Identifier: MIT
"""int4 and fp8-int4 with 3 and 2 bits: the libraries' own functions with their constants exchanged.

FBGEMM's and MSLK's quantizers hold the width in one local variable, torchao's fake quantizer holds what follows from
it; torchao's integer fake quantizer, which int4-old is, takes any width. Nobody ships a kernel for these codes.
"""
import upstream  # first: it sets up Triton's interpreter
from upstream import DERIVED, TORCHAO

import contextlib
import inspect
import textwrap

import torch
from torchao.quantization import Float8DynamicActivationInt4WeightConfig, Int4WeightOnlyConfig
from torchao.quantization.granularity import PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig
from torchao.quantization.qat.fake_quantize_config import Int4WeightFakeQuantizeConfig
from torchao.quantization.qat.fake_quantizer import FakeQuantizerBase, Int4WeightFakeQuantizer

import inputs
import torchao_goldens
from torchao_goldens import (BF16, E4M3, F16, F32, Sets, fp8_int4_planes, fp8_matmul, int4_kernel_side, linear_op,
                             matmul_op, parameters, scaled, table)

KINDS = ["normal-0.02", "normal", "zeros", "constant", "outlier", "positive", "tiny", "repeated", "few", "edges",
         "nonfinite"]


def with_constants(function, *changes):
    """The function compiled from its source with these (old, new) pieces of text exchanged, each of which occurs once."""
    source = textwrap.dedent(inspect.getsource(function))
    for old, new in changes:
        assert source.count(old) == 1, (function.__name__, old)
        source = source.replace(old, new)
    scope = {}
    exec(compile(source, inspect.getsourcefile(function), "exec"), function.__globals__, scope)
    return scope[function.__name__]


@contextlib.contextmanager
def fewer(bits):
    half = 2 ** (bits - 1)
    width = ("n_bit = 4", f"n_bit = {bits}")
    library = upstream.fbgemm_quantize
    made_by, name, _ = torchao_goldens.INT4_CONVERT
    with (upstream.replaced(library, int4_row_quantize=with_constants(library.int4_row_quantize, width),
                            int4_row_quantize_zp=with_constants(library.int4_row_quantize_zp, width)),
          upstream.replaced(torchao_goldens, INT4_CONVERT=(made_by, name, width_note(bits))),
          upstream.replaced(
              Int4WeightFakeQuantizer,
              _bf16_activations_forward=with_constants(
                  Int4WeightFakeQuantizer._bf16_activations_forward,
                  ("qmin, qmax = 0, 15", f"qmin, qmax = 0, {2 * half - 1}"),
                  ("mslk_symmetric_qmax = 8", f"mslk_symmetric_qmax = {half}")),
              _fp8_activations_forward=with_constants(
                  Int4WeightFakeQuantizer._fp8_activations_forward,
                  ("mslk_scale_quant_max = 8", f"mslk_scale_quant_max = {half}"),
                  ("quant_min=-8", f"quant_min={-half}"), ("quant_max=7", f"quant_max={half - 1}")))):
        yield


def width_note(bits):
    return f"n_bit = {bits} in the place of 4"


def levels_note(bits):
    return f"its constants 15, 8, -8, 7 exchanged for those of {bits} bits"


def prepare(sets, at, x, kind, fake, name, note):
    sets.prepare(at, x, fake, name, note)
    if kind != "nonfinite":
        sets.gradient(at, x, fake, name, note)


def group_of(group):
    return group if group != 128 else None


def int4_set(sets, dtype, kind, bits, group=128):
    at, x = sets.start("int4", "weight", dtype, kind, parameters(group=group_of(group), bits=bits), 4, 256, group)
    fake = FakeQuantizerBase.from_config(Int4WeightFakeQuantizeConfig(group, torch.bfloat16))
    prepare(sets, at, x, kind, fake, "Int4WeightFakeQuantizer of " + Int4WeightOnlyConfig.__name__, levels_note(bits))
    planes, w = int4_kernel_side(sets, at, x, group)
    if kind == "normal-0.02":
        linear_op(sets, at, planes, w, 5, sets.seed)


def old_set(sets, scheme, dtype, kind, bits, group=128):
    fake = FakeQuantizerBase.from_config(IntxFakeQuantizeConfig(getattr(torch, f"int{bits}"), PerGroup(group),
                                                                is_symmetric=True, eps=2.0**-7))
    at, x = sets.start(scheme, "weight", dtype, kind, parameters(group=group_of(group), bits=bits), 4, 256, group)
    prepare(sets, at, x, kind, fake, f"IntxFakeQuantizer(int{bits}, PerGroup({group}), eps={2.0**-7})",
            "default binary32 scales; eps set to what torchao used before 0.18.0")


def fp8_set(sets, scheme, dtype, kind, bits, group=128):
    at, x = sets.start(scheme, "weight", dtype, kind, parameters(group=group_of(group), bits=bits), 4, 256, 256)
    fake = FakeQuantizerBase.from_config(Int4WeightFakeQuantizeConfig(group, E4M3))
    prepare(sets, at, x, kind, fake, "Int4WeightFakeQuantizer of " + Float8DynamicActivationInt4WeightConfig.__name__,
            levels_note(bits))
    if kind == "nonfinite":
        return  # not in Triton's interpreter
    planes, (library, name, note) = fp8_int4_planes(x, group, "fbgemm")
    sets.file.op(at, "convert", (library, name, f"{note}; {width_note(bits)}"), {"x": x}, planes)
    y = scaled(table(planes, group, "e4m3"), planes["row_scales"], dtype)
    sets.file.op(at, "dequant", (DERIVED, "table of |q| s times row scale, rounded by hand",
                                 "the table of 4-bit codes"), planes, {"y": y})
    if kind == "normal-0.02":
        a = inputs.matrix("normal", 4, 256, 256, dtype, sets.seed)
        matmul_op(sets, at, a, planes, fp8_matmul(a, planes, group, "fbgemm", 1e-12, "e4m3"), DERIVED,
                  "integer sums, epilogue in rational numbers", "f8i4bf16_shuffled.cu with the codes of this set")


def fewer_bits_file(file):
    sets = Sets(file)
    for bits in (3, 2):
        with fewer(bits):
            for dtype in (BF16, F32, F16):
                for kind in KINDS if dtype == BF16 else KINDS[::3]:
                    int4_set(sets, dtype, kind, bits)
                    old_set(sets, "int4-old", dtype, kind, bits)
                    fp8_set(sets, "fp8-int4", dtype, kind, bits)
                old_set(sets, "int4-old", dtype, f"ties-symmetric{bits}", bits)
                int4_set(sets, dtype, "normal", bits, 32)
                old_set(sets, "int4-old", dtype, "normal", bits, 32)
                old_set(sets, "fp8-int4-old", dtype, "normal-0.02", bits)
                fp8_set(sets, "fp8-int4", dtype, "normal", bits, 256)


FILES = {"fewer-bits.h5": fewer_bits_file}
