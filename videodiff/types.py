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

    frames: [b t c h w] in [-1, 1]: the truth where `known`; elsewhere the guide, which is looked at only where `start`
            is below 1.
    known:  bool [b t 1 h w], True where the pixel is given.
    index:  long [b t], the place of each frame on the clip's time axis, rising, any spacing.
    vector: optional class or text vector [b d].
    start:  optional float [b t 1 h w] in [0, 1]: the share of the walk of levels that a wanted pixel takes. 1: all of
            it, from noise alone; less: from its guide noised to the level where that share begins (SDEdit); 0: the
            pixel stays its guide. None: 1 everywhere. All clips of a batch have the same largest share.
    noise:  optional standard normal noise [b t c h w] to begin with, instead of noise drawn by the seed.
    """

    frames: Tensor
    known: Tensor
    index: Tensor
    vector: Tensor | None = None
    start: Tensor | None = None
    noise: Tensor | None = None

    def __post_init__(self) -> None:
        b, t, _, h, w = self.frames.shape
        assert self.known.shape == (b, t, 1, h, w), (self.known.shape, self.frames.shape)
        assert self.known.dtype == torch.bool, self.known.dtype
        assert self.index.shape == (b, t), (self.index.shape, self.frames.shape)
        assert self.index.dtype == torch.long, self.index.dtype
        if self.start is not None:
            assert self.start.shape == self.known.shape, (self.start.shape, self.known.shape)
            largest = self.start.flatten(1).amax(1)
            assert self.start.min() >= 0, self.start.min()
            assert (largest == largest[0]).all(), largest
            assert largest[0] <= 1, largest
        if self.noise is not None:
            assert self.noise.shape == self.frames.shape, (self.noise.shape, self.frames.shape)

    def to(self, device: torch.device | str) -> "Canvas":
        """The same canvas on another device."""
        return self._each(lambda x: x.to(device))

    def repeat(self, n: int) -> "Canvas":
        """A canvas of one clip, n times in a batch."""
        assert len(self.frames) == 1, len(self.frames)
        return self._each(lambda x: x.expand(n, *x.shape[1:]))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Canvas":
        parts = (getattr(self, name) for name in self.__dataclass_fields__)
        return Canvas(*(None if x is None else change(x) for x in parts))  # type: ignore[arg-type]
