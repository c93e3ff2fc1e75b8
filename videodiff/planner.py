"""How a long clip is cut into windows a network can fill: pure index arithmetic, no tensor.

A window is (observed, new): frames already there, which the network looks at, and frames it fills. What one window
filled, the next may observe (block autoregression), so a clip of any length is a walk of windows of at most K frames.
"""

import re
from bisect import bisect_left, bisect_right, insort
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from videodiff.errors import UserError

MARGIN = 2
"""Frames to see on each side of a hole that has two sides, at least: two give a velocity (chosen, not tuned)."""


@dataclass(frozen=True)
class Timeline:
    """What a task wants of a clip, by places on the time axis of the result.

    given:  places of whole known frames. wanted: places to fill, in the order of filling.
    hole:   which pixels of a wanted frame are wanted, bool [h w] by place; None: all of them.
    shown:  the places that make up the result, in order.
    context: how many frames on one side of new ones a window looks at, at least; None: half a window.
    """

    given: Sequence[int]
    wanted: Sequence[int]
    shown: Sequence[int]
    fps: Fraction
    hole: Callable[[int], np.ndarray] | None = None
    context: int | None = None


@dataclass(frozen=True)
class Window:
    """One call of the network: places it looks at and places it fills, each rising."""

    observed: tuple[int, ...]
    new: tuple[int, ...]


def windows(given: Sequence[int], wanted: Sequence[int], size: int, context: int | None = None) -> Iterator[Window]:
    """Windows of at most `size` frames that fill `wanted` in its order.

    Each takes as many wanted frames as leave room for every known frame among them and for context: `context` frames,
    or half the window, where known frames lie on one side only, MARGIN frames on either side of a hole (one, in windows
    too small for that). Room that is left goes to the nearest known frames.
    """
    assert size >= 3, size  # one on each side of a new one
    context = size // 2 if context is None else min(context, size // 2)
    done, position = sorted(given), 0
    while position < len(wanted):
        fitting: Window | None = None
        for n in range(1, len(wanted) - position + 1):
            window = _window(done, sorted(wanted[position : position + n]), size, context)
            if window is None:
                break
            fitting = window
        assert fitting is not None, (size, position)
        yield fitting
        for place in fitting.new:
            insort(done, place)
        position += len(fitting.new)


def _window(done: list[int], new: list[int], size: int, context: int) -> Window | None:
    """The window that fills `new`, or None if it would be larger than `size`."""
    first, last = bisect_left(done, new[0]), bisect_right(done, new[-1])
    before, after = first, len(done) - last
    least = min(MARGIN, (size - 1) // 2) if before and after else context
    back, ahead = min(before, least), min(after, least)
    room = size - len(new) - (last - first) - back - ahead
    if room < 0:
        return None
    while room > 0 and (back < before or ahead < after):  # nearest first
        left = new[0] - done[first - back - 1] if back < before else None
        right = done[last + ahead] - new[-1] if ahead < after else None
        if right is None or (left is not None and left <= right):
            back += 1
        else:
            ahead += 1
        room -= 1
    return Window(tuple(done[first - back : last + ahead]), tuple(new))


def parse_ranges(text: str, num_frames: int) -> frozenset[int]:
    """Frames named by "10:20,31": 10 to 19, and 31."""
    found: set[int] = set()
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d{1,9})\s*(?::\s*(\d{1,9})\s*)?", part)
        if match is None:
            raise UserError(f"--missing {text!r}: {part!r} is no frame or range; write 10:20,31 for 10 to 19 and 31")
        first = int(match[1])
        stop = int(match[2]) if match[2] else first + 1
        if not first < stop <= num_frames:
            raise UserError(f"--missing {part.strip()}: the clip has frames 0 to {num_frames - 1}")
        found.update(range(first, stop))
    return frozenset(found)
