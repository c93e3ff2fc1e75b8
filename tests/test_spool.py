"""Frames come back from the disk as they went in; nothing of them is left behind; a full disk is said so."""

import errno
import os
import tempfile

import numpy as np
import pytest

from videodiff.errors import OutOfResources
from videodiff.spool import Spool


def test_frames_come_back_whatever_the_order_they_were_put(tmp_path):
    rng = np.random.default_rng(0)
    frames = {place: rng.integers(0, 256, (6, 10, 3), np.uint8) for place in (5, 0, 31, 2)}
    with Spool((6, 10, 3), tmp_path) as spool:
        for place, frame in frames.items():
            spool.put(place, frame)
        spool.put(2, frames[31])
        assert len(spool) == 4
        assert 1 not in spool
        for place, frame in {**frames, 2: frames[31]}.items():
            assert place in spool
            np.testing.assert_array_equal(spool.get(place), frame)


def test_a_view_is_kept_as_its_values(tmp_path):
    frame = np.arange(2 * 5 * 3, dtype=np.uint8).reshape(2, 5, 3)[:, ::-1]
    with Spool((2, 5, 3), tmp_path) as spool:
        spool.put(0, frame)
        np.testing.assert_array_equal(spool.get(0), frame)


def test_nothing_is_seen_in_the_folder(tmp_path):
    with Spool((4, 4, 1), tmp_path) as spool:
        spool.put(0, np.zeros((4, 4, 1), np.uint8))
        assert not list(tmp_path.iterdir())
    assert not list(tmp_path.iterdir())


def test_wrong_frames_and_places_never_filled_are_refused():
    with Spool((4, 4, 1)) as spool:
        with pytest.raises(AssertionError):
            spool.put(0, np.zeros((4, 5, 1), np.uint8))
        with pytest.raises(AssertionError):
            spool.put(0, np.zeros((4, 4, 1), np.float32))
        with pytest.raises(AssertionError):
            spool.get(0)


@pytest.mark.parametrize("shape", [(2, 2, 3), (40, 60, 3)])
def test_a_full_disk_is_told_when_a_frame_is_put(monkeypatch, shape):
    """Also for frames smaller than any buffer: an error that waits in one would come out as something else."""
    made = tempfile.TemporaryFile

    class Full:
        def __init__(self, file):
            self.file, self.left = file, 3 * int(np.prod(shape))

        def write(self, data):
            if len(data) > self.left:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self.left -= len(data)
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

    def full(buffering=-1, **options):
        assert buffering == 0, "a buffer would hide a full disk until later"
        return Full(made(buffering=0, **options))

    monkeypatch.setattr(tempfile, "TemporaryFile", full)
    with Spool(shape) as spool:
        for place in range(3):
            spool.put(place, np.full(shape, place, np.uint8))
        with pytest.raises(OutOfResources, match="disk is full"):
            spool.put(3, np.zeros(shape, np.uint8))
        assert 3 not in spool
        assert spool.get(2)[0, 0, 0] == 2


def test_a_file_that_takes_frames_in_pieces_keeps_them_whole(monkeypatch):
    made = tempfile.TemporaryFile

    class Slow:
        def __init__(self, file):
            self.file = file

        def write(self, data):
            return self.file.write(bytes(memoryview(data)[:7]))

        def read(self, size):
            return self.file.read(min(size, 5))

        def __getattr__(self, name):
            return getattr(self.file, name)

    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **options: Slow(made(**options)))
    frame = np.arange(75, dtype=np.uint8).reshape(5, 5, 3)
    with Spool((5, 5, 3)) as spool:
        spool.put(1, frame)
        np.testing.assert_array_equal(spool.get(1), frame)


def test_no_place_for_temporary_files_is_told(monkeypatch):
    def refused(**_):
        raise FileNotFoundError(errno.ENOENT, "No usable temporary directory found")

    monkeypatch.setattr(tempfile, "TemporaryFile", refused)
    with pytest.raises(OutOfResources, match="temporary"):
        Spool((4, 4, 1))
