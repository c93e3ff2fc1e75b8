"""Stochastic samplers have the exact moments, and noise is keyed so that batches and windows do not matter."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NOISE, gaussian, walk
from torch import Tensor

from videodiff.denoiser import LearnedVariance, denoiser
from videodiff.noise import NoiseSource, spread
from videodiff.sampling import (
    SAMPLERS,
    Ancestral,
    FirstOrder,
    Heun,
    Multistep,
    Plan,
    Stepper,
    churned,
    log_snr,
    restart,
    sample,
    sampler,
)


def modes(mean: float, variances: Tensor) -> Callable[[Tensor, Tensor], Tensor]:
    """The denoiser of independent modes N(mean, variances)."""
    return lambda z, s: mean + variances / (variances + spread(s, z) ** 2) * (z - mean)


class Impulses:
    """Noise that is 1 in one clip a move and 0 in the others: one run shows what each draw does to the result."""

    def __init__(self, moves: int) -> None:
        self.moves = moves

    def draw(self, shape: Sequence[int], *, evaluation: int = 0, kind: str = "start") -> Tensor:
        noise = torch.zeros(self.moves + 2, *shape, dtype=torch.float64)
        noise[evaluation + 2] = 1
        return noise


def moments(stepper: Stepper, plan: Plan, denoise: Callable, start_var: Tensor, start_mean: float = 0.0) -> Tensor:
    """[mean, variance, gain] of the sample for an affine denoiser: exact, without a random number.

    The sample is affine in the start and in each noise. So a clip with neither gives the mean, one that starts 1 higher
    the gain, and one for each noise its share of the variance.
    """
    z = torch.full((len(plan.moves) + 2, *start_var.shape), start_mean, dtype=torch.float64)
    z[1] += 1
    *_, last = sample(denoise, z, plan, stepper, Impulses(len(plan.moves)))
    mean, gain = last.z[0], last.z[1] - last.z[0]
    return torch.stack([mean, gain**2 * start_var + ((last.z[2:] - mean) ** 2).sum(0), gain])


STORED = {**{f"ddim_eta{eta}": FirstOrder(eta) for eta in (0.0, 0.5, 1.0)}, "ddpm_fixed_large": Ancestral("large")}


@pytest.mark.parametrize("name", STORED)
def test_stochastic_samplers_have_the_stored_moments(ode: Callable, name: str) -> None:
    stored = ode("stochastic_moments")
    denoise = modes(float(stored["mode_mean"]), torch.from_numpy(stored["mode_var"]))
    for run in [key.removesuffix("/timesteps") for key in stored if key.endswith("/timesteps")]:
        levels = ode("schedules")[f"{run.split('/')[0]}/s"][stored[f"{run}/timesteps"]]
        start = torch.full((len(stored["mode_var"]),), 1 + levels[0] ** 2, dtype=torch.float64)
        ours = moments(STORED[name], Plan((*levels, 0.0)), denoise, start)
        torch.testing.assert_close(ours, torch.from_numpy(stored[f"{run}/{name}"]), rtol=1e-8, atol=1e-14)


def test_the_noise_source_gives_these_moments_too(ode: Callable) -> None:
    stored, count = ode("stochastic_moments"), 60_000
    denoise = modes(float(stored["mode_mean"]), torch.from_numpy(stored["mode_var"]))
    levels = ode("schedules")["linear/s"][stored["linear/N20/timesteps"]]
    z = math.sqrt(1 + levels[0] ** 2) * NOISE.draw((count, len(stored["mode_var"]))).double()
    x = walk(denoise, z, Plan((*levels, 0.0)), sampler("ddpm"))[0]
    mean, variance, _ = torch.from_numpy(stored["linear/N20/ddim_eta1.0"])
    assert ((x.mean(0) - mean).abs() <= 4 * (variance / count).sqrt()).all()
    assert ((x.var(0) / variance - 1).abs() < 0.03).all()


def variance_error(stepper: Stepper, plan: Plan) -> float:
    """Relative error of the variance of the sample, for the worst of some modes, from the exact start."""
    variances = torch.tensor([0.01, 0.25, 4.0], dtype=torch.float64)
    got = moments(stepper, plan, modes(0.3, variances), variances + plan.levels[0] ** 2, start_mean=0.3)
    torch.testing.assert_close(got[0], torch.full_like(variances, 0.3))
    return float((got[1] / variances - 1).abs().max())


@pytest.mark.parametrize(
    ("stepper", "order"),
    [
        *[(Multistep(k, "x0", eta=eta, single=single), min(k, 2))
          for k in (1, 2, 3) for eta in (0.5, 1.0) for single in (False, True)],
        *[(sampler(name), 2) for name in ("sde_dpmpp_2m", "sde_dpmpp_2s", "sde_dpmpp_3m")],
        *[(sampler(name), 1) for name in ("ddpm", "ddpm_large")],
    ],
)  # fmt: skip
def test_methods_with_noise_converge_to_the_variance_of_the_data(stepper: Stepper, order: int) -> None:
    few, many = (variance_error(stepper, log_snr(80, 1e-5, n)) for n in (160, 640))
    assert math.log(few / many) / math.log(4) >= order - 0.25
    assert many < (0.05 if order == 1 else 0.002)


def test_churn_and_restart_converge_to_the_variance_of_the_data() -> None:
    def churn(n: int) -> float:
        return variance_error(Heun(), churned(log_snr(80, 1e-5, n)))

    def restarts(n: int) -> float:
        return variance_error(Heun(), restart(log_snr(80, 1e-5, n), n=n // 20))

    for errors in ([churn(n) for n in (40, 160, 640)], [restarts(n) for n in (40, 160, 640)]):
        assert errors[2] < errors[1] / 6 < errors[0] / 36, errors  # a second-order method would gain 16 each time
        assert errors[2] < 0.01


def network(z: Tensor, time: Tensor) -> Tensor:
    """Of twice the channels: eps of unit data, and -1, 0, 1 for the variance of frames 0, 1, 2."""
    u = torch.tensor([-1.0, 0.0, 1.0], dtype=z.dtype)[:, None, None, None].expand_as(z)
    return torch.cat([z * spread(time / (1 + time**2).sqrt(), z), u], dim=-3)


def test_a_learned_variance_lies_between_both_fixed_ones_and_at_its_ends_equals_them() -> None:
    latest = LearnedVariance()
    denoise = denoiser(network, "eps", lambda s: s, learned_variance=latest)
    z, plan = 5 * NOISE.draw((3, 2, 4, 4)).double(), Plan((5.0, 2.0, 0.0))

    def first(name: str) -> Tensor:
        return next(sample(denoise, z, plan, sampler(name), NOISE, fraction=latest)).z[0]

    learned, small, large = first("ddpm"), first("euler_ancestral"), first("ddpm_large")
    fixed = next(sample(denoise, z, plan, Ancestral("small"), NOISE, fraction=latest)).z[0]
    torch.testing.assert_close(fixed, small)
    assert torch.equal(learned[0], fixed[0])
    assert torch.equal(learned[2], large[2])
    mean = next(sample(denoise, z, plan, Ancestral("small"), Silence())).z[0]
    middle = ((fixed - mean).abs() * (large - mean).abs()).sqrt() * (large - mean).sign()  # geometric mean of both
    torch.testing.assert_close((learned - mean)[1], middle[1])


class Silence:
    def draw(self, shape: Sequence[int], **_: object) -> Tensor:
        return torch.zeros(1, *shape, dtype=torch.float64)


@pytest.mark.parametrize("name", SAMPLERS)
def test_only_ddpm_hears_of_a_learned_variance(name: str) -> None:
    latest = LearnedVariance()
    z, plan = 5 * NOISE.draw((3, 2, 4, 4)).double(), log_snr(5, 0.1, 5)

    def end(denoise: Callable, fraction: LearnedVariance | None) -> Tensor:
        *_, last = sample(denoise, z, plan, sampler(name), NOISE, fraction=fraction)
        return last.z

    both = end(denoiser(network, "eps", lambda s: s, learned_variance=latest), latest)
    plain = end(denoiser(lambda z, s: network(z, s)[:, :, :2], "eps", lambda s: s), None)
    assert torch.equal(both, plain) == (name != "ddpm")


def noise_scale(stepper: Stepper, s: float, s_next: float) -> float:
    """The standard deviation of what a step adds: its result with unit noise less that with none."""
    results = []
    for value in (0.0, 1.0):

        class Constant:
            def draw(self, shape: tuple[int, ...], value: float = value, **_: object) -> Tensor:
                return torch.full((1, *shape), value, dtype=torch.float64)

        z = torch.ones(1, 1, dtype=torch.float64)
        results.append(next(sample(gaussian, z, Plan((s, s_next, 0.0)), stepper, Constant())).z.item())
    return results[1] - results[0]


@given(s=st.floats(0.01, 100), ratio=st.floats(0.01, 0.99), eta=st.sampled_from([0.0, 0.3, 0.7, 1.0]))
@settings(max_examples=50, deadline=None)
def test_ddim_and_sde_noise_are_two_formulas_equal_at_the_ends(s: float, ratio: float, eta: float) -> None:
    r = s * ratio
    ddim = noise_scale(FirstOrder(eta), s, r)
    sde = noise_scale(Multistep(1, "x0", eta=eta), s, r)
    assert ddim**2 == pytest.approx(eta**2 * r**2 * (1 - ratio**2), rel=1e-6, abs=1e-12 * r**2)
    assert sde**2 == pytest.approx(r**2 * (1 - ratio ** (2 * eta)), rel=1e-6, abs=1e-12 * r**2)
    assert (abs(ddim - sde) <= 1e-6 * r) == (eta in (0, 1))


ZIGZAG = Plan((80.0, 20.0, 5.0, 12.0, 4.0, 1.0, 0.3, 0.6, 0.1, 0.02, 0.0))


@pytest.mark.parametrize("plan", [log_snr(80, 0.02, 7), ZIGZAG], ids=["down", "with jumps"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_four_clips_at_once_are_four_clips_alone(name: str, plan: Plan) -> None:
    seeds = (11, 2, 33, 4)

    def run(*seeds: int) -> Tensor:
        noise = NoiseSource(seeds)
        *_, last = sample(gaussian, 80 * noise.draw((2, 3, 5, 5)), plan, sampler(name), noise)
        return last.z

    assert torch.equal(run(*seeds), torch.cat([run(seed) for seed in seeds]))


def test_a_window_resumed_is_the_window_uninterrupted() -> None:
    def window(index: int) -> Tensor:
        noise = NoiseSource((9,)).at(index)
        *_, last = sample(gaussian, 80 * noise.draw((4,)), log_snr(80, 0.02, 6), sampler("ddpm"), noise)
        return last.z

    first, second = window(0), window(1)
    assert torch.equal(window(1), second)
    assert not torch.equal(first, second)
