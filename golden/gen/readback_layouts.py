# SPDX-License-Identifier: MIT
"""Reads what `qgauge convert` wrote back with the libraries whose layouts it wrote.

    python readback_layouts.py QGAUGE MODEL [LAYOUT]...

MODEL: a Hugging Face folder, Llama-like. For each layout it is converted into a temporary folder; then
every tensor is compared, bit by bit, with what the library itself makes of the same weight, the library
dequantizes what it finds in the file, and, where transformers' loader runs on a CPU, the loaded model's weights
are compared with the library's own dequantized ones.
Nothing is written that stays. README.md records what came out.
"""
import argparse
import collections
import glob
import json
import os
import subprocess
import sys
import tempfile

import upstream  # first: it sets the threads of torch

import torch
from safetensors import safe_open

COUNTS = collections.OrderedDict()


def count(what, equal, total):
    """Adds to a line of the report: so many of so many elements are the same bits."""
    e, t = COUNTS.get(what, (0, 0))
    COUNTS[what] = (e + int(equal), t + int(total))


def bits(t):
    t = t.detach().contiguous().cpu()
    return t.reshape(-1).view(torch.uint8) if t.dim() else t.reshape(1).view(torch.uint8)


def compare(what, found, wanted):
    assert found.shape == wanted.shape and found.dtype == wanted.dtype, \
        (what, found.shape, found.dtype, wanted.shape, wanted.dtype)
    size = max(found.element_size(), 1)
    same = (bits(found).reshape(-1, size) == bits(wanted).reshape(-1, size)).all(dim=1)
    count(what, same.sum(), same.numel())


def load(folder):
    tensors = {}
    for path in sorted(glob.glob(os.path.join(folder, "*.safetensors"))):
        with safe_open(path, "pt") as f:
            tensors.update({name: f.get_tensor(name) for name in f.keys()})
    return tensors


def convert(args, out, *options):
    run = subprocess.run([args.qgauge, "convert", args.model, "-o", out, *options], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    print(run.stdout.strip().splitlines()[-1])
    return load(out)


def modules_of(source, converted):
    """The modules whose weight is not in the output as it was."""
    return [name[:-len(".weight")] for name in source if name.endswith(".weight") and
            not (name in converted and converted[name].dtype == source[name].dtype
                 and converted[name].shape == source[name].shape)]


def untouched(source, converted, modules):
    for name, t in source.items():
        if not any(name == m + ".weight" for m in modules):
            compare("copied", converted[name], t)


def logits(model):
    with torch.no_grad():
        ids = torch.arange(64).reshape(1, -1) % model.config.vocab_size
        return model(ids).logits


def loaded(folder, layout, weights, weight_of, run_first):
    """Loads the folder with transformers and compares its weights; compressed-tensors dequantizes when the
    model is first run, bitsandbytes then packs for the CPU anew. (Logits are no measure: bitsandbytes multiplies
    in another order, ct-fp8 quantizes inputs.)"""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=next(iter(weights.values())).dtype, device_map="cpu")
    assert not run_first or logits(model).isfinite().all()
    for name, t in weights.items():
        module, _, parameter = name.rpartition(".")
        compare(f"{layout}: weights of the model that transformers loads",
                weight_of(getattr(model.get_submodule(module), parameter)), t)
    assert run_first or logits(model).isfinite().all()


# --- compressed-tensors -------------------------------------------------------------------------


def compressed_tensors(args, work, source):
    import checkpoint_goldens as goldens
    from compressed_tensors.compressors.base import compress_module, decompress_module

    for scheme in ("ct-int4", "ct-int8", "ct-fp8"):
        out = os.path.join(work, scheme)
        converted = convert(args, out, "--scheme", scheme)
        modules, weights = modules_of(source, converted), dict(source)
        untouched(source, converted, modules)
        for m in modules:
            form, _ = goldens.compressed_scheme(scheme)
            module = goldens.calibrated(source[m + ".weight"], form)
            compress_module(module)
            for name, own in module.state_dict().items():
                compare(f"{scheme}: {name}, as compress_module has it", converted[f"{m}.{name}"], own)
            decompress_module(module)
            weights[m + ".weight"] = module.weight.data
        loaded(out, scheme, weights, lambda w: w, run_first=True)


# --- bitsandbytes -------------------------------------------------------------------------------


