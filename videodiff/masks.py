"""Which pixels a training example knows: one function per pattern, drawn as a mixture.

One network trained on the mixture does every task (MCVD's masked groups, RaMViD's random sets, FDM's spaced sets, and
boxes in space), and dropping everything gives classifier-free guidance on the frames for free.

Each pattern returns `known`, bool [t 1 h w], True where given, and leaves something wanted.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

Pattern = Callable[[torch.Generator, int, int, int], Tensor]


def draw(generator: torch.Generator, b: int, t: int, size: tuple[int, int], mixture: Mapping[Any, float]) -> Tensor:
    """`known` bool [b t 1 h w]: for each clip a pattern drawn by the weights in `mixture` (names of MASKS)."""
    names = list(mixture)
    weights = torch.tensor([mixture[name] for name in names], dtype=torch.float64)
    picks = torch.multinomial(weights.to(generator.device), b, replacement=True, generator=generator).tolist()
    return torch.stack([MASKS[names[i]](generator, t, *size) for i in picks])


def drop_vector(generator: torch.Generator, vector: Tensor, p: float) -> Tensor:
    """Class or text vectors [b d], each row dropped (nan) with probability p: guidance needs it (arXiv 2207.12598)."""
    dropped = torch.rand(len(vector), 1, generator=generator, device=generator.device) < p
    return torch.where(dropped, torch.full_like(vector, torch.nan), vector)


def _integer(generator: torch.Generator, low: int, high: int) -> int:
    """Uniform in low..high, both included."""
    return int(torch.randint(low, high + 1, (), generator=generator, device=generator.device))


def _frames(generator: torch.Generator, t: int, h: int, w: int, frames: Tensor | slice) -> Tensor:
    known = torch.zeros(t, 1, h, w, dtype=torch.bool, device=generator.device)
    known[frames] = True
    return known


def nothing(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """Unconditional."""
    return _frames(generator, t, h, w, slice(0))


def past(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """A number of first frames: prediction."""
    return _frames(generator, t, h, w, slice(0, _integer(generator, 1, max(1, t - 1)) if t > 1 else 0))


def half(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """The first half: the commonest request, prediction from a full context."""
    return _frames(generator, t, h, w, slice(0, t // 2))


def third(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """The first third: 5 -> 10, as Moving MNIST is judged."""
    return _frames(generator, t, h, w, slice(0, t // 3))


def future(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """A number of last frames: what came before."""
    return past(generator, t, h, w).flip(0)


def both_ends(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """Some first and some last frames: a hole in time."""
    known = nothing(generator, t, h, w)
    if t > 2:
        first = _integer(generator, 1, t - 2)
        known[:first] = True
        known[t - _integer(generator, 1, t - 1 - first) :] = True
    return known


def random_set(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """Any set of frames."""
    count = _integer(generator, 0, t - 1)
    return _frames(generator, t, h, w, torch.randperm(t, generator=generator, device=generator.device)[:count])


def spaced_set(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """Every k-th frame, k log-uniform in 2, 3, 4, 6, 8: interpolation, slow motion."""
    step = (2, 3, 4, 6, 8)[_integer(generator, 0, 4)]
    return _frames(generator, t, h, w, slice(_integer(generator, 0, min(step, t) - 1) if t > 1 else t, None, step))


def boxes(generator: torch.Generator, t: int, h: int, w: int) -> Tensor:
    """A hole in space, moving at constant speed, or the rim (outpainting); in some clips some frames are whole."""
    known = torch.ones(t, 1, h, w, dtype=torch.bool, device=generator.device)
    height, width = (max(2, int(n * (0.2 + 0.5 * _unit(generator)))) for n in (h, w))
    y, x = _unit(generator) * (h - height), _unit(generator) * (w - width)
    vy, vx = ((_unit(generator) - 0.5) * 4 if _unit(generator) < 0.5 else 0.0 for _ in range(2))
    for i in range(t):
        top = int(min(max(y + vy * i, 0), h - height))
        left = int(min(max(x + vx * i, 0), w - width))
        known[i, :, top : top + height, left : left + width] = False
    if _unit(generator) < 0.25:
        known = ~known
    if _unit(generator) < 0.5 and t > 1:
        known |= random_set(generator, t, h, w)
    return known


def _unit(generator: torch.Generator) -> float:
    return float(torch.rand((), generator=generator, device=generator.device))


MASKS: dict[str, Pattern] = {
    "nothing": nothing,
    "past": past,
    "half": half,
    "third": third,
    "future": future,
    "both_ends": both_ends,
    "random_set": random_set,
    "spaced_set": spaced_set,
    "boxes": boxes,
}
