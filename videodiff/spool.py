"""Frames on disk by place, so that no clip has to fit into memory.

A clip being filled lives here: the reader puts known frames in, each window takes what it observes and puts what it
made, the writer takes frames in order. The file has no name, so nothing is left behind whatever happens.
"""

import errno
import tempfile
from pathlib import Path

import numpy as np

from videodiff.errors import OutOfResources


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
            left = np.ascontiguousarray(frame).reshape(-1).data
            while len(left):
                left = left[self._file.write(left) :]
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise OutOfResources(
                    "the disk is full: frames cannot be kept; free some space and try again"
                ) from error
            raise
        self._places.add(place)

    def get(self, place: int) -> np.ndarray:
        """The frame at a place, uint8 [h w c]."""
        assert place in self._places, place
        self._file.seek(place * self._size)
        data = bytearray()
        while len(data) < self._size:
            data += self._file.read(self._size - len(data))
        return np.frombuffer(data, np.uint8).reshape(self.shape)
