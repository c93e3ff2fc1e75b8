"""The training loss, w(s) |D - x0|^2: how the level s is drawn and how it is weighted.

Keeping the weight apart from what the network outputs removes a recurring confusion: an eps-loss is w = 1/s^2, a v-loss
1 + 1/s^2, the F-loss of a preconditioned network 1/sd^2 + 1/s^2, whatever the output type.

A level is drawn as s(t) with t uniform. Some papers weigh what the network sees, whatever the draw; others weigh the
integral over lam and divide by the density of the draw, so the weight also gets `rate = |dlam/dt|`, its inverse.
"""

import math
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


def log_uniform(t: Tensor, s_min: float, s_max: Tensor) -> Tensor:
    """s with log s uniform between the ends; the importance sampling of ScoreFlow (Song et al. 2021)."""
    return s_min * (s_max / s_min) ** t


def with_rate(level: Callable[[Tensor], Tensor], t: Tensor) -> tuple[Tensor, Tensor]:
    """s = level(t) and |dlam / dt| there, both like t; the rate is 0 where the level is held at an end."""
    with torch.enable_grad():
        t = t.detach().requires_grad_()
        s = level(t)
        (rate,) = torch.autograd.grad(s.log().sum(), t)
    return s.detach(), rate.abs()


# ---------------------------------------------------------------------------------------------------------------------
# Weights

Weight = Callable[[Tensor, Tensor, Tensor], Tensor]
"""w(s, sd, rate), elementwise; sd is the spread of x0 about the network's guess, rate the |dlam/dt| of the draw."""

WEIGHT_SPREAD = 0.1
"""The F-loss counts no spread below this: the few pixels of a still place that do move would outweigh all others."""

MIN_SNR_GAMMA = 5.0
"""The truncation of Hang et al. 2023 (arXiv 2303.09556)."""

SIGMOID_BIAS = -1.0
"""The log-SNR at which the sigmoid weight bends (chosen, not tuned; its papers go lower for larger pictures)."""

WEIGHTS: dict[str, Weight] = {
    # 1 / c_out^2, the error of what an EDM-preconditioned network puts out: Karras et al. 2022, table 1.
    "f": lambda s, sd, rate: 1 / s**2 + 1 / sd.clamp(min=WEIGHT_SPREAD) ** 2,
    # DDPM's simple loss: Ho et al. 2020, equation 14.
    "eps": lambda s, sd, rate: 1 / s**2,
    # The error of v = alpha eps - sigma x0, also called SNR + 1: Salimans and Ho 2022, section 4.
    "v": lambda s, sd, rate: 1 / s**2 + 1,
    "x0": lambda s, sd, rate: torch.ones_like(s * sd),
    # Nearly clean clips count no more than gamma: Hang et al. 2023, section 3.4.
    "min_snr": lambda s, sd, rate: (1 / s**2).clamp(max=MIN_SNR_GAMMA),
    # The eps-loss, but pure noise counts too: Salimans and Ho 2022, section 4.
    "truncated_snr": lambda s, sd, rate: (1 / s**2).clamp(min=1),
    # sigmoid(bias - log-SNR) on the eps-loss, over log-SNR: Kingma and Gao 2023; Hoogeboom et al. 2024 (SiD2).
    "sigmoid": lambda s, sd, rate: rate / (s**2 + math.exp(-SIGMOID_BIAS)),
    # The diffusion part of the variational bound, in nats: Kingma et al. 2021. It is ScoreFlow's weight
    # g^2 / 2 on the error of the score, because g^2 = sigma^2 d(log s^2)/dt: Song et al. 2021, theorem 1.
    "likelihood": lambda s, sd, rate: rate / s**2,
}
WEIGHTS["vlb"] = WEIGHTS["likelihood"]  # its name in the papers on discrete chains


def wanted_mean(error: Tensor, wanted: Tensor) -> Tensor:
    """Mean [b] of `error` [b t c h w] over the wanted pixels of each clip (bool [b t 1 h w]); 0 where none is."""
    mask = wanted.expand_as(error)
    total = (error * mask).flatten(1).sum(1)
    return total / mask.flatten(1).sum(1).clamp(min=1)


# ---------------------------------------------------------------------------------------------------------------------
# Drawing t where the loss is large


class LossHistory:
    """Draws t where losses have been large, and weighs it less by as much, so that the mean loss stays the same.

    Nichol and Dhariwal 2021, section 3.4: the density of t goes with the root mean square of its last losses. They keep
    ten losses of each discrete t; this keeps, for each of `BINS` equal parts of [0, 1], a mean that forgets at the same
    pace. Until each part has had as many, t stays uniform.
    """

    BINS = 32
    MEMORY = 10
    UNIFORM = 0.001
    """The share of t drawn uniformly, so that no part is forgotten."""

    def __init__(self, device: torch.device | str = "cpu") -> None:
        self.square = torch.zeros(self.BINS, device=device)
        self.seen = torch.zeros(self.BINS, device=device)
        self.pending = torch.zeros(2, self.BINS, device=device)  # counts and sums of squares

    def density(self) -> Tensor:
        """The density of t in each part [BINS], with mean 1."""
        if bool((self.seen < self.MEMORY).any()):
            return torch.ones_like(self.square)
        p = self.square.sqrt()
        return (1 - self.UNIFORM) * p / p.mean() + self.UNIFORM

    def warp(self, u: Tensor) -> tuple[Tensor, Tensor]:
        """t [b] for uniform u [b] (stratified u stay stratified), and the weight [b] that makes up for the density."""
        density = self.density()
        ends = density.cumsum(0) / self.BINS
        part = torch.searchsorted(ends, u).clamp(max=self.BINS - 1)
        inside = (u - ends[part]) / density[part] * self.BINS + 1  # from 0 to 1 within the part
        return ((part + inside.clamp(0, 1)) / self.BINS).clamp(1e-4, 1 - 1e-4), 1 / density[part]

    def note(self, t: Tensor, losses: Tensor) -> None:
        """Count losses [b] at t [b], to be taken in by `update`."""
        part = (t * self.BINS).long().clamp(max=self.BINS - 1)
        self.pending.index_add_(1, part, torch.stack([torch.ones_like(losses), losses.detach() ** 2]))

    def update(self) -> None:
        """Take in what was counted since the last update."""
        count, total = self.pending
        self.seen += count
        pace = (count / self.seen.clamp(min=1, max=self.MEMORY)).clamp(max=1)
        self.square.lerp_(total / count.clamp(min=1), pace)
        self.drop()

    def drop(self) -> None:
        """Forget what was counted since the last update."""
        self.pending.zero_()

    def state(self) -> dict[str, Tensor]:
        """What a saved run keeps; tensors that may be written into."""
        return {"square": self.square, "seen": self.seen}
