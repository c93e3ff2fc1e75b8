"""Schedules agree with their closed forms and invert; a clip's noise depends on nothing but its own key."""

import math
from pathlib import Path

import numpy as np
import pytest
import torch

from videodiff.errors import UserError
from videodiff.noise import (
    BETAS,
    FAMILIES,
    SCHEDULES,
    NoiseSource,
    alpha,
    cosine,
    edm,
    fixed_variances,
    linear,
    pick,
    posterior,
    shifted_cosine,
    sigma,
    sigmoid,
    spread,
    step_variance,
    subvp,
    table,
    through,
    ve,
)
from videodiff.sampling import karras, log_snr

CONTINUOUS = {name: make for name, make in SCHEDULES.items() if not name.endswith("_table")}


@pytest.fixture(scope="module")
def stored(shared: Path) -> dict[str, np.ndarray]:
    return dict(np.load(shared / "vectors/ode/schedules.npz"))


@pytest.mark.parametrize("name", CONTINUOUS)
def test_a_schedule_falls_and_inverts(name: str) -> None:
    schedule = CONTINUOUS[name]()
    t = torch.linspace(0.002, 0.998, 500, dtype=torch.float64)
    lam = schedule.lam(t)
    assert (lam.diff() < 0).all()
    torch.testing.assert_close(schedule.t(lam), t, rtol=1e-9, atol=1e-9)
    torch.testing.assert_close(schedule.s(t), torch.exp(-lam))


