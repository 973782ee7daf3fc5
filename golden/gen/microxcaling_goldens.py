# SPDX-License-Identifier: MIT
"""What microxcaling makes of mxfp4. No package is published: its checkout at commit 7bc41952 must be on
PYTHONPATH (https://github.com/microsoft/microxcaling, folder mx)."""
import upstream  # noqa: F401  first: threads of torch
from upstream import DERIVED, TORCHAO

import numpy as np
import torch

import inputs
from torchao_goldens import BF16, F32, Sets, matmul_op

LIBRARY = f"microxcaling 7bc41952, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
MAGNITUDES = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6], dtype=np.float32)


def codes(r, n, g, t):
    """Every number of the format, of both signs, 6 in each block."""
    both = np.concatenate([MAGNITUDES, -MAGNITUDES])
    x = both[np.arange(n * g).reshape(n, g) * 7 % 16] * inputs._power(r, n)
    x[:, 0] = 6 * 2.0 ** np.ceil(np.log2(np.abs(x).max(axis=1) / 6))
    return x


def ties(r, n, g, t):
    """Between neighbouring numbers, and the next numbers on both sides of there."""
    i = r.integers(0, 7, (n, g))
    x = (MAGNITUDES[i] + MAGNITUDES[i + 1]) / 2.0 * r.choice([-1, 1], (n, g))
    x = x * (1 + r.integers(-1, 2, (n, g)) * torch.finfo(t).eps) * inputs._power(r, n)
    x[:, 0] = 6 * 2.0 ** np.ceil(np.log2(np.abs(x).max(axis=1) / 6))
    return x


def below_powers(r, n, g, t):
    """The largest magnitude a few places below a power of two, where log2 may round up to it."""
    eps = torch.finfo(t).eps / 2
    amax = 2.0 ** r.integers(-20, 21, n) * (1 - r.integers(0, 8, n) * eps)
    x = r.uniform(-1, 1, (n, g)) * amax[:, None]
    x[:, 5] = amax
    return x


inputs.KINDS.update({"codes-e2m1-away": codes, "ties-e2m1-away": ties, "below-powers": below_powers})
KINDS = ["normal", "normal-0.02", "normal-1e-3", "uniform", "zeros", "constant", "outlier", "positive", "tiny", "small",
         "huge", "edges", "repeated", "few", "nonfinite", "codes-e2m1-away", "ties-e2m1-away", "below-powers"]


def planes_of(x):
    """Codes and scales that stand for the library's exponents and elements."""
    from mx.elemwise_ops import _quantize_elemwise_core
    from mx.mx_ops import _shared_exponents
    blocks = x.reshape(x.shape[0], -1, 32)
    e = _shared_exponents(blocks, axes=[-1]) - 2
    e = torch.where(e > 127, torch.nan, e).clamp(min=-127)
    v = _quantize_elemwise_core(blocks / 2**e, 3, 2, 6.0, saturate_normals=True).float().numpy()
    code = np.zeros(v.shape, dtype=np.uint8)
    for i, m in enumerate(MAGNITUDES):
        code[np.abs(v) == m] = i
    assert np.isin(np.abs(v[~np.isnan(v)]), MAGNITUDES).all()
    code[np.signbit(v) & ~np.isnan(v)] |= 8
    flat = torch.from_numpy(code.reshape(x.shape))
    byte = torch.where(torch.isnan(e), 255, e.float() + 127).squeeze(-1).to(torch.uint8)
    return {"codes": flat[:, ::2] | flat[:, 1::2] << 4, "scales": byte.view(torch.float8_e8m0fnu)}


def write(file):
    from mx.mx_ops import _quantize_mx
    sets = Sets(file)
    for dtype in (BF16, F32):
        for kind in KINDS:
            at, x = sets.start("mxfp4-mxc", "weight", dtype, kind, "", 16, 128, 32)
            y = _quantize_mx(x.clone(), 8, "fp4_e2m1", axes=[-1], block_size=32)
            file.op(at, "fake-quant", (LIBRARY, "mx.mx_ops._quantize_mx", "round nearest"), {"x": x}, {"y": y})
            planes = planes_of(x)
            file.op(at, "convert", (LIBRARY, "mx.mx_ops._shared_exponents, mx.elemwise_ops._quantize_elemwise_core",
                                    "the library packs nothing: the codes that stand for its elements"), {"x": x}, planes)
            file.op(at, "dequant", (LIBRARY, "mx.mx_ops._quantize_mx", "the values that the codes stand for"),
                    planes, {"y": y})
            if kind in ("normal-0.02", "few"):
                a = inputs.matrix("normal", 5, 128, 128, dtype, sets.seed)
                matmul_op(sets, at, a, planes, torch.nn.functional.linear(a, y), TORCHAO,
                          "torch.nn.functional.linear on the rounded weight", "")


FILES = {"mxfp4-mxc.h5": write}
