"""Single pictures, animations and folders of pictures to frames, with Pillow.

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

import numpy as np
from PIL import Image, ImageOps

from videodiff.errors import LimitExceeded, UnreadableInput
from videodiff.video.choose import Fitter, check_length, check_size, choose, over_black
from videodiff.video.geometry import Placement
from videodiff.video.shapes import DEFAULT_FPS, PICTURES, ClipInfo, Frame, Limits, Request, Table

FORMATS = ("GIF", "WEBP", "PNG", "JPEG", "BMP", "TIFF")
DAMAGE: tuple[type[Exception], ...] = (OSError, SyntaxError, ValueError, EOFError, LookupError, TypeError, struct.error)
DAMAGE += (AttributeError, ArithmeticError, AssertionError, Image.DecompressionBombError)
"""What Pillow raises on damaged files; SyntaxError is its own word for a broken header."""


def is_pictures(path: str) -> bool:
    """Whether the path is read here and not as a film: a folder, or a picture by its first bytes."""
    if Path(path).is_dir():
        return True
    with open(path, "rb") as file:
        head = file.read(16)
    starts = (b"GIF8", b"\x89PNG", b"\xff\xd8\xff", b"BM", b"II*\0", b"MM\0*")
    return head.startswith(starts) or (head[:4] == b"RIFF" and head[8:12] == b"WEBP")


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
    stays = [seconds for _, seconds, _ in _walk(path, limits, [])]
    moving = len(stays) > 1
    with _opened(path, limits) as picture:
        form = (picture.format or "picture").lower()
        turned = picture.getexif().get(0x0112, 1) in (5, 6, 7, 8)
        width, height = picture.size[::-1] if turned else picture.size
        return ClipInfo(
            container=form,
            codec=form,
            pix_fmt=picture.mode,
            width=width,
            height=height,
            fps=Fraction(len(stays) / sum(stays)).limit_denominator(1001) if moving else DEFAULT_FPS,
            num_frames=len(stays),
            duration=sum(stays) if moving else None,
            has_alpha=_clear(picture),
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
    made = (Frame(_fitted(picture, fitter.place(picture.height, picture.width)), time) for time, picture in chosen)
    yield from deque(made, maxlen=request.last) if request.last else made
    yield from fitter.notes
    yield from notes


def table(path: str, limits: Limits) -> Table:
    """The times of all frames in milliseconds; pictures are decoded from their beginning."""
    timed = _folder(path, limits, [], DEFAULT_FPS) if Path(path).is_dir() else _animation(path, limits, [])
    return Table(tuple(round(time * 1000) for time, _ in timed), (), Fraction(1, 1000))


def metadata(path: str, limits: Limits) -> dict[str, str]:
    """Text of the first picture: PNG text chunks, GIF comment."""
    with _opened(files(path)[0] if Path(path).is_dir() else path, limits) as picture:
        values = {k.lower(): v for k, v in picture.info.items() if isinstance(k, str)}
        texts = {k: v.decode("utf-8", "replace") if isinstance(v, bytes) else v for k, v in values.items()}
        return texts | (_gif_comment(path) if picture.format == "GIF" else {})


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


def _opened(path: str, limits: Limits) -> Image.Image:
    name = Path(path).name
    try:
        picture = Image.open(path, formats=FORMATS)
    except Image.DecompressionBombError as error:
        raise LimitExceeded(f"{name} is too large ({_reason(error)}); scale it down") from None
    except DAMAGE as error:
        raise UnreadableInput(f"{name} is not a readable picture ({_reason(error)}); it may be damaged") from None
    check_size(name, *picture.size, limits)
    return picture


def _duration(picture: Image.Image) -> float:
    """Seconds the frame is shown; browsers take 0.1 s for times of 10 ms and less, and so do we."""
    milliseconds = picture.info.get("duration", 0) or 0
    return float(milliseconds) / 1000 if milliseconds > 10 else float(1 / DEFAULT_FPS)


def _animation(path: str, limits: Limits, notes: list[str]) -> Iterator[tuple[float, Image.Image]]:
    return ((time, frame) for time, _, frame in _walk(path, limits, notes))


def _walk(path: str, limits: Limits, notes: list[str]) -> Iterator[tuple[float, float, Image.Image]]:
    """(seconds from the beginning, seconds shown, frame) of each frame, up to the first that is damaged."""
    name, time = Path(path).name, 0.0
    with _opened(path, limits) as picture:
        for seen in range(limits.max_frames + 1):
            try:
                if seen and not _seek(picture, seen):
                    notes += _cut_short(path, picture, seen)
                    return
                check_size(name, *picture.size, limits)
                picture.load()
                frame = ImageOps.exif_transpose(picture).convert("RGBA") if _clear(picture) else _plain(picture)
                stays = _duration(picture)
            except DAMAGE as error:
                if not seen:
                    raise UnreadableInput(f"{name} is damaged: no frame can be decoded ({_reason(error)})") from None
                notes.append(f"decoded {seen} frames, then the data were damaged ({_reason(error)})")
                return
            yield time, stays, frame
            time += stays
    raise LimitExceeded(f"{name}: over the limit max_frames, {limits.max_frames}; cut it or raise it")


def _seek(picture: Image.Image, place: int) -> bool:
    """Whether there is a further frame. Those of a photograph (MPO) are thumbnails or other views, not a film."""
    try:
        picture.seek(place)
    except EOFError:
        return False
    return picture.format != "MPO"


def _cut_short(path: str, picture: Image.Image, seen: int) -> list[str]:
    """A note if the file ends without the mark of its end, which Pillow does not mind in a GIF."""
    if picture.format != "GIF" or Path(path).read_bytes().rstrip(b"\0").endswith(b";"):
        return []
    return [f"decoded {seen} frames, then the file ends too early"]


def _folder(path: str, limits: Limits, notes: list[str], fps: Fraction) -> Iterator[tuple[float, Image.Image]]:
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


def _clear(picture: Image.Image) -> bool:
    return "A" in picture.mode or "a" in picture.mode or "transparency" in picture.info


def _plain(picture: Image.Image) -> Image.Image:
    upright = ImageOps.exif_transpose(picture)
    if upright.mode.startswith("I;16") or upright.mode == "I":  # 16-bit gray: Pillow would clip instead of scaling
        return Image.fromarray((np.asarray(upright).astype(np.int64) >> 8).clip(0, 255).astype(np.uint8)).convert("RGB")
    return upright.convert("RGB")


def _fitted(picture: Image.Image, placement: Placement) -> np.ndarray:
    pixels = over_black(np.asarray(picture))
    return placement.apply(scaled(pixels, *placement.scaled))


def scaled(pixels: np.ndarray, height: int, width: int) -> np.ndarray:
    """uint8 [h w 3] at another size: shrinking averages areas, enlarging is bicubic."""
    if pixels.shape[:2] == (height, width):
        return pixels
    shrinks = height < pixels.shape[0] or width < pixels.shape[1]
    kernel = Image.Resampling.BOX if shrinks else Image.Resampling.BICUBIC
    return np.asarray(Image.fromarray(pixels).resize((width, height), kernel))


def _reason(error: BaseException) -> str:
    return (str(error) or type(error).__name__).splitlines()[0][:120]
