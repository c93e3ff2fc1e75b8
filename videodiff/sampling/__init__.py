"""Sampling: plans (which levels), steppers (one move), and the one loop.

    plan = make_plan("log_snr", s_max=80, s_min=0.002, n=10)
    for step in sample(denoise, z, plan, sampler("dpm3"), NoiseSource(seeds)):
        ...
    clip = step.z

To add a sampler is to add a row to `SAMPLERS`, or a stepper and a row.
"""

from collections.abc import Callable
from typing import NamedTuple

from videodiff.noise import pick
from videodiff.sampling.evaluate import Before, Evaluate, Node
from videodiff.sampling.loop import Noise, Step, sample
from videodiff.sampling.multistep import Multistep
from videodiff.sampling.plans import (
    DEFAULT_PLAN,
    PLANS,
    Plan,
    churned,
    from_level,
    from_table,
    karras,
    log_snr,
    make_plan,
    quadratic_t,
    repaint,
    respaced,
    restart,
    uniform_t,
)
from videodiff.sampling.steppers import Draw, FirstOrder, Heun, Stepper


def as_planned(plan: Plan) -> Plan:
    """The plan as it is: most samplers walk the levels they are given."""
    return plan


class Sampler(NamedTuple):
    """A stepper a user can choose by name, with the line that helps to choose it.

    `replan` is what the sampler makes of the walk of levels: churn and restart add moves up, the others nothing.
    """

    stepper: Stepper
    help: str
    replan: Callable[[Plan], Plan] = as_planned


SAMPLERS: dict[str, Sampler] = {
    "dpm3": Sampler(
        Multistep(3, "eps", "lam"), "multistep DPM-Solver-3, exact weights: the most accurate, 8 evaluations up"
    ),
    "unipc": Sampler(Multistep(2, "x0", "lam", corrector=True), "UniPC-like, order 2 + corrector: 10 evaluations up"),
    "dpmpp_2m": Sampler(Multistep(2, "x0", "lam", rule="published"), "DPM-Solver++ 2M as published: strong guidance"),
    "dpmpp_2m_exact": Sampler(Multistep(2, "x0", "lam"), "DPM-Solver++ 2M with exact weights"),
    "dpmpp_3m": Sampler(Multistep(3, "x0", "lam"), "DPM-Solver++ 3M with exact weights: 15 evaluations up"),
    "deis": Sampler(Multistep(3, "eps", "t"), "DEIS (tAB), order 3"),
    "lms": Sampler(Multistep(4, "eps", "s"), "linear multistep, order 4: 20 evaluations up"),
    "ddim": Sampler(
        FirstOrder(0.0), "DDIM, deterministic, first order: the default, most forgiving of a small network"
    ),
    "euler": Sampler(FirstOrder(0.0), "Euler on the probability flow: the same as ddim"),
    "heun": Sampler(Heun(), "Heun, two evaluations a step: quality runs of 20 steps up"),
    "ddpm": Sampler(FirstOrder(1.0), "DDPM ancestral sampling, small variance: 50 evaluations up"),
    "euler_ancestral": Sampler(FirstOrder(1.0), "Euler ancestral: the same as ddpm"),
    "sde_dpmpp_2m": Sampler(
        Multistep(2, "x0", "lam", eta=1.0, rule="published"), "SDE-DPM-Solver++ 2M: stochastic, 20 evaluations up"
    ),
}
MOST_ACCURATE = "dpm3"
"""The best of them for an exact network (docs/method.md); a small one does better with `ddim` (docs/log.md)."""


def sampler(name: str) -> Stepper:
    """The stepper of that name in `SAMPLERS`."""
    return SAMPLERS[pick("sampler", name, SAMPLERS, see="see `videodiff list samplers`")].stepper


__all__ = [
    "DEFAULT_PLAN",
    "MOST_ACCURATE",
    "PLANS",
    "SAMPLERS",
    "Before",
    "Draw",
    "Evaluate",
    "FirstOrder",
    "Heun",
    "Multistep",
    "Node",
    "Noise",
    "Plan",
    "Sampler",
    "Step",
    "Stepper",
    "as_planned",
    "churned",
    "from_level",
    "from_table",
    "karras",
    "log_snr",
    "make_plan",
    "quadratic_t",
    "repaint",
    "respaced",
    "restart",
    "sample",
    "sampler",
    "uniform_t",
]
