# SPDX-License-Identifier: MIT
"""Inputs, by name. Element values depend on (kind, seed, shape, group, dtype) and nothing else.

A kind is made in float64 for groups of `group` elements and rounded to the dtype. `shared` says how many
elements share a scale; structure (ties, outliers, extremes) is laid out per shared block.
"""
import numpy as np
import torch

E4M3 = np.array([m / 512 for m in range(8)] +
                [(8 + m) * 2.0 ** (e - 10) for e in range(1, 16) for m in range(8)][:-1])


def _rng(kind, seed):
    return np.random.default_rng([seed, *kind.encode()])


def _power(r, n, low=-9, high=3):
    return 2.0 ** r.integers(low, high, size=(n, 1))


def normal(sigma):
    return lambda r, n, g, t: r.standard_normal((n, g)) * sigma


def uniform(r, n, g, t):
    return r.uniform(-1, 1, (n, g))


def ties_asymmetric(r, n, g, t):
    """max - min = 15 s and elements at (j + 1/2) s: every quotient a tie of the 16-code grid."""
    s = _power(r, n)
    x = (r.integers(0, 15, (n, g)) + 0.5) * s
    x[:, 0], x[:, 1] = 0, 15 * s[:, 0]
    return x - r.integers(0, 9, (n, 1)) * s


def ties_symmetric(bits):
    """max|x| = (2^bits - 1) / 2 s and ties of the grid of 2^bits codes, on the side of the clip too."""
    half = 2 ** (bits - 1)

    def make(r, n, g, t):
        s = _power(r, n)
        x = (r.integers(-half, half, (n, g)) + 0.5) * s
        x[:, 0] = (half - 0.5) * s[:, 0] * r.choice([-1, 1], n)
        return np.clip(x, (0.5 - half) * s, (half - 0.5) * s)

    return make


def codes(bits):
    """max|x| = (2^bits - 1) / 2 s, and all codes of the grid one after the other, the lowest as the tie below
    it."""
    half = 2 ** (bits - 1)

    def make(r, n, g, t):
        s = _power(r, n)
        x = np.arange(n * (g - 1)).reshape(n, g - 1) % (2 * half) - half
        extreme = (half - 0.5) * r.choice([-1, 1], (n, 1))
        return np.hstack([extreme, np.where(x == -half, 0.5 - half, x)]) * s

    return make


def ties_e4m3(r, n, g, t):
    """max|x| = 448 s, s a power of two, and values half-way between neighbouring e4m3 numbers."""
    s = _power(r, n)
    i = r.integers(0, len(E4M3) - 1, (n, g))
    x = (E4M3[i] + E4M3[i + 1]) / 2 * r.choice([-1, 1], (n, g)) * s
    x[:, 0] = 448 * s[:, 0]
    return x


def every_e4m3(r, n, g, t):
    """max|x| = 448 s, s a power of two, and the e4m3 numbers one after the other, with both signs."""
    s = _power(r, n)
    x = np.resize(np.concatenate([E4M3[::-1], -E4M3[::-1]]), (n, g)) * s
    x[:, 0] = 448 * s[:, 0]
    return x


