"""Films to frames with PyAV: open safely, decode, deinterlace, choose by time, scale, turn upright.

Nothing here trusts the file. It is opened in Python and handed to FFmpeg as a file object, so that no name is ever
interpreted; only listed demuxers and decoders run; sizes are checked before decoding and again on every frame, because
they may change in mid-stream. `frames` yields `Frame`s and, as plain strings, notes for the user.
"""

import os
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from fractions import Fraction
from itertools import chain, islice
from pathlib import Path
from typing import Any

import av
import numpy as np
from av.video.reformatter import Interpolation

from videodiff.errors import LimitExceeded, UnreadableInput
from videodiff.video.choose import Fitter, Timed, check_length, check_size, choose, cut, over_black
from videodiff.video.pictures import scaled
from videodiff.video.shapes import INTERLACED, ClipInfo, Frame, Limits, Request, Table

DEMUXERS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,mpeg,mpegvideo,mpegts,flv,ogg,m4v,h264,hevc,ivf,obu"
DECODERS = (
    "h264,hevc,av1,libdav1d,libaom-av1,vp8,vp9,libvpx,libvpx-vp9,mpeg1video,mpeg2video,mpeg4,msmpeg4v1,msmpeg4v2,msmpeg4,"
    "h263,h263p,h263i,flv,mjpeg,prores,ffv1,rawvideo,huffyuv,ffvhuff,utvideo,theora,wmv1,wmv2,dnxhd,png,apng,qtrle,"
    "cinepak,svq1,svq3,dvvideo,jpeg2000,magicyuv,v210"
)
DAMAGE: tuple[type[Exception], ...] = (av.error.FFmpegError, ValueError, EOFError, LookupError, ArithmeticError)
"""What PyAV raises on damaged files (measured on mutants), beside MemoryError."""
ACCURATE = Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP
HONEST = frozenset({"h264", "hevc", "vp9", "libdav1d", "mjpeg", "ffv1", "prores", "mpeg4"})
"""Codecs whose packets in MP4 and Matroska are one frame each, shown at the packet's time."""
THREADED = HONEST - {"mpeg4"}
SLACK = 0.5  # seconds
"""Codecs decoded by several threads. With MPEG-4 a damaged file then came out differently from time to time."""


@contextmanager
def opened(path: str, limits: Limits) -> Iterator[tuple[av.container.InputContainer, av.VideoStream]]:
    """The container and its video stream, checked against the limits before anything is decoded."""
    name = Path(path).name
    options = {"max_pixels": str(limits.max_pixels)}
    strict = {"format_whitelist": DEMUXERS, "protocol_whitelist": "none", "max_streams": "100", **options}
    with open(path, "rb") as file:
        try:
            container = av.open(file, "r", metadata_errors="replace", options=options, container_options=strict)
        except DAMAGE as error:
            raise UnreadableInput(f"{name} is not a readable video ({_reason(error)}); {_hint(path)}") from None
        assert isinstance(container, av.container.InputContainer)
        with container:
            films = [s for s in container.streams.video if not s.disposition & s.disposition.attached_pic]
            if not films:
                raise UnreadableInput(f"{name} has no video stream; give a file with pictures in it")
            stream = films[0]
            codec = stream.codec_context
            if codec is None or codec.name not in DECODERS.split(","):
                known = codec.name if codec else "unknown"
                raise UnreadableInput(f"{name} uses the codec '{known}', which is not supported; convert it to H.264")
            check_size(name, codec.width, codec.height, limits)
            alone = codec.name not in THREADED or codec.width * codec.height > 2**23  # each thread holds frames
            codec.thread_type, codec.thread_count = "AUTO", 1 if alone else min(4, os.cpu_count() or 1)
            yield container, stream


def probe(path: str, limits: Limits) -> ClipInfo:
    """What the headers say, and the first frame: nothing else tells how the picture is turned."""
    with opened(path, limits) as (container, stream):
        first = next(_decoded(container, stream, limits, None, []), None)
        return _info(container, stream, first)


