"""The one loop and what every sampler in it promises: counts, jumps, stopping, types, batches."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import NOISE, gaussian, mixture, problems, walk
from torch import Tensor

from videodiff.conditioning import pigdm, reconstruction
from videodiff.denoiser import Cancelled, cancellable, counted
from videodiff.errors import UserError
from videodiff.guidance import classifier
from videodiff.noise import NoiseSource
from videodiff.operators import Inpaint
from videodiff.sampling import (
    SAMPLERS,
    Evaluate,
    FirstOrder,
    Heun,
    Plan,
    Step,
    log_snr,
    sample,
    sampler,
)


def test_the_first_step_is_the_closed_form() -> None:
    z = torch.tensor([[3.0]], dtype=torch.float64)
    s, r, d = 4.0, 1.0, gaussian(torch.tensor([[3.0]]).double(), torch.tensor([4.0]).double())
    step = next(sample(gaussian, z, Plan((s, r, 0.0)), FirstOrder(), NOISE))
    assert step == Step(0, 1, r, step.z, step.x0)
    torch.testing.assert_close(step.z, d + r / s * (z - d))
    torch.testing.assert_close(step.x0, d)


@pytest.mark.parametrize("name", ["dpm3", "unipc", "heun", "lms", "dpmpp_3m"])
def test_a_gaussian_is_followed_exactly(name: str) -> None:
    z = 80 * NOISE.draw((64,)).double()
    exact = 0.3 + (z - 0.3) * math.sqrt(0.25 / (0.25 + 80**2))
    assert (walk(gaussian, z, log_snr(80, 1e-4, 400), sampler(name)) - exact).abs().max() < 5e-4


@pytest.mark.parametrize("name", SAMPLERS)
def test_single_precision_is_enough_for_the_state(name: str) -> None:
    z, plan = 157 * NOISE.draw((256,)), log_snr(157, 0.01, 20)
    single, double = walk(gaussian, z, plan, sampler(name)), walk(gaussian, z.double(), plan, sampler(name))
    torch.testing.assert_close(single.double(), double, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", SAMPLERS)
def test_a_jump_up_forgets_the_past_and_adds_the_missing_variance(name: str) -> None:
    z = 10 * NOISE.draw((64,)).double()
    steps = list(sample(gaussian, z, Plan((10.0, 5.0, 2.0, 6.0, 3.0, 1.0, 0.0)), sampler(name), NOISE))
    before, after = steps[1], steps[2]
    assert after.n == before.n  # no evaluation
    fresh = NOISE.draw((64,), evaluation=2, kind="step")
    torch.testing.assert_close(after.z, before.z + math.sqrt(6.0**2 - 2.0**2) * fresh)

    class Later:  # the same walk begun there, with the noise keys of the long one
        def draw(self, shape: tuple[int, ...], evaluation: int = 0, kind: str = "start") -> Tensor:
            return NOISE.draw(shape, evaluation=evaluation + 3, kind=kind)

    alone = list(sample(gaussian, after.z, Plan((6.0, 3.0, 1.0, 0.0)), sampler(name), Later()))
    assert torch.equal(alone[-1].z, steps[-1].z)


def test_levels_reach_the_denoiser_per_clip_in_the_type_of_z() -> None:
    def denoise(z: Tensor, s: Tensor) -> Tensor:
        assert s.shape == (3,)
        assert s.dtype == (torch.float64 if z.dtype == torch.float64 else torch.float32)
        assert not torch.is_grad_enabled()
        return gaussian(z, s).to(z.dtype)

    for dtype in (torch.float64, torch.float32, torch.bfloat16):
        z = torch.ones(3, 2, dtype=dtype)
        for step in sample(denoise, z, log_snr(10, 0.1, 4), sampler("ddpm"), NoiseSource((1, 2, 3))):
            assert step.z.dtype == dtype
            assert torch.is_grad_enabled()  # the consumer's own setting is left alone


def test_closing_the_generator_stops_the_evaluations() -> None:
    counts: list[int] = []
    steps = sample(counted(gaussian, counts.append), torch.ones(1, 2), log_snr(80, 0.002, 50), sampler("dpm3"), NOISE)
    for step in steps:
        if step.i == 2:
            steps.close()  # type: ignore[attr-defined]
    assert len(counts) == 3


@pytest.mark.parametrize("name", SAMPLERS)
@pytest.mark.parametrize("after", [1, 2, 3])
def test_cancelling_takes_effect_at_the_next_evaluation(name: str, after: int) -> None:
    counts: list[int] = []  # with Heun, one and three lie between the two evaluations of a step
    denoise = cancellable(counted(gaussian, counts.append), lambda: len(counts) >= after)
    with pytest.raises(Cancelled):
        list(sample(denoise, torch.ones(1, 2), log_snr(80, 0.002, 50), sampler(name), NOISE))
    assert len(counts) == after


def test_a_network_that_breaks_is_named_with_its_level() -> None:
    with pytest.raises(UserError, match="noise level 80 is not finite"):
        list(sample(lambda z, s: z / 0, torch.ones(1, 2), log_snr(80, 0.002, 5), FirstOrder(), NOISE))


def test_before_sees_every_evaluation_with_one_noise_per_move() -> None:
    seen: list[tuple[float, Tensor]] = []

    def before(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        seen.append((s.item(), draw()))
        return z

    plan = Plan((8.0, 2.0, 0.0))
    list(sample(gaussian, torch.ones(1, 2), plan, Heun(), NOISE, before))
    assert [s for s, _ in seen] == [8.0, 2.0, 2.0]
    assert torch.equal(seen[0][1], seen[1][1])
    assert not torch.equal(seen[1][1], seen[2][1])


@pytest.mark.parametrize("file", ["gmm2", "gmm16"])
def test_the_slope_is_the_exact_derivative_along_the_flow_for_two_evaluations(ode: Callable, file: str) -> None:
    data = ode(file)
    for name in problems(data):
        s, a, x, slope = (torch.from_numpy(data[f"{name}/{key}"])[:-1] for key in ("s", "alpha", "x", "deps_ds"))
        for level in range(len(s)):
            evaluate = Evaluate(mixture(data))
            with torch.no_grad():
                _, ours = evaluate.slope(x[level] / a[level], s[level].item())
            # Towards s = 2e4, where dD/ds itself is 6e-9, the stored values keep no more than 1e-11 of it.
            tolerance = 1e-6 * slope[level].abs().amax() + 1e-11 / s[level]
            assert ((ours - slope[level]).abs() <= tolerance).all(), (name, level)
            assert evaluate.n == 2


def test_levels_may_differ_from_clip_to_clip() -> None:
    z, s = torch.randn(3, 2, dtype=torch.float64), torch.tensor([0.1, 2.0, 30.0], dtype=torch.float64)
    node, slope = Evaluate(gaussian).slope(z, s)
    for i in range(3):
        alone, alone_slope = Evaluate(gaussian).slope(z[i : i + 1], s[i].item())
        torch.testing.assert_close(node.eps[i : i + 1], alone.eps)
        torch.testing.assert_close(slope[i : i + 1], alone_slope)


def test_a_denoiser_without_a_derivative_is_refused() -> None:
    def sampling_pixels(z: Tensor, s: Tensor) -> Tensor:
        return torch.nn.functional.grid_sample(z, z[..., :2] * s, align_corners=False)

    with pytest.raises(UserError, match="no forward derivative"):
        Evaluate(sampling_pixels).slope(torch.ones(1, 2, 2, 2), 1.0)
    with pytest.raises(UserError, match="no derivative"):
        Evaluate(lambda z, s: gaussian(z.detach(), s.detach())).slope(torch.ones(1, 2), 1.0)
    # Guidance by a gradient starts it at z, so only the derivative through s would be left: wrong, and finite.
    y = torch.ones(1, 2)
    for guided in (
        reconstruction(gaussian, lambda x: x, y),
        pigdm(gaussian, Inpaint(torch.ones(1, 2, dtype=torch.bool)), y),
        classifier(gaussian, lambda z, s: -z.square().sum(-1), 1.0),
    ):
        with pytest.raises(UserError, match="guidance by a gradient"):
            Evaluate(guided).slope(torch.ones(1, 2), 1.0)
