# SPDX-License-Identifier: MIT
"""What transformers makes of a mixture of experts, on a CPU: its functions with an identity in the place of the first
matrix and of the activation, so that the second one is all that is left."""
import upstream  # first: it sets up the threads of torch
from upstream import TRANSFORMERS

import types

import numpy as np
import torch
from transformers.integrations.moe import grouped_mm_experts_forward
from transformers.models.mixtral.modeling_mixtral import MixtralExperts

from store import WORDS
from torchao_goldens import parameters

BF16, F16, F32 = torch.bfloat16, torch.float16, torch.float32
K, N, E = 32, 32, 6  # upstream's y has the width of x


def grouped(x, w, ids, weights):
    identity = torch.eye(K, dtype=x.dtype).expand(E, K, K).contiguous()
    module = types.SimpleNamespace(num_experts=E, has_gate=False, has_bias=False, is_transposed=False, up_proj=identity,
                                   down_proj=w, act_fn=lambda x: x, has_post_expert_norm=False,
                                   _is_expert_parallel=bool((ids == E).any()))
    return grouped_mm_experts_forward(module, x, ids, weights)


def eager(x, w, ids, weights):
    """The gate's half is zeros, of which the activation makes ones."""
    identity = torch.cat([torch.zeros(K, K), torch.eye(K)]).to(x.dtype).expand(E, 2 * K, K).contiguous()
    module = types.SimpleNamespace(num_experts=E, gate_up_proj=identity, down_proj=w, act_fn=torch.exp,
                                   config=types.SimpleNamespace(_experts_implementation="eager"))
    return MixtralExperts.forward(module, x, ids, weights)


WAYS = {"grouped": (grouped, "integrations/moe.py grouped_mm_experts_forward"),
        "eager": (eager, "models/mixtral/modeling_mixtral.py MixtralExperts.forward")}


def route(r, tokens, picks, kind):
    """Distinct experts per token. one: all tokens to one expert, the others stay empty; none: some picks are nobody's."""
    ids = np.stack([r.permutation(E)[:picks] for _ in range(tokens)])
    if kind == "one":
        ids[:] = np.arange(picks) + 2
    if kind == "none":
        ids[::2, 0] = E
    return torch.from_numpy(ids)


def draw(r, shape, size, few):
    return torch.from_numpy(r.integers(-3, 4, shape) / few if few else r.standard_normal(shape) * size)


def record(file, way, dtype, other, tokens, picks, routing, few, seed):
    r = np.random.default_rng([seed, tokens, picks])
    words = {BF16: "bf16", F16: "f16", F32: "f32"}
    x, w = draw(r, (tokens, K), 1, few and 2).to(dtype), draw(r, (E, N, K), 0.1, few and 8).to(dtype)
    g = draw(r, (tokens, N), 1e-2, few and 4).to(dtype)
    weights = (torch.from_numpy(r.integers(1, 5, (tokens, picks)) / 8) if few else
               torch.softmax(torch.from_numpy(r.standard_normal((tokens, picks))), 1)).to(other)
    ids = route(r, tokens, picks, routing)
    if routing == "none":
        weights[ids == E] = 0
    params = parameters(combine="eager" if way == "eager" else None,
                        weights_dtype=words[other] if other != dtype else None)
    at = f"experts.{words[dtype]}.{'few' if few else 'normal'}.{routing}.{tokens}x{picks}.{params.replace(' ', '.')}.{seed}"
    file.group(at, scheme="experts", operand="layer", dtype=WORDS[dtype], params=params, seed=seed)
    function, name = WAYS[way]
    x.requires_grad_()
    y = function(x, w, ids, weights)
    (dx,) = torch.autograd.grad(y, x, g)
    ins = {"x": x, "w": w, "ids": ids.int(), "weights": weights}
    note = "identities in the place of the first matrix and the activation"
    file.op(at, "forward", (TRANSFORMERS, name, note), ins, {"y": y})
    file.op(at, "backward", (TRANSFORMERS, "autograd through " + name, note), {**ins, "g": g}, {"dx": dx})


def experts_file(file):
    seed = 0
    for way in WAYS:
        for dtype in (BF16, F16, F32):
            for other in {dtype: 0, F32: 0}:
                for tokens, picks, routing in ((7, 2, "all"), (5, 3, "all"), (1, 1, "all"), (6, 2, "one"), (6, 2, "none")):
                    for few in (False, True):
                        seed += 1
                        record(file, way, dtype, other, tokens, picks, routing, few, seed)


FILES = {"experts.h5": experts_file}
