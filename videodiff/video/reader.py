"""Clips from files: `probe`, `read`, `stream`, `read_mask`, and `Index` for spans out of the middle.

Files are decoded in a child process with limits (`guard`), unless they are `trusted`: written by ourselves just now.
Errors are typed: `UnreadableInput` for what is not a usable video, `LimitExceeded` for what asks for too much. A file
that is damaged half-way gives the frames before the damage, and a note.

Times are seconds from the first frame. `start` and `end` are such times; a frame belongs to the clip if start <= time <
end. `fps` resamples by time stamps, to what a player would show at those moments; without it the frames come as they
are stored, every `stride`-th, with their own times. For a folder of pictures, `fps` is the rate they were taken at (10
if not given). `num_frames` and `last` keep at most so many from the beginning or from the end.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video import guard
from videodiff.video.shapes import (
    INTERLACED,
    VIDEO,
    Clip,
    ClipInfo,
    Frame,
    Limits,
    Request,
    Table,
    from_plain,
    to_plain,
)

DEFAULT_LIMITS = Limits()
Pathlike = str | os.PathLike


def probe(path: Pathlike, limits: Limits = DEFAULT_LIMITS, *, trusted: bool = False) -> ClipInfo:
    """What a file says of itself, from its headers and its first frame."""
    return guard.answer(Request(os.fspath(path), "probe", limits=limits), trusted)


def read(
    path: Pathlike,
    *,
    start: float | None = None,
    end: float | None = None,
    fps: Fraction | float | None = None,
    stride: int = 1,
    num_frames: int | None = None,
    last: int | None = None,
    crop: tuple[int, int, int, int] | None = None,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    multiple: int = 1,
    fit: str = "fit",
    limits: Limits = DEFAULT_LIMITS,
    trusted: bool = False,
) -> Clip:
    """A whole clip: frames uint8 [t h w 3] RGB with their times.

    Choice: start, end (s), fps, stride, num_frames (the first so many), last (only the last so many, kept in bounded
    memory); crop=(h, w, top, left) leaves that part of the upright picture. Size: size=(h, w) with fit='fit' (inside
    it), 'crop' (fill, cut the centre) or 'pad' (black bars), or short_side (pixels); multiple makes both sides
    divisible. The aspect ratio is always kept.
    """
    choice = {"start": start, "end": end, "fps": fps, "stride": stride, "num_frames": num_frames, "last": last}
    shape = {"crop": crop, "size": size, "short_side": short_side, "multiple": multiple, "fit": fit}
    request = _request(path, limits, keep=True, **choice, **shape)
    info, frames, notes = _collect(guard.perform(request, trusted))
    if not frames:
        raise UnreadableInput(
            f"{Path(path).name}: no frame between start {request.start or 0:g} s and end "
            f"{'of the file' if request.end is None else f'{request.end:g} s'}"
            f"{'' if info.duration is None else f'; it is {info.duration:.2f} s long'}"
        )
    times = tuple(frame.time for frame in frames)
    fps = request.fps or info.fps / request.stride
    return Clip(_stacked(frames), fps, times, info, tuple(notes), os.fspath(path))


def stream(path: Pathlike, *, limits: Limits = DEFAULT_LIMITS, trusted: bool = False, **wanted: Any) -> Iterator[Any]:
    """The frames of `read` one by one, in bounded memory: first the ClipInfo, then Frames, with notes (str) in between.

    `wanted` are the choice and size that `read` takes. As nothing is kept, `max_bytes` does not apply.
    Close the generator to stop: the decoder is ended at once.
    """
    return guard.perform(_request(path, limits, keep=False, **wanted), trusted)


def read_mask(path: Pathlike, size: tuple[int, int], num_frames: int, **options: Any) -> np.ndarray:
    """bool [t h w], True where the mask is white (to fill); `options` are those of `read_levels`."""
    return read_levels(path, size, num_frames, **options) >= 128


def read_levels(
    path: Pathlike,
    size: tuple[int, int],
    num_frames: int,
    *,
    fit: str = "crop",
    limits: Limits = DEFAULT_LIMITS,
    trusted: bool = False,
    **choice: Any,
) -> np.ndarray:
    """uint8 [t h w], how bright a mask is: a picture is used for all frames, a clip frame by frame.

    `choice` (start, end, fps, stride, crop) is that of the clip the mask belongs to; of a picture, only crop counts.
    """
    still = probe(path, limits, trusted=trusted).num_frames == 1
    chosen = {"crop": choice.get("crop")} if still else dict(choice)
    chosen |= {"size": size, "fit": fit, "num_frames": num_frames}
    levels = np.zeros((num_frames, *size), np.uint8)
    made = 0
    for item in stream(path, limits=limits, trusted=trusted, **chosen):
        if isinstance(item, Frame):
            if item.pixels.shape[:2] == tuple(size):
                levels[made] = (item.pixels.sum(2, dtype=np.uint16) + 1) // 3
            made += 1
    if made == 1:
        return np.broadcast_to(levels[0], levels.shape)
    levels = levels[:made]
    if len(levels) < num_frames or levels.shape[1:] != tuple(size):
        shape = "x".join(map(str, levels.shape))
        raise UserError(
            f"the mask {Path(path).name} has {shape} (frames, height, width), but {num_frames} frames of "
            f"{size[0]}x{size[1]} are needed; give one picture or a mask for every frame"
        )
    return levels


class Index:
    """Spans of frames out of the middle of files, without decoding from their beginning.

    The times of all frames are found once and kept in memory, and in the folder `cache` if one is given, under a key of
    path, size and time of change. Spans are exactly the frames that decoding from the beginning gives.
    """

    def __init__(self, cache: Pathlike | None = None, limits: Limits = DEFAULT_LIMITS, trusted: bool = False):
        self.cache = Path(cache) if cache else None
        self.limits, self.trusted = limits, trusted
        self.tables: dict[str, Table] = {}

    def times(self, path: Pathlike) -> tuple[float, ...]:
        """Seconds of every frame from the first."""
        found = self.table(path)
        return tuple(float((pts - found.pts[0]) * found.time_base) for pts in found.pts)

    def span(self, path: Pathlike, first: int, count: int, **shape: Any) -> Clip:
        """Frames first .. first + count - 1 as `read` gives them; `shape` is size, short_side, multiple or fit.

        Fewer frames come back, with a note, where the file ends or turns out damaged.
        """
        if first < 0 or count < 1:
            raise UserError(f"a span of {count} frames from {first} is empty; frames count from 0")
        found = self.table(path)
        wanted = found.pts[first : first + count]
        if not wanted:
            raise UserError(f"{Path(path).name} has {len(found.pts)} frames; frame {first} is beyond its end")
        if len(wanted) > self.limits.max_frames:
            raise LimitExceeded(f"{len(wanted)} frames; the limit max_frames is {self.limits.max_frames}")
        by_time = len(set(found.pts)) == len(found.pts) and bool(found.keys)
        seek = max((key for key in found.keys if key <= wanted[0]), default=None) if by_time else None
        request = _request(path, self.limits, keep=True, **shape)
        attempts: list[tuple] = [(None, None, first, len(wanted))]
        if seek is not None and seek > found.pts[0]:
            attempts.insert(0, (seek, wanted, first, len(wanted)))
        for span in attempts:
            try:
                info, frames, notes = _collect(guard.perform(replace(request, span=span), self.trusted))
            except UnreadableInput:
                if span is attempts[-1]:
                    raise
                continue  # the file cannot be entered there; from its beginning it may
            if len(frames) == len(wanted) and INTERLACED not in notes:
                break
        if not frames:
            raise UnreadableInput(f"{Path(path).name} is damaged before frame {first}; choose an earlier one")
        times = self.times(path)[first : first + len(frames)]
        return Clip(_stacked(frames), info.fps, times, info, tuple(notes), os.fspath(path))

    def table(self, path: Pathlike) -> Table:
        """When each frame is shown and where the key frames are."""
        file = guard.checked(path)
        facts = file.stat()
        key = hashlib.sha256(f"{file}\n{facts.st_size}\n{facts.st_mtime_ns}".encode()).hexdigest()
        if key not in self.tables:
            self.tables[key] = self._cached(key) or self._made(key, file)
        return self.tables[key]

    def _cached(self, key: str) -> Table | None:
        try:
            found = from_plain(json.loads((self.cache / f"{key}.json").read_bytes())) if self.cache else None
        except (OSError, ValueError, KeyError, TypeError):
            return None  # not there yet, or cut short by a full disk: it is made anew
        return found if isinstance(found, Table) and found.pts else None

    def _made(self, key: str, file: Path) -> Table:
        found = guard.answer(Request(str(file), "table", limits=self.limits), self.trusted)
        if self.cache:
            temporary = self.cache / f".{key}.{os.getpid()}.tmp"
            with suppress(OSError):  # a cache on a full or read-only disk is no cache, and no reason to stop
                self.cache.mkdir(parents=True, exist_ok=True)
                temporary.write_text(json.dumps(to_plain(found)))
                os.replace(temporary, self.cache / f"{key}.json")
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
        return found


def clips_in(path: Path) -> list[Path] | None:
    """The clips of a folder of clips, or None for a clip, a picture, or a folder of pictures."""
    if not path.is_dir():
        return None
    films = sorted(f for f in path.iterdir() if f.suffix.lower() in (*VIDEO, ".gif", ".webp") and f.is_file())
    return films or None


def _request(path: Pathlike, limits: Limits, keep: bool, **wanted: Any) -> Request:
    """The request, its values checked: what is wrong here is a wrong use, not a wrong file."""
    fps = wanted.pop("fps", None)
    request = Request(os.fspath(path), limits=limits, keep=keep, fps=None if fps is None else Fraction(fps), **wanted)
    for name in ("stride", "num_frames", "last", "short_side"):
        value = getattr(request, name)
        if value is not None and value < 1:
            raise UserError(f"{name} is {value}; give 1 or more")
    if request.fps is not None and not 0 < request.fps <= 1000:
        raise UserError(f"fps is {fps}; give a rate above 0 and up to 1000 frames a second")
    if (request.start or 0) < 0 or (request.end is not None and request.end <= (request.start or 0)):
        raise UserError(f"start {request.start or 0:g} s and end {request.end} s leave nothing; give 0 <= start < end")
    if request.fps is not None:
        request = replace(request, fps=request.fps.limit_denominator(100_000))
    return request


def _stacked(frames: list[Frame]) -> np.ndarray:
    """All pixels as one array; the list is emptied meanwhile, so that nothing is held twice."""
    pixels = np.empty((len(frames), *frames[0].pixels.shape), np.uint8)
    for place in reversed(range(len(frames))):
        pixels[place] = frames.pop().pixels
    return pixels


def _collect(items: Iterator[Any]) -> tuple[ClipInfo, list[Frame], list[str]]:
    with closing(items):  # type: ignore[type-var]
        info = next(items)
        rest = list(items)
    return info, [i for i in rest if isinstance(i, Frame)], [i for i in rest if isinstance(i, str)]
