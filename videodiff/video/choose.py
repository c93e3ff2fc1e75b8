"""Which frames of a clip are wanted, whether they are within the limits, and the size they get.

Works on (seconds, picture) pairs of any kind, so films and animations follow the same rules.
"""

from collections.abc import Iterator
from fractions import Fraction
from itertools import count, islice
from typing import TypeVar

import numpy as np

from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video.geometry import Placement, place
from videodiff.video.shapes import ClipInfo, Limits, Request

Picture = TypeVar("Picture")
Timed = Iterator[tuple[float, Picture]]
EPSILON = 1e-6
"""Seconds by which times may differ and still be the same; time stamps are fractions, requests are floats."""


def check_size(name: str, width: int, height: int, limits: Limits) -> None:
    """Raises unless the picture has pixels, and no more of them than the limits allow."""
    if width < 1 or height < 1:
        raise UnreadableInput(f"{name} does not say how large its picture is, so it cannot be decoded; re-encode it")
    over = None
    if max(width, height) > limits.max_side:
        over = f"the limit max_side is {limits.max_side} pixels"
    elif width * height > limits.max_pixels:
        over = f"the limit max_pixels is {limits.max_pixels} a frame"
    if over:
        raise LimitExceeded(f"{name} is {width}x{height}; {over}: scale it down first")


def check_length(name: str, info: ClipInfo, request: Request) -> None:
    """Raises if the header announces more than the limits allow of what the request would decode and keep."""
    limits, rate = request.limits, float(request.fps or info.fps / request.stride)
    seconds = info.duration if info.duration is not None else (info.num_frames or 0) / float(info.fps)
    seconds = min(seconds, request.end) if request.end is not None else seconds
    seconds = max(0.0, seconds - (request.start or 0.0))
    if request.num_frames is not None:
        seconds = min(seconds, request.num_frames / rate)
    decoded, kept = seconds * float(info.fps), seconds * rate
    kept = min(kept, request.last) if request.last else kept
    height, width = request.crop[:2] if request.crop else (info.height, info.width)
    h, w = place(height, width, *geometry(request), info.pixel_aspect).size
    over = None
    if seconds > limits.max_seconds:
        over = f"{seconds:.0f} s to decode; the limit max_seconds is {limits.max_seconds:g} s"
    elif decoded > limits.max_frames or kept > limits.max_frames:
        over = f"{max(decoded, kept):.0f} frames; the limit max_frames is {limits.max_frames}"
    elif request.keep and kept * h * w * 3 > limits.max_bytes:
        over = f"{_gib(kept * h * w * 3)} of frames at {w}x{h}; the limit max_bytes is {_gib(limits.max_bytes)}"
    if over:
        raise LimitExceeded(f"{name}: {over}: choose less with --start and --end, or a smaller --size")


def cropped(height: int, width: int, request: Request) -> tuple[int, int]:
    """(height, width) that the request's crop leaves of a picture; raises where it reaches beyond the picture."""
    if request.crop is None:
        return height, width
    h, w, top, left = request.crop
    if top + h > height or left + w > width:
        raise UserError(
            f"crop {w}x{h}+{left}+{top} reaches beyond the picture, which is {width}x{height}; choose a part inside it"
        )
    return h, w


def geometry(request: Request) -> tuple[tuple[int, int] | None, int | None, int, str]:
    """The part of a request that `place` asks for."""
    return request.size, request.short_side, request.multiple, request.fit


def choose(timed: Timed, request: Request, rate: Fraction) -> Timed:
    """The (seconds, picture) pairs wanted: from start to end, at a new rate or every stride-th, at most so many."""
    start, end = request.start or 0.0, request.end if request.end is not None else float("inf")
    timed = _counted(timed, start, end, request.limits)
    chosen = _resampled(timed, request.fps, start, end, rate) if request.fps else _between(timed, start, end)
    most = None if request.num_frames is None else request.num_frames * request.stride
    return islice(chosen, 0, most, request.stride)


def _counted(timed: Timed, start: float, end: float, limits: Limits) -> Timed:
    """The same pairs, as long as they stay within max_seconds: a header may promise less than comes."""
    for time, picture in timed:
        if min(time, end) - start > limits.max_seconds:
            raise LimitExceeded(
                f"the clip goes on beyond the limit max_seconds, {limits.max_seconds:g} s: "
                "choose less with --start and --end"
            )
        yield time, picture


def _between(timed: Timed, start: float, end: float) -> Timed:
    for time, picture in timed:
        if time >= end - EPSILON:
            return
        if time >= start - EPSILON:
            yield time, picture


def _resampled(timed: Timed, fps: Fraction, start: float, end: float, rate: Fraction) -> Timed:
    """The picture on screen at start, start + 1 / fps, ...: what a player would show, whatever the file's spacing."""
    grid = (start + float(k / fps) for k in count())
    tick, shown = next(grid), None
    since, stays = 0.0, float(1 / rate)  # the last picture stays as long as the one before it
    for time, picture in timed:
        while shown is not None and tick < min(time, end) - EPSILON:
            yield tick, shown[0]
            tick = next(grid)
        if tick >= end - EPSILON:
            return
        if shown is not None and time > since:
            stays = time - since
        since, shown = time, (picture,)
    while shown is not None and tick < min(since + stays, end) - EPSILON:
        yield tick, shown[0]
        tick = next(grid)


class Fitter:
    """Gives every upright picture of a clip its place in one size, and counts the bytes of those made.

    The first picture fixes the size; should a later one differ, it is fitted into it with black bars and noted.
    """

    def __init__(self, info: ClipInfo, request: Request):
        self.info, self.request = info, request
        self.notes: list[str] = []
        self.upright = (0, 0)
        self.placement: Placement | None = None
        self.made = 0

    def place(self, height: int, width: int) -> Placement:
        """Where a picture of height x width goes, or the part of it that is left by the crop."""
        limits = self.request.limits
        height, width = cropped(height, width, self.request)
        if self.placement is None:
            self.placement = place(height, width, *geometry(self.request), self.info.pixel_aspect)
            check_size("the resized clip", self.placement.size[1], self.placement.size[0], limits)
        elif (height, width) != self.upright:
            self.placement = place(height, width, self.placement.size, None, 1, "pad", self.info.pixel_aspect)
            changed = f"the picture changes to {width}x{height} in mid-clip; it was fitted to the first frame's size"
            self.notes += [changed] if len(self.notes) < 5 else []
        self.upright = (height, width)
        self.made += 1
        if self.made > limits.max_frames:
            raise LimitExceeded(f"over the limit max_frames, {limits.max_frames}: choose less with --end")
        kept = min(self.made, self.request.last or self.made) * int(np.prod(self.placement.size)) * 3
        if self.request.keep and kept > limits.max_bytes:
            raise LimitExceeded(
                f"the frames take more than the limit max_bytes, {_gib(limits.max_bytes)}: "
                "choose less with --start and --end, or a smaller --size"
            )
        return self.placement


def cut(pixels: np.ndarray, request: Request) -> np.ndarray:
    """The part of upright pixels [h w c] that the request's crop leaves."""
    if request.crop is None:
        return pixels
    h, w, top, left = request.crop
    return pixels[top : top + h, left : left + w]


def over_black(pixels: np.ndarray) -> np.ndarray:
    """RGB uint8 [h w 3] of RGB or RGBA uint8 pixels, transparency composited over black."""
    if pixels.shape[2] == 3:
        return pixels
    return ((pixels[..., :3].astype(np.uint16) * pixels[..., 3:] + 127) // 255).astype(np.uint8)


def _gib(size: float) -> str:
    return f"{size / 2**30:.2g} GiB"
