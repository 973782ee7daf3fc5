# SPDX-License-Identifier: MIT
"""What unsloth and axolotl make of an MLP with LoRA on its three matrices, on a CPU.

Their autograd functions are called as they are; the Triton kernels between the matrices run in Triton's
interpreter. That multiplies bf16 as if its bits were integers, so for bf16 PyTorch takes the kernel's steps one by
one; in binary16 those give what the interpreter gives, but for the last bits of exp, erf and tanh.
"""
import upstream  # first: it sets up Triton's interpreter and the threads of torch
from upstream import AXOLOTL, UNSLOTH, axolotl_lora, unsloth_lora

import importlib
import importlib.util
import math
import os
import sys
import tempfile
import types

import numpy as np
import torch

from store import WORDS
from torchao_goldens import parameters

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
M, K, H, N, R = 5, 32, 48, 32, 4

# --- the kernels ----------------------------------------------------------------------------------


def _unsloth_kernels():
    """Those of kernels/swiglu.py and geglu.py. libdevice's tanh is a GPU's: here the interpreter's own
    exp, in a formula that is exact to an ulp or two."""
    source = ("import math\nimport numpy as np\nimport triton\nimport triton.language as tl\n@triton.jit\n"
              "def triton_tanh(x):\n    t = tl.exp(-2.0 * tl.abs(x).to(tl.float64))\n"
              "    t = (1.0 - t) / (1.0 + t)\n    return tl.where(x < 0, -t, t).to(tl.float32)\n")
    for path, names in {"kernels/swiglu.py": ("_fg_kernel", "_DWf_DW_dfg_kernel"),
                        "kernels/geglu.py": ("_exact_forward_kernel", "_exact_backward_kernel", "_approx_forward_kernel",
                                             "_approx_backward_kernel")}.items():
        source += upstream._taken(path, *names)
    file = tempfile.NamedTemporaryFile("w", suffix=".py", delete=False)  # Triton reads a kernel's source again
    with file as f:
        f.write(source)
    spec = importlib.util.spec_from_file_location("unsloth_mlp_kernels", file.name)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def _axolotl_kernels():
    upstream._stand_ins(os.path.join(sys.prefix, "axolotl"), "axolotl.utils")
    logger = types.SimpleNamespace(warning=lambda *a: None, debug=lambda *a: None)
    sys.modules["axolotl.utils.logging"] = types.SimpleNamespace(get_logger=lambda name: logger)
    return (importlib.import_module("axolotl.kernels.swiglu"), importlib.import_module("axolotl.kernels.geglu"))


_unsloth = _unsloth_kernels()
_swiglu, _geglu = _axolotl_kernels()
KERNELS = {
    ("unsloth", "swiglu"): (_unsloth._fg_kernel, _unsloth._DWf_DW_dfg_kernel),
    ("unsloth", "erf"): (_unsloth._exact_forward_kernel, _unsloth._exact_backward_kernel),
    ("unsloth", "tanh"): (_unsloth._approx_forward_kernel, _unsloth._approx_backward_kernel),
    ("axolotl", "swiglu"): (_swiglu._swiglu_fwd_kernel, _swiglu._swiglu_bwd_kernel),
    ("axolotl", "erf"): (_geglu._geglu_fwd_kernel, _geglu._geglu_bwd_kernel),
}


