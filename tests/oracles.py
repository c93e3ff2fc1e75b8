"""Data whose denoisers, flows and posteriors are known exactly, and what tests measure with them."""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from videodiff.noise import NoiseSource, spread
from videodiff.sampling import Plan, Stepper, sample

NOISE = NoiseSource((0,))
Denoiser = Callable[[Tensor, Tensor], Tensor]
Arrays = dict[str, np.ndarray]


def mixture(data: Arrays) -> Denoiser:
    """E[x0 | z] for sum_k w_k N(m_k, C_k), in the eigenframe of each component: exact at any level."""
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))
    variances, frames = torch.linalg.eigh(covs)  # [k d], [k d d]
    centres = torch.einsum("kij,ki->kj", frames, means)

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        total = variances + s.double()[:, None, None] ** 2
        offset = torch.einsum("kij,bi->bkj", frames, z.double()) - centres
        log_p = weights.log() - 0.5 * (offset**2 / total + total.log()).sum(-1)
        x0 = centres + variances / total * offset  # [b k d]
        return torch.einsum("kij,bkj,bk->bi", frames, x0, log_p.softmax(-1)).to(z)

    return denoise


def gaussian_video(data: Arrays) -> Denoiser:
    """E[x0 | z] for the Gaussian video N(mean, scale Kt x Kc x Kh x Kw + nugget I), z [b t c h w]."""
    mean = torch.from_numpy(data["mean"])
    factors = [torch.from_numpy(data[key]) for key in ("Kt", "Kc", "Kh", "Kw")]
    values, vectors = zip(*(torch.linalg.eigh(factor) for factor in factors), strict=True)
    modes = float(data["scale"]) * torch.einsum("t,c,h,w->tchw", *values) + float(data["nugget"])

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        m, v, turn = mean.to(z), modes.to(z), [matrix.to(z) for matrix in vectors]
        y = torch.einsum("btchw,tT,cC,hH,wW->bTCHW", z - m, *turn)
        return m + torch.einsum("bTCHW,tT,cC,hH,wW->btchw", v / (v + spread(s, z) ** 2) * y, *turn)

    return denoise


def gaussian(z: Tensor, s: Tensor, mean: float = 0.3, variance: float = 0.25) -> Tensor:
    """E[x0 | z] for independent N(mean, variance); its flow is z' - m = (z - m) sqrt((v + r^2) / (v + s^2))."""
    return mean + variance / (variance + spread(s, z) ** 2) * (z - mean)


def walk(denoise: Denoiser, z: Tensor, plan: Plan, stepper: Stepper, stop: float = 0.0) -> Tensor:
    """The state at level `stop` of a run."""
    return next(step.z for step in sample(denoise, z, plan, stepper, NoiseSource((0,) * len(z))) if step.s == stop)


def error(x: Tensor, reference: Tensor, data: np.ndarray) -> float:
    """Median over trajectories of the RMS difference, over the spread of the data."""
    return float(((x - reference) ** 2).flatten(1).mean(1).sqrt().median() / data.std())


def problem(data: Arrays, name: str, level: int = -1) -> tuple[Tensor, Tensor, list[float]]:
    """(z at the first level, z at `level`, the levels) of a stored problem."""
    x, a = torch.from_numpy(data[f"{name}/x"]), torch.from_numpy(data[f"{name}/alpha"])
    return x[0] / a[0], x[level] / a[level], data[f"{name}/s"].tolist()


def problems(data: Arrays) -> list[str]:
    """The schedules a file of vectors has."""
    return [key.removesuffix("/x") for key in data if key.endswith("/x")]
