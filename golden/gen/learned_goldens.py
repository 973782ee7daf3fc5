# SPDX-License-Identifier: MIT
"""intx-learned: torchao's range learning, through autograd, and its convert."""
from upstream import TORCHAO  # first: it sets up Triton's interpreter

import numpy as np
import torch
from torchao.quantization import IntxWeightOnlyConfig, quantize_
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig, initialize_fake_quantizers
from torchao.quantization.qat.fake_quantizer import IntxFakeQuantizer

import inputs
from intx_goldens import check_all_codes, target_dtype
from torchao_goldens import BF16, COMMON, F16, F32, Sets, matmul_op, parameters


def config(bits, group, symmetric):
    return IntxFakeQuantizeConfig(target_dtype(bits), PerGroup(group) if group else PerAxis(0),
                                  is_symmetric=symmetric, is_dynamic=False, range_learning=True,
                                  scale_precision=F32, zero_point_precision=F32)


def trained(sets, x, bits, group):
    """A fake quantizer whose scales and zero points have moved away from where they began: scales so that
    some elements are clipped, zero points on whole numbers and between them."""
    fake = IntxFakeQuantizer(config(bits, group, False))
    initialize_fake_quantizers(fake, (x,))
    r = np.random.default_rng([sets.seed, sets.turn])
    factor = torch.from_numpy(r.uniform(0.4, 1.3, fake.scale.shape)).float()
    top = 2 ** (bits - 2)
    zeros = torch.from_numpy(np.round(r.uniform(-top, top, fake.scale.shape), 0)).float()
    zeros[:, 1::2] += torch.from_numpy(r.uniform(-1, 1, zeros[:, 1::2].shape)).float()
    zeros[-1] = 0
    with torch.no_grad():
        fake.scale.mul_(factor)
        fake.zero_point.copy_(zeros)
    return fake


def prepare(sets, at, x, fake, gradient, kind=None):
    name = "IntxFakeQuantizer with range_learning"
    learned = {"scales": fake.scale.detach().clone(), "zeros": fake.zero_point.detach().clone()}
    sets.file.op(at, "fake-quant", (TORCHAO, name, ""), {"x": x, **learned}, {"y": fake(x).detach()})
    if not gradient:
        return
    kinds = list(inputs.GRADIENTS)
    g = inputs.gradient(kind or kinds[sets.turn % len(kinds)], x.shape, x.dtype, sets.seed)
    w = x.clone().requires_grad_()
    dx, ds, dz = torch.autograd.grad(fake(w), (w, fake.scale, fake.zero_point), g)
    sets.file.op(at, "fake-quant-grad", (TORCHAO, "autograd through " + name, ""),
                 {"x": x, "g": g, **learned}, {"dx": dx, "dscales": ds, "dzeros": dz})


def convert(sets, at, x, bits, group, multiply):
    """An untrained layer's planes."""
    module = torch.nn.Sequential(torch.nn.Linear(x.shape[1], x.shape[0], bias=False, dtype=x.dtype))
    module[0].weight = torch.nn.Parameter(x.clone())
    quantize_(module, QATConfig(weight_config=config(bits, group, True), step="prepare"))
    initialize_fake_quantizers(module, (x[:1],))
    base = IntxWeightOnlyConfig(target_dtype(bits), PerGroup(group) if group else PerAxis(0))
    quantize_(module, QATConfig(base, step="convert"))
    q = module[0].weight
    planes = {"codes": q.qdata, "scales": q.scale.detach(), "zeros": q.zero_point.detach()}
    sets.file.op(at, "convert", (TORCHAO, "quantize_, QATConfig prepare, initialize_fake_quantizers, "
                                 "QATConfig convert", ""), {"x": x}, planes)
    sets.file.op(at, "dequant", (TORCHAO, "IntxUnpackedToInt8Tensor.dequantize", ""), planes,
                 {"y": q.dequantize().detach()})
    if multiply:
        a = inputs.matrix("normal", 5, x.shape[1], x.shape[1], x.dtype, sets.seed)
        matmul_op(sets, at, a, planes, module(a).detach(), TORCHAO, "forward after QATConfig convert", "")
    return set(q.qdata.unique().tolist())


def one(sets, dtype, kind, bits=4, group=32, rows=4, cols=96, multiply=False, kind_of_gradient=None):
    params = parameters(group=group if group != 32 else None, bits=bits if bits != 4 else None)
    at, x = sets.start("intx-learned", "weight", dtype, kind, params, rows, cols, group or cols)
    prepare(sets, at, x, trained(sets, x, bits, group), kind not in ("nonfinite", "huge"), kind_of_gradient)
    return convert(sets, at, x, bits, group, multiply)


def learned_file(file):
    sets = Sets(file)
    for bits in range(2, 9):
        seen = set()
        for dtype in (BF16, F32, F16) if bits in (2, 5, 8) else (BF16,):
            seen |= one(sets, dtype, f"codes-{bits}", bits)
            seen |= one(sets, dtype, "normal", bits, 0 if bits % 2 else 32, multiply=dtype == BF16)
        seen |= one(sets, BF16, f"ties-symmetric{bits}", bits)
        check_all_codes(seen, bits)
    for dtype in (BF16, F32, F16):
        for kind in COMMON if dtype == BF16 else ("small", "tiny", "huge", "zeros", "nonfinite"):
            one(sets, dtype, kind, cols=64)
        for kind in inputs.GRADIENTS:
            one(sets, dtype, "normal-0.02", rows=2, cols=64, kind_of_gradient=kind)
        one(sets, dtype, "normal", 8, 0, 3, 130, multiply=True)
        one(sets, dtype, "normal-1e-3", 4, 128, 2, 256, multiply=True)


FILES = {"intx-learned.h5": learned_file}
