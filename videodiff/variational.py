"""The variational bound: how many nats a diffusion model needs to write a clip down, in the three parts they come in.

    -log p(x0) <= prior + reconstruction + diffusion

`prior` is what it costs that noising ends at a finite level, `reconstruction` what it costs to get from the cleanest
level to the data, `diffusion` all that lies between. All are in nats per dimension of a clip. Two chains:

    bound(denoise, x0, s_min, s_max, noise)           continuous time (Kingma et al. 2021)
    chain_bound(predict, x0, chain(levels), noise)    T steps (Ho et al. 2020, equation 5), variances fixed or learned

The diffusion part of the first is the integral of |x0 - D|^2 / s^2 over lam between the end levels, so it depends on
them alone and on no schedule; a schedule only says where the integral is sampled. ScoreFlow's likelihood weighting
(Song et al. 2021, "Maximum likelihood training of score-based diffusion models") is this integral in t.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from videodiff.noise import NoiseSource, Schedule, alpha, fixed_variances, spread
from videodiff.types import Denoise

PIXELS = torch.linspace(-1, 1, 256, dtype=torch.float64)
"""The values a pixel of an 8-bit clip can have, in [-1, 1]."""


@dataclass(frozen=True)
class Terms:
    """A bound on -log p, in nats per dimension, for each clip [b]; `error` is the standard error of the total."""

    prior: Tensor
    reconstruction: Tensor
    diffusion: Tensor
    error: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself [b]."""
        return self.prior + self.reconstruction + self.diffusion

    @property
    def bits(self) -> Tensor:
        """The bound in bits per dimension [b]."""
        return self.total / math.log(2)


def bound(
    denoise: Denoise,
    x0: Tensor,
    s_min: float,
    s_max: float,
    noise: NoiseSource,
    *,
    evaluations: int = 64,
    schedule: Schedule | None = None,
    values: Tensor | None = None,
    mean: Tensor | float = 0.0,
    sd: float = 1.0,
    wanted: Tensor | None = None,
) -> Terms:
    """The continuous-time bound of each clip of x0 [b ...], by Monte Carlo with `evaluations` calls of the denoiser.

    schedule:  levels are uniform in its time, one in each of `evaluations` equal strata; uniform in lam if not given.
               The expected bound does not depend on it, its error does.
    values:    the values x0 can have (`PIXELS` for 8-bit clips): the reconstruction is then a probability. Without
               them x0 is continuous and the reconstruction a density.
    mean, sd:  what sampling starts from, N(mean, s_max^2 + sd^2) in z. Of a VP model started from N(0, 1), 0 and 1.
    wanted:    bool, broadcasts to x0: dimensions that count; the others are given and cost nothing.
    """
    assert 0 < s_min < s_max < math.inf, (s_min, s_max)
    assert evaluations >= 2, evaluations
    shape = x0.shape[1:]
    per_clip = _per_clip(x0, wanted)
    uniform = torch.special.ndtr(noise.draw((evaluations,), kind="level").double())
    t = ((torch.arange(evaluations) + uniform) / evaluations).to(x0.device)  # [b n]
    lam, rate = _levels(t, -math.log(s_max), -math.log(s_min), schedule)

    parts = []
    for i in range(evaluations):
        s = torch.exp(-lam[:, i]).to(x0)
        z = x0 + spread(s, x0) * noise.draw(shape, evaluation=i, kind="bound").to(x0)
        parts.append(rate[:, i] * per_clip(((x0 - denoise(z, s)) / spread(s, x0)) ** 2))
    diffusion = torch.stack(parts, 1)  # [b n], each an estimate of the whole integral

    square = _square_error(diffusion)
    if values is None:  # the expectation of -log N(x0; z, s_min^2)
        reconstruction = torch.full_like(square, 0.5 * math.log(2 * math.pi * math.e * s_min**2))
    else:
        z = x0 + s_min * noise.draw(shape, kind="reconstruction").to(x0)
        nll = discrete_nll(x0, z, s_min, values)
        reconstruction = per_clip(nll)
        pixels = x0[0].numel() if wanted is None else wanted.expand_as(x0).flatten(1).sum(1)
        square = square + (per_clip(nll**2) - reconstruction**2) / pixels
    return Terms(per_clip(prior_kl(x0, s_max, mean, sd)), reconstruction, diffusion.mean(1), square.sqrt())


