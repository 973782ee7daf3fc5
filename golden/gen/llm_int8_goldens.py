# SPDX-License-Identifier: MIT
"""What bitsandbytes makes of llm-int8 on a CPU."""
import upstream  # first: it sets up the threads of torch
from upstream import DERIVED
from bnb_goldens import BNB

import bitsandbytes
import numpy as np
import torch
from bitsandbytes import functional as F

import inputs
from torchao_goldens import BF16, F16, F32, Sets, parameters


def ties_rows(r, n, g, t):
    """max|x| = 127 s, s a power of two, and ties of the grid -127..127."""
    s = 2.0 ** r.integers(-9, -5, (n, 1))
    x = (r.integers(-127, 127, (n, g)) + 0.5) * s
    x[:, 0] = 127 * s[:, 0] * r.choice([-1, 1], n)
    return x


def columns(r, n, g, t):
    """A few columns an order of magnitude larger than the rest, not in all rows."""
    x = r.standard_normal((n, g))
    for k in r.choice(g, 3, replace=False):
        x[r.integers(0, 3, n) > 0, k] *= 15
    return x


def threshold(r, n, g, t):
    """Magnitudes at 6 and at its neighbours in binary16, in some columns."""
    x = r.uniform(-5, 5, (n, g))
    near = r.choice([6, 6 - 2**-8, 6 + 2**-8, 5.999, -6, -6 + 2**-8, 6 - 2**-9], (n, g))
    return np.where(np.arange(g) % 13 == 0, np.where(r.integers(0, 4, (n, g)) == 0, near, x), x)


def beyond(r, n, g, t):
    """Overflows binary16 or vanishes in it, in the dtypes that can."""
    x = r.standard_normal((n, g))
    x[0, 3], x[1, 5] = 65519, -70000
    x[2] *= 1e-7
    x[3] *= 1e-9
    return x


inputs.KINDS.update({"ties-rows": ties_rows, "columns": columns, "threshold": threshold, "beyond": beyond})


def cuda_rows(x, limit):
    """(codes, r, outlier columns): numpy, the division rounded correctly."""
    h = x.to(F16).numpy()
    outliers = np.abs(h) >= np.float16(limit) if limit else np.zeros(h.shape, bool)
    with np.errstate(all="ignore"):
        r = np.fmax.reduce(np.where(outliers, 0, np.abs(h)), axis=1, initial=0).astype(np.float32)
        q = np.rint(h.astype(np.float32) * (np.float32(127) / r)[:, None])
    cols = outliers.any(axis=0)
    q = np.where(np.isnan(q) | cols[None, :], 0, q)
    return torch.from_numpy(q).to(torch.int8), torch.from_numpy(r), np.nonzero(cols)[0]


def cuda_linear(x, codes, scales, limit):
    """MatMul8bitLt with the kernels' epilogue, in numpy; the outlier part in binary64, rounded once."""
    q, r, cols = cuda_rows(x, limit)
    i32 = q.numpy().astype(np.int64) @ codes.numpy().astype(np.int64).T
    y = i32.astype(np.float32) * r.numpy()[:, None] * scales.numpy()[None, :] * np.float32(6.200012e-05)
    assert y.dtype == np.float32
    y = torch.from_numpy(y).to(F16).to(x.dtype)
    if not len(cols):
        return y
    w = F.int8_vectorwise_dequant(codes[:, cols].contiguous(), scales).to(x.dtype)
    return (y.double() + x[:, cols].double() @ w.double().t()).to(F32).to(x.dtype)


QUANT = "functional.int8_vectorwise_quant of the binary16 tensor"
LINEAR = (BNB, "bitsandbytes.matmul (MatMul8bitLt, not training)", "")
CUDA_ROWS = (DERIVED, "csrc/kernels.cu kInt8VectorQuant in numpy binary32",
             "needs a GPU, whose division is approximate; correctly rounded here")
CUDA_LINEAR = (DERIVED, "csrc/kernels.cu kdequant_mm_int32_fp16 in numpy binary32", "outlier columns in binary64")


