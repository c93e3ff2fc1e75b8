"""Level walks: the list of noise levels a sampler visits, and in what spacing.

A plan is a walk `s_0, s_1, ..., 0`. A move down is the stepper's step, a move up adds noise, so RePaint, churn and
restart are plans too. The last move, to 0, returns the denoiser's answer: no logarithm of zero exists anywhere. A plan
of N levels above 0 that only falls costs N network evaluations with every method that makes one per step.

Levels are floats and a step is known by its place in the plan, never looked up by a rounded time.
"""

import itertools
import math
from collections.abc import Callable, Iterable
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
    below = [s for s in _falling(plan) if s < s_start * (1 - 1e-6)]
    return Plan((s_start, *below))


def repaint(plan: Plan, jump: int = 10, times: int = 10) -> Plan:
    """A falling plan in which every `jump` moves are made `times` times, with a jump back up in between.

    Lugmayr et al. 2022 (RePaint), algorithm 1: what is known and what is made have more time to agree. Moves at the end
    that are fewer than `jump`, and the one to 0, are made once, so N levels cost jump times (N - 1) // jump (times - 1)
    evaluations more than N. Up goes in one move, which has the same distribution as going up level by level.
    """
    if jump < 1 or times < 1:
        raise UserError(f"jump and times are at least 1, not {jump} and {times}")
    levels, walk = _falling(plan), []
    whole = (len(levels) - 2) // jump * jump  # moves in blocks that end above 0
    for first in range(0, whole, jump):
        walk += levels[first : first + jump + 1] * (times - 1) + levels[first : first + jump]
    return Plan((*walk, *levels[whole:]))


def churned(plan: Plan, churn: float = 40.0, s_low: float = 0.05, s_high: float = 50.0) -> Plan:
    """A falling plan in which every level in [s_low, s_high] is first raised by noise, to (1 + gamma) times itself.

    Karras et al. 2022, algorithm 2, gamma = min(churn / N, sqrt(2) - 1) with N levels; the numbers are theirs for
    ImageNet, without the surplus of noise. With a method that looks only at the present, such as Heun.
    """
    if churn < 0:
        raise UserError(f"churn is 0 (none) or more, not {churn}")
    *above, _ = _falling(plan)
    gamma = min(churn / len(above), math.sqrt(2) - 1)
    raised = [[s, s * (1 + gamma)] if s_low <= s <= s_high and gamma > 1e-6 else [s] for s in above]
    return Plan((*itertools.chain(*raised), 0.0))


def restart(plan: Plan, s_low: float = 0.06, s_high: float = 0.3, n: int = 2, times: int = 2) -> Plan:
    """A falling plan that, at its level nearest to `s_low`, goes up to `s_high` and down in n moves, `times` times.

    Xu et al. 2023 (Restart), algorithm 1; the numbers are theirs for CIFAR-10. Coming down is spaced like `karras`. A
    plan without a level clearly below `s_high` stays as it is.
    """
    if not 0 < s_low < s_high < math.inf or n < 1 or times < 0:
        raise UserError(f"a restart goes from s_low up to s_high in n >= 1 moves, not {s_low}, {s_high}, {n}, {times}")
    levels = _falling(plan)
    below = [s for s in levels[:-1] if s < 0.9 * s_high]
    if not below:
        return plan
    low = min(below, key=lambda s: abs(math.log(s / s_low)))
    here = levels.index(low) + 1
    again = [*karras(s_high, low, n + 1).levels[:-1]] * times
    return Plan((*levels[:here], *again, *levels[here:]))


def respaced(num_steps: int, spec: str) -> list[int]:
    """Which of a table's indices 0 ... num_steps - 1 to visit, rising. Nichol and Dhariwal 2021, section 4.

    spec: "N" for N of them, first and last included; "a,b,c" for so many from each of three equal sections, cleanest
    first; "ddimN" for every k-th from 0, for the k that gives N (Song et al. 2021, DDIM).
    """
    try:
        counts = [int(part) for part in spec.removeprefix("ddim").split(",")]
    except ValueError:
        raise UserError(f"respacing is 'N', 'a,b,c' or 'ddimN' with whole numbers, not '{spec}'") from None
    if spec.startswith("ddim"):
        for stride in range(1, num_steps + 1):
            if [len(range(0, num_steps, stride))] == counts:
                return list(range(0, num_steps, stride))
        raise UserError(
            f"no whole stride through {num_steps} steps gives '{spec}'; leave out 'ddim', or try another number"
        )
    sizes = [num_steps // len(counts) + (i < num_steps % len(counts)) for i in range(len(counts))]
    indices = []
    for first, size, count in zip(itertools.accumulate(sizes, initial=0), sizes, counts, strict=False):
        if not 1 <= count <= size:
            raise UserError(f"'{spec}' asks for {count} of a section of {size} steps; it is 1 to {size}")
        indices += [first + round((size - 1) / max(1, count - 1) * i) for i in range(count)]
    return indices


def from_table(schedule: Schedule, num_steps: int, indices: Iterable[int]) -> Plan:
    """The plan through these indices of the table `schedule` (`noise.table`) of a network of `num_steps` steps."""
    t = torch.tensor(sorted(indices, reverse=True), dtype=torch.float64)
    return Plan((*schedule.s((t + 1) / num_steps).tolist(), 0.0))


def _falling(plan: Plan) -> list[float]:
    if any(s_next > s for s, s_next in plan.moves):
        raise UserError("this needs a plan that only falls; build it from one, and jumps come last")
    return list(plan.levels)


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
