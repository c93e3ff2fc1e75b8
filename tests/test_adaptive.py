"""Steppers that choose their steps: accuracy for the tolerance, one clip at a time, cancelling, refusals."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import error, gaussian, mixture, problem, problems
from torch import Tensor

from videodiff.denoiser import Cancelled, cancellable, counted
from videodiff.errors import UserError
from videodiff.noise import NoiseSource, spread
from videodiff.sampling import Plan, Step, Stepper, log_snr, sample
from videodiff.sampling.adaptive import DIFFERENCE, RK45, STAGES, TIMES, AdaptiveDPM
from videodiff.sampling.evaluate import Evaluate


def run(denoise: Callable, z: Tensor, plan: Plan, stepper: Stepper) -> Step:
    """The last step."""
    *_, last = sample(denoise, z, plan, stepper, NoiseSource((0,) * len(z)))
    return last


@pytest.mark.parametrize("file", ["gmm2", "gmm16"])
def test_rk45_is_accurate_for_few_evaluations(ode: Callable, file: str) -> None:
    data = ode(file)
    for name in problems(data):
        z, reference, levels = problem(data, name)
        last = run(mixture(data), z, Plan((levels[0], 1e-4, 0.0)), RK45(1e-5, 1e-5))
        assert error(last.z, reference, data["data"]) < 5e-5, name
        assert last.n <= 150, name


@pytest.mark.parametrize("make", [RK45, lambda *t: AdaptiveDPM(2, *t), lambda *t: AdaptiveDPM(3, *t)])
def test_the_error_falls_with_the_tolerance(ode: Callable, make: Callable) -> None:
    data = ode("gmm16")
    z, reference, levels = problem(data, "linear")
    plan = Plan((levels[0], 1e-4, 0.0))
    errors, counts = [], []
    for rtol in (3e-2, 3e-3, 3e-4):
        last = run(mixture(data), z, plan, make(rtol, 0.1 * rtol))
        errors.append(error(last.z, reference, data["data"]))
        counts.append(last.n)
        assert errors[-1] < 3 * rtol, (errors, counts)
    assert errors[0] > 3 * errors[1] > 9 * errors[2], errors
    assert counts == sorted(counts), counts


def test_the_coefficients_are_those_of_an_embedded_pair_of_orders_5_and_4() -> None:
    c = torch.tensor([0.0, *TIMES], dtype=torch.float64)
    for time, row in zip(TIMES, STAGES, strict=True):
        assert sum(row) == pytest.approx(time, rel=1e-14)
    better = torch.tensor([*STAGES[-1], 0.0], dtype=torch.float64)
    worse = better - torch.tensor(DIFFERENCE, dtype=torch.float64)
    for k in range(5):  # quadrature conditions: sum b c^k = 1 / (k + 1)
        assert float(better @ c**k) == pytest.approx(1 / (k + 1), rel=1e-14)
        if k < 4:
            assert float(worse @ c**k) == pytest.approx(1 / (k + 1), rel=1e-14)
    assert abs(float(worse @ c**4) - 1 / 5) > 1e-5


@pytest.mark.parametrize(("order", "stepper"), [(5, RK45()), (2, AdaptiveDPM(2)), (3, AdaptiveDPM(3))])
def test_a_single_step_has_the_order_of_the_pair(order: int, stepper: RK45 | AdaptiveDPM) -> None:
    """Halving the step divides the error of the better answer by 2^(order + 1), and of the worse by 2^order."""

    def denoise(z: Tensor, s: Tensor) -> Tensor:  # two modes
        return 0.8 * torch.tanh(0.8 * z / (0.05 + spread(s, z) ** 2))

    evaluate = Evaluate(denoise)
    z, s = torch.tensor([[0.3]], dtype=torch.float64), 0.6
    here = evaluate(z, torch.tensor([s], dtype=torch.float64))

    def errors(h: float) -> Tensor:
        end = stepper.level(stepper.clock(s) + h)
        exact = next(sample(denoise, z, Plan((s, end, 0.0)), RK45(1e-14 * 250, 1e-14), NoiseSource((0,)))).z
        trial = stepper.attempt(evaluate, here, [stepper.clock(s)], [h])
        return torch.cat([trial.better - exact, trial.worse - exact]).abs()

    slopes = (errors(0.02) / errors(0.01)).log2().flatten()
    assert slopes.tolist() == pytest.approx([order + 1, order], abs=0.3)


@pytest.mark.parametrize("stepper", [RK45(1e-4, 1e-4), AdaptiveDPM(2), AdaptiveDPM(3, 1e-3, 1e-4)])
def test_clips_at_once_are_clips_alone_bit_for_bit(stepper: Stepper) -> None:
    def hard(z: Tensor, s: Tensor) -> Tensor:  # clips of different difficulty
        return torch.tanh(4 * z / (0.02 + spread(s, z) ** 2)) / 2

    plan = Plan((40.0, 3.0, 0.5, 0.01, 0.0))

    def last(*seeds: int) -> Step:
        noise = NoiseSource(seeds)
        *_, step = sample(hard, 40 * noise.draw((3, 7, 5)), plan, stepper, noise)
        return step

    seeds = (1, 22, 3, 4, 55)
    together, alone = last(*seeds), [last(seed) for seed in seeds]
    assert torch.equal(together.z, torch.cat([step.z for step in alone]))
    assert len({step.n for step in alone}) > 1  # they took paths of their own,
    assert together.n >= max(step.n for step in alone)  # and the batch waited


@pytest.mark.parametrize("stepper", [RK45(1e-6, 1e-6), AdaptiveDPM(3, 1e-4, 1e-5)])
def test_a_finer_plan_gives_the_same_clip(stepper: Stepper) -> None:
    z = 80 * NoiseSource((3,)).draw((50,)).double()
    coarse, fine = (run(gaussian, z, plan, stepper) for plan in (Plan((80.0, 0.01, 0.0)), log_snr(80, 0.01, 6)))
    exact = 0.3 + (z - 0.3) * math.sqrt(0.25 / (0.25 + 80**2))
    assert (coarse.z - exact).abs().max() < 2e-3  # the last level alone leaves 2e-4
    assert (coarse.z - fine.z).abs().max() < 1e-4
    assert fine.n < 2 * coarse.n + 30  # the step size is remembered from move to move


def test_steps_report_the_evaluations_and_the_plan_cannot_know_them() -> None:
    counts: list[int] = []
    plan = log_snr(80, 0.01, 4)
    for stepper in (RK45(), AdaptiveDPM()):
        assert stepper.evaluations(plan) is None
        counts.clear()
        steps = list(sample(counted(gaussian, counts.append), torch.ones(1, 4), plan, stepper, NoiseSource((0,))))
        assert [step.s for step in steps] == list(plan.levels[1:])
        assert steps[-1].n == len(counts) > 4


@pytest.mark.parametrize("stepper", [RK45(), AdaptiveDPM(2), AdaptiveDPM(3)])
@pytest.mark.parametrize("after", [1, 3, 4])
def test_cancelling_takes_effect_within_a_step(stepper: Stepper, after: int) -> None:
    counts: list[int] = []
    denoise = cancellable(counted(gaussian, counts.append), lambda: len(counts) >= after)
    with pytest.raises(Cancelled):
        list(sample(denoise, torch.ones(1, 2), Plan((80.0, 0.002, 0.0)), stepper, NoiseSource((0,))))
    assert len(counts) == after


def test_a_tolerance_that_cannot_be_met_is_refused() -> None:
    with pytest.raises(UserError, match="positive"):
        RK45(rtol=0)
    with pytest.raises(UserError, match="positive"):
        AdaptiveDPM(atol=0)
    with pytest.raises(UserError, match="order"):
        AdaptiveDPM(order=4)
    with pytest.raises(UserError, match="float32 can hold"):
        run(gaussian, torch.ones(1, 2), Plan((80.0, 0.01, 0.0)), RK45(1e-9, 1e-9))

    def jumping(z: Tensor, s: Tensor) -> Tensor:
        return torch.sign(spread(s, z) - 1) + 0 * z

    with pytest.raises(UserError, match=r"no step is short enough .* near noise level 1:"):
        run(jumping, torch.ones(1, 2).double(), Plan((80.0, 0.01, 0.0)), RK45(1e-12, 1e-12))


def test_a_field_too_rough_for_its_tolerance_ends_in_a_reason() -> None:
    """Not in hours of ever shorter steps."""

    def rough(z: Tensor, s: Tensor) -> Tensor:
        return torch.sin(1e5 * z)

    with pytest.raises(UserError, match="larger tolerance"):
        list(sample(rough, torch.ones(1, 3), Plan((80.0, 0.02, 0.0)), RK45(1e-5, 1e-5), NoiseSource((0,))))
