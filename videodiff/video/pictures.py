"""Single pictures, animations and folders of pictures to frames, with imageio.

GIF, WebP and APNG keep their own times; pictures without times are shown at `DEFAULT_FPS`. Transparency is composited
over black, EXIF orientation is applied.
"""

import re
import struct
from collections import deque
from collections.abc import Iterator
from dataclasses import replace
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import imageio.v3 as iio
import numpy as np
from PIL import Image

from videodiff.errors import LimitExceeded, UnreadableInput
from videodiff.video.choose import Fitter, check_length, check_size, choose, cut, over_black
from videodiff.video.geometry import Placement
from videodiff.video.shapes import DEFAULT_FPS, PICTURES, ClipInfo, Frame, Limits, Request, Table

FORMATS = {b"GIF8": "gif", b"\x89PNG": "png", b"\xff\xd8\xff": "jpeg", b"BM": "bmp", b"RIFF....WEBP": "webp"}
FORMATS |= dict.fromkeys((rb"II[*+]\0", rb"MM\0[*+]"), "tiff")
"""The formats read here, by a pattern for their first bytes; a name says nothing."""
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error)
DAMAGE += (AttributeError, ArithmeticError, AssertionError, Image.DecompressionBombError)
"""What imageio and the Pillow below it raise on damaged files; SyntaxError is Pillow's word for a broken header."""


def is_pictures(path: str) -> bool:
    """Whether the path is read here and not as a film: a folder, or a picture by its first bytes."""
    return Path(path).is_dir() or _form(path) != ""


def _form(path: str) -> str:
    with open(path, "rb") as file:
        head = file.read(16)
    return next((form for start, form in FORMATS.items() if re.match(start, head, re.DOTALL)), "")


def files(folder: str) -> list[str]:
    """The pictures of a folder in natural order: frame2 before frame10."""

    def natural(path: Path) -> list[tuple[int, str]]:
        return [(int(part), "") if part.isdigit() else (-1, part) for part in re.split(r"(\d+)", path.name.lower())]

    found = [p for p in Path(folder).iterdir() if p.suffix.lower() in PICTURES and p.is_file() and p.name[0] != "."]
    if not found:
        raise UnreadableInput(f"the folder {Path(folder).name} holds no pictures ({', '.join(PICTURES)})")
    return [str(p) for p in sorted(found, key=natural)]


def probe(path: str, limits: Limits) -> ClipInfo:
    """What the headers say; an animation is walked through once, because each frame has its own time."""
    if Path(path).is_dir():
        names = files(path)
        first = probe(names[0], limits)
        shown = len(names) / float(DEFAULT_FPS)
        return replace(first, container="folder", fps=DEFAULT_FPS, num_frames=len(names), duration=shown)
    walked = _walk(path, limits, [])
    _, facts, pixels = next(walked)
    stays = [_duration(facts), *(_duration(later) for _, later, _ in walked)]
    moving, form = len(stays) > 1, _form(path)
    return ClipInfo(
        container=form,
        codec=form,
        pix_fmt=facts["mode"],
        width=pixels.shape[1],
        height=pixels.shape[0],
        fps=Fraction(len(stays) / sum(stays)).limit_denominator(1001) if moving else DEFAULT_FPS,
        num_frames=len(stays),
        duration=sum(stays) if moving else None,
        has_alpha=pixels.shape[2] == 4,
    )


def frames(request: Request) -> Iterator[ClipInfo | Frame | str]:
    """First the facts, then each frame asked for at its final size; notes come in between as strings."""
    path, limits = request.path, request.limits
    info = probe(path, limits)
    if request.fps and (info.container == "folder" or info.duration is None):  # no times of their own: fps gives them
        info = replace(info, fps=request.fps, duration=(info.num_frames or 0) / float(request.fps))
    if not request.span:
        check_length(Path(path).name, info, request)
    notes: list[str] = []
    timed = _folder(path, limits, notes, info.fps) if Path(path).is_dir() else _animation(path, limits, notes)
    timed = chain([next(timed)], timed)  # nothing decodable raises here
    yield info

    fitter = Fitter(info, request)
    chosen = islice(timed, request.span[2], sum(request.span[2:])) if request.span else choose(timed, request, info.fps)
    made = (Frame(_fitted(cut(pixels, request), fitter.place(*pixels.shape[:2])), time) for time, pixels in chosen)
    yield from deque(made, maxlen=request.last) if request.last else made
    yield from fitter.notes
    yield from notes


def table(path: str, limits: Limits) -> Table:
    """The times of all frames in milliseconds; pictures are decoded from their beginning."""
    timed = _folder(path, limits, [], DEFAULT_FPS) if Path(path).is_dir() else _animation(path, limits, [])
    return Table(tuple(round(time * 1000) for time, _ in timed), (), Fraction(1, 1000))


def metadata(path: str, limits: Limits) -> dict[str, str]:
    """Text of the first picture: PNG text chunks, GIF comment."""
    first = files(path)[0] if Path(path).is_dir() else path
    # Pillow, because imageio decodes a PNG before it gives its text: that of a damaged picture would be lost
    with _opened(first), Image.open(first) as picture:
        check_size(Path(first).name, *picture.size, limits)
        values = {k.lower(): v for k, v in picture.info.items() if isinstance(k, str)}
    texts = {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in values.items()}
    return texts | (_gif_comment(first) if _form(first) == "gif" else {})


