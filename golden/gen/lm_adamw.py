# SPDX-License-Identifier: MIT
"""Steps of torch.optim.AdamW in float32, for the trainer: lm_adamw.h5.

A set without scheme, which readers of schemes pass over:

    /SET           strings: library, function, note; float64: beta1, beta2, eps, decay
    /SET/0/p       dataset: the parameters before the first step
    /SET/T         step T = 1, 2, ...; a float64: lr
    /SET/T/g       dataset: the gradients; p, m, v: what the step made of parameters and moments
"""
import torch

import upstream  # noqa: F401  sets up the threads of torch

N = 1003  # no multiple of a vector
SETS = {
    # decay, betas, eps, size of gradients, learning rates
    "training": (0.1, (0.9, 0.95), 1e-8, 0.01, [3e-4, 6e-4, 9e-4, 3e-3, 2.7e-3, 2e-3]),
    "defaults": (0.01, (0.9, 0.999), 1e-8, 1.0, [1e-3] * 4),
    "no-decay": (0.0, (0.9, 0.95), 1e-6, 1e-6, [2e-3, 1e-3, 5e-4]),  # eps as large as the gradients
    "wide": (0.1, (0.8, 0.99), 1e-8, None, [1e-2, 1e-2, 1e-5]),  # from subnormal squares to 2^40
}


def gradients(size, generator):
    g = torch.randn(N, generator=generator)
    if size is None:
        g = g * torch.exp2(torch.randint(-70, 41, (N,), generator=generator).float())
    else:
        g = g * size
    g[::17] = 0
    return g


def fill(file):
    for number, (name, (decay, betas, eps, size, rates)) in enumerate(SETS.items()):
        generator = torch.Generator().manual_seed(number)
        p = (torch.randn(N, generator=generator) * 0.02).requires_grad_(True)
        file.group(name, scheme="", library=f"torch {torch.__version__} (CPU, {torch.backends.cpu.get_cpu_capability()})",
                   function="torch.optim.AdamW(foreach=False, fused=False).step", note="")
        for key, value in {"beta1": betas[0], "beta2": betas[1], "eps": eps, "decay": decay}.items():
            file.h5[name].attrs[key] = value
        file.h5.create_group(f"{name}/0")
        file.dataset(f"{name}/0/p", p)
        optimizer = torch.optim.AdamW([p], betas=betas, eps=eps, weight_decay=decay, foreach=False, fused=False)
        for t, lr in enumerate(rates, 1):
            file.h5.create_group(f"{name}/{t}").attrs["lr"] = lr
            p.grad = gradients(size, generator)
            file.dataset(f"{name}/{t}/g", p.grad)
            optimizer.param_groups[0]["lr"] = lr
            optimizer.step()
            state = optimizer.state[p]
            for key, value in {"p": p, "m": state["exp_avg"], "v": state["exp_avg_sq"]}.items():
                file.dataset(f"{name}/{t}/{key}", value)


FILES = {"lm_adamw.h5": fill}
