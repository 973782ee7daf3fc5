# SPDX-License-Identifier: MIT
"""What bitsandbytes makes of nf4-bnb, nf4-bnb-double, fp4-bnb and int8-bnb on a CPU."""
import upstream  # first: it sets up the threads of torch
from upstream import DERIVED

import logging

logging.disable(logging.WARNING)  # bitsandbytes looks for a package of kernels that nobody needs

import numpy as np
import torch
import torch._dynamo

torch._dynamo.config.disable = True  # the default backend's decoders are compiled otherwise

import bitsandbytes
from bitsandbytes import functional as F
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

import inputs
from torchao_goldens import BF16, F16, F32, Sets, parameters

BNB = (f"bitsandbytes {bitsandbytes.__version__}, torch {torch.__version__} "
       f"(CPU, {torch.backends.cpu.get_cpu_capability()})")
KINDS = ["normal-0.02", "normal-1e-3", "uniform", "zeros", "constant", "outlier", "tiny", "small", "huge",
         "repeated", "nonfinite"]


def limits_of(code):
    """The middles of a list in binary32, as the library has them."""
    code = torch.sort(code).values
    return (code[:-1] + code[1:]) / 2


def on_limits(code):
    """A kind: x on the middles of the list times absmax, and an ulp or two beside. absmax is a power of two
    in the first block of four (x / absmax on the middle itself), else one whose reciprocal rounds."""
    limits = limits_of(code).double().numpy()

    def make(r, n, g, t):
        a = np.where(np.arange(n)[:, None] % 4 == 0, 2.0 ** r.integers(-9, 3, (n, 1)), r.uniform(0.01, 2, (n, 1)))
        a = torch.from_numpy(a).to(t).double().numpy()
        x = r.choice(limits, (n, g)) * a
        x *= 1 + r.integers(-2, 3, (n, g)) * torch.finfo(t).eps / 2
        x[:, 0] = a[:, 0] * r.choice([-1, 1], n)
        return x

    return make


inputs.KINDS["limits-nf4"] = on_limits(F.get_4bit_type("nf4", "cpu"))
inputs.KINDS["limits-fp4"] = on_limits(F.get_4bit_type("fp4", "cpu"))

# --- 4 bits -------------------------------------------------------------------------------------


def torch_decode(packed, state, dtype):
    """The default backend's decoder: the C++ one for AVX-512 takes wrong scales where the block does not
    divide K, and flushes subnormals of bf16."""
    return _dequantize_4bit_compute(packed.reshape(-1), state.absmax, F.get_4bit_type(state.quant_type, "cpu"),
                                    state.blocksize, state.shape, dtype)


def four_bits(sets, scheme, kind, dtype, rows, cols, group=64, multiply=False):
    params = parameters(group=group if group != 64 else None)
    at, x = sets.start(scheme, "weight", dtype, kind, params, rows, cols, group)
    packed, state = F.quantize_4bit(x, blocksize=group, quant_type=scheme[:3])
    planes = {"codes": packed.reshape(-1), "absmax": state.absmax}
    sets.file.op(at, "convert", (BNB, f"functional.quantize_4bit {scheme[:3]}", ""), {"x": x}, planes)
    y, name, note = torch_decode(packed, state, dtype), "backends/default/ops.py _dequantize_4bit_compute", ""
    if cols % group == 0 and kind not in ("tiny", "small"):
        native = F.dequantize_4bit(packed, state)
        if kind != "nonfinite":
            assert torch.equal(y, native), (scheme, kind, dtype)
            note = "functional.dequantize_4bit (the C++ library) gives the same"
    sets.file.op(at, "dequant", (BNB, name, note), planes, {"y": y})
    if multiply:
        a = inputs.matrix("normal", 5, cols, cols, dtype, sets.seed)
        out = bitsandbytes.matmul_4bit(a, packed, state)
        assert torch.equal(out, torch.nn.functional.linear(a, y))
        sets.file.op(at, "matmul", (BNB, "matmul_4bit", "on the CPU: decode, then torch's linear"),
                     {"x": a, **planes}, {"y": out})


