"""What all tasks share: the shape frames must have for a network, and reading an input into a spool at that shape."""

from collections.abc import Callable, Generator, Iterable
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videodiff import video
from videodiff.errors import UnreadableInput, UserError
from videodiff.events import Note
from videodiff.operators import Operator
from videodiff.planner import Timeline
from videodiff.settings import Reading, parse_crop
from videodiff.spool import Spool

CONTEXT = 4
"""Frames of one window that the next one of an edit looks at: few, as it has a guide too (chosen, not tuned)."""

LUMA = np.array((0.299, 0.587, 0.114), np.float32)
"""Rec. 601 weights of red, green and blue in grey."""


@dataclass(frozen=True)
class Shape:
    """What a network asks of frames: short side in pixels, divisor of both sides, channels, frames in a window."""

    side: int
    multiple: int
    channels: int
    window: int


@dataclass(frozen=True)
class Edit:
    """The frames in the spool are not lost: they are a guide, and the result keeps something of it.

    start: by place, how much is to change, 0 (nothing, bit for bit) to 1 (all): a number, or float32 [h w].
    coded: False: noise is added to the guide, up to the level that `start` names, and sampled away (SDEdit). True: the
           noise that the guide comes from is found, turned by `start` towards other noise, and sampled.
    other: with `coded`, by place, where the frame lies whose noise is turned to; None: fresh noise.
    """

    start: Callable[[int], np.ndarray | float]
    coded: bool = False
    other: Callable[[int], int] | None = None

    def share(self, places: Iterable[int]) -> float:
        """The largest `start` among these places."""
        return max(float(np.max(self.start(place))) for place in places)


@dataclass(frozen=True)
class Damage:
    """The wanted frames are there, but damaged: operator(frames) + sigma n is left of them, frames in [-1, 1].

    operator: for clips of the shape (t, c, h, w) it is given. reduced: what is left is smaller or has fewer channels,
    and the spool holds the frames that the operator makes it of; else the spool holds what is left.
    """

    operator: Callable[[tuple[int, int, int, int]], Operator]
    sigma: float = 0.0
    reduced: bool = False


@dataclass(frozen=True)
class Layout:
    """Frames in a spool, and what is wanted of them."""

    spool: Spool
    timeline: Timeline
    edit: Edit | None = None
    damage: Damage | None = None


@dataclass(frozen=True)
class Given:
    """What was read of an input: how many frames, at which rate."""

    frames: int
    fps: Fraction


Notes = Generator[Note, None, Layout]


def first_shape(path: Path, settings: Reading, shape: Shape) -> tuple[int, int]:
    """(height, width) at which the network takes this input."""
    crop, side = part_of(settings)["crop"], settings.size or shape.side
    clip = video.read(path, num_frames=1, crop=crop, short_side=side, multiple=shape.multiple, fit="crop")
    return clip.frames.shape[1:3]


def read_clip(
    path: Path, settings: Reading, size: tuple[int, int], spool: Spool, place: int, step: int = 1, **choice: Any
) -> Generator[Note, None, Given]:
    """Read frames into the spool at `place`, `place + step`, ...; Notes say how the input was changed to fit.

    `choice` (num_frames, last) goes to `video.stream`.
    """
    part = part_of(settings)
    fps = part["fps"]
    frames = video.stream(path, size=size, fit="crop", **part, **choice)
    count, rate = 0, fps or Fraction(10)
    with closing(frames):  # type: ignore[type-var]
        for item in frames:
            if isinstance(item, str):
                yield Note(item)
            elif isinstance(item, video.ClipInfo):
                rate = fps or item.fps / settings.stride
                height, width = part["crop"][:2] if part["crop"] else (item.height, item.width)
                if (height, width) != size:
                    yield Note(
                        f"{path.name} is {width}x{height}{' as cropped' if part['crop'] else ''}; "
                        f"worked on at {size[1]}x{size[0]}, the size the network takes (--size for another)"
                    )
                if spool.shape[2] == 1:
                    yield Note(f"the network knows grey alone; colours of {path.name} are dropped")
                if item.has_audio:
                    yield Note(f"the sound of {path.name} is left out")
            else:
                spool.put(place + step * count, to_channels(item.pixels, spool.shape[2]))
                count += 1
    if count == 0:
        raise UnreadableInput(f"{path}: no frame lies in the part asked for; change --start, --end or --stride")
    return Given(count, rate)


def spaced(settings: Reading, path: Path, shape: Shape, factor: int, slow: bool) -> Notes:
    """The frames of a clip `factor` places apart, with new ones between; `slow` keeps the frame rate."""
    size = first_shape(path, settings, shape)
    spool = Spool((*size, shape.channels))
    given = yield from read_clip(path, settings, size, spool, 0, step=factor)
    if given.frames < 2:
        raise UserError(f"{path} has one frame; two are needed to put others between")
    shown = range((given.frames - 1) * factor + 1)
    wanted = [place for place in shown if place % factor]
    return Layout(spool, Timeline(shown[::factor], wanted, shown, given.fps * (1 if slow else factor)))


def holed(spool: Spool, num_frames: int, fps: Fraction, hole: Callable[[int], np.ndarray]) -> Layout:
    """Frames of which the pixels in `hole`, bool [h w] by place, are wanted; those without any are given whole."""
    shown = range(num_frames)
    touched = [place for place in shown if hole(place).any()]
    return Layout(spool, Timeline(sorted(set(shown) - set(touched)), touched, shown, fps, hole))


def part_of(settings: Reading) -> dict[str, Any]:
    """Which part of an input is used, as the readers of `video` take it."""
    fps = None if settings.fps is None else Fraction(settings.fps).limit_denominator(100_000)
    crop = None if settings.crop is None else parse_crop(settings.crop)
    return {"start": settings.start, "end": settings.end, "fps": fps, "stride": settings.stride, "crop": crop}


def to_channels(frame: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [h w 3] as [h w channels]."""
    if channels == 3:
        return frame
    return (frame @ LUMA).round().astype(np.uint8)[..., None]
