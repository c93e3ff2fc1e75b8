"""Every pattern of known pixels is what its name says, and always leaves something to learn."""

import itertools
from collections import Counter
from typing import get_args

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from videodiff.masks import MASKS, draw
from videodiff.presets import PRESETS
from videodiff.settings import MaskName, Train

WHOLE = sorted(set(MASKS) - {"boxes"})
"""Patterns that give frames whole or not at all."""

seeds = st.integers(0, 2**31)
lengths = st.integers(1, 20)
sides = st.integers(4, 24)


def pattern(name: str, seed: int, t: int, h: int = 8, w: int = 8) -> Tensor:
    return MASKS[name](torch.Generator().manual_seed(seed), t, h, w)


def frames(name: str, seed: int, t: int) -> list[bool]:
    """Which frames a pattern of whole frames gives."""
    return pattern(name, seed, t).flatten(1).all(1).tolist()


def runs(known: list[bool]) -> list[tuple[bool, int]]:
    """Lengths of runs: [(True, 3), (False, 5)] for three known frames, then five wanted."""
    found: list[tuple[bool, int]] = []
    for x in known:
        found[-1:] = [(x, found[-1][1] + 1)] if found and found[-1][0] == x else [*found[-1:], (x, 1)]
    return found


@pytest.mark.parametrize("name", MASKS)
@given(seed=seeds, t=lengths, h=sides, w=sides)
def test_something_is_always_wanted(name: str, seed: int, t: int, h: int, w: int) -> None:
    known = pattern(name, seed, t, h, w)
    assert known.shape == (t, 1, h, w)
    assert known.dtype == torch.bool
    assert not known.all()


@pytest.mark.parametrize("name", MASKS)
@given(seed=seeds, t=lengths)
def test_the_same_generator_state_gives_the_same_mask(name: str, seed: int, t: int) -> None:
    assert torch.equal(pattern(name, seed, t), pattern(name, seed, t))


@pytest.mark.parametrize("name", WHOLE)
@given(seed=seeds, t=lengths)
def test_frames_are_given_whole(name: str, seed: int, t: int) -> None:
    known = pattern(name, seed, t).flatten(1)
    assert torch.equal(known.all(1), known.any(1))


@given(seed=seeds, t=st.integers(2, 20))
def test_the_past_is_first_and_the_future_last(seed: int, t: int) -> None:
    assert [x for x, _ in runs(frames("past", seed, t))] == [True, False]
    assert [x for x, _ in runs(frames("future", seed, t))] == [False, True]


@given(seed=seeds, t=st.integers(3, 20))
def test_both_ends_leave_one_hole(seed: int, t: int) -> None:
    assert [x for x, _ in runs(frames("both_ends", seed, t))] == [True, False, True]


@given(seed=seeds, t=lengths)
def test_half_third_and_nothing_say_how_much(seed: int, t: int) -> None:
    assert sum(frames("half", seed, t)) == t // 2
    assert sum(frames("third", seed, t)) == t // 3
    assert sum(frames("nothing", seed, t)) == 0


@given(seed=seeds, t=st.integers(2, 20))
def test_a_spaced_set_has_one_step(seed: int, t: int) -> None:
    places = [i for i, x in enumerate(frames("spaced_set", seed, t)) if x]
    steps = {b - a for a, b in itertools.pairwise(places)}
    assert len(steps) <= 1
    assert steps <= {2, 3, 4, 6, 8}
    assert places, "a spaced set gives at least one frame"


@pytest.mark.parametrize("name", ["past", "future", "both_ends", "random_set", "spaced_set"])
def test_every_number_of_known_frames_comes_up(name: str) -> None:
    counts = {sum(frames(name, seed, 5)) for seed in range(200)}
    low, high = {"random_set": (0, 4), "both_ends": (2, 4), "spaced_set": (1, 3)}.get(name, (1, 4))
    assert counts == set(range(low, high + 1))


def test_boxes_are_holes_and_rims_that_stand_or_move() -> None:
    kinds: Counter[str] = Counter()
    for seed in range(300):
        known = pattern("boxes", seed, 6, 16, 24)[:, 0]
        partial = known[~known.flatten(1).all(1)]
        assert len(partial), "some frame has a hole"
        hole = ~partial if not partial[:, 0, 0].any() and partial.any() else partial
        for frame in hole:  # rim or hole: either the unknown or the known pixels are one rectangle
            inside = frame if _is_box(frame) else ~frame
            assert _is_box(inside)
            assert 2 <= inside.any(1).sum() <= 0.7 * 16
            assert 2 <= inside.any(0).sum() <= 0.7 * 24
        kinds["moves" if (partial != partial[0]).any() else "stands"] += 1
        kinds["rim" if partial.float().mean() < 0.5 else "hole"] += 1
        kinds["whole frames too" if len(partial) < 6 else "no whole frame"] += 1
    assert min(kinds.values()) > 20, kinds


def _is_box(mask: Tensor) -> bool:
    return bool(mask.any()) and bool((mask.any(1)[:, None] & mask.any(0)[None]).eq(mask).all())


def test_a_mixture_draws_by_weight() -> None:
    known = draw(torch.Generator().manual_seed(0), 4000, 6, (4, 4), {"half": 3, "third": 1, "boxes": 0})
    shares = Counter(known.flatten(2).all(2).sum(1).tolist())
    assert shares.keys() == {3, 2}
    assert shares[3] / 4000 == pytest.approx(0.75, abs=0.03)  # more than 4 standard errors


@given(seed=seeds, b=st.integers(1, 5), t=lengths)
def test_a_batch_has_a_mask_for_each_clip(seed: int, b: int, t: int) -> None:
    known, again = (draw(torch.Generator().manual_seed(seed), b, t, (6, 8), dict.fromkeys(MASKS, 1.0)) for _ in "ab")
    assert known.shape == (b, t, 1, 6, 8)
    assert not known.flatten(1).all(1).any()
    assert torch.equal(known, again)


def test_settings_name_exactly_these_masks() -> None:
    assert set(get_args(MaskName)) == set(MASKS)
    for masks in (
        Train.model_validate({}).masks,
        *(preset.settings["masks"] for preset in PRESETS.values() if "masks" in preset.settings),
    ):
        assert sum(masks.values()) == pytest.approx(1)