# The pivots written in bnb:csrc/kernels.cu dQuantizeNF4 and dQuantizeFP4.
CUDA_NF4 = np.array([
    -0.8480964004993439, -0.6106329262256622, -0.4599952697753906, -0.33967943489551544, -0.23460740596055984,
    -0.13791173323988914, -0.045525018125772476, 0.03979014977812767, 0.1202552504837513, 0.2035212516784668,
    0.2920137718319893, 0.3893125355243683, 0.5016634166240692, 0.6427869200706482, 0.8614784181118011], np.float32)
CUDA_FP4 = np.array([0.00260417, 0.0859375, 0.20833333, 0.29166667, 0.4166667, 0.583333, 0.8333333], np.float32)
CUDA_FP4_CODES = np.array([0, 1, 6, 7, 4, 5, 2, 3], np.uint8)


def cuda_blocks(x, group):
    """(x / absmax padded with zeros to whole blocks, absmax) as the kernels have them, divisions rounded
    correctly."""
    flat = x.float().numpy().reshape(-1)
    padded = np.zeros((-(-len(flat) // group), group), np.float32)
    padded.reshape(-1)[:len(flat)] = flat
    with np.errstate(all="ignore"):
        absmax = np.fmax.reduce(np.abs(padded), axis=1, initial=-np.finfo(np.float32).max)
        scaled = padded * (np.float32(1) / absmax)[:, None]
    assert scaled.dtype == absmax.dtype == np.float32
    return scaled.reshape(-1), absmax


def cuda_codes(scaled, scheme):
    """Comparisons with NaN are false."""
    if scheme == "nf4-bnb":
        return np.where(np.isnan(scaled), 0, np.searchsorted(CUDA_NF4, scaled)).astype(np.uint8)
    magnitude = CUDA_FP4_CODES[np.where(np.isnan(scaled), 0, np.searchsorted(CUDA_FP4, np.abs(scaled)))]
    return (magnitude + np.where(scaled < 0, 8, 0)).astype(np.uint8)


def cuda_four_bits(sets, scheme, kind, dtype, rows, cols):
    at, x = sets.start(scheme, "weight", dtype, kind, "impl=cuda", rows, cols, 64)
    scaled, absmax = cuda_blocks(x, 64)
    codes = cuda_codes(scaled, scheme)[:x.numel() + x.numel() % 2]
    planes = {"codes": torch.from_numpy(codes[::2] << 4 | codes[1::2]), "absmax": torch.from_numpy(absmax)}
    sets.file.op(at, "convert", (DERIVED, "csrc/kernels.cu kQuantizeBlockwise in numpy binary32",
                                 "needs a GPU, and fast math there: divisions here are correctly rounded"),
                 {"x": x}, planes)
    values = F.get_4bit_type(scheme[:3], "cpu").numpy().copy()
    values[8] = -0.0 if scheme == "fp4-bnb" else values[8]
    with np.errstate(invalid="ignore"):
        y = values[codes[:x.numel()]] * np.repeat(absmax, 64)[:x.numel()]
    sets.file.op(at, "dequant", (DERIVED, "code times absmax in numpy binary32, cast by torch",
                                 "csrc/kernels.cu kDequantizeBlockwise"),
                 planes, {"y": torch.from_numpy(y).reshape(x.shape).to(dtype)})


def four_bits_file(file, scheme):
    sets = Sets(file)
    for dtype in (BF16, F32):
        for kind in ("normal-0.02", "zeros", "nonfinite", f"limits-{scheme[:3]}"):
            cuda_four_bits(sets, scheme, kind, dtype, 8, 256)
        for kind in ("normal-0.02", "zeros"):
            cuda_four_bits(sets, scheme, kind, dtype, 3, 43)
    for dtype in (BF16, F32, F16):
        for kind in KINDS + [f"limits-{scheme[:3]}"]:
            four_bits(sets, scheme, kind, dtype, 8, 256, multiply=kind in ("normal-0.02", "outlier"))
        for group in (32, 256, 4096):
            four_bits(sets, scheme, "repeated", dtype, 4, 2048 if group > 256 else 512, group)
        for rows, cols in ((3, 43), (5, 100), (1, 33)):
            for kind in ("normal-0.02", "zeros"):
                four_bits(sets, scheme, kind, dtype, rows, cols)


FILES = {
    "nf4-bnb.h5": lambda file: four_bits_file(file, "nf4-bnb"),
    "fp4-bnb.h5": lambda file: four_bits_file(file, "fp4-bnb"),
}
