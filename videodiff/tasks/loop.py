"""Make a clip repeat without a seam: fill in frames between its end and its beginning."""

from videodiff.planner import Timeline
from videodiff.settings import Loop
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape, first_shape, read_clip


def lay_out(settings: Loop, shape: Shape) -> Notes:
    """The clip, the new frames, and then the clip's beginning once more, which is seen but not shown."""
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    given = yield from read_clip(settings.input, settings, size, spool, 0)
    end = given.frames + settings.frames
    for place in range(min(given.frames, shape.window)):  # as much as a window can see
        spool.put(end + place, spool.get(place))
    known = [*range(given.frames), *range(end, end + min(given.frames, shape.window))]
    return Layout(spool, Timeline(known, range(given.frames, end), range(end), given.fps))