def _gif_comment(path: str) -> dict[str, str]:
    """The comment that `formats.Film` puts at the end of a GIF, where Pillow does not look: {key: text} or {}."""
    with open(path, "rb") as file:
        file.seek(max(0, Path(path).stat().st_size - 2**17))
        tail = file.read()
    place, text = tail.rfind(b"videodiff {") - 1, b""
    while 0 <= place < len(tail) and tail[place]:  # blocks of up to 255 bytes, each after its length
        text += tail[place + 1 : place + 1 + tail[place]]
        place += 1 + tail[place]
    key, _, value = text.decode("utf-8", "replace").partition(" ")
    return {key: value} if value else {}


def _opened(path: str) -> Any:
    name = Path(path).name
    try:
        if not _form(path):  # Pillow knows more formats, some of which start programs
            raise ValueError("not one of the formats GIF, WebP, PNG, JPEG, BMP and TIFF")
        return iio.imopen(Path(path).absolute(), "r", plugin="pillow")  # a string might be fetched from the net
    except DAMAGE as error:
        cause = error.__cause__ or error
        if isinstance(cause, Image.DecompressionBombError | MemoryError):
            raise LimitExceeded(f"{name} is too large ({_reason(cause)}); scale it down") from None
        raise UnreadableInput(f"{name} is not a readable picture ({_reason(cause)}); it may be damaged") from None


def _duration(facts: dict[str, Any]) -> float:
    """Seconds the frame is shown; browsers take 0.1 s for times of 10 ms and less, and so do we."""
    milliseconds = facts.get("duration", 0) or 0
    return float(milliseconds) / 1000 if milliseconds > 10 else float(1 / DEFAULT_FPS)


def _animation(path: str, limits: Limits, notes: list[str]) -> Iterator[tuple[float, np.ndarray]]:
    return ((time, pixels) for time, _, pixels in _walk(path, limits, notes))


def _walk(path: str, limits: Limits, notes: list[str]) -> Iterator[tuple[float, dict[str, Any], np.ndarray]]:
    """(seconds from the beginning, facts, pixels) of each frame, up to the first that is damaged."""
    with _opened(path) as source:
        name, form, time = Path(path).name, _form(path), 0.0
        for seen in range(limits.max_frames + 1):
            try:
                try:
                    height, width = source.properties(index=seen).shape[:2]
                except EOFError:  # there is no further frame
                    if form == "gif" and not Path(path).read_bytes().rstrip(b"\0").endswith(b";"):
                        notes.append(f"decoded {seen} frames, then the file ends too early")
                    return
                check_size(name, width, height, limits)
                pixels, facts = _decoded(source, seen)
                stays = _duration(facts)
            except DAMAGE as error:
                if not seen:
                    raise UnreadableInput(f"{name} is damaged: no frame can be decoded ({_reason(error)})") from None
                notes.append(f"decoded {seen} frames, then the data were damaged ({_reason(error)})")
                return
            yield time, facts, pixels
            if form == "jpeg":  # what may follow in a photograph is a thumbnail or another view
                return
            time += stays
    raise LimitExceeded(f"{name}: over the limit max_frames, {limits.max_frames}; choose less with --start and --end")


def _decoded(source: Any, place: int) -> tuple[np.ndarray, dict[str, Any]]:
    """Upright RGB, or RGBA if anything may be transparent, uint8 [h w c]; and what the file says of the frame."""
    facts = source.metadata(index=place, exclude_applied=False)
    clear, gray = "a" in facts["mode"].lower() or "transparency" in facts, facts["mode"].startswith("I")
    pixels = source.read(index=place, mode="RGBA" if clear else "I" if gray else "RGB", writeable_output=False)
    if pixels.ndim == 2:  # 16-bit gray: as RGB it would be clipped instead of scaled
        pixels = (pixels >> 8).clip(0, 255).astype(np.uint8)[..., None].repeat(3, axis=2)
    facts = source.metadata(index=place, exclude_applied=False)  # WebP gives its times, TIFF turns, while it is decoded
    return _upright(pixels, facts.get("Orientation", 1)), facts


def _upright(pixels: np.ndarray, turn: int) -> np.ndarray:
    """Turned and mirrored as EXIF says; imageio does not mirror gray pictures."""
    pixels = pixels.swapaxes(0, 1) if turn in (5, 6, 7, 8) else pixels
    return pixels[:: -1 if turn in (3, 4, 7, 8) else 1, :: -1 if turn in (2, 3, 6, 7) else 1]


def _folder(path: str, limits: Limits, notes: list[str], fps: Fraction) -> Iterator[tuple[float, np.ndarray]]:
    """One frame a picture; a damaged one is left out, so that the rest of the clip can be used."""
    good = 0
    for place, name in enumerate(files(path)):
        try:
            yield float(place / fps), next(_animation(name, limits, []))[1]
            good += 1
        except UnreadableInput as error:
            notes.append(f"left out: {error}")
    if not good:
        raise UnreadableInput(f"no picture of the folder {Path(path).name} can be decoded: {notes[0]}")


def _fitted(pixels: np.ndarray, placement: Placement) -> np.ndarray:
    return placement.apply(scaled(over_black(pixels), *placement.scaled))


def scaled(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h w 3] at another size: shrinking averages areas, enlarging is bicubic."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    kernel = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), kernel))


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
