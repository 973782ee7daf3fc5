# SPDX-License-Identifier: MIT
"""What unsloth, axolotl, PEFT and PyTorch's autograd make of LoRA and DoRA around a frozen base weight, on a CPU.

unsloth's functions are taken out of their files, for the package wants a GPU to be imported; with no quantized
base their fast_dequantize hands the weight on, which is what stands in its place here. axolotl's module is
imported as it is, below empty packages.
"""
import upstream  # first: it sets up the threads of torch
from upstream import AXOLOTL, AXOLOTL_TRITON, PEFT, UNSLOTH, axolotl_lora, axolotl_triton_scale, unsloth_lora

import gguf
import numpy as np
import torch
from bitsandbytes import functional as bnb
from peft import LoraConfig
from peft.tuners.lora.layer import Linear

import inputs
from store import WORDS
from torchao.quantization import Int4WeightOnlyConfig, IntxWeightOnlyConfig
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao_goldens import fake_quantizers, int4_dequant, int4_planes, parameters

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
DTYPES = (BF16, F16, F32)
M, K, N, R = 5, 64, 48, 8

# --- inputs ---------------------------------------------------------------------------------------


def draw(kind, name, shape, dtype, seed):
    """A tensor of the layer. few: multiples of a power of two with few bits, so that sums are exact."""
    r = np.random.default_rng([seed, *kind.encode(), *name.encode()])
    if kind == "few":
        x = r.integers(-3, 4, shape) / {"x": 2, "g": 4}.get(name, 8)
    else:
        size = {"x": 1, "w": 0.02, "a": 0.1, "b": 0.05, "g": 1e-3}.get(name, 0.5)
        x = r.standard_normal(shape) * size * {"normal": 1, "large": 30, "small": 1e-2}[kind]
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


def nf4(w):
    packed, state = bnb.quantize_4bit(w, blocksize=64, quant_type="nf4")
    return bnb.dequantize_4bit(packed, state)


def q8_0(w):
    t = gguf.GGMLQuantizationType.Q8_0
    return torch.from_numpy(gguf.quants.dequantize(gguf.quants.quantize(w.float().numpy(), t), t)).to(w.dtype)


def int4(w):
    return int4_dequant(int4_planes(w, 32, w.dtype), 32, w.dtype, False)


BASES = {"plain": lambda w: w, "nf4-bnb": nf4, "int4": int4, "q8_0": q8_0}
BASE_NOTES = {"plain": "", "nf4-bnb": "w: bitsandbytes' NF4, dequantized",
              "int4": "w: FBGEMM's int4 in groups of 32, dequantized in rational numbers",
              "q8_0": "w: the gguf package's Q8_0, dequantized"}


class Case:
    """The tensors of one set, and its parameters."""

    def __init__(self, kind, dtype, base, s=2.0, adapter=None, dropout=0.0, lora_bias=False, bias=False,
                 zero_rows=False, rank=R):
        self.kind, self.dtype, self.base, self.s, self.dropout = kind, dtype, base, s, dropout
        self.adapter = adapter or dtype
        self.x, self.g = self.tensor("x", (M, K)), self.tensor("g", (M, N))
        self.w = BASES[base](self.tensor("w", (N, K)))
        self.a, self.b = self.tensor("a", (rank, K), self.adapter), self.tensor("b", (N, rank), self.adapter)
        self.lora_bias = self.tensor("lora_bias", (N,), self.adapter) if lora_bias else None
        self.bias = self.tensor("bias", (N,)) if bias else None
        self.magnitude = self.w.float().norm(dim=1) * (1 + 0.25 * self.tensor("magnitude", (N,), F32))
        self.magnitude = self.magnitude.to(self.adapter)
        if zero_rows:  # norms of 0; one magnitude of 0
            self.w[:3], self.b[:3], self.magnitude[2] = 0, 0, 0
            self.kind = "zero-rows"
        self.seed = 1

    def tensor(self, name, shape, dtype=None):
        return draw(self.kind, name, shape, dtype or self.dtype, 1)

    def masked(self, function):
        """function() with the generator that draws the mask set, and the mask."""
        torch.manual_seed(7)
        dtype = self.x.dtype if self.mask_dtype is None else self.mask_dtype
        mask = torch.empty_like(self.x, dtype=dtype).bernoulli_(1 - self.dropout)
        torch.manual_seed(7)
        return function(), mask.to(torch.uint8)

    mask_dtype = None

    def params(self, **more):
        words = {v: k for k, v in {"bf16": BF16, "f16": F16, "f32": F32}.items()}
        return parameters(s=repr(self.s) if self.s != 1 else None,
                          adapter_dtype=words[self.adapter] if self.adapter != self.dtype else None, **more,
                          lora_bias="on" if self.lora_bias is not None else None,
                          bias="on" if self.bias is not None else None)

    def given(self, *names, **more):
        """The tensors of these names that are there."""
        all = {"x": self.x, "w": self.w, "a": self.a, "b": self.b, "lora_bias": self.lora_bias, "bias": self.bias,
               "magnitude": self.magnitude, "g": self.g, **more}
        return {name: all[name] for name in (*names, *more) if all[name] is not None}


