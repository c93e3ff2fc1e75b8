"""What a training source is: something that draws batches of clips from a random generator.

A source is a pure function of the state of the generator - a resumed run sees the clips that the interrupted one would
have seen - and works on the device of the generator, in batches. `frame_index` is what all of them share: the places in
time that a batch shows.
"""

from typing import Protocol

import torch
from torch import Tensor

MAX_GAP = 4  # frames between neighbours of a spaced clip, at most (chosen, not tuned)


class Source(Protocol):
    """Draws clips; `channels` is 1 (grey) or 3 (colour)."""

    channels: int

    def batch(
        self, generator: torch.Generator, b: int, t: int, size: tuple[int, int], index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames float32 [b t c h w] in [-1, 1] and their index long [b t], on the generator's device.

        `index` long [b t], rising along t, asks for frames at those places in time; without it they are 0..t-1, or a
        random spaced set where the source was made with `spaced`. The same generator state shows the same clips, so
        two calls from one state with different indices agree at the places they share.
        """
        ...


def frame_index(generator: torch.Generator, b: int, t: int, spaced: float, index: Tensor | None = None) -> Tensor:
    """The places in time of a batch, long [b t]: `index` if given, else 0..t-1, or for a share `spaced` of the clips
    rising sets that start at 0 with gaps of 1..MAX_GAP frames.
    """
    # One draw from the generator in every case, so that what follows does not depend on which case it was.
    seed = int(torch.randint(2**62, (), generator=generator, device=generator.device))
    if index is not None:
        assert index.shape == (b, t), (index.shape, b, t)
        assert index.dtype == torch.long, index.dtype
        assert bool((index[:, :1] >= 0).all() and (index.diff(dim=1) > 0).all()), "index must rise from 0 or more"
        return index.to(generator.device)
    own = torch.Generator(generator.device).manual_seed(seed)
    steps = torch.randint(1, MAX_GAP + 1, (b, t), generator=own, device=own.device)
    steps = torch.where(torch.rand(b, 1, generator=own, device=own.device) < spaced, steps, 1)
    steps[:, 0] = 0
    return steps.cumsum(1)
