# SPDX-License-Identifier: MIT
"""What peft, axolotl and unsloth make of a weight when they merge an adapter into it, on a CPU."""
import upstream  # first: it sets up the threads of torch
from upstream import AXOLOTL, PEFT, TORCHAO, UNSLOTH

import logging
import os
import sys
import types
import warnings

import numpy as np
import torch

import bitsandbytes
from peft import LoraConfig
from peft.tuners.lora import bnb as peft_bnb
from peft.tuners.lora.layer import Linear as PeftLinear
from peft.tuners.lora.torchao import TorchaoLoraLinear

logging.disable(logging.WARNING)
warnings.filterwarnings("ignore", message="Merge lora module")

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


def configured(layer, base, a, b, s, m=None, **how):
    """A layer of peft's with these matrices."""
    r = a.shape[0]
    layer = layer(base, "default", config=LoraConfig(r=r, lora_alpha=r, use_dora=m is not None), r=r, lora_alpha=r,
                  **how)
    layer.lora_A["default"].weight.data = a.clone()
    layer.lora_B["default"].weight.data = b.clone()
    layer.scaling["default"] = s
    if m is not None:
        layer.lora_magnitude_vector["default"].weight.data = m.clone()
    return layer


def linear(w):
    base = torch.nn.Linear(w.shape[1], w.shape[0], bias=False)
    base.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
    return base


def peft_linear(w, a, b, s, m=None, safe=False):
    layer = configured(PeftLinear, linear(w), a, b, s, m)
    layer.merge(safe_merge=safe)
    return layer.get_base_layer().weight.data


class Kept:
    """Keeps what peft hands to a class of bitsandbytes: the merged weight before it is quantized again."""

    def __init__(self, name):
        self.name, self.real, self.data = name, getattr(bitsandbytes.nn, name), None

    def __enter__(self):
        def made(data, **how):
            self.data = data.clone()
            return self.real(data, **how)

        setattr(peft_bnb.bnb.nn, self.name, made)
        return self

    def __exit__(self, *exception):
        setattr(peft_bnb.bnb.nn, self.name, self.real)


def peft_4bit(w, a, b, s, m=None, double=True):
    """(base as dequantized, merged weight before quantization, planes after it)."""
    base = bitsandbytes.nn.Linear4bit(w.shape[1], w.shape[0], bias=False)
    base.weight = bitsandbytes.nn.Params4bit(w.clone(), requires_grad=False, quant_type="nf4",
                                             compress_statistics=double)
    layer = configured(peft_bnb.Linear4bit, base.to("cpu"), a, b, s, m)
    seen = bitsandbytes.functional.dequantize_4bit(base.weight.data, base.weight.quant_state)
    with Kept("Params4bit") as kept:
        layer.merge()
    return seen, kept.data, layer.get_base_layer().weight


def peft_8bit(w, a, b, s):
    """The same of LLM.int8()."""
    base = bitsandbytes.nn.Linear8bitLt(w.shape[1], w.shape[0], bias=False, has_fp16_weights=False)
    base.weight = bitsandbytes.nn.Int8Params(w.clone(), requires_grad=False, has_fp16_weights=False)
    layer = configured(peft_bnb.Linear8bitLt, base.to("cpu"), a, b, s)
    seen = bitsandbytes.functional.int8_vectorwise_dequant(base.weight.data, base.weight.SCB)
    with Kept("Int8Params") as kept:
        layer.merge()
    return seen, kept.data, layer.get_base_layer().weight


def peft_torchao(w, a, b, s):
    """The same of torchao's int8 weights; the last of the three is quantized and dequantized again."""
    import torchao
    from torchao.quantization import Int8WeightOnlyConfig

    base, kept = linear(w), []

    def quantize(module, config):
        kept.append(module.weight.clone())
        return torchao.quantization.quantize_(module, config)

    torchao.quantization.quantize_(base, Int8WeightOnlyConfig())
    layer = configured(TorchaoLoraLinear, base, a, b, s, get_apply_tensor_subclass=Int8WeightOnlyConfig)
    seen = base.weight.dequantize()
    with upstream.replaced(torchao, quantize_=quantize):
        layer.merge()
    return seen, kept[0], layer.get_base_layer().weight.dequantize()


def _axolotl():
    """axolotl/cli/utils/lora_merge.py; its packages would import the whole trainer."""
    upstream._stand_ins(os.path.join(sys.prefix, "axolotl"), "axolotl.cli", "axolotl.cli.utils", "axolotl.utils")
    sys.modules["axolotl.utils.logging"] = types.SimpleNamespace(get_logger=logging.getLogger)
    from axolotl.cli.utils import lora_merge

    return lora_merge