def _info(container: av.container.InputContainer, stream: av.VideoStream, frame: av.VideoFrame | None) -> ClipInfo:
    codec = stream.codec_context
    rotation, width, height = frame.rotation % 360 if frame else 0, codec.width, codec.height
    aspect = codec.sample_aspect_ratio or stream.sample_aspect_ratio or Fraction(1)
    aspect = Fraction(aspect) if Fraction(1, 8) <= aspect <= 8 else Fraction(1)
    if _quarter(rotation) % 2:
        width, height, aspect = height, width, 1 / aspect
    return ClipInfo(
        container=container.format.name,
        codec=codec.name,
        pix_fmt=codec.pix_fmt or "unknown",
        width=width,
        height=height,
        fps=_rate(stream),
        num_frames=stream.frames or None,
        duration=_duration(container, stream),
        rotation=rotation,
        pixel_aspect=aspect,
        has_audio=bool(container.streams.audio),
        has_alpha=_has_alpha(stream),
    )


def _duration(container: av.container.InputContainer, stream: av.VideoStream) -> float | None:
    """Seconds the stream lasts, or else the file; None where neither says."""
    if stream.duration and stream.time_base:
        duration = float(stream.duration * stream.time_base)
    else:
        duration = (container.duration or 0) / av.time_base
    return duration if duration > 0 else None


def _rate(stream: av.VideoStream) -> Fraction:
    for rate in (stream.average_rate, stream.guessed_rate, stream.base_rate):
        if rate and Fraction(1, 1000) <= rate <= 1000:
            return Fraction(rate)
    return Fraction(25)  # a raw stream without any rate; what FFmpeg assumes too


def _quarter(rotation: float) -> int:
    """Quarter turns counter-clockwise that set the picture upright."""
    return round(rotation / 90) % 4


def _has_alpha(stream: av.VideoStream) -> bool:
    pixels = stream.codec_context.format
    tag = {k.lower(): v for k, v in stream.metadata.items()}.get("alpha_mode")
    return tag == "1" or bool(pixels and any(c.is_alpha for c in pixels.components))


def table(path: str, limits: Limits) -> Table:
    """When each frame is shown and where decoding can begin, by reading packets, or by decoding where those may lie."""
    with opened(path, limits) as (container, stream):
        found = _packet_table(container, stream, limits)
        base = stream.time_base or Fraction(1, 1000)
    if found is None:  # hidden VP8 frames, packed B-frames of AVI, MPEG streams: only what comes out counts
        with opened(path, limits) as (container, stream):
            shown = [frame.pts for frame in _decoded(container, stream, limits, None, [])]
            rate = _rate(stream)
        stamps = [pts for pts in shown if pts is not None]
        if len(stamps) < len(shown):
            stamps, base = list(range(len(shown))), 1 / rate
        found = stamps, []
    if not found[0]:
        raise UnreadableInput(f"{Path(path).name} holds no frame that can be decoded; {_hint(path)}")
    return Table(tuple(found[0]), tuple(found[1]), Fraction(base))


def _packet_table(container, stream: av.VideoStream, limits: Limits) -> tuple[list[int], list[int]] | None:
    """Time stamps of all frames and of the key frames, ascending, or None where packets are not frames."""
    mp4_or_mkv = "mp4" in container.format.name or "matroska" in container.format.name
    if not mp4_or_mkv or stream.codec_context.name not in HONEST or _has_alpha(stream):
        return None
    shown, keys, hidden = [], [], 0
    try:
        for packet in container.demux(stream):
            hidden += packet.is_discard
            if packet.size and not packet.is_discard:
                shown.append(packet.pts)
                keys += [packet.pts] if packet.is_keyframe else []
            if len(shown) > 10 * limits.max_frames:
                raise LimitExceeded(f"over {10 * limits.max_frames} packets, ten times the limit max_frames; cut it")
    except DAMAGE:
        return None
    if None in shown or len(set(shown)) < len(shown) or stream.frames not in (0, len(shown) + hidden):
        return None
    return sorted(shown), sorted(keys)