class Chain(NamedTuple):
    """A chain of T steps: step i leads from `s[i]` down to `r[i]`, step 0 to the data; [T] each, in float64.

    small, large: the two fixed variances of each step in z (`noise.fixed_variances`). The small one of the step to the
    data would be 0; Nichol and Dhariwal 2021 give it that of the step before, as a variance of x.
    """

    s: Tensor
    r: Tensor
    small: Tensor
    large: Tensor


def chain(levels: Sequence[float], family: str = "vp") -> Chain:
    """The chain through these rising levels, for networks of that `noise.FAMILIES`."""
    s = [float(level) for level in levels]
    assert len(s) >= 3, s
    small, large = zip(*(fixed_variances(*step, family) for step in zip(s, [0.0, *s], strict=False)), strict=True)
    first = small[1] * float(alpha(torch.tensor(s[0], dtype=torch.float64), family)) ** 2
    rows = (s, [0.0, *s[:-1]], [first, *small[1:]], large)
    return Chain(*(torch.tensor(row, dtype=torch.float64) for row in rows))


def chain_bound(
    predict: Callable[[Tensor, Tensor], tuple[Tensor, Tensor | float]],
    x0: Tensor,
    steps: Chain,
    noise: NoiseSource,
    values: Tensor | None = None,
) -> Terms:
    """The bound of a chain, each of its T terms estimated once; its last step is the reconstruction.

    predict: `(D, u) = predict(z, s)`; u in [0, 1] (a number, or like D) places the variance of the step between the
             small (0) and the large one (1).
    """
    per_clip = _per_clip(x0, None)
    parts = []
    for i, s in enumerate(steps.s.tolist()):
        z = x0 + s * noise.draw(x0.shape[1:], evaluation=i, kind="bound").to(x0)
        d, u = predict(z, torch.full((len(x0),), s, dtype=x0.dtype, device=x0.device))
        parts.append(per_clip(chain_nll(x0, d, u, torch.full((len(x0),), i), steps, values)))
    diffusion = torch.stack(parts[1:], 1)
    error = diffusion.shape[1] * _square_error(diffusion).sqrt()
    return Terms(per_clip(prior_kl(x0, float(steps.s[-1]))), parts[0], diffusion.sum(1), error)


def chain_nll(
    x0: Tensor, d: Tensor, u: Tensor | float, i: Tensor, steps: Chain, values: Tensor | None = None
) -> Tensor:
    """The term of step i [b] of a chain, nats like x0, where the network at `steps.s[i]` answers d and u."""
    s, r, small, large = (spread(row[i.cpu()], x0).to(x0) for row in steps)
    variance = small ** (1 - u) * large**u
    last = r == 0
    kl = step_kl(x0, d, s, torch.where(last, s / 2, r), variance)
    return torch.where(last, gaussian_nll(x0, d, variance, values), kl)


def hybrid(
    x0: Tensor,
    d: Tensor,
    u: Tensor,
    i: Tensor,
    steps: Chain,
    values: Tensor | None = None,
    vlb_weight: float = 1e-3,
) -> Tensor:
    """Nichol and Dhariwal 2021, equation 16, like x0: |eps error|^2 + vlb_weight T (bound's term, mean detached).

    The mean learns from the first part alone and the variance from the second, so neither disturbs the other.
    """
    simple = ((x0 - d) / spread(steps.s[i.cpu()], x0).to(x0)) ** 2
    return simple + vlb_weight * len(steps.s) * chain_nll(x0, d.detach(), u, i, steps, values)


# ---------------------------------------------------------------------------------------------------------------------
# The terms, in nats, elementwise


def prior_kl(x0: Tensor, s_max: float, mean: Tensor | float = 0.0, sd: float = 1.0) -> Tensor:
    """KL(N(x0, s_max^2) | N(mean, s_max^2 + sd^2)): the noised data against what sampling starts from."""
    wide = s_max**2 + sd**2
    return 0.5 * (((x0 - mean) ** 2 - sd**2) / wide + math.log1p((sd / s_max) ** 2))


