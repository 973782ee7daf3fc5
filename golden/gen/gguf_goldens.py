# SPDX-License-Identifier: MIT
"""The formats of ggml and GGUF files: one plane of blocks per tensor, made by ggml's own library."""
import numpy as np
import torch

import ggml
import inputs
from store import WORDS

F32, BF16, F16 = torch.float32, torch.bfloat16, torch.float16


# --- inputs of our own --------------------------------------------------------------------------
# (r, n, g, t) -> [n, g], as in inputs.py: n blocks of g elements for dtype t.


def _signs(r, n):
    return r.choice([-1.0, 1.0], (n, 1))


def levels(top, half):
    """Every level of a grid and (half) every tie between two, in turn; the extreme is `top` steps."""
    def kind(r, n, g, t):
        x = (np.arange(n * g).reshape(n, g) % (2 * top) - top) + (0.5 if half else 0.0)
        x[:, r.integers(0, g)] = top
        return x * _signs(r, n) * 2.0 ** r.integers(-6, 4, (n, 1))
    return kind


def levels_from(low, top, half):
    """The same between a minimum and a maximum `top` steps above it."""
    def kind(r, n, g, t):
        x = np.arange(n * g).reshape(n, g) % top + (0.5 if half else 0.0)
        x[:, 0], x[:, g - 1] = 0, top
        return (x + r.integers(low, 3, (n, 1))) * 2.0 ** r.integers(-6, 4, (n, 1))
    return kind


def near_halves(top):
    """Ties of the grid again, but under scales that are no powers of two: the last place of a reciprocal
    or a product decides."""
    def kind(r, n, g, t):
        amax = r.uniform(0.5, 4, (n, 1))
        x = (r.integers(-top, top, (n, g)) + 0.5) * amax / top
        x[:, 0] = amax[:, 0] * r.choice([-1, 1], n)
        return x
    return kind


def near_halves_up(top):
    """The same between two extremes."""
    def kind(r, n, g, t):
        span, low = r.uniform(0.5, 4, (n, 1)), r.uniform(-3, 1, (n, 1))
        x = low + (r.integers(0, top, (n, g)) + 0.5) * span / top
        x[:, 0], x[:, 1] = low[:, 0], low[:, 0] + span[:, 0]
        return x
    return kind


def both_extremes(r, n, g, t):
    """The largest magnitude with both signs, in either order."""
    x = r.standard_normal((n, g))
    for row in x:
        i, j = sorted(r.choice(g, 2, replace=False))
        row[i] = r.choice([-1, 1]) * 4
        row[j] = -row[i]
    return x


def single(r, n, g, t):
    """One element that is not zero, of any size; zeros of both signs."""
    x = np.where(r.integers(0, 2, (n, g)) == 1, 0.0, -0.0)
    x[np.arange(n), r.integers(0, g, n)] = r.choice([-1, 1], n) * 10.0 ** r.uniform(-6, 4, n)
    return x


def half_edges(r, n, g, t):
    """Scales at the ends of binary16 for divisors in use: 65504, 65520, 2^-14, 2^-24, 2^-25."""
    ends = np.array([65504, 65519.9, 65520, 66000, 2.0**-14, 2.0**-24, 1.5 * 2.0**-24, 2.0**-25, 2.0**-25 * 1.01])
    divisors = np.array([127, 8, 16, 15, 31, 1, 945, 4064])
    top = np.array([e * d for d in divisors for e in ends])
    top = np.where(top > float(torch.finfo(t).max), 65504, top)[np.arange(n) % (len(ends) * len(divisors))]
    x = r.uniform(-1, 1, (n, g)) * top[:, None]
    x[:, 0] = top * r.choice([-1, 1], n)
    x[::2] = np.abs(x[::2])  # so that max - min is max
    x[::2, 1] = 0
    return x


def smallest(r, n, g, t):
    """Where 1/d or 127/amax overflows, and around."""
    edge = 2.0 ** -r.integers(118, 150, (n, 1)).astype(float)
    x = r.uniform(-1, 1, (n, g)) * edge
    x[:, 0] = edge[:, 0]
    return x


