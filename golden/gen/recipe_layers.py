# SPDX-License-Identifier: MIT
"""Recipes against the systems that they stand for: makes nothing for the tree, prints who agrees.

    python golden/gen/recipe_layers.py QGAUGE MODEL [MODEL...]

MODEL is a Hugging Face folder that transformers can load; one more is made, a Llama with sides that groups
do not divide. For every recipe of unsloth and axolotl the
system's own code prepares the model on the CPU: unsloth's _prepare_model_for_qat (taken with all that it
calls out of models/_utils.py: the package wants a GPU to be imported), axolotl's prepare_model_for_qat,
transformers' replacement of linear layers by bitsandbytes'. Then, layer by layer:

    layers   which of them upstream quantizes, against the plan of `qgauge recipe check --format json`
    bits     each prepared weight (weight_fake_quantizer of the layer as prepared), against
             `qgauge apply --op fake-quant` with the plan's scheme and parameters

The convert side of a plan is compared where torchao converts on a CPU (the intx schemes): which layers
became quantized tensors. Of fp8, torchao's own _fp8_mm_compat is asked.
"""
import ast
import builtins
import json
import os
import subprocess
import sys
import tempfile
import types
import warnings

import torch
from safetensors.torch import load_file, save_file
import transformers


def unsloth():
    """_prepare_model_for_qat and _convert_torchao_model with the top-level names that they need."""
    path = os.path.join(sys.prefix, "unsloth", "unsloth", "models", "_utils.py")
    with open(path) as f:
        tree = ast.parse(f.read())
    named, imports = {}, []
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
            named[node.name] = node
        elif isinstance(node, (ast.Assign, ast.AnnAssign)):
            for target in node.targets if isinstance(node, ast.Assign) else [node.target]:
                if isinstance(target, ast.Name):
                    named[target.id] = node
    need, nodes = ["_prepare_model_for_qat", "_convert_torchao_model"], {}
    while need:
        name = need.pop()
        if name not in nodes:
            nodes[name] = named[name]
            need += [x.id for x in ast.walk(named[name]) if isinstance(x, ast.Name) and x.id in named]
    module = types.ModuleType("unsloth_qat")
    sys.modules["unsloth_qat"] = module  # dataclass looks its module up
    exec("import functools, os, re, torch, warnings\n"
         "from dataclasses import dataclass, field\n"
         "from typing import *\n"
         "from torchao.core.config import AOBaseConfig\n"
         "from torchao.quantization import Int4WeightOnlyConfig\n", module.__dict__)
    body = sorted({id(n): n for n in nodes.values()}.values(), key=lambda n: n.lineno)
    exec(compile(ast.Module(body=body, type_ignores=[]), path, "exec"), module.__dict__)
    return module


def load(folder):
    config = transformers.AutoConfig.from_pretrained(folder)
    kind = getattr(transformers, (config.architectures or ["AutoModel"])[0])
    return kind.from_pretrained(folder, dtype=torch.bfloat16).eval()


def plan_of(qgauge, recipe, folder):
    """{name: tensor of the plan}, or the refusals."""
    run = subprocess.run([qgauge, "recipe", "check", recipe, folder, "--format", "json"], capture_output=True,
                         text=True)
    return {t["name"]: t for t in json.loads(run.stdout)["tensors"]} if run.returncode == 0 else run.stderr


def applied(qgauge, choice, operand, weight):
    """What qgauge's prepare path makes of a weight."""
    with tempfile.TemporaryDirectory() as folder:
        x, y = os.path.join(folder, "x"), os.path.join(folder, "y")
        save_file({"x": weight.contiguous()}, x)
        subprocess.run([qgauge, "apply", "--scheme", choice["scheme"], "--set", choice["set"], "--op", "fake-quant",
                        "--operand", operand, "-i", x, "-o", y], check=True, capture_output=True)
        return load_file(y)["y"]


def prepared_layers(model):
    """{weight's name: (its value, its prepared value)} of the layers that torchao swapped."""
    layers = {}
    for name, module in model.named_modules():
        quantizer = getattr(module, "weight_fake_quantizer", None)
        if quantizer is not None:
            with torch.no_grad():
                layers[name + ".weight"] = module.weight.detach(), quantizer(module.weight).detach()
    return layers


def compare(qgauge, recipe, folder, model, what):
    """Prints one line: layers and bits of the prepared model against the plan's prepare side."""
    plan = plan_of(qgauge, recipe, folder)
    try:
        layers = prepared_layers(model)
    except Exception as problem:
        layers = f"upstream raises: {str(problem)[:80]}"
    if isinstance(plan, str) or isinstance(layers, str):
        refused = [line.split("', ", 1)[1] for line in plan.splitlines()[:1]] if isinstance(plan, str) else ["accepted"]
        print(f"  {recipe:28} {what}: {layers if isinstance(layers, str) else 'upstream accepts'}; "
              f"the plan: {refused[0][:150]}")
        return
    ours = {n for n, t in plan.items() if t["prepare"]}
    equal = different = 0
    for name in sorted(ours & set(layers)):
        weight, theirs = layers[name]
        mine = applied(qgauge, plan[name]["prepare"], plan[name]["operand"], weight)
        same = torch.equal(mine, theirs)
        equal, different = equal + same, different + (not same)
        if not same:
            print(f"    {name}: {int((mine != theirs).sum())} of {mine.numel()} elements differ")
    print(f"  {recipe:28} {what}: {len(layers)} layers, {len(ours & set(layers))} of them in the plan, "
          f"{len(ours - set(layers))} more in the plan; prepared bits equal in {equal}, not in {different}")
    for name in sorted(ours ^ set(layers)):
        print(f"    only {'in the plan' if name in ours else 'upstream'}: {name}")


