"""Every linear multistep method, from one formula.

Write the move from level s to r as an integral over lam = -log s that is exact but for one function f, the network's
answer; put the polynomial through f's last values in its place; integrate exactly. With e = eta and L_j the Lagrange
polynomials of the nodes on a clock u:

    target eps:  z' = z - sum_j eps_j Int exp(-l) L_j(u(l)) dl
    target x0:   z' = (r/s)^(1+e) z + sum_j x0_j (1+e) Int exp(-(1+e)(lam' - l)) L_j(u(l)) dl
                      + r sqrt(1 - (r/s)^(2e)) n                                     both over l in [lam, lam']

Which is, by choice of target and clock: LMS and rhoAB-DEIS (eps, s), tAB-DEIS (eps, t), log-rho DEIS and multistep
DPM-Solver (eps, lam), DPM-Solver++ and its SDE form (x0, lam), UniPC (x0, lam, corrector). A singlestep method is the
same with a memory that starts afresh every `order` evaluations, each move of such a group starting from the group's
first node: DPM-Solver-2 and -3 (eps, lam), DPM-Solver++ 2S and 3S (x0, lam). So it costs one evaluation a level like
the others, and any number of levels is right. Papers: Zhang and Chen 2023 (DEIS), Lu et al. 2022 (DPM-Solver,
DPM-Solver++), Zhao et al. 2023 (UniPC).
"""

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import Schedule, linear
from videodiff.sampling.evaluate import Evaluate, Node
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Draw

CLOCKS = ("lam", "s", "t")
GAUSS = np.polynomial.legendre.leggauss(20)


