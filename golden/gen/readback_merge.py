# SPDX-License-Identifier: MIT
"""Merges an adapter into a checkpoint with qgauge and with the upstream libraries, and compares bits.

    python readback_merge.py QGAUGE MODEL ADAPTER

MODEL: a Hugging Face folder or a safetensors file; ADAPTER: a folder that peft saved. Prints, per way, how many
elements of the adapter's matrices differ, and by how many places of their dtype at most.
"""
import glob
import json
import os
import subprocess
import sys
import tempfile

import torch
from safetensors.torch import load_file

import merge_goldens as g


def tensors(path):
    files = glob.glob(os.path.join(path, "*.safetensors")) if os.path.isdir(path) else [path]
    return {name: t for file in files for name, t in load_file(file).items()}


def places(x):
    """Bits as integers in the order of the values."""
    bits = x.view({2: torch.int16, 4: torch.int32}[x.element_size()]).long()
    return torch.where(bits < 0, -1 - (bits + 2 ** (8 * x.element_size() - 1)), bits)


def legacy(w, a, b, s, m):
    weight = g.peft_4bit(w, a, b, s, m)[2]
    return g.bitsandbytes.functional.dequantize_4bit(weight.data, weight.quant_state).to(w.dtype)


def main():
    qgauge, model, adapter = sys.argv[1:]
    with open(os.path.join(adapter, "adapter_config.json")) as f:
        config = json.load(f)
    base, pairs = tensors(model), load_file(os.path.join(adapter, "adapter_model.safetensors"))
    alpha, r = config["lora_alpha"], config["r"]
    s = alpha / r
    ways = {
        ("--way", "base"): lambda w, a, b, m: g.peft_linear(w, a, b, s, m),
        ("--way", "base", "--by", "unsloth"): lambda w, a, b, m: g.unsloth_merge(w, a, b, s),
        ("--way", "round-trip"): lambda w, a, b, m: g.axolotl_merge(w, a, b, alpha, m, simulate_nf4=True),
        ("--way", "legacy"): lambda w, a, b, m: legacy(w, a, b, s, m),
    }
    for way, upstream in ways.items():
        if config["use_dora"] and "unsloth" in way:
            continue
        with tempfile.TemporaryDirectory() as folder:
            out = os.path.join(folder, "out")
            subprocess.run([qgauge, "merge", model, adapter, "-o", out, *way], check=True, stdout=subprocess.DEVNULL)
            ours = tensors(out)
        assert list(ours) == list(base)
        count = differ = far = touched = same = 0
        for name, w in base.items():
            key = "base_model.model." + name.removesuffix(".weight")
            a = pairs.get(key + ".lora_A.weight")
            if a is not None:
                want = upstream(w, a, pairs[key + ".lora_B.weight"], pairs.get(key + ".lora_magnitude_vector"))
                off = (places(want) - places(ours[name])).abs()
                touched, count, differ = touched + 1, count + w.numel(), differ + int((off > 0).sum())
                far = max(far, int(off.max()))
            else:
                want = g.axolotl._simulate_nf4_roundtrip(w, device="cpu") if way[1] == "round-trip" and w.ndim > 1 else w
                assert torch.equal(want, ours[name]), name
                same += 1
        print(f"{' '.join(way)}: {touched} matrices, {count} elements, {differ} differ, by {far} places at most; "
              f"{same} other tensors equal to the bit", flush=True)


main()
