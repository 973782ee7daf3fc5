# SPDX-License-Identifier: MIT
"""What torchao makes of the MX formats: mxfp4, mxfp6-*, mxfp8-*."""
import upstream  # noqa: F401  first: threads of torch
from upstream import DERIVED, TORCHAO

import types

import numpy as np
import torch
from torchao.prototype.mx_formats import MXDynamicActivationMXWeightConfig
from torchao.prototype.mx_formats.config import ScaleCalculationMode
from torchao.prototype.mx_formats.constants import DTYPE_FP6_E2M3, DTYPE_FP6_E3M2
from torchao.prototype.mx_formats.mx_tensor import MXTensor, QuantizeTensorToMXKwargs, to_dtype
from torchao.prototype.mx_formats.utils import to_blocked
from torchao.prototype.qat.mx import _MXQuantizedForwardFakeQuantizedBackward
from torchao.quantization import quantize_
from torchao.quantization.quantize_.common.kernel_preference import KernelPreference

import inputs
from torchao_goldens import BF16, F32, Sets, matmul_op, parameters

EMULATED = KernelPreference.EMULATED
BLOCK = 32


class Element:
    def __init__(self, scheme, upstream_type, mbits, bias, count, power):
        """count: finite magnitudes; power: the exponent of the largest."""
        self.scheme, self.type, self.mbits, self.power = scheme, upstream_type, mbits, power
        m = np.arange(count) % 2**mbits / 2.0**mbits
        e = np.arange(count) >> mbits
        self.values = np.where(e > 0, 1 + m, m) * 2.0 ** (np.maximum(e, 1) - bias)
        self.max = self.values[-1]
        self.name = scheme.split("-")[-1] if "-" in scheme else "e2m1"
        self.fp8 = scheme.startswith("mxfp8")
        self.sign = 128 if self.fp8 else 32 if "fp6" in scheme else 8


ELEMENTS = [
    Element("mxfp4", torch.float4_e2m1fn_x2, 1, 1, 8, 2),
    Element("mxfp6-e2m3", DTYPE_FP6_E2M3, 3, 1, 32, 2),
    Element("mxfp6-e3m2", DTYPE_FP6_E3M2, 2, 3, 32, 4),
    Element("mxfp8-e4m3", torch.float8_e4m3fn, 3, 7, 127, 8),
    Element("mxfp8-e5m2", torch.float8_e5m2, 2, 15, 124, 15),
]

# --- inputs -------------------------------------------------------------------------------------


def all_codes(values):
    """Every number of the format, of both signs, the largest in each block: exact for rceil."""
    def fill(r, n, g, t):
        both = np.concatenate([values, -values])
        x = both[np.arange(n * g).reshape(n, g) * 7 % len(both)] * inputs._power(r, n)
        x[:, 0] = values[-1] * np.maximum(np.abs(x).max(axis=1) / values[-1], 2.0**-9)
        return x
    return fill


def ties(values):
    """Between neighbouring numbers, and the next numbers on both sides of there."""
    def fill(r, n, g, t):
        i = r.integers(0, len(values) - 1, (n, g))
        x = (values[i] + values[i + 1]) / 2 * r.choice([-1, 1], (n, g))
        x = x * (1 + r.integers(-1, 2, (n, g)) * torch.finfo(t).eps) * inputs._power(r, n)
        x[:, 0] = values[-1] * 2.0 ** np.ceil(np.log2(np.abs(x).max(axis=1) / values[-1]))
        return x
    return fill


def mantissas(el):
    """The largest magnitude where some rule of scales turns, and its neighbours."""
    def fill(r, n, g, t):
        step = 2.0**el.power
        turn = r.choice([1, 2 - 2.0 ** (-el.mbits - 1), el.max / step, 1.5, 2], n)
        amax = turn * (1 + r.integers(-2, 3, n) * torch.finfo(t).eps) * 2.0 ** r.integers(-9, 9, n)
        x = r.uniform(-1, 1, (n, g)) * amax[:, None]
        x[np.arange(n), r.integers(0, g, n)] = amax * r.choice([-1, 1], n)
        return x
    return fill


