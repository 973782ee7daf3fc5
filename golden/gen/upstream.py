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

import ast
import contextlib
import importlib
import importlib.metadata
import importlib.util
import sys
import tempfile
import types

import numpy as np
import torch

torch.set_num_threads(1)  # the order of sums in gradients must not depend on the machine's load

from torchao.quantization import quant_primitives  # noqa: E402


def version(package):
    return importlib.metadata.version(package)


TORCHAO = f"torchao {version('torchao')}, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
PYTORCH = f"torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
FBGEMM = f"fbgemm-gpu-genai {version('fbgemm-gpu-genai')}, torch {torch.__version__} (CPU)"
FBGEMM_TRITON = (
    f"fbgemm-gpu-genai {version('fbgemm-gpu-genai')}, triton {version('triton')} (interpreter), "
    f"torch {torch.__version__} (CPU)"
)


def _apart(package):
    """A package in a folder of its own."""
    (found,) = importlib.metadata.distributions(name=package, path=[os.path.join(sys.prefix, package.split("-")[0])])
    return f"{package} {found.version}"


_INTERPRETER = f"triton {version('triton')} (interpreter), torch {torch.__version__} (CPU)"
MSLK_TRITON = f"{_apart('mslk-cuda')}, {_INTERPRETER}"
MSLK = f"{_apart('mslk-cuda')}, torch {torch.__version__} (CPU)"
TORCHAO_TRITON = f"torchao {version('torchao')}, {_INTERPRETER}"
UNSLOTH_TRITON = f"{_apart('unsloth')}, {_INTERPRETER}"
UNSLOTH = f"{_apart('unsloth')}, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
AXOLOTL = f"{_apart('axolotl')}, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
AXOLOTL_TRITON = f"{_apart('axolotl')}, {_INTERPRETER}"
PEFT = f"peft {version('peft')}, torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})"
TRANSFORMERS = f"transformers {version('transformers')}, torch {torch.__version__} (CPU)"
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
def replaced(module, **names):
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
    with (replaced(module, get_fp8_constants=lambda: (torch.float32, tl.float32, *constants), **kernels),
          replaced(torch.cuda, device=lambda index: contextlib.nullcontext()), np.errstate(all="ignore")):
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


def _run(kernel, grid, *args, **constants):
    """A Triton kernel in the interpreter, without its autotuner if it has one."""
    from triton.runtime import Autotuner

    with np.errstate(all="ignore"):
        (kernel.fn if isinstance(kernel, Autotuner) else kernel)[grid](*args, **constants)


