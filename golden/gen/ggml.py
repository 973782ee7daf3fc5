# SPDX-License-Identifier: MIT
"""ggml's own libraries, as the wheel of pywhispercpp carries them, called through ctypes; and the
gguf package, which quantizes and dequantizes in NumPy, as a second opinion.

The base library (quantizers and dequantizers) is built for plain x86-64, so that nothing is fused; the
CPU backend (activations, dot products) for AVX2, FMA and F16C.
"""
import ctypes
import importlib.metadata
import importlib.util
import os

import gguf
import numpy as np
import torch

TYPES = {"q4_0": 2, "q4_1": 3, "q5_0": 6, "q5_1": 7, "q8_0": 8, "q8_1": 9, "q4_K": 12, "q6_K": 14, "q8_K": 15,
         "tq1_0": 34, "tq2_0": 35, "mxfp4": 39, "nvfp4": 40}
_NAMES = {number: name for name, number in TYPES.items()}
BLOCKS = {"q8_1": (32, 36), "q8_K": (256, 292),  # elements, bytes
          **{n: gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType(t)] for n, t in TYPES.items()
             if n not in ("q8_1", "q8_K")}}


class _CpuTraits(ctypes.Structure):
    _fields_ = [("from_float", ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)),
                ("vec_dot", ctypes.CFUNCTYPE(None, ctypes.c_int, ctypes.c_void_p, ctypes.c_size_t,
                                             ctypes.c_void_p, ctypes.c_size_t, ctypes.c_void_p,
                                             ctypes.c_size_t, ctypes.c_int)),
                ("vec_dot_type", ctypes.c_int), ("nrows", ctypes.c_int64)]


def _load():
    folder = os.path.dirname(importlib.util.find_spec("_pywhispercpp").origin)
    base = ctypes.CDLL(os.path.join(folder, "libggml-base.so"), mode=ctypes.RTLD_GLOBAL)
    cpu = ctypes.CDLL(os.path.join(folder, "libggml-cpu.so"))
    base.ggml_version.restype = base.ggml_commit.restype = ctypes.c_char_p
    base.ggml_quantize_chunk.restype = ctypes.c_size_t
    cpu.ggml_get_type_traits_cpu.restype = ctypes.POINTER(_CpuTraits)
    cpu.ggml_cpu_init()  # fills the tables that dot products look numbers up in
    assert cpu.ggml_cpu_has_avx2() and cpu.ggml_cpu_has_fma() and not cpu.ggml_cpu_has_avx512()
    return base, cpu


_base, _cpu = _load()
NAME = (f"ggml {_base.ggml_version().decode()} ({_base.ggml_commit().decode()}, AVX2; "
        f"pywhispercpp {importlib.metadata.version('pywhispercpp')})")
GGUF = f"gguf {importlib.metadata.version('gguf')}"


def _address(array):
    return ctypes.c_void_p(array.ctypes.data)


def _floats(x):
    return np.ascontiguousarray(x.to(torch.float32).numpy())


def _planes(name, rows, cols):
    elements, size = BLOCKS[name]
    assert cols % elements == 0
    return np.zeros((rows, cols // elements * size), np.uint8)


def quantize(name, x):
    """ggml_quantize_chunk without an importance matrix: (blocks, function called, note)."""
    f, blocks = _floats(x), _planes(name, *x.shape)
    written = _base.ggml_quantize_chunk(TYPES[name], _address(f), _address(blocks), ctypes.c_int64(0),
                                        ctypes.c_int64(f.shape[0]), ctypes.c_int64(f.shape[1]), None)
    assert written == blocks.nbytes
    return blocks, "ggml_quantize_chunk, no importance matrix", _second_opinion(name, f, blocks)


def _second_opinion(name, f, blocks):
    try:
        with np.errstate(all="ignore"):
            other = gguf.quantize(f, gguf.GGMLQuantizationType(TYPES[name]))
    except NotImplementedError:
        return ""
    size = BLOCKS[name][1]
    differ = (other.reshape(-1, size) != blocks.reshape(-1, size)).any(axis=1).sum()
    return f"{GGUF}: " + (f"other bytes in {differ} of {blocks.size // size} blocks" if differ else "the same bytes")


def quantize_reference(name, x):
    """quantize_row_NAME_ref of the base library."""
    f, blocks = _floats(x), _planes(name, *x.shape)
    getattr(_base, f"quantize_row_{name}_ref")(_address(f), _address(blocks), ctypes.c_int64(f.size))
    return blocks, f"quantize_row_{name}_ref"


def quantize_cpu(name, x):
    """What the CPU backend quantizes activations with."""
    f, blocks = _floats(x), _planes(name, *x.shape)
    _cpu.ggml_get_type_traits_cpu(TYPES[name]).contents.from_float(_address(f), _address(blocks), f.size)
    return blocks, f"ggml_get_type_traits_cpu({name}).from_float"


def dequantize(name, blocks, cols):
    """(binary32 values, note)."""
    y = np.empty((blocks.shape[0], cols), np.float32)
    getattr(_base, f"dequantize_row_{name}")(_address(blocks), _address(y), ctypes.c_int64(y.size))
    if name == "q8_K":
        return y, ""
    with np.errstate(all="ignore"):
        other = gguf.dequantize(blocks, gguf.GGMLQuantizationType(TYPES[name]))
    differ = ((other.view(np.uint32) != y.view(np.uint32)) & ~(np.isnan(other) & np.isnan(y))).sum()
    return y, f"{GGUF}: " + (f"other bits in {differ} of {y.size} values" if differ else "the same bits")


def partner(name):
    return _NAMES[_cpu.ggml_get_type_traits_cpu(TYPES[name]).contents.vec_dot_type]


def dot(name, w, x, cols):
    """x . w^T in binary32 by vec_dot of the CPU backend, from blocks of w and of its partner."""
    traits = _cpu.ggml_get_type_traits_cpu(TYPES[name]).contents
    y = np.empty((x.shape[0], w.shape[0]), np.float32)
    for m in range(x.shape[0]):
        for n in range(w.shape[0]):
            traits.vec_dot(cols, _address(y[m, n:]), 0, _address(w[n]), 0, _address(x[m]), 0, 1)
    return y, f"ggml_get_type_traits_cpu({name}).vec_dot"
