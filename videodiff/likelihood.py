"""How likely a clip is: log p by following it up the probability flow into noise.

    log p(x at s_min) = log p(z at s_max) + Int div eps ds from s_min to s_max,     dz/ds = eps

(Song et al. 2021, Score-SDE, section 4.3; Grathwohl et al. 2019, FFJORD). The divergence is exact for few dimensions
(`Exact`) or estimated by random probes (`Hutchinson`), and the integral is carried as one more component of the state,
so that every sampler which follows the flow integrates it, with its own order, and the adaptive ones too.

    result = yield from log_likelihood(denoise, x, plan, Hutchinson(noise, probes=2))
    bits = bits_per_dim(result.logp, x[0].numel())

What is answered is the density at the plan's last level above 0, `s_min`: that of the model's samples with noise of
this size left on them. Nothing is claimed of lower levels, which the network has not seen.
"""

import math
from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from typing import Literal, Protocol

import torch
from torch import Tensor
from torch.func import jvp, vmap

from videodiff.errors import UserError
from videodiff.noise import NoiseSource, norms
from videodiff.sampling import RK45, Plan, Step, Stepper
from videodiff.sampling.inversion import climb
from videodiff.types import Denoise

# ---------------------------------------------------------------------------------------------------------------------
# Divergence


class Divergence(Protocol):
    """`x0, share = divergence(denoise, z, s)`: the answer, and estimates [b columns] of trace(I - dD/dz) / d.

    eps = (z - D) / s, so its divergence is d share / s. An estimate must be the same function of z at every call.
    """

    @property
    def columns(self) -> int: ...

    def __call__(self, denoise: Denoise, z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]: ...


