"""Steppers that choose their own steps: each move of the plan is integrated to a tolerance.

A plan for these is only where to stop by the way, for progress and previews: `Plan((s_max, s_min, 0.0))` is enough.
Both are a pair of methods whose difference is the error of a trial step; the next step is made as long as the tolerance
allows. Each clip of a batch has its own step size and its own accepted and refused trials, and waits at the end of
the move for the slowest, so that it takes the path it would take alone. The step size lives on in `history` from one
move to the next.

The probability flow is integrated in a clock u that rises as the level falls. In the angle theta = atan s, with
x = z cos(theta) = cos(theta) x0 + sin(theta) n, it is dx/dtheta = v = cos(theta) eps - sin(theta) x0 (Salimans and Ho
2022, section 4): a field of constant size from pure noise to the clean clip. On the mixtures of the tests this costs a
third fewer evaluations than log s, asinh s or s as the clock (docs/method.md).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import norms, spread
from videodiff.sampling.evaluate import Evaluate, Node
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Draw

SHRINK, GROW = 0.2, 10.0
SAFETY = 0.9
"""A step changes at most this much, and aims this far below its tolerance (Hairer, Norsett and Wanner 1993, II.4)."""
MOST = 1000
"""Trial steps in one move after which the field is called too rough: the smooth ones of the tests take under 100."""
SMALLEST = 1e-7
"""A step of the clock below which no field is smooth enough to go on."""


class Trial(NamedTuple):
    """Where a step ends by the better method and by the worse one; the node at its end if it has been evaluated."""

    better: Tensor
    worse: Tensor
    end: Node | None = None


def integrate(
    pair: "RK45 | AdaptiveDPM", evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Any]
) -> tuple[Tensor, Tensor]:
    """(state at s_next, the latest answer): the move from s, in as many steps as the tolerance needs.

    Of the pair: `attempt` makes a trial step for each clip, from u by `step`; `first` is the length tried first,
    `power` the exponent of the length in the difference of its two methods.
    """
    here = evaluate(z, _levels([s] * len(z), z))
    if s_next == 0:
        return here.x0, here.x0
    least = 10 * torch.finfo(z.dtype).eps
    if pair.rtol < least:
        raise UserError(f"rtol {pair.rtol:g} is below what {z.dtype} can hold; give {least:.0e} or more")
    u, end = [pair.clock(s)] * len(z), pair.clock(s_next)
    steps: list[float] = history.pop() if history else [pair.first] * len(z)
    for _ in range(MOST):
        if min(u) >= end:
            break
        goals = [end if a + h >= end else a + h for a, h in zip(u, steps, strict=True)]
        trial = pair.attempt(evaluate, here, u, [goal - a for goal, a in zip(goals, u, strict=True)])
        errors = _errors(pair, here.z, trial, [pair.level(a) for a in u], [pair.level(a) for a in goals])
        accepted = [error <= 1 for error in errors]
        for i, error in enumerate(errors):
            if u[i] == end:
                continue
            length = goals[i] - u[i]
            factor = min(GROW, max(SHRINK, SAFETY * max(error, 1e-12) ** (-1 / pair.power)))
            # A step cut short by the end of the move says nothing against a longer one.
            steps[i] = max(steps[i], length * factor) if accepted[i] else length * factor
            if steps[i] < SMALLEST:
                raise UserError(
                    f"no step is short enough for rtol {pair.rtol:g} near noise level {pair.level(u[i]):.3g}: the "
                    "network's answers jump; ask for a larger tolerance, or take a sampler with fixed steps"
                )
            u[i] = goals[i] if accepted[i] else u[i]
        if not any(accepted):
            continue
        mask = spread(torch.tensor(accepted, device=z.device), z)
        z = torch.where(mask, trial.better, here.z)
        if trial.end is not None:
            here = _choose(mask, trial.end, here)
        elif min(u) < end:
            here = evaluate(z, _levels([pair.level(a) for a in u], z))
    else:
        raise UserError(
            f"{MOST} steps were not enough to reach noise level {s_next:.3g} at rtol {pair.rtol:g}; ask for a larger "
            "tolerance, or take a sampler with fixed steps"
        )
    history.append(steps)
    return z, here.x0


def _errors(pair: "RK45 | AdaptiveDPM", z: Tensor, trial: Trial, s: list[float], s_next: list[float]) -> list[float]:
    """The difference of both methods over what is tolerated, per clip: root mean squares of x = z / sqrt(1 + s^2)."""
    width, count = [math.hypot(1, r) for r in s_next], math.sqrt(z[0].numel())
    before = [x / math.hypot(1, r) for x, r in zip(norms(z).tolist(), s, strict=True)]
    after = [x / r for x, r in zip(norms(trial.better).tolist(), width, strict=True)]
    apart = [x / r for x, r in zip(norms(trial.better - trial.worse).tolist(), width, strict=True)]
    return [x / (pair.atol * count + pair.rtol * max(*sizes)) for x, *sizes in zip(apart, before, after, strict=True)]


def _choose(mask: Tensor, this: Node, that: Node) -> Node:
    """`this` for the clips where the mask [b 1 ...] is True, `that` for the others."""
    s = torch.where(mask.flatten(), _levels_of(this), _levels_of(that))
    return Node(s, torch.where(mask, this.z, that.z), torch.where(mask, this.x0, that.x0))


def _levels_of(node: Node) -> Tensor:
    assert isinstance(node.s, Tensor), node.s
    return node.s


def _levels(values: Sequence[float], like: Tensor) -> Tensor:
    """Python's floats, one for each clip, as a tensor [b] beside `like`."""
    return torch.tensor(values, dtype=torch.promote_types(like.dtype, torch.float32), device=like.device)


