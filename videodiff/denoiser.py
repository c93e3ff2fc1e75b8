"""From a network to `x0 = denoise(z, s)`: the only place that knows alpha, the network's output, and its idea of time.

    D = base + c_skip (z - base) + c_out F(c_in (z - base), c_noise(s))

Every output type is a row of (c_skip, c_out, c_in) in `OUTPUTS` (Karras et al. 2022, equation 7, for all of them); the
time a network wants to be told is a function of s. Call `denoiser(network, "v", time)`, then put on what is needed:
`clamped`, `counted`, `cancellable`, and the wrappers of `conditioning.py`; all have the signature they wrap.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from videodiff.noise import FAMILIES, Schedule, pick, spread
from videodiff.types import Denoise

Network = Callable[[Tensor, Tensor], Tensor]
"""`F = network(x, time)`: x = c_in z [b t c h w], time like s ([b] or [b t]), F like x (or 2c channels)."""


class Coefficients(NamedTuple):
    """D = c_skip z + c_out F(c_in z)."""

    c_skip: Tensor
    c_out: Tensor
    c_in: Tensor


def _eps(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    return Coefficients(torch.ones_like(s), -s, alpha)  # eps = (z - D) / s


def _x0(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    return Coefficients(torch.zeros_like(s), torch.ones_like(s), alpha)


def _v(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    # v = alpha eps - sigma x0 (Salimans and Ho 2022), solved for x0; any alpha, not only the variance-preserving one.
    return Coefficients(1 / (1 + s * s), -s / (alpha * (1 + s * s)), alpha)


def _score(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    return Coefficients(torch.ones_like(s), s * s * alpha, alpha)  # score of x = alpha z: -eps / sigma


def _edm(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    total = s * s + sd * sd  # Karras et al. 2022, table 1, with sd the spread of the data
    return Coefficients(sd * sd / total, s * sd / total.sqrt(), 1 / total.sqrt())


def _flow(s: Tensor, alpha: Tensor, sd: Tensor | float) -> Coefficients:
    return Coefficients(1 / (1 + s), -s / (1 + s), 1 / (1 + s))  # F = n - x0 at x = (1 - t) x0 + t n, t = s / (1 + s)


OUTPUTS: dict[str, Callable[[Tensor, Tensor, Tensor | float], Coefficients]] = {
    "eps": _eps,
    "x0": _x0,
    "v": _v,
    "score": _score,
    "edm": _edm,
    "flow": _flow,
}


def coefficients(output: str, s: Tensor, family: str = "vp", sd: Tensor | float = 0.5) -> Coefficients:
    """(c_skip, c_out, c_in) of an output type at levels s, each shaped like s; `sd` matters to "edm" only."""
    return OUTPUTS[pick("output", output, OUTPUTS)](s, FAMILIES[pick("noise family", family, FAMILIES)](s), sd)


def denoiser(
    network: Network,
    output: str,
    time: Callable[[Tensor], Tensor],
    *,
    family: str = "vp",
    sd: Tensor | float = 0.5,
    base: Tensor | float = 0.0,
    learned_variance: "LearnedVariance | None" = None,
) -> Denoise:
    """The network as a denoiser in the (z, s) frame.

    output:  what the network predicts, a name of `OUTPUTS`; "edm", "score" and "flow" fix or imply their alpha.
    time:    what the network is told instead of s: `edm_time`, `flow_time`, `table_time(...)`, `schedule.t` of -log s.
    family:  the alpha of `noise.FAMILIES` it was trained with.
    sd, base: spread and centre of the data given what is known; numbers, or tensors that broadcast to z.
    learned_variance: where to leave the second half of a network with 2c output channels; None for one with c.
    """
    pick("output", output, OUTPUTS)

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        c_skip, c_out, c_in = coefficients(output, spread(s, z), family, sd)
        centred = z - base
        answer = network(c_in * centred, time(s))
        if learned_variance is not None:
            answer, learned_variance.channels = split_variance(answer)
        return base + c_skip * centred + c_out * answer.to(z.dtype)  # "precision" ends here: z and D stay in z's type

    return denoise


def split_variance(answer: Tensor) -> tuple[Tensor, Tensor]:
    """(prediction, variance channels) of a network that learned both; the channel axis is third from the end."""
    prediction, variance = answer.chunk(2, dim=-3)
    return prediction, variance


@dataclass
class LearnedVariance:
    """The variance channels of a denoiser's latest answer, for a sampler that uses them.

    Give it to `denoiser`, and to `sample` as `fraction`. Samplers that follow the flow never look at it. Under guidance
    give it to the conditional denoiser alone.
    """

    channels: Tensor | None = None

    def __call__(self) -> Tensor:
        """u: 0 is the smallest variance, 1 the largest, the network's -1 and 1 (Nichol and Dhariwal 2021, eq. 15)."""
        assert self.channels is not None, "no evaluation yet"
        return (self.channels + 1) / 2


