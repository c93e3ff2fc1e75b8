"""Level walks: the list of noise levels a sampler visits, and in what spacing.

A plan is a walk `s_0, s_1, ..., 0`. A move down is the stepper's step, a move up adds noise, so RePaint, churn and
restart are plans too. The last move, to 0, returns the denoiser's answer: no logarithm of zero exists anywhere. A plan
of N levels above 0 that only falls costs N network evaluations with every method that makes one per step.

Levels are floats and a step is known by its place in the plan, never looked up by a rounded time.
"""

import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import torch

from videodiff.errors import UserError
from videodiff.noise import Schedule, pick


@dataclass(frozen=True)
class Plan:
    """A validated walk: positive, finite levels, neighbours that differ, and 0 at the end and only there."""

    levels: tuple[float, ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "levels", tuple(float(s) for s in self.levels))
        if len(self.levels) < 2 or self.levels[-1] != 0:
            raise UserError(f"a plan is at least one level and then 0, not {_short(self.levels)}")
        if not all(0 < s < math.inf for s in self.levels[:-1]):
            raise UserError(f"levels before the last must be positive and finite, not {_short(self.levels)}")
        for s, s_next in self.moves:
            # 1e-6: closer levels are one number to a float32 network, and the step between them is rounding noise.
            if abs(s - s_next) <= 1e-6 * s:
                raise UserError(f"levels {s:.8g} and {s_next:.8g} are the same step twice; ask for fewer steps")

    @property
    def moves(self) -> list[tuple[float, float]]:
        """(level, next level) of each move, in order."""
        return list(itertools.pairwise(self.levels))

    def down_moves(self) -> list[tuple[float, float]]:
        """The moves a stepper makes; the others only add noise and cost nothing."""
        return [(s, s_next) for s, s_next in self.moves if s_next < s]


def _short(levels: tuple[float, ...]) -> str:
    shown = [f"{s:.4g}" for s in levels]
    return ", ".join(shown if len(shown) < 8 else [*shown[:3], "...", *shown[-3:]]) or "nothing"


# ---------------------------------------------------------------------------------------------------------------------
# Builders. All take (s_max, s_min, n, schedule), so that they can be chosen by name; n is the number of levels above 0.


def log_snr(s_max: float, s_min: float, n: int, schedule: Schedule | None = None) -> Plan:
    """Equal ratios: uniform in lam. The robust choice, and the default."""
    return _walk(s_max, s_min, n, forward=math.log, back=math.exp)


def karras(s_max: float, s_min: float, n: int, schedule: Schedule | None = None, rho: float = 7.0) -> Plan:
    """Uniform in s^(1/rho), denser near the clean end (Karras et al. 2022, equation 5). Good from 15 steps on."""
    return _walk(s_max, s_min, n, forward=lambda s: s ** (1 / rho), back=lambda r: r**rho)


def uniform_t(s_max: float, s_min: float, n: int, schedule: Schedule | None = None) -> Plan:
    """Uniform in the schedule's time, the habit of DDPM; good with hundreds of steps."""
    return _in_time(s_max, s_min, n, schedule, power=1)


def quadratic_t(s_max: float, s_min: float, n: int, schedule: Schedule | None = None) -> Plan:
    """Uniform in the square root of the schedule's time (Song et al. 2021, DDIM, appendix D)."""
    return _in_time(s_max, s_min, n, schedule, power=2)


def from_level(plan: Plan, s_start: float) -> Plan:
    """The part of a falling plan below `s_start`, begun there: keeps structure of a guide noised to it (SDEdit)."""
    if not 0 < s_start <= plan.levels[0]:
        raise UserError(f"the start level must be in (0, {plan.levels[0]:.4g}], not {s_start:.4g}")
    assert all(s > s_next for s, s_next in plan.moves), plan.levels
    below = [s for s in plan.levels if s < s_start * (1 - 1e-6)]
    return Plan((s_start, *below))


def _in_time(s_max: float, s_min: float, n: int, schedule: Schedule | None, power: int) -> Plan:
    if schedule is None:
        raise UserError("this walk is uniform in a schedule's time; give it one, or walk 'log_snr'")

    def forward(s: float) -> float:
        return float(schedule.t(torch.tensor(-math.log(s), dtype=torch.float64))) ** (1 / power)

    def back(u: float) -> float:
        return float(schedule.s(torch.tensor(u**power, dtype=torch.float64)))

    return _walk(s_max, s_min, n, forward, back)


def _walk(
    s_max: float, s_min: float, n: int, forward: Callable[[float], float], back: Callable[[float], float]
) -> Plan:
    """n levels from s_max to s_min, both included, at equal distances of `forward(s)`; then 0."""
    if n < 1:
        raise UserError(f"{n} steps were asked for; at least 1 is needed")
    if not 0 < s_min < s_max < math.inf:
        raise UserError(f"levels must satisfy 0 < s_min < s_max, not s_min {s_min:.4g}, s_max {s_max:.4g}")
    first, last = forward(s_max), forward(s_min)
    inner = [back(first + (last - first) * i / (n - 1)) for i in range(1, n - 1)]
    return Plan((s_max, *inner, *([s_min] if n > 1 else []), 0.0))


PLANS: dict[str, Callable[[float, float, int, Schedule | None], Plan]] = {
    "log_snr": log_snr,
    "karras": karras,
    "uniform_t": uniform_t,
    "quadratic_t": quadratic_t,
}
DEFAULT_PLAN = "log_snr"


def make_plan(name: str, s_max: float, s_min: float, n: int, schedule: Schedule | None = None) -> Plan:
    """The plan of that name in `PLANS`: n evaluations of a first-order method from s_max to s_min, then 0."""
    return PLANS[pick("plan", name, PLANS)](s_max, s_min, n, schedule)