def start(file, layer, case, params):
    at = f"{layer}.{WORDS[case.dtype].lower()}.{case.kind}.{case.base}"
    if params:
        at += "." + params.replace(" ", ".")
    if at in file.h5:
        at += f".{sum(name.startswith(at) for name in file.h5) + 1}"
    file.group(at, scheme=layer, operand="layer", dtype=WORDS[case.dtype], params=params, seed=case.seed)
    return at


def record(file, layer, case, params, made_by, y, grads, forward, backward):
    """Both directions. grads: of what backward has, by name; y is differentiated by case.g."""
    at = start(file, layer, case, params)
    library, forward_name, backward_name = made_by
    note = BASE_NOTES[case.base]
    file.op(at, "forward", (library, forward_name, note), forward, {"y": y.detach().reshape(M, N)})
    if grads:
        names = list(grads)
        values = torch.autograd.grad(y, [grads[n] for n in names], case.g.reshape(y.shape))
        file.op(at, "backward", (library, backward_name, note), backward,
                {"d" + n: v.reshape(grads[n].shape[-2:]) for n, v in zip(names, values)})


def leaves(*tensors):
    return [None if t is None else t.clone().requires_grad_() for t in tensors]


# --- the libraries --------------------------------------------------------------------------------


def unsloth_set(file, *args, **kw):
    case = Case(*args, **kw)
    a, b, lora_bias = leaves(case.a, case.b, case.lora_bias)
    x = case.x.clone()[None].requires_grad_()
    if case.bias is not None:  # generation: one token of each of M sequences
        y = unsloth_lora.fast_linear_forward((case.w, None, case.a, case.b, case.s, case.bias), case.x[:, None])
        record(file, "lora-unsloth", case, case.params(), (UNSLOTH, "kernels/utils.py fast_linear_forward", ""), y,
               {}, case.given("x", "w", "a", "b", "bias"), {})
        return
    p = case.dropout or None
    y, mask = case.masked(lambda: unsloth_lora.LoRA_W.apply(x, case.w, None, a, b, case.s, p, lora_bias))
    mask = {"mask": mask} if p else {}
    grads = {"x": x, "a": a, "b": b, **({} if lora_bias is None else {"lora_bias": lora_bias})}
    record(file, "lora-unsloth", case, case.params(p=p), (UNSLOTH, "kernels/fast_lora.py LoRA_W.forward",
                                                         "kernels/fast_lora.py LoRA_W.backward"), y, grads,
           case.given("x", "w", "a", "b", "lora_bias", **mask), case.given("x", "w", "a", "b", "g", **mask))


QAT = {"int4": Int4WeightOnlyConfig(group_size=32),
       "int8": IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerAxis(0)),
       "int8-g32": IntxWeightOnlyConfig(weight_dtype=torch.int8, granularity=PerGroup(32))}


