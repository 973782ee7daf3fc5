# SPDX-License-Identifier: MIT
"""What bitsandbytes makes of nf4-bnb, nf4-bnb-double, fp4-bnb and int8-bnb, and torchao of nf4, on a CPU."""
import upstream  # first: it sets up the threads of torch
from upstream import DERIVED, TORCHAO

import logging

logging.disable(logging.WARNING)  # bitsandbytes looks for a package of kernels that nobody needs

import numpy as np
import torch
import torch._dynamo

torch._dynamo.config.disable = True  # the default backend's decoders are compiled otherwise

import bitsandbytes
from bitsandbytes import functional as F
from bitsandbytes.backends.default.ops import _dequantize_4bit_compute

from torchao.quantization.quantize_.workflows.nf4.nf4_tensor import linear_nf4, to_nf4

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


# --- 8 bits, and double quantization ------------------------------------------------------------


def dynamic_limits(r, n, g, t):
    return on_limits(F.create_dynamic_map())(r, n, g, t)


def decades(r, n, g, t):
    """Magnitudes over eight decades, zeros of both signs between: all numbers of the dynamic map."""
    x = 10.0 ** r.uniform(-8, 0, (n, g)) * r.choice([-1, 1], (n, g))
    x[:, ::17] *= 0
    x[:, 1] = r.choice([-1, 1], n)
    return x * r.uniform(0.01, 2, (n, 1))


inputs.KINDS["limits-dynamic"] = dynamic_limits
inputs.KINDS["decades"] = decades


def torch_bytes(x, group):
    """The default backend's encoder, which a CPU without the C++ library uses."""
    op = torch.ops.bitsandbytes.quantize_blockwise.default
    return op._op_dk(torch._C.DispatchKey.CompositeExplicitAutograd, x, F.create_dynamic_map(), group)


def cuda_bytes(x, group):
    """Nearest number of the map, an even place where two are as near; comparisons with NaN are false."""
    scaled, absmax = cuda_blocks(x, group)
    limits = limits_of(F.create_dynamic_map()).numpy()
    s = scaled[:x.numel()]
    place = np.searchsorted(limits, s)
    up = (place < 255) & (limits[np.minimum(place, 254)] == s) & (place % 2 == 1)
    codes = np.where(np.isnan(s), 0, place + up).astype(np.uint8)
    return torch.from_numpy(codes), torch.from_numpy(absmax)


BYTES = {
    "cpu": (lambda x, g: (lambda q, s: (q, s.absmax))(*F.quantize_blockwise(x, blocksize=g)),
            (BNB, "functional.quantize_blockwise", "the C++ library")),
    "torch": (torch_bytes, (BNB, "bitsandbytes::quantize_blockwise of the default backend", "")),
    "cuda": (cuda_bytes, (DERIVED, "csrc/kernels.cu dQuantize in numpy binary32",
                          "needs a GPU, and fast math there: divisions here are correctly rounded")),
}


def bytes_set(sets, impl, kind, dtype, rows, cols, group=4096):
    params = parameters(group=group if group != 4096 else None, impl=impl if impl != "cpu" else None)
    at, x = sets.start("int8-bnb", "weight", dtype, kind, params, rows, cols, group)
    encoder, made_by = BYTES[impl]
    codes, absmax = encoder(x, group)
    planes = {"codes": codes.reshape(-1), "absmax": absmax}
    sets.file.op(at, "convert", made_by, {"x": x}, planes)
    if kind != "nonfinite":
        y = torch.ops.bitsandbytes.dequantize_blockwise(planes["codes"], absmax, F.create_dynamic_map(), group, dtype)
        sets.file.op(at, "dequant", (BNB, "bitsandbytes::dequantize_blockwise", "the C++ library"), planes,
                     {"y": y.reshape(x.shape)})


def int8_bnb_file(file):
    sets = Sets(file)
    for impl in BYTES:
        for dtype in (BF16, F32, F16) if impl == "cpu" else (F32, BF16):
            for kind in ("normal-0.02", "decades", "limits-dynamic", "zeros", "outlier", "tiny", "huge"):
                bytes_set(sets, impl, kind, dtype, 4, 512, 256)
            bytes_set(sets, impl, "decades", dtype, 3, 1500)
            bytes_set(sets, impl, "zeros", dtype, 3, 43, 33)
            if impl != "cpu":  # NaN to an integer in C++
                bytes_set(sets, impl, "nonfinite", dtype, 8, 64, 64)


def spread(r, n, g, t):
    """Blocks of very different sizes: what double quantization loses, even to the sign."""
    return r.standard_normal((n, g)) * 10.0 ** r.uniform(-6, 0, (n, 1))


inputs.KINDS["spread"] = spread


