"""Hostile and damaged files end in one typed, clear line; the program that asked lives on, in bounded memory."""

import os
import socket
import struct
import subprocess
import sys
import time
import zlib
from collections import Counter
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image
from test_video import film, ramp

from videodiff import video
from videodiff.errors import LimitExceeded, UnreadableInput
from videodiff.video import guard

ROOT = Path(video.__file__).resolve().parents[2]


def rss(process: int | str = "self") -> int:
    """Bytes of memory a process holds now."""
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def small_films(folder: Path) -> dict[str, Path]:
    """One small file of each kind."""
    frames = ramp(10, 48, 64)
    films = {
        "mp4": film(folder / "a.mp4", frames),
        "mkv": film(folder / "a.mkv", frames, options={"g": "4"}),
        "webm": film(folder / "a.webm", frames, "libvpx-vp9"),
        "avi": film(folder / "a.avi", frames, "mpeg4"),
        "gif": folder / "a.gif",
    }
    pictures = [Image.fromarray(f) for f in frames]
    pictures[0].save(films["gif"], save_all=True, append_images=pictures[1:], duration=40)
    return films


def outcomes(folder: Path, number: int, seed: int = 0) -> Counter:
    """How many of the seeded mutants, 1 to 20 bytes changed in each, end in which way."""
    rng = np.random.default_rng(seed)
    originals = {kind: path.read_bytes() for kind, path in small_films(folder).items()}
    found: Counter = Counter()
    for mutant in range(number):
        kind = list(originals)[mutant % len(originals)]
        data = np.frombuffer(originals[kind], np.uint8).copy()
        places = rng.integers(0, len(data), rng.integers(1, 21))
        data[places] = rng.integers(0, 256, len(places))
        path = folder / f"mutant.{kind}"
        path.write_bytes(data.tobytes())
        clip = attempt(path, short_side=32)
        if isinstance(clip, video.Clip):
            found["whole" if len(clip.frames) == 10 and not clip.notes else "partly"] += 1
        else:
            assert "\n" not in str(clip)
            found[type(clip).__name__] += 1
    return found


def attempt(path: Path, **wanted) -> video.Clip | UnreadableInput | LimitExceeded:
    """The clip, or the typed error; any other exception gets through."""
    try:
        return video.read(path, **wanted)
    except (UnreadableInput, LimitExceeded) as error:
        return error


def test_mutants_end_in_frames_or_typed_errors(tmp_path):
    began = time.monotonic()
    found = outcomes(tmp_path, 1000)
    print(dict(found), f"{time.monotonic() - began:.1f} s")
    assert sum(found.values()) == 1000
    assert found["whole"] > 100
    assert time.monotonic() - began < 120


@pytest.mark.slow
def test_many_more_mutants(tmp_path):
    for seed in range(1, 11):
        assert sum(outcomes(tmp_path, 1000, seed).values()) == 1000


COUNTLESS = ("a.mkv", "a.webm", "a.mpg", "a.avi")
"""Kinds whose header does not say how many frames there should be, or that end at any place."""


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm", "a.avi", "a.gif", "a.png", "a.mpg", "a.webp"])
@pytest.mark.parametrize("share", [0.1, 0.5, 0.9])
def test_a_truncated_file_gives_its_frames_with_a_note_or_a_typed_error(tmp_path, name, share):
    frames = ramp(20)
    codec = {".mp4": "libx264", ".mkv": "libx264", ".webm": "libvpx-vp9", ".avi": "mpeg4", ".mpg": "mpeg2video"}
    if Path(name).suffix in codec:
        film(tmp_path / name, frames, codec[Path(name).suffix])
    else:
        pictures = [Image.fromarray(f) for f in frames]
        pictures[0].save(tmp_path / name, save_all=True, append_images=pictures[1:], duration=40)
    whole = video.read(tmp_path / name)
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    began = time.monotonic()
    clip = attempt(tmp_path / name)
    assert time.monotonic() - began < 2
    if isinstance(clip, video.Clip):
        assert 0 < len(clip.frames) <= len(whole.frames)
        assert clip.notes or len(clip.frames) == len(whole.frames) or name in COUNTLESS
    else:
        assert isinstance(clip, UnreadableInput)


