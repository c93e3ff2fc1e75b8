"""Continue a clip, or say what came before it."""

import math

from videodiff import video
from videodiff.errors import UnreadableInput
from videodiff.planner import Timeline
from videodiff.settings import Predict
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape, first_shape, read_clip


def lay_out(settings: Predict, shape: Shape) -> Notes:
    """Context frames, then the new ones after them (forward) or before them (backward)."""
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    context = min(settings.context or shape.window // 2, shape.window - 1)
    new = settings.frames
    # Forward, the context is what the input ends with; backward, what it begins with, moved behind the new frames.
    if settings.direction == "forward":
        late = settings.model_copy(update={"start": _late_start(settings, context)})
        try:
            given = yield from read_clip(settings.input, late, size, spool, 0, last=context)
        except UnreadableInput:
            if late.start == settings.start:
                raise
            given = yield from read_clip(settings.input, settings, size, spool, 0, last=context)  # shorter than it says
        known, wanted = range(given.frames), range(given.frames, given.frames + new)
    else:
        given = yield from read_clip(settings.input, settings, size, spool, new, num_frames=context)
        known, wanted = range(new, new + given.frames), range(new - 1, -1, -1)
    shown = sorted(wanted) if settings.only_new else range(given.frames + new)
    return Layout(spool, Timeline(known, wanted, shown, given.fps))


LONG = 60
"""Seconds from which on a film is not decoded from its beginning, of which only the end is used."""


def _late_start(settings: Predict, context: int) -> float | None:
    """Where to begin reading, in seconds: near the end of a long film, else where the request says."""
    facts = video.probe(settings.input)
    end = min(settings.end or math.inf, facts.duration or 0)
    needed = 10 + 2 * context * settings.stride / float(facts.fps)
    if end < LONG or needed >= end - (settings.start or 0):
        return settings.start
    return end - needed
