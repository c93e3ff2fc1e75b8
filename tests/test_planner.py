"""Any clip is filled by windows a network can hold, each frame once, each window seeing what lies round its frames."""

import time
from bisect import bisect_left

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from videodiff.planner import MARGIN, Window, windows


def check(known, wanted, size: int) -> list[Window]:
    """All that holds for every plan."""
    plan = list(windows(known, wanted, size))
    there, filled = set(known), []
    for window in plan:
        assert len(window.observed) + len(window.new) <= size
        assert window.new, "a window that fills nothing"
        assert list(window.new) == sorted(window.new)
        assert list(window.observed) == sorted(window.observed)
        assert set(window.observed) <= there, "what is looked at is there"
        assert not there & set(window.new), "what is filled was not there"
        between = {place for place in there if window.new[0] < place < window.new[-1]}
        assert between <= set(window.observed), "all that is known among the new frames is looked at"
        if there:
            assert window.observed, "with frames there, none is made from nothing"
        seen = set(window.observed)
        for place in (
            p for p in (nearest(there, window.new[0], -1), nearest(there, window.new[-1], 1)) if p is not None
        ):
            assert place in seen, "the nearest frame on each side is looked at"
        there |= set(window.new)
        filled += window.new
    assert sorted(filled) == sorted(wanted), "every wanted frame is filled exactly once"
    assert [sorted(w.new) for w in plan] == [sorted(part) for part in parts(wanted, plan)], "in the order asked for"
    return plan


def nearest(there: set[int], place: int, side: int) -> int | None:
    ordered = sorted(there)
    at = bisect_left(ordered, place)
    if side < 0:
        return ordered[at - 1] if at else None
    return ordered[at] if at < len(ordered) else None


def parts(wanted, plan: list[Window]):
    at = 0
    for window in plan:
        yield wanted[at : at + len(window.new)]
        at += len(window.new)


@given(
    st.lists(st.integers(0, 300), unique=True, max_size=60),
    st.lists(st.integers(0, 300), unique=True, min_size=1, max_size=60),
    st.integers(3, 33),
    st.sampled_from(("rising", "falling")),
)
@settings(max_examples=300, deadline=None)
def test_any_set_of_frames_is_filled_from_any_other(known, wanted, size, order):
    wanted = sorted(set(wanted) - set(known), reverse=order == "falling")
    check(known, wanted, size)


@given(st.integers(3, 20), st.integers(1, 25), st.integers(1, 60), st.booleans())
@settings(max_examples=100, deadline=None)
def test_prediction_looks_at_half_a_window_of_the_latest_frames(size, context, new, backward):
    total = context + new
    known, wanted = range(context), range(context, total)
    if backward:
        known, wanted = range(new, total), range(new - 1, -1, -1)
    for window in check(known, wanted, size):
        observed = len(window.observed)
        assert observed >= min(size // 2, context)
        assert observed + len(window.new) == size or window.observed[0] == 0 or window.observed[-1] == total - 1
        together = sorted((*window.observed, *window.new))
        assert together == list(range(together[0], together[-1] + 1)), "the nearest frames, none left out"


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("size", [3, 4, 5, 8, 16])
def test_interpolation_sees_both_sides_of_each_gap(factor, size):
    shown = range(9 * factor + 1)
    for window in check(shown[::factor], [i for i in shown if i % factor], size):
        assert window.observed[0] < window.new[0]
        assert window.observed[-1] > window.new[-1]
        if size >= 2 * MARGIN + 1:
            assert sum(p < window.new[0] for p in window.observed) >= min(MARGIN, window.new[0])


def test_a_long_hole_is_filled_from_both_its_sides():
    plan = check([*range(10), *range(210, 220)], range(10, 210), 16)
    assert all(window.observed[-1] >= 211 for window in plan), "the far side is always in sight"
    assert len(plan) == -(-200 // 12)


def test_from_nothing_the_first_window_is_full_and_the_rest_go_on():
    first, *rest = check((), range(40), 16)
    assert first == Window((), tuple(range(16)))
    assert [len(window.new) for window in rest] == [8, 8, 8]


@pytest.mark.parametrize("backward", [False, True])
def test_a_hundred_thousand_frames_are_planned_in_seconds(backward):
    began = time.process_time()
    known, wanted = (range(100_000, 100_008), range(99_999, -1, -1)) if backward else (range(8), range(8, 100_008))
    plan = list(windows(known, wanted, 16))
    assert sum(len(window.new) for window in plan) == 100_000
    assert time.process_time() - began < 10


def test_a_hundred_thousand_frames_between_frames_are_planned_in_seconds():
    began = time.process_time()
    plan = list(windows(range(0, 200_001, 2), range(1, 200_000, 2), 16))
    assert sum(len(window.new) for window in plan) == 100_000
    assert time.process_time() - began < 20


def test_a_window_of_256_frames_is_planned_as_fast():
    began = time.process_time()
    assert sum(len(window.new) for window in windows(range(8), range(8, 20_008), 256)) == 20_000
    assert time.process_time() - began < 20


@given(st.integers(1, 60), st.integers(0, 20), st.integers(3, 20))
def test_a_small_context_gives_windows_more_new_frames(frames, context, size):
    """Every window after the first looks back at that many frames, and as many as are left for the last one."""
    plan = list(windows((), range(frames), size, context))
    assert [place for window in plan for place in window.new] == list(range(frames))
    least = min(context, size // 2)
    for number, window in enumerate(plan):
        assert len(window.observed) + len(window.new) <= size
        if number:
            assert len(window.observed) >= least
            assert all(place in window.observed for place in range(window.new[0] - least, window.new[0]))
        if window is not plan[-1]:
            assert len(window.new) == size - (least if number else 0)