def qat_set(file, scheme, *args, **kw):
    """get_lora_parameters sends W, A and B through their fake quantizers, each on its own; then LoRA_W. A weight
    whose columns the group does not divide has no fake quantizer: unsloth's filter passes it over."""
    case = Case(*args, **kw)
    _, fake = fake_quantizers(QAT[scheme])
    fits = lambda w: scheme == "int8" or w.shape[1] % 32 == 0
    w, a, b = (fake(w).detach() if fits(w) else w for w in (case.w, case.a, case.b))
    y = unsloth_lora.LoRA_W.apply(case.x[None], w, None, a, b, case.s, None, None)
    params = case.params(qat=scheme, qat_group="32" if scheme == "int4" else None,
                         qat_indivisible=None if all(map(fits, (w, a, b))) else "skip")
    record(file, "lora-unsloth", case, params,
           (f"{UNSLOTH}; {upstream.TORCHAO}", "torchao's fake quantizers, then kernels/fast_lora.py LoRA_W.forward", ""),
           y, {}, case.given("x", "w", "a", "b"), {})


def axolotl_set(file, *args, **kw):
    case = Case(*args, **kw)
    a, b, lora_bias = leaves(case.a, case.b, case.lora_bias)
    x, xd = case.x.clone()[None].requires_grad_(), None
    if case.dropout:
        xd = case.masked(lambda: torch.nn.functional.dropout(case.x, case.dropout))[0][None].requires_grad_()
    y = axolotl_lora.LoRA_O.apply(x, xd, case.w, case.bias, None, a, b, case.s, lora_bias, None)
    grads = {"x": x, "xd": xd, "a": a, "b": b, "lora_bias": lora_bias}
    dropped = {} if xd is None else {"xd": xd[0]}
    record(file, "lora-axolotl", case, case.params(dropout="on" if case.dropout else None),
           (AXOLOTL, "kernels/lora.py LoRA_O.forward", "kernels/lora.py LoRA_O.backward"), y,
           {n: t for n, t in grads.items() if t is not None},
           case.given("x", "w", "a", "b", "lora_bias", "bias", **dropped),
           case.given("x", "w", "a", "b", "g", **dropped))


def peft_layer(case, **config):
    """A Linear with an adapter of the case's numbers, and the adapter's parameters."""
    base = torch.nn.Linear(K, N, bias=case.bias is not None).to(case.dtype)
    base.weight.data = case.w.clone()
    if case.bias is not None:
        base.bias.data = case.bias.clone()
    layer = Linear(base, "default", r=R, lora_alpha=R, config=LoraConfig(
        lora_dropout=case.dropout, lora_bias=case.lora_bias is not None, **config))
    layer.scaling["default"] = case.s
    down, up = layer.lora_A["default"], layer.lora_B["default"]
    down.weight.data, up.weight.data = case.a.clone(), case.b.clone()
    if case.lora_bias is not None:
        up.bias.data = case.lora_bias.clone()
    parts = {"a": down.weight, "b": up.weight}
    if case.lora_bias is not None:
        parts["lora_bias"] = up.bias
    if "use_dora" in config:
        parts["magnitude"] = layer.lora_magnitude_vector["default"].weight
        parts["magnitude"].data = case.magnitude.clone()
    return layer, parts


def peft_set(file, *args, name="lora-peft", of="layer.py Linear.forward", dora=None, **kw):
    case = Case(*args, **kw)
    case.mask_dtype = case.adapter
    layer, grads = peft_layer(case, **({"use_dora": True} if dora else {}))
    x = case.x.clone().requires_grad_()
    y, mask = case.masked(lambda: layer.train()(x))
    p, mask = (case.dropout, {"mask": mask}) if case.dropout else (None, {})
    names = ["x", "w", "a", "b", *([dora] if dora else [])]
    record(file, name, case, case.params(p=p), (PEFT, f"tuners/lora/{of}", f"PyTorch's autograd through {of}"), y,
           {"x": x, **grads}, case.given(*names, "lora_bias", "bias", **mask),
           case.given(*names, "g", *(["bias"] if dora else []), **mask))


def dora_peft_set(file, *args, **kw):
    peft_set(file, *args, name="dora-peft", of="dora.py DoraLinearLayer.forward", dora="magnitude", **kw)