def frames(request: Request) -> Iterator[ClipInfo | Frame | str]:
    """First the facts, then each frame asked for, upright and at its final size; notes come in between as strings."""
    limits, name = request.limits, Path(request.path).name
    with opened(request.path, limits) as (container, stream):
        if not request.span:
            check_length(name, _info(container, stream, None), request)
        seek, zero = (request.span[0], None) if request.span else _skip(request)
        notes: list[str] = []
        decoded = _decoded(container, stream, limits, seek, notes)
        first = next(decoded, None)
        if first is None:
            raise UnreadableInput(f"{name} holds no frame that can be decoded; {_hint(request.path)}")
        info = _info(container, stream, first)
        yield info

        convert = Converter(info, request)
        timed = _timed(chain([first], decoded), zero, info.fps)
        chosen = _span(timed, request) if request.span else choose(timed, request, info.fps)
        made = (Frame(convert(frame), time) for time, frame in chosen)
        yield from deque(made, maxlen=request.last) if request.last else made
        yield from convert.fitter.notes
        yield from notes


def _skip(request: Request) -> tuple[int | None, float | None]:
    """Time stamp of the key frame before a late `start` and the seconds of the first frame, or None to read it all."""
    if (request.start or 0) < 2:
        return None, None
    with opened(request.path, request.limits) as (container, stream):
        found, base = _packet_table(container, stream, request.limits), stream.time_base or Fraction(1, 1000)
    if found is None or not found[1]:
        return None, None
    zero, keys = found[0][0], found[1]
    start = zero + int((request.start or 0) / base) - 1
    return max((key for key in keys if key <= start), default=None), float(zero * base)


def _timed(decoded: Iterator[av.VideoFrame], zero: float | None, fps: Fraction) -> Timed:
    """Frames with their seconds from the first one; without a time, or one that goes back, they follow at the rate."""
    now = None
    for frame in decoded:
        after = 0.0 if now is None else now + float(1 / fps)
        stamp = float(frame.pts * frame.time_base) if frame.pts is not None and frame.time_base else after
        now = stamp if now is None or stamp > now else after
        zero = now if zero is None else zero
        yield now - zero, frame


def _decoded(container, stream, limits: Limits, seek: int | None, notes: list[str]) -> Iterator[av.VideoFrame]:
    """Frames in order of showing until the file ends or turns out damaged, which is noted if anything came before."""
    name = Path(container.name).name if container.name else "the file"
    codec, seen, hidden = _codec(stream), 0, 0
    if seek is not None:
        container.seek(seek, stream=stream, backward=True)
    weave = None
    try:
        for packet in container.demux(stream):
            hidden += packet.is_discard  # cut away by the edit list of an MP4
            for frame in codec.decode(packet):
                seen += 1
                if container.format.name == "avi":  # it stores no times of showing, and FFmpeg's guess is out of order
                    frame.pts = frame.dts
                check_size(name, frame.width, frame.height, limits)
                if seen > limits.max_frames:
                    over = f"over the limit max_frames, {limits.max_frames}"
                    raise LimitExceeded(f"{name}: {over}; choose less with --start and --end")
                if frame.interlaced_frame and weave is None:
                    weave = Deinterlacer(frame, stream.time_base)
                    notes.append(INTERLACED)
                yield from weave(frame) if weave else (frame,)
        yield from weave(None) if weave else ()
    except DAMAGE as error:
        if not seen:
            raise UnreadableInput(f"{name} is damaged: no frame can be decoded ({_reason(error)})") from None
        notes.append(f"decoded {seen} frames, then the data were damaged ({_reason(error)})")
        return
    promised = stream.frames - hidden
    if seek is None and 0 < seen < promised:
        notes.append(f"decoded {seen} frames of the {promised} the file announces; the rest is missing")
    # Matroska, WebM and MPEG count no frames but say how long they last; sound may outlast the pictures a little.
    seconds, lasts = seen / float(_rate(stream)), _duration(container, stream)
    if seek is None and seen and promised <= 0 and lasts and seconds + SLACK < lasts:
        notes.append(f"decoded {seconds:.1f} s of the {lasts:.1f} s the file announces; the rest may be missing")


