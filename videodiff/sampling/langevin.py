"""Langevin moves: noise and score at one level, which lead any state towards the density of that level.

    z <- z - c s eps + sqrt(2 c) s n          a move with step c s^2, as the score is -eps / s

`Corrected` makes some after each step of another sampler (predictor-corrector: Song et al. 2021, Score-SDE, algorithms
4 and 5); `Langevin` makes nothing else while the level falls (annealed Langevin: Song and Ermon 2019, NCSN,
algorithm 1).
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import norms, spread
from videodiff.sampling.evaluate import Evaluate
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Draw, Stepper

LONGEST = 2.0
"""Of |n| / |eps|. In few dimensions a score may be near 0 and the ratio has no mean: on the two-dimensional mixture of
the tests 2 improved every run of 10 to 50 levels, 4 spoilt those of 50, and without a limit most became worse."""


@dataclass(frozen=True)
class Corrected:
    """A sampler with `moves` Langevin moves after each of its steps, at the level the step has reached.

    A move's step is 2 (snr |n| / |score|)^2, so c = 2 (snr |n| / |eps|)^2: one snr fits any level and size of clip.
    The paper takes norms over a batch; here each clip has its own, with sqrt(d) for |n|, and |n| / |eps| counts as
    at most `LONGEST`. A moved state lies on another trajectory: a sampler that remembers evaluations begins anew.
    """

    stepper: Stepper
    snr: float = 0.16  # Song et al. 2021, appendix G
    moves: int = 1

    def __post_init__(self) -> None:
        if not (self.snr > 0 and self.moves >= 1):
            raise UserError(
                f"a corrector needs snr above 0 and at least 1 move, not snr {self.snr}, moves {self.moves}"
            )

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Any], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        z, x0 = self.stepper.step(evaluate, z, s, s_next, history, lambda again=0: draw(again * (self.moves + 1)))
        if s_next == 0:
            return z, x0
        for move in range(1, self.moves + 1):
            node, n = evaluate(z, s_next), draw(move)
            ratio = (math.sqrt(z[0].numel()) / norms(node.eps)).clamp(max=LONGEST)
            c = spread(2 * (self.snr * ratio) ** 2, z)
            z = node.z - c * s_next * node.eps + (2 * c).sqrt() * s_next * n
        history.clear()
        return z, node.x0

    def evaluations(self, plan: Plan) -> int | None:
        own = self.stepper.evaluations(plan)
        return None if own is None else own + self.moves * sum(s_next > 0 for _, s_next in plan.down_moves())


@dataclass(frozen=True)
class Langevin:
    """Annealed Langevin: `moves` of them at each level below the first, and in the end the denoiser's answer.

    rule: how long a move is.
        "constant": c = `step` at every level (NCSN). Theirs is .1; at .2 thirty moves on each of thirty levels give the
            weights of a mixture's parts within sampling error, where .1 lags behind and .4 wanders (docs/method.md).
        "ncsnv2": the c for which a Gaussian of the last level's width comes nearest to this level's in these moves
            (Song and Ermon 2020, technique 4). Cautious: made for 1000s of moves in all.
    """

    moves: int = 30
    rule: str = "constant"
    step_size: float = 0.2

    def __post_init__(self) -> None:
        if self.moves < 1:
            raise UserError(f"Langevin needs at least 1 move a level, not {self.moves}")
        if self.rule not in ("constant", "ncsnv2"):
            raise UserError(f"the rule is 'constant' or 'ncsnv2', not '{self.rule}'")
        if not 0 < self.step_size < 1:
            raise UserError(f"a step of Langevin is between 0 and 1 (above, it overshoots), not {self.step_size}")

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Any], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        if s_next == 0:
            node = evaluate(z, s)
            return node.x0, node.x0
        c = self.step_size if self.rule == "constant" else contraction_step(s / s_next, self.moves)
        for move in range(self.moves):
            node = evaluate(z, s_next)
            z = node.z - c * s_next * node.eps + math.sqrt(2 * c) * s_next * draw(move)
        return z, node.x0

    def evaluations(self, plan: Plan) -> int:
        return sum(1 if s_next == 0 else self.moves for _, s_next in plan.down_moves())


def contraction_step(ratio: float, moves: int) -> float:
    """The step c with which `moves` moves at level s bring a variance of (ratio s)^2 nearest to s^2.

    Song and Ermon 2020 (NCSNv2), equation 4: moves have the fixed point s^2 / (1 - c / 2), and come nearer to it by
    (1 - c)^2 each. Found on a grid of 1e-4.
    """
    c = np.arange(1e-4, 1, 1e-4)
    fixed = 1 / (1 - c / 2)
    return float(c[np.argmin(np.abs((1 - c) ** (2 * moves) * (ratio**2 - fixed) + fixed - 1))])