def _tiles(n, side=128):
    return -(-n // side)


def fbgemm_block_triton(x, rows):
    """quantize_fp8_block's Triton kernel on tiles of rows x 128: codes, scales. Its wrapper refuses tensors
    on the CPU and does no arithmetic."""
    import triton.language as tl

    codes, scales = torch.empty(x.shape), torch.empty(_tiles(x.shape[0], rows), _tiles(x.shape[1]))
    _run(_fp8_gemm._kernel_quantize_fp8_block, (scales.numel(),), x, scales, codes, None, *x.shape, *x.stride(),
         *codes.stride(), *scales.stride(), TL_FP8_DTYPE=tl.float32, MAX_FP8=448.0, EPS=1e-12, CLAMP_MAX=False,
         BLOCK_M=rows, BLOCK_K=128, K_MAJOR=True)
    return codes.to(torch.float8_e4m3fn), scales


def _deepseek():
    """torchao's kernels after DeepSeek-V3's, which it makes where it finds a GPU."""
    from torchao.kernel import blockwise_quantization

    with replaced(torch.utils._triton, has_triton=lambda: True):
        return blockwise_quantization._build_triton_impls()


def deepseek_block(x, rows):
    """torchao's fp8_blockwise_act_quant (rows 1) and fp8_blockwise_weight_quant (rows 128). Both widen x to
    binary32 first; PyTorch does that here, for the interpreter gets subnormal bf16 wrong."""
    codes, (n, k), x = torch.empty(x.shape), x.shape, x.float()
    scales = torch.empty(n // rows, k // 128)
    if rows == 1:
        _run(_deepseek().act_quant, (scales.numel(),), x, codes, scales, BLOCK_SIZE=128)
    else:
        _run(_deepseek().weight_quant, (n // 128, k // 128), x, codes, scales, n, k, BLOCK_SIZE=128)
    return codes.to(torch.float8_e4m3fn), scales


def training_block(x, rows):
    """torchao's kernels for training: triton_fp8_blockwise_act_quant_lhs, _weight_quant_rhs."""
    from torchao.prototype.blockwise_fp8_training import kernels

    codes, (n, k) = torch.empty(x.shape), x.shape
    scales = torch.empty(n // rows, k // 128)
    args = [v for t in (x, codes, scales) for v in (t, *t.stride())]
    constants = {"BLOCK_SIZE": 128, "EPS": kernels.EPS, "FP8_MAX": 448.0}
    if rows == 1:
        _run(kernels.triton_fp8_blockwise_act_quant_lhs_kernel, (_tiles(n, 2), k // 128), *args, n, k,
             NUM_GROUPS=2, **constants)
    else:
        _run(kernels.triton_fp8_blockwise_weight_quant_rhs_kernel, (n // 128, k // 128), *args, n, k, **constants)
    return codes.to(torch.float8_e4m3fn), scales


def unsloth_block(x):
    """unsloth's act_quant_kernel, taken alone out of kernels/fp8.py: the package wants a GPU to be imported.
    It widens x first, see deepseek_block."""
    x = x.float()
    with open(os.path.join(sys.prefix, "unsloth", "unsloth", "kernels", "fp8.py")) as f:
        text = f.read()
    (node,) = [n for n in ast.parse(text).body if getattr(n, "name", "") == "act_quant_kernel"]
    with tempfile.NamedTemporaryFile("w", suffix=".py") as f:  # Triton reads a kernel's source again
        f.write("import triton\nimport triton.language as tl\n@triton.jit\n" + ast.get_source_segment(text, node))
        f.flush()
        spec = importlib.util.spec_from_file_location("unsloth_act_quant", f.name)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        codes, scales = torch.empty(x.shape), torch.empty(x.shape[0], x.shape[1] // 128)
        _run(module.act_quant_kernel, (scales.numel(),), x, codes, scales, BLOCK_SIZE=128)
    return codes.to(torch.float8_e4m3fn), scales


def block_product(a, a_scales, b, b_scales):
    """torchao's triton_fp8_gemm_1x128_128x128 of codes [M,K] and [N,K], in binary32."""
    from torchao.prototype.blockwise_fp8_training import kernels

    a, b = a.float(), b.float().t()
    (m, k), n = a.shape, b.shape[1]
    y, b_scales = torch.empty(m, n), b_scales.t()
    args = [v for t in (a, b, y, a_scales, b_scales) for v in (t, *t.stride())]
    assert m % 16 == 0  # scales are loaded beyond the last row otherwise
    _run(kernels.triton_fp8_gemm_1x128_128x128_kernel, (m // 16, n // 32), *args, m, n, k, None,
         BLOCK_SIZE_M=16, BLOCK_SIZE_N=32, BLOCK_SIZE_K=128)
    return y


def _taken(path, *names):
    """Definitions at the top of one of unsloth's files, as source: the file itself cannot be imported."""
    with open(os.path.join(sys.prefix, "unsloth", "unsloth", *path.split("/"))) as f:
        text = f.read()
    lines = text.splitlines(keepends=True)
    nodes = {getattr(n, "name", ""): n for n in ast.parse(text).body}
    first = lambda node: min([node.lineno, *(d.lineno for d in node.decorator_list)])
    return "\n".join("".join(lines[first(n) - 1:n.end_lineno]) for n in (nodes[name] for name in names))


def _load_unsloth_lora():
    """unsloth's LoRA_W, matmul_lora and fast_linear_forward, for a base weight that is not quantized: what only
    quantized ones reach is left out, and their fast_dequantize hands the weight on, as it does without a state.
    fast_linear_forward takes the tuple (W, W's state, A, B, s, bias) in the place of a module."""
    no = lambda *args: False
    module = types.ModuleType("unsloth_lora")
    module.__dict__.update(
        torch=torch, torch_matmul=torch.matmul, torch_mm=torch.mm, torch_float32=torch.float32,
        torch_amp_custom_fwd=torch.amp.custom_fwd(device_type="cuda"),
        torch_amp_custom_bwd=torch.amp.custom_bwd(device_type="cuda"), Float8Tensor=type(None), Int4QuantState=type,
        _HAS_ADDMM_OP=False, _OPTIMIZER_STEPS=0, _is_packed_state=no, _is_compiling=no,
        _has_non_lora_adapter=no, _has_multiple_active_adapters=no, _has_active_dora_adapter=no,
        _has_active_lora_bias=no, _has_packed_qweight=no, get_lora_parameters_bias=lambda parts: parts,
        fast_dequantize=lambda W, quant_state, **how: W)
    exec(_taken("kernels/utils.py", "addmm_", "matmul_lora", "_fast_lora_weights", "fast_linear_forward"),
         module.__dict__)
    exec(_taken("kernels/fast_lora.py", "_dropout_forward", "_dropout_replay", "_matmul_lora_ext", "_add_lora_dX",
                "_lora_bias_grad", "LoRA_W"), module.__dict__)
    return module


def _load_axolotl_lora():
    _stand_ins(os.path.join(sys.prefix, "axolotl"), "axolotl", "axolotl.kernels")
    return importlib.import_module("axolotl.kernels.lora")


unsloth_lora = _load_unsloth_lora()
axolotl_lora = _load_axolotl_lora()


def axolotl_triton_scale(W, A, B, s, magnitude):
    """axolotl's triton_dora_scale in W's dtype. The kernel widens what it reads; with binary32 as its output
    type the last cast is PyTorch's."""
    from axolotl.kernels.dora import triton_dora_scale

    parts = [t.to(W.dtype).float() for t in (W, A, B)]
    return triton_dora_scale(parts[0], None, *parts[1:], s, magnitude, torch.float32).to(W.dtype)
