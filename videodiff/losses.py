"""The training loss, w(s) |D - x0|^2: how the level s is drawn and how it is weighted.

Keeping the weight apart from what the network outputs removes a recurring confusion: an eps-loss is w = 1/s^2, a v-loss
1 + 1/s^2, the F-loss of a preconditioned network 1/sd^2 + 1/s^2, whatever the output type.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from videodiff.noise import SCHEDULES


def draw_t(generator: torch.Generator, b: int, stratified: bool) -> Tensor:
    """t [b] in (0, 1): independent, or one from each of b equal strata in random order (lower variance)."""
    u = torch.rand(b, generator=generator, device=generator.device)
    if stratified:
        order = torch.randperm(b, generator=generator, device=generator.device)
        u = (order + u) / b
    return u.clamp(1e-4, 1 - 1e-4)


def lognormal(t: Tensor, mean: float, std: float) -> Tensor:
    """s with log s normal (Karras et al. 2022, table 1), by the inverse distribution function of t."""
    return (mean + std * torch.special.ndtri(t.double())).exp().float()


def scheduled(t: Tensor, name: str) -> Tensor:
    """s = exp(-lam(t)) of a named noise schedule with t uniform."""
    return SCHEDULES[name]().s(t.double()).float()


Weight = Callable[[Tensor, Tensor], Tensor]
"""w(s, sd), elementwise; sd is the spread of x0 about the network's guess."""

WEIGHT_SPREAD = 0.1
"""The F-loss counts no spread below this: the few pixels of a still place that do move would outweigh all others."""

MIN_SNR_GAMMA = 5.0
"""The truncation of Hang et al. 2023 (arXiv 2303.09556)."""

WEIGHTS: dict[str, Weight] = {
    "f": lambda s, sd: 1 / s**2 + 1 / sd.clamp(min=WEIGHT_SPREAD) ** 2,  # 1 / c_out^2: the F-loss of EDM
    "eps": lambda s, sd: 1 / s**2,
    "v": lambda s, sd: 1 / s**2 + 1,
    "x0": lambda s, sd: torch.ones_like(s * sd),
    "min_snr": lambda s, sd: (1 / s**2).clamp(max=MIN_SNR_GAMMA),
}


def wanted_mean(error: Tensor, wanted: Tensor) -> Tensor:
    """Mean of `error` [b t c h w] over the wanted pixels of each clip (bool [b t 1 h w]), then over clips."""
    mask = wanted.expand_as(error)
    total = (error * mask).flatten(1).sum(1)
    return (total / mask.flatten(1).sum(1).clamp(min=1)).mean()
