"""The bound's terms equal their closed forms, add up to at least the truth, and are estimated without bias."""

import itertools
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videodiff.noise import NoiseSource, Schedule, cosine, linear, spread, step_variance
from videodiff.types import Denoise
from videodiff.variational import (
    bound,
    prior_kl,
    step_kl,
)

Stored = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def moments(shared: Path) -> Stored:
    return dict(np.load(shared / "vectors/ode/stochastic_moments.npz"))


@pytest.fixture(scope="module")
def tables(shared: Path) -> Stored:
    return dict(np.load(shared / "vectors/ode/schedules.npz"))


def modes(moments: Stored) -> tuple[float, Tensor, Denoise]:
    """Mean and variances of independent Gaussian modes, and their exact denoiser."""
    mean, variance = float(moments["mode_mean"]), torch.from_numpy(moments["mode_var"])

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        return mean + variance / (variance + spread(s, z) ** 2) * (z - mean)

    return mean, variance, denoise


def quadrature() -> tuple[Tensor, Tensor, Tensor]:
    """Points (a, b) [4] and weights for two independent normals; exact for terms of second degree."""
    a, b = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    return a, b, torch.full((4, 1), 0.25, dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_each_term_of_the_chain_equals_the_stored_one(moments: Stored, tables: Stored, name: str) -> None:
    mean, variance, denoise = modes(moments)
    levels = tables[f"{name}/s"]
    a, b, weight = quadrature()
    x0 = mean + a[:, None] * variance.sqrt()
    terms = []
    for r, s in itertools.pairwise(levels):
        d = denoise(x0 + s * b[:, None], torch.full((4,), s, dtype=torch.float64))
        terms.append((weight * step_kl(x0, d, s, r, step_variance(s, r, 0.0))).sum(0))
    np.testing.assert_allclose(
        torch.stack(terms, 1).numpy(), moments[f"{name}/vlb_terms"][:, 1:], rtol=1e-6, atol=1e-12
    )
    prior = (weight * prior_kl(x0, levels[-1])).sum(0)
    np.testing.assert_allclose(prior.numpy(), moments[f"{name}/prior_kl"], rtol=1e-6, atol=1e-12)


@pytest.mark.parametrize("schedule", [None, linear(), cosine()], ids=lambda s: s.name if s else "lam")
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_diffusion_part_depends_on_the_end_levels_alone(
    moments: Stored, tables: Stored, name: str, schedule: Schedule | None
) -> None:
    _, variance, denoise = modes(moments)
    levels, clips = tables[f"{name}/s"], 100
    exact = moments[f"{name}/continuous_diffusion_loss"].mean()
    generator = torch.Generator().manual_seed(1)
    x0 = 0.7 + variance.sqrt() * torch.randn((clips, 6), generator=generator, dtype=torch.float64)
    terms = bound(denoise, x0, levels[0], levels[-1], NoiseSource(tuple(range(clips))), schedule=schedule)
    # Clips differ in what they cost, so the standard error is that between clips.
    assert abs(terms.diffusion.mean() - exact) < 3 * terms.diffusion.std() / math.sqrt(clips)