def bitsandbytes(args, work, source):
    import bnb_goldens  # noqa: F401  it quietens the library
    from bitsandbytes import functional as F
    from bitsandbytes.functional import QuantState
    from bitsandbytes.utils import unpack_tensor_to_dict

    dtype = next(iter(source.values())).dtype
    for scheme in ("nf4-bnb", "nf4-bnb-double", "fp4-bnb"):
        out = os.path.join(work, scheme)
        converted = convert(args, out, "--scheme", scheme)
        modules, weights = modules_of(source, converted), dict(source)
        untouched(source, converted, modules)
        for m in modules:
            w = source[m + ".weight"]
            packed, state = F.quantize_4bit(w, quant_type=scheme[:3], compress_statistics=scheme.endswith("double"))
            compare(f"{scheme}: weight, as quantize_4bit has it", converted[m + ".weight"], packed)
            own = state.as_dict(packed=True)
            found = {n[len(m) + 8:]: t for n, t in converted.items() if n.startswith(m + ".weight.")}
            assert set(own) == set(found), (set(own), set(found))
            for name, t in own.items():
                if "quant_state" in name:
                    same = unpack_tensor_to_dict(found[name]) == unpack_tensor_to_dict(t)
                    count(f"{scheme}: quant_state, as dictionaries", same, 1)
                else:
                    compare(f"{scheme}: {name}, as QuantState.as_dict has it", found[name], t)
            read = QuantState.from_dict(dict(found), device=torch.device("cpu"))
            weights[m + ".weight"] = F.dequantize_4bit(packed, state)
            compare(f"{scheme}: dequantize_4bit of what QuantState.from_dict reads",
                    F.dequantize_4bit(converted[m + ".weight"], read), weights[m + ".weight"])
        loaded(out, scheme, weights,
               lambda w: F.dequantize_4bit(w.data, w.quant_state) if hasattr(w, "quant_state") else w,
               run_first=False)
    llm_int8(args, work, source, dtype)


def llm_int8(args, work, source, dtype):
    from bitsandbytes import functional as F
    from transformers import AutoModelForCausalLM

    out = os.path.join(work, "llm-int8")
    converted = convert(args, out, "--scheme", "llm-int8")
    modules = modules_of(source, converted)
    untouched(source, converted, modules)
    for m in modules:
        codes, scales, _ = F.int8_vectorwise_quant(source[m + ".weight"].half())
        compare("llm-int8: weight, as int8_vectorwise_quant has it", converted[m + ".weight"], codes)
        compare("llm-int8: SCB", converted[m + ".SCB"], scales)
        compare("llm-int8: weight_format", converted[m + ".weight_format"], torch.tensor(0, dtype=torch.uint8))
    model = AutoModelForCausalLM.from_pretrained(out, dtype=dtype, device_map="cpu")
    for m in modules:
        module = model.get_submodule(m)
        compare("llm-int8: weight of the model that transformers loads", module.weight.data, converted[m + ".weight"])
        compare("llm-int8: its SCB", module.weight.SCB if module.weight.SCB is not None else module.state.SCB,
                converted[m + ".SCB"])


# --- gptq, awq ----------------------------------------------------------------------------------


def gptq(args, work, source):
    import gptq_awq_goldens as goldens

    for writer in ("autogptq", "gptqmodel", "gptqmodel-v2"):
        for sym in (True, False):
            if writer == "gptqmodel-v2" and not sym:
                continue
            label = f"gptq writer={writer} sym={'yes' if sym else 'no'}"
            out = os.path.join(work, f"gptq-{writer}-{sym}")
            converted = convert(args, out, "--scheme", "gptq", "--set", label[5:])
            modules = modules_of(source, converted)
            untouched(source, converted, modules)
            for m in modules:
                w = source[m + ".weight"]
                if writer == "autogptq":
                    _, planes = goldens.autogptq(w, 128, sym)
                else:
                    _, planes, own = goldens.gptqmodel(w, 128, sym, writer == "gptqmodel-v2")
                for plane, name in (("codes", "qweight"), ("zeros", "qzeros"), ("scales", "scales"), ("g_idx", "g_idx")):
                    compare(f"{label}: {name}, as the packer has it", converted[f"{m}.{name}"], planes[plane])
                if writer != "autogptq":
                    compare(f"{label}: TorchLinear.dequantize_weight of what is read",
                            gptqmodel_read(goldens, converted, m, w.shape, sym, writer).dequantize_weight(),
                            own.dequantize_weight())