def step_kl(x0: Tensor, d: Tensor, s: Tensor | float, r: Tensor | float, variance: Tensor | float) -> Tensor:
    """KL(q(z_r | z_s, x0) | N(mean with d for x0, variance)) for a step from level s down to r > 0.

    With the small variance it is (1/r^2 - 1/s^2) |x0 - d|^2 / 2.
    """
    small = r**2 * (1 - (r / s) ** 2)
    ratio = small / torch.as_tensor(variance, dtype=x0.dtype, device=x0.device)
    shift = (1 - (r / s) ** 2) * (x0 - d)
    return 0.5 * (ratio - 1 - ratio.log() + ratio * shift**2 / small)


def gaussian_nll(x0: Tensor, mean: Tensor, variance: Tensor | float, values: Tensor | None = None) -> Tensor:
    """-log N(x0; mean, variance), or its probability in the bin of x0 where x0 can have only these rising values.

    Bins are bounded half way between neighbours and open at both ends (Ho et al. 2020, equation 13).
    """
    sd = torch.as_tensor(variance, dtype=x0.dtype, device=x0.device).sqrt()
    if values is None:
        return 0.5 * ((x0 - mean) / sd) ** 2 + sd.log() + 0.5 * math.log(2 * math.pi)
    half = float(values[1] - values[0]) / 2
    upper = ((x0 + half - mean) / sd).masked_fill(x0 >= values[-1] - half, math.inf)
    lower = ((x0 - half - mean) / sd).masked_fill(x0 <= values[0] + half, -math.inf)
    # Phi(upper) - Phi(lower), mirrored to the side where both are small, so that no digits are lost in a tail.
    right = upper + lower > 0
    upper, lower = torch.where(right, -lower, upper), torch.where(right, -upper, lower)
    high, low = torch.special.log_ndtr(upper), torch.special.log_ndtr(lower)
    return -(high + torch.log1p(-torch.exp(low - high)))


def discrete_nll(x0: Tensor, z: Tensor, s: float, values: Tensor) -> Tensor:
    """-log p(x0 | z) with p proportional to N(z; x0, s^2) over the values x0 can have (Kingma et al. 2021)."""
    values = values.to(x0)
    total = [torch.logsumexp(-0.5 * ((part[..., None] - values) / s) ** 2, -1) for part in z.unbind(1)]
    return torch.stack(total, 1) + 0.5 * ((z - x0) / s) ** 2


# ---------------------------------------------------------------------------------------------------------------------


def _levels(u: Tensor, low: float, high: float, schedule: Schedule | None) -> tuple[Tensor, Tensor]:
    """lam at u in [0, 1], uniform in the schedule's time between two lams, and |dlam / du|."""
    if schedule is None:
        return low + u * (high - low), torch.full_like(u, high - low)
    ends = schedule.t(torch.tensor([low, high], dtype=torch.float64))
    t = (ends[0] + u * (ends[1] - ends[0])).requires_grad_()
    with torch.enable_grad():
        lam = schedule.lam_of_t(t)
        (slope,) = torch.autograd.grad(lam.sum(), t)
    return lam.detach(), (slope * (ends[1] - ends[0])).detach()


def _per_clip(x0: Tensor, wanted: Tensor | None) -> Callable[[Tensor], Tensor]:
    """A mean over the wanted dimensions of each clip [b], in float64."""
    mask = torch.ones_like(x0, dtype=torch.bool) if wanted is None else wanted.expand_as(x0)
    count = mask.flatten(1).sum(1)
    assert (count > 0).all(), "no dimension is wanted"
    return lambda x: x.double().masked_fill(~mask, 0.0).flatten(1).sum(1) / count


def _square_error(x: Tensor) -> Tensor:
    """The square [b] of the standard error of the mean of x [b n], one draw from each of n strata in order.

    Strata differ in their means, so the plain estimate would be far too large; neighbours hardly differ. This is the
    successive difference estimator of systematic sampling (Wolter 1984), a little on the safe side.
    """
    n = x.shape[1]
    return x.diff(dim=1).square().sum(1) / (2 * n * (n - 1))
