"""Masks between keyframes: exact at them, monotone between them, grown and feathered by as much as was said."""

import itertools
import re
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("gradio")

from videodiff import video
from videodiff.errors import UserError
from videodiff_ui import masks, painter

SIZE = (48, 64)
Y, X = np.mgrid[: SIZE[0], : SIZE[1]]


def disc(y: float, x: float, radius: float) -> np.ndarray:
    return np.hypot(Y - y, X - x) <= radius


def made(keyframes: dict, number: int = 11, **options: float) -> np.ndarray:
    return np.stack(list(masks.frames(keyframes, number, SIZE, **options)))


def test_a_keyframe_reproduces_itself_exactly() -> None:
    generator = np.random.default_rng(0)
    keyframes = {0: disc(20, 10, 6), 4: generator.random(SIZE) < 0.3, 10: disc(30, 50, 9) | disc(10, 10, 3)}
    found = made(keyframes)
    for place, mask in keyframes.items():
        np.testing.assert_array_equal(found[place] > 0, mask)


def test_a_moving_area_moves_evenly_and_keeps_its_size() -> None:
    found = made({0: disc(24, 10, 6), 10: disc(24, 52, 6)}) > 0
    centres = [X[mask].mean() for mask in found]
    np.testing.assert_allclose(centres, np.linspace(10, 52, 11), atol=0.5)
    assert all(abs(int(mask.sum()) - int(found[0].sum())) <= 16 for mask in found)


def test_a_growing_area_holds_all_it_held_before() -> None:
    found = made({0: disc(24, 30, 4), 10: disc(24, 30, 15)}) > 0
    for earlier, later in itertools.pairwise(found):
        assert not (earlier & ~later).any()
        assert later.sum() > earlier.sum()


def test_an_area_that_ends_shrinks_to_nothing() -> None:
    found = made({0: disc(24, 30, 10), 10: np.zeros(SIZE, bool)}) > 0
    areas = found.sum((1, 2))
    assert (np.diff(areas) <= 0).all()
    assert areas[0] > 0 == areas[-1]


def test_outside_the_keyframes_the_mask_stays() -> None:
    found = made({3: disc(20, 20, 5), 6: disc(20, 40, 5)}) > 0
    for place in range(3):
        np.testing.assert_array_equal(found[place], disc(20, 20, 5))
    for place in range(6, 11):
        np.testing.assert_array_equal(found[place], disc(20, 40, 5))


def test_a_mask_in_another_size_covers_the_same_part_of_the_picture() -> None:
    mask = np.zeros((240, 320), bool)
    mask[60:120, 80:240] = True
    larger = masks.resized({3: mask}, (480, 640))[3]
    assert larger[120:240, 160:480].all()
    assert larger.sum() == 4 * mask.sum()
    assert np.array_equal(masks.resized({3: larger}, (240, 320))[3], mask)


@pytest.mark.parametrize("grow", [-3, 2, 5])
def test_growing_moves_the_edge_by_so_many_pixels(grow: int) -> None:
    square = (abs(Y - 24) <= 8) & (abs(X - 30) <= 8)
    found = made({0: square}, 1, grow=grow)[0] > 0
    assert found[24].sum() == 17 + 2 * grow
    assert found[:, 30].sum() == 17 + 2 * grow


def test_feathering_is_a_straight_ramp_across_the_edge() -> None:
    half = np.broadcast_to(X < 32, SIZE)
    row = made({0: half}, 1, feather=8)[0][24].astype(float)
    assert row[27] == 255
    assert row[36] == 0
    np.testing.assert_allclose(np.diff(row[28:36]), -255 / 8, atol=1)
    assert abs(row[31] + row[32] - 255) <= 1


def test_the_written_clip_is_read_back_bit_for_bit(tmp_path: Path) -> None:
    keyframes = {0: disc(24, 10, 6), 10: disc(24, 52, 6)}
    path = masks.write(tmp_path / "mask.mkv", masks.frames(keyframes, 11, SIZE, feather=4), Fraction(10))
    np.testing.assert_array_equal(video.read_levels(path, SIZE, 11), made(keyframes, feather=4))


def test_masks_of_another_clip_and_empty_ones_are_refused() -> None:
    for wrong, reason in (
        ({0: np.zeros(SIZE, bool)}, "nothing is painted"),
        ({12: disc(5, 5, 2)}, "kept for frame 12"),
        ({0: np.ones((8, 8), bool)}, "8x8"),
    ):
        with pytest.raises(UserError, match=reason):
            made(wrong)


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (24, 32), SIZE])
def test_a_painted_mask_is_read_as_it_was_sent(size: tuple[int, int]) -> None:
    mask = np.random.default_rng(0).random(size) < 0.5
    place, found = painter.parse(f"7 {size[0]}x{size[1]} {painter.pack(mask)}", 8, size)
    assert place == 7
    assert found.dtype == bool
    np.testing.assert_array_equal(found, mask)


SENT = painter.pack(disc(20, 20, 7))


@pytest.mark.parametrize(
    "sent",
    [
        "",
        "0",
        "0 48x64 ",
        "{}",
        f"12 48x64 {SENT}",  # a frame that the clip does not have
        f"-1 48x64 {SENT}",
        f"0 64x48 {SENT}",  # as many pixels, but another size
        f"0 48x63 {SENT}",
        f"0 48x64 {SENT[:-4]}",
        f"0 48x64 {SENT[:-2]}==",  # as many letters, but fewer bytes
        f"0 48x64 {SENT}AAAA",
        f"0 48x64 {SENT[:-1]}<",
        f"0 48x64 {SENT}\n",
        f"٣ 48x64 {SENT}",  # digits of another script
        f"0 48x64 {'A' * 10_000_000}",
    ],
    ids=lambda sent: sent[:12],
)
def test_anything_else_that_a_browser_sends_is_refused(sent: str) -> None:
    with pytest.raises(UserError, match="choose the frame again"):
        painter.parse(sent, 12, SIZE)


def test_the_painter_starts_with_the_mask_of_its_frame() -> None:
    mask, frame = disc(20, 20, 7), np.full((*SIZE, 3), 100, np.uint8)
    drawn = painter.draw(frame, mask, 3)
    sent = re.search(r'data-mask="([^"]+)"', drawn)
    assert sent is not None
    assert 'data-place="3"' in drawn
    np.testing.assert_array_equal(painter.parse(f"3 48x64 {sent[1]}", 4, SIZE)[1], mask)
    assert painter.draw(frame, mask, 3) != drawn  # so that what was painted since is taken back
