"""Walks of levels: what is refused, what is evenly spaced, how many evaluations a walk costs."""

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from oracles import NOISE, gaussian

from videodiff.denoiser import counted
from videodiff.errors import UserError
from videodiff.noise import SCHEDULES, linear, table
from videodiff.sampling import (
    PLANS,
    SAMPLERS,
    FirstOrder,
    Heun,
    Multistep,
    Plan,
    from_level,
    karras,
    log_snr,
    make_plan,
    quadratic_t,
    sample,
    sampler,
    uniform_t,
)


@st.composite
def plans(draw: st.DrawFn) -> Plan:
    """Any walk by name, of 1 to 100 steps, sometimes with jumps up."""
    s_min = draw(st.floats(1e-3, 0.1))
    s_max = draw(st.floats(0.5, 140))
    schedule = SCHEDULES[draw(st.sampled_from(["linear", "cosine", "sigmoid", "flow", "edm"]))]()
    assume(schedule.name != "edm" or s_min >= 0.002)
    plan = make_plan(draw(st.sampled_from(list(PLANS))), s_max, s_min, draw(st.integers(1, 100)), schedule)
    levels = list(plan.levels)
    for place in sorted(draw(st.lists(st.integers(1, len(levels) - 1), max_size=3, unique=True)), reverse=True):
        if levels[place] > 0:
            levels.insert(place + 1, levels[place] * draw(st.floats(1.5, 4)))
            levels.insert(place + 2, levels[place] * 1.1)
    assume(all(abs(a - b) > 1e-5 * a for a, b in itertools.pairwise(levels)))
    return Plan(tuple(levels))


@given(plan=plans(), name=st.sampled_from(list(SAMPLERS)), dtype=st.sampled_from([torch.float32, torch.float64]))
@settings(max_examples=150, deadline=None)
def test_any_plan_with_any_sampler_ends_at_x0_with_the_stated_evaluations(
    plan: Plan, name: str, dtype: torch.dtype
) -> None:
    counts = [0]
    stepper = sampler(name)
    z = plan.levels[0] * NOISE.draw((3,)).to(dtype)
    steps = list(sample(counted(gaussian, counts.append), z, plan, stepper, NOISE))
    assert all(torch.isfinite(step.z).all() and step.z.dtype == dtype for step in steps)
    assert [step.i for step in steps] == list(range(len(plan.levels) - 1))
    assert [step.s for step in steps] == list(plan.levels[1:])
    assert steps[-1].n == counts[-1] == stepper.evaluations(plan)
    assert torch.equal(steps[-1].z, steps[-1].x0)


@pytest.mark.parametrize("name", PLANS)
@pytest.mark.parametrize("n", [1, 2, 3, 10, 50, 1000])
def test_n_steps_are_n_evaluations_between_the_stated_ends(name: str, n: int) -> None:
    plan = make_plan(name, 150.0, 0.01, n, linear())
    assert FirstOrder().evaluations(plan) == Multistep(3).evaluations(plan) == n
    assert Heun().evaluations(plan) == 2 * n - 1
    assert plan.levels[0] == 150.0
    assert plan.levels[-1] == 0
    assert n == 1 or plan.levels[-2] == 0.01


@pytest.mark.parametrize("n", [5, 10, 18, 35])
def test_levels_match_the_stored_ones(ode: Callable, n: int) -> None:
    stored = ode("schedules")
    np.testing.assert_allclose(karras(80, 0.002, n).levels[:-1], stored[f"karras{n}"], rtol=1e-12)
    np.testing.assert_allclose(log_snr(80, 0.002, n).levels[:-1], stored[f"lu{n}"], rtol=1e-12)


def test_walks_in_time_are_even_in_time() -> None:
    for schedule in (linear(), table(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))):
        s = schedule.s(torch.tensor([0.9, 0.1], dtype=torch.float64)).tolist()
        for make, power in ((uniform_t, 1.0), (quadratic_t, 0.5)):
            levels = torch.tensor(make(*s, 9, schedule).levels[:-1], dtype=torch.float64)
            gaps = (schedule.t(-levels.log()) ** power).diff()
            torch.testing.assert_close(gaps, gaps[:1].expand_as(gaps), rtol=1e-6, atol=0)


def test_from_level_keeps_the_lower_part() -> None:
    plan = Plan((8.0, 4.0, 2.0, 1.0, 0.0))
    assert from_level(plan, 3.0).levels == (3.0, 2.0, 1.0, 0.0)
    assert from_level(plan, 2.0).levels == (2.0, 1.0, 0.0)
    assert from_level(plan, 0.5).levels == (0.5, 0.0)
    with pytest.raises(UserError, match="start level"):
        from_level(plan, 9.0)


@pytest.mark.parametrize(
    "levels",
    [
        *[(), (0.0,), (1.0,), (2.0, 1.0), (2.0, 2.0, 0.0), (2.0, 2.0 + 1e-7, 0.0), (2.0, 0.0, 1.0, 0.0)],
        *[(-1.0, 0.0), (math.inf, 1.0, 0.0), (math.nan, 1.0, 0.0), (2.0, math.nan, 0.0)],
    ],
)
def test_a_plan_that_cannot_be_walked_is_refused(levels: tuple[float, ...]) -> None:
    with pytest.raises(UserError):
        Plan(levels)


@pytest.mark.parametrize("bad", [(80, 0.002, 0), (80, 0.0, 5), (1, 2, 5), (math.inf, 1, 5)])
def test_a_walk_that_makes_no_sense_is_refused(bad: tuple[float, float, int]) -> None:
    for name in PLANS:
        with pytest.raises(UserError):
            make_plan(name, *bad, linear())


def test_a_walk_in_time_needs_a_schedule() -> None:
    with pytest.raises(UserError, match="schedule"):
        uniform_t(80, 0.002, 5)


def test_wrong_names_get_the_nearest() -> None:
    with pytest.raises(UserError, match="no sampler 'hun'; did you mean 'heun'\\? see `videodiff list samplers`"):
        sampler("hun")
    with pytest.raises(UserError, match="did you mean 'karras'"):
        make_plan("karas", 80, 0.002, 5)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"order": 5}, "order"),
        ({"order": 2, "target": "v"}, "target"),
        ({"order": 2, "clock": "sigma"}, "clock"),
        ({"order": 2, "eta": 0.5}, "x0"),
        ({"order": 2, "target": "eps", "corrector": True}, "diverges"),
        ({"order": 2, "target": "x0", "corrector": True, "eta": 1.0}, "noise"),
        ({"order": 3, "target": "x0", "rule": "published"}, "order 2"),
        ({"order": 2, "target": "x0", "eta": 1.5}, "eta"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(bad: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Multistep(**bad)
    if "eta" in bad and bad["eta"] > 1:
        with pytest.raises(UserError, match=reason):
            FirstOrder(bad["eta"])