def ends(el):
    """Blocks whose byte is near 0, below it, or as large as a finite block's."""
    def fill(r, n, g, t):
        info = torch.finfo(t)
        exponent = el.power - 127 + r.integers(-24, 5, n)
        amax = r.uniform(1, 2, n) * 2.0**exponent
        amax[::4] = info.max * (1 - r.integers(0, 24, len(amax[::4])) * info.eps / 2)
        amax[1::4] = el.max * 2.0 ** (r.integers(-127, -122, len(amax[1::4])))
        x = r.uniform(-1, 1, (n, g)) * np.maximum(amax, info.tiny * info.eps)[:, None]
        x[:, 3] = amax
        return x
    return fill


EXPONENTS = [s * e for e in (1, 2, 3, 4, 7, 8, 15, 16, 31, 32, 63, 64, 100) for s in (-1, 1)]
UNITS = [1, 2, 3, 5, 6, 11, 12, 22, 23]


def quotients(el):
    """amax / max a few units above a power of two, around where log2f rounds down to its logarithm."""
    def fill(r, n, g, t):
        assert n == len(EXPONENTS) * len(UNITS)
        amax = el.max * np.ldexp(1 + np.array(UNITS) * 2.0**-23, np.array(EXPONENTS)[:, None]).reshape(n, 1)
        return amax * 2.0 ** -(np.arange(g) % 12)
    return fill


def infinite(r, n, g, t):
    """inf and -inf in every other block, and zeros beside it."""
    x = r.standard_normal((n, g)) * 10.0 ** r.uniform(-3, 3, (n, 1))
    x[::2, 5] = np.inf
    x[::4, 9] = -np.inf
    x[::4, 20:] *= 0
    return x


for _el in ELEMENTS:
    inputs.KINDS.update({f"codes-{_el.name}": all_codes(_el.values), f"ties-{_el.name}": ties(_el.values),
                         f"mantissas-{_el.name}": mantissas(_el), f"ends-{_el.name}": ends(_el),
                         f"quotients-{_el.name}": quotients(_el)})
inputs.KINDS["infinite"] = infinite


def of_element(kind, el):
    return f"{kind}-{el.name}" if f"{kind}-{el.name}" in inputs.KINDS else kind


# --- the later source, which no release has yet: bits in numpy ----------------------------------

SNAPSHOT = "ao:torchao/prototype/mx_formats/mx_tensor.py at 36027d82, which is later than the release"


def snapshot_bytes(amax, el, scale):
    """The E8M0 byte for binary32 magnitudes."""
    if scale == "rceil":
        with np.errstate(all="ignore"):
            u = (amax * np.float32(1 / el.max)).view(np.uint32)
        up = np.where(u < 2**23, u > 2**22, u % 2**23 > 0)
        return np.where(u >= 255 << 23, 255, (u >> 23) + up).astype(np.uint8)
    u = amax.view(np.uint32)
    if scale == "even":
        u = np.where(np.isnan(amax), u, u + np.uint32(2 ** (22 - el.mbits)))
    field = (u >> 23).astype(np.int64)
    byte = field + ((u % 2**23 > 0) if scale == "ceil" else 0) - el.power
    return np.where(field == 255, 255, np.clip(byte, 0, 254)).astype(np.uint8)


def snapshot_codes(x, byte, el):
    """Codes of x 2^(127 - byte), the nearest in the table."""
    inverse = np.where(byte == 255, np.nan, 2.0 ** (127.0 - byte)).astype(np.float32)
    with np.errstate(all="ignore"):
        v = (x * inverse).astype(np.float64)
    a = np.abs(v)
    middle = (el.values[1:] + el.values[:-1]) / 2
    i = np.searchsorted(middle, a, "left")  # a tie is below its middle
    tie = (i < len(middle)) & (a == middle[np.minimum(i, len(middle) - 1)])
    i = i + (tie & (i % 2 == 1))
    return np.where(np.isnan(v), 127 if el.fp8 else len(middle), i | np.where(np.signbit(v), el.sign, 0)).astype(np.uint8)


def snapshot_to_mx(x, el, scale):
    """(scales, codes) as to_mx returns them."""
    f = x.float().numpy().reshape(-1, BLOCK)
    byte = snapshot_bytes(np.abs(f).max(axis=1), el, scale)
    codes = snapshot_codes(f, byte[:, None], el).reshape(x.shape)
    if el.sign == 8:
        codes = codes[:, ::2] | codes[:, 1::2] << 4
    codes = torch.from_numpy(codes)
    return (torch.from_numpy(byte.reshape(len(x), -1)).view(torch.float8_e8m0fnu),
            codes.view(el.type) if el.fp8 else codes)


