"""The published rules give the samples of the software that made them known, on its own levels."""

import itertools
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from oracles import mixture, walk

from videodiff.sampling import FirstOrder, Heun, Multistep, Plan, Stepper, karras, sampler

# What that software's last step does: answers D; goes on by the formula to 0; or stops at the last level, in x.
STORED: dict[str, tuple[Stepper, str]] = {
    "DDIM trailing": (FirstOrder(), "denoise"),
    "Euler linspace": (FirstOrder(), "denoise"),
    "Heun karras": (Heun(), "denoise"),
    "DPM++ 2M karras": (sampler("dpmpp_2m"), "denoise"),
    "DPM++ 2M lu": (sampler("dpmpp_2m"), "denoise"),
    "UniPC 2 karras": (sampler("unipc"), "denoise"),
    "LMS-4 karras": (sampler("lms"), "formula"),
    "DPM 2M karras": (Multistep(2, rule="published"), "stop"),
    "DEIS 2 karras": (Multistep(2), "stop"),
}


@pytest.mark.parametrize("n", [10, 20, 25])
@pytest.mark.parametrize("name", STORED)
def test_samples_match_those_of_diffusers(ode: Callable, name: str, n: int) -> None:
    stepper, end = STORED[name]
    data, stored = ode("gmm16"), ode("diffusers_samples")
    levels = stored[f"{name}/N{n}/levels"].tolist()
    levels = [s for s, after in zip(levels, [*levels[1:], -1], strict=True) if s != after]  # Heun's are listed twice
    levels = levels if levels[-1] == 0 else [*levels, 0.0]
    stop = {"denoise": 0.0, "formula": 1e-9, "stop": levels[-2]}[end]
    plan = Plan((*levels[:-1], 1e-9, 0.0) if end == "formula" else tuple(levels))
    # They start from x at the level they list, which for some differs in the sixth digit from the schedule's own.
    z = torch.from_numpy(data["linear/x"][0]) * math.sqrt(1 + levels[0] ** 2)
    x = walk(mixture(data), z, plan, stepper, stop) / (math.sqrt(1 + stop**2) if end == "stop" else 1)
    np.testing.assert_allclose(x.numpy(), stored[f"{name}/N{n}/x"], rtol=0, atol=3e-5)


def run(scheduler: Any, data: dict[str, np.ndarray], n: int, moves: int) -> tuple[torch.Tensor, list[float]]:
    """x [16 16] after some moves of one of their schedulers of n steps on the exact denoiser, and its levels."""
    denoise = mixture(data)
    scheduler.set_timesteps(n)
    levels = scheduler.sigmas.double().tolist()
    x = torch.from_numpy(data["linear/x"][0])
    for s, t in itertools.islice(zip(levels, scheduler.timesteps, strict=False), moves):
        z = x * math.sqrt(1 + s**2)
        x = scheduler.step((z - denoise(z, torch.full((len(x),), s))) / s, t, x).prev_sample
    return x, levels


LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
KARRAS, LU = {"use_karras_sigmas": True}, {"use_lu_lambdas": True}


# Their singlestep method of order 3 is not here: in the middle of a group it uses its rule for order 2.
@pytest.mark.parametrize(
    ("scheduler", "options", "ours"),
    [
        ("DPMSolverMultistepScheduler", {"solver_order": 3, **LU}, "dpmpp_3m"),
        ("DPMSolverMultistepScheduler", {"solver_order": 3, **KARRAS}, "dpmpp_3m"),
        ("UniPCMultistepScheduler", {"solver_order": 2, **KARRAS}, "unipc"),
        ("UniPCMultistepScheduler", {"solver_order": 3, **KARRAS}, "unipc_3"),
        ("DPMSolverSinglestepScheduler", {"solver_order": 2, **KARRAS}, "dpmpp_2s"),
    ],
)
def test_published_rules_agree_with_diffusers_run_beside_them(
    ode: Callable, scheduler: str, options: dict, ours: str
) -> None:
    diffusers = pytest.importorskip("diffusers")
    data, n = ode("gmm16"), 18
    theirs, levels = run(getattr(diffusers, scheduler)(**LINEAR, **options), data, n, n - 2)  # they end in lower order
    z, stop = torch.from_numpy(data["linear/x"][0]) * math.sqrt(1 + levels[0] ** 2), levels[n - 2]
    x = walk(mixture(data), z, Plan((*levels[:n], 0.0)), sampler(ours), stop) / math.sqrt(1 + stop**2)
    np.testing.assert_allclose(x.numpy(), theirs.numpy(), rtol=0, atol=3e-5)


@pytest.mark.parametrize("n", [15, 20, 50])
def test_third_order_on_karras_levels_is_finite_where_diffusers_has_nan(ode: Callable, n: int) -> None:
    data = ode("gmm16")
    z = torch.from_numpy(data["linear/x"][0] / data["linear/alpha"][0])
    plan = karras(float(data["linear/s"][0]), 0.01, n)
    assert torch.isfinite(walk(mixture(data), z, plan, Multistep(3))).all()
    diffusers = pytest.importorskip("diffusers")
    made = diffusers.DPMSolverMultistepScheduler(
        **LINEAR, **KARRAS, algorithm_type="dpmsolver", solver_order=3, final_sigmas_type="sigma_min"
    )
    theirs, levels = run(made, data, n, n)
    assert levels[-1] == levels[-2]  # a step of no length,
    assert torch.isnan(theirs).any()  # which a `Plan` refuses
