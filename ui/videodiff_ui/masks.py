"""Masks that change over time: painted on some frames, carried smoothly to those between, grown, feathered, written.

A keyframe is a bool picture [h w], True where pixels are to be made anew. Between two keyframes the area is that where
a mixture of their signed distances is inside: it moves and changes form without a jump. Before the first and after the
last keyframe the mask stays as it is there.
"""

from collections.abc import Iterator, Mapping
from fractions import Fraction
from pathlib import Path

import numpy as np

from videodiff import video
from videodiff.errors import UserError

Keyframes = Mapping[int, np.ndarray]


def distance(mask: np.ndarray) -> np.ndarray:
    """Signed distance to the edge of a mask bool [h w], in pixels: above 0 inside, below outside, never 0.

    The distance of a pixel is to the nearest pixel of the other kind, less a half. Where there is no pixel of the other
    kind, it is the length of the diagonal.
    """
    from scipy.ndimage import distance_transform_edt

    far = float(np.hypot(*mask.shape))
    if mask.all():
        return np.full(mask.shape, far)
    if not mask.any():
        return np.full(mask.shape, -far)
    return np.where(mask, distance_transform_edt(mask) - 0.5, 0.5 - distance_transform_edt(~mask))


def at(keyframes: Keyframes, place: int) -> np.ndarray:
    """The signed distance [h w] at a frame, from the keyframes on either side of it."""
    assert keyframes, "a mask without a keyframe"
    before = max((key for key in keyframes if key <= place), default=min(keyframes))
    after = min((key for key in keyframes if key >= place), default=max(keyframes))
    if before >= after:  # on a keyframe, or beyond them all, where the nearest one is both
        return distance(keyframes[after if place < after else before])
    return between(keyframes[before], keyframes[after], (place - before) / (after - before))


def between(first: np.ndarray, second: np.ndarray, share: float) -> np.ndarray:
    """The signed distance [h w] a share of the way from one mask to another.

    Both are carried to where the middle of the area is by then, so that an area that moves does not fade on its way.
    """
    from scipy.ndimage import center_of_mass, shift

    a, b = distance(first), distance(second)
    if first.any() and second.any():
        way = np.subtract(center_of_mass(second), center_of_mass(first))
        a = shift(a, share * way, order=1, mode="nearest")
        b = shift(b, (share - 1) * way, order=1, mode="nearest")
    return (1 - share) * a + share * b


def levels(field: np.ndarray, grow: float = 0.0, feather: float = 0.0) -> np.ndarray:
    """uint8 [h w] of a signed distance: 255 inside, 0 outside, the edge moved outwards by `grow` pixels (inwards if
    negative) and, with `feather`, a straight ramp of that many pixels across it."""
    field = field + grow
    if feather <= 0:
        return np.where(field > 0, 255, 0).astype(np.uint8)
    return (np.clip(field / feather + 0.5, 0, 1) * 255).round().astype(np.uint8)


def frames(
    keyframes: Keyframes, num_frames: int, size: tuple[int, int], grow: float = 0.0, feather: float = 0.0
) -> Iterator[np.ndarray]:
    """uint8 [h w] for each frame of a clip of this size (h, w); keyframes are of that size too."""
    if not any(mask.any() for mask in keyframes.values()):
        raise UserError("nothing is painted; paint where the clip is to change, or take back the keyframes")
    for place, mask in keyframes.items():
        if not 0 <= place < num_frames or mask.shape != size:
            raise UserError(
                f"a mask of {mask.shape[1]}x{mask.shape[0]} was kept for frame {place}, but the clip has {num_frames} "
                f"frames of {size[1]}x{size[0]}; clear the masks and paint them anew"
            )
    first, last = min(keyframes), max(keyframes)
    drawn, picture = -1, np.zeros(size, np.uint8)
    for place in range(num_frames):
        near = min(max(place, first), last)  # before the first and after the last nothing changes
        if near != drawn:
            drawn, picture = near, levels(at(keyframes, near), grow, feather)
        yield picture


def resized(keyframes: Keyframes, size: tuple[int, int]) -> dict[int, np.ndarray]:
    """The keyframes in another size (h, w): each pixel is the one that lies where its middle is."""

    def places(new: int, old: int) -> np.ndarray:
        return ((np.arange(new) + 0.5) * old / new).astype(int)

    return {key: mask[np.ix_(*map(places, size, mask.shape))] for key, mask in keyframes.items()}


def write(path: Path, masks: Iterator[np.ndarray], fps: Fraction) -> Path:
    """A lossless clip of masks uint8 [h w], as `--mask` takes it."""
    video.write(path, (mask[..., None] for mask in masks), fps)
    return path
