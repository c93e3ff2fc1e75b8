"""Clips to files, frame by frame: MP4, WebM, GIF, lossless MKV, or a folder of PNG pictures.

A file gets its name only when it is complete: it is written under a temporary name beside it, flushed to the disk and
renamed; whatever happens before that leaves an older file as it was. The settings of a run go into the container under
the key `videodiff` as JSON (`metadata.py`).
"""

import glob
import os
import re
import shutil
from collections.abc import Iterable
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np

from videodiff.errors import UserError
from videodiff.video.formats import ENCODINGS, Film, Folder, Opener
from videodiff.video.metadata import as_text, unwritable

Pathlike = str | os.PathLike


class Writer:
    """Writes the frames given to `add` at `fps`; use as a context manager: leaving it renames, an error removes.

    The form follows from the name: .mp4 (H.264, plays in browsers), .webm (VP9), .gif, .mkv (lossless FFV1, bit-exact
    RGB), or no extension: a folder of PNG pictures. `notes` says what was changed to fit the format.
    """

    def __init__(
        self,
        path: Pathlike,
        fps: Fraction | float,
        metadata: dict[str, Any] | None = None,
        overwrite: bool = False,
        opener: Opener = open,
    ):
        self.path = Path(path)
        self.suffix = self.path.suffix.lower()
        if self.suffix and self.suffix not in ENCODINGS:
            forms = ", ".join(ENCODINGS)
            raise UserError(f"cannot write '{self.suffix}' files; choose {forms}, or no extension for a PNG folder")
        self.fps = Fraction(fps).limit_denominator(100_000)
        if not 0 < self.fps <= 1000:
            raise UserError(f"fps is {fps}; give a rate above 0 and up to 1000 frames a second")
        self.overwrite, self.opener = overwrite, opener
        self.metadata = None if metadata is None else as_text(metadata)
        self.temporary = self.path.with_name(f".{self.path.name}.{os.getpid()}.tmp{self.suffix}")
        self.notes: list[str] = []
        self.num_frames = 0
        self.shape: tuple[int, int] | None = None
        self.format: Film | Folder | None = None
        self._refuse_existing()

    def __enter__(self) -> "Writer":
        if not self.path.parent.is_dir():
            raise UserError(f"the folder {self.path.parent} does not exist; make it first, or choose another")
        _sweep(self.path)
        return self

    def add(self, frame: np.ndarray) -> None:
        """Appends one frame, uint8 [h w 3] RGB or [h w 1] gray, all of one size."""
        frame = frame[..., None] if frame.ndim == 2 else frame
        assert frame.dtype == np.uint8, frame.dtype
        assert frame.ndim == 3, frame.shape
        assert frame.shape[2] in (1, 3), frame.shape
        self.shape = self.shape or (frame.shape[0], frame.shape[1])
        assert frame.shape[:2] == self.shape, (frame.shape, self.shape)
        try:
            if self.format is None:
                self.format = self._begin(*self.shape)
            self.format.add(np.ascontiguousarray(np.broadcast_to(frame, (*self.shape, 3))))
        except OSError as error:
            raise unwritable(self.path, error) from error
        self.num_frames += 1

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        try:
            if kind is None:
                if self.format is None:
                    raise UserError(f"there is no frame to write to {self.path.name}")
                self.format.finish()
                self._refuse_existing()
                self._rename()
        except OSError as error:
            raise unwritable(self.path, error) from error
        finally:
            if self.format is not None:
                self.format.abandon()
            _remove(self.temporary)

    def _begin(self, height: int, width: int) -> Film | Folder:
        if not self.suffix:
            _remove(self.temporary)
            return Folder(self.temporary, self.metadata, self.opener)
        form = Film(self.temporary, ENCODINGS[self.suffix], height, width, self.fps, self.metadata, self.opener)
        self.notes += form.notes
        return form

    def _refuse_existing(self) -> None:
        if self.path.exists() and not self.overwrite:
            raise UserError(f"{self.path} exists; choose another name, or allow it to be replaced with --overwrite")
        if self.path.is_dir() and not (self.suffix == "" and all(_ours(p) for p in self.path.iterdir())):
            raise UserError(
                f"{self.path} is a folder that holds other files, which are not overwritten; choose another name"
            )

    def _rename(self) -> None:
        """Puts the complete file in its place; a folder makes way for a folder, after which the old one is removed."""
        old = self.temporary.with_name(self.temporary.name + ".old")
        if self.path.is_dir():
            os.replace(self.path, old)
        os.replace(self.temporary, self.path)
        _remove(old)
        if os.name == "posix":
            folder = os.open(self.path.parent, os.O_RDONLY)
            try:
                os.fsync(folder)
            finally:
                os.close(folder)


def write(
    path: Pathlike,
    frames: Iterable[np.ndarray],
    fps: Fraction | float,
    metadata: dict[str, Any] | None = None,
    overwrite: bool = False,
) -> tuple[str, ...]:
    """Writes all frames, uint8 [h w 3] or [h w 1] each, as `Writer` does; returns its notes."""
    with Writer(path, fps, metadata, overwrite) as writer:
        for frame in frames:
            writer.add(frame)
    return tuple(writer.notes)


def _ours(path: Path) -> bool:
    """Whether a file is a picture as `formats.Folder` names them."""
    return re.fullmatch(r"\d{5,}\.png", path.name) is not None


def _remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _sweep(path: Path) -> None:
    """Removes temporaries of this name whose writer was killed."""
    if os.name != "posix":
        return  # elsewhere there is no harmless question whether a process lives
    for left in path.parent.glob(f".{glob.escape(path.name)}.*.tmp*"):
        found = re.fullmatch(r"\.(\d+)\.tmp.*", left.name[len(path.name) + 1 :])
        if found and not _alive(int(found[1])):
            _remove(left)


def _alive(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
