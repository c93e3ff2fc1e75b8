"""Several training sources as one: every clip comes from one of them, drawn by weight."""

from collections.abc import Sequence

import torch
from torch import Tensor

from videodiff.datasets.source import Source


class Mixture:
    """Clips of several sources; `Mixture([(0.7, MovingLayers()), (0.3, Packed(path))])` draws 70 % from the first."""

    def __init__(self, sources: Sequence[tuple[float, Source]]):
        assert min(weight for weight, _ in sources) >= 0
        assert max(weight for weight, _ in sources) > 0
        self.weights = torch.tensor([float(weight) for weight, _ in sources])
        self.sources = [source for _, source in sources]
        self.channels = self.sources[0].channels
        assert all(source.channels == self.channels for source in self.sources), "sources differ in channels"

    def batch(
        self, generator: torch.Generator, b: int, t: int, size: tuple[int, int], index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames float32 [b t c h w] in [-1, 1] and index long [b t] (see `Source`)."""
        device = generator.device
        which = torch.multinomial(self.weights.to(device), b, replacement=True, generator=generator)
        # Each source draws from a generator of its own, so how much one draws does not change the clips of the next.
        seeds = torch.randint(2**62, (len(self.sources),), generator=generator, device=device).tolist()
        frames = torch.empty(b, t, self.channels, *size, device=device)
        places = torch.empty(b, t, dtype=torch.long, device=device)
        for k, source in enumerate(self.sources):
            mine = (which == k).nonzero().squeeze(1)
            if len(mine):
                asked = None if index is None else index.to(device)[mine]
                own = torch.Generator(device).manual_seed(seeds[k])
                frames[mine], places[mine] = source.batch(own, len(mine), t, size, asked)
        return frames, places
