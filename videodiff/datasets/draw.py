"""Random tensors for scenes: one row per clip, all from one generator."""

import math

import torch
from torch import Tensor


class Draw:
    """Random tensors with `b` rows, all from one generator and on its device."""

    def __init__(self, generator: torch.Generator, b: int):
        self.generator, self.b, self.device = generator, b, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        noise = torch.rand(self.b, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * noise

    def normal(self, std: float, *shape: int) -> Tensor:
        return std * torch.randn(self.b, *shape, generator=self.generator, device=self.device)

    def chance(self, p: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < p

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def choice(self, weights: list[float], *shape: int) -> Tensor:
        """Long: 0..len(weights)-1, each as often as its weight says."""
        edges = torch.tensor(weights, device=self.device).cumsum(0) / sum(weights)
        return torch.bucketize(self.uniform(0, 1, *shape), edges[:-1], right=True)
