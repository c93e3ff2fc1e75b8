"""Known pixels come back bit for bit; pulls and mixes do what their equations say."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import gaussian_video
from torch import Tensor

from videodiff.conditioning import clamp, low_pass_mix, pigdm, put_known, reconstruction, replace
from videodiff.noise import NoiseSource, spread
from videodiff.operators import (
    Operator,
    average,
    deblur,
    denoise,
    grey,
    inpaint,
    space_average,
    time_average,
)
from videodiff.sampling import SAMPLERS, FirstOrder, Heun, karras, log_snr, sample, sampler
from videodiff.sampling.plans import repaint
from videodiff.types import Canvas

SEEDS = NoiseSource((5, 6))


@pytest.fixture
def canvas() -> Canvas:
    generator = torch.Generator().manual_seed(0)
    frames = torch.rand(2, 4, 3, 8, 8, generator=generator) * 2 - 1
    known = torch.zeros(2, 4, 1, 8, 8, dtype=torch.bool)
    known[:, :2] = True
    known[1, 3, :, 2:6, 2:6] = True  # and a box in the last frame of the second clip
    return Canvas(frames, known, torch.arange(4).repeat(2, 1))


def gaussian(z: Tensor, s: Tensor) -> Tensor:
    """The exact denoiser of N(0.1, 0.25)."""
    return 0.1 + 0.25 / (0.25 + spread(s, z) ** 2) * (z - 0.1)


def start(canvas: Canvas) -> Tensor:
    return 80 * SEEDS.draw(canvas.frames.shape[1:])


@pytest.mark.parametrize("name", SAMPLERS)
def test_clamp_returns_known_pixels_bit_for_bit(canvas: Canvas, name: str) -> None:
    *_, last = sample(clamp(gaussian, canvas), start(canvas), log_snr(80, 0.002, 6), sampler(name), SEEDS)
    known = canvas.known.expand_as(canvas.frames)
    assert torch.equal(last.z[known], canvas.frames[known])
    assert torch.isfinite(last.z).all()


def test_clamp_shows_the_known_clean_and_its_level_as_zero(canvas: Canvas) -> None:
    def denoise(z: Tensor, s: Tensor) -> Tensor:
        known = canvas.known.expand_as(z)
        assert torch.equal(z[known], canvas.frames[known])
        assert s.tolist() == [[0, 0, 2, 2], [0, 0, 2, 2]]  # a frame known in part keeps its level
        return gaussian(z, s)

    for s in (torch.full((2,), 2.0), torch.full((2, 4), 2.0)):
        clamp(denoise, canvas, per_frame=True)(torch.randn_like(canvas.frames), s)


@pytest.mark.parametrize("stepper", [FirstOrder(1.0), Heun()])
def test_replace_noises_the_known_to_the_level_of_every_evaluation(canvas: Canvas, stepper: FirstOrder | Heun) -> None:
    known = canvas.known.expand_as(canvas.frames)
    levels = []

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        noise = ((z - canvas.frames) / spread(s, z))[known]
        assert noise.mean().abs() < 0.1
        assert noise.std() == pytest.approx(1, abs=0.1)
        levels.append(s[0].item())
        return gaussian(z, s)

    plan = log_snr(80, 0.02, 6)
    *_, last = sample(denoise, start(canvas), plan, stepper, SEEDS, before=replace(canvas))
    assert len(levels) == stepper.evaluations(plan)
    result = put_known(last.z, canvas)
    assert torch.equal(result[known], canvas.frames[known])
    assert torch.equal(result[~known], last.z[~known])


def test_replace_is_the_same_alone_and_in_a_batch(canvas: Canvas) -> None:
    plan = log_snr(80, 0.02, 5)

    def run(which: slice) -> Tensor:
        part = Canvas(canvas.frames[which], canvas.known[which], canvas.index[which])
        noise = NoiseSource(SEEDS.seeds[which])
        z = 80 * noise.draw(part.frames.shape[1:])
        *_, last = sample(gaussian, z, plan, FirstOrder(1.0), noise, before=replace(part))
        return last.z

    assert torch.equal(run(slice(0, 2)), torch.cat([run(slice(0, 1)), run(slice(1, 2))]))


# --- RePaint ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("jump", "times"), [(1, 10), (10, 3), (10, 1)])
def test_repaint_jumps_back_and_every_state_has_the_noise_of_its_level(canvas: Canvas, jump: int, times: int) -> None:
    # A network that knows the answer leaves z = x0 + s n everywhere: after a jump too, which a difference of levels
    # instead of a root of a difference of squares would not, and in the known region at the level of the evaluation.
    known = canvas.known.expand_as(canvas.frames)
    levels: list[float] = []

    def knows(z: Tensor, s: Tensor) -> Tensor:
        noise = (z - canvas.frames) / spread(s, z)
        for region in (noise[known], noise[~known]):
            assert region.std() == pytest.approx(1, abs=4.5 / math.sqrt(2 * len(region)))
            assert region.mean() == pytest.approx(0, abs=4.5 / math.sqrt(len(region)))
        levels.append(s[0].item())
        return canvas.frames

    plan = repaint(karras(80, 0.01, 31), jump, times)
    z = canvas.frames + 80 * SEEDS.draw(canvas.frames.shape[1:])
    steps = list(sample(knows, z, plan, FirstOrder(1.0), SEEDS, replace(canvas)))
    assert len(levels) == steps[-1].n == 31 + 30 // jump * jump * (times - 1)
    rises = sum(b > a for a, b in itertools.pairwise(levels))
    assert rises == (30 // jump * (times - 1) if jump > 1 else 0)  # a jump of one level returns to the level it left
    assert sum(b >= a for a, b in itertools.pairwise(levels)) == 30 // jump * (times - 1)
    assert torch.equal(put_known(steps[-1].z, canvas), canvas.frames)


# --- Gradients --------------------------------------------------------------------------------------------------------

SHAPE = (6, 3, 8, 8)
OPERATORS: dict[str, Operator] = {
    "inpaint": inpaint(torch.rand(2, 6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5),
    "denoise": denoise(SHAPE),
    "space": space_average(SHAPE, 4),
    "time": time_average(SHAPE),
    "both": average(SHAPE, space=2, time=4),
    "grey": grey(SHAPE),
    "deblur": deblur(SHAPE),
}


def clips(seed: int, b: int = 2) -> Tensor:
    return torch.randn(b, *SHAPE, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def levels(*shape: int) -> Tensor:
    return 0.3 + torch.rand(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


@pytest.mark.parametrize("s", [levels(2), levels(2, 6)], ids=["level per clip", "level per frame"])
@pytest.mark.parametrize("name", OPERATORS)
def test_reconstruction_is_its_closed_form_for_independent_pixels(name: str, s: Tensor) -> None:
    operator, z = OPERATORS[name], clips(1)
    y = operator(clips(2))
    x0, shrink = gaussian(z, s), 0.25 / (0.25 + spread(s, z) ** 2)
    expected = x0 + 3 * shrink * operator.adjoint(y - operator(x0))
    guided = reconstruction(gaussian, operator, y, 3.0)(z, s)
    torch.testing.assert_close(guided, expected, rtol=0, atol=1e-12)
    assert not guided.requires_grad


def test_reconstruction_is_its_closed_form_for_a_gaussian_video(ode: Callable[[str], dict[str, np.ndarray]]) -> None:
    network, z, s = gaussian_video(ode("gauss_video")), clips(1), levels(2)
    x0 = network(z, s)
    for operator in OPERATORS.values():
        y = operator(clips(2))
        # D is affine and its Jacobian symmetric, so J' v = D(z + v) - D(z).
        expected = x0 + 2 * (network(z + operator.adjoint(y - operator(x0)), s) - x0)
        torch.testing.assert_close(reconstruction(network, operator, y, 2.0)(z, s), expected, rtol=0, atol=1e-11)


def test_reconstruction_takes_any_function_that_can_be_differentiated() -> None:
    z, s, y = clips(1), levels(2), clips(2).tanh()
    x0, shrink = gaussian(z, s), 0.25 / (0.25 + spread(s, z) ** 2)
    expected = x0 + shrink * (1 - x0.tanh() ** 2) * (y - x0.tanh())
    torch.testing.assert_close(reconstruction(gaussian, torch.tanh, y, 1.0)(z, s), expected, rtol=0, atol=1e-12)


def unit_gaussian(z: Tensor, s: Tensor) -> Tensor:
    """The exact denoiser of N(0, 1)."""
    return z / (1 + spread(s, z) ** 2)


@pytest.mark.parametrize("sigma_y", [0.0, 0.2])
@pytest.mark.parametrize("name", OPERATORS)
def test_pigdm_is_bayes_rule_for_unit_gaussian_pixels(name: str, sigma_y: float) -> None:
    # There r^2 is the true variance of x0 given z, so E[x0 | z, y] = D + r^2 A' (r^2 A A' + sigma_y^2)^-1 (y - A D).
    operator, z, s = OPERATORS[name], clips(1), levels(2)
    y = operator(clips(2)) + sigma_y * operator(clips(3))
    x0, r2, singular = unit_gaussian(z, s), spread(s**2 / (1 + s**2), z), operator.singular
    gain = torch.where(singular > 0, r2 * singular / (r2 * singular**2 + sigma_y**2), 0.0)
    expected = x0 + operator.from_spectrum(gain * operator.spectrum_of(y - operator(x0)))
    guided = pigdm(unit_gaussian, operator, y, sigma_y)(z, s)
    scale = gain.max() if name == "deblur" else 1.0  # which divides by what the blur nearly hides
    assert (guided - expected).abs().max() < 1e-10 * scale


@pytest.mark.parametrize("s", [levels(2), levels(2, 6)], ids=["level per clip", "level per frame"])
def test_pigdm_of_known_pixels_is_reconstruction_with_its_weight(s: Tensor) -> None:
    operator, z = OPERATORS["inpaint"], clips(1)
    y = operator(clips(2))
    plain, guided = gaussian(z, s), reconstruction(gaussian, operator, y, 1.0)(z, s)
    expected = plain + (1 + spread(s, z) ** 2) * (guided - plain)
    torch.testing.assert_close(pigdm(gaussian, operator, y)(z, s), expected, rtol=0, atol=1e-12)


def test_pigdm_is_finite_where_a_frame_is_clean() -> None:
    operator, s = OPERATORS["inpaint"], levels(2, 6)
    s[:, 0] = 0
    y = operator(clips(2))
    for sigma_y in (0.0, 0.1):
        assert torch.isfinite(pigdm(gaussian, operator, y, sigma_y)(clips(1), s)).all()


def test_gradients_keep_clips_apart_and_pass_the_network_once(ode: Callable[[str], dict[str, np.ndarray]]) -> None:
    exact, calls = gaussian_video(ode("gauss_video")), []

    def network(z: Tensor, s: Tensor) -> Tensor:
        calls.append(len(z))
        return exact(z, s)

    operator, z, s = OPERATORS["deblur"], clips(1).float(), torch.tensor([0.4, 2.0])
    y = operator(clips(2).float())
    for make in (reconstruction, pigdm):
        calls.clear()
        together = make(network, operator, y)(z, s)
        assert calls == [2]
        alone = [make(network, operator, y[i : i + 1])(z[i : i + 1], s[i : i + 1]) for i in range(2)]
        torch.testing.assert_close(together, torch.cat(alone), rtol=1e-5, atol=1e-5)
        assert together.dtype == torch.float32


# --- ILVR -------------------------------------------------------------------------------------------------------------

LOW_PASS = {"space": average(SHAPE, space=4), "time": average(SHAPE, time=3), "both": average(SHAPE, space=2, time=2)}


@pytest.mark.parametrize("name", LOW_PASS)
def test_a_low_pass_is_a_projection(name: str) -> None:
    low_pass, x = LOW_PASS[name], clips(1)
    once = low_pass.pinv(low_pass(x))
    torch.testing.assert_close(low_pass.pinv(low_pass(once)), once, rtol=0, atol=1e-12)
    torch.testing.assert_close(once, low_pass.adjoint(low_pass(x)) / low_pass.singular.max() ** 2, rtol=0, atol=1e-12)
    blocks = {"space": (1, 4, 4), "time": (3, 1, 1), "both": (2, 2, 2)}[name]
    view = once.unfold(1, blocks[0], blocks[0]).unfold(3, blocks[1], blocks[1]).unfold(4, blocks[2], blocks[2])
    assert (view - view.mean((-1, -2, -3), keepdim=True)).abs().max() < 1e-12  # constant in each block


@pytest.mark.parametrize("s_stop", [0.02, 0.2])
@pytest.mark.parametrize("name", LOW_PASS)
def test_a_sample_keeps_the_rough_shapes_of_its_reference(
    ode: Callable[[str], dict[str, np.ndarray]], name: str, s_stop: float
) -> None:
    data, low_pass = ode("gauss_video"), LOW_PASS[name]
    reference, network = torch.from_numpy(data["data"]), gaussian_video(data)
    source = NoiseSource(tuple(range(len(reference))))
    plan = karras(80, 0.01, 40)

    def run(hook: bool) -> Tensor:
        before = low_pass_mix(reference, low_pass, s_stop) if hook else None
        *_, last = sample(network, 80 * source.draw(SHAPE).double(), plan, FirstOrder(1.0), source, before)
        return low_pass(last.z - reference).square().mean().sqrt()

    assert run(hook=True) < 2 * s_stop
    assert run(hook=False) > 0.2  # without it they are other clips


def test_coarser_low_passes_leave_more_freedom(ode: Callable[[str], dict[str, np.ndarray]]) -> None:
    data = ode("gauss_video")
    reference, network = torch.from_numpy(data["data"]), gaussian_video(data)
    source = NoiseSource(tuple(range(len(reference))))
    distances = []
    for factor in (1, 2, 4, 8):
        before = low_pass_mix(reference, average(SHAPE, space=factor), 0.02)
        z = 80 * source.draw(SHAPE).double()
        *_, last = sample(network, z, karras(80, 0.01, 40), FirstOrder(1.0), source, before)
        distances.append(float((last.z - reference).square().mean().sqrt()))
    assert distances == sorted(distances)
    assert distances[-1] > 3 * distances[0]


def test_mixing_stops_below_its_level_and_knows_clips_apart() -> None:
    reference, z = clips(1), clips(2)
    before = low_pass_mix(reference, LOW_PASS["both"], s_stop=1.0)
    noise = clips(3)
    s = torch.tensor([0.5, 1.0], dtype=torch.float64)
    mixed = before(z, s, lambda: noise)
    assert torch.equal(mixed[0], z[0])
    wanted = LOW_PASS["both"](reference + noise)[1]
    torch.testing.assert_close(LOW_PASS["both"](mixed)[1], wanted, rtol=0, atol=1e-12)
    rest = mixed - z - LOW_PASS["both"].pinv(LOW_PASS["both"](mixed - z))
    assert rest.abs().max() < 1e-12  # the fine shapes are those of z