def converted_layers(model):
    from torchao.utils import TorchAOBaseTensor
    return {n + ".weight" for n, m in model.named_modules()
            if isinstance(getattr(m, "weight", None), TorchAOBaseTensor)}


def compare_names(recipe, plan, theirs, what):
    ours = {n for n, t in plan.items() if t["convert"]}
    print(f"  {recipe:28} {what}: {len(theirs)} layers; "
          + ("the same as in the plan" if ours == theirs else f"DIFFERENT: {sorted(ours ^ theirs)[:6]}"))


def unsloth_recipes(qgauge, folder):
    code = unsloth()
    for scheme in ("int4", "fp8-int4", "fp8-fp8", "int8", "int8-int4", "cactus"):
        recipe = f"unsloth-{scheme}"
        model = load(folder)
        try:
            code._prepare_model_for_qat(model, scheme)
        except AttributeError as problem:  # no head to untie
            print(f"  {recipe:28} upstream raises: {problem}")
            continue
        compare(qgauge, recipe, folder, model, "_prepare_model_for_qat")
        if scheme in ("int8", "int8-int4", "cactus"):
            code._convert_torchao_model(model)
            compare_names(recipe, plan_of(qgauge, recipe, folder), converted_layers(model), "_convert_torchao_model")


def axolotl_recipes(qgauge, folder):
    from axolotl.utils import quantization as axolotl
    from axolotl.utils.schemas.enums import TorchAOQuantDType as T
    from axolotl.utils.schemas.quantization import QATConfig
    for recipe, weight, activation in (("trap-axolotl-qat-int4", "int4", None),
                                       ("trap-axolotl-qat-int8-int4", "int4", "int8"),
                                       ("trap-axolotl-qat-fp8", "fp8", "fp8"),
                                       ("trap-axolotl-qat-fp8-int4", "int4", "fp8")):
        q = QATConfig(weight_dtype=weight, activation_dtype=activation)  # axolotl's own defaults
        model = load(folder)
        axolotl.prepare_model_for_qat(model, q.weight_dtype, q.group_size, q.activation_dtype, False)
        config = axolotl.get_quantization_config(q.weight_dtype, q.activation_dtype, q.group_size)
        compare(qgauge, recipe, folder, model, "prepare_model_for_qat")
        print(f"    ships {type(config).__name__}: "
              + ", ".join(f"{k}={getattr(config, k)}" for k in ("group_size", "weight_granularity", "granularity")
                          if hasattr(config, k)))


def bitsandbytes_recipes(qgauge, folder):
    from transformers.integrations.bitsandbytes import replace_with_bnb_linear
    from transformers.quantizers.base import get_keys_to_not_convert
    import bitsandbytes
    for recipe, how in (("axolotl-nf4", {"load_in_4bit": True, "bnb_4bit_quant_type": "nf4",
                                         "bnb_4bit_use_double_quant": True}),
                        ("axolotl-int8", {"load_in_8bit": True})):
        model = load(folder)
        replace_with_bnb_linear(model, modules_to_not_convert=get_keys_to_not_convert(model),
                                quantization_config=transformers.BitsAndBytesConfig(**how))
        kinds = (bitsandbytes.nn.Linear4bit, bitsandbytes.nn.Linear8bitLt)
        theirs = {n + ".weight" for n, m in model.named_modules() if isinstance(m, kinds)}
        compare_names(recipe, plan_of(qgauge, recipe, folder), theirs, "replace_with_bnb_linear")


def fp8_skips(qgauge, folder):
    """Of every linear layer: whether torchao would convert it to fp8."""
    from torchao.quantization.utils import _fp8_mm_compat
    model = load(folder)
    theirs = {n + ".weight" for n, m in model.named_modules()
              if isinstance(m, torch.nn.Linear) and _fp8_mm_compat(m.weight)}
    compare_names("unsloth-fp8-fp8", plan_of(qgauge, "unsloth-fp8-fp8", folder), theirs, "_fp8_mm_compat")


def odd_model(folder):
    """Widths of 256 and 200, a head of 1000 rows: 128, 32 and 16 divide some sides and not others."""
    config = transformers.LlamaConfig(hidden_size=256, intermediate_size=200, num_hidden_layers=1,
                                      num_attention_heads=4, vocab_size=1000, tie_word_embeddings=False)
    transformers.LlamaForCausalLM(config).to(torch.bfloat16).save_pretrained(folder)


def main():
    qgauge = os.path.abspath(sys.argv[1])
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    transformers.logging.disable_progress_bar()
    with tempfile.TemporaryDirectory() as odd:
        odd_model(odd)
        for folder in (odd, *sys.argv[2:]):
            print("odd sizes:" if folder == odd else f"{os.path.basename(folder.rstrip('/'))}:")
            for part in (unsloth_recipes, axolotl_recipes, bitsandbytes_recipes, fp8_skips):
                part(qgauge, folder)


if __name__ == "__main__":
    main()
