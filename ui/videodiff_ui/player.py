"""The comparison player: the input beside, under a slider over, or subtracted from the result, in step by time.

`view_of` says what is to be shown; `draw` is its markup; static/player.js moves it. Both films are such as browsers
play: what they cannot is shown as an MP4 made for showing alone, in the cache.
"""

import json
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any
from urllib.parse import quote

from videodiff import video
from videodiff.errors import UserError
from videodiff.planner import parse_ranges
from videodiff.settings import parse_crop
from videodiff_ui.context import made_once
from videodiff_ui.html import Html, tag, word

PLAYED = {"h264", "vp8", "vp9", "av1", "libdav1d"}
CONTAINERS = ("mp4", "webm")
MODES = ("side", "slider", "difference")
LONGEST = 1200
"""Frames of an input that are shown beside a result at most: the comparison is of what is near (chosen, not tuned)."""


@dataclass(frozen=True)
class View:
    """A result and its input. Times in seconds.

    new: places of the result's frames that were made. offset: time of the input at the result's beginning. pace: input
    seconds per second of the result. before: the input's film, or None.
    """

    result: Path
    fps: float
    frames: int
    width: int
    height: int
    new: tuple[int, ...] = ()
    before: Path | None = None
    offset: float = 0.0
    pace: float = 1.0
    facts: dict[str, Any] = field(default_factory=dict)


