# SPDX-License-Identifier: MIT
"""torchao's test model: three Linear without bias, 512 -> 256 -> 256 -> 512, and what becomes of it."""
import copy
import hashlib

import torch
from torchao.quantization import (
    Float8DynamicActivationInt4WeightConfig,
    Int4WeightOnlyConfig,
    Int8DynamicActivationIntxWeightConfig,
    IntxWeightOnlyConfig,
    quantize_,
)
from torchao.quantization.granularity import PerAxis, PerGroup
from torchao.quantization.qat import IntxFakeQuantizeConfig, QATConfig
from torchao.quantization.qat.fake_quantize_config import Float8FakeQuantizeConfig
from torchao.quantization.granularity import PerRow
from torchao.quantization.utils import compute_error

from store import bits
from upstream import TORCHAO, float8_cast

BF16 = torch.bfloat16


class Sub(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.linear = torch.nn.Linear(256, 256, bias=False)

    def forward(self, x):
        return self.linear(x)


class M(torch.nn.Module):
    """The layers, their order and names as in torchao's test of QAT."""

    def __init__(self):
        super().__init__()
        self.linear1 = torch.nn.Linear(512, 256, bias=False)
        self.sub = Sub()
        self.linear2 = torch.nn.Linear(256, 512, bias=False)

    def forward(self, x):
        return self.linear2(self.sub(self.linear1(x)))


def _old_weight():
    return IntxFakeQuantizeConfig(torch.int4, PerGroup(128), is_symmetric=True, eps=2.0**-7)


def _fp8_activation():
    return Float8FakeQuantizeConfig(torch.float8_e4m3fn, PerRow())


INTX = {
    "int8": IntxWeightOnlyConfig(torch.int8, PerAxis(0)),
    "int8-g32": IntxWeightOnlyConfig(torch.int8, PerGroup(32)),
    "int8-int4": Int8DynamicActivationIntxWeightConfig(torch.int4, PerGroup(32)),
}
# scheme: (QAT config, what the cast to float8 is)
PREPARED = {
    "int4": (lambda: QATConfig(Int4WeightOnlyConfig(group_size=128), step="prepare"), "torch"),
    "int4-old": (lambda: QATConfig(weight_config=_old_weight(), step="prepare"), "torch"),
    "fp8-int4": (lambda: QATConfig(Float8DynamicActivationInt4WeightConfig(), step="prepare"), "torch"),
    "fp8-int4-nocast": (lambda: QATConfig(Float8DynamicActivationInt4WeightConfig(), step="prepare"), "none"),
    "fp8-int4-old": (lambda: QATConfig(activation_config=_fp8_activation(), weight_config=_old_weight(),
                                       step="prepare"), "none"),
    **{name: (lambda c=c: QATConfig(c, step="prepare"), "torch") for name, c in INTX.items()},
}


def write_seed(file, seed, outputs):
    torch.manual_seed(seed)
    model = M().to(BF16)
    x = torch.randn(1, 512).to(BF16)
    hashes = {name: hashlib.sha256(bits(layer.weight).tobytes()).hexdigest()
              for name, layer in (("linear1", model.linear1), ("sub.linear", model.sub.linear),
                                  ("linear2", model.linear2))}
    at = f"seed-{seed:03d}"
    file.group(at, scheme="", seed=seed, library=TORCHAO, function="torch.manual_seed, Linear, randn; "
               "QATConfig prepare; quantize_", note="", **hashes)
    file.dataset(f"{at}/x", x)
    if outputs:
        file.h5[at].create_group("prepared")
        file.h5[at].create_group("converted")
    for scheme, (config, cast) in PREPARED.items() if outputs else ():
        prepared = copy.deepcopy(model)
        quantize_(prepared, config())
        with torch.no_grad(), float8_cast(cast):
            y = prepared(x)
        file.dataset(f"{at}/prepared/{scheme}", y)
        if scheme not in INTX:
            continue
        quantized = copy.deepcopy(model)
        quantize_(quantized, INTX[scheme])
        with torch.no_grad():
            z = quantized(x)
        # A dataset of its own, even when the outputs are equal: it carries an attribute.
        file.known.clear()
        d = file.dataset(f"{at}/converted/{scheme}", z)
        d.attrs["compute_error"] = float(compute_error(y, z))
        file.known.clear()


def write_model(file):
    for seed in [*range(20), 123]:
        write_seed(file, seed, seed == 123 or seed < 5)
