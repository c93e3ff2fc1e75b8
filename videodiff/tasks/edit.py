"""Redraw a clip, all of it or a part: cover it with noise, and let the network clear it."""

import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff.planner import Timeline
from videodiff.settings import Edit as Request
from videodiff.spool import Spool
from videodiff.tasks.layout import CONTEXT, Edit, Layout, Notes, Shape, first_shape, part_of, read_clip


def lay_out(settings: Request, shape: Shape) -> Notes:
    """All frames are a guide; the mask's brightness is the share of the strength."""
    size = first_shape(settings.input, settings, shape)
    spool = Spool((*size, shape.channels))
    given = yield from read_clip(settings.input, settings, size, spool, 0)
    places = range(given.frames)
    timeline = Timeline((), places, places, given.fps, context=CONTEXT)
    if settings.mask is None:
        return Layout(spool, timeline, Edit(lambda _: settings.strength))

    levels = video.read_levels(settings.mask, size, given.frames, **part_of(settings))
    if not levels.any():
        raise UserError("the mask is black everywhere, so nothing is to change; white marks what is to be redrawn")
    if settings.guide is not None:
        guide = Spool(spool.shape)
        with guide:
            over = yield from read_clip(settings.guide, settings, size, guide, 0, num_frames=given.frames)
            if over.frames < given.frames:
                raise UserError(
                    f"the guide {settings.guide.name} has {over.frames} frames and the clip {given.frames}; "
                    "give one as long, or shorten the clip with --end"
                )
            for place in places:
                spool.put(place, np.where(levels[place][..., None] > 0, guide.get(place), spool.get(place)))
    return Layout(spool, timeline, Edit(lambda place: levels[place] * np.float32(settings.strength / 255)))
