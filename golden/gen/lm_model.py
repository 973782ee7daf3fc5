# SPDX-License-Identifier: MIT
"""What transformers, PyTorch's autograd, torchao's fake quantizers and PEFT make of small language models of the
Llama family: logits, losses and gradients in binary64, and the same in binary32 as the yardstick of rounding.

transformers computes norms, rotary angles and the softmax in binary32 even in a binary64 model. Here the names
through which its code asks for binary32 stand for binary64 while that model is made and runs.
"""
from upstream import PEFT, TORCHAO, TRANSFORMERS, replaced  # first: it sets up the threads of torch

import contextlib
import copy
import json

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import awq, gptq
from torchao.quantization import Int4WeightOnlyConfig, Int8DynamicActivationIntxWeightConfig, quantize_
from torchao.quantization.granularity import PerGroup
from torchao.quantization.qat import QATConfig
from torchao.quantization.quant_primitives import MappingType, choose_qparams_affine
from torchao.quantization.utils import _get_per_token_block_size
from transformers import AutoConfig, AutoModelForCausalLM

WIDE = "binary64: torch.float32, torch.float and Tensor.float stand for binary64 in transformers' code"

# As transformers 5 writes config.json, and as earlier versions did; rope's scaling with frequencies above, between and
# below its bounds; a head that is not width / heads; one group of queries, several, and none; two kinds of model.
SHAPE = {"vocab_size": 48, "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 2,
         "num_attention_heads": 4, "hidden_act": "silu", "max_position_embeddings": 512}
MODELS = {
    "untied": ({**SHAPE, "model_type": "llama", "num_key_value_heads": 2, "head_dim": 8, "rms_norm_eps": 1e-5,
                "tie_word_embeddings": False, "rope_parameters": {"rope_theta": 10000.0, "rope_type": "default"},
                "bos_token_id": 12}, (2, 24)),
    "tied": ({**SHAPE, "model_type": "llama", "num_hidden_layers": 1, "num_key_value_heads": 1, "head_dim": 16, "rms_norm_eps": 1e-6,
              "tie_word_embeddings": True, "rope_theta": 500000.0,
              "rope_scaling": {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                               "high_freq_factor": 4.0, "original_max_position_embeddings": 256}}, (2, 24)),
    "long": ({**SHAPE, "model_type": "mistral", "vocab_size": 32, "num_hidden_layers": 1, "num_key_value_heads": 4,
              "rms_norm_eps": 0.01, "tie_word_embeddings": False, "rope_theta": 1000.0, "sliding_window": None},
             (1, 100)),
    "quantized": ({**SHAPE, "model_type": "llama", "vocab_size": 32, "num_hidden_layers": 1,
                   "intermediate_size": 64, "num_attention_heads": 2, "num_key_value_heads": 1,
                   "rms_norm_eps": 1e-5, "tie_word_embeddings": False, "rope_theta": 10000.0}, (2, 24)),
}
RANK, ALPHA = 4, 12
MARGIN = 2e-4  # of a quantization step: no rounding of an input is nearer to a tie than this


F32, F64 = torch.float32, torch.float64
_single, _double = torch.Tensor.float, torch.Tensor.double


@contextlib.contextmanager
def named_float(dtype, cast):
    with replaced(torch, float32=dtype, float=dtype), replaced(torch.Tensor, float=cast):
        yield


def in_double(wide=True):
    return named_float(F64, _double) if wide else named_float(F32, _single)


def random_parameters(model, r):
    """Numbers that BF16 holds: matrices for outputs of size 1.5, norms about 1."""
    for name, p in model.named_parameters():
        x = r.standard_normal(tuple(p.shape))
        x = 1 + 0.3 * x if p.ndim == 1 else x if "embed" in name else 1.5 * x / p.shape[1] ** 0.5
        p.data = torch.from_numpy(x).to(torch.bfloat16).to(F32)


def make(config, wide, parameters=None):
    """A model as transformers reads it from config.json."""
    with in_double(wide):
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**copy.deepcopy(config)), attn_implementation="eager")
        model = model.double() if wide else model
    if parameters:
        model.load_state_dict(parameters)
    return model


def results(model, tokens, targets, wide):
    """logits, -ln p of each target, and the gradient of their sum by each parameter that is trained."""
    with in_double(wide):
        logits = model(tokens, use_cache=False).logits
        nll = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none")
    nll.sum().backward()
    assert logits.dtype == (F64 if wide else F32)
    return {"logits": logits.detach(), "nll": nll.detach().reshape(tokens.shape),
            **{f"gradient.{plain(name)}": p.grad for name, p in model.named_parameters() if p.requires_grad}}


def plain(name):
    """PEFT's names as it writes them, without what it puts before all of them."""
    return name.removeprefix("base_model.model.").replace(".default", "").replace(".base_layer", "")


def both(file, at, library, function, note, models, tokens, targets):
    for wide, model in models.items():
        notes = [note, WIDE] if wide else [note]
        file.numbers(f"{at}float{64 if wide else 32}", (library, function, "; ".join(filter(None, notes))),
                     results(model, tokens, targets, wide))


# --- fake quantizers ------------------------------------------------------------------------------


class Narrow(torch.nn.Module):
    """torchao's fake quantizer of binary32 numbers in a binary64 model."""

    def __init__(self, fake):
        super().__init__()
        self.fake, self.nearest = fake, 1.0

    def forward(self, x):
        narrow = x.to(F32)
        if narrow.ndim == 3:
            with in_double(False):
                self.nearest = min(self.nearest, nearest_tie(narrow.detach()))
        with in_double(False):
            return self.fake(narrow).double()


