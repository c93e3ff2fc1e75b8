"""A learned schedule falls whatever its weights, makes the loss vary less, and serves like any other."""

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from videodiff.losses import with_rate
from videodiff.monotone import Monotone, spread_of_loss
from videodiff.noise import NoiseSource, Schedule, linear, spread
from videodiff.sampling import sample, sampler, uniform_t
from videodiff.variational import bound

LAM_MAX, LAM_MIN = 4.6, -5.0  # about the ends of DDPM's linear schedule
VARIANCES = torch.tensor([1e-3, 1e-2, 0.05, 0.25, 1.0, 3.0], dtype=torch.float64)


def denoise(z: Tensor, s: Tensor) -> Tensor:
    """The exact denoiser of independent Gaussian modes N(0, VARIANCES)."""
    return VARIANCES / (VARIANCES + spread(s, z) ** 2) * z


def errors(x0: Tensor, n: Tensor) -> Callable[[Tensor], Tensor]:
    """lam [n] -> |x0 - D|^2 / s^2 of each clip, per dimension."""

    def error(lam: Tensor) -> Tensor:
        s = torch.exp(-lam)[:, None]
        return ((x0 - denoise(x0 + s * n, s[:, 0])) / s).square().mean(1)

    return error


def clips(n: int, seed: int) -> tuple[Tensor, Tensor]:
    """x0 and noise [n, modes]."""
    a, b = torch.randn((2, n, len(VARIANCES)), generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return VARIANCES.sqrt() * a, b


def learn(steps: int) -> Monotone:
    learned = Monotone(LAM_MAX, LAM_MIN)
    optimizer = torch.optim.Adam(learned.parameters(), lr=0.05)
    for step in range(steps):
        x0, n = clips(256, step)
        t = (torch.arange(256, dtype=torch.float64) + 0.5) / 256
        optimizer.zero_grad()
        spread_of_loss(learned, errors(x0, n), t).backward()
        optimizer.step()
    return learned


@pytest.fixture(scope="module")
def learned() -> Schedule:
    return learn(150).schedule()


@given(seed=st.integers(0, 2**31), scale=st.floats(0, 300), learn_ends=st.booleans())
@settings(max_examples=60, deadline=None)
def test_it_falls_from_end_to_end_whatever_the_weights(seed: int, scale: float, learn_ends: bool) -> None:
    net = Monotone(3.0, -6.0, hidden=16, learn_ends=learn_ends)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            if p.requires_grad:
                p.copy_(scale * torch.randn(p.shape, generator=generator, dtype=p.dtype))
    t = torch.linspace(0, 1, 300, dtype=torch.float64)
    lam = net(t).detach()
    assert torch.isfinite(lam).all()
    assert (lam.diff() <= 1e-12 * lam.abs().max()).all()
    if not learn_ends:
        assert lam[[0, -1]].tolist() == pytest.approx([3.0, -6.0], abs=1e-9)


def loss(schedule: Schedule, draws: int = 100_000) -> Tensor:
    """The likelihood loss of as many clips at t uniform between the ends."""
    first, last = (float(schedule.t(torch.tensor(lam, dtype=torch.float64))) for lam in (LAM_MAX, LAM_MIN))
    t = first + (last - first) * (torch.arange(draws, dtype=torch.float64) + 0.5) / draws
    s, rate = with_rate(lambda t: torch.exp(-schedule.lam_of_t(t)), t)
    return (last - first) * rate * errors(*clips(draws, 1))(-s.log())


def test_it_makes_the_loss_vary_nearly_as_little_as_any_schedule_can_and_leaves_its_mean(learned: Schedule) -> None:
    low, high = (1 + VARIANCES * math.exp(2 * lam) for lam in (LAM_MIN, LAM_MAX))
    exact = float((high / low).log().mean()) / 2
    ours, plain = loss(learned), loss(linear())
    assert ours.mean() == pytest.approx(exact, rel=0.01)
    assert plain.mean() == pytest.approx(exact, rel=0.05)
    assert ours.var() < plain.var() / 50
    # The mean square is least where the rate is inverse to the root of E e^2, with e a sum of chi-squares. That wants
    # lam to fall from -3 to -5 within a thousandth of t, where no t of a batch may lie: hence a tenth above.
    lam = torch.linspace(LAM_MIN, LAM_MAX, 2001, dtype=torch.float64)
    share = VARIANCES / (VARIANCES + torch.exp(-2 * lam)[:, None])
    root = (share.mean(1) ** 2 + 2 * (share**2).mean(1) / len(VARIANCES)).sqrt()
    assert ours.square().mean() < 1.15 * float(torch.trapezoid(root, lam)) ** 2


def test_a_learned_schedule_is_inverted_and_walked_like_any_other(learned: Schedule) -> None:
    t = torch.linspace(0, 1, 777, dtype=torch.float64)
    torch.testing.assert_close(learned.t(learned.lam(t)), t, rtol=0, atol=1e-12)
    plan = uniform_t(math.exp(-LAM_MIN), math.exp(-LAM_MAX), 20, learned)
    walked = learned.t(-torch.tensor(plan.levels[:-1], dtype=torch.float64).log())
    torch.testing.assert_close(walked, torch.linspace(1, 0, 20, dtype=torch.float64), rtol=0, atol=1e-9)
    plan, noise = uniform_t(math.exp(-LAM_MIN), math.exp(-LAM_MAX), 100, learned), NoiseSource(tuple(range(500)))
    z = plan.levels[0] * noise.draw((len(VARIANCES),)).double()
    for name in ("ddim", "dpm3", "dpmpp_2m", "ddpm"):
        *_, last = sample(denoise, z, plan, sampler(name), noise)
        ratio = last.z.var(0) / VARIANCES
        assert ((ratio > 0.6) & (ratio < 1.25)).all(), (name, ratio)


def test_the_bound_estimated_with_it_is_the_same_bound(learned: Schedule) -> None:
    x0, _ = clips(100, 2)
    ends, noise = (math.exp(-LAM_MAX), math.exp(-LAM_MIN)), NoiseSource(tuple(range(100)))
    ours, plain = (bound(denoise, x0, *ends, noise, schedule=schedule) for schedule in (learned, None))
    difference = ours.total - plain.total
    assert abs(difference.mean()) < 3 * difference.std() / 10
    assert ours.error.mean() < plain.error.mean()


def test_its_ends_can_be_learned() -> None:
    net = Monotone(3.0, -6.0, learn_ends=True)
    assert net(torch.tensor([0.0, 1.0])).tolist() == pytest.approx([3.0, -6.0])
    net(torch.tensor([0.0])).sum().backward()
    assert net.ends.grad is not None
    assert (net.ends.grad != 0).all()
    fixed = Monotone(3.0, -6.0)
    assert not fixed.ends.requires_grad