def gptqmodel_read(goldens, converted, m, shape, sym, writer):
    module = goldens.TorchLinear(bits=4, group_size=128, sym=sym, desc_act=False, in_features=shape[1],
                                 out_features=shape[0], register_buffers=True)
    module.load_state_dict({n: converted[f"{m}.{n}"] for n in ("qweight", "qzeros", "scales", "g_idx")}, strict=True)
    module.eval()
    if writer != "gptqmodel-v2":
        goldens.gptqmodel_model.convert_gptq_v1_to_v2_format_module(module, 4, torch.int32)
    module.post_init()
    return module


def awq(args, work, source):
    import types

    import gptq_awq_goldens as goldens

    converted = convert(args, os.path.join(work, "awq"), "--scheme", "awq")
    modules = modules_of(source, converted)
    untouched(source, converted, modules)
    for m in modules:
        linear = goldens.linear_of(source[m + ".weight"]).half()
        quantizer = types.SimpleNamespace(group_size=128, zero_point=True, w_bit=4)
        linear.weight.data, scales, zeros = goldens.AwqQuantizer.pseudo_quantize_tensor(quantizer, linear.weight.data)
        own = goldens.WQLinear_GEMM.from_linear(linear, 4, 128, False, scales.t().contiguous(), zeros.t().contiguous())
        for name in ("qweight", "qzeros", "scales"):
            compare(f"awq: {name}, as WQLinear_GEMM.from_linear has it", converted[f"{m}.{name}"], getattr(own, name))
        read = goldens.WQLinear_GEMM(4, 128, linear.in_features, linear.out_features, False, "cpu")
        read.load_state_dict({n: converted[f"{m}.{n}"] for n in ("qweight", "qzeros", "scales")}, strict=True)
        compare("awq: dequantize_gemm of what is read",
                goldens.dequantize_gemm(read.qweight, read.qzeros, read.scales, 4, 128),
                goldens.dequantize_gemm(own.qweight, own.qzeros, own.scales, 4, 128))


# --- gguf ---------------------------------------------------------------------------------------