axolotl = _axolotl()


def axolotl_merge(w, a, b, alpha, m=None, **nf4):
    state = {"base_model.model.q.lora_A.weight": a, "base_model.model.q.lora_B.weight": b}
    if m is not None:
        state["base_model.model.q.lora_magnitude_vector"] = m
    config = {"r": a.shape[0], "lora_alpha": alpha, "use_dora": m is not None}
    y, merged = axolotl._merge_tensor_with_lora(w, "q.weight", state, alpha / a.shape[0], config, "cpu",
                                                use_dora=m is not None, **nf4)
    assert merged
    return y


_unsloth = {"torch": torch, "_packed_base": lambda layer: None, "_FP8_WEIGHT_DTYPES": (torch.float8_e4m3fn,),
            "Bnb_Linear4bit": bitsandbytes.nn.Linear4bit, "Peft_Linear4bit": peft_bnb.Linear4bit,
            "Peft_Linear": PeftLinear}
exec(upstream._taken("save.py", "_merge_lora"), _unsloth)
exec(upstream._taken("kernels/utils.py", "get_lora_parameters_bias"), _unsloth)


def unsloth_merge(w, a, b, s):
    return _unsloth["_merge_lora"](configured(PeftLinear, linear(w), a, b, s), "q")[0]


# --- the sets -----------------------------------------------------------------------------------

BNB = f"bitsandbytes {bitsandbytes.__version__}, {PEFT}"
AO = f"{PEFT.split(',')[0]}, {TORCHAO}"
N, K, R = 20, 96, 8


def few(r, shape, top, unit):
    return r.integers(-top, top + 1, shape) * unit


# Weight, A, B. few: sums are exact in every order. huge: near the largest number of binary16.
KINDS = {
    "normal": lambda r: (r.standard_normal((N, K)) * 0.02, r.uniform(-1, 1, (R, K)) / np.sqrt(K),
                         r.standard_normal((N, R)) * 0.01),
    "large": lambda r: (r.standard_normal((N, K)), r.standard_normal((R, K)), r.standard_normal((N, R)) * 3),
    "few": lambda r: (few(r, (N, K), 8, 1 / 64), few(r, (R, K), 3, 1 / 8), few(r, (N, R), 3, 1 / 16)),
    "swallowed": lambda r: (few(r, (N, K), 8, 1 / 4), few(r, (R, K), 3, 1 / 64), few(r, (N, R), 3, 1 / 64)),
    "tiny": lambda r: (few(r, (N, K), 8, 2.0**-24), few(r, (R, K), 3, 2.0**-12), few(r, (N, R), 3, 2.0**-14)),
    "huge": lambda r: (few(r, (N, K), 8, 8000.0), few(r, (R, K), 3, 64.0), few(r, (N, R), 3, 32.0)),
}


class Sets:
    def __init__(self, file):
        self.file, self.seed, self.count = file, 0, 0

    def inputs(self, kind, dtype, adapter, dora):
        """w, a, b and for DoRA m: near the norms, its first numbers 0 and negative."""
        self.seed += 1
        r = np.random.default_rng([self.seed, *kind.encode()])
        w, a, b = (torch.from_numpy(x) for x in KINDS[kind](r))
        m = torch.linalg.norm(w + b @ a, dim=1) * torch.from_numpy(r.uniform(0.9, 1.1, N)) if dora else None
        if dora:
            m[:2] = torch.tensor([0.0, -m[1]])
            w[2], b[2] = 0, 0  # a norm of 0
        return w.to(dtype), a.to(adapter), b.to(adapter), m.to(adapter) if dora else None

    def put(self, layer, kind, params, made_by, w, a, b, m, y):
        words = {F32: "f32", BF16: "bf16", F16: "f16"}
        if a.dtype != w.dtype:
            params = {**params, "adapter-dtype": words[a.dtype]}
        if m is not None:
            params = {**params, "dora": "on"}
        self.count += 1
        text = " ".join(f"{key}={value}" for key, value in params.items())
        at = f"{layer}.layer.{words[w.dtype]}.{kind}.{text.replace(' ', '.')}.{self.count}"
        self.file.group(at, scheme=layer, operand="layer", dtype=words[w.dtype].upper(), params=text, seed=self.seed)
        ins = {"w": w, "a": a, "b": b, **({} if m is None else {"m": m})}
        self.file.op(at, "forward", made_by, ins, {"y": y})


