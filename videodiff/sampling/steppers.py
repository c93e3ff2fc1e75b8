"""Steppers that look only at the present: one update rule each.

The contract of every stepper, here and in the files beside:

    z_next, x0 = stepper.step(evaluate, z, s, s_next, history, draw)

moves a state z from level s down to s_next. `evaluate(z, s)` returns a `Node` (level, state the network saw, x0); see
`evaluate.py`. `history` is a list that the stepper may keep nodes in, emptied by the loop when the walk jumps up.
`draw()` gives standard noise like z, the same whenever it is called in one move; `draw(1)`, `draw(2)` ... give more.
`stepper.evaluations(plan)` says how often the network will be called, or None where that is known only afterwards.
Steppers are values without state, so one can serve any number of runs. Weights are Python floats computed in float64;
z has the network's precision.
"""

import math
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import FAMILIES, pick, step_variance
from videodiff.sampling.evaluate import Evaluate, Node
from videodiff.sampling.plans import Plan


class Draw(Protocol):
    """Standard noise like z for this move; the same for the same number."""

    def __call__(self, again: int = 0) -> Tensor: ...


class Stepper(Protocol):
    """An update rule; see the module's first lines."""

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]: ...

    def evaluations(self, plan: Plan) -> int | None: ...


@dataclass(frozen=True)
class FirstOrder:
    """DDIM's family: eta 0 is DDIM and Euler, eta 1 is DDPM (small variance) and Euler ancestral.

    Song et al. 2021 (DDIM), equations 12 and 16, in z: with r the next level and variance
    v = eta^2 r^2 (1 - r^2 / s^2), z' = D + sqrt(r^2 - v) eps + sqrt(v) n.
    Every eta has the same marginals when D is exact.
    """

    eta: float = 0.0

    def __post_init__(self) -> None:
        if not 0 <= self.eta <= 1:
            raise UserError(f"eta is between 0 (deterministic) and 1 (ancestral), not {self.eta}")

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        node = evaluate(z, s)
        if s_next == 0:
            return node.x0, node.x0
        noise = self.eta * s_next * math.sqrt(1 - (s_next / s) ** 2)
        z = node.x0 + math.sqrt(s_next**2 - noise**2) / s * (node.z - node.x0)
        return (z + noise * draw() if noise else z), node.x0

    def evaluations(self, plan: Plan) -> int:
        return len(plan.down_moves())


@dataclass(frozen=True)
class Ancestral:
    """DDPM's step with a choice of variance: mean x0 + (r/s)^2 (z - x0), then noise (Ho et al. 2020, section 3.2).

    variance: "small" is the posterior's (FirstOrder(1)), "large" the forward step's, and "own" what the network learned
              (Nichol and Dhariwal 2021, equation 15), or the small one if it learned none.
    family:   the alpha of `noise.FAMILIES` of the large variance.
    """

    variance: str = "own"
    family: str = "vp"

    def __post_init__(self) -> None:
        pick("variance", self.variance, ("small", "large", "own"))
        pick("noise family", self.family, FAMILIES)

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        node = evaluate(z, s)
        if s_next == 0:
            return node.x0, node.x0
        u = node.u if self.variance == "own" and node.u is not None else float(self.variance == "large")
        sd = step_variance(s, s_next, u, self.family) ** 0.5
        return node.x0 + (s_next / s) ** 2 * (node.z - node.x0) + sd * draw(), node.x0

    def evaluations(self, plan: Plan) -> int:
        return len(plan.down_moves())


@dataclass(frozen=True)
class Heun:
    """Euler, then again with the mean of both slopes (Karras et al. 2022, algorithm 1). Two evaluations a step.

    For quality runs of 20 evaluations and more; below that it is far behind the multistep methods.
    """

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        here = evaluate(z, s)
        if s_next == 0:
            return here.x0, here.x0
        there = evaluate(here.z + (s_next - s) * here.eps, s_next)
        return here.z + (s_next - s) * (here.eps + there.eps) / 2, there.x0

    def evaluations(self, plan: Plan) -> int:
        return sum(1 if s_next == 0 else 2 for _, s_next in plan.down_moves())


@dataclass(frozen=True)
class Taylor:
    """The second-order Taylor step: z' = z + h eps + h^2 / 2 d eps / ds with h = r - s (Dockhorn et al. 2022, GENIE).

    The derivative is exact and costs as much as a second evaluation, so that a multistep method does more for less.
    """

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        if s_next == 0:
            x0 = evaluate(z, s).x0
            return x0, x0
        node, slope = evaluate.slope(z, s)
        h = s_next - s
        return node.z + h * node.eps + h**2 / 2 * slope, node.x0

    def evaluations(self, plan: Plan) -> int:
        return sum(1 if s_next == 0 else 2 for _, s_next in plan.down_moves())
