"""How things in made-up scenes move: closed forms of time, so that any frame can be drawn without those before it.

`time` is [b t], in frames; parameters are [b ...] and results [b ... t].
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.datasets.draw import Draw

MIDDLE = 8  # the moment, in frames, at which a scene is as it was laid out
NUM_POSES = 8  # a gesture runs through this many poses and begins again


def uneven_time(draw: Draw, time: Tensor, *shape: int) -> Tensor:
    """Time [b *shape t] as a thing experiences it: steady, in fits and starts, or at rest before or after a moment."""
    now = time.view(draw.b, *[1] * len(shape), -1) - MIDDLE
    period = draw.uniform(8, 30, *shape)[..., None]
    phase = draw.uniform(0, 2 * math.pi, *shape)[..., None]
    pulse = now + period / (2 * math.pi) * ((2 * math.pi * now / period + phase).sin() - phase.sin())
    turn = draw.uniform(-6, 6, *shape)[..., None]
    start = F.softplus(2 * (now - turn)) / 2
    stop = -F.softplus(2 * (turn - now)) / 2
    kind = draw.choice([0.55, 0.2, 0.13, 0.12], *shape)[..., None]
    return torch.where(kind == 0, now, torch.where(kind == 1, pulse, torch.where(kind == 2, start, stop)))


def swing(draw: Draw, time: Tensor, size: Tensor) -> Tensor:
    """A sinusoid [b ... t] around 0 of amplitude `size` [b ...] and a period of 6..40 frames."""
    shape = size.shape[1:]
    rate = 2 * math.pi / draw.log_uniform(6, 40, *shape)
    phase = draw.uniform(0, 2 * math.pi, *shape)
    now = time.view(draw.b, *[1] * len(shape), -1)
    return size[..., None] * (rate[..., None] * now + phase[..., None]).sin()


def gesture(draw: Draw, time: Tensor, size: Tensor) -> Tensor:
    """Moves [b ... t] between random poses within +-`size` [b ...], resting in between, as limbs do."""
    shape = size.shape[1:]
    poses = draw.uniform(-1, 1, *shape, NUM_POSES)
    period, phase = draw.uniform(5, 16, *shape)[..., None], draw.uniform(0, NUM_POSES, *shape)[..., None]
    share = draw.uniform(0.5, 1, *shape)[..., None]  # of a period spent moving
    now = time.view(draw.b, *[1] * len(shape), -1) / period + phase
    step = now.floor()
    part = ((now - step) / share).clamp(max=1)
    ease = part * part * (3 - 2 * part)
    before = poses.gather(-1, step.long() % NUM_POSES)
    after = poses.gather(-1, (step.long() + 1) % NUM_POSES)
    return size[..., None] * (before + (after - before) * ease)


def fold(x: Tensor, reach: Tensor) -> Tensor:
    """x thrown back at walls at +-reach: a triangle wave of slope 1."""
    return ((x - reach).remainder(4 * reach) - 2 * reach).abs() - reach


def wrap(x: Tensor, reach: Tensor) -> Tensor:
    """x that leaves at +reach and comes back at -reach."""
    return (x + reach).remainder(2 * reach) - reach
