"""Stochastic samplers have the exact moments, and noise is keyed so that batches and windows do not matter."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NOISE, gaussian, walk
from torch import Tensor

from videodiff.noise import NoiseSource, spread
from videodiff.sampling import (
    SAMPLERS,
    FirstOrder,
    Multistep,
    Plan,
    Stepper,
    log_snr,
    sample,
    sampler,
)


@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
def test_stochastic_samples_have_the_exact_moments(ode: Callable, eta: float) -> None:
    stored = ode("stochastic_moments")
    variances, mean = torch.from_numpy(stored["mode_var"]), float(stored["mode_mean"])

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        return mean + variances / (variances + spread(s, z) ** 2) * (z - mean)

    count = 60_000
    runs = [key.removesuffix("/timesteps") for key in stored if key.endswith("/timesteps")]
    for run in runs:
        levels = ode("schedules")[f"{run.split('/')[0]}/s"][stored[f"{run}/timesteps"]]
        if len(levels) > 50:
            continue  # the same formula, for minutes
        z = math.sqrt(1 + levels[0] ** 2) * NOISE.draw((count, len(variances))).double()
        x = walk(denoise, z, Plan((*levels, 0.0)), FirstOrder(eta))[0]
        expected_mean, expected_var, _ = torch.from_numpy(stored[f"{run}/ddim_eta{eta}"])
        standard_error = (expected_var / count).sqrt()
        assert ((x.mean(0) - expected_mean).abs() <= 4 * standard_error).all(), run
        assert ((x.var(0) / expected_var - 1).abs() < 0.03).all(), run


@pytest.mark.parametrize("stepper", [Multistep(k, "x0", eta=eta) for k in (1, 2, 3) for eta in (0.5, 1.0)])
def test_sde_multistep_keeps_the_data_variance(stepper: Multistep) -> None:
    z = math.sqrt(80**2 + 0.25) * NOISE.draw((60_000,)).double() + 0.3
    x = walk(gaussian, z, log_snr(80, 0.002, 200), stepper)
    assert x.mean().item() == pytest.approx(0.3, abs=4 * 0.5 / math.sqrt(60_000))
    assert x.var().item() == pytest.approx(0.25, rel=0.06 if stepper.order == 1 else 0.03)


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


def test_names_for_the_same_thing_give_the_same_samples() -> None:
    z, plan = 80 * NOISE.draw((2, 3)).double(), log_snr(80, 0.002, 12)
    for eta in (0.0, 1.0):
        torch.testing.assert_close(
            walk(gaussian, z, plan, FirstOrder(eta)), walk(gaussian, z, plan, Multistep(1, "x0", eta=eta))
        )
    for clock in ("lam", "s", "t"):
        torch.testing.assert_close(
            walk(gaussian, z, plan, FirstOrder()), walk(gaussian, z, plan, Multistep(1, "eps", clock))
        )


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