def new_frames(settings: dict[str, Any], counts: dict[str, int]) -> tuple[int, ...]:
    """Places of a result's frames that were made from nothing; `counts`: its given, filled and written frames."""
    kind, written, filled = settings["kind"], counts["written"], counts["filled"]
    if kind == "predict":
        backward = settings.get("direction") == "backward"
        return tuple(range(filled)) if backward else tuple(range(written - filled, written))
    if kind == "loop":
        return tuple(range(written - filled, written))
    slowmo = kind == "restore" and settings.get("operator") == "slowmo"
    if (kind == "interpolate" and not settings.get("to")) or slowmo:
        return tuple(place for place in range(written) if place % settings["factor"])
    if kind == "interpolate":
        return tuple(range(counts["given"] // 2, counts["given"] // 2 + filled))
    if kind == "infill" and settings.get("missing") and not (settings.get("mask") or settings.get("canvas")):
        return tuple(sorted(parse_ranges(settings["missing"], written)))
    return tuple(range(written)) if kind == "generate" else ()


def timing(settings: dict[str, Any], counts: dict[str, int], input_frames: int, fps: float) -> tuple[float, float]:
    """(offset, pace) of the input beside its result; `fps` is the input's."""
    if settings["kind"] == "predict":
        kept = counts["written"] - counts["filled"]  # none of the input with only_new
        if settings.get("direction") == "backward":
            return -counts["filled"] / fps, 1.0
        return (input_frames - kept) / fps, 1.0
    if settings["kind"] == "interpolate" and not settings.get("to"):
        return 0.0, 1 / settings["factor"] if settings.get("slow") else 1.0
    if settings["kind"] == "restore" and settings.get("operator") == "slowmo":
        return 0.0, 1 / settings["factor"]
    return 0.0, 1.0


def view_of(result: Path, cache: Path) -> View:
    """What to show of a result of ours, with its input if that is still there."""
    about = about_of(result)
    settings, counts = about["settings"], about["frames"]
    info = video.probe(result, trusted=True)
    fps, size = float(info.fps), (info.height, info.width)
    before, offset, pace = None, 0.0, 1.0
    source = settings.get("input")
    if source and Path(source).is_file():
        try:
            before, number, rate = _as_used(Path(source), settings, size, cache)
            offset, pace = timing(settings, counts, number, rate)
        except UserError:
            before = None  # the input has gone bad since; the result stands for itself, and the page says so
    written = counts["written"]
    shown = playable(result, cache, trusted=True)
    return View(shown, fps, written, size[1], size[0], new_frames(settings, counts), before, offset, pace, about)


def about_of(result: Path) -> dict[str, Any]:
    """What the sidecar of a result says."""
    try:
        return json.loads(result.with_name(f"{result.name}.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"the settings beside {result.name} are gone or damaged; make it again") from error


def playable(path: Path, cache: Path, trusted: bool = False) -> Path:
    """The film itself where browsers play it, else an MP4 of it in the cache, made once."""
    if path.is_file():
        info = video.probe(path, trusted=trusted)
        plain = info.pix_fmt in ("yuv420p", "yuvj420p") and not info.rotation
        if info.codec in PLAYED and plain and path.suffix.lower().strip(".") in CONTAINERS:
            return path
    frames = video.stream(path, num_frames=LONGEST * 10, trusted=trusted)
    return _film(frames, cache, (str(path), path.stat().st_mtime_ns))


def _as_used(source: Path, settings: dict[str, Any], size: tuple[int, int], cache: Path) -> tuple[Path, int, float]:
    """The input as the task read it, at the result's size: (film, frames, frame rate)."""
    crop = settings.get("crop")
    choice: dict[str, Any] = {name: settings.get(name) for name in ("start", "end", "fps")}
    choice |= {"stride": settings.get("stride") or 1, "crop": parse_crop(crop) if crop else None}
    forward = settings["kind"] == "predict" and settings.get("direction") != "backward"
    choice |= {"last" if forward else "num_frames": LONGEST}
    key = (str(source), source.stat().st_mtime_ns, size, sorted((k, str(v)) for k, v in choice.items()))
    rate = None if choice["fps"] is None else Fraction(choice["fps"]).limit_denominator(100_000)
    film = _film(video.stream(source, size=size, fit="crop", **choice), cache, key, rate, choice["stride"])
    info = video.probe(film, trusted=True)
    return film, info.num_frames or 1, float(info.fps)


def _film(frames: Any, cache: Path, key: Any, rate: Fraction | None = None, stride: int = 1) -> Path:
    """An MP4 of streamed frames in the cache, found again by its key."""

    def write(folder: Path) -> Path:
        film, fps, writer = folder / "film.mp4", Fraction(10), None
        with ExitStack() as stack:
            stack.enter_context(closing(frames))
            for item in frames:
                if isinstance(item, video.ClipInfo):
                    fps = rate or item.fps / stride
                elif isinstance(item, video.Frame):
                    writer = writer or stack.enter_context(video.Writer(film, fps))
                    writer.add(item.pixels)
        if writer is None:
            raise UserError("there is no frame to show in the part asked for")
        return film

    return made_once(cache, key, write)


def address(path: Path | str) -> str:
    """Where the server gives a file."""
    return f"./gradio_api/file={quote(str(path))}"


def draw(view: View, result: str, names: tuple[str, str] | None = None) -> Html:
    """The player. result: the path of the result as the server may give it; names: what stands under the two films."""
    before, after = (tag("bdi", name) for name in names) if names else (word("player.input"), word("player.result"))
    films = [_video(result, "vd-after", after)]
    if view.before is not None:
        films.insert(0, _video(str(view.before), "vd-before", before))
    modes = [
        tag(
            "button",
            word(f"player.{mode}"),
            type="button",
            class_="vd-mode",
            data_mode=mode,
            aria_pressed=str(mode == "side").lower(),
        )
        for mode in MODES
    ]
    return tag(
        "div",
        tag("div", *modes, class_="vd-modes", role="group") if view.before is not None else None,
        tag("div", *films, class_="vd-stage", style=f"--vd-aspect: {view.width} / {view.height}"),
        tag("input", type="range", class_="vd-split", min=0, max=100, value=50, data_title="player.split"),
        tag(
            "div",
            _button("back", "\u2039", "player.back"),
            _button("play", "❚❚", "player.play"),
            _button("forward", "\u203a", "player.forward"),
            tag("input", type="range", class_="vd-seek", min=0, max=view.frames - 1, value=0, data_title="player.seek"),
            tag("span", class_="vd-place", aria_live="off"),
            class_="vd-transport",
        ),
        tag("div", class_="vd-marks", aria_hidden="true"),
        class_="vd-player",
        data_key=f"{result} {view.before}",
        data_fps=view.fps,
        data_frames=view.frames,
        data_new=",".join(map(str, view.new)),
        data_offset=view.offset,
        data_pace=view.pace,
        data_mode="side",
    )


def _video(path: str, class_: str, caption: Html) -> Html:
    film = tag("video", class_=class_, src=address(path), muted=True, playsinline=True, preload="auto")
    return tag("figure", film, tag("figcaption", caption), class_=f"{class_}-box")


def _button(what: str, sign: str, key: str) -> Html:
    return tag("button", sign, type="button", class_=f"vd-{what}", data_title=key)