def parts(r, n, g, t):
    """Every 16 elements of another size and mean, some of them 0 or constant."""
    x = r.standard_normal((n, g // 16, 16)) + r.standard_normal((n, g // 16, 1))
    x *= 2.0 ** r.integers(-12, 3, (n, g // 16, 1))
    flat = r.integers(0, 8, (n, g // 16, 1))
    return np.where(flat == 0, 0.0, np.where(flat == 1, x[:, :, :1], x)).reshape(n, g)


E2M1 = np.array([0, 0.5, 1, 1.5, 2, 3, 4, 6])


def ties_e2m1(r, n, g, t):
    """max|x| = 6 s, s a power of two; values half-way between neighbours, and next to that."""
    s = 2.0 ** r.integers(-8, 6, (n, 1))
    i = r.integers(0, 7, (n, g))
    near = 1 + r.integers(-1, 2, (n, g)) * torch.finfo(t).eps
    x = (E2M1[i] + E2M1[i + 1]) / 2 * near * r.choice([-1, 1], (n, g)) * s
    x[:, 0] = 6 * s[:, 0]
    return x


def powers(r, n, g, t):
    """max|x| at and around powers of two (the logarithm of the number below rounds up) and at 6 of them."""
    k = np.linspace(-133, 127, n).astype(int)
    below = np.array([1 - i * torch.finfo(t).eps / 2 for i in range(7)] + [1.5, 1 + torch.finfo(t).eps, 2 - 1e-3])
    top = np.minimum(below[np.arange(n) % len(below)] * 2.0**k, float(torch.finfo(t).max))
    x = r.uniform(-1, 1, (n, g)) * top[:, None]
    x[np.arange(n), r.integers(0, g, n)] = top * r.choice([-1, 1], n)
    return x


def ue4m3_edges(r, n, g, t):
    """max|x| = 6 c for every c where the byte of an unsigned e4m3 changes, at 448, and next to these."""
    values = [m / 512 for m in range(9)] + [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)]
    edges = [(a + b) / 2 for a, b in zip(values, values[1:])] + [2.0**-6, 256, 448, 7.5 / 512]
    top = 6 * np.array([c * (1 + d * 2.0**-23) for c in edges for d in (-1, 0, 1)])
    top = top[np.arange(n) * 5 % len(top)]  # 5 has no common factor with their number
    x = r.uniform(-1, 1, (n, g)) * top[:, None]
    x[:, 3] = top
    return x


OWN = {"ties-127": levels(127, True), "levels-127": levels(127, False),
       "ties-8": levels(8, True), "ties-16": levels(16, True), "ties-32": levels(32, True), "parts": parts, "halves": levels(1, True), "ternary": levels(1, False),
       "ties-e2m1": ties_e2m1, "powers": powers, "ue4m3-edges": ue4m3_edges,
       "ties-15-up": levels_from(-9, 15, True), "ties-31-up": levels_from(-20, 31, True),
       "near-127": near_halves(127), "near-8": near_halves(8), "near-16": near_halves(16), "near-1": near_halves(1),
       "near-15-up": near_halves_up(15), "near-31-up": near_halves_up(31),
       "both-extremes": both_extremes, "single": single, "half-edges": half_edges, "smallest": smallest}
inputs.KINDS.update(OWN)


# --- sets ---------------------------------------------------------------------------------------


def rounded(y, dtype):
    return torch.from_numpy(y).to(dtype)


def note_of(dtype, *parts):
    widened = [] if dtype == F32 else ["binary32 in ggml: x widened, y rounded by torch"]
    return "; ".join([p for p in parts if p] + widened)


class Sets:
    """Inputs of one kind, shape and dtype are the same in all sets, and stored once."""

    def __init__(self, file):
        self.file, self.seed = file, 1

    def start(self, scheme, operand, dtype, kind, params, rows, cols, block, by=""):
        at = ".".join(p for p in (scheme, operand, WORDS[dtype].lower(), kind, f"{rows}x{cols}", by, params) if p)
        self.file.group(at, scheme=scheme, operand=operand, dtype=WORDS[dtype], params=params, seed=self.seed)
        return at, inputs.matrix(kind, rows, cols, block, dtype, self.seed)

    def weight(self, scheme, dtype, kind, rows=None, cols=None, multiply=()):
        """convert and dequant; for each (act, kind of x) of `multiply` a matmul."""
        name = scheme.removesuffix("-ggml")
        block = ggml.BLOCKS[name][0]
        cols = cols or max(block, 128)
        shared = 16 if name == "nvfp4" else block
        at, x = self.start(scheme, "weight", dtype, kind, "", rows or 1024 // cols, cols, shared)
        blocks, called, note = ggml.quantize(name, x)
        y, other = ggml.dequantize(name, blocks, cols)
        planes = {"blocks": torch.from_numpy(blocks)}
        self.file.op(at, "convert", (ggml.NAME, called, note_of(dtype, note)), {"x": x}, planes)
        self.file.op(at, "dequant", (ggml.NAME, f"dequantize_row_{name}", note_of(dtype, other)), planes,
                     {"y": rounded(y, dtype)})
        for act, inner in multiply:
            self.matmul(scheme, dtype, kind, act, inner, blocks, cols)

    def matmul(self, scheme, dtype, kind, act, inner, blocks, cols):
        name = scheme.removesuffix("-ggml")
        partner = ggml.partner(name)
        params = f"act={act}" if act == "ref" else ""
        at, x = self.start(scheme, "weight", dtype, inner, params, 5, cols, cols, f"by-{kind}")
        quantize = ggml.quantize_reference if act == "ref" else ggml.quantize_cpu
        quantized, how = quantize(partner, x)
        y, called = ggml.dot(name, blocks, quantized, cols)
        self.file.op(at, "matmul", (ggml.NAME, f"{how}, {called}", note_of(dtype)),
                     {"x": x, "blocks": torch.from_numpy(blocks)}, {"y": rounded(y, dtype)})

    def activation(self, scheme, name, dtype, kind, act):
        """`name`: the partner."""
        block = ggml.BLOCKS[name][0]
        cols = max(block, 128)
        at, x = self.start(scheme, "activation", dtype, kind, "act=ref" if act == "ref" else "", 1024 // cols,
                           cols, block)
        blocks, called = (ggml.quantize_reference if act == "ref" else ggml.quantize_cpu)(name, x)
        planes = {"blocks": torch.from_numpy(blocks)}
        note = "the sums of zero blocks are 0 because the memory was" if name == "q8_K" else ""
        self.file.op(at, "convert", (ggml.NAME, called, note_of(dtype, note)), {"x": x}, planes)
        if name == "q8_1" or act == "ref":
            return  # ggml does not dequantize q8_1; one quantizer's blocks are enough to decode
        y, other = ggml.dequantize(name, blocks, cols)
        self.file.op(at, "dequant", (ggml.NAME, f"dequantize_row_{name}", note_of(dtype, other)), planes,
                     {"y": rounded(y, dtype)})


def with_codes(name, blocks, q):
    """K-quant blocks with every code q."""
    filled = blocks.reshape(-1, ggml.BLOCKS[name][1]).copy()
    if name == "q4_K":
        filled[:, 16:] = q * 0x11
    else:
        filled[:, :128], filled[:, 128:192] = (q & 15) * 0x11, (q >> 4) * 0x55
    return filled.reshape(blocks.shape)


def last_pass_ties(name, top):
    """Blocks whose codes, taken anew from the rounded scales, are ties: of random blocks, in which every 64th
    element was moved half-way to the next code, those whose scales stayed the same."""
    def kind(r, n, g, t):
        x = r.standard_normal((128 * n, g)).astype(np.float32) * np.float32(0.1)
        blocks = ggml.quantize(name, torch.from_numpy(x))[0]
        values = np.stack([ggml.dequantize(name, with_codes(name, blocks, q), g)[0] for q in range(top + 1)])
        code = np.abs(values[:-1].astype(np.float64) - x).argmin(axis=0)[None]
        tie = (np.take_along_axis(values, code, 0)[0].astype(np.float64) +
               np.take_along_axis(values, code + 1, 0)[0]) / 2
        moved = np.where(np.arange(g) % 64 == 5, tie, x).astype(np.float32)
        again = ggml.quantize(name, torch.from_numpy(moved))[0]
        same = (with_codes(name, again, 0) == with_codes(name, blocks, 0)).all(axis=1)
        assert same.sum() >= n
        return moved[same][:n].astype(np.float64)
    return kind


inputs.KINDS.update({"last-pass-q4_K": last_pass_ties("q4_K", 15), "last-pass-q6_K": last_pass_ties("q6_K", 63)})

SHORT = ["normal-0.02", "few", "huge", "tiny"]
FULL = ["normal", "zeros", "constant", "outlier", "positive", "small", "repeated", "edges", *SHORT,
        "both-extremes", "single", "half-edges", "smallest", "nonfinite"]


def legacy_file(file):
    sets = Sets(file)
    ties = {"q8_0": ["ties-127", "near-127", "levels-127"], "q4_0": ["ties-8", "near-8"],
            "q5_0": ["ties-16", "near-16"], "q4_1": ["ties-15-up", "near-15-up"], "q5_1": ["ties-31-up", "near-31-up"]}
    products = [("x86", "normal"), ("ref", "few")]
    for scheme in ties:
        for kind in FULL + ties[scheme]:
            sets.weight(scheme, F32, kind)
        for dtype in (BF16, F16):
            for kind in SHORT + ties[scheme][:1]:
                sets.weight(scheme, dtype, kind, 2, 64)
        for dtype in (F32, BF16, F16):
            sets.weight(scheme, dtype, "normal-0.02", 7, 32, products)
            sets.weight(scheme, dtype, "normal", 6, 512, products)
            sets.weight(scheme, dtype, "outlier", 6, 512, products)
    for scheme, partner in (("q8_0", "q8_0"), ("q8_1", "q8_1"), ("q4_0", "q8_0"), ("q4_1", "q8_1"),
                            ("q5_0", "q8_0"), ("q5_1", "q8_1")):
        own = scheme == partner
        for act in ("x86", "ref"):
            for kind in (FULL if own else SHORT) + ["ties-127", "near-127", "levels-127"]:
                sets.activation(scheme, partner, F32, kind, act)
            for kind in SHORT + ["ties-127"] if own else []:
                for dtype in (BF16, F16):
                    sets.activation(scheme, partner, dtype, kind, act)


def k_file(file):
    sets = Sets(file)
    for scheme in ("q4_K", "q6_K"):
        ties = ["ties-15-up" if scheme == "q4_K" else "ties-32"]
        for kind in FULL + ties + ["uniform"]:
            sets.weight(scheme, F32, kind)
        sets.weight(scheme, F32, "parts", 32)
        sets.weight(scheme, F32, f"last-pass-{scheme}", 12)
        for dtype in (BF16, F16):
            for kind in SHORT + ties:
                sets.weight(scheme, dtype, kind, 2)
        for dtype in (F32, BF16, F16):
            sets.weight(scheme, dtype, "normal-0.02", 3, 256, [("", "normal")])
            sets.weight(scheme, dtype, "parts", 4, 768, [("", "normal"), ("", "few")])
        for kind in SHORT + ["levels-127"]:
            sets.activation(scheme, "q8_K", F32, kind, "")
    for kind in FULL + ["near-127", "levels-127"]:
        sets.activation("q8_K", "q8_K", F32, kind, "")
    for kind in SHORT:
        for dtype in (BF16, F16):
            sets.activation("q8_K", "q8_K", dtype, kind, "")


def fp4_file(file):
    sets = Sets(file)
    products = [("x86", "normal"), ("ref", "few")]
    for scheme in ("mxfp4-ggml", "nvfp4-ggml"):
        for kind in FULL + ["ties-e2m1"]:
            sets.weight(scheme, F32, kind)
        edges = "powers" if scheme == "mxfp4-ggml" else "ue4m3-edges"
        sets.weight(scheme, F32, edges, 64 if edges == "powers" else 51)
        for dtype in (BF16, F16):
            for kind in SHORT + ["ties-e2m1", edges]:
                sets.weight(scheme, dtype, kind, 2)
        for dtype in (F32, BF16, F16):
            sets.weight(scheme, dtype, "normal-0.02", 7, 64, products)
            sets.weight(scheme, dtype, "normal", 6, 512, products)
        for act in ("x86", "ref"):
            for kind in SHORT + ["ties-127", "levels-127"]:
                sets.activation(scheme, "q8_0", F32, kind, act)


def ternary_file(file):
    sets = Sets(file)
    for scheme in ("tq1_0", "tq2_0"):
        for kind in FULL + ["halves", "near-1", "ternary"]:
            sets.weight(scheme, F32, kind)
        for dtype in (BF16, F16):
            for kind in SHORT + ["halves"]:
                sets.weight(scheme, dtype, kind, 2)
        for dtype in (F32, BF16, F16):
            sets.weight(scheme, dtype, "ternary", 3, 256, [("", "normal")])
            sets.weight(scheme, dtype, "normal", 4, 768, [("", "normal"), ("", "few")])
        for kind in SHORT + ["levels-127"]:
            sets.activation(scheme, "q8_K", F32, kind, "")


FILES = {
    "gguf-fp4.h5": fp4_file,
    "gguf-ternary.h5": ternary_file,
    "gguf-k.h5": k_file,
    "gguf-legacy.h5": legacy_file,
}
