"""Sampling: plans (which levels), steppers (one move), and the one loop.

    plan = make_plan("log_snr", s_max=80, s_min=0.002, n=10)
    for step in sample(denoise, z, plan, sampler("dpm4"), NoiseSource(seeds)):
        ...
    clip = step.z

To add a sampler is to add a row to `SAMPLERS`, or a stepper and a row.
"""

from collections.abc import Callable
from typing import NamedTuple

from videodiff.noise import pick
from videodiff.sampling.adaptive import RK45, AdaptiveDPM
from videodiff.sampling.evaluate import Before, Evaluate, Node
from videodiff.sampling.inversion import encode, slerp
from videodiff.sampling.langevin import Corrected, Langevin
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
from videodiff.sampling.pndm import PNDM
from videodiff.sampling.steppers import Ancestral, Draw, FirstOrder, Heun, Stepper, Taylor


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
    # One evaluation a level, along the flow. "Exact" is said of the weights of the formula, see `multistep.py`.
    "ddim": Sampler(FirstOrder(), "DDIM, deterministic, first order: forgiving of a small network at 2 to 4 steps"),
    "euler": Sampler(FirstOrder(), "Euler on the probability flow: the same as ddim"),
    "dpm3": Sampler(Multistep(3), "multistep DPM-Solver-3, exact weights: 8 evaluations up"),
    "dpm4": Sampler(Multistep(4), "the same of nominal order 4 (measured 3.6): the default"),
    "deis_log_rho": Sampler(Multistep(3), "log-rho DEIS, order 3: the same as dpm3"),
    "deis": Sampler(Multistep(3, clock="t"), "DEIS (tAB), order 3, in the time of DDPM's linear schedule"),
    "deis_rho": Sampler(Multistep(3, clock="s"), "DEIS (rhoAB), order 3"),
    "lms": Sampler(Multistep(4, clock="s"), "linear multistep, order 4: 20 evaluations up"),
    "dpmpp_2m": Sampler(Multistep(2, "x0", rule="published"), "DPM-Solver++ 2M as published: strong guidance"),
    "dpmpp_2m_exact": Sampler(Multistep(2, "x0"), "DPM-Solver++ 2M with exact weights"),
    "dpmpp_3m": Sampler(Multistep(3, "x0", rule="published"), "DPM-Solver++ 3M as published: in the end second order"),
    "dpmpp_3m_exact": Sampler(Multistep(3, "x0"), "DPM-Solver++ 3M with exact weights: 15 evaluations up"),
    "unipc": Sampler(
        Multistep(2, "x0", corrector=True, rule="published"), "UniPC of order 2 as published (B_2): 10 evaluations up"
    ),
    "unipc_3": Sampler(
        Multistep(3, "x0", corrector=True, rule="published"),
        "UniPC of order 3 as published: nearest with the shipped networks from 8 evaluations up",
    ),
    "unipc_exact": Sampler(Multistep(2, "x0", corrector=True), "UniPC of order 2 with exact weights"),
    "dpm_2s": Sampler(Multistep(2, single=True), "singlestep DPM-Solver-2 with exact weights"),
    "dpm_3s": Sampler(Multistep(3, single=True), "singlestep DPM-Solver-3 with exact weights"),
    "dpmpp_2s": Sampler(Multistep(2, "x0", single=True, rule="published"), "DPM-Solver++ 2S as published"),
    "dpmpp_3s": Sampler(Multistep(3, "x0", single=True, rule="published"), "DPM-Solver++ 3S as published"),
    # More than one evaluation a level, along the flow
    "heun": Sampler(Heun(), "Heun, two evaluations a step: quality runs of 20 steps up"),
    "genie": Sampler(
        Taylor(), "GENIE, second-order Taylor steps with the network's derivative: two evaluations a step"
    ),
    "pndm": Sampler(PNDM(4), "F-PNDM: four evaluations in the first three steps, then one; in the end second order"),
    "s_pndm": Sampler(PNDM(2), "S-PNDM: two evaluations in the first step, then one; second order"),
    # With noise
    "ddpm": Sampler(Ancestral(), "DDPM with its small variance, or what a network learned of it: 50 evaluations up"),
    "ddpm_large": Sampler(Ancestral("large"), "DDPM with its large variance: 50 evaluations up"),
    "euler_ancestral": Sampler(FirstOrder(1.0), "Euler ancestral: DDPM with the small variance"),
    "sde_dpmpp_2m": Sampler(
        Multistep(2, "x0", eta=1.0, rule="published"), "SDE-DPM-Solver++ 2M: stochastic, 20 evaluations up"
    ),
    "sde_dpmpp_3m": Sampler(
        Multistep(3, "x0", eta=1.0, rule="published"), "SDE-DPM-Solver++ 3M: stochastic, 20 evaluations up"
    ),
    "sde_dpmpp_2s": Sampler(
        Multistep(2, "x0", eta=1.0, single=True, rule="published"), "SDE-DPM-Solver++ 2S: stochastic, 20 evaluations up"
    ),
    "edm_churn": Sampler(Heun(), "Heun with EDM's churn, two evaluations a step: noise that repairs errors", churned),
    "restart": Sampler(Heun(), "Heun with restarts at low noise: eight evaluations more than heun", restart),
    "predictor_corrector": Sampler(Corrected(FirstOrder(1.0)), "Euler ancestral, and a Langevin move after each step"),
    "langevin": Sampler(Langevin(30), "annealed Langevin: 30 evaluations a level, for 30 levels up"),
    # As many steps as the tolerance needs; the levels are only where to show how far it is
    "rk45": Sampler(RK45(), "Dormand-Prince 5(4) along the flow to a tolerance of 1e-3: 50 evaluations and more"),
    "dpm_adaptive": Sampler(
        AdaptiveDPM(3), "DPM-Solver-23 along the flow to a tolerance of .05: 40 evaluations and more"
    ),
}
DEFAULT_SAMPLER = "dpm4"
"""Least far behind the best, over exact problems and the shipped networks, at 8 to 25 evaluations (docs/log.md 11)."""


def row(name: str) -> Sampler:
    """The row of that name in `SAMPLERS`."""
    return SAMPLERS[pick("sampler", name, SAMPLERS, see="see `videodiff list samplers`")]


def sampler(name: str) -> Stepper:
    """The stepper of that name in `SAMPLERS`, for a plan that is to be walked as it is."""
    return row(name).stepper


__all__ = [
    "DEFAULT_PLAN",
    "DEFAULT_SAMPLER",
    "PLANS",
    "PNDM",
    "RK45",
    "SAMPLERS",
    "AdaptiveDPM",
    "Ancestral",
    "Before",
    "Corrected",
    "Draw",
    "Evaluate",
    "FirstOrder",
    "Heun",
    "Langevin",
    "Multistep",
    "Node",
    "Noise",
    "Plan",
    "Sampler",
    "Step",
    "Stepper",
    "Taylor",
    "as_planned",
    "churned",
    "encode",
    "from_level",
    "from_table",
    "karras",
    "log_snr",
    "make_plan",
    "quadratic_t",
    "repaint",
    "respaced",
    "restart",
    "row",
    "sample",
    "sampler",
    "slerp",
    "uniform_t",
]