def _launch(library, kernel, *tensors):
    n = tensors[0].numel()
    how = ({"BLOCK_SIZE": 1024, "LONG_INDEXING": 0} if library == "unsloth" else
           {("block_size" if "swiglu" in kernel.fn.__name__ else "BLOCK_SIZE"): 1024})
    upstream._run(kernel, (-(-n // 1024),), *tensors, n, **how)


def _steps(form, e):
    """f(e) in forward, f(e) in backward, f'(e): the kernels' steps in binary32 by PyTorch."""
    e = e.float()
    if form == "swiglu":
        s = torch.sigmoid(e)
        return e * s, s * e, (s, 1.0 + e * (1.0 - s))
    if form == "erf":
        part = 0.5 * (torch.erf(torch.rsqrt(torch.tensor(2.0)) * e) + 1.0)
        return 0.5 * e * (torch.erf(torch.rsqrt(torch.tensor(2.0)) * e) + 1.0), part * e, (
            part + 0.3989422804014327 * e * torch.exp(-0.5 * e * e), 1)
    s = 0.7978845608028654
    a = s * e
    b = a * 0.044715 * e * e
    t = 1.0 + torch.tanh(a + b)
    half = 0.5 * t
    return (0.5 * e * (torch.tanh(s * e * (1.0 + 0.044715 * e * e)) + 1.0), half * e,
            (half + -half * (t - 2.0) * (a + 3.0 * b), 1))


def _forward_steps(form, e, u):
    return _steps(form, e)[0].to(u.dtype) * u


def _backward_steps(form, d, e, u):
    """h, dL/du, dL/de."""
    _, f, (first, second) = _steps(form, e)
    f = f.to(d.dtype)
    return f * u, d * f, ((d * u).float() * first * second).to(d.dtype)


class Activation:
    """The pair of functions that LoRA_MLP is given."""

    def __init__(self, library, form):
        self.library, self.form = library, form
        self.kernels = KERNELS[library, form]

    def forward(self, e, u):
        if e.dtype == BF16:
            return _forward_steps(self.form, e, u)
        h = torch.empty_like(e)
        _launch(self.library, self.kernels[0], e, u, h)
        if e.dtype == F16:
            self.compare(h, _forward_steps(self.form, e, u))
        return h

    def backward(self, d, e, u):
        """In the order of the library: unsloth h, du, de; axolotl h, de, du."""
        if e.dtype == BF16:
            h, du, de = _backward_steps(self.form, d, e, u)
            return (h, du, de) if self.library == "unsloth" else (h, de, du)
        want = _backward_steps(self.form, d, e, u)
        d, e, u = d.clone(), e.clone(), u.clone()
        _launch(self.library, self.kernels[1], d, e, u)
        got = (d, e, u) if self.library == "unsloth" else (d, u, e)
        if e.dtype == F16:
            for x, y in zip(got, want):
                self.compare(x, y)
        return d, e, u

    @staticmethod
    def compare(x, y):
        off = (x.view(torch.int16).int() - y.view(torch.int16).int()).abs()
        off = torch.where((x == 0) & (y == 0), 0, off)
        assert off.max() <= 1 and (off > 0).float().mean() < 0.01, (off.max(), off.float().mean())


# --- the sets -------------------------------------------------------------------------------------

_rms = types.SimpleNamespace(_SAVE_OUTPUT=False)
unsloth_lora.__dict__.update(_rms_layernorm=_rms)
exec(upstream._taken("kernels/fast_lora.py", "LoRA_MLP"), unsloth_lora.__dict__)
NAMES = ("gate", "up", "down")


def draw(kind, name, shape, dtype, seed):
    """few: multiples of powers of two with few bits, so that the sums before the activation are exact."""
    r = np.random.default_rng([seed, *kind.encode(), *name.encode()])
    if kind == "few":
        x = r.integers(-2, 3, shape) / {"x": 2, "g": 4}.get(name, 8)
    else:
        size = {"x": 1.0, "g": 1e-2}.get(name, 0.2)
        x = r.standard_normal(shape) * size * {"normal": 1, "large": 4, "small": 0.05}[kind]
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


def tensors(kind, dtype, adapter, seed):
    shapes = {"gate": (H, K), "up": (H, K), "down": (N, H)}
    t = {"x": draw(kind, "x", (M, K), dtype, seed), "g": draw(kind, "g", (M, N), dtype, seed)}
    for name, (rows, cols) in shapes.items():
        t[f"{name}_w"] = draw(kind, f"{name}_w", (rows, cols), dtype, seed)
        t[f"{name}_a"] = draw(kind, f"{name}_a", (R, cols), adapter, seed)
        t[f"{name}_b"] = draw(kind, f"{name}_b", (rows, R), adapter, seed)
    return t


def apply_unsloth(t, s, f):
    parts = [v for n in NAMES for v in (t[f"{n}_w"], None, t[f"{n}_a"], t[f"{n}_b"], s)]
    return unsloth_lora.LoRA_MLP.apply(t["x"][None], *parts, f.forward, f.backward, False)


def apply_axolotl(t, s, f):
    parts = [v for n in NAMES for v in (t[f"{n}_w"], None, None, t[f"{n}_a"], t[f"{n}_b"], s, None, None)]
    return axolotl_lora.LoRA_MLP.apply(t["x"][None], None, *parts, f.forward, f.backward, False)


def record(file, library, form, kind, dtype, adapter, s, seed):
    layer = f"mlp-{'swiglu' if form == 'swiglu' else 'geglu'}-{library}"
    words = {BF16: "bf16", F16: "f16", F32: "f32"}
    params = parameters(s=repr(s), adapter_dtype=words[adapter] if adapter != dtype else None,
                        form="tanh" if form == "tanh" else None)
    at = f"{layer}.{words[dtype]}.{kind}.{params.replace(' ', '.')}.{seed}"
    file.group(at, scheme=layer, operand="layer", dtype=WORDS[dtype], params=params, seed=seed)
    t, f = tensors(kind, dtype, adapter, seed), Activation(library, form)
    names = ["x"] + [f"{n}_{p}" for n in NAMES for p in "ab"]
    for name in names:
        t[name].requires_grad_()
    y = (apply_unsloth if library == "unsloth" else apply_axolotl)(t, s, f)
    grads = torch.autograd.grad(y, [t[n] for n in names], t["g"][None])
    of = (UNSLOTH if library == "unsloth" else AXOLOTL) + (", triton " + upstream.version("triton") + " (interpreter)"
                                                          if dtype != BF16 else "")
    note = "the activation's steps by PyTorch" if dtype == BF16 else ""
    if form == "tanh" and dtype != BF16:
        note = "tanh in binary64 in the place of libdevice's"
    ins = {k: v.detach() for k, v in t.items() if k != "g"}
    file.op(at, "forward", (of, "kernels LoRA_MLP.forward", note), ins, {"y": y.detach()[0]})
    file.op(at, "backward", (of, "kernels LoRA_MLP.backward", note), {**ins, "g": t["g"]},
            {"d" + n: v.reshape(t[n].shape) for n, v in zip(names, grads)})


def mlp_file(file):
    seed = 0
    for library, form in KERNELS:
        for dtype in (BF16, F16, F32):
            for kind, adapter, s in (("normal", dtype, 2.0), ("few", dtype, 0.5), ("few", F32, 2.0),
                                     ("large", F32, 0.3), ("small", dtype, 0.3)):
                seed += 1
                record(file, library, form, kind, dtype, adapter, s, seed)


FILES = {"mlp.h5": mlp_file}