@dataclass(frozen=True)
class Exact:
    """The trace itself, one forward derivative per dimension, `chunk` of them at once. For some thousand dimensions."""

    chunk: int = 64
    columns = 1

    def __call__(self, denoise: Denoise, z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        d = z[0].numel()
        if d > 10_000:
            raise UserError(f"an exact trace of {d} dimensions takes {d} derivatives a step; use Hutchinson's probes")
        basis = torch.eye(d, dtype=z.dtype, device=z.device).reshape(d, 1, *z.shape[1:]).expand(d, *z.shape)

        def along(v: Tensor) -> Tensor:
            turned = jvp(lambda z: denoise(z, s), (z,), (v,))[1]
            return (v * (v - turned)).flatten(1).sum(1)

        return denoise(z, s), vmap(along, chunk_size=self.chunk)(basis).mean(0)[:, None]


@dataclass(frozen=True)
class Hutchinson:
    """Unbiased estimates v' (I - dD/dz) v with random v, one backward pass each (Hutchinson 1990; Skilling 1989).

    A clip keeps its probes for the whole flow, so that the integrand is smooth. Each probe has a column of its own, and
    their scatter gives the standard error.
    """

    noise: NoiseSource
    probes: int = 1
    kind: Literal["rademacher", "gaussian"] = "rademacher"  # signs have the smaller variance

    def __post_init__(self) -> None:
        if self.probes < 1:
            raise UserError(f"at least 1 probe is needed, not {self.probes}")

    @property
    def columns(self) -> int:
        return self.probes

    def __call__(self, denoise: Denoise, z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            z = z.detach().requires_grad_()
            x0 = denoise(z, s)
        shares = []
        for probe in range(self.probes):
            v = self.noise.draw(z.shape[1:], evaluation=probe, kind="probe").to(z)
            v = v.sign() if self.kind == "rademacher" else v
            (turned,) = torch.autograd.grad(x0, z, v, retain_graph=probe + 1 < self.probes)
            shares.append((v * (v - turned)).flatten(1).mean(1))
        return x0.detach(), torch.stack(shares, 1)


# ---------------------------------------------------------------------------------------------------------------------
# Likelihood

End = Callable[[Tensor, float], Tensor]
"""`log_density = end(z, s)`: [b] in nats, of states z [b ...] at the highest level s."""


def gaussian_end(mean: Tensor | float = 0.0, sd: float = 1.0) -> End:
    """What sampling starts from: N(mean, s^2 + sd^2), for data of spread sd. N(0, I) of a VP model is mean 0, sd 1."""

    def log_density(z: Tensor, s: float) -> Tensor:
        variance, d = s**2 + sd**2, z[0].numel()
        return -0.5 * (norms(z - mean).double() ** 2 / variance + d * math.log(2 * math.pi * variance))

    return log_density


@dataclass(frozen=True)
class Likelihood:
    """Log densities [b] in nats, their standard errors from the scatter of probes [b] (nan for one alone, 0 for an
    exact trace), the codes the clips have at s_max, and the network evaluations it took."""

    logp: Tensor
    error: Tensor
    code: Tensor
    evaluations: int


def log_likelihood(
    denoise: Denoise,
    x: Tensor,
    plan: Plan,
    divergence: Divergence,
    end: End | None = None,
    stepper: Stepper | None = None,
) -> Generator[Step, None, Likelihood]:
    """Steps up the plan's levels, and in the end the log density of each clip x [b ...] at the lowest level above 0.

    end:     log density at the plan's first level; `gaussian_end()` if not given. Its gap to the truth goes into the
             answer undiminished: on the mixtures of the tests .01 nats a dimension or less.
    stepper: any without noise; RK45 to 1e-5 if not given.
    """
    end, stepper = end or gaussian_end(), stepper or RK45(1e-5, 1e-5)
    shape, d = x.shape, x[0].numel()
    levels = plan.levels[-2::-1]  # rising
    if len(levels) < 2:
        raise UserError("a likelihood needs two levels above 0, to go from one to the other")

    # The integral is carried as if it were a pixel: less what it is for standard normal data, whose div eps is
    # d s / (1 + s^2); over sqrt(d); and grown by sqrt(1 + s^2) as a pixel grows. Then it weighs on a tolerance as much
    # as the state does, at all levels (a tenth of the error of the plain integral), and fits float32.
    def joined(y: Tensor, s: Tensor) -> Tensor:
        z, extra, s = y[:, :d].reshape(shape), y[:, d:], s[:, None]
        x0, share = divergence(denoise, z, s[:, 0])
        slope = math.sqrt(d) * (share / s - s / (1 + s**2))
        eps = (1 + s**2).sqrt() * slope + s / (1 + s**2) * extra
        return torch.cat([x0.flatten(1), extra - s * eps], 1)

    start = torch.cat([x.flatten(1), x.new_zeros(len(x), divergence.columns)], 1)
    for step in climb(joined, start, levels, stepper):
        yield replace(step, z=step.z[:, :d].reshape(shape), x0=step.x0[:, :d].reshape(shape))
    code, extra = step.z[:, :d].reshape(shape), step.z[:, d:].double()
    volumes = extra * math.sqrt(d / (1 + levels[-1] ** 2))
    standard = 0.5 * d * math.log((1 + levels[-1] ** 2) / (1 + levels[0] ** 2))
    logp = end(code, levels[-1]) + standard + volumes.mean(1)
    if isinstance(divergence, Exact):
        error = torch.zeros_like(logp)
    elif divergence.columns == 1:
        error = torch.full_like(logp, math.nan)
    else:
        error = volumes.std(1) / math.sqrt(divergence.columns)
    return Likelihood(logp, error, code, step.n)


# ---------------------------------------------------------------------------------------------------------------------
# Bits of 8-bit clips

BINS = 256
RANGE = 256 / 127.5
"""A pixel p of 0 ... 255 is p / 127.5 - 1; with half a bin on either side they fill a range of 2.0078."""


def dequantised(frames: Tensor, noise: NoiseSource) -> Tensor:
    """8-bit frames in [-1, 1], [b ...], each pixel moved to a uniformly random place in its bin.

    The mean log density of the result is then a lower bound of the log probability of the pixels, less the log of the
    bin (Uria et al. 2013; Theis et al. 2016): a density of points on a grid has no meaning.
    """
    uniform = torch.special.ndtr(noise.draw(frames.shape[1:], kind="dequantise").double())
    return frames + (uniform.to(frames) - 0.5) * RANGE / BINS


def bits_per_dim(logp: Tensor, d: int, bins: int = BINS, width: float = RANGE) -> Tensor:
    """bpd = -log p / (d log 2) + log2(bins / range), for a log density of values that fill `width` with `bins` bins."""
    return -logp / (d * math.log(2)) + math.log2(bins / width)
