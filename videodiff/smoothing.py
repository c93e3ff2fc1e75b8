"""What a clip under white noise is like, by its neighbours in space and time alone: local means and variances.

Lee 1980 filters a pixel towards the mean of its neighbours as far as these vary no more than the noise does. Here
boxes shrink from coarse to fine, and each finer mean is followed as far as it differs from the coarser one by more than
its own noise, so that still and flat places are averaged widely and edges stay.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.noise import spread

BOXES = ((3, 12, 12), (3, 6, 6), (2, 3, 3), (1, 1, 1))
"""How far boxes reach in time, height and width, coarse to fine (the best of five measured, docs/log.md)."""
LEAST = 0.02
"""A deviation below which no place counts as still."""


def local(z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
    """(mean [b t c h w], variance about it [b t 1 h w]) of the clip in z = x0 + s n, s [b] or [b t]."""
    noise = spread(s, z) ** 2
    mean = torch.zeros_like(z)
    for reach in BOXES:
        finer, n = box(z, reach), math.prod(2 * r + 1 for r in reach)
        wide = reach if reach is BOXES[0] else tuple(2 * r for r in reach)
        v = (box((finer - mean).square().mean(2, keepdim=True), wide) - noise / n).clamp(min=0)  # type: ignore[arg-type]
        mean = mean + v / (v + noise / n).clamp(min=torch.finfo(z.dtype).tiny) * (finer - mean)
    v = box((z - mean).square().mean(2, keepdim=True), (1, 2, 2)) - noise
    return mean, v.clamp(min=LEAST**2)


def lee(z: Tensor, s: Tensor) -> Tensor:
    """The clip in z = x0 + s n [b t c h w] as its neighbours have it, s [b] or [b t]: the local mean plus its share."""
    mean, v = local(z, s)
    return mean + v / (v + spread(s, z) ** 2) * (z - mean)


def box(x: Tensor, reach: tuple[int, int, int]) -> Tensor:
    """Means over boxes that reach so far in time, height and width, the border repeated outwards."""
    for axis, r in zip((1, 3, 4), reach, strict=True):  # one axis after the other: a sum of widths, not their product
        rows = x.movedim(axis, -1)
        padded = F.pad(rows.flatten(0, -2)[:, None], (r, r), mode="replicate")
        x = F.avg_pool1d(padded, 2 * r + 1, 1)[:, 0].view(rows.shape).movedim(-1, axis)
    return x