@dataclass(frozen=True)
class Multistep:
    """A method that remembers `order` evaluations; the first steps, and those after a jump up, use what there is.

    order:     1 to 4; with the corrector the method converges with one order more. (4 on eps in lam: 3.6 measured.)
    target:    what the polynomial goes through: "eps", or "x0" (steadier when x0 is thresholded or strongly guided).
    clock:     the polynomial's variable: "lam", "s", or "t", the time of `schedule`.
    corrector: redo each step once its end has been evaluated, with that value as one more node; costs no evaluation.
    eta:       0 follows the probability flow, 1 the reverse SDE; in between the noise is r^2 (1 - (r/s)^(2 eta)), which
               is not DDIM's eta^2 r^2 (1 - r^2/s^2) though both ends agree.
    single:    singlestep: forget all after every `order` evaluations, and start each move from the first of its group.
    rule:      "exact" weights, or the "published" ones where those differ; see `_basis`.
    """

    order: int
    target: str = "eps"
    clock: str = "lam"
    corrector: bool = False
    eta: float = 0.0
    single: bool = False
    rule: str = "exact"
    schedule: Schedule = linear()  # noqa: RUF009 - a frozen value; the time of tAB-DEIS in its paper

    def __post_init__(self) -> None:
        def check(ok: bool, message: str) -> None:
            if not ok:
                raise UserError(message)

        check(self.order in (1, 2, 3, 4), f"order is 1, 2, 3 or 4, not {self.order}")
        check(self.target in ("eps", "x0"), f"target is 'eps' or 'x0', not '{self.target}'")
        check(self.clock in CLOCKS, f"clock is one of {', '.join(CLOCKS)}, not '{self.clock}'")
        check(self.rule in ("exact", "published"), f"rule is 'exact' or 'published', not '{self.rule}'")
        check(0 <= self.eta <= 1, f"eta is between 0 (deterministic) and 1 (ancestral), not {self.eta}")
        check(
            not (self.corrector and self.target == "eps"),
            "a corrector on eps diverges at few steps when the model is not perfect; use target 'x0' for it",
        )
        check(not (self.eta and self.target == "eps"), "eta above 0 needs target 'x0'; eps follows the flow only")
        check(not (self.eta and self.corrector), "the corrector redoes a step and cannot redo its noise; use eta 0")
        check(not (self.single and self.corrector), "a singlestep method has no corrector")
        check(
            self.rule == "exact" or (self.clock == "lam" and self.order in (2, 3)),
            "the published rule exists for order 2 and 3 on clock 'lam' alone",
        )

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        node = evaluate(z, s)
        if s_next == 0:
            return node.x0, node.x0
        if self.corrector and history:  # the step that led here, once more
            last = history[-1]
            node = node._replace(z=self._move(last, s, [*history, node]))
        if self.single and len(history) == self.order:
            history.clear()
        history.append(node)
        start = self._start(history, s_next)
        del history[: -self.order]
        z = self._move(start, s_next, history)
        if self.eta:
            if start is not node:  # the noise that came since start goes along
                z = z + (s_next / s) ** (1 + self.eta) * (node.z - self._move(start, s, history[:-1]))
            z = z + s_next * math.sqrt(1 - (s_next / s) ** (2 * self.eta)) * draw()
        return z, node.x0

    def evaluations(self, plan: Plan) -> int:
        return len(plan.down_moves())

    def _start(self, history: list[Node], s_next: float) -> Node:
        if self.single:
            return history[0]
        # The first steps are of lower order and would limit a long run to order 2. So while all nodes since the start
        # are at hand, integrate from the start again with all of them. Only for short steps (0.3 in lam for the whole
        # warm-up: 100 evaluations and more): at 5 evaluations this diverges, and at 10 to 50 it changes nothing.
        again = len(history) <= self.order and self.eta == 0 and self.rule == "exact"
        return history[0] if again and math.log(float(history[0].s) / s_next) < 0.3 else history[-1]

    def _move(self, start: Node, s_next: float, nodes: list[Node]) -> Tensor:
        """From start's state to s_next with the polynomial through the nodes, newest last."""
        s = float(start.s)
        z = start.z if self.target == "eps" else (s_next / s) ** (1 + self.eta) * start.z
        for weight, node in zip(self.weights([float(node.s) for node in nodes], s, s_next), nodes, strict=True):
            z = z + weight * (node.eps if self.target == "eps" else node.x0)
        return z

    def weights(self, levels: list[float], s: float, s_next: float) -> list[float]:
        """What multiplies the answer at each of these levels in the move from s to s_next."""
        lam, dlam = _gauss_legendre(-math.log(s), -math.log(s_next))
        if self.target == "eps":
            kernel = -np.exp(-lam)
        else:
            kernel = (1 + self.eta) * np.exp((1 + self.eta) * (lam + math.log(s_next)))
        return (self._basis(-np.log(levels), lam) @ (kernel * dlam)).tolist()

    def _basis(self, nodes: np.ndarray, lam: np.ndarray) -> np.ndarray:
        """The polynomials [k n] that stand for the answers at the nodes [k], at the points lam [n] of a move."""
        exact = _lagrange(self._time(lam), self._time(nodes))
        if self.rule == "exact" or len(nodes) not in (2, 3):
            return exact
        if len(nodes) == 2 and not (self.single and self.order == 3):
            # DPM-Solver-2 and ++ 2M, 2S: its value in the middle of the move, held. So too a UniPC step on two nodes.
            return _lagrange(np.full_like(lam, (lam[0] + lam[-1]) / 2), nodes)
        if len(nodes) == 2 or self.corrector:
            return exact
        if self.single:  # DPM-Solver-3 and ++ 3S: the line through the first node and the last
            first, last = _lagrange(lam, nodes[[0, 2]])
            return np.stack([first, np.zeros_like(lam), last])
        # DPM-Solver++ 3M: half of the quadratic term about the newest node.
        leading = [1 / np.prod(node - np.delete(nodes, j)) for j, node in enumerate(nodes)]
        return exact - np.outer(leading, (lam - nodes[-1]) ** 2) / 2

    def _time(self, lam: np.ndarray) -> np.ndarray:
        if self.clock == "s":
            return np.exp(-lam)
        return lam if self.clock == "lam" else self.schedule.t(torch.from_numpy(lam)).numpy()


def _gauss_legendre(a: float, b: float) -> tuple[np.ndarray, np.ndarray]:
    """Points and weights for an integral from a to b: 20 nodes on each panel of at most 1 in lam, good to 1e-12."""
    x, w = GAUSS
    edges = np.linspace(a, b, max(1, math.ceil(abs(b - a))) + 1)
    middle, half = (edges[1:] + edges[:-1]) / 2, np.diff(edges) / 2
    return (middle[:, None] + half[:, None] * x).ravel(), (half[:, None] * w).ravel()


def _lagrange(u: np.ndarray, nodes: np.ndarray) -> np.ndarray:
    """The Lagrange polynomials of the nodes [k] at the points u [n], as [k n]."""
    rows = []
    for j, node in enumerate(nodes):
        others = np.delete(nodes, j)
        rows.append(np.prod([(u - other) / (node - other) for other in others], axis=0) * np.ones_like(u))
    return np.stack(rows)