# --- one set ------------------------------------------------------------------------------------


def to_tensor(x, el, scale, version, swizzled):
    """(MXTensor, made_by)."""
    if version == "0.18":
        q = MXTensor.to_mx(x, el.type, BLOCK, ScaleCalculationMode(scale), EMULATED,
                           is_swizzled_scales=swizzled)
        return q, (TORCHAO, f"MXTensor.to_mx({el.name}, {scale}{', swizzled' if swizzled else ''})", "")
    scales, codes = snapshot_to_mx(x, el, scale)
    q = MXTensor(codes, scales, el.type, BLOCK, x.dtype, EMULATED, None, False)
    if swizzled:
        rows, cols = -(-len(x) // 128) * 32, -(-x.shape[1] // 128) * 16
        q.scale, q.is_swizzled_scales = to_blocked(q.scale).view(rows, cols), True
    return q, (DERIVED, "bits in numpy, nearest number of a table", SNAPSHOT)


def pass_back(sets, at, operand, x, q, kind):
    """The backward of the training module, with the identity for the other operand."""
    g = inputs.gradient(kind, x.shape, x.dtype, sets.seed)
    ones = MXTensor.to_mx(torch.eye(x.shape[1], dtype=x.dtype), torch.float8_e4m3fn, BLOCK)
    assert torch.equal(ones.dequantize(), torch.eye(x.shape[1], dtype=x.dtype))
    saved, dy = ((ones, q), g.t().contiguous()) if operand == "weight" else ((q, ones), g)
    context = types.SimpleNamespace(saved_tensors=saved, orig_shape=saved[0].shape,
                                    _fwd_used_autocast=False, _dtype=None)
    dx, dw, *rest = _MXQuantizedForwardFakeQuantizedBackward.backward(context, dy)
    assert rest == [None] * 3
    sets.file.op(at, "fake-quant-grad", (TORCHAO, "_MXQuantizedForwardFakeQuantizedBackward.backward",
                                         "called with the identity as the other operand"),
                 {"x": x, "g": g}, {"dx": dw if operand == "weight" else dx})


def multiply(sets, at, w, planes, el, scale, version, swizzled, kind, m):
    a = inputs.matrix(of_element(kind, el), m, w.shape[1], BLOCK, w.dtype, sets.seed + 1)
    q, (library, _, note) = to_tensor(w, el, scale, version, swizzled)
    if version != "0.18":
        y = to_tensor(a, el, scale, version, False)[0].dequantize() @ q.dequantize().t()
        matmul_op(sets, at, a, planes, y, f"{TORCHAO}; quantizers {library}",
                  "mm of MXTensor.dequantize of both operands", note)
        return
    if w.dtype == BF16 and swizzled:  # the configuration's layout, and its only dtype
        module = torch.nn.Linear(*w.shape[::-1], bias=False, dtype=w.dtype)
        module.weight = torch.nn.Parameter(w.clone(), requires_grad=False)
        quantize_(module, MXDynamicActivationMXWeightConfig(
            activation_dtype=el.type, weight_dtype=el.type, kernel_preference=EMULATED,
            scaling_mode=ScaleCalculationMode(scale)))
        assert torch.equal(module.weight.scale.view(torch.uint8), planes["scales"].view(torch.uint8))
        y, name = module(a), "Linear after quantize_(MXDynamicActivationMXWeightConfig, EMULATED)"
    else:
        q.act_quant_kwargs = QuantizeTensorToMXKwargs(el.type, BLOCK, ScaleCalculationMode(scale), EMULATED)
        y, name = torch.nn.functional.linear(a, q), "linear of an MXTensor with act_quant_kwargs, EMULATED"
    matmul_op(sets, at, a, planes, y, TORCHAO, name, "")


def one(sets, el, operand, dtype, kind, scale="rceil", version="0.18", swizzled=False, rows=4, cols=128,
        gradient=None, by=None):
    """by: (kind, rows) of the input of a matmul, or None."""
    params = parameters(scale=scale if scale != "rceil" else None,
                        version=version if version != "0.18" else None,
                        layout="swizzled" if swizzled else None)
    kind = of_element(kind, el)
    at, x = sets.start(el.scheme, operand, dtype, kind, params, rows, cols, BLOCK)
    q, made_by = to_tensor(x, el, scale, version, swizzled)
    y = q.dequantize()
    planes = {"codes": q.qdata, "scales": q.scale}
    library, name, note = made_by
    sets.file.op(at, "fake-quant", (library, name + ", MXTensor.dequantize",
                                    note or "what MXFakeQuantizedLinear multiplies"), {"x": x}, {"y": y})
    if gradient:
        pass_back(sets, at, operand, x, q, gradient)
    # fp4 and fp6 have no NaN: what their codes become in such blocks is arbitrary.
    if el.fp8 or not (q.scale.view(torch.uint8) == 255).any():
        sets.file.op(at, "convert", made_by, {"x": x}, planes)
        if params == "" or swizzled:  # every code and scale besides: every_plane_value
            sets.file.op(at, "dequant", (TORCHAO, "MXTensor.dequantize", "planes as in convert of this set"),
                         planes, {"y": y})
    if by:
        multiply(sets, at, x, planes, el, scale, version, swizzled, *by)


def every_plane_value(sets, el, dtype):
    """dequant of every code under scales from end to end, byte 255 among them."""
    at, _ = sets.start(el.scheme, "weight", dtype, "normal", "", 1, BLOCK, BLOCK)
    codes = torch.arange(256, dtype=torch.int16).to(torch.uint8)
    codes = codes[: 256 if el.fp8 or el.sign == 8 else 64].repeat(16 if el.sign != 32 else 64).reshape(16, -1)
    bytes_ = torch.arange(codes.numel() // (16 if el.sign == 8 else 32)).reshape(16, -1)
    scales = (bytes_ * (97 if dtype == BF16 else 103) % 256).to(torch.uint8).view(torch.float8_e8m0fnu)
    codes = codes.view(el.type) if el.fp8 else codes
    y = to_dtype(codes, scales, el.type, BLOCK, dtype)
    sets.file.op(at, "dequant", (TORCHAO, "mx_tensor.to_dtype", "planes made by hand: every code and byte"),
                 {"codes": codes, "scales": scales}, {"y": y})


def mx_file(el):
    def write(file):
        sets = Sets(file)
        own = ["codes", "ties", "mantissas", "ends"]
        for dtype in (BF16, F32):
            one(sets, el, "weight", dtype, "normal-0.02", rows=16, cols=256, by=("normal", 5))
            for kind in own + ["infinite", "nonfinite", "zeros", "constant", "outlier", "tiny", "huge", "few"]:
                one(sets, el, "weight", dtype, kind, rows=8)
            for kind in own + ["zeros", "nonfinite"]:
                one(sets, el, "activation", dtype, kind, rows=8)
            for scale in ("floor", "ceil", "even", "rceil"):
                for version in ("0.18", "snapshot"):
                    if (scale, version) == ("rceil", "0.18"):
                        continue
                    for kind in ["ties", "mantissas", "ends", "infinite", "nonfinite"]:
                        one(sets, el, "weight", dtype, kind, scale, version)
                    one(sets, el, "weight", dtype, "normal-0.02", scale, version, by=("ties", 3))
                    one(sets, el, "activation", dtype, "mantissas", scale, version, rows=2)
            for i, kind in enumerate(inputs.GRADIENTS):
                one(sets, el, ("weight", "activation")[i % 2], dtype, "few", gradient=kind)
            every_plane_value(sets, el, dtype)
        for version in ("0.18", "snapshot"):
            one(sets, el, "weight", F32, "quotients", version=version, rows=len(EXPONENTS),
                cols=BLOCK * len(UNITS))
        one(sets, el, "weight", BF16, "normal-0.02", swizzled=True, rows=130, cols=160, by=("normal", 3))
        for version in ("0.18", "snapshot"):
            one(sets, el, "weight", F32, "ties", "floor", version, True, 33, 96, by=("normal", 2))
            one(sets, el, "activation", BF16, "ties", "floor", version, True, 3, 32)

    return write


FILES = {el.scheme + ".h5": mx_file(el) for el in ELEMENTS}
