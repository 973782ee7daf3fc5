# SPDX-License-Identifier: MIT
"""What AutoGPTQ, GPTQModel and AutoAWQ make of gptq and awq.

The packages above the modules that quantize and pack start CUDA code or whole model zoos when they are
imported; empty stand-ins with the right search path take their place, and the modules themselves are
loaded unchanged from the installed packages.
"""
import upstream  # first: it sets the threads of torch

import contextlib
import importlib
import importlib.util
import os
import sys
import types

import numpy as np
import torch

import inputs
from torchao_goldens import BF16, F16, F32, Sets, matmul_op, parameters


class _Absent(types.ModuleType):
    """A module from which only names are imported."""

    def __getattr__(self, name):
        if name.startswith("__"):
            raise AttributeError(name)


def _stand_ins(package, *names):
    root = os.path.dirname(importlib.util.find_spec(package).submodule_search_locations[0])
    for name in (package, *(f"{package}.{n}" for n in names)):
        sys.modules[name] = module = types.ModuleType(name)
        module.__path__ = [os.path.join(root, *name.split("."))]


def _load_autogptq():
    _stand_ins("auto_gptq", "quantization", "nn_modules", "nn_modules.qlinear")
    torch.cuda.synchronize = lambda: None  # at the end of fasterquant
    return (importlib.import_module("auto_gptq.quantization.gptq").GPTQ,
            importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_exllama").QuantLinear,
            importlib.import_module("auto_gptq.nn_modules.qlinear.qlinear_cuda_old").QuantLinear)


def _load_gptqmodel():
    _stand_ins("gptqmodel", "quantization", "nn_modules", "models", "looper", "adapter")
    sys.modules["gptqmodel"].DEBUG_ON = False
    config = importlib.import_module("gptqmodel.quantization.config")
    sys.modules["gptqmodel.quantization"].__dict__.update(
        {name: value for name, value in vars(config).items() if not name.startswith("_")})
    with contextlib.redirect_stdout(sys.stderr):
        return (config.RTNConfig, importlib.import_module("gptqmodel.quantization.rtn").RTN,
                importlib.import_module("gptqmodel.nn_modules.qlinear.torch").TorchLinear,
                importlib.import_module("gptqmodel.utils.model"))


def _load_autoawq():
    _stand_ins("awq", "quantize", "utils", "modules", "modules.linear")
    for name in ("WQLinear_GEMM", "WQLinear_GEMV", "WQLinear_Marlin", "WQLinear_GEMVFast"):
        setattr(sys.modules["awq.modules.linear"], name, None)  # quantizer.py names them
    for name in ("accelerate", "datasets", "awq.quantize.scale", "awq.utils.calib_data"):
        sys.modules.setdefault(name, _Absent(name))
    importlib.import_module("awq.utils.utils")
    for name in ("accelerate", "datasets"):
        if isinstance(sys.modules[name], _Absent):
            del sys.modules[name]
    gemm = importlib.import_module("awq.modules.linear.gemm")
    gemm.TRITON_AVAILABLE = False  # the path for CPUs
    return (importlib.import_module("awq.quantize.quantizer").AwqQuantizer, gemm.WQLinear_GEMM,
            importlib.import_module("awq.utils.packing_utils").dequantize_gemm)


GPTQ, ExllamaLinear, CudaOldLinear = _load_autogptq()
AwqQuantizer, WQLinear_GEMM, dequantize_gemm = _load_autoawq()
RTNConfig, RTN, TorchLinear, gptqmodel_model = _load_gptqmodel()


def _library(package):
    return f"{package} {upstream.version(package)}, torch {torch.__version__} (CPU)"


AUTOGPTQ, GPTQMODEL, AUTOAWQ = _library("auto-gptq"), _library("gptqmodel"), _library("autoawq")


# --- inputs -------------------------------------------------------------------------------------


def ties_gptq(r, n, g, t):
    """Ties of a grid whose scale is a power of two; every other block symmetric."""
    s = inputs._power(r, n)
    x = (r.integers(-8, 7, (n, g)) + 0.5) * s
    x[0::2, 0] = 7.5 * s[0::2, 0]
    x[1::2, 0], x[1::2, 1] = 7 * s[1::2, 0], -8 * s[1::2, 0]
    return x


def subnormal_scales(r, n, g, t):
    """Scales from 0.6 to 16 times the smallest number of binary16."""
    s = 2.0**-24 * 10 ** r.uniform(-0.2, 1.2, (n, 1))
    x = r.uniform(-7.5, 7.5, (n, g)) * s
    x[:, 0] = -7.5 * s[:, 0]
    return x


def constant_f16(r, n, g, t):
    """One value per block; the scale is a normal number of binary16."""
    return np.repeat(r.choice([-1, 1], (n, 1)) * 10.0 ** r.uniform(-2, 2, (n, 1)), g, axis=1)


