# SPDX-License-Identifier: MIT
"""What PEFT makes of LoRA beside a quantized base layer, for the operation `lora`.

PEFT's Linear calls its base layer, whatever that is, and adds to what comes back. So the base layer here hands back
what upstream has given for a matmul, which stands in the files of the other families: they are made first.
"""
import upstream  # first: it sets up the threads of torch
from upstream import PEFT

import glob
import os

import h5py
import numpy as np
import torch
from peft import LoraConfig
from peft.tuners.lora.layer import Linear

from store import WORDS

SCHEMES = ["int4", "int4-old", "int4-tinygemm", "int8", "int8-g32", "intx", "int8-row", "nf4", "nf4-bnb",
           "nf4-bnb-double", "fp4-bnb", "gptq", "awq", "fp8", "ct-int4", "ct-int8", "unquantized", "mxfp4",
           "mxfp6-e2m3", "mxfp6-e3m2", "mxfp8-e4m3", "mxfp8-e5m2", "nvfp4", "nvfp4-single", "nvfp4-te"]
DTYPES = {word: dtype for dtype, word in WORDS.items()}
SHAPES = [(8, 2.0), (5, 0.3), (16, -1.5)]  # rank and s take turns


def word(at, name):
    return at.attrs[name].decode()


def tensor(data):
    """The inverse of store.bits."""
    t, values = DTYPES[word(data, "dtype")], data[()]
    if values.dtype == np.uint16:
        return torch.from_numpy(values.view(np.int16)).view(t)
    return torch.from_numpy(values).view(t) if t.itemsize == 1 else torch.from_numpy(values)


class Recorded(torch.nn.Linear):
    """A base layer whose output is known."""

    def forward(self, x):
        return self.y.clone()


def peft(x, y, a, b, s):
    base = Recorded(x.shape[1], y.shape[1], bias=False).to(x.dtype)
    base.y = y
    layer = Linear(base, "default", r=a.shape[0], lora_alpha=a.shape[0], config=LoraConfig())
    layer.scaling["default"] = s
    layer.lora_A["default"].weight.data, layer.lora_B["default"].weight.data = a, b
    with torch.no_grad():
        return layer.eval()(x)


def add(file, name, given, turn):
    rank, s = SHAPES[turn % len(SHAPES)]
    matmul = given["matmul"]
    ins = {n: tensor(d) for n, d in matmul["in"].items()}
    x, y = ins["x"], tensor(matmul["out/y"])
    r = np.random.default_rng([7, *name.encode()])
    size = 0.1 * float(y.float().abs().mean())  # so that neither side hides the other
    a = torch.from_numpy(r.standard_normal((rank, x.shape[1])) / x.shape[1] ** 0.5).to(x.dtype)
    b = torch.from_numpy(r.standard_normal((y.shape[1], rank)) * max(size, 1e-3)).to(x.dtype)
    words = {key: word(given, key) for key in ("scheme", "operand", "dtype", "params")}
    file.group(name, **words, seed=1)
    note = f"the base layer hands back {word(matmul, 'library')}: {word(matmul, 'function')}"
    file.op(name, "lora", (PEFT, "tuners/lora/layer.py Linear.forward", note),
            {**ins, "a": a, "b": b, "s": torch.tensor([s], dtype=torch.float32)}, {"y": peft(x, y, a, b, s)})


def adapter_file(file):
    found = {}
    for path in sorted(glob.glob(os.path.join(os.path.dirname(file.path), "*.h5"))):
        if path == file.path:
            continue
        with h5py.File(path) as h5:
            for name, given in h5.items():
                if "matmul" in given and word(given, "scheme") in SCHEMES:
                    found.setdefault((word(given, "scheme"), word(given, "dtype")), []).append((path, name))
    for turn, sets in enumerate(found.values()):
        for i, (path, name) in enumerate(dict.fromkeys((sets[0], sets[-1]))):
            with h5py.File(path) as h5:
                add(file, name, h5[name], turn + i)
    missing = set(SCHEMES) - {scheme for scheme, _ in found}
    assert not missing, missing


FILES = {"adapters.h5": adapter_file}
