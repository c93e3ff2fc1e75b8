"""Make variations of a clip: turn the noise it comes from towards other noise."""

from videodiff.planner import Timeline
from videodiff.settings import Vary
from videodiff.spool import Spool
from videodiff.tasks.layout import CONTEXT, Edit, Layout, Notes, Shape, first_shape, read_clip


def lay_out(settings: Vary, shape: Shape) -> Notes:
    """All frames are a guide, and all are turned by the same amount."""
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    given = yield from read_clip(settings.input, settings, size, spool, 0)
    places = range(given.frames)
    edit = Edit(lambda _: settings.amount, coded=True)
    return Layout(spool, Timeline((), places, places, given.fps, context=CONTEXT), edit)
