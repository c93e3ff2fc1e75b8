"""Clips come in as they are shown: every frame, its time, its colour, its way up."""

import json
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image, ImageOps

from videodiff import video
from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video import guard
from videodiff.video.geometry import place

UNREADABLE = {"derived_empty.mp4", "derived_truncated_no_moov.mp4"}


def ramp(num_frames: int = 24, height: int = 64, width: int = 96) -> np.ndarray:
    """Smooth frames uint8 [t h w 3], each different."""
    t, y, x = np.mgrid[0:num_frames, 0:height, 0:width]
    return np.stack([(x * 2 + t * 4) % 256, (y * 3) % 256, t * 5 % 256 + 0 * x], -1).astype(np.uint8)


def film(path, frames, codec="libx264", pixels="yuv420p", rate=25, options=None, pts=None, space=None, full=False):
    """A film made with PyAV alone; `pts` are the times in milliseconds, else the frames come at the rate."""
    tags = {} if space is None else {"dst_colorspace": space, "dst_color_range": 2 if full else 1}
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=rate, options=options or {})
        stream.height, stream.width, stream.pix_fmt = frames.shape[1], frames.shape[2], pixels
        if space is not None:
            stream.codec_context.colorspace = space
            stream.codec_context.color_range = 2 if full else 1
        if pts is not None:
            stream.time_base = stream.codec_context.time_base = Fraction(1, 1000)
        for place_, pixels_ in enumerate(frames):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(pixels_), "rgb24").reformat(format=pixels, **tags)
            frame.pts = place_ if pts is None else pts[place_]
            frame.time_base = 1 / Fraction(rate) if pts is None else Fraction(1, 1000)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return path


@pytest.fixture(scope="module")
def clips(shared: Path) -> Path:
    return shared / "clips" if (shared / "clips").is_dir() else shared / "data" / "clips"


def test_every_real_clip_gives_its_frames_or_a_typed_error(clips):
    facts = json.loads((clips / "index.json").read_text())
    assert len(facts) == 34
    for name, fact in facts.items():
        if name in UNREADABLE:
            with pytest.raises(UnreadableInput):
                video.read(clips / name)
            continue
        clip = video.read(clips / name, short_side=32)
        assert len(clip.frames) == fact["decoded_frames"], name
        assert clip.frames.dtype == np.uint8
        assert min(clip.frames.shape[1:3]) == 32, name
        damaged = bool(fact["decode_error"]) or "truncated" in name  # this one ends in mid-air without an error
        assert bool(clip.notes) == damaged, (name, clip.notes)
        assert list(clip.times) == sorted(clip.times), name


