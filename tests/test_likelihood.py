"""Likelihood by the flow: equal to the exact one, whatever solver, trace and end; bits of 8-bit clips."""

import math
from collections.abc import Callable, Generator
from typing import Any

import numpy as np
import pytest
import torch
from oracles import gaussian, gaussian_video, mixture
from torch import Tensor

from videodiff.denoiser import Cancelled, cancellable, counted
from videodiff.errors import UserError
from videodiff.likelihood import (
    Exact,
    Hutchinson,
    Likelihood,
    bits_per_dim,
    dequantised,
    gaussian_end,
    log_likelihood,
)
from videodiff.noise import NoiseSource
from videodiff.sampling import RK45, AdaptiveDPM, FirstOrder, Heun, Multistep, Plan, Stepper, log_snr

CLEAN = Plan((80.0, 2e-5, 0.0))
"""To where the density differs from that of the data by 1e-7 nats a dimension."""


def result(steps: Generator[Any, None, Likelihood]) -> Likelihood:
    """What a generator returns."""
    while True:
        try:
            next(steps)
        except StopIteration as stop:
            return stop.value


def mixture_end(data: dict) -> Callable[[Tensor, float], Tensor]:
    """The exact log density of a mixture with noise of level s."""
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))

    def log_density(z: Tensor, s: float) -> Tensor:
        parts = torch.distributions.MultivariateNormal(means, covs + s**2 * torch.eye(means.shape[1]).double())
        return (parts.log_prob(z[:, None]) + weights.log()).logsumexp(1)

    return log_density


def video_end(data: dict) -> Callable[[Tensor, float], Tensor]:
    """The same for the Gaussian video."""
    mean, modes = torch.from_numpy(data["mean"]), torch.from_numpy(data["eigenvalues"])
    vectors = [torch.linalg.eigh(torch.from_numpy(data[key]))[1] for key in ("Kt", "Kc", "Kh", "Kw")]

    def log_density(z: Tensor, s: float) -> Tensor:
        y = torch.einsum("btchw,tT,cC,hH,wW->bTCHW", z - mean, *vectors)
        return -0.5 * (y**2 / (modes + s**2) + (2 * math.pi * (modes + s**2)).log()).flatten(1).sum(1)

    return log_density


@pytest.mark.parametrize("file", ["gmm2", "gmm16", pytest.param("gmm_video", marks=pytest.mark.slow)])
def test_an_exact_trace_and_end_give_the_exact_likelihood(ode: Callable, file: str) -> None:
    data = ode(file)
    count = 2 if file == "gmm_video" else 8
    x, d = torch.from_numpy(data["data"][:count]), data["data"].shape[1]
    got = result(log_likelihood(mixture(data), x, CLEAN, Exact(), mixture_end(data), RK45(1e-7, 1e-7)))
    assert ((got.logp - torch.from_numpy(data["data_logp"][:count])).abs() / d).max() < 1e-6
    assert (got.error == 0).all()


@pytest.mark.slow
def test_the_likelihood_of_a_video_in_few_evaluations(ode: Callable) -> None:
    data = ode("gmm_video")
    got = result(
        log_likelihood(
            mixture(data), torch.from_numpy(data["data"][:1]), CLEAN, Exact(), mixture_end(data), RK45(1e-4, 1e-4)
        )
    )
    assert abs(float(got.logp) - data["data_logp"][0]) / 192 < 1e-3
    assert got.evaluations < 120


@pytest.mark.slow
def test_the_exact_likelihood_of_a_gaussian_video(ode: Callable) -> None:
    data = ode("gauss_video")
    x, end = torch.from_numpy(data["data"][:1]), video_end(data)
    assert float(end(x, 0.0)) == pytest.approx(data["data_logp"][0], abs=1e-6)
    got = result(log_likelihood(gaussian_video(data), x, CLEAN, Exact(), end, RK45(1e-5, 1e-5)))
    assert abs(float(got.logp) - data["data_logp"][0]) / x.numel() < 1e-4


