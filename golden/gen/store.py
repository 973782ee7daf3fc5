# SPDX-License-Identifier: MIT
"""Writes golden files in the layout that golden/golden.h documents."""
import hashlib
import os

import h5py
import numpy as np
import torch

WORDS = {torch.float32: "F32", torch.bfloat16: "BF16", torch.float16: "F16",
         torch.float8_e4m3fn: "F8_E4M3", torch.float8_e5m2: "F8_E5M2", torch.float8_e8m0fnu: "F8_E8M0",
         torch.int8: "I8", torch.uint8: "U8", torch.int16: "I16", torch.int32: "I32", torch.float64: "F64"}
_BITS = {torch.bfloat16: (torch.int16, np.uint16), torch.float16: (torch.int16, np.uint16),
         **{t: (torch.uint8, np.uint8) for t in
            (torch.float8_e4m3fn, torch.float8_e5m2, torch.float8_e8m0fnu)}}


def bits(tensor):
    """The tensor's bits as numpy: what a dataset holds."""
    tensor = tensor.detach().contiguous()
    if tensor.dtype in _BITS:
        view, unsigned = _BITS[tensor.dtype]
        return tensor.view(view).numpy().view(unsigned)
    return tensor.numpy()


def text(value):
    return np.bytes_(value.encode())


class File:
    def __init__(self, folder, name, date):
        self.name, self.date = name, date
        self.path = os.path.join(folder, name)
        self.h5 = h5py.File(self.path, "w", libver=("v110", "v110"))
        self.known = {}  # contents -> name: a tensor that comes twice is stored once
        self.libraries = set()

    def dataset(self, where, tensor):
        data, word = bits(tensor), WORDS[tensor.dtype]
        key = (word, data.shape, hashlib.sha256(data.tobytes()).digest())
        if key in self.known:
            self.h5[where] = self.h5[self.known[key]]
            return self.h5[where]
        d = self.h5.create_dataset(where, data=data, chunks=data.shape, compression="gzip",
                                   compression_opts=9, shuffle=data.itemsize > 1, fletcher32=True)
        d.attrs["dtype"] = text(word)
        self.known[key] = where
        return d

    def group(self, name, **attributes):
        g = self.h5.create_group(name)
        for key, value in {**attributes, "date": self.date}.items():
            g.attrs[key] = np.int64(value) if key == "seed" else text(value)
        self.libraries |= {attributes["library"]} if "library" in attributes else set()
        return g

    def op(self, at, op, made_by, ins, outs):
        """made_by: (library, function, note)."""
        library, function, note = made_by
        g = self.h5.create_group(f"{at}/{op}")
        for key, value in {"library": library, "function": function, "note": note}.items():
            g.attrs[key] = text(value)
        self.libraries.add(library)
        for side, tensors in (("in", ins), ("out", outs)):
            g.create_group(side)  # explicitly: groups made on the way to a dataset record the time
            for name, tensor in tensors.items():
                self.dataset(f"{at}/{op}/{side}/{name}", tensor)

    def numbers(self, at, made_by, tensors):
        """Tensors that belong to no operation. made_by as above."""
        library, function, note = made_by
        self.group(at, library=library, function=function, note=note)
        for name, tensor in tensors.items():
            self.dataset(f"{at}/{name}", tensor)

    def close(self):
        """Closes; returns the file's line of the manifest."""
        self.h5.close()
        with open(self.path, "rb") as f:
            data = f.read()
        return "\t".join([self.name, hashlib.sha256(data).hexdigest(), str(len(data)),
                          "; ".join(sorted(self.libraries)), self.date])
