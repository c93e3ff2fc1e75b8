"""Any sampler on any walk, with a network of any precision: finite, ends at x0, and costs what it said."""

import itertools
from collections.abc import Callable

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import NOISE, gaussian
from torch import Tensor

from videodiff.denoiser import counted
from videodiff.noise import SCHEDULES, Schedule, table
from videodiff.sampling import (
    DEFAULT_PLAN,
    DEFAULT_SAMPLER,
    PLANS,
    SAMPLERS,
    Plan,
    churned,
    from_level,
    from_table,
    make_plan,
    repaint,
    respaced,
    restart,
    row,
    sample,
)
from videodiff.settings import Sampling

TABLE = table(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
WALKS: dict[str, Callable[[float, float, int, Schedule], Plan]] = {
    **PLANS,
    "respaced": lambda s_max, s_min, n, schedule: from_table(TABLE, 1000, respaced(1000, str(n))),
    "from_level": lambda s_max, s_min, n, schedule: from_level(make_plan("karras", s_max, s_min, n), s_max / 3),
    "churned": lambda s_max, s_min, n, schedule: churned(make_plan("log_snr", s_max, s_min, n)),
    "repaint": lambda s_max, s_min, n, schedule: repaint(make_plan("log_snr", s_max, s_min, n), 1 + n // 4, 3),
    "restart": lambda s_max, s_min, n, schedule: restart(make_plan("karras", s_max, s_min, n)),
}


def check(plan: Plan, name: str, state: torch.dtype, network: torch.dtype) -> None:
    counts = [0]
    chosen = row(name)
    if all(s_next < s for s, s_next in plan.moves):  # churn and restart come last, on a walk that falls
        plan = chosen.replan(plan)

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        return gaussian(z.to(network), s.to(network)).to(z.dtype)

    z = plan.levels[0] * NOISE.draw((3,)).to(state)
    steps = list(sample(counted(denoise, counts.append), z, plan, chosen.stepper, NOISE))
    assert all(torch.isfinite(step.z).all() and step.z.dtype == state for step in steps)
    assert [step.i for step in steps] == list(range(len(plan.levels) - 1))
    assert [step.s for step in steps] == list(plan.levels[1:])
    assert steps[-1].n == counts[-1]
    assert chosen.stepper.evaluations(plan) in (counts[-1], None)
    assert torch.equal(steps[-1].z, steps[-1].x0)


@pytest.mark.parametrize("walk", WALKS)
@pytest.mark.parametrize("name", SAMPLERS)
def test_every_sampler_on_every_walk(name: str, walk: str) -> None:
    for n in (1, 2, 5, 16):
        check(WALKS[walk](80.0, 0.002, n, SCHEDULES["cosine"]()), name, torch.float32, torch.bfloat16)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any walk by name, of 1 to 100 steps, sometimes with jumps up."""
    s_min = draw(st.floats(1e-3, 0.1))
    s_max = draw(st.floats(0.5, 140))
    schedule = SCHEDULES[draw(st.sampled_from(["linear", "cosine", "sigmoid", "flow", "edm"]))]()
    assume(schedule.name != "edm" or s_min >= 0.002)
    plan = WALKS[draw(st.sampled_from(list(WALKS)))](s_max, s_min, draw(st.integers(1, 100)), schedule)
    levels = list(plan.levels)
    for place in sorted(draw(st.lists(st.integers(1, len(levels) - 1), max_size=3, unique=True)), reverse=True):
        if levels[place] > 0:
            levels.insert(place + 1, levels[place] * draw(st.floats(1.5, 4)))
            levels.insert(place + 2, levels[place] * 1.1)
    assume(all(abs(a - b) > 1e-5 * a for a, b in itertools.pairwise(levels)))
    return Plan(tuple(levels))


@given(
    plan=plans(),
    name=st.sampled_from(list(SAMPLERS)),
    state=st.sampled_from([torch.float32, torch.float64]),
    network=st.sampled_from([torch.float32, torch.bfloat16]),
)
@settings(max_examples=100, deadline=None)
def test_any_plan_with_any_sampler(plan: Plan, name: str, state: torch.dtype, network: torch.dtype) -> None:
    check(plan, name, state, network)


def test_requests_sample_as_the_library_does_by_default() -> None:
    assert (Sampling().sampler, Sampling().walk) == (DEFAULT_SAMPLER, DEFAULT_PLAN)
