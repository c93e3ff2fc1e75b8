"""A file is written whole or not at all, plays, and carries its settings."""

import errno
import io
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from fractions import Fraction
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from videodiff import video
from videodiff.errors import OutOfResources, UserError
from videodiff.video import metadata

FORMS = ["a.mp4", "a.webm", "a.gif", "a.mkv", "a"]
ROOT = Path(video.__file__).resolve().parents[2]


def noise(num_frames: int = 8, height: int = 33, width: int = 47, channels: int = 3) -> np.ndarray:
    """Frames that no codec can guess."""
    return np.random.default_rng(0).integers(0, 256, (num_frames, height, width, channels), dtype=np.uint8)


@pytest.mark.parametrize("name", ["a.mkv", "folder"])
@pytest.mark.parametrize("channels", [1, 3])
def test_lossless_output_is_bit_exact(tmp_path, name, channels):
    frames = noise(channels=channels)
    video.write(tmp_path / name, frames, 12)
    np.testing.assert_array_equal(video.read(tmp_path / name).frames, np.broadcast_to(frames, (*frames.shape[:3], 3)))


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.gif"])
def test_lossy_output_keeps_colours_within_a_few_levels(tmp_path, name):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0], [200, 30, 90]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (6, 32, 48, 3))
    video.write(tmp_path / name, frames, 10)
    clip = video.read(tmp_path / name)
    assert clip.frames.shape == frames.shape
    assert clip.fps == 10
    assert np.abs(clip.frames.astype(int) - frames).max() <= 3


