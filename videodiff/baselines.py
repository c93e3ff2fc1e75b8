"""What can be said of the wanted frames without a network: the figures a model has to beat.

A baseline is `baseline(frames, known, wanted) -> frames at wanted`: frames [t h w c] uint8 of a window, of which only
those at the places `known` are looked at; both lists of places rise. `BASELINES` names them, `FOR` says which fit a
task. The two that follow optical flow need OpenCV (extra `metrics`); this is the only file that knows it.
"""

from bisect import bisect_left
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from videodiff.errors import MissingExtra
from videodiff.metrics.pixels import grey

Baseline = Callable[[np.ndarray, Sequence[int], Sequence[int]], np.ndarray]

ENLARGE = 2
"""Flow is estimated on frames enlarged this much: on training clips at 64 pixels a warp to the next eight frames gains
0.5 dB on average over estimating it as they are, and 0.5 dB over Farneback's method."""


def last_frame(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The last known frame before each wanted one (the first known one where there is none before)."""
    return frames[[_sides(known, place)[0] for place in wanted]]


def nearest(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The known frame nearest in time, the earlier of two."""
    return frames[[min(known, key=lambda k, place=place: abs(k - place)) for place in wanted]]  # type: ignore[misc]


def mean_of_past(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The mean of all known frames before each wanted one (of all known frames where there is none before)."""
    means = []
    for place in wanted:
        past = [k for k in known if k < place]
        means.append(_bytes(frames[past or list(known)].mean(axis=0)))
    return np.stack(means)


def linear_blend(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The known frames before and after, mixed by distance; the nearest one at the ends."""
    blends = []
    for place in wanted:
        a, b, u = _between(known, place)
        blends.append(_bytes((1 - u) * frames[a] + u * frames[b]))
    return np.stack(blends)


def flow_extrapolation(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The last known frame, moved on as it moved since the last but one (backwards in time before the first)."""
    if len(known) < 2:
        return nearest(frames, known, wanted)
    results, flows = [], {}
    for place in wanted:
        i = bisect_left(known, place)
        end, other = (known[0], known[1]) if i == 0 else (known[max(i, 2) - 1], known[max(i, 2) - 2])
        if end not in flows:
            flows[end] = flow(frames[end], frames[other]) / (end - other)  # where it came from, per frame
        results.append(_bytes(warp(frames[end], flows[end] * (place - end))))
    return np.stack(results)


def flow_warp(frames: np.ndarray, known: Sequence[int], wanted: Sequence[int]) -> np.ndarray:
    """The known frames before and after, moved towards each other along the flow between them and mixed.

    The flows from the wanted moment are Super SloMo's (Jiang et al. 2018, equation 4); the nearest frame at the ends.
    """
    results, flows = [], {}
    for place in wanted:
        a, b, u = _between(known, place)
        if a == b:
            results.append(frames[a])
            continue
        if a not in flows:
            flows[a] = flow(frames[a], frames[b]), flow(frames[b], frames[a])
        ahead, back = flows[a]
        to_a, to_b = -(1 - u) * u * ahead + u * u * back, (1 - u) ** 2 * ahead - u * (1 - u) * back
        results.append(_bytes((1 - u) * warp(frames[a], to_a) + u * warp(frames[b], to_b)))
    return np.stack(results)


BASELINES: dict[str, Baseline] = {
    "last_frame": last_frame,
    "mean_of_past": mean_of_past,
    "nearest": nearest,
    "linear_blend": linear_blend,
    "flow_extrapolation": flow_extrapolation,
    "flow_warp": flow_warp,
}
FOR: dict[str, tuple[str, ...]] = {
    "prediction": ("last_frame", "mean_of_past", "flow_extrapolation"),
    "interpolation": ("nearest", "linear_blend", "flow_warp"),
}


# ---------------------------------------------------------------------------------------------------------------------
# Optical flow


def flow(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """float32 [h w 2], (x, y) in pixels: what is at p in `a` is at p + flow(p) in `b`. Frames uint8 [h w c].

    DIS (Kroeger et al. 2016), on enlarged grey frames.
    """
    cv2 = check()
    h, w = a.shape[:2]
    first, second = (cv2.resize(grey(x), (w * ENLARGE, h * ENLARGE), interpolation=cv2.INTER_CUBIC) for x in (a, b))
    found = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM).calc(first, second, None)
    return cv2.resize(found, (w, h), interpolation=cv2.INTER_AREA) / ENLARGE


def warp(frame: np.ndarray, field: np.ndarray) -> np.ndarray:
    """float32 [h w c]: at p, what `frame` has at p + field(p); its edge continues beyond it."""
    cv2 = check()
    h, w = frame.shape[:2]
    y, x = np.mgrid[:h, :w].astype(np.float32)
    to_x, to_y = (x + field[..., 0]).astype(np.float32), (y + field[..., 1]).astype(np.float32)
    moved = cv2.remap(frame.astype(np.float32), to_x, to_y, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REPLICATE)
    return moved.reshape(frame.shape)


def check() -> Any:
    """OpenCV, or the error that says how to get it."""
    try:
        import cv2
    except ImportError as error:
        raise MissingExtra("optical flow needs OpenCV: pip install 'videodiff[metrics]'") from error
    return cv2


def _sides(known: Sequence[int], place: int) -> tuple[int, int]:
    """The known places before and after `place`; twice the same one at the ends."""
    i = bisect_left(known, place)
    return known[max(i - 1, 0)], known[min(i, len(known) - 1)]


def _between(known: Sequence[int], place: int) -> tuple[int, int, float]:
    """The known places before and after, and how far `place` is on the way, 0 to 1."""
    a, b = _sides(known, place)
    return a, b, (place - a) / (b - a) if b > a else 0.0


def _bytes(frame: np.ndarray) -> np.ndarray:
    return np.round(frame).clip(0, 255).astype(np.uint8)
