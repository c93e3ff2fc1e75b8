"""Go from one clip to another: frame by frame through the noise both come from."""

from pathlib import Path

from videodiff.errors import UserError
from videodiff.planner import Timeline
from videodiff.settings import Morph
from videodiff.spool import Spool
from videodiff.tasks.layout import CONTEXT, Edit, Given, Layout, Notes, Shape, first_shape, read_clip

HELD = 16
"""Frames of a morph between two pictures, if nothing is said."""


def lay_out(settings: Morph, shape: Shape) -> Notes:
    """The first clip's frames, and the second's N places behind them; frame n is turned n / (N - 1) of the way.

    The result begins with the first clip's first frame and ends with the frame that the second has there, both as they
    are. A picture is held for as long as the other moves.
    """
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    with Spool(spool.shape) as first, Spool(spool.shape) as second:
        a = yield from read_clip(settings.input, settings, size, first, 0)
        b = yield from read_clip(settings.to, settings, size, second, 0)
        n = _length(settings, a, b)
        for place in range(n):
            spool.put(place, first.get(min(place, a.frames - 1)))
            spool.put(n + place, second.get(min(place, b.frames - 1)))
    spool.put(n - 1, spool.get(2 * n - 1))

    def start(place: int) -> float:
        return 0.0 if place == n - 1 else place / (n - 1)

    places = range(n)
    edit = Edit(start, coded=True, other=lambda place: n + place)
    return Layout(spool, Timeline((), places, places, a.fps, context=CONTEXT), edit)


def _length(settings: Morph, a: Given, b: Given) -> int:
    """How many frames both have, or were asked for."""
    moving: list[tuple[int, Path]] = [(c.frames, p) for c, p in ((a, settings.input), (b, settings.to)) if c.frames > 1]
    shortest, path = min(moving, default=(HELD if settings.frames is None else settings.frames, settings.input))
    n = shortest if settings.frames is None else settings.frames
    if n > shortest:
        raise UserError(f"{path.name} has {shortest} frames, fewer than --frames {n}; ask for at most {shortest}")
    if n < 3:
        raise UserError(f"{path.name} has {n} frames; a morph needs 3, or a single picture")
    return n
