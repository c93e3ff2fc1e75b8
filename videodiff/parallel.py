"""Training on several processes, started by `accelerate launch` or `torchrun` with the same command; the only file that
knows Accelerate. One process needs nothing of it.
"""

from typing import Protocol

import torch
from torch import Tensor, distributed

from videodiff.errors import MissingExtra


class Team(Protocol):
    """The processes of a run."""

    rank: int
    size: int
    device: torch.device | None

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""


class Alone:
    """One process."""

    rank, size = 0, 1
    device: torch.device | None = None

    def average(self, tensors: list[Tensor]) -> None:
        """Nothing to do."""


class Together:
    """Several processes, connected by Accelerate."""

    def __init__(self, cpu: bool) -> None:
        try:
            from accelerate import Accelerator
        except ImportError as error:
            raise MissingExtra("several processes need Accelerate: pip install 'videodiff[train]'") from error
        self.accelerator = Accelerator(cpu=cpu)
        self.rank = self.accelerator.process_index
        self.size = self.accelerator.num_processes
        self.device: torch.device | None = self.accelerator.device

    def average(self, tensors: list[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        flat = self.accelerator.reduce(torch.cat([x.flatten() for x in tensors]), reduction="mean")
        for x, y in zip(tensors, flat.split([x.numel() for x in tensors]), strict=True):
            x.copy_(y.view_as(x))


def team(device: str) -> Team:
    """Who trains: this process alone, or all that the launcher started."""
    if distributed.is_available() and distributed.is_torchelastic_launched():
        return Together(cpu=device == "cpu")
    return Alone()
