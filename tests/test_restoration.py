"""What is undone is nearer to the truth than what was given, agrees with it, and leaves alone what is known."""

import copy
from dataclasses import replace

import numpy as np
import pytest
import torch

from videodiff import operators
from videodiff.datasets.moving_layers import MovingLayers
from videodiff.guess import guess
from videodiff.noise import NoiseSource
from videodiff.pipeline import open_model
from videodiff.restoration import METHODS, Measurement, first_estimate, lifted, restore
from videodiff.sampling import log_snr, row
from videodiff.settings import Sampling
from videodiff.smoothing import lee
from videodiff.spool import Spool
from videodiff.tasks.restore import estimate_noise
from videodiff.types import Canvas

SHAPE = (8, 3, 32, 32)


def clip() -> torch.Tensor:
    return MovingLayers().batch(torch.Generator().manual_seed(11), 1, 8, (32, 32))[0]


def damaged(x: torch.Tensor, name: str) -> tuple[Measurement, torch.Tensor]:
    """A measurement of x, and it laid out like x."""
    operator, sigma = {
        "denoise": (operators.denoise(SHAPE), 0.1),
        "deblur": (operators.deblur(SHAPE, 1.2), 0.02),
        "upscale": (operators.space_average(SHAPE, 2), 0.0),
        "colorize": (operators.grey(SHAPE, operators.LUMA), 0.0),
    }[name]
    y = operator(x)
    y = y + sigma * torch.randn(y.shape, generator=torch.Generator().manual_seed(3))
    return Measurement(operator, y, sigma), y if name in ("denoise", "deblur") else lifted(operator, y, x)


def canvas_of(frames: torch.Tensor, known: list[int] | None = None, truth: torch.Tensor | None = None) -> Canvas:
    mask = torch.zeros(1, 8, 1, 32, 32, dtype=torch.bool)
    mask[:, known or []] = True
    frames = frames if truth is None else torch.where(mask, truth, frames)
    return Canvas(frames, mask, torch.arange(8)[None])


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return float(10 * torch.log10(4 / (a.clamp(-1, 1) - b).square().mean()))


@pytest.fixture(scope="module")
def bind():
    denoiser = open_model(Sampling(device="cpu", precision="float32")).denoiser
    return lambda canvas: denoiser.bind(canvas, guess(canvas, denoiser.spread))


def walk(unit: float):
    return row("ddim").stepper, log_snr(1.0, 0.02 / unit, 2)


@pytest.mark.parametrize("name", ["denoise", "deblur", "upscale", "colorize"])
@pytest.mark.parametrize("method", METHODS)
def test_the_shipped_network_restores(bind, name, method):
    """Colours need a frame that shows them; the enlarged clip is compared with what bicubic enlargement makes of it,
    which the network hardly betters and the gradient methods do not."""
    x = clip()
    given, frames = damaged(x, name)
    colours = name == "colorize"
    canvas = canvas_of(frames, [0] if colours else None, x)
    if name == "upscale":
        large = torch.nn.functional.interpolate(given.y[0], (32, 32), mode="bicubic")[None]
        before = psnr(large, x)
    else:
        before = psnr(frames[:, 1:] if colours else frames, x[:, 1:] if colours else x)
    steps = list(restore(bind, canvas, given, METHODS[method], walk, NoiseSource((0,)), 2, colours))
    made = steps[-1].z
    after = psnr(made[:, 1:] if colours else made, x[:, 1:] if colours else x)
    print(f"{name} by {method}: {before:.2f} dB, then {after:.2f}")
    assert after > before - (0.5 if name == "upscale" and method != "ddrm" else 0)
    assert [step.n for step in steps] == [*range(1, 9), 8]
    if colours:
        assert torch.equal(made[:, 0], x[:, 0])


@pytest.mark.parametrize("name", ["upscale", "colorize"])
def test_without_noise_the_result_looks_damaged_as_the_clip_did(bind, name):
    given, frames = damaged(clip(), name)
    first, noise = first_estimate(given, canvas_of(frames))
    assert noise == 0
    assert (given.operator(first) - given.y).abs().max() < 1e-4
    *_, last = restore(bind, canvas_of(frames), given, METHODS["ddrm"], walk, NoiseSource((0,)), 2)
    assert (given.operator(last.z) - given.y).abs().max() < 1e-3


def test_the_first_estimate_balances_noise_against_blur():
    """Less is corrected where y is noisier, and nothing in the limit."""
    x = clip()
    changes = []
    for sigma in (1e-3, 1e-2, 1e-1, 10.0):
        operator = operators.deblur(SHAPE, 1.2)
        y = operator(x)
        given = Measurement(operator, y, sigma)
        estimate, noise = first_estimate(given, canvas_of(y))
        gain = estimate - lee(y, torch.tensor([noise]))
        changes.append(float(gain.square().mean().sqrt()))
    assert changes == sorted(changes, reverse=True)
    assert changes[-1] < 1e-3


@pytest.mark.parametrize("name", ["upscale", "deblur"])
def test_the_result_does_not_depend_on_the_basis_that_was_found(bind, name):
    """A singular vector may as well point the other way, on both sides."""
    given, frames = damaged(clip(), name)
    rng = torch.Generator().manual_seed(1)
    turned = copy.deepcopy(given.operator)
    for axis, sides in turned._frames.items():
        sign = torch.randint(0, 2, (len(sides[0]), 1), generator=rng) * 2.0 - 1
        turned._frames[axis] = tuple(side * sign for side in sides)
    made = [
        [
            *restore(
                bind, canvas_of(frames), replace(given, operator=operator), METHODS["ddrm"], walk, NoiseSource((0,)), 1
            )
        ][-1]
        for operator in (given.operator, turned)
    ]
    assert (made[0].z - made[1].z).abs().max() < 1e-4


def test_known_frames_are_never_changed(bind):
    x = clip()
    given, frames = damaged(x, "denoise")
    canvas = canvas_of(frames, [0, 3, 4], x)
    for step in restore(bind, canvas, given, METHODS["ddrm"], walk, NoiseSource((0,)), 1):
        assert torch.equal(step.x0[:, [0, 3, 4]], x[:, [0, 3, 4]])
    assert torch.equal(step.z[:, [0, 3, 4]], x[:, [0, 3, 4]])


@pytest.mark.parametrize("deviation", [0.0, 5.0, 20.0])
def test_noise_is_estimated_within_a_tenth(deviation):
    rng = np.random.default_rng(0)
    smooth = 120 + 60 * np.sin(np.arange(64) / 9)[:, None, None] + np.zeros((64, 64, 3))
    with Spool((64, 64, 3)) as spool:
        for place in range(5):
            spool.put(
                place, (smooth + deviation * rng.standard_normal(smooth.shape)).round().clip(0, 255).astype(np.uint8)
            )
        found = estimate_noise(spool, 5)
    assert abs(found - deviation) < 0.1 * deviation + 0.8
