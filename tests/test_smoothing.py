"""Local means take noise off what is still, and leave what is there."""

import pytest
import torch

from videodiff.smoothing import LEAST, box, lee, local

NOISE = torch.randn(2, 8, 3, 32, 32, generator=torch.Generator().manual_seed(0))


def edge() -> torch.Tensor:
    x = torch.zeros(2, 8, 3, 32, 32)
    x[..., 16:] = 0.8
    return x


@pytest.mark.parametrize("s", [0.05, 0.2, 0.5])
def test_noise_goes_and_edges_stay(s):
    x, level = edge(), torch.full((2,), s)
    noisy = x + s * NOISE
    made = lee(noisy, level)
    flat = torch.zeros(32, dtype=torch.bool)
    flat[2:10] = True
    assert (made - x)[..., flat].std() < 0.25 * s
    assert (made - x).square().mean() < 0.4 * s**2
    step = made[..., 18:].mean() - made[..., :14].mean()
    assert step == pytest.approx(0.8, abs=0.1)


def test_without_noise_a_clip_is_nearly_itself():
    x = edge() + 0.3 * NOISE
    assert (lee(x, torch.full((2,), 1e-3)) - x).abs().max() < 0.05


def test_white_noise_about_nothing_has_no_variance_beyond_its_own():
    mean, v = local(NOISE, torch.ones(2))
    assert mean.square().mean().sqrt() < 0.2
    assert v.sqrt().median() < 0.3
    assert (v >= LEAST**2).all()
    _, v = local(2 * NOISE, torch.ones(2))
    assert v.mean() == pytest.approx(3, rel=0.25)


def test_every_clip_and_frame_has_its_own_level():
    x, levels = edge(), torch.tensor([0.1, 0.4])
    noisy = x + levels[:, None, None, None, None] * NOISE
    both = lee(noisy, levels)
    for i in range(2):
        torch.testing.assert_close(both[i], lee(noisy[i : i + 1], levels[i : i + 1])[0])
    torch.testing.assert_close(both, lee(noisy, levels[:, None].expand(2, 8)))


def test_a_box_is_a_mean_and_repeats_the_border():
    x = NOISE[:, :5]
    torch.testing.assert_close(box(x, (1, 2, 2))[:, 2, :, 10, 10], x[:, 1:4, :, 8:13, 8:13].mean((1, 3, 4)))
    assert torch.allclose(box(torch.ones_like(x), (3, 12, 12)), torch.ones(()))