# ---------------------------------------------------------------------------------------------------------------------
# What networks are told instead of s. Level 0, a clean frame, has a finite time in each.


def edm_time(s: Tensor, s_min: float = 0.002) -> Tensor:
    """log(s) / 4 (Karras et al. 2022, table 1); levels below s_min, a clean frame's 0 among them, count as s_min."""
    return s.clamp(min=s_min).log() / 4


def flow_time(s: Tensor) -> Tensor:
    """t = s / (1 + s), 0 clean."""
    return s / (1 + s)


def table_time(table: Schedule, num_steps: int, rounded: bool = False) -> Callable[[Tensor], Tensor]:
    """s -> index 0 ... num_steps - 1 into the table a discrete network was trained on (`noise.table`).

    The index is fractional, which such networks accept; `rounded` gives the nearest whole one, for those that look up.
    """

    def time(s: Tensor) -> Tensor:
        index = table.t(-s.double().log()) * num_steps - 1  # float64: a rounded index must not depend on rounding noise
        index = index.clamp(0, num_steps - 1)
        return (index.round() if rounded else index).to(s.dtype)

    return time


# ---------------------------------------------------------------------------------------------------------------------
# Wrappers


class Cancelled(Exception):
    """Raised by `cancellable` at the first evaluation after the request."""


def scaled(denoise: Denoise, unit: Tensor) -> Denoise:
    """The denoiser in units of `unit` [b] or [b t]: D(z unit, s unit) / unit.

    dz/ds = (z - D) / s does not change when z and s are scaled together, so one walk of numbers serves clips, and
    frames of one clip, whose levels differ: each is at its own unit times the walk's level.
    """

    def scaling(z: Tensor, s: Tensor) -> Tensor:
        level = spread(s, unit) * unit if s.ndim < unit.ndim else s * spread(unit, s)
        scale = spread(unit, z)
        return denoise(z * scale, level) / scale

    return scaling


def clamped(denoise: Denoise, low: float = -1.0, high: float = 1.0) -> Denoise:
    """The denoiser with x0 kept in [low, high]; samplers form eps from the clamped x0, as they must."""
    return lambda z, s: denoise(z, s).clamp(low, high)


def counted(denoise: Denoise, report: Callable[[int], None]) -> Denoise:
    """The denoiser, calling report(evaluations so far) after each, also between the two of one step."""
    n = 0

    def counting(z: Tensor, s: Tensor) -> Tensor:
        nonlocal n
        x0 = denoise(z, s)
        n += 1
        report(n)
        return x0

    return counting


def cancellable(denoise: Denoise, cancelled: Callable[[], bool]) -> Denoise:
    """The denoiser, raising `Cancelled` instead of starting an evaluation once cancelled() is true."""

    def checking(z: Tensor, s: Tensor) -> Tensor:
        if cancelled():
            raise Cancelled
        return denoise(z, s)

    return checking