def _codec(stream: av.VideoStream) -> Any:
    """The decoder; FFmpeg's own VP9 and VP8 drop transparency, which libvpx keeps."""
    inner = stream.codec_context
    if inner.name in ("vp8", "vp9") and _has_alpha(stream):
        return av.VideoCodecContext.create({"vp8": "libvpx", "vp9": "libvpx-vp9"}[inner.name], "r")
    return inner


def _span(timed, request: Request):
    """Frames first .. first + count, found by time stamp after a seek, or counted from the beginning."""
    assert request.span
    _, wanted, first, number = request.span
    if wanted is None:
        yield from islice(timed, first, first + number)
        return
    left = set(wanted)
    for time, frame in timed:
        if frame.pts in left:
            left.discard(frame.pts)
            yield time, frame
        if not left:
            return


class Deinterlacer:
    """Joins the fields of interlaced frames (bwdif), one frame out for each in; None flushes the last one."""

    def __init__(self, frame: av.VideoFrame, time_base: Fraction | None):
        self.graph, self.base = av.filter.Graph(), time_base or Fraction(1, 1000)
        source = self.graph.add_buffer(width=frame.width, height=frame.height, format=frame.format, time_base=self.base)
        bwdif, sink = self.graph.add("bwdif", "mode=send_frame:deint=interlaced"), self.graph.add("buffersink")
        source.link_to(bwdif)
        bwdif.link_to(sink)
        self.graph.configure()

    def __call__(self, frame: av.VideoFrame | None) -> Iterator[av.VideoFrame]:
        self.graph.push(frame)
        while True:
            try:
                joined: Any = self.graph.pull()
                if joined.pts is not None:  # bwdif halves the time base
                    joined.pts, joined.time_base = round(joined.pts * joined.time_base / self.base), self.base
                yield joined
            except (BlockingIOError, av.error.EOFError):
                return


class Converter:
    """A decoded frame as upright RGB uint8 [h w 3] at the size asked for.

    Shrinking averages areas, enlarging is bicubic. The matrix and range are those the frame is tagged with; untagged
    means BT.601 limited, as in FFmpeg.
    """

    def __init__(self, info: ClipInfo, request: Request):
        self.fitter, self.request = Fitter(info, request), request

    def __call__(self, frame: av.VideoFrame) -> np.ndarray:
        turn = _quarter(frame.rotation)
        stored = (frame.height, frame.width)
        placement = self.fitter.place(*(stored if turn % 2 == 0 else stored[::-1]))
        h, w = placement.scaled if turn % 2 == 0 else placement.scaled[::-1]
        if self.request.crop:  # cut before scaling: else pixels from outside would bleed in
            h, w = stored
        alpha = any(c.is_alpha for c in frame.format.components)
        kernel = Interpolation.AREA if h < frame.height or w < frame.width else Interpolation.BICUBIC
        form = "rgba" if alpha else "rgb24"
        rgb = frame.reformat(width=w, height=h, format=form, interpolation=kernel | ACCURATE, threads=1).to_ndarray()
        upright = np.rot90(over_black(rgb), turn)
        if self.request.crop:
            upright = scaled(cut(upright, self.request), *placement.scaled)
        return placement.apply(upright)


def metadata(path: str, limits: Limits) -> dict[str, str]:
    """The text tags of the container, names in lower case."""
    with opened(path, limits) as (container, _):
        return {k.lower(): v for k, v in container.metadata.items()}


def _reason(error: BaseException) -> str:
    return getattr(error, "strerror", None) or type(error).__name__


def _hint(path: str) -> str:
    return "it is empty" if os.path.getsize(path) == 0 else "it may be cut short, damaged or of another kind"