def _scaled(values: Sequence[float], x: Tensor) -> Tensor:
    """x [b ...] times one number for each clip."""
    return spread(_levels(values, x), x) * x


def _check(rtol: float, atol: float) -> None:
    if not (rtol > 0 and atol > 0):
        raise UserError(f"tolerances are positive, not rtol {rtol}, atol {atol}")


# Dormand and Prince 1980, RK5(4)7M: stage times, stage weights (the last row is the answer), and the answer less its
# companion of fourth order. The seventh stage is the first of the next step.
TIMES = (1 / 5, 3 / 10, 4 / 5, 8 / 9, 1.0, 1.0)
STAGES = (
    (1 / 5,),
    (3 / 40, 9 / 40),
    (44 / 45, -56 / 15, 32 / 9),
    (19372 / 6561, -25360 / 2187, 64448 / 6561, -212 / 729),
    (9017 / 3168, -355 / 33, 46732 / 5247, 49 / 176, -5103 / 18656),
    (35 / 384, 0.0, 500 / 1113, 125 / 192, -2187 / 6784, 11 / 84),
)
DIFFERENCE = (71 / 57600, 0.0, -71 / 16695, 71 / 1920, -17253 / 339200, 22 / 525, -1 / 40)


@dataclass(frozen=True)
class RK45:
    """The probability flow by Dormand-Prince 5(4): six evaluations a trial step (Song et al. 2021, section 4.3).

    rtol, atol: tolerated error of a step, relative to the clip's root mean square and absolute; both in
    x = z / sqrt(1 + s^2).
    """

    rtol: float = 1e-3
    atol: float = 1e-3

    first = 0.1  # radians; chosen, not tuned
    power = 5

    def __post_init__(self) -> None:
        _check(self.rtol, self.atol)

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Any], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        return integrate(self, evaluate, z, s, s_next, history)

    def evaluations(self, plan: Plan) -> None:
        return None

    def clock(self, s: float) -> float:
        return -math.atan(s)

    def level(self, u: float) -> float:
        return math.tan(-u)

    def attempt(self, evaluate: Evaluate, here: Node, u: list[float], step: list[float]) -> Trial:
        node, slopes = here, []
        x = _scaled([math.cos(a) for a in u], here.z)
        for time, weights in zip(TIMES, STAGES, strict=True):
            slopes.append(_velocity(node))
            at = [a + time * h for a, h in zip(u, step, strict=True)]
            ahead = x - _scaled(step, _sum(weights, slopes))  # theta = -u falls
            z = _scaled([1 / math.cos(a) for a in at], ahead)
            node = evaluate(z, _levels([self.level(a) for a in at], z))
        slopes.append(_velocity(node))
        off = -_scaled(step, _sum(DIFFERENCE, slopes))
        return Trial(z, z - _scaled([1 / math.cos(a) for a in at], off), node)


