"""Baselines are exact where their assumption holds, and look at nothing but the known frames."""

import sys

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter

from videodiff.baselines import (
    BASELINES,
    FOR,
    flow,
    flow_extrapolation,
    flow_warp,
    last_frame,
    linear_blend,
    mean_of_past,
    nearest,
    warp,
)
from videodiff.errors import MissingExtra
from videodiff.metrics.psnr import compute

PAST, SPACED = [0, 1, 2, 3], [0, 4, 8]


def texture(size: int = 96) -> np.ndarray:
    """A smooth random picture, float [size size] over 0 ... 255."""
    field = gaussian_filter(np.random.default_rng(0).normal(size=(size, size)), 3)
    return 255 * (field - field.min()) / np.ptp(field)


def drifting(num_frames: int, dy: int, dx: int, channels: int = 3) -> np.ndarray:
    """uint8 [t 64 64 c]: a view of a texture that moves by (dy, dx) whole pixels a frame."""
    picture = texture(64 + 2 * 16)
    views = []
    for i in range(num_frames):
        top, left = 16 - dy * i, 16 - dx * i
        views.append(picture[top : top + 64, left : left + 64])
    return np.repeat(np.round(np.stack(views)).astype(np.uint8)[..., None], channels, axis=3)


def inner_psnr(truth: np.ndarray, result: np.ndarray, edge: int = 16) -> float:
    return compute(truth[:, edge:-edge, edge:-edge], result[:, edge:-edge, edge:-edge])["psnr"]


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("known", [PAST, SPACED, [5], [5, 6], [0, 9]])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_baseline_sees_the_known_frames_alone(name: str, known: list[int], channels: int) -> None:
    frames = np.random.default_rng(0).integers(0, 256, (10, 16, 24, channels), dtype=np.uint8)
    wanted = [i for i in range(10) if i not in known]
    result = BASELINES[name](frames, known, wanted)
    assert result.shape == (len(wanted), 16, 24, channels)
    assert result.dtype == np.uint8
    hidden = frames.copy()
    hidden[wanted] = 255 - hidden[wanted]
    np.testing.assert_array_equal(BASELINES[name](hidden, known, wanted), result)


@pytest.mark.parametrize("name", BASELINES)
def test_nothing_moves_in_a_still_clip(name: str) -> None:
    frames = np.repeat(drifting(1, 0, 0), 9, axis=0)
    for known, wanted in ((PAST, [4, 5, 8]), (SPACED, [1, 2, 3, 7])):
        error = BASELINES[name](frames, known, wanted).astype(int) - frames[wanted]
        assert abs(error).max() <= 1, (name, known)


def test_last_nearest_and_mean_are_what_they_say() -> None:
    frames = (10 * np.arange(9, dtype=np.uint8))[:, None, None, None] * np.ones((1, 4, 4, 1), np.uint8)

    def values(baseline, known, wanted) -> list[int]:
        return baseline(frames, known, wanted)[:, 0, 0, 0].tolist()

    assert values(last_frame, PAST, [4, 7]) == [30, 30]
    assert values(last_frame, SPACED, [1, 3, 7]) == [0, 0, 40]
    assert values(last_frame, [4, 6], [1]) == [40]
    assert values(nearest, SPACED, [1, 2, 3, 7]) == [0, 0, 40, 80]
    assert values(mean_of_past, PAST, [4, 7]) == [15, 15]
    assert values(mean_of_past, SPACED, [5]) == [20]


def test_linear_blend_is_exact_for_light_that_changes_evenly() -> None:
    ramp = np.linspace(0, 1, 9)[:, None, None, None]
    frames = np.round(40 + 160 * ramp + 20 * np.eye(8)[None, :, :, None]).astype(np.uint8)
    np.testing.assert_array_equal(linear_blend(frames, SPACED, [1, 2, 3, 5, 6, 7]), frames[[1, 2, 3, 5, 6, 7]])


def test_flow_finds_a_shift() -> None:
    frames = drifting(2, 1, -3)
    found = flow(frames[0], frames[1])[16:-16, 16:-16]
    np.testing.assert_allclose(found.mean((0, 1)), [-3, 1], atol=0.1)  # (x, y)
    np.testing.assert_allclose(found.std((0, 1)), 0, atol=0.2)
    moved = warp(frames[1], flow(frames[0], frames[1]))  # frame 0 fetched from frame 1
    assert inner_psnr(frames[:1], moved[None] / 255) > 38


@pytest.mark.parametrize(("dy", "dx"), [(0, 2), (1, -1), (-2, 1)])
def test_flow_continues_a_steady_motion(dy: int, dx: int) -> None:
    frames = drifting(8, dy, dx)
    wanted = [4, 5, 6, 7]
    ours = inner_psnr(frames[wanted], flow_extrapolation(frames, PAST, wanted))
    assert ours > 30
    assert ours > inner_psnr(frames[wanted], last_frame(frames, PAST, wanted)) + 8


def test_flow_continues_into_the_past_as_well() -> None:
    frames = drifting(8, 0, 2)
    known, wanted = [4, 5, 6, 7], [0, 1, 2, 3]
    mirrored = flow_extrapolation(frames[::-1], PAST, [4, 5, 6, 7])[::-1]
    np.testing.assert_array_equal(flow_extrapolation(frames, known, wanted), mirrored)


def test_flow_continues_over_a_gap_at_the_same_speed() -> None:
    frames = drifting(8, 0, 2)
    result = flow_extrapolation(frames, [0, 2], [4])  # two frames apart, two frames on
    assert inner_psnr(frames[[4]], result) > 32


@pytest.mark.parametrize(("dy", "dx"), [(0, 1), (1, -1)])
def test_flow_meets_in_the_middle_of_a_steady_motion(dy: int, dx: int) -> None:
    frames = drifting(9, dy, dx)
    wanted = [1, 2, 3, 5, 6, 7]
    ours = inner_psnr(frames[wanted], flow_warp(frames, SPACED, wanted))
    assert ours > 32
    assert ours > inner_psnr(frames[wanted], linear_blend(frames, SPACED, wanted)) + 8


def test_every_baseline_fits_some_task() -> None:
    assert {name for names in FOR.values() for name in names} == set(BASELINES)


def test_flow_without_opencv_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cv2", None)
    with pytest.raises(MissingExtra, match=r"videodiff\[metrics\]") as caught:
        flow_warp(drifting(3, 0, 1), [0, 2], [1])
    assert caught.value.exit_code == 7
