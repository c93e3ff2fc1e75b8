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

from videodiff.sampling.evaluate import Before, Evaluate, Node
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Stepper
from videodiff.types import Denoise


class Noise(Protocol):
    """What the loop needs of `noise.NoiseSource`."""

    def draw(self, shape: Sequence[int], *, evaluation: int = 0, kind: str = "start") -> Tensor: ...


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
    denoise: Denoise,
    z: Tensor,
    plan: Plan,
    stepper: Stepper,
    noise: Noise,
    before: Before | None = None,
    fraction: Callable[[], Tensor] | None = None,
) -> Iterator[Step]:
    """Steps from z at level `plan.levels[0]` to the clean clip, which is the last step's z.

    z: [b ...] at the first level: `s n` for a new clip, `guide + s n` to keep something of a guide. Its precision is
    that of the whole walk (float32 in the product, float64 in proofs). Noise is keyed by the move's place in the plan.
    before: changes the state right before each evaluation; it may draw one noise per move.
    fraction: the `denoiser.LearnedVariance` that `denoise` writes to; only `ddpm` asks for it.
    """
    x0, history = z, list[Node]()
    shape, like = z.shape, z.new_empty(0)
    evaluate = Evaluate(denoise, before, fraction)

    def draw(i: int, kind: str, again: int = 0) -> Tensor:
        return noise.draw(shape[1:], evaluation=i, kind=f"{kind} {again}" if again else kind).to(like)

    for i, (s, s_next) in enumerate(plan.moves):
        with torch.no_grad():
            if s_next > s:  # up: add the missing variance, and forget a past that lies on another trajectory
                z = z + (s_next**2 - s**2) ** 0.5 * draw(i, "step")
                history.clear()
            else:
                evaluate.draw = partial(draw, i, "known")
                z, x0 = stepper.step(evaluate, z, s, s_next, history, partial(draw, i, "step"))
        yield Step(i, evaluate.n, s_next, z, x0)