@pytest.mark.parametrize(
    "stepper",
    [Multistep(3), Multistep(3, "x0"), Multistep(2, "x0", corrector=True), AdaptiveDPM(3, 1e-3, 1e-4)],
)
def test_every_solver_comes_to_the_same_likelihood(ode: Callable, stepper: Stepper) -> None:
    data = ode("gmm16")
    x, plan = torch.from_numpy(data["data"][:16]), log_snr(80, 0.01, 60)
    expected = mixture_end(data)(x, 0.01)
    got = result(log_likelihood(mixture(data), x, plan, Exact(), mixture_end(data), stepper))
    assert (got.logp - expected).abs().median() / 16 < 4e-3


@pytest.mark.parametrize(("stepper", "order"), [(FirstOrder(), 1), (Heun(), 2), (Multistep(3), 3)])
def test_the_likelihood_converges_with_the_order_of_the_solver(ode: Callable, stepper: Stepper, order: int) -> None:
    data = ode("gmm2")
    x, s_min = torch.from_numpy(data["data"][:16]), 0.02
    exact = mixture_end(data)(x, s_min)  # the density at the end of the walk, which is what is asked for

    def off(n: int) -> float:
        got = result(log_likelihood(mixture(data), x, log_snr(20, s_min, n), Exact(), mixture_end(data), stepper))
        return float((got.logp - exact).abs().median())

    assert math.log(off(30) / off(120)) / math.log(4) > order - 0.25


def test_what_is_answered_is_the_density_at_the_lowest_level(ode: Callable) -> None:
    data = ode("gmm2")
    x = torch.from_numpy(data["data"][:16])
    s_min = 0.3
    plan = Plan((80.0, s_min, 0.0))
    got = result(log_likelihood(mixture(data), x, plan, Exact(), mixture_end(data), RK45(1e-6, 1e-6)))
    torch.testing.assert_close(got.logp, mixture_end(data)(x, s_min), atol=1e-4, rtol=0)


@pytest.mark.parametrize(("file", "limit"), [("gmm2", 0.01), ("gmm16", 0.01)])
def test_a_gaussian_end_leaves_the_stated_gap(ode: Callable, file: str, limit: float) -> None:
    data = ode(file)
    x, d = torch.from_numpy(data["data"][:16]), data["data"].shape[1]
    logp = [
        result(log_likelihood(mixture(data), x, Plan((80.0, 0.05, 0.0)), Exact(), end, RK45())).logp
        for end in (gaussian_end(), mixture_end(data))
    ]
    assert 1e-6 < (logp[0] - logp[1]).abs().max() / d < limit


@pytest.mark.parametrize("kind", ["rademacher", "gaussian"])
def test_probes_agree_with_the_exact_trace(ode: Callable, kind: Any) -> None:
    data, count = ode("gmm16"), 4
    x = torch.from_numpy(data["data"][:count])
    plan, end = log_snr(80, 0.05, 20), mixture_end(data)
    exact = result(log_likelihood(mixture(data), x, plan, Exact(), end, Multistep(3)))
    probes = Hutchinson(NoiseSource(range(count)), probes=30, kind=kind)  # type: ignore[arg-type]
    got = result(log_likelihood(mixture(data), x, plan, probes, end, Multistep(3)))
    assert (got.error > 0).all()
    assert ((got.logp - exact.logp).abs() < 4 * got.error).all()
    assert (got.code - exact.code).abs().max() < 1e-9  # the path does not depend on the probes


def test_the_stated_error_is_that_of_the_estimate(ode: Callable) -> None:
    data, count = ode("gmm16"), 200
    x = torch.from_numpy(data["data"][:1]).expand(count, -1)
    probes = Hutchinson(NoiseSource(tuple(range(count))), probes=4)
    got = result(log_likelihood(mixture(data), x, log_snr(20, 0.1, 20), probes, None, Multistep(3)))
    assert float(got.logp.std() / got.error.square().mean().sqrt()) == pytest.approx(1, abs=0.15)


