"""Frames on disk by place, so that no clip has to fit into memory; and a journal of those that were made.

A clip being filled lives in a Spool: the reader puts known frames in, each window takes what it observes and puts what
it made, the writer takes frames in order. The file has no name, so nothing is left behind whatever happens. A run that
is to survive a kill keeps a Journal as well: the frames of each finished window, in a folder.
"""

import json
import os
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from videodiff.errors import DISK_FULL, OutOfResources


class Spool:
    """uint8 frames of one shape [h w c], each at an integer place from 0."""

    def __init__(self, shape: tuple[int, int, int], folder: Path | None = None) -> None:
        self.shape = shape
        self._size = shape[0] * shape[1] * shape[2]
        try:  # no buffer: a disk that is full must be noticed by the frame that does not fit
            self._file = tempfile.TemporaryFile(buffering=0, dir=folder)  # noqa: SIM115 - closed by __exit__
        except OSError as error:
            raise OutOfResources(
                f"no temporary file can be made ({error}); set TMPDIR to a folder with space"
            ) from error
        self._places: set[int] = set()

    def __enter__(self) -> "Spool":
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()

    def __contains__(self, place: int) -> bool:
        return place in self._places

    def __len__(self) -> int:
        return len(self._places)

    def put(self, place: int, frame: np.ndarray) -> None:
        """Keep a frame, uint8 [h w c]."""
        assert frame.shape == self.shape, (frame.shape, self.shape)
        assert frame.dtype == np.uint8, frame.dtype
        try:
            self._file.seek(place * self._size)
            _write(self._file, np.ascontiguousarray(frame).reshape(-1).data)
        except OSError as error:
            if error.errno in DISK_FULL:
                raise OutOfResources(
                    "the disk is full: frames cannot be kept; free some space and try again"
                ) from error
            raise
        self._places.add(place)

    def get(self, place: int) -> np.ndarray:
        """The frame at a place, uint8 [h w c]."""
        assert place in self._places, place
        self._file.seek(place * self._size)
        return np.frombuffer(_read(self._file, self._size), np.uint8).reshape(self.shape)


class Journal:
    """The finished windows of a clip and their frames, in a folder: what an interrupted run goes on from.

    `frames.u8` holds the frames of the windows one after another, `windows.jsonl` the key of the run and then a line
    for each window. A line is written only when its frames are on the disk, so that a kill or a loss of power at any
    point leaves windows that are whole; what lies behind the last whole line does not count and is written over.

    `key` stands for everything that the frames depend on. A journal with another key is begun anew: `stale` says so.
    """

    def __init__(self, folder: Path, key: str, shape: tuple[int, int, int]) -> None:
        self._shape, self._size = shape, shape[0] * shape[1] * shape[2]
        self._windows: dict[int, tuple[int, list[int]]] = {}  # by number: how many frames lie before, and their places
        self._count, self.whole = 0, False
        folder.mkdir(parents=True, exist_ok=True)
        # No buffers: what was written when `write` returns is all that `fsync` has to see to.
        self._frames = open(folder / "frames.u8", "a+b", buffering=0)  # noqa: SIM115 - closed by __exit__
        self._lines = open(folder / "windows.jsonl", "a+b", buffering=0)  # noqa: SIM115
        self._lines.seek(0)
        lines = self._lines.read().split(b"\n")[:-1]  # what follows the last line end was cut off
        self.stale = bool(lines) and json.loads(lines[0]) != {"key": key}
        if self.stale:
            lines = []
        present = os.fstat(self._frames.fileno()).st_size
        end = 0
        for line in lines[1:]:
            entry = json.loads(line)
            if (self._count + len(entry.get("places", ()))) * self._size > present:
                break
            end += len(line) + 1
            if "window" in entry:
                self._windows[entry["window"]] = (self._count, entry["places"])
                self._count += len(entry["places"])
            self.whole = entry.get("whole", False)
        self._frames.truncate(self._count * self._size)
        if lines:
            self._lines.truncate(len(lines[0]) + 1 + end)
        else:
            self._lines.truncate(0)
            self._note({"key": key})
            _flush_folder(folder)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(self, *_: object) -> None:
        self._frames.close()
        self._lines.close()

    def __contains__(self, number: int) -> bool:
        return number in self._windows

    def __len__(self) -> int:
        return len(self._windows)

    def add(self, number: int, places: Sequence[int], spool: Spool) -> None:
        """Keep the frames of a window that is finished."""
        self._frames.truncate(self._count * self._size)  # a disk that was full may have taken half a frame
        for place in places:
            _write(self._frames, spool.get(place).data)
        os.fsync(self._frames.fileno())
        self._note({"window": number, "places": list(places)})
        self._windows[number] = (self._count, list(places))
        self._count += len(places)

    def restore(self, number: int, spool: Spool) -> None:
        """Put the frames of a finished window into the spool."""
        first, places = self._windows[number]
        self._frames.seek(first * self._size)
        for place in places:
            spool.put(place, np.frombuffer(_read(self._frames, self._size), np.uint8).reshape(self._shape))

    def complete(self) -> None:
        """Note that all is filled, and that a result may now be there."""
        if not self.whole:
            self._note({"whole": True})
            self.whole = True

    def _note(self, entry: dict[str, Any]) -> None:
        _write(self._lines, json.dumps(entry).encode() + b"\n")
        os.fsync(self._lines.fileno())


def _write(file: Any, data: Any) -> None:
    """All of `data`: a file without a buffer may take a part only."""
    left = memoryview(data).cast("B")
    while len(left):
        left = left[file.write(left) :]


def _read(file: Any, size: int) -> bytearray:
    """`size` bytes, likewise."""
    data = bytearray()
    while len(data) < size:
        piece = file.read(size - len(data))
        assert piece, f"{size} bytes were to be there, {len(data)} are"
        data += piece
    return data


def _flush_folder(folder: Path) -> None:
    """Let the names in a folder survive a loss of power too."""
    if os.name == "posix":
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
