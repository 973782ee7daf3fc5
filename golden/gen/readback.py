# SPDX-License-Identifier: MIT
"""Files of other libraries read by qgauge, and qgauge's files read by them, compared bit by bit.

    golden/gen/readback.py BUILD [CHECKPOINT]...

BUILD is a build folder; its tests/tensors does qgauge's part. Each CHECKPOINT is a safetensors file or
a folder of shards. Prints one line per comparison; the exit status is 1 when something differs.
"""
import pathlib
import subprocess
import sys
import tempfile

import gguf
import numpy as np
import safetensors.torch
import torch

failed = False


def say(what, compared, differ):
    global failed
    failed |= differ != 0
    print(f"{what:<50} {compared:>11} compared {differ:>8} differ")


def same(a, b):
    """Elements of two float32 arrays whose bits differ, NaNs being equal."""
    a, b = np.asarray(a, np.float32), np.asarray(b, np.float32)
    return int(((a.view(np.uint32) != b.view(np.uint32)) & ~(np.isnan(a) & np.isnan(b))).sum())


def tensors(*arguments):
    subprocess.run([pathlib.Path(sys.argv[1]) / "tests/tensors", *map(str, arguments)], check=True)


NUMBERS = {"I8": np.int8, "I16": np.int16, "I32": np.int32, "I64": np.int64, "F64": np.float64}

# Where the package cannot quantize, blocks are random bytes, but of those that qgauge reads scales are
# finite numbers: the byte after each of these offsets is the high one of a binary16.
HALVES = {"Q4_K": (0, 2), "Q6_K": (208,)}


def blocks(kind, rows, cols, random):
    elements, size = gguf.GGML_QUANT_SIZES[kind]
    q = random.integers(0, 256, (rows, cols // elements, size), dtype=np.uint8)
    for at in HALVES.get(kind.name, ()):
        q[..., at + 1] = random.integers(0x08, 0x30, q.shape[:2])
    return q.reshape(rows, -1)


def make(path):
    """A GGUF file of all types that the package quantizes, and of K types, with all sorts of metadata."""
    random = np.random.default_rng(20)
    w = gguf.GGUFWriter(path, "llama")
    w.add_string("general.name", "a name\nin two lines, \u00e9")
    w.add_uint8("a.u8", 200), w.add_int8("a.i8", -3), w.add_uint16("a.u16", 60000), w.add_int16("a.i16", -2)
    w.add_uint32("a.u32", 2**32 - 1), w.add_int32("a.i32", -1), w.add_uint64("a.u64", 2**63), w.add_int64("a.i64", -5)
    w.add_float32("a.f32", 1e-5), w.add_float64("a.f64", 0.1), w.add_bool("a.yes", True)
    w.add_array("tokenizer.ggml.tokens", ["<s>", "", "\u2581the"] * 1000)
    w.add_array("a.scores", [0.5, -1.0]), w.add_array("a.ints", list(range(100)))
    for kind in gguf.GGMLQuantizationType:
        if kind.name == "Q8_1":  # its blocks have 40 bytes here and 36 in ggml; no file has them
            continue
        if kind.name in NUMBERS:
            w.add_tensor(kind.name, random.integers(-100, 100, 7).astype(NUMBERS[kind.name]))
            continue
        x = random.normal(0, 0.02, (24, 512)).astype(np.float32)
        x[3] = 0
        x[4, ::7] *= 1000
        try:
            q = gguf.quantize(x, kind)
        except NotImplementedError:
            q = blocks(kind, 24, 512, random)
        plain = kind in (gguf.GGMLQuantizationType.F32, gguf.GGMLQuantizationType.F16)
        w.add_tensor(f"{kind.name}.weight", q, raw_dtype=None if plain else kind)
    w.add_tensor("cube", random.normal(0, 1, (2, 3, 5)).astype(np.float32))
    w.write_header_to_file(), w.write_kv_data_to_file(), w.write_tensors_to_file(), w.close()


def check_values(path, out):
    """Values as the package dequantizes them, and as qgauge does."""
    tensors("values", path, out)
    ours = safetensors.torch.load_file(out)
    for t in gguf.GGUFReader(path).tensors:
        if t.name not in ours:
            print(f"{t.name:<50} {t.n_elements:>11} listed, copied, not computed with")
            continue
        shape = [int(n) for n in reversed(t.shape)]
        theirs = t.data if t.name in NUMBERS else gguf.dequantize(t.data, t.tensor_type)
        assert list(ours[t.name].shape) == shape, (t.name, shape)
        say(f"gguf -> qgauge, values of {t.name}", t.n_elements, same(theirs.reshape(shape), ours[t.name].numpy()))


def check_gguf_copy(path, out):
    """A copy by qgauge, read by the package: every piece of metadata and every byte of data."""
    tensors("copy", path, out)
    a, b = gguf.GGUFReader(path), gguf.GGUFReader(out)
    keys = [k for k in a.fields if not k.startswith("GGUF.")]
    assert keys == [k for k in b.fields if not k.startswith("GGUF.")]
    differ = sum(b"".join(p.tobytes() for p in a.fields[k].parts) != b"".join(p.tobytes() for p in b.fields[k].parts)
                 for k in keys)
    say("qgauge -> gguf, metadata", len(keys), differ)
    theirs = {t.name: t for t in b.tensors}
    assert len(theirs) == len(a.tensors)
    differ = sum(t.tensor_type != theirs[t.name].tensor_type or list(t.shape) != list(theirs[t.name].shape) or
                 t.data.tobytes() != theirs[t.name].data.tobytes() for t in a.tensors)
    say("qgauge -> gguf, tensors", len(a.tensors), differ)
    say("qgauge -> gguf, bytes of the file", path.stat().st_size, int(path.read_bytes() != out.read_bytes()))


def load(checkpoint):
    files = sorted(checkpoint.glob("*.safetensors")) if checkpoint.is_dir() else [checkpoint]
    return {k: v for f in files for k, v in safetensors.torch.load_file(f).items()}


def check_safetensors(checkpoint, out):
    theirs = load(checkpoint)
    tensors("copy", checkpoint, out)
    ours = safetensors.torch.load_file(out)
    assert sorted(ours) == sorted(theirs)
    differ = sum(a.dtype != ours[k].dtype or a.shape != ours[k].shape or
                 not torch.equal(a.reshape(-1).view(torch.uint8), ours[k].reshape(-1).view(torch.uint8))
                 for k, a in theirs.items())
    say(f"qgauge -> safetensors, tensors of {checkpoint.name}", len(theirs), differ)
    tensors("values", checkpoint, out)
    ours = safetensors.torch.load_file(out)
    say(f"qgauge -> safetensors, values of {checkpoint.name}", sum(v.numel() for v in ours.values()),
        sum(same(theirs[k].float().numpy(), v.numpy()) for k, v in ours.items()))


def main():
    with tempfile.TemporaryDirectory() as folder:
        path, out = pathlib.Path(folder, "their.gguf"), pathlib.Path(folder, "our")
        make(path)
        check_values(path, out)
        check_gguf_copy(path, out)
        for checkpoint in sys.argv[2:]:
            check_safetensors(pathlib.Path(checkpoint), out)
    return failed


if __name__ == "__main__":
    sys.exit(main())