def one_side(r, n, g, t):
    """No element below zero in every third block, above zero in every third, none but zeros in a few."""
    x = r.standard_normal((n, g)) * 0.05
    x[0::3], x[1::3] = np.abs(x[0::3]), -np.abs(x[1::3])
    x[::7] = 0
    return x


def large(r, n, g, t):
    """Near the largest number whose range binary16 can hold."""
    return r.uniform(-1, 1, (n, g)) * 30000 / r.choice([1, 2, 64], (n, 1))


def above_zero(r, n, g, t):
    """Far from zero, so that a range without it is narrow."""
    return r.uniform(0.01, 0.02, (n, g)) + r.choice([-3, -0.1, 0.1, 3, 100], (n, 1))


inputs.KINDS.update({"ties-gptq": ties_gptq, "subnormal-scales": subnormal_scales, "one-side": one_side,
                     "large": large, "above-zero": above_zero, "constant-f16": constant_f16})
KINDS = ["normal", "zeros", "constant-f16", "outlier", "edges", "repeated", "few", "ties-gptq", "one-side",
         "large", "above-zero"]
ANY = ["constant", "small", "tiny", "positive", "uniform", "normal-1e-3"]  # scales may be 0 in binary16


# --- gptq ---------------------------------------------------------------------------------------


def linear_of(x):
    module = torch.nn.Linear(x.shape[1], x.shape[0], bias=False)
    module.weight = torch.nn.Parameter(x.clone(), requires_grad=False)
    return module


def gptq_planes(module):
    return {"codes": module.qweight, "zeros": module.qzeros, "scales": module.scales,
            "g_idx": module.g_idx.to(torch.int32)}


def autogptq(x, group, sym):
    """Weight after fasterquant with the Hessian I, which leaves no error to hand on; and planes."""
    linear = linear_of(x)
    gptq = GPTQ(linear)
    gptq.quantizer.configure(4, perchannel=True, sym=sym, mse=False)
    gptq.H, gptq.nsamples = torch.eye(x.shape[1]), 1
    scale, zero, g_idx = gptq.fasterquant(group_size=group)
    packed = ExllamaLinear(4, group, x.shape[1], x.shape[0], bias=False)
    packed.pack(linear, scale, zero, g_idx)
    return linear.weight.data, gptq_planes(packed)


def autogptq_module(planes, group, n, k):
    module = CudaOldLinear(4, group, k, n, bias=False)
    module.qweight, module.qzeros, module.scales = (planes[p] for p in ("codes", "zeros", "scales"))
    return module


def gptqmodel(x, group, sym, v2):
    """The same by GPTQModel's own quantizer that rounds to nearest; the packed module."""
    linear = linear_of(x)
    config = RTNConfig(bits=4, group_size=group, sym=sym, smooth=None, offload_to_disk=False)
    weight, scale, zero, g_idx, *_ = RTN(linear, config).quantize()
    linear.weight.data = weight
    module = TorchLinear(bits=4, group_size=group, sym=sym, desc_act=False, in_features=x.shape[1],
                         out_features=x.shape[0], register_buffers=True)
    module.pack_original(linear, scale, zero, g_idx)
    module.eval()
    module.post_init()
    planes = {name: t.clone() for name, t in gptq_planes(module).items()}
    if not v2:
        gptqmodel_model.convert_gptq_v2_to_v1_format_module(module, config)
        planes["zeros"] = module.qzeros.data.clone()
        gptqmodel_model.convert_gptq_v1_to_v2_format_module(module, 4, torch.int32)
    return weight, planes, module


def gptq_set(sets, dtype, kind, writer="autogptq", sym=True, group=32, rows=32, cols=64, multiply=None):
    params = parameters(group=group if group != 128 else None, writer=writer if writer != "autogptq" else None,
                        sym=None if sym else "no")
    at, x = sets.start("gptq", "weight", dtype, kind, params, rows, cols, group)
    if writer == "autogptq":
        y, planes = autogptq(x, group, sym)
        made = (AUTOGPTQ, "GPTQ.fasterquant, QuantLinear.pack (exllama)", "the Hessian is I")
        library, name = AUTOGPTQ, "QuantLinear.forward (cuda-old)"
        module = autogptq_module(planes, group, rows, cols)
        # The forward multiplies in the scales' dtype, which is binary16.
        w = module(torch.eye(cols, dtype=F16)).t().contiguous().to(dtype)
        note = "of the identity in F16"
    else:
        y, planes, module = gptqmodel(x, group, sym, writer == "gptqmodel-v2")
        made = (GPTQMODEL, "RTN.quantize, TorchLinear.pack_original"
                + (", convert_gptq_v2_to_v1_format_module" if writer == "gptqmodel" else ""), "")
        library, name = GPTQMODEL, "TorchLinear.forward"
        w = module.dequantize_weight().t().contiguous().to(dtype)
        note = "dequantize_weight, transposed"
    sets.file.op(at, "fake-quant", (made[0], made[1].split(",")[0], made[2]), {"x": x}, {"y": y})
    sets.file.op(at, "convert", made, {"x": x}, planes)
    sets.file.op(at, "dequant", (library, name, note), planes, {"y": w})
    if multiply and (writer != "autogptq" or dtype == F16):
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a), library, name, "")