@pytest.mark.parametrize("name", SCHEDULES)
def test_every_schedule_can_be_had_by_name_alone_and_has_finite_ends(name: str) -> None:
    schedule = SCHEDULES[name]()
    ends = schedule.lam(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.isfinite(ends).all()
    assert schedule.family in FAMILIES


def test_closed_forms_match_the_stored_ones(stored: dict[str, np.ndarray]) -> None:
    t = torch.from_numpy(stored["t"])
    expected = {
        "cosine_cont": cosine(),
        **{f"cosine_shift64_{side}": shifted_cosine(side) for side in (32, 128, 256)},
        **{f"sigmoid_tau{tau}": sigmoid(tau=tau) for tau in (0.7, 1.0, 1.1)},
    }
    for name, schedule in expected.items():
        np.testing.assert_allclose(2 * schedule.lam(t).numpy(), stored[f"{name}/logsnr"], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", ["linear", "cosine", "scaled_linear"])
def test_a_table_is_exact_at_its_knots(stored: dict[str, np.ndarray], name: str) -> None:
    schedule = table(torch.from_numpy(stored[f"{name}/beta"]))
    s = torch.from_numpy(stored[f"{name}/s"])
    t = torch.arange(1, 1001, dtype=torch.float64) / 1000
    torch.testing.assert_close(schedule.s(t), s, rtol=1e-10, atol=0)
    torch.testing.assert_close(schedule.t(-s.log()), t, rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(alpha(s).numpy(), stored[f"{name}/alpha"], rtol=1e-11)
    np.testing.assert_allclose(sigma(s).numpy(), stored[f"{name}/sigma"], rtol=1e-11)
    again = table(alphas_cumprod=torch.from_numpy(stored[f"{name}/alpha"]) ** 2)
    torch.testing.assert_close(again.s(t), s, rtol=1e-9, atol=0)


@pytest.mark.parametrize("name", BETAS)
def test_betas_are_the_stored_ones(stored: dict[str, np.ndarray], name: str) -> None:
    np.testing.assert_allclose(BETAS[name]().numpy(), stored[f"{name}/beta"], rtol=0, atol=1e-14)
    s = SCHEDULES[f"{name}_table"]().s(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    np.testing.assert_allclose(s.numpy(), stored[f"{name}/s"], rtol=1e-10)
    np.testing.assert_allclose(-2 * s.log().numpy(), stored[f"{name}/logsnr"], rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize("name", ["linear", "scaled_linear"])
def test_fewer_betas_reach_about_as_much_noise(name: str) -> None:
    ends = [float(table(BETAS[name](n)).lam(torch.tensor(1.0, dtype=torch.float64))) for n in (100, 1000)]
    assert ends[0] == pytest.approx(ends[1], abs=0.5)  # larger betas remove a little more of the signal


@pytest.mark.parametrize("name", BETAS)
def test_the_posterior_is_that_of_the_stored_tables(stored: dict[str, np.ndarray], name: str) -> None:
    s = table(BETAS[name]()).s(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    r = torch.cat([torch.zeros(1, dtype=torch.float64), s[:-1]])  # the first step ends in the data
    step = posterior(s, r)
    atol = 5e-12 if name == "cosine" else 1e-12  # its stored table lost these digits: its first alpha^2 is nearest to 1
    for mine, key in zip(step, ("coef_x0", "coef_xt", "posterior_var"), strict=True):
        np.testing.assert_allclose(mine.numpy(), stored[f"{name}/{key}"], rtol=0, atol=atol)


@pytest.mark.parametrize("name", BETAS)
def test_the_two_fixed_variances_are_beta_and_that_of_the_posterior(stored: dict[str, np.ndarray], name: str) -> None:
    s, alphas, betas = (stored[f"{name}/{key}"] for key in ("s", "alpha", "beta"))
    for i in (1, 10, 500, 999):
        small, large = fixed_variances(s[i], s[i - 1])
        assert small * alphas[i - 1] ** 2 == pytest.approx(stored[f"{name}/posterior_var"][i], rel=1e-9)
        assert large * alphas[i - 1] ** 2 == pytest.approx(betas[i], rel=1e-9)
        # A learned variance is one or the other at its ends, and their geometric mean in the middle.
        u = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
        assert step_variance(s[i], s[i - 1], u).tolist() == [small, pytest.approx(math.sqrt(small * large)), large]
        assert (step_variance(s[i], s[i - 1], 0.0), step_variance(s[i], s[i - 1], 1.0)) == (small, large)


@pytest.mark.parametrize("n", [5, 10, 18, 35])
def test_level_walks_are_the_stored_ones(stored: dict[str, np.ndarray], n: int) -> None:
    np.testing.assert_allclose(karras(80, 0.002, n).levels[:-1], stored[f"karras{n}"], rtol=1e-10)
    np.testing.assert_allclose(log_snr(80, 0.002, n).levels[:-1], stored[f"lu{n}"], rtol=1e-10)


def test_a_table_is_log_linear_between_knots_and_constant_outside() -> None:
    schedule = table([0.1, 0.2, 0.4])
    s = schedule.s(torch.tensor([0.1, 1 / 3, 0.5, 2 / 3, 1.0, 1.2], dtype=torch.float64))
    assert s[2] == pytest.approx(math.sqrt(s[1] * s[3]), rel=1e-12)
    assert s[0] == s[1]
    assert s[4] == s[5]


def test_a_table_that_does_not_fall_is_refused() -> None:
    with pytest.raises(UserError, match="betas"):
        table([0.1, 0.0, 0.1])


def test_the_linear_closed_form_follows_the_thousand_betas() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    t = torch.linspace(0.05, 1, 20, dtype=torch.float64)
    assert (table(betas).lam(t) - linear().lam(t)).abs().max() < 0.04


def test_edm_ends_at_its_levels() -> None:
    s = edm(0.002, 80).s(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert s.tolist() == pytest.approx([0.002, 80])


def test_ve_and_subvp_are_those_of_their_paper() -> None:
    t = torch.linspace(0.01, 1, 50, dtype=torch.float64)
    torch.testing.assert_close(ve(0.01, 50).s(t), 0.01 * 5000**t)
    kept = torch.exp(-0.5 * (0.1 * t + 19.9 * t**2 / 2))  # the mean of both Score-SDE's VP and subVP
    torch.testing.assert_close(alpha(linear().s(t), "vp"), kept)
    torch.testing.assert_close(alpha(subvp().s(t), "subvp"), kept)
    torch.testing.assert_close(sigma(subvp().s(t), "subvp"), 1 - kept**2)


def test_a_schedule_through_knots_inverts_and_must_fall() -> None:
    times, lams = torch.tensor([0.0, 0.3, 1.0]), torch.tensor([4.0, 1.0, -3.0])
    schedule = through(times, lams, "mine")
    t = torch.linspace(0, 1, 11, dtype=torch.float64)
    torch.testing.assert_close(schedule.t(schedule.lam(t)), t)
    assert schedule.lam(torch.tensor(0.65, dtype=torch.float64)) == pytest.approx(-1)
    with pytest.raises(AssertionError):
        through(times, lams.flip(0), "mine")


@pytest.mark.parametrize("family", FAMILIES)
def test_alpha_and_sigma_have_the_right_ratio(family: str) -> None:
    s = torch.logspace(-3, 3, 50, dtype=torch.float64)
    a, b = alpha(s, family), sigma(s, family)
    torch.testing.assert_close(b / a, s)
    total = {"vp": a**2 + b**2, "subvp": a**2 + b, "ve": a, "flow": a + b}[family]
    torch.testing.assert_close(total, torch.ones_like(s))


def test_spread_multiplies_clips_or_frames() -> None:
    z = torch.zeros(2, 3, 1, 4, 4)
    assert spread(torch.ones(2), z).shape == (2, 1, 1, 1, 1)
    assert spread(torch.ones(2, 3), z).shape == (2, 3, 1, 1, 1)


def test_a_wrong_name_gets_the_nearest() -> None:
    with pytest.raises(UserError, match="no schedule 'cosin'; did you mean 'cosine'\\? possible: linear"):
        pick("schedule", "cosin", SCHEDULES)


# ---------------------------------------------------------------------------------------------------------------------


def test_a_clip_gets_its_noise_alone_or_in_a_batch() -> None:
    together = NoiseSource((3, 1, 4, 1)).draw((2, 3, 8, 8), window=5, evaluation=2, kind="step")
    alone = [NoiseSource((seed,)).draw((2, 3, 8, 8), window=5, evaluation=2, kind="step") for seed in (3, 1, 4, 1)]
    assert torch.equal(together, torch.cat(alone))
    assert together.dtype == torch.float32
    assert torch.equal(together[1], together[3])


def test_every_part_of_the_key_changes_the_noise() -> None:
    keys = [
        {"window": window, "evaluation": evaluation, "kind": kind}
        for window in (0, 1, 11)
        for evaluation in (0, 1, 11)
        for kind in ("start", "step", "known")
    ]
    draws = [NoiseSource((seed,)).draw((64,), **key) for seed in (0, 1, 2) for key in keys]  # type: ignore[arg-type]
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == len(draws)
    related = torch.corrcoef(torch.stack([draw.flatten() for draw in draws])).fill_diagonal_(0).abs().max()
    assert related < 0.6  # 81 streams of 64 numbers: 0.5 is expected by chance


def test_a_window_can_be_bound_or_named() -> None:
    source = NoiseSource((7,))
    assert torch.equal(source.at(3).draw((4,)), source.draw((4,), window=3))


def test_noise_leaves_the_global_generator_alone_and_ignores_it() -> None:
    torch.manual_seed(0)
    state = torch.get_rng_state()
    first = NoiseSource((1,)).draw((4,))
    assert torch.equal(state, torch.get_rng_state())
    torch.manual_seed(1)
    assert torch.equal(first, NoiseSource((1,)).draw((4,)))


def test_noise_is_standard_normal() -> None:
    noise = NoiseSource(tuple(range(64))).draw((4096,))
    assert abs(noise.mean()) < 0.01
    assert noise.std() == pytest.approx(1, abs=0.01)
