# SPDX-License-Identifier: MIT
"""Rounding by hand, in rational numbers: the second derivation of what no library computes on a CPU."""
import math
from fractions import Fraction

import numpy as np
import torch

# Significant bits and the exponent of the smallest subnormal; largest finite number.
FORMATS = {
    torch.float32: (24, -149, float(np.finfo(np.float32).max)),
    torch.bfloat16: (8, -133, float(torch.finfo(torch.bfloat16).max)),
    torch.float16: (11, -24, 65504.0),
    torch.float8_e4m3fn: (4, -9, 448.0),
}


def to_format(value, dtype, negative_zero=False):
    """value (Fraction) to nearest, ties to even, as a float. Overflow: inf, for e4m3 +-448."""
    digits, lowest, largest = FORMATS[dtype]
    if value == 0:
        return -0.0 if negative_zero else 0.0
    magnitude = abs(value)
    exponent = magnitude.numerator.bit_length() - magnitude.denominator.bit_length()
    if magnitude < Fraction(2) ** exponent:
        exponent -= 1  # now 2^exponent <= magnitude < 2^(exponent + 1)
    step = Fraction(2) ** max(exponent - digits + 1, lowest)
    whole, rest = divmod(magnitude, step)
    if 2 * rest > step or (2 * rest == step and whole % 2):
        whole += 1
    rounded = whole * step
    if rounded > Fraction(largest):
        rounded = largest if dtype == torch.float8_e4m3fn else math.inf
    return math.copysign(float(rounded), -1.0 if value < 0 else 1.0)


def _special(*values):
    return not all(math.isfinite(v) for v in values)


def product(a, b, dtype):
    """a * b, rounded once."""
    if _special(a, b):
        return math.nan if _special(a) and b == 0 or _special(b) and a == 0 else a * b
    negative = math.copysign(1, a) * math.copysign(1, b) < 0
    return to_format(Fraction(a) * Fraction(b), dtype, negative)


def total(a, b, dtype):
    """a + b, rounded once."""
    if _special(a, b):
        return a + b
    both_negative = math.copysign(1, a) < 0 and math.copysign(1, b) < 0
    return to_format(Fraction(a) + Fraction(b), dtype, both_negative)


def fused(a, b, c, dtype):
    """a * b + c, rounded once."""
    if _special(a, b, c):
        return product(a, b, torch.float32) + c
    minus = math.copysign(1, a) * math.copysign(1, b) < 0 and math.copysign(1, c) < 0
    return to_format(Fraction(a) * Fraction(b) + Fraction(c), dtype, minus)


def tensor(values, shape, dtype):
    """Floats that are numbers of dtype (or float64 on the way there) as a tensor."""
    return torch.tensor(values, dtype=torch.float64).reshape(shape).to(torch.float32).to(dtype)
