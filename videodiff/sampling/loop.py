"""The only sampling loop: walk the plan, ask the stepper, yield what happened.

It is a generator: iterate for progress and previews, close it to stop. To stop between the two evaluations of one
step as well, wrap the denoiser with `denoiser.cancellable`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Node, Stepper
from videodiff.types import Denoise


class Noise(Protocol):
    """What the loop needs of `noise.NoiseSource`."""

    def draw(self, shape: Sequence[int], *, evaluation: int = 0, kind: str = "start") -> Tensor: ...


Before = Callable[[Tensor, Tensor, Callable[[], Tensor]], Tensor]
"""`z = before(z, s, draw)`: changes the state right before each evaluation, at the level s [b] of that evaluation."""


@dataclass(frozen=True)
class Step:
    """One finished move of the plan.

    i:  which move, from 0.
    n:  network evaluations so far.
    s:  the level z has reached; 0 at the end, where z is x0.
    z:  the state, [b ...].
    x0: the network's latest answer, the preview.
    """

    i: int
    n: int
    s: float
    z: Tensor
    x0: Tensor


def sample(
    denoise: Denoise, z: Tensor, plan: Plan, stepper: Stepper, noise: Noise, before: Before | None = None
) -> Iterator[Step]:
    """Steps from z at level `plan.levels[0]` to the clean clip, which is the last step's z.

    z: [b ...] at the first level: `s n` for a new clip, `guide + s n` to keep something of a guide. Its precision is
    that of the whole walk (float32 in the product, float64 in proofs). Noise is keyed by the move's place in the plan.
    """
    x0, n, history = z, 0, list[Node]()
    shape, like = z.shape, z.new_empty(0)

    def draw(i: int, kind: str) -> Tensor:
        return noise.draw(shape[1:], evaluation=i, kind=kind).to(like)

    def evaluate(i: int, z: Tensor, s: float) -> Node:
        nonlocal n
        level = torch.full(shape[:1], s, dtype=torch.promote_types(z.dtype, torch.float32), device=z.device)
        if before is not None:
            z = before(z, level, partial(draw, i, "known"))
        x0 = denoise(z, level)
        n += 1
        if not torch.isfinite(x0).all():
            raise UserError(f"the network's answer at noise level {s:.4g} is not finite; try --precision float32")
        return Node(s, z, x0)

    for i, (s, s_next) in enumerate(plan.moves):
        with torch.no_grad():
            if s_next > s:  # up: add the missing variance, and forget a past that lies on another trajectory
                z = z + (s_next**2 - s**2) ** 0.5 * draw(i, "step")
                history.clear()
            else:
                z, x0 = stepper.step(partial(evaluate, i), z, s, s_next, history, partial(draw, i, "step"))
        yield Step(i, n, s_next, z, x0)
