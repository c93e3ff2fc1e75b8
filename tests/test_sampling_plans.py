"""Walks of levels: what is refused, what is evenly spaced, how many evaluations a walk costs."""

import math
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from videodiff.errors import UserError
from videodiff.noise import linear, table
from videodiff.sampling import (
    PLANS,
    FirstOrder,
    Heun,
    Multistep,
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
    sampler,
    uniform_t,
)


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


@pytest.mark.parametrize(("jump", "times", "evaluations"), [(1, 10, 991), (10, 10, 910), (10, 5, 460), (7, 1, 100)])
def test_repaint_walks_every_block_again_and_again(jump: int, times: int, evaluations: int) -> None:
    plan = karras(80, 0.01, 100)
    walk = repaint(plan, jump, times)
    assert len(walk.down_moves()) == evaluations
    visits = Counter(walk.down_moves())
    whole = 99 // jump * jump
    assert [visits[move] for move in plan.moves] == [times] * whole + [1] * (100 - whole)
    ups = [(s, r) for s, r in walk.moves if r > s]
    assert all(plan.levels.index(s) - plan.levels.index(r) == jump for s, r in ups)


def test_repaint_of_a_few_levels() -> None:
    plan = Plan((8.0, 4.0, 2.0, 1.0, 0.0))
    assert repaint(plan, 1, 2).levels == (8.0, 4.0, 8.0, 4.0, 2.0, 4.0, 2.0, 1.0, 2.0, 1.0, 0.0)
    assert repaint(plan, 2, 2).levels == (8.0, 4.0, 2.0, 8.0, 4.0, 2.0, 1.0, 0.0)
    assert repaint(plan, 9, 5) == repaint(plan, 2, 1) == plan


def test_churn_raises_the_levels_in_its_interval() -> None:
    plan = Plan((80.0, 8.0, 1.0, 0.01, 0.0))
    assert churned(plan, 0.4).levels == pytest.approx((80, 8, 8.8, 1, 1.1, 0.01, 0))
    assert churned(plan, 1e9).levels == pytest.approx((80, 8, 8 * math.sqrt(2), 1, math.sqrt(2), 0.01, 0))
    assert churned(plan, 0) == plan
    assert Heun().evaluations(churned(plan)) == Heun().evaluations(plan) == 7


def test_restart_goes_back_up_from_the_level_nearest() -> None:
    plan = Plan((8.0, 1.0, 0.07, 0.01, 0.0))
    middle = karras(0.3, 0.07, 3).levels[1]
    assert restart(plan).levels == (8.0, 1.0, 0.07, 0.3, middle, 0.07, 0.3, middle, 0.07, 0.01, 0.0)
    assert restart(plan, times=0) == plan
    assert restart(Plan((8.0, 1.0, 0.0))) == Plan((8.0, 1.0, 0.0))
    eighteen = karras(80, 0.002, 18)
    assert Heun().evaluations(restart(eighteen)) == 43  # Xu et al. 2023, table 3


def test_respacing_takes_the_indices_of_improved_ddpm() -> None:
    assert respaced(1000, "4") == [0, 333, 666, 999]
    assert respaced(300, "10,15,20")[:11] == [0, 11, 22, 33, 44, 55, 66, 77, 88, 99, 100]
    assert respaced(300, "10,15,20")[-1] == 299
    assert respaced(1000, "ddim50") == list(range(0, 1000, 20))
    assert respaced(10, "3,2") == [0, 2, 4, 5, 9]
    assert respaced(7, "1") == [0]
    assert respaced(12, "12") == respaced(12, "6,6") == list(range(12))


@given(num_steps=st.integers(1, 1000), counts=st.lists(st.integers(1, 50), min_size=1, max_size=5))
@settings(max_examples=100, deadline=None)
def test_respacing_gives_as_many_as_asked_each_in_its_section(num_steps: int, counts: list[int]) -> None:
    sizes = [num_steps // len(counts) + (i < num_steps % len(counts)) for i in range(len(counts))]
    spec = ",".join(map(str, counts))
    if any(count > size for count, size in zip(counts, sizes, strict=True)):
        with pytest.raises(UserError, match="section"):
            respaced(num_steps, spec)
        return
    indices = respaced(num_steps, spec)
    assert indices == sorted(set(indices))
    for i, count in enumerate(counts):
        first = sum(sizes[:i])
        assert sum(first <= index < first + sizes[i] for index in indices) == count
        assert first in indices


@pytest.mark.parametrize("spec", ["", "ten", "3,,4", "ddim", "ddim999", "0", "1001", "ddim3,4", "-5"])
def test_respacing_that_cannot_be_is_refused(spec: str) -> None:
    with pytest.raises(UserError, match=r"respacing|stride|section"):
        respaced(1000, spec)


def test_a_plan_through_a_table_has_the_levels_of_its_indices() -> None:
    schedule = table(torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64))
    plan = from_table(schedule, 1000, respaced(1000, "ddim8"))
    s = schedule.s(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    assert plan.levels == pytest.approx([*(float(s[i]) for i in range(875, -1, -125)), 0])


def test_jumps_are_put_on_walks_that_fall() -> None:
    zigzag = Plan((8.0, 4.0, 6.0, 1.0, 0.0))
    for change in (lambda p: from_level(p, 3.0), repaint, churned, restart):
        with pytest.raises(UserError, match="only falls"):
            change(zigzag)


@pytest.mark.parametrize(
    "bad",
    [lambda p: repaint(p, 0, 2), lambda p: repaint(p, 1, 0), lambda p: churned(p, -1.0),
     lambda p: restart(p, 0.5, 0.3), lambda p: restart(p, n=0), lambda p: restart(p, times=-1)],
)  # fmt: skip
def test_jumps_that_make_no_sense_are_refused(bad: Callable[[Plan], Plan]) -> None:
    with pytest.raises(UserError):
        bad(log_snr(80, 0.002, 10))


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
