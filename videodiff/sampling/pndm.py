"""Pseudo numerical methods (Liu et al. 2022, PNDM): classical weights on eps, then DDIM's exact transfer.

In the frame of z the transfer from s to r is `z + (r - s) eps`, so the pseudo linear multistep method is the formula
of Adams and Bashforth with its constant weights. They are right for equal steps in s; on any other walk of levels
the method is of order 2 at most (1.9 measured), whatever their number: `Multistep` computes the right ones.
"""

import itertools
import math
from dataclasses import dataclass

from torch import Tensor

from videodiff.errors import UserError
from videodiff.sampling.evaluate import Evaluate, Node
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Draw

WEIGHTS = {2: (3 / 2, -1 / 2), 4: (55 / 24, -59 / 24, 37 / 24, -9 / 24)}
"""Of the newest eps first."""


@dataclass(frozen=True)
class PNDM:
    """F-PNDM (order 4: three Runge-Kutta steps of four evaluations, then one each) or S-PNDM (order 2: one of Heun)."""

    order: int = 4

    def __post_init__(self) -> None:
        if self.order not in WEIGHTS:
            raise UserError(f"order is 2 (S-PNDM) or 4 (F-PNDM), not {self.order}")

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        node = evaluate(z, s)
        if s_next == 0:
            return node.x0, node.x0
        history.append(node)
        if len(history) < self.order:
            eps, node = self._warm_up(evaluate, node, s, s_next)
        else:
            del history[: -self.order]
            pairs = zip(WEIGHTS[self.order], reversed(history), strict=True)
            eps = sum((weight * past.eps for weight, past in pairs), start=node.eps * 0)
        return history[-1].z + (s_next - s) * eps, node.x0

    def _warm_up(self, evaluate: Evaluate, here: Node, s: float, s_next: float) -> tuple[Tensor, Node]:
        """The mean eps of a step by itself, and the last evaluation it took."""
        if self.order == 2:
            there = evaluate(here.z + (s_next - s) * here.eps, s_next)
            return (here.eps + there.eps) / 2, there
        middle = math.sqrt(s * s_next)
        first = evaluate(here.z + (middle - s) * here.eps, middle)
        second = evaluate(here.z + (middle - s) * first.eps, middle)
        there = evaluate(here.z + (s_next - s) * second.eps, s_next)
        return (here.eps + 2 * first.eps + 2 * second.eps + there.eps) / 6, there

    def evaluations(self, plan: Plan) -> int:
        total = 0
        for falling, moves in itertools.groupby(plan.moves, key=lambda move: move[1] < move[0]):
            if falling:
                run = list(moves)
                warm = min(self.order - 1, sum(s_next > 0 for _, s_next in run))
                total += len(run) + warm * (self.order - 1)
        return total
