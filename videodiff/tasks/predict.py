"""Continue a clip, or say what came before it."""

from videodiff.planner import Timeline
from videodiff.settings import Predict
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape, first_shape, read_clip


def lay_out(settings: Predict, shape: Shape) -> Notes:
    """Context frames, then the new ones after them (forward) or before them (backward)."""
    size, _ = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    context = min(settings.context or shape.window // 2, shape.window - 1)
    new = settings.frames
    # Forward, the context is what the input ends with; backward, what it begins with, moved behind the new frames.
    if settings.direction == "forward":
        given = yield from read_clip(settings.input, settings, size, spool, 0, last=context)
        known, wanted = range(given.frames), range(given.frames, given.frames + new)
    else:
        given = yield from read_clip(settings.input, settings, size, spool, new, num_frames=context)
        known, wanted = range(new, new + given.frames), range(new - 1, -1, -1)
    shown = sorted(wanted) if settings.only_new else range(given.frames + new)
    return Layout(spool, Timeline(known, wanted, shown, given.fps))