RUBBISH = [b"", b"hello\n" * 100, b"\0" * 5000, bytes(range(256)) * 20, b"GIF89a", b"\x89PNG\r\n"]


@pytest.mark.parametrize("content", RUBBISH)
@pytest.mark.parametrize("name", ["a.mp4", "a.gif", "a.png"])
def test_what_is_not_a_video_is_unreadable(tmp_path, content, name):
    (tmp_path / name).write_bytes(content)
    for read in (video.read, video.probe, lambda p: video.Index().span(p, 0, 1), video.read_metadata):
        with pytest.raises(UnreadableInput) as error:
            read(tmp_path / name)
        assert error.value.exit_code == 3


def test_other_unreadable_inputs(tmp_path):
    (tmp_path / "empty").mkdir()
    with av.open(str(tmp_path / "sound.mp4"), "w") as container:
        stream = container.add_stream("aac", rate=44100)
        sound = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), "fltp", "mono")
        sound.sample_rate = 44100
        container.mux(stream.encode(sound))
        container.mux(stream.encode(None))
    for given, word in [
        (tmp_path / "missing.mp4", "does not exist"),
        (tmp_path / "empty", "no pictures"),
        (tmp_path / "sound.mp4", "no video stream"),
        ("", "not a file"),
        ("/dev/zero", "not an ordinary file"),
    ]:
        with pytest.raises(UnreadableInput, match=word):
            video.read(given)


def test_a_picture_with_the_name_of_a_film_is_read_as_what_it_is(tmp_path):
    Image.fromarray(ramp(1)[0]).save(tmp_path / "a.png")
    os.rename(tmp_path / "a.png", tmp_path / "a.mp4")
    np.testing.assert_array_equal(video.read(tmp_path / "a.mp4").frames, ramp(1))


def test_a_format_we_do_not_read_is_left_out_of_a_folder(tmp_path):
    for number, form in enumerate(["PNG", "PPM", "EPS", "TGA"]):
        Image.fromarray(ramp(1)[0]).save(tmp_path / f"{number}.png", form)
    clip = video.read(tmp_path)
    assert len(clip.frames) == 1
    assert [note[:15] for note in clip.notes] == ["left out: 1.png", "left out: 2.png", "left out: 3.png"]


def test_a_damaged_picture_still_gives_its_settings(tmp_path):
    with video.Writer(tmp_path / "frames", 10, {"seed": 1}) as writer:
        writer.add(ramp(1)[0])
    path = tmp_path / "frames" / "00000.png"
    path.write_bytes(path.read_bytes()[:-40])
    assert isinstance(attempt(path), UnreadableInput)
    assert video.read_metadata(path) == {"seed": 1}


@pytest.mark.parametrize("trusted", [False, True])
def test_no_name_and_no_playlist_reaches_ffmpeg(tmp_path, monkeypatch, trusted):
    def refuse(*_):
        raise AssertionError("a socket was opened")

    monkeypatch.setattr(socket, "socket", refuse)
    monkeypatch.setattr(socket, "create_connection", refuse)
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4", ramp(4))
    (tmp_path / "-").write_bytes((tmp_path / "a.mp4").read_bytes())
    names = ["concat:a.mp4|a.mp4", "subfile:,,start,0,end,0,,:a.mp4", "http://127.0.0.1:9/a.mp4", "file:a.mp4", "-"]
    names += ["pipe:0", "data:video/mp4;base64,AAAA", "rtsp://127.0.0.1/a", "async:a.mp4", "crypto+file:a.mp4"]
    for name in names:
        with pytest.raises(UnreadableInput):
            video.read(name, trusted=trusted)
    lists = {
        "a.m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\na.mp4\n#EXT-X-ENDLIST\n",
        "a.ffconcat": "ffconcat version 1.0\nfile 'a.mp4'\n",
        "b.mp4": "ffconcat version 1.0\nfile 'http://127.0.0.1:9/a.mp4'\n",
        "a.sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=a\nc=IN IP4 127.0.0.1\nm=video 5004 RTP/AVP 96\n",
        "c.mp4": "#EXTM3U\nhttp://127.0.0.1:9/a.ts\n",
    }
    for name, text in lists.items():
        (tmp_path / name).write_text(text)
        with pytest.raises(UnreadableInput):
            video.read(tmp_path / name, trusted=trusted)


