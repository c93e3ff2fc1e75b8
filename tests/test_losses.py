"""How noise levels are drawn for training, and what the weights mean."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videodiff.denoiser import coefficients
from videodiff.losses import (
    MIN_SNR_GAMMA,
    SIGMOID_BIAS,
    WEIGHTS,
    LossHistory,
    draw_t,
    log_uniform,
    lognormal,
    scheduled,
    wanted_mean,
    with_rate,
)
from videodiff.noise import SCHEDULES, alpha, linear, sigma, subvp
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


@pytest.mark.parametrize("name", SCHEDULES)
def test_scheduled_levels_are_those_of_the_schedule(name: str) -> None:
    t = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(scheduled(t, name), SCHEDULES[name]().s(t.double()).float())
    assert Levels.model_validate({"draw": name}).draw == name


def test_only_wanted_pixels_count_and_every_clip_counts_the_same() -> None:
    error = torch.rand(2, 3, 2, 4, 4)
    wanted = torch.zeros(2, 3, 1, 4, 4, dtype=torch.bool)
    wanted[0, 2] = True
    wanted[1, :, :, 1, 1] = True
    expected = torch.stack([error[0, 2].mean(), error[1, :, :, 1, 1].mean()])
    torch.testing.assert_close(wanted_mean(error, wanted), expected)
    torch.testing.assert_close(wanted_mean(error.masked_fill(~wanted, 1e9), wanted), expected)
    assert (wanted_mean(error, torch.zeros_like(wanted)) == 0).all()


def test_no_gradient_reaches_known_pixels() -> None:
    x = torch.rand(1, 2, 1, 4, 4, requires_grad=True)
    wanted = torch.rand(1, 2, 1, 4, 4) < 0.5
    wanted_mean(x.square(), wanted).sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad != 0, wanted)


def test_log_uniform_levels_lie_evenly_between_the_ends() -> None:
    t, s_max = torch.tensor([0.0, 0.25, 1.0]), torch.tensor([1.0, 16.0, 3.0])
    torch.testing.assert_close(log_uniform(t, 0.01, s_max), torch.tensor([0.01, 0.01 * 1600**0.25, 3.0]))


@pytest.mark.parametrize("name", SCHEDULES)
def test_the_rate_is_the_slope_of_lam_and_0_where_the_level_is_held(name: str) -> None:
    schedule, h = SCHEDULES[name](), 1e-6
    t = torch.linspace(0.0505, 0.9505, 19, dtype=torch.float64)  # between the knots of the tables
    s, rate = with_rate(schedule.s, t)
    torch.testing.assert_close(s, schedule.s(t))
    torch.testing.assert_close(rate, (schedule.lam(t - h) - schedule.lam(t + h)) / (2 * h), rtol=1e-5, atol=1e-7)
    s, rate = with_rate(lambda t: schedule.s(t).clamp(min=0.5), t)
    assert (rate[s == 0.5] == 0).all()


# --- Weights ----------------------------------------------------------------------------------------------------------

LEVELS = torch.logspace(-2, 2, 9, dtype=torch.float64)
ONE = torch.ones_like(LEVELS)


@pytest.mark.parametrize(("weight", "output", "sd"), [("eps", "eps", 1), ("v", "v", 1), ("f", "edm", 0.5)])
def test_a_weight_turns_the_error_of_x0_into_that_of_the_output(weight: str, output: str, sd: float) -> None:
    # D = c_skip z + c_out F, so an error of F is an error of D over c_out: w = 1 / c_out^2, whatever the schedule.
    c_out = coefficients(output, LEVELS, "ve" if output == "edm" else "vp", sd).c_out
    w = WEIGHTS[weight](LEVELS, torch.full_like(LEVELS, sd), ONE)
    torch.testing.assert_close(w, 1 / c_out**2)


@pytest.mark.parametrize("weight", ["eps", "v", "min_snr", "truncated_snr", "sigmoid", "likelihood"])
def test_a_weighted_loss_is_the_one_of_its_paper(weight: str) -> None:
    """Clips, noise, a wrong answer of each kind of network, and the loss as the paper writes it."""
    generator = seeded()
    x0, n, wrong = (torch.randn(9, 50, generator=generator, dtype=torch.float64) for _ in range(3))
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    s, rate = with_rate(linear().s, t)
    a, b = alpha(s)[:, None], sigma(s)[:, None]
    x = a * x0 + b * n
    d_eps = (x - b * (n + wrong)) / a  # a network that predicts eps, wrong by `wrong`
    d_v = a * x - b * (a * n - b * x0 + wrong)  # one that predicts v
    snr = (a / b)[:, 0] ** 2
    w = WEIGHTS[weight](s, torch.ones_like(s), rate)

    def ours(d: Tensor) -> Tensor:
        return w * (d - x0).square().sum(1)

    bend = torch.sigmoid(SIGMOID_BIAS - snr.log())
    e_eps = (wrong**2).sum(1)  # = |eps error|^2 of the first network, and |v error|^2 of the second
    as_eps, as_v = {
        "eps": (e_eps, snr / (snr + 1) * e_eps),
        "v": ((snr + 1) / snr * e_eps, e_eps),
        # Hang et al. 2023: min(SNR, gamma) on x0, over SNR on eps, over SNR + 1 on v.
        "min_snr": (snr.clamp(max=5) / snr * e_eps, snr.clamp(max=5) / (snr + 1) * e_eps),
        # Salimans and Ho 2022: max(|x0 error|^2, |eps error|^2).
        "truncated_snr": (torch.maximum(1 / snr, ONE) * e_eps, torch.maximum(1 / (snr + 1), snr / (snr + 1)) * e_eps),
        # Kingma and Gao 2023, section 2: half of w(log SNR) d(log SNR)/dt |eps error|^2; w = 1 is the bound.
        "sigmoid": (bend * rate * e_eps, bend * rate * snr / (snr + 1) * e_eps),
        "likelihood": (rate * e_eps, rate * snr / (snr + 1) * e_eps),
    }[weight]
    torch.testing.assert_close(ours(d_eps), as_eps)
    torch.testing.assert_close(ours(d_v), as_v)


@pytest.mark.parametrize("schedule", ["vp", "subvp"])
def test_likelihood_weighting_is_half_the_squared_diffusion_coefficient(schedule: str) -> None:
    # Song et al. 2021 (ScoreFlow), theorem 1: g^2 / 2 on the error of the score of x, which is that of D over s sigma.
    t = torch.linspace(0.1, 0.9, 9, dtype=torch.float64)
    s, rate = with_rate((linear if schedule == "vp" else subvp)().s, t)
    a, b = alpha(s, schedule), sigma(s, schedule)
    w = WEIGHTS["likelihood"](s, torch.ones_like(s), rate)
    g2 = (0.1 + 19.9 * t) * (1 if schedule == "vp" else 1 - a**4)
    torch.testing.assert_close(w, g2 / 2 / (s * b) ** 2)


def test_the_loss_of_weights_over_lam_does_not_depend_on_the_draw() -> None:
    # With D off by s / (1 + s), |error|^2 = s^2 / (1 + s)^2, integrated over lam between s = .01 and 20.
    t = (torch.arange(200_000, dtype=torch.float64) + 0.5) / 200_000
    exact = math.log(20 / 21) + 1 / 21 - math.log(0.01 / 1.01) - 1 / 1.01
    for weight in ("likelihood", "sigmoid"):
        means = []
        for level in (
            lambda t: log_uniform(t, 0.01, torch.tensor(20.0, dtype=torch.float64)),
            lambda t: lognormal(t, -1.0, 1.4).double().clamp(0.01, 20),
            lambda t: scheduled(t, "cosine").double().clamp(0.01, 20),
            lambda t: scheduled(t, "edm").double().clamp(0.01, 20),
        ):
            s, rate = with_rate(level, t)
            means.append(float((WEIGHTS[weight](s, torch.ones_like(s), rate) * (s / (1 + s)) ** 2).mean()))
        assert means == pytest.approx([exact if weight == "likelihood" else means[0]] * 4, rel=2e-3)


def test_the_f_weight_at_unit_spread_is_the_v_weight() -> None:
    torch.testing.assert_close(WEIGHTS["f"](LEVELS, ONE, ONE), WEIGHTS["v"](LEVELS, ONE, ONE))


def test_truncations_take_hold_where_they_should() -> None:
    snr = 1 / LEVELS**2
    torch.testing.assert_close(WEIGHTS["min_snr"](LEVELS, ONE, ONE), snr.clamp(max=MIN_SNR_GAMMA))
    torch.testing.assert_close(WEIGHTS["truncated_snr"](LEVELS, ONE, ONE), snr.clamp(min=1))
    assert (WEIGHTS["x0"](LEVELS, ONE, ONE) == 1).all()


@pytest.mark.parametrize("name", WEIGHTS)
def test_weights_take_levels_per_clip_or_frame_and_spreads_per_pixel(name: str) -> None:
    sd = torch.rand(2, 3, 1, 4, 4) + 0.1
    for shape in ((2, 1, 1, 1, 1), (2, 3, 1, 1, 1)):
        w = WEIGHTS[name](torch.rand(shape) + 0.1, sd, torch.rand(shape) + 0.1)
        assert torch.broadcast_shapes(w.shape, sd.shape) == sd.shape
        assert (w > 0).all()
    assert Levels.model_validate({"weight": name}).weight == name


@pytest.mark.parametrize("name", [*WEIGHTS, *SCHEDULES])
def test_every_weight_and_schedule_is_in_the_notes_on_method(name: str) -> None:
    text = (Path(__file__).resolve().parents[1] / "docs/method.md").read_text(encoding="utf-8")
    assert any(f"`{name}`" in line.split("|")[1] for line in text.splitlines() if line.startswith("|"))


# --- Drawing where losses are large -----------------------------------------------------------------------------------


def uneven(t: Tensor) -> Tensor:
    """The losses of a frozen network: twenty times larger at one end than at the other, and noisy in between."""
    return (0.05 + t**3) * (1 + 0.5 * torch.sin(200 * t))


def full_history() -> LossHistory:
    history, generator = LossHistory(), seeded()
    for _ in range(100):
        t, _ = history.warp(draw_t(generator, 64, stratified=True))
        history.note(t, uneven(t))
        history.update()
    return history


def test_t_is_uniform_until_every_part_has_its_losses() -> None:
    history, u = LossHistory(), torch.rand(100, generator=seeded())
    history.note(u, u)
    history.update()
    t, weight = history.warp(u)
    torch.testing.assert_close(t, u)
    assert (weight == 1).all()


def test_drawing_by_loss_keeps_the_mean_and_lowers_the_variance() -> None:
    history, draws = full_history(), 200_000
    u = draw_t(seeded(1), draws, stratified=False)
    t, weight = history.warp(u)
    plain, aware = uneven(u), weight * uneven(t)
    exact = uneven((torch.arange(draws) + 0.5) / draws).mean()
    assert aware.mean() == pytest.approx(float(exact), rel=0.01)
    assert aware.var() < plain.var() / 5
    assert (weight * (1 + 0 * t)).mean() == pytest.approx(1, rel=0.01)  # and of any other loss


def test_drawing_by_loss_follows_the_root_mean_square_and_keeps_strata() -> None:
    history = full_history()
    density = history.density()
    assert density.mean() == pytest.approx(1)
    middles = (torch.arange(history.BINS) + 0.5) / history.BINS
    assert torch.corrcoef(torch.stack([density, 0.05 + middles**3]))[0, 1] > 0.98
    u = (torch.arange(1000) + 0.5) / 1000
    t, weight = history.warp(u)
    assert (t.diff() > 0).all()
    # The share of uniform u that falls in a part is the density there, and the weight is its inverse.
    counts = torch.bincount((t * history.BINS).long(), minlength=history.BINS) / 1000 * history.BINS
    torch.testing.assert_close(counts, density, rtol=0, atol=0.04)
    torch.testing.assert_close(weight, 1 / density[(t * history.BINS).long()])


def test_a_history_forgets_and_a_step_that_was_skipped_is_not_in_it() -> None:
    history = full_history()
    before = {name: x.clone() for name, x in history.state().items()}
    history.note(torch.rand(8, generator=seeded()), torch.full((8,), math.nan))
    history.drop()
    history.update()
    assert all(torch.equal(before[name], x) for name, x in history.state().items())
    for _ in range(60):
        u = draw_t(seeded(), 64, stratified=True)
        history.note(u, torch.full_like(u, 3.0))
        history.update()
    torch.testing.assert_close(history.square, torch.full_like(history.square, 9.0), rtol=0.01, atol=0)
