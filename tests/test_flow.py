"""Optical flow finds how a texture moved, and warping by it puts the texture there."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

from videodiff.flow import flow, warp

RIM = 8
"""Pixels from the border within which content that came in or went out spoils the flow."""


def places(h: int, w: int) -> tuple[Tensor, Tensor]:
    """x and y of every pixel, float64 [h w]."""
    y, x = torch.meshgrid(torch.arange(h).double(), torch.arange(w).double(), indexing="ij")
    return x, y


def texture(x: Tensor, y: Tensor, c: int = 1, seed: int = 0) -> Tensor:
    """A smooth endless texture [c h w] at any places: eight waves of 8 to 24 pixels in all directions."""
    length, angle, phase = torch.rand(3, c, 8, 1, 1, generator=torch.Generator().manual_seed(seed)).double()
    k, angle = 2 * math.pi / (8 + 16 * length), 2 * math.pi * angle
    return 1.2 * (k * (angle.cos() * x + angle.sin() * y) + 2 * math.pi * phase).sin().mean(1)


def moved(v: tuple[float, float], h: int = 48, w: int = 48, c: int = 1, seed: int = 0) -> Tensor:
    """The texture moved by v = (x, y) pixels: float32 [1 c h w]."""
    x, y = places(h, w)
    return texture(x - v[0], y - v[1], c, seed)[None].float()


def inside(x: Tensor) -> Tensor:
    return x[..., RIM:-RIM, RIM:-RIM]


def error(found: Tensor, true: Tensor | tuple[float, float]) -> Tensor:
    """Length of the error of a flow away from the border [n h w]."""
    true = torch.tensor(true)[:, None, None] if isinstance(true, tuple) else true
    return inside(found - true).square().sum(1).sqrt()


# ---------------------------------------------------------------------------------------------------------------------
# Flow


@pytest.mark.parametrize("c", [1, 3], ids=["grey", "colour"])
@pytest.mark.parametrize("size", [(48, 48), (33, 47), (47, 33), (24, 40)])
@pytest.mark.parametrize("v", [(0.3, -0.6), (-1.0, 0.0), (1.5, 0.7), (3.0, -2.0), (-2.4, -3.1)])
def test_a_translation_is_found(v: tuple[float, float], size: tuple[int, int], c: int) -> None:
    e = error(flow(moved((0, 0), *size, c), moved(v, *size, c)), v)
    assert e.mean() < 0.1
    assert e.quantile(0.95) < 0.4


@pytest.mark.parametrize("v", [(5.0, 4.0), (-6.0, 1.0), (0.0, 8.0)])
def test_several_pixels_are_found_from_coarse_to_fine(v: tuple[float, float]) -> None:
    e = error(flow(moved((0, 0), 64, 64, 3), moved(v, 64, 64, 3)), v)
    assert e.median() < 0.1
    assert e.quantile(0.8) < 0.5, "more of the border is spoilt: what came in is as wide as the motion"


AFFINE = {
    "turn": [[0.0, -0.05], [0.05, 0.0]],
    "zoom": [[0.06, 0.0], [0.0, 0.06]],
    "shear": [[0.0, 0.08], [0.0, 0.0]],
}


@pytest.mark.parametrize("kind", AFFINE)
def test_an_affine_motion_is_found(kind: str) -> None:
    x, y = places(48, 56)
    centre, shift = torch.tensor([28.0, 24.0]).double(), torch.tensor([0.8, -0.5]).double()
    here = torch.stack([x, y], -1) - centre
    m = torch.tensor(AFFINE[kind]).double()
    displacement = here @ m.T + shift
    # a(p) = b(p + displacement(p)): b is the texture at the p that came there.
    came = (here - shift) @ torch.linalg.inv(torch.eye(2) + m).T + centre
    a, b = texture(x, y, 3)[None], texture(came[..., 0], came[..., 1], 3)[None]
    e = error(flow(a, b), displacement.movedim(-1, 0))
    assert e.mean() < 0.08
    assert e.quantile(0.95) < 0.25


def test_each_half_has_its_own_motion() -> None:
    left, right = (2.0, 0.0), (-1.0, 1.5)
    a, b = moved((0, 0), 48, 96), moved(left, 48, 96)
    b[..., 48:] = moved(right, 48, 96)[..., 48:]
    found = flow(a, b)
    assert error(found[..., :40], left).mean() < 0.1
    assert error(found[..., 56:], right).mean() < 0.1


@pytest.mark.parametrize("size", [(48, 48), (9, 31), (8, 8)])
def test_between_equal_frames_nothing_moves(size: tuple[int, int]) -> None:
    a = moved((0, 0), *size, 3)
    assert flow(a, a).abs().max() < 1e-4


def test_where_there_is_no_texture_nothing_moves() -> None:
    a, b = torch.full((1, 3, 33, 40), -0.3), torch.full((1, 3, 33, 40), 0.9)
    assert flow(a, b).abs().max() < 1e-3, "only rounding has a gradient"


def test_far_from_what_moved_nothing_moves() -> None:
    x, y = places(64, 64)

    def disc(at: float) -> Tensor:
        background = 0.3 * texture(x, y)
        return (background + (-((x - at) ** 2 + (y - 16) ** 2) / 18).exp())[None].float()

    found = flow(disc(16), disc(18))
    assert found[0, :, 16, 16].tolist() == pytest.approx([2, 0], abs=0.3)
    assert found[..., 40:, 40:].abs().max() < 0.05


@pytest.mark.parametrize("size", [(32, 48), (33, 21)])
def test_the_transposed_frames_have_the_transposed_flow(size: tuple[int, int]) -> None:
    a, b = moved((0, 0), *size), moved((1.2, -0.8), *size)
    torch.testing.assert_close(flow(a.mT, b.mT), flow(a, b).flip(1).mT, rtol=0, atol=1e-4)


def test_the_mirrored_frames_have_the_mirrored_flow() -> None:
    a, b = moved((0, 0), 32, 48), moved((1.2, -0.8), 32, 48)
    expected = flow(a, b).flip(-1) * torch.tensor([-1.0, 1.0])[:, None, None]
    torch.testing.assert_close(flow(a.flip(-1), b.flip(-1)), expected, rtol=0, atol=1e-4)


def test_channels_add_up_their_evidence() -> None:
    """Three equal channels are one of sqrt(3) times the contrast: the flow is the same beside the same stiffness."""
    a, b = moved((0, 0)), moved((1.5, 1.0))
    three = flow(a.expand(-1, 3, -1, -1), b.expand(-1, 3, -1, -1))
    torch.testing.assert_close(three, flow(3**0.5 * a, 3**0.5 * b), rtol=0, atol=1e-4)


@pytest.mark.parametrize("size", [(32, 32), (23, 41)])
def test_a_pair_does_not_depend_on_its_batch(size: tuple[int, int]) -> None:
    speeds = [(0.0, 0.0), (1.0, -1.0), (2.5, 0.5), (-4.0, 3.0)]
    a, b = (torch.cat([moved(v, *size, 3, seed=i) for i, v in enumerate(vs)]) for vs in ([(0, 0)] * 4, speeds))
    alone = torch.cat([flow(a[i : i + 1], b[i : i + 1]) for i in range(4)])
    torch.testing.assert_close(flow(a, b), alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (2, 7), (8, 9), (15, 16), (17, 16), (1, 40)])
@pytest.mark.parametrize("fill", [torch.zeros, torch.ones, torch.rand], ids=["black", "white", "noise"])
def test_any_size_and_content_gives_finite_flow(fill: Callable[..., Tensor], size: tuple[int, int]) -> None:
    torch.manual_seed(0)
    a, b = 2 * fill(2, 3, *size) - 1, 2 * torch.rand(2, 3, *size) - 1
    found = flow(a, b)
    assert found.shape == (2, 2, *size)
    assert found.isfinite().all()


def test_in_double_precision_it_is_the_same() -> None:
    a, b = moved((0, 0), c=3), moved((1.5, 0.7), c=3)
    exact = flow(a.double(), b.double())
    assert exact.dtype == torch.float64
    torch.testing.assert_close(flow(a, b).double(), exact, rtol=0, atol=1e-4)


# ---------------------------------------------------------------------------------------------------------------------
# Warp


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize(("dx", "dy"), [(0, 0), (1, 0), (0, -2), (3, 2), (-5, 4)])
def test_whole_pixels_shift_exactly_and_the_border_is_repeated(dx: int, dy: int, dtype: torch.dtype) -> None:
    h, w = 17, 24
    x = torch.randn(2, 3, h, w, dtype=dtype)
    displacement = torch.tensor([dx, dy], dtype=dtype)[:, None, None].expand(2, 2, h, w)
    rows, columns = (torch.arange(h) + dy).clamp(0, h - 1), (torch.arange(w) + dx).clamp(0, w - 1)
    result = warp(x, displacement)
    assert result.dtype == dtype
    torch.testing.assert_close(
        result, x[:, :, rows][..., columns], rtol=0, atol=3e-5 if dtype == torch.float32 else 1e-12
    )


def test_half_a_pixel_is_the_mean_of_two() -> None:
    x = torch.randn(1, 1, 9, 12)
    displacement = torch.tensor([0.5, 0.0])[:, None, None].expand(1, 2, 9, 12)
    expected = (x[..., :-1] + x[..., 1:]) / 2
    torch.testing.assert_close(warp(x, displacement)[..., :-1], expected, rtol=0, atol=1e-5)


def test_each_clip_moves_by_its_own_displacement() -> None:
    x, displacement = torch.randn(3, 2, 9, 12), 3 * torch.randn(3, 2, 9, 12)
    alone = torch.cat([warp(x[i : i + 1], displacement[i : i + 1]) for i in range(3)])
    assert torch.equal(warp(x, displacement), alone)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, 1e30])
def test_a_place_that_is_nowhere_reads_within_the_frame(bad: float) -> None:
    x = torch.rand(2, 3, 16, 20)
    displacement = torch.zeros(2, 2, 16, 20)
    displacement[:, :, 3:9, 4:15] = bad
    result = warp(x, displacement)
    assert result.isfinite().all()
    assert result.min() >= x.min() - 1e-6
    assert result.max() <= x.max() + 1e-6


@pytest.mark.parametrize("c", [1, 3], ids=["grey", "colour"])
def test_warping_by_the_flow_brings_the_second_frame_to_the_first(c: int) -> None:
    a, b = moved((0, 0), 40, 56, c), moved((2.3, -1.1), 40, 56, c)
    before, after = (inside(a - x).square().mean().sqrt() for x in (b, warp(b, flow(a, b))))
    assert after < before / 20


def test_a_warp_has_its_derivative_in_forward_mode() -> None:
    torch.manual_seed(0)
    x, by = torch.randn(2, 3, 6, 9, dtype=torch.float64), 4 * torch.randn(2, 2, 6, 9, dtype=torch.float64)
    change, turn, h = torch.randn_like(by), torch.randn_like(x), 1e-6
    for dx, dby in ((0 * turn, change), (turn, 0 * change), (turn, change)):
        with forward_ad.dual_level():
            duals = (forward_ad.make_dual(a, da) if da.any() else a for a, da in ((x, dx), (by, dby)))
            out, slope = forward_ad.unpack_dual(warp(*duals))
        assert torch.equal(out, warp(x, by))
        difference = (warp(x + h * dx, by + h * dby) - warp(x - h * dx, by - h * dby)) / (2 * h)
        torch.testing.assert_close(slope, difference, rtol=0, atol=1e-6)