def linear_sets(sets, kind, dtype, adapter, s, dora):
    w, a, b, m = sets.inputs(kind, dtype, adapter, dora)
    for safe in (False, True):
        sets.put("merge-peft", kind, {"s": s, **({"safe": "on"} if safe else {})},
                 (PEFT, f"tuners.lora.layer.Linear.merge(safe_merge={safe})", ""), w, a, b, m,
                 peft_linear(w, a, b, s, m, safe))
        if kind in ("huge",) or dora:  # safe_merge raises for inf and NaN, and of DoRA it is the same
            break
    sets.put("merge-axolotl", kind, {"s": s}, (AXOLOTL, "cli/utils/lora_merge.py _merge_tensor_with_lora", ""),
             w, a, b, m, axolotl_merge(w, a, b, s * R, m))
    if kind != "huge" and not dora:  # raises for inf
        sets.put("merge-unsloth", kind, {"s": s}, (UNSLOTH, "save.py _merge_lora", "its function alone"), w, a, b, None,
                 unsloth_merge(w, a, b, s))


def quantized_sets(sets, kind, dtype, adapter, s):
    w, a, b, _ = sets.inputs(kind, dtype, adapter, False)
    how = {"s": s, "product": "dtype"}
    seen, y, planes = peft_4bit(w, a, b, s)
    packed, state = bitsandbytes.functional.quantize_4bit(y, quant_type="nf4", compress_statistics=True)
    assert torch.equal(planes.data, packed) and torch.equal(planes.quant_state.absmax, state.absmax)
    sets.put("merge-peft", kind, how, (BNB, "tuners.lora.bnb.Linear4bit.merge", "what it hands to Params4bit, which "
             "quantizes it as quantize_4bit does; w: dequantize_4bit of the base, in the dtype of the sum"),
             seen.to(y.dtype), a, b, None, y)
    seen, y, planes = peft_8bit(w, a, b, s)
    codes, rows, _ = bitsandbytes.functional.int8_vectorwise_quant(y.half())
    assert torch.equal(planes.data, codes) and torch.equal(planes.SCB, rows)
    sets.put("merge-peft", kind, how, (BNB, "tuners.lora.bnb.Linear8bitLt.merge", "what it hands to Int8Params, which "
             "quantizes it as int8_vectorwise_quant does after a cast to binary16; w: int8_vectorwise_dequant of the "
             "base, cast to the adapter's dtype"), seen.to(y.dtype), a, b, None, y)
    seen, y, again = peft_torchao(w, a, b, s)
    sets.put("merge-peft", kind, {"s": s}, (AO, "tuners.lora.torchao.TorchaoLoraLinear.merge",
                                           "what it hands to quantize_; w: dequantize() of the base"), seen, a, b, None, y)


def quantized_dora_sets(sets, kind, dtype, adapter, s):
    w, a, b, m = sets.inputs(kind, dtype, adapter, True)
    w[2] = 1 / 4  # quantizing zeros and then NaN tells nothing
    seen, y, _ = peft_4bit(w, a, b, s, m)
    sets.put("merge-peft", kind, {"s": s, "product": "dtype"},
             (BNB, "tuners.lora.bnb.Linear4bit.merge with DoRA", "what it hands to Params4bit; w: dequantize_4bit of the "
              "base"), seen, a, b, m, y)


def merge_file(file):
    sets = Sets(file)
    for dtype in (BF16, F16, F32):
        for adapter in (F32, BF16, F16):
            linear_sets(sets, "normal", dtype, adapter, 2.0, False)
            linear_sets(sets, "few", dtype, adapter, 0.5, False)
            linear_sets(sets, "few", dtype, adapter, 0.3, True)
            if adapter in (dtype, F32):
                for kind, s in (("large", 0.3), ("swallowed", 2.0), ("few", 0.3), ("tiny", 2.0)):
                    linear_sets(sets, kind, dtype, adapter, s, False)
                for kind, s in (("normal", 2.0), ("large", 0.3)):
                    linear_sets(sets, kind, dtype, adapter, s, True)
            if dtype != F16 or adapter != BF16:
                quantized_sets(sets, "normal", dtype, adapter, 2.0)
                quantized_sets(sets, "few", dtype, adapter, 0.5)
                quantized_dora_sets(sets, "few", dtype, adapter, 0.5)
    linear_sets(sets, "huge", F16, F32, 1.0, False)
    linear_sets(sets, "huge", F16, F16, 1.0, False)


FILES = {"merge.h5": merge_file}
