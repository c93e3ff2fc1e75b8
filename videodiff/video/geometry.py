"""Where the pixels go: fit, crop or pad a picture into a size, its aspect ratio kept.

A picture is scaled to cover or to fit, then cut, then framed in black. Scaling is the only step that mixes pixels.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from videodiff.errors import UserError

FITS = ("fit", "crop", "pad")


@dataclass(frozen=True)
class Placement:
    """Scale to `scaled` (h, w), cut out `cut` (top, left, h, w), put that at `at` (top, left) into `size` (h, w)."""

    scaled: tuple[int, int]
    cut: tuple[int, int, int, int]
    at: tuple[int, int]
    size: tuple[int, int]

    def apply(self, scaled: np.ndarray) -> np.ndarray:
        """The picture [h w c] already scaled, cut and framed."""
        top, left, h, w = self.cut
        inner = scaled[top : top + h, left : left + w]
        if (h, w) == self.size:
            return np.ascontiguousarray(inner)
        out = np.zeros((*self.size, scaled.shape[2]), scaled.dtype)
        out[self.at[0] : self.at[0] + h, self.at[1] : self.at[1] + w] = inner
        return out


def place(
    height: int,
    width: int,
    size: tuple[int, int] | None = None,
    short_side: int | None = None,
    multiple: int = 1,
    fit: str = "fit",
    pixel_aspect: Fraction = Fraction(1),
) -> Placement:
    """How a picture of height x width becomes the size asked for; the aspect ratio is kept to the nearest pixel.

    size (h, w): 'fit' gives the largest picture inside it, 'crop' fills it and cuts the centre, 'pad' adds black bars.
    short_side: the shorter side gets this length, the other follows. multiple: both sides become multiples of it, by
    cutting. Without size and short_side the stored pixels stay as they are.
    """
    if fit not in FITS:
        raise UserError(f"no fit {fit!r}; choose one of {', '.join(FITS)}")
    if multiple < 1 or (short_side is not None and short_side < multiple) or (size and min(size) < multiple):
        raise UserError(f"size {size or short_side} with multiple {multiple} leaves no pixels; ask for more")
    if size and short_side:
        raise UserError("size and short_side were both given; give one of them")

    if not size and not short_side:
        return _cover(height, width, (_down(height, multiple), _down(width, multiple)), 1.0, 1.0)
    shown = width * float(pixel_aspect)
    if short_side:
        scale = short_side / min(height, shown)
        goal = (_near(height * scale, multiple), _near(shown * scale, multiple))
        return _cover(height, width, goal, *_scales(height, width, shown, goal, max))
    assert size is not None
    if fit == "crop":
        return _cover(height, width, size, *_scales(height, width, shown, size, max))
    sy, sx = _scales(height, width, shown, size, min)
    inside = tuple(max(1, min(full, round(n * s))) for full, n, s in zip(size, (height, width), (sy, sx), strict=True))
    h, w = (_down(n, multiple) for n in inside)
    inner = _cover(height, width, (h, w), sy, sx)
    if fit == "fit":
        return inner
    return Placement(inner.scaled, inner.cut, ((size[0] - h) // 2, (size[1] - w) // 2), size)


def _scales(height: int, width: int, shown: float, goal: tuple[int, int], pick) -> tuple[float, float]:
    """Scales of rows and of columns, equal on screen, with which the picture covers (max) or fits (min) the goal."""
    scale = pick(goal[0] / height, goal[1] / shown)
    return scale, scale * shown / width


def _cover(height: int, width: int, goal: tuple[int, int], sy: float, sx: float) -> Placement:
    scaled = max(goal[0], round(height * sy)), max(goal[1], round(width * sx))
    top, left = (scaled[0] - goal[0]) // 2, (scaled[1] - goal[1]) // 2
    return Placement(scaled, (top, left, *goal), (0, 0), goal)


def _near(length: float, multiple: int) -> int:
    return max(multiple, round(length / multiple) * multiple)


def _down(length: int, multiple: int) -> int:
    return max(multiple, length // multiple * multiple) if length >= multiple else length
