"""From a clip to its code: the noise from which sampling gives it back (Song et al. 2021, DDIM, section 4.3).

    *_, last = encode(denoise, clip, plan, stepper)          last.z is the code, at the plan's first level
    *_, last = sample(denoise, last.z, plan, stepper, noise)     last.z is the clip again
    z = slerp(code_a, code_b, 0.5)                               a code between two

The way up is the way down in a mirror. With r = 1 / s and y = z / s = n + r x0, the noise and the clip have changed
places: y is n with x0 as its noise, eps is what a denoiser of y answers, and a falling r is a rising s. So the one loop
and every sampler that follows the probability flow can climb, as accurately as they descend.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import norms, spread
from videodiff.sampling.evaluate import Evaluate
from videodiff.sampling.loop import Step, sample
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Stepper
from videodiff.types import Denoise


def encode(denoise: Denoise, x0: Tensor, plan: Plan, stepper: Stepper) -> Iterator[Step]:
    """Steps from clean clips x0 [b ...] up a falling plan; the last step's z is the code at `plan.levels[0]`.

    The plan and the stepper are those that will decode; the stepper adds no noise. The first step goes from 0 to the
    lowest level on the slope found there, which undoes the last move of sampling.
    """
    levels = plan.levels[-2::-1]  # rising
    with torch.no_grad():
        node = Evaluate(denoise)(x0, levels[0])
    z = x0 + levels[0] * node.eps
    yield Step(0, 1, levels[0], z, node.x0)
    if len(levels) > 1:
        for step in climb(denoise, z, levels, stepper):
            yield replace(step, i=step.i + 1, n=step.n + 1)


def climb(denoise: Denoise, z: Tensor, levels: Sequence[float], stepper: Stepper) -> Iterator[Step]:
    """Steps along the probability flow from z [b ...] at levels[0] through rising levels to the last of them."""
    if any(s_next <= s for s, s_next in itertools.pairwise(levels)):
        raise UserError("this plan jumps back up, and a code lies on the flow: take a sampler such as ddim or dpm3")

    evaluate = Evaluate(denoise)

    def mirrored(y: Tensor, r: Tensor) -> Tensor:
        return evaluate(y / spread(r, y), 1 / r).eps

    plan = Plan((*(1 / s for s in levels), 0.0))
    for s, step in zip(levels[1:], sample(mirrored, z / levels[0], plan, stepper, NoNoise()), strict=False):
        z = step.z * s
        yield Step(step.i, step.n, s, z, z - s * step.x0)


class NoNoise:
    """A noise source for samplers that must not draw any."""

    def draw(self, shape: Sequence[int], *, evaluation: int = 0, kind: str = "start") -> Tensor:
        raise UserError("a code lies on the probability flow: take a sampler without noise, such as ddim or dpm3")


def slerp(a: Tensor, b: Tensor, w: float | Tensor) -> Tensor:
    """Codes between a (w = 0) and b (w = 1), [b ...]; w is a number or one for each clip [b].

    The direction turns evenly along the great circle, the norm changes evenly (Song et al. 2021, DDIM, equation 67):
    a straight line would pass through codes of too small a norm, which decode to grey.
    """
    size_a, size_b = (norms(x).double().cpu() for x in (a, b))
    if not (size_a.all() and size_b.all()):
        raise UserError("a code of zeros has no direction; encode a clip first")
    unit_a, unit_b = a / spread(size_a.to(a), a), b / spread(size_b.to(b), b)
    # The angle from the sum and the difference keeps its digits where codes are nearly parallel or opposite.
    angle = 2 * torch.atan2(norms(unit_a - unit_b), norms(unit_a + unit_b)).double().cpu()
    if (angle > 3.14).any():
        raise UserError("these two codes are opposite, and every way round is as short; take another seed for one")
    angle = angle.clamp(min=1e-9)  # sin(w x) / sin(x) is w at 0
    w = torch.as_tensor(w, dtype=torch.float64).cpu()
    size = (1 - w) * size_a + w * size_b
    of_a = size / size_a * torch.sin((1 - w) * angle) / torch.sin(angle)
    of_b = size / size_b * torch.sin(w * angle) / torch.sin(angle)
    return spread(of_a.to(a), a) * a + spread(of_b.to(b), b) * b