def test_a_clip_has_the_same_likelihood_alone_and_in_a_batch() -> None:
    x = NoiseSource((7, 8, 9)).draw((2, 3, 4, 4))

    def logp(*which: int) -> Tensor:
        probes = Hutchinson(NoiseSource(which), probes=2)
        return result(log_likelihood(gaussian, x[list(which)], Plan((10.0, 0.02, 0.0)), probes, None, RK45())).logp

    assert torch.equal(logp(0, 1, 2), torch.cat([logp(0), logp(1), logp(2)]))


def test_single_precision_is_enough() -> None:
    x = 0.3 + 0.5 * NoiseSource((7,)).draw((8, 3, 16, 16))
    exact = -0.5 * ((x - 0.3) ** 2 / 0.25 + math.log(2 * math.pi * 0.25)).double().sum()
    probes = Hutchinson(NoiseSource((1,)))
    got = result(log_likelihood(gaussian, x, Plan((100.0, 1e-3, 0.0)), probes, gaussian_end(0.3, 0.5)))
    assert abs(float(got.logp - exact)) / x.numel() < 1e-4  # signs are exact where the derivative is diagonal
    assert math.isnan(float(got.error))  # one probe says nothing of its scatter


def test_every_evaluation_is_counted_and_can_be_the_last() -> None:
    counts: list[int] = []
    x, probes = NoiseSource((1,)).draw((6,)), Hutchinson(NoiseSource((1,)), probes=3)
    got = result(log_likelihood(counted(gaussian, counts.append), x, log_snr(10, 0.1, 8), probes, None, Heun()))
    assert got.evaluations == len(counts) == 2 * 7
    counts.clear()
    denoise = cancellable(counted(gaussian, counts.append), lambda: len(counts) >= 3)
    with pytest.raises(Cancelled):
        result(log_likelihood(denoise, x, log_snr(10, 0.1, 8), probes, None, Heun()))
    assert len(counts) == 3


def test_what_cannot_be_is_refused() -> None:
    with pytest.raises(UserError, match="probe"):
        Hutchinson(NoiseSource((1,)), probes=0)
    with pytest.raises(UserError, match="two levels"):
        result(log_likelihood(gaussian, torch.ones(1, 2), Plan((1.0, 0.0)), Exact()))
    with pytest.raises(UserError, match="10001 dimensions"):
        Exact()(gaussian, torch.ones(1, 10_001), torch.ones(1))


# --- Bits -------------------------------------------------------------------------------------------------------------


def test_uniform_pixels_take_eight_bits() -> None:
    d = 1000
    logp = torch.tensor([-d * math.log(256 / 127.5)], dtype=torch.float64)  # uniform over the whole range
    assert float(bits_per_dim(logp, d)) == pytest.approx(8, abs=1e-12)
    assert float(bits_per_dim(torch.zeros(1), d)) == pytest.approx(math.log2(127.5), abs=1e-6)


def test_dequantised_pixels_fill_their_bins_and_no_other() -> None:
    pixels = torch.arange(256).repeat(400)[None]
    frames = pixels.double() / 127.5 - 1
    x = dequantised(frames, NoiseSource((3,)))
    assert torch.equal(((x + 1) * 127.5).round().long(), pixels)
    inside = (x - frames) * 127.5 + 0.5
    assert inside.min() >= 0
    assert inside.max() <= 1
    counts = np.histogram(inside.numpy(), 10, (0, 1))[0]
    assert abs(counts / pixels.numel() - 0.1).max() < 4 * math.sqrt(0.09 / pixels.numel())


def test_dequantised_density_bounds_the_discrete_entropy() -> None:
    """For pixels from a known Gaussian, rounded: the bits are near their entropy when bins are fine."""
    sd, d = 0.2, 200_000
    pixels = ((sd * NoiseSource((5,)).draw((d,)).double() + 1) * 127.5).round().clamp(0, 255)
    x = dequantised(pixels / 127.5 - 1, NoiseSource((6,)))
    logp = -0.5 * (x**2 / sd**2 + math.log(2 * math.pi * sd**2)).sum(1)
    shares = torch.bincount(pixels.long().flatten(), minlength=256) / d
    entropy = -(shares * shares.clamp(min=1e-12).log2()).sum()
    assert float(bits_per_dim(logp, d)) == pytest.approx(float(entropy), abs=0.01)
