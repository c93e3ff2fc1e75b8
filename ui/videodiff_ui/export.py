"""A result in another form: another container, its frames as pictures in one archive, a contact sheet.

What is exported is the result as it was written: of a lossless one, every pixel.
"""

import shutil
from pathlib import Path

import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff_ui.context import made_once
from videodiff_ui.player import about_of, new_frames

FORMS = {"mp4": ".mp4", "webm": ".webm", "gif": ".gif", "lossless": ".mkv", "frames": "", "sheet": ".png"}
"""What a result can become, and the ending of it."""
MOST_ON_SHEET = 64


def export(result: Path, form: str, cache: Path) -> Path:
    """The path of the result in this form, in the cache; it is written once."""
    if form not in FORMS:
        raise UserError(f"no form {form!r}; choose one of {', '.join(FORMS)}")
    return made_once(cache, (str(result), result.stat().st_mtime_ns, form), lambda folder: _write(result, form, folder))


def _write(result: Path, form: str, folder: Path) -> Path:
    name = f"{result.stem}{FORMS[form]}"
    target = folder / (name.replace(".", "-") if form == "frames" else name)  # the name of a folder has no ending
    if form == "sheet":
        target.write_bytes(sheet(result))
        return target
    about = about_of(result)
    frames = video.stream(result, trusted=True)
    info = next(frames)
    with video.Writer(target, info.fps, about) as writer:
        for item in frames:
            if isinstance(item, video.Frame):
                writer.add(item.pixels)
    if form != "frames":
        return target
    archive = shutil.make_archive(str(target), "zip", target)
    shutil.rmtree(target)
    return Path(archive)


def sheet(result: Path) -> bytes:
    """A PNG of at most 64 frames of a result, evenly spaced, the new ones labelled."""
    about = about_of(result)
    new = set(new_frames(about["settings"], about["frames"]))
    every = -(-about["frames"]["written"] // MOST_ON_SHEET)
    frames = video.read(result, stride=every, trusted=True).frames
    labels = [f"{k * every} new" if k * every in new else f"{k * every}" for k in range(len(frames))]
    return video.contact_sheet(np.asarray(frames), 8, labels)
