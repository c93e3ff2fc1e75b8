"""Fill missing frames, a hole in the picture, or the space around it."""

import re
from collections.abc import Callable

import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff.events import Note
from videodiff.planner import Timeline, parse_ranges
from videodiff.settings import Infill
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Notes, Shape, first_shape, holed, part_of, read_clip


def lay_out(settings: Infill, shape: Shape) -> Notes:
    """The input with frames missing, or with wanted pixels in every frame, or both."""
    size = first_shape(settings.input, settings, shape)
    given_at = Spool((*size, shape.channels))
    given = yield from read_clip(settings.input, settings, size, given_at, 0)
    shown = range(given.frames)
    missing = frozenset() if settings.missing is None else parse_ranges(settings.missing, given.frames)
    if len(missing) == given.frames:
        raise UserError(f"all {given.frames} frames are missing; leave at least one, or use generate")
    if settings.mask is None and settings.canvas is None:
        known = [place for place in shown if place not in missing]
        return Layout(given_at, Timeline(known, sorted(missing), shown, given.fps))

    # --- pixels are wanted in every frame, and all pixels in the missing ones
    spool, (top, left) = given_at, (0, 0)
    if settings.canvas is not None:
        height, width = parse_canvas(settings.canvas, size, shape.multiple)
        if f"{width}x{height}" != settings.canvas.lower().replace(" ", ""):
            yield Note(f"--canvas {settings.canvas} is rounded up to {width}x{height}, which the network can do")
        spool, (top, left) = _widen(given_at, given.frames, (height, width))
    inside = np.zeros(spool.shape[:2], bool)
    inside[top : top + size[0], left : left + size[1]] = True
    masks = _read_masks(settings, size, given.frames)

    def hole(place: int) -> np.ndarray:
        wanted = ~inside
        if masks is not None:
            wanted[inside] |= masks(place).ravel()
        return wanted | (place in missing)

    layout = holed(spool, given.frames, given.fps, hole)
    if not layout.timeline.wanted:
        if masks is None:
            raise UserError(f"nothing to fill: --canvas {settings.canvas} is no larger than the picture")
        raise UserError("the mask is black everywhere, so nothing is to be filled; white marks the pixels to fill")
    return layout


def parse_canvas(text: str, size: tuple[int, int], multiple: int) -> tuple[int, int]:
    """(height, width) of "WIDTHxHEIGHT", at least the picture's size and rounded up to `multiple`."""
    match = re.fullmatch(r"\s*(\d{1,5})\s*[xX]\s*(\d{1,5})\s*", text)
    if match is None:
        raise UserError(f"--canvas {text!r}: write WIDTHxHEIGHT, such as 96x64")
    width, height = (-(-int(n) // multiple) * multiple for n in match.groups())
    if height < size[0] or width < size[1] or max(height, width) > 1024:
        raise UserError(
            f"--canvas {text}: the picture is {size[1]}x{size[0]}; "
            "the canvas must hold it, and be at most 1024 wide or high"
        )
    return height, width


def _widen(given: Spool, num_frames: int, canvas: tuple[int, int]) -> tuple[Spool, tuple[int, int]]:
    """The frames in the middle of a larger canvas, and where they are."""
    height, width, channels = given.shape
    top, left = (canvas[0] - height) // 2, (canvas[1] - width) // 2
    spool = Spool((*canvas, channels))
    for place in range(num_frames):
        frame = np.zeros(spool.shape, np.uint8)
        frame[top : top + height, left : left + width] = given.get(place)
        spool.put(place, frame)
    return spool, (top, left)


def _read_masks(settings: Infill, size: tuple[int, int], num_frames: int) -> Callable[[int], np.ndarray] | None:
    if settings.mask is None:
        return None
    masks = video.read_mask(settings.mask, size, num_frames, **part_of(settings))
    return lambda place: masks[place]
