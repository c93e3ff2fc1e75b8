"""Known pixels come back bit for bit; pulls and mixes do what their equations say."""

import pytest
import torch
from torch import Tensor

from videodiff.conditioning import clamp, put_known, replace
from videodiff.noise import NoiseSource, spread
from videodiff.sampling import SAMPLERS, FirstOrder, Heun, log_snr, sample, sampler
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
