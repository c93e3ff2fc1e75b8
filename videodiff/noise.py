"""How noise is measured, scheduled and drawn.

A level is `s = sigma / alpha`; `lam = log(alpha / sigma) = -log s` is its logarithm (half the log signal-to-noise
ratio). A schedule says which level belongs to which time t in [0, 1], 0 = clean. Three things use it: training (which
levels are seen), level walks that are uniform in t, and networks that want to be told t. Samplers never see one.

Call `SCHEDULES["cosine"]()` for a schedule, `table(betas)` for the one a discrete checkpoint was trained with,
`BETAS["cosine"](1000)` for such betas (`monotone.py` has a schedule that is learned), and
`NoiseSource(seeds).draw(...)` for noise that is the same for a clip alone, in a batch, and on any device.
"""

import difflib
import hashlib
import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videodiff.errors import UserError

# ---------------------------------------------------------------------------------------------------------------------
# Levels. z = x / alpha = x0 + s n, and only these two functions know which alpha a network was trained with.

FAMILIES: dict[str, Callable[[Tensor], Tensor]] = {
    "vp": lambda s: (1 + s * s).rsqrt(),  # alpha^2 + sigma^2 = 1
    "subvp": lambda s: 2 / (s + (s * s + 4).sqrt()),  # sigma = 1 - alpha^2; Song et al. 2021 (Score-SDE), equation 29
    "ve": torch.ones_like,  # alpha = 1; EDM
    "flow": lambda s: 1 / (1 + s),  # alpha = 1 - t, sigma = t
}


def alpha(s: Tensor, family: str = "vp") -> Tensor:
    """The factor of the clean clip at level s, for a family of `FAMILIES`."""
    return FAMILIES[family](s)


def sigma(s: Tensor, family: str = "vp") -> Tensor:
    """The factor of the noise at level s."""
    return s * FAMILIES[family](s)


class Posterior(NamedTuple):
    """q(x_r | x_s, x0) = N(coef_x0 x0 + coef_x x_s, variance), in the network's own x = alpha z."""

    coef_x0: Tensor
    coef_x: Tensor
    variance: Tensor


def posterior(s: Tensor, r: Tensor, family: str = "vp") -> Posterior:
    """The step back from level s to a lower r, given the clean clip (Ho et al. 2020, equation 7)."""
    kept = (r / s) ** 2
    ar = alpha(r, family)
    return Posterior(ar * (1 - kept), ar / alpha(s, family) * kept, (ar * r) ** 2 * (1 - kept))


def fixed_variances(s: float, r: float, family: str = "vp") -> tuple[float, float]:
    """DDPM's two choices for the variance of the step from s down to r, in z: the posterior's, and the forward one's.

    Ho et al. 2020, section 3.2: of x they are beta~ and beta.
    """
    a_s, a_r = (float(alpha(torch.tensor(level, dtype=torch.float64), family)) for level in (s, r))
    return r**2 * (1 - (r / s) ** 2), (a_s / a_r) ** 2 * (s**2 - r**2)


def step_variance(s: float, r: float, u: Tensor | float, family: str = "vp") -> Any:
    """exp(u log large + (1 - u) log small), like u: a variance between the two of `fixed_variances`, which are 1 and 0.

    Nichol and Dhariwal 2021, equation 15.
    """
    small, large = fixed_variances(s, r, family)
    return small ** (1 - u) * large**u


def spread(s: Tensor, like: Tensor) -> Tensor:
    """Levels [b] or [b t] with trailing axes of one, so that they multiply `like` [b t ...]."""
    return s.reshape(s.shape + (1,) * (like.ndim - s.ndim))


def norms(x: Tensor) -> Tensor:
    """The norm of each clip of x [b ...], as [b].

    One clip at a time: a sum over a whole batch may be taken in another order than that over one clip alone.
    """
    return torch.stack([clip.norm() for clip in x])


def pick(what: str, name: str, options: Iterable[str], see: str = "") -> str:
    """`name` if it is one of the options, else an error that suggests the nearest and says where to see them."""
    names = list(options)
    if name in names:
        return name
    near = difflib.get_close_matches(name, names, n=1)
    hint = f"did you mean '{near[0]}'? " if near else ""
    raise UserError(f"no {what} '{name}'; {hint}{see or 'possible: ' + ', '.join(names)}")


