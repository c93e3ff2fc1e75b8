"""Undo damage that is known: noise, blur, missing colour, pixels or frames."""

from dataclasses import replace
from functools import partial

import numpy as np

from videodiff import operators, video
from videodiff.errors import UserError
from videodiff.events import Note
from videodiff.planner import Timeline
from videodiff.settings import Restore
from videodiff.spool import Spool
from videodiff.tasks.layout import (
    CONTEXT,
    LUMA,
    Damage,
    Layout,
    Notes,
    Shape,
    first_shape,
    holed,
    part_of,
    read_clip,
    spaced,
)


def lay_out(settings: Restore, shape: Shape) -> Notes:
    """Of a clip that is damaged all frames are wanted; of one with holes, what is missing."""
    if settings.operator == "slowmo":
        return (yield from spaced(settings, settings.input, shape, settings.factor, slow=True))
    factor = settings.factor if settings.operator == "upscale" else 1
    size = _size(settings, shape, factor)
    small = Spool((*size, shape.channels))
    given = yield from read_clip(settings.input, settings, size, small, 0)
    if settings.operator == "inpaint":
        assert settings.mask is not None
        masks = video.read_mask(settings.mask, size, given.frames, **part_of(settings))
        if not masks.any():
            raise UserError("the mask is black everywhere, so nothing is to be filled; white marks the damaged pixels")
        return holed(small, given.frames, given.fps, lambda place: masks[place])

    if given.frames < 2:
        raise UserError(f"{settings.input} has one frame; restoring goes by its neighbours, so two are needed")
    places, spool = range(given.frames), small
    if factor > 1:
        spool = Spool((size[0] * factor, size[1] * factor, shape.channels))
        for place in places:
            spool.put(place, small.get(place).repeat(factor, 0).repeat(factor, 1))
    coloured = 0
    if settings.operator == "colorize":
        if shape.channels != 3:
            raise UserError("this network knows grey alone; take another --checkpoint to colorize")
        for place in places:
            spool.put(place, (spool.get(place) @ LUMA).round().astype(np.uint8)[..., None].repeat(3, 2))
        if settings.reference is not None:
            reference = yield from read_clip(settings.reference, settings, size, spool, 0, num_frames=given.frames)
            coloured = reference.frames
    if coloured == given.frames:
        raise UserError(f"{settings.reference} has as many frames as the clip, so nothing is left to colorize")
    noise = settings.noise
    if noise is None and settings.operator == "denoise":
        noise = estimate_noise(spool, given.frames)
        yield Note(f"the noise is estimated at {noise:.1f} grey levels (--noise to set it)")
    timeline = Timeline(places[:coloured], places[coloured:], places, given.fps, context=CONTEXT)
    return Layout(spool, timeline, damage=damage_of(settings, noise))


def damage_of(settings: Restore, noise: float | None = None) -> Damage:
    """The damage that a request names, with this noise in grey levels where the request leaves it open."""
    sigma = settings.noise if settings.noise is not None else noise or 0.0
    damage = {
        "denoise": Damage(operators.denoise),
        "deblur": Damage(partial(operators.deblur, width=settings.blur)),
        "upscale": Damage(partial(operators.space_average, factor=settings.factor), reduced=True),
        "colorize": Damage(partial(operators.grey, weights=operators.LUMA), reduced=True),
    }[settings.operator]
    return replace(damage, sigma=(sigma if damage.reduced else max(sigma, ROUNDING)) / 127.5)


ROUNDING = 12**-0.5
"""The noise of bytes, in grey levels: what sharpening must not take for detail."""


def _size(settings: Restore, shape: Shape, factor: int) -> tuple[int, int]:
    """(height, width) at which the input is worked on; one to be enlarged is not made larger to begin with."""
    if factor == 1:
        return first_shape(settings.input, settings, shape)
    own = min(video.read(settings.input, num_frames=1, crop=part_of(settings)["crop"]).frames.shape[1:3])
    multiple = max(1, shape.multiple // factor)
    return first_shape(
        settings.input, settings, replace(shape, side=max(multiple, min(own, shape.side)), multiple=multiple)
    )


def estimate_noise(spool: Spool, num_frames: int, most: int = 32) -> float:
    """The standard deviation of the noise in grey levels: from the finest diagonal differences, which are mostly noise.

    Donoho and Johnstone 1994: the median of their size over 0.6745, here of at most `most` frames, evenly spaced.
    """
    sizes = []
    for place in np.linspace(0, num_frames - 1, min(num_frames, most)).round().astype(int):
        x = spool.get(int(place)).astype(np.float32)
        sizes.append(np.abs(x[:-1, :-1] - x[1:, :-1] - x[:-1, 1:] + x[1:, 1:]) / 2)
    return float(np.median(np.stack(sizes)) / 0.6745)
