# SPDX-License-Identifier: MIT
"""The upstream libraries, as the generators call them.

FBGEMM's and MSLK's packages run CUDA code when they are imported, so only the Python modules that hold the
quantizers are loaded; the packages above them are empty stand-ins with the right search path. Triton
kernels run in Triton's interpreter (NumPy, so that a division is correctly rounded), with
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
MSLK_VERSION = next(importlib.metadata.distributions(name="mslk-cuda", path=[os.path.join(sys.prefix, "mslk")])).version
MSLK_TRITON = (f"mslk-cuda {MSLK_VERSION}, triton {version('triton')} (interpreter), "
               f"torch {torch.__version__} (CPU)")
MSLK = f"mslk-cuda {MSLK_VERSION}, torch {torch.__version__} (CPU)"
DERIVED = f"none: derived with Python {sys.version.split()[0]} fractions, numpy {np.__version__}"


def _stand_ins(root, *names):
    """Empty packages whose parts are found below root."""
    for name in names:
        module = types.ModuleType(name)
        module.__path__ = [os.path.join(root, *name.split("."))]
        sys.modules[name] = module


def _load_fbgemm():
    root = importlib.util.find_spec("fbgemm_gpu").submodule_search_locations[0]
    _stand_ins(os.path.dirname(root), "fbgemm_gpu", "fbgemm_gpu.experimental", "fbgemm_gpu.experimental.gemm",
               "fbgemm_gpu.experimental.gemm.triton_gemm", "fbgemm_gpu.experimental.gen_ai")
    with contextlib.redirect_stdout(sys.stderr):
        return (importlib.import_module("fbgemm_gpu.experimental.gen_ai.quantize"),
                importlib.import_module("fbgemm_gpu.experimental.gemm.triton_gemm.fp8_gemm"))


def _plain_function(name, **how):
    """In the place of torch.library.custom_op: MSLK's operators have the names of FBGEMM's."""
    def keep(function):
        function.register_fake = lambda fake: fake
        return function
    return keep


def _load_mslk():
    _stand_ins(os.path.join(sys.prefix, "mslk"), "mslk", "mslk.quantize", "mslk.quantize.triton", "mslk.utils",
               "mslk.utils.triton")
    kept, torch.library.custom_op = torch.library.custom_op, _plain_function
    try:
        return (importlib.import_module("mslk.quantize.shuffle"),
                importlib.import_module("mslk.quantize.triton.fp8_quantize"))
    finally:
        torch.library.custom_op = kept
        for name in [n for n in sys.modules if n.split(".")[0] == "mslk"]:
            del sys.modules[name]


fbgemm_quantize, _fp8_gemm = _load_fbgemm()
fbgemm_row_cpu = _fp8_gemm.quantize_fp8_row
fbgemm_block_cpu = _fp8_gemm.quantize_fp8_block
mslk_quantize, _mslk_fp8 = _load_mslk()


class _Interpreted:
    """A Triton kernel without its autotuner, which wants a GPU."""

    def __init__(self, kernel, **how):
        self.kernel, self.how = kernel.fn, how

    def __getitem__(self, grid):
        return lambda *args, **kw: self.kernel[grid](*args, **self.how, **kw)


@contextlib.contextmanager
def _replaced(module, **names):
    kept = {name: getattr(module, name) for name in names}
    try:
        for name, value in names.items():
            setattr(module, name, value)
        yield
    finally:
        for name, value in kept.items():
            setattr(module, name, value)


def _quantized(module, quantize, x, **kernels):
    """quantize(x) with binary32 in the place of e4m3, on the CPU; then PyTorch's cast."""
    import triton.language as tl

    constants = module.get_fp8_constants()[2:]
    with (_replaced(module, get_fp8_constants=lambda: (torch.float32, tl.float32, *constants), **kernels),
          _replaced(torch.cuda, device=lambda index: contextlib.nullcontext()), np.errstate(all="ignore")):
        codes, scales = quantize(x)
    return codes.to(torch.float8_e4m3fn), scales


def fbgemm_row_triton(x):
    """quantize_fp8_row's Triton kernel: codes (float8_e4m3fn) and scales (float32, one per row)."""
    kernel = _Interpreted(_fp8_gemm._kernel_quantize_fp8_row, BLOCK_SIZE=1024)
    return _quantized(_fp8_gemm, _fp8_gemm.triton_quantize_fp8_row, x, _kernel_quantize_fp8_row=kernel)


def mslk_row_triton(x, eps=1 / 512):
    """The same of MSLK, whose lower bound of max|x| is a parameter with this default."""
    kernel = _Interpreted(_mslk_fp8._kernel_quantize_fp8_row, BLOCK_SIZE=1024)
    return _quantized(_mslk_fp8, lambda x: _mslk_fp8.triton_quantize_fp8_row(x, eps_opt=eps), x,
                      _kernel_quantize_fp8_row=kernel)


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