def linear(x, codes, scales, limit):
    state = bitsandbytes.MatmulLtState()
    state.CB, state.SCB, state.threshold = codes, scales, limit
    state.has_fp16_weights = state.is_training = False
    return bitsandbytes.matmul(x, codes, state=state)


def dequant_op(sets, at, planes, dtype):
    y = F.int8_vectorwise_dequant(planes["codes"], planes["scales"]).to(dtype)
    sets.file.op(at, "dequant", (BNB, "functional.int8_vectorwise_dequant, cast by torch", ""), planes, {"y": y})


def params_of(limit, impl):
    return parameters(threshold=limit if limit != 6 else None, impl=impl if impl != "cpu" else None)


def weight_set(sets, kind, dtype, impl, rows, cols):
    at, x = sets.start("llm-int8", "weight", dtype, kind, params_of(6, impl), rows, cols, cols)
    codes, scales = (F.int8_vectorwise_quant(x.to(F16)) if impl == "cpu" else cuda_rows(x, 0))[:2]
    planes = {"codes": codes, "scales": scales}
    sets.file.op(at, "convert", (BNB, QUANT, "") if impl == "cpu" else CUDA_ROWS, {"x": x}, planes)
    if impl == "cpu":
        dequant_op(sets, at, planes, dtype)


def activation_set(sets, kind, dtype, impl, limit, rows, cols):
    """And matmul of the same x with a weight of its own."""
    params = params_of(limit, impl)
    at, x = sets.start("llm-int8", "activation", dtype, kind, params, rows, cols, cols)
    codes, scales, found = F.int8_vectorwise_quant(x.to(F16), limit) if impl == "cpu" else cuda_rows(x, limit)
    outliers = torch.zeros(cols, dtype=torch.uint8)
    if found is not None:
        outliers[torch.as_tensor(found)] = 1
    planes = {"codes": codes, "scales": scales, "outliers": outliers}
    note = "the numbers of the outlier columns as a mask"
    sets.file.op(at, "convert", (BNB, QUANT, note) if impl == "cpu" else CUDA_ROWS, {"x": x}, planes)
    if impl == "cpu":
        dequant_op(sets, at, planes, dtype)
    if kind in ("nonfinite", "beyond"):
        return
    at, w = sets.start("llm-int8", "weight", dtype, "normal-0.02", params, 16, cols, cols)
    codes, scales, _ = F.int8_vectorwise_quant(w.to(F16))
    y = linear(x, codes, scales, limit) if impl == "cpu" else cuda_linear(x, codes, scales, limit)
    sets.file.op(at, "matmul", LINEAR if impl == "cpu" else CUDA_LINEAR,
                 {"x": x, "codes": codes, "scales": scales}, {"y": y})


def llm_int8_file(file):
    sets = Sets(file)
    weight_set(sets, "uniform", F16, "cpu", 16, 256)  # every code
    for dtype in (F16, BF16, F32):
        for kind in ("normal-0.02", "ties-rows", "zeros", "outlier", "beyond", "nonfinite", "edges"):
            weight_set(sets, kind, dtype, "cpu", 8, 160)
        for kind in ("normal", "columns", "threshold", "ties-rows", "zeros", "outlier", "beyond", "nonfinite"):
            activation_set(sets, kind, dtype, "cpu", 6.0, 8, 160)
        activation_set(sets, "columns", dtype, "cpu", 0.0, 8, 160)
        activation_set(sets, "columns", dtype, "cpu", 2.7, 8, 160)
        activation_set(sets, "threshold", dtype, "cpu", 6.0, 1, 67)
        for kind in ("normal-0.02", "ties-rows", "zeros", "nonfinite"):
            weight_set(sets, kind, dtype, "cuda", 8, 160)
        for kind in ("normal", "columns", "threshold", "ties-rows"):
            activation_set(sets, kind, dtype, "cuda", 6.0, 8, 160)


FILES = {"llm-int8.h5": llm_int8_file}