def test_a_span_from_the_middle_is_what_decoding_from_the_beginning_gives(clips, tmp_path):
    names = ["unordered_pts.mov", "derived_vfr.mp4", "mpeg4_mp3.avi", "mpeg1_face.mpg", "vp9_alpha.webm", "av1.mkv"]
    names += ["qcif_carphone.mp4", "hevc_10bit.mp4", "rotate_90.mov", "vp8_vorbis.webm", "animated_200x150.gif"]
    names += ["corrupt_stream.mp4", "microscopy_gray.mov"]
    index = video.Index(cache=tmp_path)
    for name in names:
        whole = video.read(clips / name, short_side=32)
        n = len(whole.frames)
        for first, count in [(0, 2), (n // 2, 3), (n - 2, 2), (n // 3, 1), (n - 1, 9)]:
            first = max(0, first)
            span = index.span(clips / name, first, count, short_side=32)
            np.testing.assert_array_equal(span.frames, whole.frames[first : first + count][: len(span.frames)], name)
            assert len(span.frames) == min(count, n - first) or span.notes, (name, first, count)
            np.testing.assert_allclose(span.times, whole.times[first : first + len(span.frames)], atol=1e-6)
        if whole.times[-1] > 3:  # a late start seeks, too
            late = video.read(clips / name, start=2.5, end=2.9, short_side=32)
            inside = [n for n, time in enumerate(whole.times) if 2.5 <= time < 2.9]
            np.testing.assert_array_equal(late.frames, whole.frames[inside], name)
    assert len(list(tmp_path.glob("*.json"))) == len(names)
    again = video.Index(cache=tmp_path)
    assert again.table(clips / names[0]) == index.table(clips / names[0])


def test_a_span_seeks_instead_of_decoding_what_lies_before(tmp_path):
    frames = ramp(120)
    path = film(tmp_path / "long.mp4", frames, options={"g": "12", "bf": "3"})
    index = video.Index()
    assert len(index.table(path).keys) >= 10
    limits = video.Limits(max_frames=40)  # fewer frames than lie before the span
    span = video.Index(limits=limits).span(path, 100, 5)
    whole = video.read(path).frames
    np.testing.assert_array_equal(span.frames, whole[100:105])
    late = video.read(path, start=3.6, end=3.8, limits=limits)  # so does a late start
    np.testing.assert_array_equal(late.frames, whole[90:95])
    np.testing.assert_allclose(late.times, np.arange(90, 95) / 25)


@pytest.mark.parametrize(
    ("codec", "name", "pixels", "options"),
    [
        ("libx264", "a.mp4", "yuv420p", {"x264-params": "interlaced=1:tff=1"}),
        ("libx264", "a.mov", "yuv420p10le", {}),
        ("libx265", "a.mp4", "yuv420p", {"x265-params": "log-level=none"}),
        ("libvpx", "a.webm", "yuv420p", {}),
        ("libvpx-vp9", "a.webm", "yuv420p", {}),
        ("mpeg1video", "a.mpg", "yuv420p", {}),
        ("mpeg2video", "a.mpeg", "yuv420p", {"flags": "+ildct+ilme"}),
        ("mpeg4", "a.avi", "yuv420p", {"bf": "2"}),
        ("mpeg4", "a.m4v", "yuv420p", {}),
        ("mjpeg", "a.avi", "yuvj420p", {}),
        ("prores_ks", "a.mov", "yuv422p10le", {}),
        ("ffv1", "a.mkv", "bgr0", {}),
    ],
)
def test_every_codec_is_read_and_indexed(tmp_path, codec, name, pixels, options):
    frames = ramp()
    path = film(tmp_path / name, frames, codec, pixels, options=options)
    clip = video.read(path)
    assert clip.frames.shape == frames.shape
    assert np.abs(clip.frames.astype(int) - frames).mean() < 10
    np.testing.assert_allclose(np.diff(clip.times), 0.04, atol=1e-6)
    span = video.Index().span(path, 15, 4)
    np.testing.assert_array_equal(span.frames, clip.frames[15:19])


@pytest.mark.parametrize("space", [1, 5])  # BT.709, BT.601
@pytest.mark.parametrize("full", [False, True])
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colours_are_within_two_levels(tmp_path, space, full, pixels):
    primaries = [[255, 0, 0], [0, 255, 0], [0, 0, 255], [255, 255, 255], [0, 0, 0]]
    colours = np.array([*primaries, [128, 128, 128], [200, 30, 90], [20, 180, 140]], np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (8, 32, 48, 3))
    options = {"crf": "1"} if "10" in pixels else {"crf": "0"}
    path = film(tmp_path / "colours.mp4", frames, "libx264", pixels, options=options, space=space, full=full)
    for wanted in ({}, {"size": (16, 24)}, {"size": (48, 72)}):
        read = video.read(path, **wanted).frames
        assert np.abs(read.astype(int) - colours[:, None, None]).max() <= 2, wanted


def test_transparent_pixels_are_composited_over_black(tmp_path):
    rgba = np.zeros((8, 8, 4), np.uint8)
    rgba[..., 0], rgba[:4, :, 3], rgba[4:, :, 3] = 200, 255, 128
    Image.fromarray(rgba).save(tmp_path / "a.png")
    frame = video.read(tmp_path / "a.png").frames[0]
    assert (frame[:4] == [200, 0, 0]).all()
    assert (frame[4:] == [100, 0, 0]).all()


def test_rotated_clips_come_upright(clips):
    for name, shape in [("rotate_0.mov", (320, 568)), ("rotate_90.mov", (568, 320)), ("rotate_180.mov", (320, 568))]:
        info = video.probe(clips / name)
        assert (info.height, info.width) == shape
        assert video.read(clips / name).frames.shape[1:3] == shape
    with av.open(str(clips / "rotate_90.mov")) as container:  # a quarter turn clockwise, by the display matrix
        stored = next(container.decode(video=0)).to_ndarray(format="rgb24").astype(int)
    shown = video.read(clips / "rotate_90.mov").frames[0]
    assert np.abs(np.rot90(stored, -1) - shown).mean() < 3


@pytest.mark.parametrize("name", ["a.png", "a.tiff"])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_pictures_come_upright_and_gray_ones_are_mirrored_too(tmp_path, name, mode):
    for orientation in range(1, 9):
        exif = Image.Exif()
        exif[0x0112] = orientation
        stored = Image.fromarray(ramp(1)[0]).convert(mode)
        stored.save(tmp_path / name, exif=exif)
        stored.getexif()[0x0112] = orientation
        upright = np.asarray(ImageOps.exif_transpose(stored).convert("RGB"))
        np.testing.assert_array_equal(video.read(tmp_path / name).frames[0], upright)
        info = video.probe(tmp_path / name)
        assert (info.height, info.width) == upright.shape[:2]


def test_16_bit_gray_is_scaled(tmp_path):
    levels = np.arange(0, 65536, 256, np.uint16).reshape(16, 16)
    for name in ("a.png", "a.tiff"):
        Image.fromarray(levels).save(tmp_path / name)
        assert (video.read(tmp_path / name).frames[0] == (levels >> 8)[..., None]).all()


def test_the_thumbnails_of_a_photograph_are_no_film(tmp_path):
    views = [Image.fromarray(f) for f in ramp(3)]
    views[0].save(tmp_path / "a.jpg", "MPO", save_all=True, append_images=views[1:])
    assert len(video.read(tmp_path / "a.jpg").frames) == 1


def test_variable_frame_rate_is_resampled_by_time(tmp_path):
    pts = [0, 40, 80, 500, 540, 1000]
    path = film(tmp_path / "vfr.mkv", ramp(6), "ffv1", "bgr0", pts=pts)
    as_stored = video.read(path)
    np.testing.assert_allclose(as_stored.times, np.array(pts) / 1000)
    regular = video.read(path, fps=10, end=1.0)
    np.testing.assert_allclose(regular.times, np.arange(10) / 10)
    shown = [0, 2, 2, 2, 2, 3, 4, 4, 4, 4]  # the picture on screen at 0, 0.1, ... 0.9 s
    np.testing.assert_array_equal(regular.frames, ramp(6)[shown])
    assert regular.fps == 10


def test_start_end_stride_num_frames_and_last_choose_frames(tmp_path):
    frames = ramp(50)
    path = film(tmp_path / "a.mkv", frames, "ffv1", "bgr0", rate=10, options={"g": "5"})

    def read(**wanted):
        return video.read(path, **wanted).frames

    np.testing.assert_array_equal(read(start=1.0, end=2.0), frames[10:20])
    np.testing.assert_array_equal(read(start=3.0, num_frames=4), frames[30:34])
    np.testing.assert_array_equal(read(stride=7), frames[::7])
    np.testing.assert_array_equal(read(stride=3, num_frames=4), frames[:12:3])
    np.testing.assert_array_equal(read(last=3), frames[-3:])
    np.testing.assert_array_equal(read(fps=5), frames[::2])
    np.testing.assert_array_equal(read(fps=20, num_frames=6), frames[[0, 0, 1, 1, 2, 2]])
    assert video.read(path, stride=2).fps == 5
    with pytest.raises(UnreadableInput, match=r"5\.00 s long"):
        read(start=9)
    squash = {"fit": "squash", "size": (8, 8)}
    for wrong in ({"stride": 0}, {"start": 2, "end": 1}, {"fps": 0}, {"num_frames": 0}, squash):
        with pytest.raises(UserError):
            read(**wrong)


@pytest.mark.parametrize("form", ["film", "pictures"])
def test_a_crop_is_a_slice_and_is_cut_before_scaling(tmp_path, form):
    frames = np.random.default_rng(0).integers(0, 256, (5, 40, 60, 3), np.uint8)
    path = tmp_path / ("a.mkv" if form == "film" else "a")
    video.write(path, frames, 10)
    part = frames[:, 6:30, 10:46]
    np.testing.assert_array_equal(video.read(path, crop=(24, 36, 6, 10)).frames, part)
    small = video.read(path, crop=(24, 36, 6, 10), size=(16, 16), fit="crop").frames
    np.testing.assert_array_equal(small, video.resize(part, (16, 16)))
    levels = video.read_levels(path, (24, 36), 5, crop=(24, 36, 6, 10))
    np.testing.assert_array_equal(levels, (part.sum(3, dtype=np.uint16) + 1) // 3)
    for beyond in ((24, 36, 17, 10), (24, 36, 6, 25)):
        with pytest.raises(UserError, match="which is 60x40"):
            video.read(path, crop=beyond)


def test_a_crop_is_of_the_upright_picture(clips):
    path = clips / "rotate_90.mov"
    whole, part = (video.read(path, num_frames=2, crop=crop).frames for crop in (None, (400, 200, 30, 50)))
    np.testing.assert_array_equal(part, whole[:, 30:430, 50:250])


@pytest.mark.parametrize("rate", [Fraction(24000, 1001), Fraction(30000, 1001), Fraction(25)])
def test_rates_are_kept_as_fractions(tmp_path, rate):
    clip = video.read(film(tmp_path / "a.mp4", ramp(10), rate=rate))
    assert clip.fps == rate
    np.testing.assert_allclose(clip.times, np.arange(10) / float(rate), atol=1e-4)


def test_the_aspect_ratio_is_kept():
    assert place(480, 640, short_side=64, multiple=8).size == (64, 88)
    assert place(480, 640, size=(64, 64)).size == (48, 64)
    assert place(480, 640, size=(64, 64), fit="crop").scaled == (64, 85)
    padded = place(480, 640, size=(64, 64), fit="pad")
    assert padded.size == (64, 64)
    assert padded.at == (8, 0)
    assert place(100, 100, short_side=50, pixel_aspect=Fraction(2)).size == (50, 100)
    assert place(33, 35, multiple=4).size == (32, 32)


def test_resizing_is_antialiased(tmp_path):
    stripes = np.zeros((2, 128, 128, 3), np.uint8)
    stripes[:, :, ::2] = 255
    path = film(tmp_path / "a.mkv", stripes, "ffv1", "bgr0")
    assert np.abs(video.read(path, size=(32, 32)).frames.astype(int) - 127).max() <= 2
    assert np.abs(video.resize(stripes, (32, 32)).astype(int) - 127).max() <= 2


def test_animations_keep_their_times_and_folders_their_order(tmp_path):
    frames = [Image.fromarray(f) for f in ramp(4)]
    for name in ("a.gif", "a.webp", "a.png"):
        rest = {"save_all": True, "append_images": frames[1:], "lossless": True}
        frames[0].save(tmp_path / name, duration=[100, 200, 50, 100], **rest)
        clip = video.read(tmp_path / name)
        assert len(clip.frames) == 4, name
        np.testing.assert_allclose(clip.times, [0, 0.1, 0.3, 0.35], err_msg=name)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number in (1, 2, 10):
        frames[number % 4].save(folder / f"frame{number}.png")
    clip = video.read(folder)
    np.testing.assert_array_equal(clip.frames, ramp(4)[[1, 2, 2]])
    assert clip.fps == 10
    np.testing.assert_allclose(video.read(folder, fps=25).times, [0, 0.04, 0.08])


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.bmp", "a.tiff", "a.webp", "a.gif"])
def test_a_single_picture_is_a_clip_of_one_frame(tmp_path, name):
    Image.fromarray(ramp(1)[0]).save(tmp_path / name)
    assert video.read(tmp_path / name).frames.shape == (1, 64, 96, 3)
    assert len(video.read(tmp_path / name, fps=30).frames) == 1


def test_a_change_of_size_in_mid_stream_is_fitted_and_said(tmp_path):
    with open(tmp_path / "a.h264", "wb") as both:
        for part, shape in enumerate([(64, 96), (96, 64)]):
            both.write(film(tmp_path / f"{part}.h264", ramp(5, *shape), options={"bf": "0"}).read_bytes())
    clip = video.read(tmp_path / "a.h264")
    assert clip.frames.shape == (10, 64, 96, 3)
    assert any("64x96" in note for note in clip.notes)


def test_a_stream_is_stopped_by_closing_it(tmp_path):
    frames = video.stream(film(tmp_path / "a.mp4", ramp(100)))
    info = next(frames)
    assert isinstance(info, video.ClipInfo)
    assert isinstance(next(frames), video.Frame)
    frames.close()
    assert video.read(tmp_path / "a.mp4", num_frames=2).frames.shape[0] == 2


def test_a_mask_is_true_where_white(tmp_path):
    white = np.zeros((8, 8), np.uint8)
    white[2:4] = 255
    Image.fromarray(white).save(tmp_path / "mask.png")
    mask = video.read_mask(tmp_path / "mask.png", (16, 16), 3)
    assert mask.shape == (3, 16, 16)
    assert mask[:, 4:8].all()
    assert mask.sum() == 3 * 4 * 16
    rolling = np.stack([np.roll(white, n, 0) for n in range(2)])[..., None].repeat(3, 3)
    moving = film(tmp_path / "mask.mkv", rolling, "ffv1", "bgr0")
    assert video.read_mask(moving, (8, 8), 2)[1, 3:5].all()
    with pytest.raises(UserError, match="every frame"):
        video.read_mask(moving, (8, 8), 3)


def test_one_decoder_serves_many_requests(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(4))
    video.probe(path)
    decoder = guard._idle[0].process.pid
    for ask in (video.probe, video.read, video.read_metadata, video.Index().table):
        ask(path)
    with pytest.raises(UserError):
        video.read(path, limits=video.Limits(max_side=10))
    assert [w.process.pid for w in guard._idle] == [decoder]


def test_limits_are_named_with_what_to_do(tmp_path):
    path = film(tmp_path / "a.mp4", ramp(50))
    for limits, word in [
        (video.Limits(max_side=90), "max_side"),
        (video.Limits(max_pixels=5000), "max_pixels"),
        (video.Limits(max_frames=40), "max_frames"),
        (video.Limits(max_seconds=1), "max_seconds"),
        (video.Limits(max_bytes=100_000), "max_bytes"),
    ]:
        with pytest.raises(LimitExceeded, match=word):
            video.read(path, limits=limits)
    assert len(video.read(path, limits=video.Limits(max_bytes=100_000), short_side=16).frames) == 50
    assert len(video.read(path, limits=video.Limits(max_seconds=1), num_frames=20).frames) == 20
    assert sum(isinstance(f, video.Frame) for f in video.stream(path, limits=video.Limits(max_bytes=100_000))) == 50
