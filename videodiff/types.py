"""The shapes everything takes: Canvas and Denoise.

Legend for every tensor in the project: b batch (clips), t time (frames), c channels, h height, w width. Frames are
float32 in [-1, 1]. A mask says in its name what True means.

The variable of sampling is `z = x / alpha = x0 + s n` and the level is `s = sigma / alpha`, so that VP, VE, EDM and flow
models look the same from outside (`docs/method.md`).
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

Denoise = Callable[[Tensor, Tensor], Tensor]
"""`x0 = denoise(z, s)`: z float32 [b t c h w], s [b] or [b t], result like z."""


@dataclass(frozen=True)
class Canvas:
    """What a task turns clips into: which pixels are known, which are wanted, and how much noise to begin from.

    frames: [b t c h w] in [-1, 1]; content is only meaningful where `known` (and, below `start` 1, as the guide).
    known:  bool [b t 1 h w], True where the pixel is given.
    index:  long [b t], the place of each frame on the clip's time axis, any spacing.
    start:  [b t 1 h w] or a number in (0, 1]: 1 = from pure noise, less keeps structure of `frames` (SDEdit).
    vector: optional class or text vector [b d].
    """

    frames: Tensor
    known: Tensor
    index: Tensor
    start: Tensor | float = 1.0
    vector: Tensor | None = None

    def __post_init__(self) -> None:
        b, t, _, h, w = self.frames.shape
        assert self.known.shape == (b, t, 1, h, w), (self.known.shape, self.frames.shape)
        assert self.known.dtype == torch.bool, self.known.dtype
        assert self.index.shape == (b, t), (self.index.shape, self.frames.shape)
        assert self.index.dtype == torch.long, self.index.dtype

    def to(self, device: torch.device | str) -> "Canvas":
        """The same canvas on another device."""

        def move(value: Tensor) -> Tensor:
            return value.to(device)

        start = move(self.start) if isinstance(self.start, Tensor) else self.start
        vector = None if self.vector is None else move(self.vector)
        return Canvas(move(self.frames), move(self.known), move(self.index), start, vector)