def dora_axolotl_set(file, *args, norm="torch", **kw):
    """LoRA_O with a magnitude: on a CPU its norm is torch's. norm=triton: with the scales of the Triton kernel;
    triton-cached: with what the module keeps of them, which it reads from the magnitude's _dora_cache."""
    case = Case(*args, **kw)
    a, b, magnitude = leaves(case.a, case.b, case.magnitude)
    x, xd = case.x.clone()[None].requires_grad_(), None
    if case.dropout:
        xd = case.masked(lambda: torch.nn.functional.dropout(case.x, case.dropout))[0][None].requires_grad_()
    scales = axolotl_triton_scale(case.w, case.a, case.b, case.s, case.magnitude)
    if norm == "triton-cached":
        magnitude._dora_cache = (a._version, b._version, case.magnitude.to(case.dtype) / scales)
    compute = (lambda *args: scales) if norm == "triton" else axolotl_lora._compute_dora_scale
    with upstream.replaced(axolotl_lora, _compute_dora_scale=compute):
        y = axolotl_lora.LoRA_O.apply(x, xd, case.w, case.bias, None, a, b, case.s, None, magnitude)
    grads = {"x": x, "xd": xd, "a": a, "b": b, "magnitude": magnitude}
    dropped = {} if xd is None else {"xd": xd[0]}
    names = ["x", "w", "a", "b", "magnitude"]
    record(file, "dora-axolotl", case, case.params(dropout="on" if case.dropout else None,
                                                   norm=norm if norm != "torch" else None),
           (AXOLOTL if norm == "torch" else AXOLOTL_TRITON, "kernels/lora.py LoRA_O.forward",
            "kernels/lora.py LoRA_O.backward"), y, {n: t for n, t in grads.items() if t is not None},
           case.given(*names, "bias", **dropped), case.given(*names, "g", **dropped))


# --- the file -------------------------------------------------------------------------------------


def dora_sets(file, make):
    for dtype in DTYPES:
        for base in BASES:
            make(file, "normal", dtype, base)
        for kind in ("few", "large"):
            make(file, kind, dtype, "plain", s=0.5)
        make(file, "normal", dtype, "plain", zero_rows=True)
        make(file, "normal", dtype, "plain", s=1.0, bias=True, dropout=0.5)
        make(file, "normal", dtype, "plain", s=0.3, bias=True)
        make(file, "normal", dtype, "plain", s=-1.5, dropout=0.1)
        if dtype != F32:
            make(file, "normal", dtype, "plain", adapter=F32)
            make(file, "normal", dtype, "nf4-bnb", s=0.3, adapter=F32, bias=True, dropout=0.1)
    make(file, "normal", F32, "plain", adapter=BF16)


def lora_file(file):
    for make in (unsloth_set, axolotl_set, peft_set):
        unsloth = make is unsloth_set
        for dtype in DTYPES:
            for base in BASES:
                make(file, "normal", dtype, base)
            for kind in ("few", "large", "small"):
                make(file, kind, dtype, "plain")
            make(file, "few", dtype, "plain", s=-0.5, lora_bias=True)
            make(file, "normal", dtype, "plain", s=-1.5, lora_bias=True)
            make(file, "normal", dtype, "nf4-bnb", s=4 / 3, lora_bias=True, bias=not unsloth)
            make(file, "normal", dtype, "plain", s=0.0)
            if unsloth:  # s beside a product, no power of two: whether it is rounded on its own
                for s in (0.3, 1.3333):
                    make(file, "normal", dtype, "plain", s=s)
            for kind in ("few", "normal"):
                make(file, kind, dtype, "plain", bias=True)
                make(file, kind, dtype, "plain", dropout=0.5)
            for s, p in ((1.0, 0.1), (2.0, 0.25)):
                make(file, "normal", dtype, "plain", s=s, dropout=p)
            if dtype != F32:
                for kind in ("few", "normal"):
                    make(file, kind, dtype, "plain", adapter=F32)
                make(file, "normal", dtype, "int4", s=0.3, adapter=F32, lora_bias=True, dropout=0.1)
        make(file, "normal", F32, "plain", adapter=BF16)
    for scheme in QAT:
        for dtype in DTYPES:
            for rank in (32, 8):
                qat_set(file, scheme, "normal", dtype, "plain", rank=rank)
        qat_set(file, scheme, "normal", BF16, "nf4-bnb", rank=32, adapter=F32)
    for norm in ("torch", "triton", "triton-cached"):
        dora_sets(file, lambda *args, **kw: dora_axolotl_set(*args, norm=norm, **kw))
    dora_sets(file, dora_peft_set)


FILES = {"lora.h5": lora_file}