def act_order_set(sets, dtype, rows=32, cols=64, group=32):
    """Planes with a permuted g_idx: dequant and matmul only."""
    at, x = sets.start("gptq", "weight", dtype, "normal",
                       parameters(group=group, writer="gptqmodel", sym="no"), rows, cols, group)
    _, planes, module = gptqmodel(x, group, False, False)
    permuted = np.random.default_rng(sets.seed).permutation(cols) // group
    planes["g_idx"] = module.g_idx = torch.from_numpy(permuted).to(torch.int32)
    sets.file.op(at, "dequant", (GPTQMODEL, "TorchLinear.dequantize_weight", "g_idx permuted by hand"),
                 planes, {"y": module.dequantize_weight().t().contiguous().to(dtype)})
    a = inputs.matrix("normal", 5, cols, cols, dtype, sets.seed)
    matmul_op(sets, at, a, planes, module(a), GPTQMODEL, "TorchLinear.forward", "g_idx permuted by hand")


def gptq_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in KINDS + ["subnormal-scales"]:
            for sym in (True, False):
                gptq_set(sets, dtype, kind, sym=sym, group=128 if kind == "normal" else 32,
                         cols=128 if kind == "normal" else 64, multiply="normal" if kind == "few" else None)
        for writer in ("gptqmodel", "gptqmodel-v2"):
            for kind in ("constant", "one-side", "subnormal-scales", "ties-gptq", "small"):
                for sym in (True, False)[writer == "gptqmodel-v2":]:
                    gptq_set(sets, dtype, kind, writer, sym, multiply="normal" if kind == "one-side" else None)
        act_order_set(sets, dtype)
    gptq_set(sets, BF16, "normal-0.02", "gptqmodel", rows=64, cols=256, group=64, multiply="outlier")


# --- awq ----------------------------------------------------------------------------------------


def awq_set(sets, dtype, kind, group=32, rows=32, cols=64, multiply=None):
    at, x = sets.start("awq", "weight", dtype, kind, parameters(group=group if group != 128 else None), rows,
                       cols, group)
    quantizer = types.SimpleNamespace(group_size=group, zero_point=True, w_bit=4)
    y, _, _ = AwqQuantizer.pseudo_quantize_tensor(quantizer, x)
    sets.file.op(at, "fake-quant", (AUTOAWQ, "AwqQuantizer.pseudo_quantize_tensor", ""), {"x": x}, {"y": y})
    linear = linear_of(x).half()
    linear.weight.data, scales, zeros = AwqQuantizer.pseudo_quantize_tensor(quantizer, linear.weight.data)
    module = WQLinear_GEMM.from_linear(linear, 4, group, False, scales.t().contiguous(), zeros.t().contiguous())
    planes = {"codes": module.qweight, "zeros": module.qzeros, "scales": module.scales}
    sets.file.op(at, "convert", (AUTOAWQ, "AwqQuantizer.pseudo_quantize_tensor, WQLinear_GEMM.from_linear",
                                 "weight.half() first, as _apply_quant"), {"x": x}, planes)
    w = dequantize_gemm(module.qweight, module.qzeros, module.scales, 4, group)
    sets.file.op(at, "dequant", (AUTOAWQ, "dequantize_gemm", "transposed, cast from F16"), planes,
                 {"y": w.t().contiguous().to(dtype)})
    if multiply:
        a = inputs.matrix(multiply, 5, cols, cols, dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a[None])[0], AUTOAWQ, "WQLinear_GEMM.forward (without kernels)", "")


def awq_file(file):
    sets = Sets(file)
    for dtype in (BF16, F32, F16):
        for kind in KINDS + [k for k in ANY if k != "tiny" or dtype != F32]:
            awq_set(sets, dtype, kind, multiply="normal" if kind in ("few", "normal-1e-3") else None)
        awq_set(sets, dtype, "ties-asymmetric", 128, cols=128, multiply="outlier")
        awq_set(sets, dtype, "subnormal-scales", 47, cols=94)
    awq_set(sets, BF16, "normal-0.02", 64, 64, 256, multiply="normal")


FILES = {"awq.h5": awq_file, "gptq.h5": gptq_file}