def gguf(args, work, source):
    import ggml  # ggml's own library, through ctypes
    import gguf as package
    from transformers import AutoModelForCausalLM

    config = json.load(open(os.path.join(args.model, "config.json")))
    names = package.get_tensor_name_map(package.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for scheme, name in (("q8_0", "q8_0"), ("q4_0", "q4_0"), ("q4_1", "q4_1"), ("q5_0", "q5_0"), ("q5_1", "q5_1"),
                         ("q4_K", "q4_K"), ("q6_K", "q6_K"), ("tq1_0", "tq1_0"), ("tq2_0", "tq2_0"),
                         ("mxfp4-ggml", "mxfp4"), ("nvfp4-ggml", "nvfp4")):
        path = os.path.join(work, scheme + ".gguf")
        convert(args, path, "--scheme", scheme, "--tensors", "proj|embed|head")
        read = {t.name: t for t in package.GGUFReader(path).tensors}
        assert len(read) == len(source)
        values = {}
        for full, w in source.items():
            t = read[names.get_name(full, try_suffixes=(".weight",))]
            n = heads.get(full.split(".")[-2])
            if n:  # what llama.cpp's converter does: the halves of each head are interleaved
                w = w.reshape(n, 2, -1, w.shape[1]).transpose(1, 2).reshape(w.shape)
            data = torch.from_numpy(t.data.copy())
            if w.dim() == 1:
                compare(f"{scheme}.gguf: vectors in F32", data, w.float())
                values[full] = w
                continue
            blocks, call, _ = ggml.quantize(name, w.contiguous())
            compare(f"{scheme}.gguf: blocks, as {call.split(',')[0]} of ggml has them", data, torch.from_numpy(blocks))
            own, _ = ggml.dequantize(name, blocks, w.shape[1])
            compare(f"{scheme}.gguf: the gguf package's dequantize of what GGUFReader reads",
                    torch.from_numpy(package.dequantize(t.data, t.tensor_type)), torch.from_numpy(own))
            y = torch.from_numpy(own)
            if n:
                y = y.reshape(n, -1, 2, y.shape[1]).transpose(1, 2).reshape(y.shape)
            values[full] = y
        if scheme in ("q8_0", "q4_K"):
            model = AutoModelForCausalLM.from_pretrained(work, gguf_file=scheme + ".gguf", dtype=torch.float32)
            state = model.state_dict()
            for full, y in values.items():
                compare(f"{scheme}.gguf: weights of the model that transformers loads", state[full], y.float())
            for key in ("num_attention_heads", "num_key_value_heads", "hidden_size", "intermediate_size",
                        "num_hidden_layers", "rms_norm_eps", "vocab_size", "max_position_embeddings"):
                count(f"{scheme}.gguf: its configuration", abs(getattr(model.config, key) - config[key]) < 1e-12, 1)


# --- torchao ------------------------------------------------------------------------------------


def torchao(args, work, source):
    from torchao.core.config import config_from_dict
    from torchao.prototype.safetensors.safetensors_support import unflatten_tensor_state_dict
    from torchao.quantization import quantize_

    for options in (["--scheme", "int8"], ["--scheme", "int8-g32"], ["--scheme", "int8-int4"], ["--scheme", "intx"],
                    ["--scheme", "intx", "--set", "bits=3 group=64"], ["--scheme", "intx-dynamic"],
                    ["--scheme", "int8-row"], ["--scheme", "fp8", "--set", "scale=torch"],
                    ["--recipe", "unsloth-int8-int4"], ["--recipe", "unsloth-cactus"]):
        label = "torchao, " + " ".join(options[1:]).replace("--set ", "")
        out = os.path.join(work, "-".join(options[1:]).replace(" ", "-"))
        converted = convert(args, out, *options)
        metadata = {}
        for path in glob.glob(os.path.join(out, "*.safetensors")):
            with safe_open(path, "pt") as f:
                metadata.update(f.metadata())
        read, left = unflatten_tensor_state_dict(converted, metadata)
        assert not left, left
        own_config = json.load(open(os.path.join(out, "config.json")))["quantization_config"]["quant_type"]["default"]
        quantizers = config_from_dict(own_config).fqn_to_config
        weights = {}
        for name, t in read.items():
            w = source["model.embed_tokens.weight" if name not in source else name]
            if type(t) is torch.Tensor:
                compare("copied", t, w)
                weights[name] = w
                continue
            if "embed" in name:
                module = torch.nn.Embedding.from_pretrained(w.clone())
            else:
                module = torch.nn.Linear(w.shape[1], w.shape[0], bias=False, dtype=w.dtype)
                module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
            quantize_(module, quantizers[name[:-len(".weight")]], filter_fn=lambda m, fqn: m is module)
            for part in ("qdata", "scale", "zero_point"):
                if getattr(t, part, None) is not None:
                    compare(f"{label}: {part}, as quantize_ has it", getattr(t, part), getattr(module.weight, part))
            for attribute in t.tensor_attribute_names:
                mine, own = getattr(t, attribute), getattr(module.weight, attribute)
                if attribute == "block_size":  # JSON makes a list of a tuple
                    mine, own = tuple(mine), tuple(own)
                count(f"{label}: attributes", mine == own, 1)
            weights[name] = module.weight.dequantize()
            compare(f"{label}: dequantize() of what unflatten_tensor_state_dict reads", t.dequantize(), weights[name])
        loaded(out, label, weights, lambda w: w.dequantize() if type(w.data) is not torch.Tensor else w, run_first=False)


LAYOUTS = {"compressed-tensors": compressed_tensors, "bitsandbytes": bitsandbytes, "gptq": gptq, "awq": awq, "gguf": gguf,
           "torchao": torchao}


def main():
    p = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    p.add_argument("qgauge")
    p.add_argument("model")
    p.add_argument("layout", nargs="*", choices=[*LAYOUTS, []])
    args = p.parse_args()
    source = load(args.model)
    for name in args.layout or LAYOUTS:
        with tempfile.TemporaryDirectory() as work:
            LAYOUTS[name](args, work, source)
    width = max(map(len, COUNTS))
    for what, (equal, total) in COUNTS.items():
        print(f"{what:{width}}  {equal} of {total} equal" + ("" if equal == total else "   DIFFERENT"))
    sys.exit(any(equal != total for equal, total in COUNTS.values()))


if __name__ == "__main__":
    main()