def double_set(sets, kind, dtype, rows, cols, group=64, multiply=False):
    params = parameters(group=group if group != 64 else None)
    at, x = sets.start("nf4-bnb-double", "weight", dtype, kind, params, rows, cols, group)
    packed, state = F.quantize_4bit(x, blocksize=group, quant_type="nf4", compress_statistics=True)
    assert torch.equal(state.state2.code, F.create_dynamic_map()) and state.state2.blocksize == 256
    planes = {"codes": packed.reshape(-1), "absmax": state.absmax, "nested_absmax": state.state2.absmax,
              "offset": state.offset.reshape(1)}
    sets.file.op(at, "convert", (BNB, "functional.quantize_4bit nf4, compress_statistics",
                                 "mean by torch on one thread"), {"x": x}, planes)
    if kind == "nonfinite":
        return
    absmax = F.dequantize_blockwise(state.absmax, state.state2)
    absmax += state.offset
    y = _dequantize_4bit_compute(packed.reshape(-1), absmax, state.code, group, x.shape, dtype)
    if cols % group == 0 and kind not in ("tiny", "huge", "spread"):  # subnormals, NaN, subnormals
        assert torch.equal(y, F.dequantize_4bit(packed, state))
    sets.file.op(at, "dequant", (BNB, "functional.dequantize_blockwise, + offset, "
                                 "backends/default/ops.py _dequantize_4bit_compute", ""), planes, {"y": y})
    if multiply:
        a = inputs.matrix("normal", 5, cols, cols, dtype, sets.seed)
        out = bitsandbytes.matmul_4bit(a, packed, state)
        sets.file.op(at, "matmul", (BNB, "matmul_4bit", "on the CPU: decode, then torch's linear"),
                     {"x": a, **planes}, {"y": out})


def double_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in ("normal-0.02", "zeros", "constant", "outlier", "tiny", "huge", "spread"):
            double_set(sets, kind, dtype, 8, 256, multiply=kind in ("normal-0.02", "outlier"))
        double_set(sets, "normal-0.02", dtype, 5, 100)
        double_set(sets, "spread", dtype, 3, 43, 32)
        double_set(sets, "outlier", dtype, 1, 33)
    for kind in ("spread", "normal-1e-3"):  # more than 256 blocks, and more than a level of the sum
        double_set(sets, kind, BF16, 33, 600, 32)
    double_set(sets, "spread", F32, 7, 96, 32, multiply=True)


# --- torchao's nf4 ------------------------------------------------------------------------------


def limits_torchao(r, n, g, t):
    """x / absmax half-way between neighbours of the list as rounded to the dtype, and beside."""
    codes = torch.tensor([-1.0, -.6962, -.5251, -.3949, -.2844, -.1848, -.0911, 0, .0796, .1609, .2461, .3379,
                          .4407, .5626, .7230, 1], dtype=t)
    return on_limits(codes.double())(r, n, g, t)


def thousands(r, n, g, t):
    """Scalers so far apart that 1 / (2 max|D|) is subnormal in binary16."""
    return np.round(r.uniform(-1, 1, (n, g)) * 16) / 16 * r.integers(1, 11, (n, 1)) * 2000


inputs.KINDS["limits-torchao"] = limits_torchao
inputs.KINDS["thousands"] = thousands


def nf4_set(sets, kind, dtype, rows=16, cols=1024, multiply=False):
    at, x = sets.start("nf4", "weight", dtype, kind, "", rows, cols, 64)
    w = to_nf4(x)
    planes = {"codes": w.quantized_data, "scalers": w.quantized_scalers, "factors": w.quantization_factor,
              "mean": w.scaler_mean.reshape(1)}
    sets.file.op(at, "convert", (TORCHAO, "nf4_tensor.py to_nf4", "mean by torch on one thread"), {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "NF4Tensor.get_original_weight", ""), planes,
                 {"y": w.get_original_weight()})
    if multiply:
        a = inputs.matrix("normal", 3, cols, cols, dtype, sets.seed)
        sets.file.op(at, "matmul", (TORCHAO, "nf4_tensor.py linear_nf4", "decode, then torch's linear"),
                     {"x": a, **planes}, {"y": linear_nf4(a, w)})


def nf4_file(file):
    sets = Sets(file)
    for dtype in (BF16, F16, F32):
        for kind in ("normal-0.02", "limits-torchao", "zeros", "constant"):
            nf4_set(sets, kind, dtype, multiply=kind == "normal-0.02")
    for kind in ("spread", "tiny", "small", "huge", "nonfinite"):
        nf4_set(sets, kind, BF16)
    for kind in ("tiny", "small", "huge", "thousands"):
        nf4_set(sets, kind, F16)
    nf4_set(sets, "few", BF16, 128, 256)


FILES = {
    "nf4.h5": nf4_file,
    "nf4-bnb.h5": lambda file: four_bits_file(file, "nf4-bnb"),
    "nf4-bnb-double.h5": double_file,
    "fp4-bnb.h5": lambda file: four_bits_file(file, "fp4-bnb"),
    "int8-bnb.h5": int8_bnb_file,
}
