# SPDX-License-Identifier: MIT
"""The upstream libraries, as the generators call them.

FBGEMM's package runs CUDA code when it is imported, so only the two Python modules that hold the
quantizers are loaded; the packages above them are empty stand-ins with the right search path. Its Triton
kernel for rows runs in Triton's interpreter (NumPy, so that a division is correctly rounded), with
binary32 as its output type: the cast to e4m3 is left to PyTorch, because the interpreter's own cast does
not round to nearest even. The kernel clamps to +-448 first, so nothing depends on how a cast overflows.
"""
import os

os.environ["TRITON_INTERPRET"] = "1"  # before triton is imported

import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
import types

import numpy as np
import torch

torch.set_num_threads(1)  # the order of sums in gradients must not depend on the machine's load

from torchao.quantization import quant_primitives  # noqa: E402


def version(package):
    return importlib.metadata.version(package)


TORCHAO = f"torchao {version('torchao')}, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
FBGEMM = f"fbgemm-gpu-genai {version('fbgemm-gpu-genai')}, torch {torch.__version__} (CPU)"
FBGEMM_TRITON = (
    f"fbgemm-gpu-genai {version('fbgemm-gpu-genai')}, triton {version('triton')} (interpreter), "
    f"torch {torch.__version__} (CPU)"
)
DERIVED = f"none: derived with Python {sys.version.split()[0]} fractions, numpy {np.__version__}"


def _load_fbgemm():
    root = importlib.util.find_spec("fbgemm_gpu").submodule_search_locations[0]
    for name in ("fbgemm_gpu", "fbgemm_gpu.experimental", "fbgemm_gpu.experimental.gemm",
                 "fbgemm_gpu.experimental.gemm.triton_gemm", "fbgemm_gpu.experimental.gen_ai"):
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(os.path.dirname(root), *name.split("."))]
        sys.modules[name] = module
    with contextlib.redirect_stdout(sys.stderr):
        return (importlib.import_module("fbgemm_gpu.experimental.gen_ai.quantize"),
                importlib.import_module("fbgemm_gpu.experimental.gemm.triton_gemm.fp8_gemm"))


fbgemm_quantize, _fp8_gemm = _load_fbgemm()
fbgemm_row_cpu = _fp8_gemm.quantize_fp8_row
_kernel = _fp8_gemm._kernel_quantize_fp8_row.fn  # without the autotuner, which wants a GPU


class _Interpreted:
    def __getitem__(self, grid):
        return lambda *args, **kw: _kernel[grid](*args, BLOCK_SIZE=1024, **kw)


def fbgemm_row_triton(x):
    """quantize_fp8_row's Triton kernel: codes (float8_e4m3fn) and scales (float32, one per row)."""
    import triton.language as tl

    kept = _fp8_gemm._kernel_quantize_fp8_row, _fp8_gemm.get_fp8_constants, torch.cuda.device
    _fp8_gemm._kernel_quantize_fp8_row = _Interpreted()
    _fp8_gemm.get_fp8_constants = lambda: (torch.float32, tl.float32, *kept[1]()[2:])
    torch.cuda.device = lambda index: contextlib.nullcontext()
    try:
        with np.errstate(all="ignore"):
            codes, scales = _fp8_gemm.triton_quantize_fp8_row(x)
    finally:
        _fp8_gemm._kernel_quantize_fp8_row, _fp8_gemm.get_fp8_constants, torch.cuda.device = kept
    return codes.to(torch.float8_e4m3fn), scales


class _Kept(torch.autograd.Function):
    """In the place of the cast to float8: the value is left as it is."""

    @staticmethod
    def forward(ctx, x, dtype):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g, None


class _Ideal(_Kept):
    """In the place of the cast to float8: rounded to it and held in binary32, so that no cast is left
    for autograd to go back through."""

    @staticmethod
    def forward(ctx, x, dtype):
        return x.to(dtype).to(x.dtype)


@contextlib.contextmanager
def float8_cast(mode):
    """torch: as it is. ideal: same value, gradient passes. none: no rounding."""
    kept = quant_primitives._RoundToFloat8
    quant_primitives._RoundToFloat8 = {"torch": kept, "ideal": _Ideal, "none": _Kept}[mode]
    try:
        yield
    finally:
        quant_primitives._RoundToFloat8 = kept
