"""Any folder of clips (`video.folders` finds them), packed once into a cache that trains without decoding.

`pack(folder, out)` decodes each once, at training size, into `out` (`packed.py` says what lies there). What cannot be
read is reported and left out.

Packing can be stopped or killed at any time. Frames go to `frames.u8.part`, and a line in `journal.jsonl` says that
a clip is complete; the next run cuts off what lies behind the last such clip and goes on. `index.json`, which makes it
a cache, is written last.
"""

import json
import os
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from videodiff import video
from videodiff.errors import LimitExceeded, UnreadableInput
from videodiff.events import Event, Note, Progress, Saved
from videodiff.video.folders import find_clips

NATURAL_FPS = 13  # training frames a second aimed at: every 2nd frame at 24..30 fps


def stride_for(fps: float) -> int:
    """The step in frames at which motion is worth learning: 2 at 24..30 fps, 1 below 19.5."""
    return max(1, round(fps / NATURAL_FPS))


def pack(
    folder: Path | str,
    out: Path | str,
    short_side: int = 64,
    split: str = "train",
    names: Path | str | None = None,
    stride: int | None = 1,
    channels: int = 3,
    limits: video.Limits | None = None,
) -> Iterator[Event]:
    """Decode the clips of a folder into the cache `out`, once: an iterator of events, Saved when it is complete.

    short_side: pixels of the shorter side, of frames that keep their shape; stride: keep every n-th frame, None = as
    the frame rate suggests; channels: 3 for colour, 1 for grey; limits: what a file may ask for. Frames are written as
    they are decoded, so memory does not grow with the length of a clip. A cache that is up to date is left as it is.
    """
    folder, out = Path(folder), Path(out)
    data, index = out / "frames.u8", out / "index.json"
    part, journal = out / "frames.u8.part", out / "journal.jsonl"
    clips = {Path(os.path.relpath(path, folder)).as_posix(): path for path in find_clips(folder, split, names)}
    stamps = {name: stamp(path) for name, path in clips.items()}
    recipe: dict[str, Any] = {"short_side": short_side, "stride": stride, "channels": channels}
    recipe |= {"limits": asdict(limits)} if limits else {}

    # -- what is done already ------------------------------------------------------------------------------------------
    if index.is_file():
        have = json.loads(index.read_text())
        if have["recipe"] == recipe and have["stamps"] == stamps:
            yield Note(f"{out} is up to date: {len(have['clips'])} clips", {"clips": len(have["clips"])})
            yield Saved(str(out), "cache")
            return
    out.mkdir(parents=True, exist_ok=True)
    if data.exists() and not part.exists() and not index.exists():
        data.rename(part)  # stopped between the last renames below
    entries = {entry["file"]: entry for entry in read_journal(journal, recipe, stamps)}
    end = max((entry["offset"] + entry["bytes"] for entry in entries.values()), default=0)
    if not part.exists() or part.stat().st_size < end:
        entries, end = {}, 0
    write_whole(journal, [{"recipe": recipe}, *entries.values()])

    # -- decode the rest -----------------------------------------------------------------------------------------------
    with open(part, "ab") as frames_file, open(journal, "a") as journal_file:
        frames_file.truncate(end)
        for k, (name, path) in enumerate(clips.items()):
            yield Progress(k, len(clips), "clips packed")
            if name in entries:
                continue
            entry: dict[str, Any] = {"file": name, "stamp": stamps[name], "offset": end, "bytes": 0}
            try:
                for item in decode(path, short_side, stride, channels, limits):
                    if isinstance(item, str):
                        yield Note(f"{name}: {item}", {"file": name})
                    elif isinstance(item, np.ndarray):
                        frames_file.write(item.tobytes())
                    else:
                        entry |= item
            except (UnreadableInput, LimitExceeded) as error:
                entry["left_out"] = str(error)
                yield Note(f"left out {name}: {error}", {"file": name})
            frames_file.flush()
            frames_file.truncate(end + entry["bytes"])  # without what a clip left before it failed
            end += entry["bytes"]
            entries[name] = entry
            journal_file.write(json.dumps(entry) + "\n")
            journal_file.flush()
        os.fsync(frames_file.fileno())
    yield Progress(len(clips), len(clips), "clips packed")

    # -- make it a cache -----------------------------------------------------------------------------------------------
    packed = [entries[name] for name in clips if "left_out" not in entries[name]]
    left_out = {name: entries[name]["left_out"] for name in clips if "left_out" in entries[name]}
    if not packed:
        raise UnreadableInput(
            f"none of the {len(clips)} clips in {folder} can be used; the first: {left_out.popitem()[1]}"
        )
    index.unlink(missing_ok=True)
    part.replace(data)
    write_whole(index, [{"recipe": recipe, "stamps": stamps, "clips": packed, "left_out": left_out}])
    journal.unlink()
    yield Saved(str(out), "cache")


def decode(
    path: Path, short_side: int, stride: int | None, channels: int, limits: video.Limits | None
) -> Iterator[np.ndarray | str | dict[str, Any]]:
    """Frames uint8 [h w c] of a clip, in between what the reader has to say, and last the facts for the index."""
    if not path.exists():
        raise UnreadableInput("listed, but not there")
    items = video.stream(path, short_side=short_side, limits=limits or video.Limits())
    fps = float(next(items).fps)
    step = stride or stride_for(fps)
    shapes: list[tuple[int, ...]] = []
    pictures = 0
    for item in items:
        if isinstance(item, str):
            yield item
            continue
        if pictures % step == 0:
            pixels = item.pixels if channels == 3 else luma(item.pixels)
            shapes.append(pixels.shape)
            yield pixels
        pictures += 1
    if len(shapes) < 2:
        raise UnreadableInput(f"a clip needs two frames, it has {len(shapes)}")
    if len(set(shapes)) > 1:
        raise UnreadableInput(f"its frames have {len(set(shapes))} sizes")
    (h, w, c), t = shapes[0], len(shapes)
    yield {"bytes": t * h * w * c, "t": t, "h": h, "w": w, "c": c, "fps": fps / step, "stride": stride_for(fps / step)}


def luma(pixels: np.ndarray) -> np.ndarray:
    """Brightness uint8 [... 1] of colours uint8 [... 3], by Rec. 601."""
    return (pixels @ np.array([0.299, 0.587, 0.114])).round().astype(np.uint8)[..., None]


def stamp(path: Path) -> list[int]:
    """What changes when a file changes: its size and time; for a folder the number of its files and the newest time."""
    if not path.exists():
        return []
    if path.is_dir():
        times = [file.stat().st_mtime_ns for file in path.iterdir()]
        return [len(times), max(times)]
    return [path.stat().st_size, path.stat().st_mtime_ns]


def read_journal(journal: Path, recipe: dict[str, Any], stamps: dict[str, list[int]]) -> Iterator[dict[str, Any]]:
    """The entries of an interrupted packing that still hold: same recipe, file unchanged, line complete."""
    lines = journal.read_text().splitlines() if journal.is_file() else []
    for k, line in enumerate(lines):
        try:
            entry = json.loads(line)
        except ValueError:  # the process died while writing this line
            return
        if k == 0 and entry != {"recipe": recipe}:
            return
        if k > 0 and stamps.get(entry["file"]) == entry["stamp"]:
            yield entry


def write_whole(path: Path, lines: list[dict[str, Any]]) -> None:
    """Write values as JSON lines under another name and rename, so that the file is never seen half written."""
    temporary = path.with_name(path.name + ".tmp")
    temporary.write_text("".join(json.dumps(line) + "\n" for line in lines))
    temporary.replace(path)