def zeros(r, n, g, t):
    """All zero, of both signs; the last block mixes zeros with numbers."""
    x = np.where(r.integers(0, 2, (n, g)) == 1, 0.0, -0.0)
    x[: max(1, n // 4)] = 0.0
    x[-1, ::3] = r.standard_normal(len(x[-1, ::3]))
    x[-1, 1::7] *= -1
    return x


def constant(r, n, g, t):
    """One value per block, of either sign and several magnitudes."""
    return np.repeat(r.choice([-1, 1], (n, 1)) * 10.0 ** r.uniform(-8, 2, (n, 1)), g, axis=1)


def outlier(r, n, g, t):
    """One large element per block, sometimes the first or the last."""
    x = r.standard_normal((n, g)) * 0.02
    place = r.choice([0, g // 2, g - 1], n)
    x[np.arange(n), place] = r.choice([-1, 1], n) * 10.0 ** r.uniform(0, 2, n)
    return x


def positive(r, n, g, t):
    """No element below zero; every other block no element above."""
    x = np.abs(r.standard_normal((n, g))) + r.uniform(0, 2, (n, 1))
    x[1::2] *= -1
    return x


def tiny(r, n, g, t):
    """Subnormal numbers and the smallest normal ones, with zeros between."""
    info = torch.finfo(t)
    unit = info.tiny * info.eps  # the smallest subnormal
    top = np.minimum(2.0 ** r.integers(1, 12, (n, 1)), 2 / info.eps)
    x = np.floor(r.uniform(-1, 1, (n, g)) * top) * unit
    x[: n // 2, 0] = info.tiny
    x[n // 4 : n // 2] *= 8
    return x


def small(r, n, g, t):
    """Just above and below the places where lower bounds on scales and ranges act."""
    edge = r.choice([1e-12, 1e-6, 1e-6 / 8, 8e-6, 2.0**-7, 7.5 * 2.0**-7, 2.0**-9, 6e-5], (n, 1))
    x = r.uniform(-1, 1, (n, g)) * edge
    x[:, 0] = edge[:, 0] * r.choice([0.5, 0.99, 1, 1.01, 2], n)
    return x


def huge(r, n, g, t):
    """Near the largest finite number."""
    x = r.uniform(-1, 1, (n, g)) * torch.finfo(t).max / r.choice([1, 2, 4, 64], (n, 1))
    return x


def edges(r, n, g, t):
    """Many elements next to the extremes, on both sides of where codes clip."""
    s = 10.0 ** r.uniform(-3, 0, (n, 1))
    x = r.choice([-8, -7.5, -7.49, -7.51, 7, 7.49, 7.5, 0, 0.5, -0.5], (n, g)) * s
    return x * (1 + r.integers(-2, 3, (n, g)) * torch.finfo(t).eps)


def repeated(r, n, g, t):
    """The largest and the smallest element several times over, and the same magnitude with both signs."""
    x = r.standard_normal((n, g))
    top = np.abs(x).max(axis=1)
    for i in range(n):
        at = r.choice(g, 6, replace=False)
        x[i, at[:3]] = top[i] * 1.25
        x[i, at[3:]] = -top[i] * (1.25 if i % 2 else 1.0)
    return x


def few(r, n, g, t):
    """Few distinct values: multiples of a power of two with 3 bits."""
    return r.integers(-4, 5, (n, g)) * _power(r, n)


def nonfinite(r, n, g, t):
    """NaN, inf and -inf, alone and together; every fourth block is clean."""
    x = r.standard_normal((n, g))
    poison = [(np.nan,), (np.inf,), (-np.inf,), (), (np.inf, -np.inf), (np.nan, np.inf), (), (-np.nan,)]
    for i in range(n):
        for j, value in enumerate(poison[i % len(poison)]):
            x[i, (5 * i + 3 * j + 1) % g] = value
    return x


KINDS = {
    "normal": normal(1.0), "normal-0.02": normal(0.02), "normal-1e-3": normal(1e-3),
    "uniform": uniform, "ties-asymmetric": ties_asymmetric, "ties-e4m3": ties_e4m3, "every-e4m3": every_e4m3,
    "zeros": zeros, "constant": constant,
    "outlier": outlier, "positive": positive, "tiny": tiny, "small": small, "huge": huge,
    "edges": edges, "repeated": repeated, "few": few, "nonfinite": nonfinite,
    **{f"ties-symmetric{bits}": ties_symmetric(bits) for bits in range(1, 9)},
    **{f"codes-{bits}": codes(bits) for bits in range(1, 9)},
}


def matrix(kind, rows, cols, shared, dtype, seed):
    """[rows, cols] of dtype; `shared` elements of a row form a block (a short one at the end is cut)."""
    blocks = -(-cols // shared)
    with np.errstate(all="ignore"):
        x = KINDS[kind](_rng(kind, seed), rows * blocks, shared, dtype)
    x = x.reshape(rows, blocks * shared)[:, :cols]
    return torch.from_numpy(np.ascontiguousarray(x)).to(dtype)


GRADIENTS = {
    "typical": lambda r, shape: r.standard_normal(shape) * 1e-3,
    "unit": lambda r, shape: r.standard_normal(shape),
    "bits": lambda r, shape: r.integers(-8, 9, shape) / 8.0,  # few bits: sums are exact
    "tiny": lambda r, shape: r.standard_normal(shape) * 1e-7,
    "large": lambda r, shape: r.standard_normal(shape) * 3e3,
}


def gradient(kind, shape, dtype, seed):
    return torch.from_numpy(GRADIENTS[kind](_rng("g-" + kind, seed), tuple(shape))).to(dtype)