# ---------------------------------------------------------------------------------------------------------------------
# Schedules


@dataclass(frozen=True)
class Schedule:
    """A map between time t in [0, 1] (0 clean, 1 noise) and lam, falling in t, with its inverse.

    `lam_min` cuts the noisy end and `lam_max` the clean one, where a closed form runs to infinity; they bound what
    `lam(t)` returns. The inverse is not cut: a sampler may stand at any level.
    """

    name: str
    lam_of_t: Callable[[Tensor], Tensor]
    t_of_lam: Callable[[Tensor], Tensor]
    family: str = "vp"
    lam_min: float = -10.0  # s = 2.2e4; the range of Kingma et al. 2021 and Saharia et al. 2022 (log-SNR in [-20, 20])
    lam_max: float = 10.0

    def lam(self, t: Tensor) -> Tensor:
        """log(alpha / sigma) at times t in [0, 1], any shape."""
        return self.lam_of_t(t).clamp(self.lam_min, self.lam_max)

    def t(self, lam: Tensor) -> Tensor:
        """The time at which the schedule has this lam."""
        return self.t_of_lam(lam)

    def s(self, t: Tensor) -> Tensor:
        """The level sigma / alpha at times t."""
        return torch.exp(-self.lam(t))


def linear(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """DDPM's linear betas in continuous time: log alpha^2 = -(beta_min t + (beta_max - beta_min) t^2 / 2).

    Song et al. 2021 (Score-SDE), equation 33, their VP SDE; the defaults are 1000 times DDPM's 1e-4 and 0.02.
    """
    area, t_of_area = _noise_so_far(beta_min, beta_max)

    def lam(t: Tensor) -> Tensor:
        return -0.5 * torch.log(torch.expm1(area(t)))  # s^2 = 1 / alpha^2 - 1

    def t_of(lam: Tensor) -> Tensor:
        return t_of_area(torch.logaddexp(torch.zeros_like(lam), -2 * lam))  # -log alpha^2 = log(1 + s^2)

    return Schedule("linear", lam, t_of)


def subvp(beta_min: float = 0.1, beta_max: float = 20.0) -> Schedule:
    """The alpha of `linear` with less noise, sigma = 1 - alpha^2. Song et al. 2021 (Score-SDE), equation 29."""
    area, t_of_area = _noise_so_far(beta_min, beta_max)

    def lam(t: Tensor) -> Tensor:
        return -0.5 * area(t) - torch.log(-torch.expm1(-area(t)))

    def t_of(lam: Tensor) -> Tensor:
        return t_of_area(2 * torch.asinh(torch.exp(-lam) / 2))  # s = 1 / alpha - alpha = 2 sinh(-log alpha)

    return Schedule("subvp", lam, t_of, family="subvp")


def _noise_so_far(beta_min: float, beta_max: float) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
    """-log alpha^2, the integral of a beta that rises linearly, as a function of t; and its inverse."""
    slope = beta_max - beta_min

    def t_of(area: Tensor) -> Tensor:
        return 2 * area / (beta_min + torch.sqrt(beta_min**2 + 2 * slope * area))  # the root that keeps its digits

    return lambda t: beta_min * t + slope * t * t / 2, t_of


def ve(s_min: float = 0.01, s_max: float = 50.0) -> Schedule:
    """Equal ratios: s = s_min (s_max / s_min)^t. Song and Ermon 2019; Song et al. 2021 (Score-SDE), appendix C."""
    first, length = math.log(s_min), math.log(s_max / s_min)
    return Schedule("ve", lambda t: -first - length * t, lambda lam: (-lam - first) / length, family="ve")


def cosine() -> Schedule:
    """alpha = cos(pi t / 2): lam = -log tan(pi t / 2). Nichol and Dhariwal 2021 without their offset."""

    def lam(t: Tensor) -> Tensor:
        return -torch.log(torch.tan(math.pi * t / 2))

    def t_of(lam: Tensor) -> Tensor:
        return 2 / math.pi * torch.atan(torch.exp(-lam))

    return Schedule("cosine", lam, t_of)


def shifted_cosine(side: int = 64, base: int = 64) -> Schedule:
    """The cosine schedule moved by log(base / side), because larger frames average more noise away.

    Hoogeboom et al. 2023 (simple diffusion), equation 4. `side` is the side of the frames in pixels.
    """
    shift = math.log(base / side)
    plain = cosine()

    def lam(t: Tensor) -> Tensor:
        return plain.lam_of_t(t) + shift

    def t_of(lam: Tensor) -> Tensor:
        return plain.t_of_lam(lam - shift)

    return Schedule("shifted_cosine", lam, t_of)


def sigmoid(start: float = -3.0, end: float = 3.0, tau: float = 1.0) -> Schedule:
    """alpha^2 falls like a sigmoid between start / tau and end / tau. Jabri et al. 2022; Chen 2023, algorithm 1."""
    low, high = 1 / (1 + math.exp(-start / tau)), 1 / (1 + math.exp(-end / tau))

    def lam(t: Tensor) -> Tensor:
        alpha2 = (high - torch.sigmoid((t * (end - start) + start) / tau)) / (high - low)
        return 0.5 * torch.log(alpha2 / (1 - alpha2))

    def t_of(lam: Tensor) -> Tensor:
        return (tau * torch.logit(high - torch.sigmoid(2 * lam) * (high - low)) - start) / (end - start)

    return Schedule("sigmoid", lam, t_of)


def edm(s_min: float = 0.002, s_max: float = 80.0, rho: float = 7.0) -> Schedule:
    """Karras et al. 2022, equation 5, with t from the clean end: s = (s_min^(1/rho) (1 - t) + s_max^(1/rho) t)^rho."""
    low, high = s_min ** (1 / rho), s_max ** (1 / rho)

    def lam(t: Tensor) -> Tensor:
        return -rho * torch.log(low + t * (high - low))

    def t_of(lam: Tensor) -> Tensor:
        return (torch.exp(-lam / rho) - low) / (high - low)

    return Schedule("edm", lam, t_of, family="ve")


def flow() -> Schedule:
    """Straight paths, alpha = 1 - t and sigma = t: lam = log((1 - t) / t). Lipman et al. 2023; Liu et al. 2023."""

    def lam(t: Tensor) -> Tensor:
        return torch.log1p(-t) - torch.log(t)

    return Schedule("flow", lam, lambda lam: torch.sigmoid(-lam), family="flow")


def table(betas: Sequence[float] | Tensor | None = None, *, alphas_cumprod: Tensor | None = None) -> Schedule:
    """The schedule of a network trained on T discrete steps, given its betas or its alpha^2 [T].

    Index i (0 ... T - 1) lies at t = (i + 1) / T; between two of them log s is linear in t, and at them it is exact.
    Times and levels outside the table are taken to its ends.
    """
    assert (betas is None) != (alphas_cumprod is None), "give betas or alphas_cumprod"
    if alphas_cumprod is None:
        alphas_cumprod = torch.cumprod(1 - torch.as_tensor(betas, dtype=torch.float64), 0)
    alpha2 = alphas_cumprod.double()
    lams = 0.5 * torch.log(alpha2 / (1 - alpha2))
    if not (torch.isfinite(lams).all() and (lams.diff() < 0).all()):
        raise UserError("a noise table must fall strictly, with 0 < alpha^2 < 1; check the betas of this checkpoint")
    return through(torch.arange(1, len(lams) + 1, dtype=torch.float64) / len(lams), lams, "table")


def through(times: Tensor, lams: Tensor, name: str, family: str = "vp") -> Schedule:
    """The schedule that is linear in t between knots (times rising, lams falling, [n] each) and constant outside."""
    times, lams = times.double(), lams.double()
    assert (times.diff() > 0).all(), name
    assert (lams.diff() < 0).all(), name
    return Schedule(
        name,
        lambda t: _interpolate(t, times, lams),
        lambda lam: _interpolate(-lam, -lams, times),
        family,
        lam_min=float(lams[-1]),
        lam_max=float(lams[0]),
    )


def _interpolate(x: Tensor, xs: Tensor, ys: Tensor) -> Tensor:
    """Piecewise linear ys(x) for rising xs [T], constant outside, in float64 inside and x's type outside."""
    xs, ys = xs.to(x.device), ys.to(x.device)
    inside = x.double().clamp(xs[0], xs[-1]).contiguous()
    right = torch.searchsorted(xs, inside).clamp(1, len(xs) - 1)
    part = (inside - xs[right - 1]) / (xs[right] - xs[right - 1])
    return torch.lerp(ys[right - 1], ys[right], part).to(x.dtype)


def linear_betas(num_steps: int = 1000) -> Tensor:
    """Ho et al. 2020: 1e-4 to 0.02 in 1000 steps; of another number, as much noise in all (Nichol and Dhariwal)."""
    return torch.linspace(1e-4, 0.02, num_steps, dtype=torch.float64) * (1000 / num_steps)


def scaled_linear_betas(num_steps: int = 1000) -> Tensor:
    """Rombach et al. 2022 (LDM): linear in sqrt(beta), 0.00085 to 0.012 in 1000 steps."""
    ends = 0.00085**0.5, 0.012**0.5
    return torch.linspace(*ends, num_steps, dtype=torch.float64) ** 2 * (1000 / num_steps)


def cosine_betas(num_steps: int = 1000, offset: float = 0.008, most: float = 0.999) -> Tensor:
    """Nichol and Dhariwal 2021, equation 17: alpha^2 = f(t) / f(0), f = cos^2((t + offset) / (1 + offset) pi / 2).

    `most` bounds a beta, which would be 1 at the end.
    """
    t = torch.arange(num_steps + 1, dtype=torch.float64) / num_steps
    f = torch.cos((t + offset) / (1 + offset) * math.pi / 2) ** 2
    return (1 - f[1:] / f[:-1]).clamp(max=most)


BETAS: dict[str, Callable[..., Tensor]] = {
    "linear": linear_betas,
    "scaled_linear": scaled_linear_betas,
    "cosine": cosine_betas,
}

SCHEDULES: dict[str, Callable[..., Schedule]] = {
    "linear": linear,
    "vp": linear,  # the name in Score-SDE
    "subvp": subvp,
    "ve": ve,
    "cosine": cosine,
    "shifted_cosine": shifted_cosine,
    "sigmoid": sigmoid,
    "edm": edm,
    "flow": flow,
    "linear_table": lambda: table(linear_betas()),
    "scaled_linear_table": lambda: table(scaled_linear_betas()),
    "cosine_table": lambda: table(cosine_betas()),
}
"""By name, without arguments. A checkpoint trained on betas of its own has its own `table`."""


# ---------------------------------------------------------------------------------------------------------------------
# Noise


@dataclass(frozen=True)
class NoiseSource:
    """Standard normal noise, one stream per clip, addressed by what it is for and not by the order of drawing.

    Each clip's numbers depend on (its seed, window, evaluation, kind) alone and are drawn on the CPU in float32, so
    four clips in a batch get what each gets alone, a run resumed at any window continues as if uninterrupted, and a
    GPU changes nothing. Kinds in use: "start" (the beginning of a window), "step" (a stochastic step or an up-move),
    "known" (noise on the known region).
    """

    seeds: tuple[int, ...]
    window: int = 0

    def __post_init__(self) -> None:
        object.__setattr__(self, "seeds", tuple(int(seed) for seed in self.seeds))
        assert self.seeds, "a noise source needs one seed per clip"

    def at(self, window: int) -> "NoiseSource":
        """The same streams for another window of a long clip."""
        return replace(self, window=window)

    def draw(
        self, shape: Sequence[int], *, window: int | None = None, evaluation: int = 0, kind: str = "start"
    ) -> Tensor:
        """Noise [b *shape], float32 on the CPU; b is the number of seeds and `shape` leaves it out."""
        window = self.window if window is None else window
        return torch.stack([_normal(shape, seed, window, evaluation, kind) for seed in self.seeds])


def _normal(shape: Sequence[int], *key: object) -> Tensor:
    # A hash, because neighbouring seeds must not give related streams; blake2b, because Python's own hash is salted.
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "big"))
    return torch.randn(tuple(shape), generator=generator, dtype=torch.float32)