def nearest_tie(x):
    """How near the rounding of a quantized input is to a tie, of codes and of zero points, in steps."""
    s, _ = choose_qparams_affine(x, MappingType.ASYMMETRIC, _get_per_token_block_size(x), torch.int8, -128, 127,
                                 zero_point_dtype=torch.int8)
    low = torch.clamp(x.amin(-1, keepdim=True), max=0)
    steps = (torch.cat([x, low], -1) / s.reshape(*x.shape[:-1], 1)).double()
    return float((steps - steps.floor() - 0.5).abs().min())


def prepare(model, base, wide):
    quantize_(model, QATConfig(base, step="prepare"))
    fakes = []
    for module in list(model.modules()) if wide else []:
        for side in ("activation_fake_quantizer", "weight_fake_quantizer"):
            if getattr(module, side, None) is not None:
                fakes.append(Narrow(getattr(module, side)))
                setattr(module, side, fakes[-1])
    return model, fakes


# --- the files ------------------------------------------------------------------------------------


def start(file, name, seed=1):
    """A set: configuration, parameters, tokens and targets."""
    config, shape = MODELS[name]
    r = np.random.default_rng([seed, *name.encode()])
    model = make(config, False)
    random_parameters(model, r)
    tokens, targets = (torch.from_numpy(r.integers(0, config["vocab_size"], shape)) for _ in range(2))
    return config, model, tokens, targets


def put(file, name, model, tokens, targets):
    file.group(name, scheme="", config=json.dumps(MODELS[name][0]))
    file.numbers(f"{name}/parameters", ("none", "drawn by numpy", "every number is one of BF16"),
                 {n: p.detach() for n, p in model.named_parameters()})
    file.numbers(f"{name}/text", ("none", "drawn by numpy", ""),
                 {"tokens": tokens.to(torch.int32), "targets": targets.to(torch.int32)})


def plain_sets(file):
    for name in ("untied", "tied", "long"):
        config, narrow, tokens, targets = start(file, name)
        put(file, name, narrow, tokens, targets)
        both(file, f"{name}/", TRANSFORMERS, f"{type(narrow).__name__}, eager attention; autograd", "",
             {True: make(config, True, narrow.state_dict()), False: narrow}, tokens, targets)


SCHEMES = {"int4": Int4WeightOnlyConfig(group_size=32),
           "int8-int4": Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32))}


def prepared_models(config, narrow, base):
    """Prepared, and how near to a tie an input is rounded in the wide one."""
    wide, fakes = prepare(make(config, True, narrow.state_dict()), base, True)
    return {True: wide, False: prepare(copy.deepcopy(narrow), base, False)[0]}, fakes


def nearest_of(seed):
    """How near the inputs' roundings of this seed's model come to a tie."""
    config, narrow, tokens, targets = start(None, "quantized", seed)
    models, fakes = prepared_models(config, narrow, SCHEMES["int8-int4"])
    results(models[True], tokens, targets, True)
    return min(f.nearest for f in fakes)


def adapters(model, wide, seed):
    """PEFT's adapters on all linear layers but the head."""
    absent = {"is_gptqmodel_available": lambda: False}  # its check raises without another library
    with replaced(awq, **absent), replaced(gptq, **absent):
        lora = get_peft_model(model, LoraConfig(r=RANK, lora_alpha=ALPHA, target_modules="all-linear"))
    lora = lora.double() if wide else lora
    r = np.random.default_rng(seed)
    for name, p in lora.named_parameters():
        if "lora_" in name:
            p.data = torch.from_numpy(0.2 * r.standard_normal(tuple(p.shape))).to(torch.bfloat16).to(p.dtype)
    return lora


def nearest_with_adapters(config, narrow, tokens, targets, seed):
    """The same of adapters of this seed on the prepared model."""
    models, fakes = prepared_models(config, narrow, SCHEMES["int8-int4"])
    results(adapters(models[True], True, seed), tokens, targets, True)
    return min(f.nearest for f in fakes)


def quantized_sets(file):
    seed = next(s for s in range(1, 1000) if nearest_of(s) > MARGIN)
    config, narrow, tokens, targets = start(file, "quantized", seed)
    put(file, "quantized", narrow, tokens, targets)
    for scheme, base in SCHEMES.items():
        models, _ = prepared_models(config, narrow, base)
        both(file, f"quantized/{scheme}.", f"{TORCHAO}; {TRANSFORMERS}",
             f"quantize_ with QATConfig({type(base).__name__}, groups of 32) on all Linear; autograd",
             "fake quantizers in binary32", models, tokens, targets)
    seed = next(s for s in range(3, 1000) if nearest_with_adapters(config, narrow, tokens, targets, s) > MARGIN)
    models = {wide: adapters(make(config, wide, narrow.state_dict()), wide, seed) for wide in (True, False)}
    file.numbers("quantized/adapters", ("none", "drawn by numpy", f"rank {RANK}, alpha {ALPHA}"),
                 {plain(n): p.detach() for n, p in models[False].named_parameters() if "lora_" in n})
    both(file, "quantized/lora.", f"{PEFT}; {TRANSFORMERS}", "get_peft_model, all linear layers but the head; "
         "autograd", "", models, tokens, targets)
    for scheme, base in SCHEMES.items():
        models, _ = prepared_models(config, narrow, base)
        models = {wide: adapters(model, wide, seed) for wide, model in models.items()}
        both(file, f"quantized/{scheme}-lora.", f"{TORCHAO}; {PEFT}; {TRANSFORMERS}",
             f"quantize_ with QATConfig({type(base).__name__}, groups of 32) on all Linear, get_peft_model on all but the "
             "head; autograd", "fake quantizers in binary32", models, tokens, targets)


def write(file):
    plain_sets(file)
    quantized_sets(file)


FILES = {"lm.h5": write}
