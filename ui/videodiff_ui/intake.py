"""A clip that was put in: kept, looked through once for its strip of frames, and asked for the settings inside it."""

import secrets
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff.files import link_or_copy
from videodiff.jobs import Store
from videodiff.settings import TASKS, Reading, Task, parse_crop, validate
from videodiff_ui import timeline

READING = ("start", "end", "crop", "fps", "stride")
"""The settings that say which part of a clip is used."""
EXAMPLE = Path(__file__).parent / "static" / "example.mp4"
"""A rendered clip (`datasets/moving_layers.py`), for who has none at hand."""
THUMBNAIL = (48, 64)
LOOK_SIDE = 720
"""Sides at most of a frame that is shown to cut a part out of the clip, in pixels."""
MASK_SIDE = 256
"""Short side of a painted mask at most, in pixels, unless the picture is cropped: more than any network sees."""


@dataclass(frozen=True)
class Taken:
    """A clip as it will be used. frames, thumbnails: of the part that is used; total, times (s): of the whole file.

    even: whether its frames follow each other at one rate. former: the settings it was made with, if it is a result.
    """

    path: Path
    frames: int
    total: int
    fps: Fraction
    width: int
    height: int
    even: bool
    thumbnails: tuple[bytes, ...]
    times: tuple[float, ...]
    pixel_aspect: Fraction = Fraction(1)
    part: tuple[tuple[str, Any], ...] = ()
    former: Task | None = None
    notes: tuple[str, ...] = ()

    def mask_size(self) -> tuple[int, int]:
        """(height, width) in which masks are painted on it."""
        if dict(self.part).get("crop"):
            return self.height, self.width
        scale = min(1.0, MASK_SIDE / min(self.height, self.width))
        return max(1, round(self.height * scale)), max(1, round(self.width * scale))


def keep(upload: Path, store: Store) -> Path:
    """The upload in the store's own folder, under its own name: a job may read it long after the page is gone."""
    store.check_room()
    target = store.uploads / secrets.token_urlsafe(12) / upload.name
    link_or_copy(upload, target)
    return target


def part_of(values: Mapping[str, Any]) -> tuple[tuple[str, Any], ...]:
    """The settings of reading, as typed on the page, that differ from taking all of it; UserError if one is wrong."""
    typed = {name: value for name in READING if (value := values.get(name)) not in (None, "")}
    reading = validate(Reading, typed)
    fields = Reading.model_fields
    return tuple((name, value) for name in READING if (value := getattr(reading, name)) != fields[name].default)


def take(path: Path, values: Mapping[str, Any], last: Taken | None = None) -> Taken:
    """The clip at `path`, the part of it that `values` (settings of reading) leave; `last`: the same clip before."""
    part = part_of(values)
    whole = last if last is not None and last.path == path else None
    if whole is None and part:
        whole = take(path, {})
    choice = dict(part)
    if "crop" in choice:
        try:
            choice["crop"] = parse_crop(choice["crop"])
        except ValueError as error:
            raise UserError(f"crop: {error}") from error
    if "fps" in choice:
        choice["fps"] = Fraction(choice["fps"]).limit_denominator(100_000)
    kept: list[tuple[int, np.ndarray]] = []
    times: list[float] = []
    notes: list[str] = []
    info, every = None, 1
    for item in video.stream(path, size=THUMBNAIL, fit="fit", **choice):
        if isinstance(item, str):
            notes.append(item)
        elif isinstance(item, video.ClipInfo):
            info = item
        else:
            if len(times) % every == 0:
                kept.append((len(times), item.pixels))
            if len(kept) >= 4 * timeline.MOST_CELLS:  # of a long clip fewer and fewer are kept
                kept, every = kept[::2], 2 * every
            times.append(item.time)
    assert info is not None
    if not times:
        raise UserError("no frame lies in the part asked for; change start, end or every n-th frame")
    shown = [min(kept, key=lambda one: abs(one[0] - first))[1] for first, _ in timeline.cells(len(times))]
    gaps = np.diff(times)
    # Pictures in a folder have no times of their own: the frame rate gives them.
    pace = float(whole.fps / info.fps) if whole and path.is_dir() else 1.0
    return Taken(
        path=path,
        frames=len(times),
        total=whole.total if whole else len(times),
        fps=info.fps,
        width=info.width,
        height=info.height,
        even=not len(gaps) or float(gaps.max() - gaps.min()) < 2e-3 + 0.01 * float(gaps.mean()),
        thumbnails=tuple(video.jpeg(frame, max_frames=1) for frame in shown),
        times=tuple(time * pace for time in whole.times) if whole else tuple(times),
        pixel_aspect=info.pixel_aspect,
        part=part,
        former=whole.former if whole else former(path, notes),
        notes=tuple(notes),
    )


def former(path: Path, notes: list[str]) -> Task | None:
    """The request a clip was made with, if it carries one that is valid here; what is wrong with it becomes a note."""
    try:
        found = video.read_metadata(path).get("settings")
        if not isinstance(found, dict) or found.get("kind") not in TASKS:
            return None
        return validate(TASKS[found["kind"]], found, where="the settings inside this clip")
    except UserError as error:
        notes.append(str(error))
        return None


def frame(taken: Taken, place: int) -> np.ndarray:
    """One frame of the whole file, uint8 [h w 3], in the size masks are painted."""
    clip = video.Index().span(taken.path, min(place, taken.total - 1), 1)
    return video.resize(clip.frames, taken.mask_size())[0]


def look(taken: Taken, place: int) -> np.ndarray:
    """One frame of the whole file as it is seen, uint8 [h w 3]: the one that a `start` at its time begins with."""
    width = max(1, round(taken.width * float(taken.pixel_aspect)))
    size = (min(taken.height, LOOK_SIDE), min(width, LOOK_SIDE))
    rate = taken.fps if taken.path.is_dir() else None
    found = video.stream(taken.path, start=taken.times[place], num_frames=1, fps=rate, size=size, fit="fit")
    with closing(found):  # type: ignore[type-var]
        frame = next((item for item in found if isinstance(item, video.Frame)), None)
    if frame is None:
        raise UserError(f"frame {place} cannot be read any more; put the clip in again")
    return frame.pixels
