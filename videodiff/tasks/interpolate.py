"""Fill in frames between the frames of a clip, or between two pictures or clips."""

from videodiff.planner import Timeline
from videodiff.settings import Interpolate
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape, first_shape, read_clip, spaced


def lay_out(settings: Interpolate, shape: Shape) -> Notes:
    """Given frames `factor` places apart with the new ones between, or a gap between two inputs."""
    if settings.to is None:
        return (yield from spaced(settings, settings.input, shape, settings.factor, settings.slow))
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    half = max(1, shape.window // 4)  # of each side: as much as a window can see beside the gap
    first = yield from read_clip(settings.input, settings, size, spool, 0, last=half)
    gap = range(first.frames, first.frames + settings.frames)
    second = yield from read_clip(settings.to, settings, size, spool, gap.stop, num_frames=half)
    known = [*range(first.frames), *range(gap.stop, gap.stop + second.frames)]
    return Layout(spool, Timeline(known, gap, range(gap.stop + second.frames), first.fps))