def _sum(weights: Sequence[float], slopes: Sequence[Tensor]) -> Tensor:
    total = weights[0] * slopes[0]
    for weight, slope in zip(weights[1:], slopes[1:], strict=True):
        total = total + weight * slope
    return total


def _velocity(node: Node) -> Tensor:
    """v = cos(theta) eps - sin(theta) x0 at tan(theta) = s."""
    s = spread(_levels_of(node), node.z)
    return (node.eps - s * node.x0) / (1 + s * s).sqrt()


@dataclass(frozen=True)
class AdaptiveDPM:
    """DPM-Solver-12 or -23 with chosen steps (Lu et al. 2022, appendix C): `order` evaluations a trial step.

    The clock is lam = -log s. rtol and atol are as of `RK45`; the defaults are the paper's.
    """

    order: int = 3
    rtol: float = 0.05
    atol: float = 0.0078

    first = 0.05  # in lam; the paper's

    def __post_init__(self) -> None:
        _check(self.rtol, self.atol)
        if self.order not in (2, 3):
            raise UserError(f"order is 2 or 3, not {self.order}")

    @property
    def power(self) -> int:
        return self.order

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Any], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        return integrate(self, evaluate, z, s, s_next, history)

    def evaluations(self, plan: Plan) -> None:
        return None

    def clock(self, s: float) -> float:
        return -math.log(s)

    def level(self, u: float) -> float:
        return math.exp(-u)

    def attempt(self, evaluate: Evaluate, here: Node, u: list[float], step: list[float]) -> Trial:
        def ahead(share: float) -> tuple[list[float], Tensor]:
            """(level, state by Euler's rule) after this share of the step."""
            levels = [self.level(a + share * h) for a, h in zip(u, step, strict=True)]
            return levels, here.z + _scaled([r - self.level(a) for r, a in zip(levels, u, strict=True)], here.eps)

        def bent(share: float, turn: Tensor, over: float) -> Tensor:
            """What is added if eps has turned by `turn` after the share `over` of the step, and turns evenly in lam."""
            levels, _ = ahead(share)
            part = [-r * share / over * _phi(share * h) for r, h in zip(levels, step, strict=True)]
            return _scaled(part, turn)

        if self.order == 2:
            levels, z = ahead(1 / 2)
            turn = evaluate(z, _levels(levels, z)).eps - here.eps
            levels, z = ahead(1)
            lengths = [r - self.level(a) for r, a in zip(levels, u, strict=True)]
            return Trial(z + _scaled(lengths, turn), z)
        levels, z = ahead(1 / 3)
        first = evaluate(z, _levels(levels, z)).eps - here.eps
        levels, z = ahead(2 / 3)
        z = z + bent(2 / 3, first, over=1 / 3)
        second = evaluate(z, _levels(levels, z)).eps - here.eps
        levels, z = ahead(1)
        lengths = [1.5 * (r - self.level(a)) for r, a in zip(levels, u, strict=True)]
        return Trial(z + bent(1, second, over=2 / 3), z + _scaled(lengths, first))


def _phi(h: float) -> float:
    """(e^h - 1) / h - 1."""
    return math.expm1(h) / h - 1 if h else 0.0