def test_a_name_with_a_protocol_that_is_a_file_is_just_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    film(tmp_path / "a.mp4", ramp(3))
    os.rename("a.mp4", "concat:a.mp4")
    assert len(video.read("concat:a.mp4").frames) == 3


def bomb(path: Path, codec: str, options: dict[str, str], encoded: int) -> Path:
    """About 100 kB that decode to 15 GB: 300 black frames of 4096x4096, the last of those encoded repeated."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=30, options=options)
        stream.width = stream.height = 4096
        stream.pix_fmt = "yuv420p"
        frame = av.VideoFrame(4096, 4096, "yuv420p")
        for plane, value in zip(frame.planes, (16, 128, 128), strict=True):
            plane.update(bytes([value]) * plane.buffer_size)
        packets = []
        for number in range(encoded):
            frame.pts = number
            packets += stream.encode(frame)
        packets += stream.encode(None)
        apart, base = packets[1].pts - packets[0].pts, packets[0].time_base
        for number in range(300):
            packet = av.Packet(bytes(packets[min(number, encoded - 1)]))
            packet.stream, packet.time_base, packet.is_keyframe = stream, base, number == 0
            packet.pts = packet.dts = number * apart
            container.mux(packet)
    return path


VP9 = ("libvpx-vp9", {"deadline": "realtime", "cpu-used": "8", "lag-in-frames": "0", "crf": "63"}, 3)
H264 = ("libx264", {"preset": "ultrafast", "crf": "51", "g": "300"}, 300)


@pytest.mark.skipif(not os.path.exists("/proc/self/statm"), reason="needs /proc to measure memory")
@pytest.mark.parametrize("kind", [VP9, pytest.param(H264, marks=pytest.mark.slow)], ids=["vp9", "h264"])
def test_a_bomb_is_refused_at_once_or_read_in_bounded_memory(tmp_path, kind):
    path = bomb(tmp_path / "bomb.mp4", *kind)
    assert path.stat().st_size < 150_000
    guard.close()
    before, began = rss(), time.monotonic()
    with pytest.raises(LimitExceeded, match="max_bytes"):
        video.read(path)
    assert time.monotonic() - began < 5
    print(f"bomb refused in {time.monotonic() - began:.2f} s")
    began, most = time.monotonic(), 0
    count = -1  # the facts come first
    for _ in video.stream(path, short_side=64, num_frames=60):
        most, count = max(most, rss()), count + 1
    print(f"{count} frames streamed in {time.monotonic() - began:.1f} s, memory rose {(most - before) / 2**20:.0f} MiB")
    assert count == 60
    assert most - before < 300 * 2**20


def test_the_child_has_a_memory_limit(tmp_path):
    code = (
        "import numpy as np; from videodiff.video import child\n"
        "child.limit_memory(2**28)\n"
        "try: np.ones(2**30, np.uint8); print('no limit')\n"
        "except MemoryError: print('limited')\n"
    )
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    if sys.platform == "linux":
        assert said.stdout.strip() == "limited"


@pytest.mark.parametrize("size", [(16, 16384), (16384, 16)])
def test_a_side_over_the_limit_is_refused_from_the_header(tmp_path, size):
    path = film(tmp_path / "a.mkv", np.zeros((4, *size, 3), np.uint8), "ffv1", "bgr0")
    with pytest.raises(LimitExceeded, match="max_side"):
        video.read(path, short_side=16)


def test_hours_at_one_frame_a_second_are_refused(tmp_path):
    pts = [0, 1000, 36_000_000]
    path = film(tmp_path / "a.mkv", ramp(3), "ffv1", "bgr0", pts=pts)
    with pytest.raises(LimitExceeded, match="max_seconds"):
        video.read(path)
    assert len(video.read(path, end=5).frames) == 2
    with pytest.raises(LimitExceeded, match="max_seconds"):
        video.read(path, fps=25, num_frames=10**9)
    with pytest.raises(LimitExceeded, match="max_frames"):  # a gap in the times does not become frames without end
        list(video.stream(path, fps=25, limits=video.Limits(max_seconds=10**6, max_frames=1000), short_side=1))


def test_a_crowd_of_streams_is_no_trouble(tmp_path):
    with av.open(str(tmp_path / "a.mkv"), "w") as container:
        for _ in range(126):  # as many as the muxer takes
            stream = container.add_stream("ffv1", rate=10)
            stream.width = stream.height = 16
            stream.pix_fmt = "bgr0"
        frame = av.VideoFrame.from_ndarray(np.zeros((16, 16, 3), np.uint8), "rgb24").reformat(format="bgr0")
        frame.pts = 0
        for stream in container.streams.video:
            container.mux(stream.encode(frame))
    began = time.monotonic()
    assert isinstance(attempt(tmp_path / "a.mkv"), video.Clip | UnreadableInput)
    assert time.monotonic() - began < 5


def test_an_edit_list_hides_frames_without_a_complaint(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(24), options={"g": "12", "bf": "0"})
    data = bytearray(path.read_bytes())
    place = data.find(b"elst") + 8 + 4 + 4  # after version and number of entries, and the duration of the first
    rate = 25 * 512
    assert int.from_bytes(data[place : place + 4]) == 0  # begins at the beginning, in units of 1 / 12800 s
    data[place : place + 4] = (rate // 5).to_bytes(4)  # now 0.2 s later
    path.write_bytes(data)
    clip = video.read(path)
    assert clip.notes == ()
    assert len(clip.frames) == 19
    span = video.Index().span(path, 10, 3)
    np.testing.assert_array_equal(span.frames, clip.frames[10:13])


def test_one_pixel_is_a_clip(tmp_path):
    path = film(tmp_path / "a.mkv", np.full((3, 1, 1, 3), 77, np.uint8), "ffv1", "bgr0")
    assert (video.read(path).frames == 77).all()


def test_a_picture_bomb_is_refused(tmp_path):
    for side, word in [(8000, "max_pixels"), (10_000, "max_side"), (30_000, "pixels")]:
        header = b"IHDR" + struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
        chunk = struct.pack(">I", 13) + header + struct.pack(">I", zlib.crc32(header))
        (tmp_path / "a.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk + b"\0\0\0\0IDAT" + bytes(100))
        with pytest.raises(LimitExceeded, match=word):
            video.read(tmp_path / "a.png")


def test_a_decoder_that_hangs_is_ended(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(4))
    video.read(path)
    worker = guard._idle[0]
    os.kill(worker.process.pid, 19)  # SIGSTOP: it never answers
    began = time.monotonic()
    with pytest.raises(LimitExceeded, match="max_wall_seconds"):
        video.read(path, limits=video.Limits(max_wall_seconds=0.5))
    assert time.monotonic() - began < 3
    assert len(video.read(path).frames) == 4


def test_a_decoder_that_crashes_is_replaced(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(30, 240, 320))
    frames = video.stream(path)
    next(frames)
    child = next(p for p in Path("/proc").glob("[0-9]*/cmdline") if _is_child(p)) if sys.platform == "linux" else None
    if child:
        os.kill(int(child.parent.name), 11)  # SIGSEGV
        with pytest.raises(UnreadableInput, match="decoder"):
            list(frames)
    assert len(video.read(path, short_side=16).frames) == 30


def _is_child(cmdline: Path) -> bool:
    try:
        mine = f"\nPPid:\t{os.getpid()}\n" in (cmdline.parent / "status").read_text()
        return mine and b"videodiff.video.child" in cmdline.read_bytes()
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")
def test_closing_a_stream_ends_its_decoder(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(200))
    guard.close()
    frames = video.stream(path)
    next(frames)
    assert sum(_is_child(p) for p in Path("/proc").glob("[0-9]*/cmdline")) == 1
    frames.close()
    assert sum(_is_child(p) for p in Path("/proc").glob("[0-9]*/cmdline")) == 0


def test_importing_is_cheap_and_loads_no_codec():
    code = "import sys, videodiff.video as v; print([m for m in ('torch', 'av', 'PIL', 'imageio') if m in sys.modules])"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment, check=True)
    assert said.stdout.strip() == "[]"
