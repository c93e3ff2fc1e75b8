"""How noise levels are drawn for training, and what the weights mean."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from videodiff.denoiser import coefficients
from videodiff.losses import MIN_SNR_GAMMA, WEIGHTS, draw_t, lognormal, scheduled, wanted_mean
from videodiff.noise import SCHEDULES
from videodiff.settings import Levels


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@given(seed=st.integers(0, 2**31), b=st.integers(1, 64))
def test_stratified_draws_fall_one_in_each_stratum(seed: int, b: int) -> None:
    t = draw_t(seeded(seed), b, stratified=True)
    # float32 rounds a draw that ends a stratum up by one part in 10^7, so look a little before it.
    assert (t * b - 1e-5).floor().clamp(min=0).sort().values.tolist() == list(range(b))
    assert ((t > 0) & (t < 1)).all()


def test_the_strata_come_in_random_order() -> None:
    orders = {tuple(draw_t(seeded(seed), 4, stratified=True).argsort().tolist()) for seed in range(300)}
    assert len(orders) == math.factorial(4)


def test_stratified_draws_have_the_same_mean_and_less_variance() -> None:
    means = {
        stratified: torch.stack([draw_t(seeded(seed), 8, stratified).mean() for seed in range(400)])
        for stratified in (True, False)
    }
    assert means[True].mean() == pytest.approx(0.5, abs=0.01)
    assert means[True].var() < means[False].var() / 30  # 1 / b^2 of it in theory


def test_lognormal_levels_have_the_mean_and_the_spread_asked_for() -> None:
    log_s = lognormal(draw_t(seeded(), 100_000, stratified=False), mean=-1.2, std=1.4).log()
    assert log_s.mean() == pytest.approx(-1.2, abs=4 * 1.4 / math.sqrt(100_000))
    assert log_s.std() == pytest.approx(1.4, rel=0.01)
    assert lognormal(torch.tensor([0.5]), -1.2, 1.4).item() == pytest.approx(math.exp(-1.2))


@pytest.mark.parametrize("name", sorted(set(SCHEDULES) - {"table"}))
def test_scheduled_levels_are_those_of_the_schedule(name: str) -> None:
    t = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(scheduled(t, name), SCHEDULES[name]().s(t.double()).float())
    assert Levels.model_validate({"draw": name}).draw == name


def test_only_wanted_pixels_count_and_every_clip_counts_the_same() -> None:
    error = torch.rand(2, 3, 2, 4, 4)
    wanted = torch.zeros(2, 3, 1, 4, 4, dtype=torch.bool)
    wanted[0, 2] = True
    wanted[1, :, :, 1, 1] = True
    expected = (error[0, 2].mean() + error[1, :, :, 1, 1].mean()) / 2
    torch.testing.assert_close(wanted_mean(error, wanted), expected)
    torch.testing.assert_close(wanted_mean(error.masked_fill(~wanted, 1e9), wanted), expected)
    assert wanted_mean(error, torch.zeros_like(wanted)) == 0


def test_no_gradient_reaches_known_pixels() -> None:
    x = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    wanted = torch.rand(1, 2, 1, 4, 4) < 0.5
    wanted_mean(x.square(), wanted).backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, wanted)


LEVELS = torch.logspace(-2, 2, 9, dtype=torch.float64)


@pytest.mark.parametrize(("weight", "output", "sd"), [("eps", "eps", 1), ("v", "v", 1), ("f", "edm", 0.5)])
def test_a_weight_turns_the_error_of_x0_into_that_of_the_output(weight: str, output: str, sd: float) -> None:
    # D = c_skip z + c_out F, so an error of F is an error of D over c_out: w = 1 / c_out^2, whatever the schedule.
    c_out = coefficients(output, LEVELS, "ve" if output == "edm" else "vp", sd).c_out
    w = WEIGHTS[weight](LEVELS, torch.full_like(LEVELS, sd))
    torch.testing.assert_close(w, 1 / c_out**2)


def test_the_f_weight_at_unit_spread_is_the_v_weight() -> None:
    one = torch.ones_like(LEVELS)
    torch.testing.assert_close(WEIGHTS["f"](LEVELS, one), WEIGHTS["v"](LEVELS, one))


def test_min_snr_is_the_signal_to_noise_ratio_truncated() -> None:
    w = WEIGHTS["min_snr"](LEVELS, torch.ones_like(LEVELS))
    torch.testing.assert_close(w, torch.minimum(1 / LEVELS**2, torch.tensor(MIN_SNR_GAMMA, dtype=torch.float64)))
    assert (WEIGHTS["x0"](LEVELS, torch.ones_like(LEVELS)) == 1).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_take_levels_per_clip_and_spreads_per_pixel(name: str) -> None:
    w = WEIGHTS[name](torch.rand(2, 1, 1, 1, 1) + 0.1, torch.rand(2, 3, 1, 4, 4) + 0.1)
    assert torch.broadcast_shapes(w.shape, (2, 3, 1, 4, 4)) == (2, 3, 1, 4, 4)
    assert (w > 0).all()
    assert Levels.model_validate({"weight": name}).weight == name
