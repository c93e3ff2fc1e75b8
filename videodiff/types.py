"""The shapes everything takes: Canvas and Denoise.

Legend for every tensor in the project: b batch (clips), t time (frames), c channels, h height, w width. Frames are
float32 in [-1, 1]. A mask says in its name what True means.

The variable of sampling is `z = x / alpha = x0 + s n` and the level is `s = sigma / alpha`, so that VP, VE, EDM and
flow models look the same from outside (`docs/method.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`x0 = denoise(z, s)`: z float32 [b t c h w], s [b] or [b t], result like z."""


@dataclass(frozen=True)
class Canvas:
    """What a task turns clips into: which pixels are known and which are wanted.

    frames: [b t c h w] in [-1, 1]; content is only meaningful where `known`.
    known:  bool [b t 1 h w], True where the pixel is given.
    index:  long [b t], the place of each frame on the clip's time axis, rising, any spacing.
    vector: optional class or text vector [b d].
    """

    frames: Tensor
    known: Tensor
    index: Tensor
    vector: Tensor | None = None

    def __post_init__(self) -> None:
        b, t, _, h, w = self.frames.shape
        assert self.known.shape == (b, t, 1, h, w), (self.known.shape, self.frames.shape)
        assert self.known.dtype == torch.bool, self.known.dtype
        assert self.index.shape == (b, t), (self.index.shape, self.frames.shape)
        assert self.index.dtype == torch.long, self.index.dtype

    def to(self, device: torch.device | str) -> "Canvas":
        """The same canvas on another device."""
        vector = None if self.vector is None else self.vector.to(device)
        return Canvas(self.frames.to(device), self.known.to(device), self.index.to(device), vector)