def test_small_clips_are_written_at_good_quality(tmp_path):
    t, y, x = np.mgrid[0:16, 0:64, 0:64]
    disc = ((x - 20 - t) ** 2 + (y - 32) ** 2 < 150) * 180 + 40
    frames = np.stack([disc, disc // 2, 255 - disc], -1).astype(np.uint8)
    for name in ("a.mp4", "a.webm"):
        video.write(tmp_path / name, frames, 25)
        error = (video.read(tmp_path / name).frames.astype(float) - frames)[..., 1]
        assert 10 * np.log10(255**2 / np.mean(error**2)) > 38, name


@pytest.mark.parametrize("name", ["a.mp4", "a.webm", "a.mkv"])
def test_the_same_frames_make_the_same_file(tmp_path, name):
    """Whatever was in memory before: an encoder that reads what nobody wrote differs about once in ten."""
    rng = np.random.default_rng(0)
    written = []
    for seed in range(10):
        moving = np.random.default_rng(seed).integers(0, 256, (76, 76, 3), np.uint8)
        frames = [moving[i : i + 64, i : i + 64] for i in range(12)]
        for _ in range(4):
            video.write(tmp_path / name, frames, 8, overwrite=True)
            written.append((seed, (tmp_path / name).read_bytes()))
            video.read(tmp_path / name, trusted=True)
            rng.integers(0, 256, int(rng.integers(5000, 15000)), np.uint8).tobytes()
    assert len(set(written)) == 10


def test_mp4_plays_in_browsers(tmp_path):
    video.write(tmp_path / "a.mp4", noise(), Fraction(30000, 1001))
    info = video.probe(tmp_path / "a.mp4")
    assert (info.codec, info.pix_fmt, info.fps) == ("h264", "yuv420p", Fraction(30000, 1001))
    data = (tmp_path / "a.mp4").read_bytes()
    assert data.find(b"moov") < data.find(b"mdat")  # the index comes first


def test_odd_sizes_are_padded_and_said(tmp_path):
    notes = video.write(tmp_path / "a.mp4", noise(2, 33, 47), 10)
    assert "47x33" in notes[0]
    assert video.read(tmp_path / "a.mp4").frames.shape[1:3] == (34, 48)


@pytest.mark.parametrize("fps", [0.5, 7.3, Fraction(24000, 1001), 60, 240])
def test_any_rate_is_written(tmp_path, fps):
    for name in ("a.mp4", "a.webm", "a.mkv", "a.gif"):
        notes = video.write(tmp_path / name, noise(4), fps)
        clip = video.read(tmp_path / name)
        assert len(clip.frames) == 4
        shown = min(fps, 50) if name == "a.gif" else fps
        np.testing.assert_allclose(clip.times, np.arange(4) / float(shown), atol=0.01)
        assert bool([note for note in notes if "GIF" in note]) == (shown != fps)


@pytest.mark.parametrize("name", FORMS)
def test_settings_travel_inside_the_file(tmp_path, name):
    text = 'é \U0001f600 <script>alert("x")</script> \u202e'
    settings = {"task": "predict", "seed": 3, "text": text, "list": [1, 2.5]}
    video.write(tmp_path / name, noise(2), 10, metadata=settings)
    assert video.read_metadata(tmp_path / name) == settings
    large = settings | {"long": "x" * 60_000}
    video.write(tmp_path / name, noise(2), 10, metadata=large, overwrite=True)
    assert video.read_metadata(tmp_path / name) == large
    with pytest.raises(UserError, match="at most"):
        video.write(tmp_path / name, noise(2), 10, metadata={"long": "x" * 70_000}, overwrite=True)
    video.write(tmp_path / name, noise(2), 10, overwrite=True)
    assert video.read_metadata(tmp_path / name) == {}


@pytest.mark.parametrize(
    "text",
    [
        '{"a": "' + "x" * 1_000_000 + '"}',
        "[" * 10_000,
        '{"a":' * 10_000,
        '{"a": NaN}',
        '{"a": 1e999}',
        '{"a": 1, "a": 2}',
        "[1]",
        "",
        "nonsense",
        '{"a": ' + "9" * 10_000 + "}",
    ],
)
def test_hostile_settings_are_refused(tmp_path, text, monkeypatch):
    with pytest.raises(UserError):
        metadata.parse(text, "a.mp4")
    for name in ("a.mp4", "a.mkv", "a.gif", "a"):
        with monkeypatch.context() as m:
            m.setattr("videodiff.video.writer.as_text", lambda _: text)
            m.setattr("videodiff.video.formats.readable", lambda _: "")
            video.write(tmp_path / name, noise(2), 10, metadata={}, overwrite=True)
        with suppress(UserError):
            assert video.read_metadata(tmp_path / name) == {}


def test_settings_are_text_that_can_be_written():
    assert metadata.parse('{"a": "\\ud800"}', "a")["a"].encode() == b"?"


@pytest.mark.parametrize("name", FORMS)
def test_an_existing_file_is_refused_unless_overwriting_is_asked_for(tmp_path, name):
    video.write(tmp_path / name, noise(1), 10)
    with pytest.raises(UserError, match="--overwrite"):
        video.write(tmp_path / name, noise(2), 10)
    assert len(video.read(tmp_path / name).frames) == 1
    video.write(tmp_path / name, noise(3), 10, overwrite=True)
    assert len(video.read(tmp_path / name).frames) == 3
    assert [p.name for p in tmp_path.iterdir()] == [name]


@pytest.mark.parametrize("name", FORMS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit, RuntimeError])
def test_an_interrupted_write_leaves_nothing(tmp_path, name, error):
    def frames():
        yield noise(1)[0]
        raise error

    with pytest.raises(error):
        video.write(tmp_path / name, frames(), 10)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a", "a.mp4"])
def test_a_folder_with_other_files_is_never_overwritten(tmp_path, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / "diary.txt").write_text("dear")
    with pytest.raises(UserError, match="other files"):
        video.write(tmp_path / name, noise(1), 10, overwrite=True)
    assert (tmp_path / name / "diary.txt").read_text() == "dear"


def test_wrong_requests_are_told(tmp_path):
    for path, word in [("a.xyz", "choose"), ("missing/a.mp4", "does not exist")]:
        with pytest.raises(UserError, match=word):
            video.write(tmp_path / path, noise(1), 10)
    with pytest.raises(UserError, match="no frame"):
        video.write(tmp_path / "a.mp4", [], 10)
    assert list(tmp_path.iterdir()) == []


class FullDisk:
    """An opener of files on a disk that takes only `left` more bytes."""

    def __init__(self, left: int):
        self.left = left

    def __call__(self, path, mode, buffering=-1):
        disk, file = self, io.open(path, mode, buffering=0)  # noqa: SIM115, UP020

        class Limited:
            def write(self, data):
                if len(data) > disk.left:
                    raise OSError(errno.ENOSPC, "No space left on device")
                disk.left -= len(data)
                return file.write(data)

            def __getattr__(self, name):
                return getattr(file, name)

            def __enter__(self):
                return self

            def __exit__(self, *_):
                file.close()

        return Limited()


@pytest.mark.parametrize("name", FORMS)
def test_a_full_disk_leaves_the_old_file_and_no_temporary(tmp_path, name):
    old, new = noise(2), noise(4)
    video.write(tmp_path / name, old, 10, metadata={"old": True})

    def write(path: Path, disk: FullDisk) -> None:
        with video.Writer(path, 10, {"old": False}, overwrite=True, opener=disk) as writer:
            for frame in new:
                writer.add(frame)

    before = _contents(tmp_path / name)
    write(tmp_path / f"full_{name}", large := FullDisk(10**9))
    for left in np.linspace(0, 10**9 - large.left - 1, 50).astype(int):
        with pytest.raises(OutOfResources, match="disk is full"):
            write(tmp_path / name, FullDisk(int(left)))
        assert _contents(tmp_path / name) == before, left
        assert sorted(p.name for p in tmp_path.iterdir()) == sorted([name, f"full_{name}"]), left


def _contents(path: Path) -> list[bytes]:
    return [p.read_bytes() for p in sorted(path.iterdir())] if path.is_dir() else [path.read_bytes()]


@pytest.mark.skipif(os.name != "posix", reason="needs SIGKILL")
@pytest.mark.parametrize("name", ["a.mp4", "a"])
def test_a_killed_writer_leaves_no_partial_output(tmp_path, name):
    code = (
        "import sys, time, numpy as np; from videodiff import video\n"
        f"with video.Writer({str(tmp_path / name)!r}, 10) as w:\n"
        "    w.add(np.zeros((64, 64, 3), np.uint8)); print('going', flush=True)\n"
        "    while True: w.add(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, env=environment) as writer:
        assert writer.stdout
        writer.stdout.readline()
        time.sleep(0.2)
        writer.send_signal(signal.SIGKILL)
    assert not (tmp_path / name).exists()
    video.write(tmp_path / name, noise(2), 10)  # and the next one sweeps up
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_a_long_result_streams(tmp_path):
    with video.Writer(tmp_path / "a.mp4", 30) as writer:
        for number in range(500):
            writer.add(np.full((32, 32, 1), number % 256, np.uint8))
    assert writer.num_frames == 500
    assert video.probe(tmp_path / "a.mp4").num_frames == 500


def test_a_sidecar_lies_beside_the_output(tmp_path):
    path = video.write_sidecar(tmp_path / "a.mp4", {"seed": 1})
    assert path == tmp_path / "a.mp4.json"
    assert json.loads(path.read_text()) == {"seed": 1}
    assert [p.name for p in tmp_path.iterdir()] == ["a.mp4.json"]
    with pytest.raises(UserError, match="could not be written"):
        video.write_sidecar(tmp_path / "missing" / "a.mp4", {})


def test_sheets_and_previews_are_pictures(tmp_path):
    sheet = Image.open(BytesIO(video.contact_sheet(noise(5), 3, [str(n) for n in range(5)], tmp_path / "sheet.png")))
    assert sheet.size == (3 * 49 + 2, 2 * (33 + 14) + 2)
    assert (tmp_path / "sheet.png").exists()
    strip = Image.open(BytesIO(video.jpeg(noise(20, channels=1))))
    assert strip.size == (8 * 47, 33)
    assert video.resize(noise(2), (16, 16), "pad").shape == (2, 16, 16, 3)
