"""Conditions without training against the exact posteriors of a Gaussian video.

Two figures judge a method: the RMS over wanted pixels of (sample mean - posterior mean) / posterior sd, of which n
samples of a perfect one leave 1 / sqrt(n), and the mean over them of sample variance / posterior variance. The tables
are of a separate implementation with 32 samples (24 for operators); a method may be off the mean by 0.1 sd more, and
its variance ratio may differ by a fifth, or be nearer to 1.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from oracles import gaussian_video
from torch import Tensor

from videodiff.conditioning import pigdm, put_known, reconstruction, replace
from videodiff.noise import NoiseSource
from videodiff.operators import Operator, deblur, denoise, grey, inpaint, space_average, time_average
from videodiff.sampling import FirstOrder, Plan, Stepper, karras, sample
from videodiff.sampling.loop import Step
from videodiff.sampling.plans import repaint
from videodiff.sampling.spectral import Spectral
from videodiff.types import Canvas, Denoise

SHAPE = (6, 3, 8, 8)
SEEDS = NoiseSource(tuple(range(128)))
PLAN = karras(80, 0.01, 100)
ANCESTRAL = FirstOrder(1.0)


@dataclass(frozen=True)
class Problem:
    """What was seen of the truth, and what can be known of the rest; float32."""

    denoise: Denoise
    operator: Operator
    y: Tensor
    mean: Tensor
    var: Tensor
    canvas: Canvas
    sigma_y: float = 0.0

    def judge(self, x: Tensor) -> tuple[float, float]:
        """(mean error in posterior sd, variance ratio) over the wanted pixels of samples x."""
        wanted = ~self.canvas.known[0].expand(SHAPE)
        error = ((x.mean(0) - self.mean) / self.var.sqrt())[wanted]
        return float(error.square().mean().sqrt()), float((x.var(0) / self.var)[wanted].mean())


@pytest.fixture
def problem(ode: Callable[[str], dict[str, np.ndarray]]) -> Callable[[str], Problem]:
    data = ode("gauss_video_conditional")

    def load(key: str) -> Tensor:
        return torch.from_numpy(data[key]).float()

    def make(name: str) -> Problem:
        b = len(SEEDS.seeds)
        if name in MASKS:
            known = torch.from_numpy(data[f"{name}/mask"])[:, :1]
            operator: Operator = inpaint(known)
            y, sigma_y = operator(load("truth")[None]), 0.0
        else:
            known = torch.zeros(6, 1, 8, 8, dtype=torch.bool)
            operator = OPERATORS[name]
            y, sigma_y = load(f"{name}/y")[None], float(data[f"{name}/sigma_y"])
        canvas = Canvas(load("truth").expand(b, *SHAPE), known.expand(b, 6, 1, 8, 8), torch.arange(6).expand(b, 6))
        mean, var = load(f"{name}/post_mean"), load(f"{name}/post_var")
        return Problem(gaussian_video(ode("gauss_video")), operator, y, mean, var, canvas, sigma_y)

    return make


MASKS = ("prediction", "interpolation", "inpaint_box", "backcast", "infill", "inpaint_random")
OPERATORS: dict[str, Operator] = {
    "op_denoise_0.05": denoise(SHAPE),
    "op_denoise_0.2": denoise(SHAPE),
    "op_sr_space2": space_average(SHAPE),
    "op_sr_time2": time_average(SHAPE),
    "op_grey": grey(SHAPE),
    "op_deblur": deblur(SHAPE),
}


# --- Methods ----------------------------------------------------------------------------------------------------------


def walk(problem: Problem, plan: Plan, stepper: Stepper = ANCESTRAL, w: float = 0.0, known: bool = True) -> Step:
    """The end of a run with reconstruction guidance w, and the known region replaced."""
    p = problem
    guided = reconstruction(p.denoise, p.operator, p.y, w) if w else p.denoise
    return end(sample(guided, start(plan), plan, stepper, SEEDS, replace(p.canvas) if known else None))


def by_pigdm(p: Problem) -> Step:
    return end(sample(pigdm(p.denoise, p.operator, p.y, p.sigma_y), start(PLAN), PLAN, ANCESTRAL, SEEDS))


def by_ddrm(p: Problem, n: int) -> Step:
    plan, stepper = karras(80, 0.01, n), Spectral(p.operator, p.y, p.sigma_y)
    z = stepper.start(SEEDS.draw(SHAPE), plan.levels[0])
    return end(sample(p.denoise, z, plan, stepper, SEEDS))


def start(plan: Plan) -> Tensor:
    return plan.levels[0] * SEEDS.draw(SHAPE)


def end(steps: Iterator[Step]) -> Step:
    *_, last = steps
    return last


METHODS: dict[str, Callable[[Problem], Step]] = {
    "replacement": lambda p: walk(p, PLAN),
    "RePaint, 5 times, jump 10": lambda p: walk(p, repaint(PLAN, 10, 5)),
    "RePaint, 10 times, jump 10": lambda p: walk(p, repaint(PLAN, 10, 10)),
    "RePaint, 10 times, jump 1": lambda p: walk(p, repaint(PLAN, 1, 10)),
    "reconstruction 1": lambda p: walk(p, PLAN, w=1),
    "reconstruction 2": lambda p: walk(p, PLAN, w=2),
    "reconstruction 5": lambda p: walk(p, PLAN, w=5),
    "reconstruction 10": lambda p: walk(p, PLAN, w=10),
    "reconstruction 2, deterministic": lambda p: walk(p, PLAN, FirstOrder(0.0), w=2),
    "PiGDM": by_pigdm,
    "DDRM 20": lambda p: by_ddrm(p, 20),
    "DDRM 100": lambda p: by_ddrm(p, 100),
}

# --- Known pixels -----------------------------------------------------------------------------------------------------

# method: evaluations, then (mean error, variance ratio) for prediction, interpolation, inpaint_box.
# These are figures of another implementation with 32 samples. Two cells of the box are missed, and expected to be:
# replacement, with a variance ratio of 2.07 to 2.30, and deterministic reconstruction, with an error of .82 (both exact
# in a run without noise, as all maps are affine). Why is not known.
Figures = tuple[float, float]
BY_MASK: dict[str, tuple[int, Figures, Figures, Figures]] = {
    "replacement": (100, (0.76, 1.44), (0.71, 1.93), (0.89, 2.89)),
    "RePaint, 5 times, jump 10": (460, (0.40, 1.18), (0.27, 1.22), (0.50, 1.53)),
    "RePaint, 10 times, jump 10": (910, (0.35, 1.00), (0.23, 1.15), (0.47, 1.26)),
    "RePaint, 10 times, jump 1": (991, (0.20, 0.90), (0.13, 1.02), (0.24, 1.14)),
    "reconstruction 1": (100, (0.55, 1.16), (0.47, 1.28), (0.76, 1.80)),
    "reconstruction 2": (100, (0.41, 0.99), (0.27, 0.97), (0.61, 1.35)),
    "reconstruction 5": (100, (0.22, 0.74), (0.19, 0.63), (0.33, 0.76)),
    "reconstruction 10": (100, (0.31, 0.57), (0.33, 0.45), (0.39, 0.45)),
    "reconstruction 2, deterministic": (100, (0.53, 1.21), (0.64, 1.62), (0.70, 2.06)),
    "PiGDM": (100, (0.35, 1.04), (0.40, 1.12), (0.55, 1.50)),
    "DDRM 20": (20, (0.75, 1.01), (0.85, 1.36), (1.09, 1.64)),
    "DDRM 100": (100, (0.43, 0.92), (0.34, 1.00), (0.70, 1.34)),
}
MISSED = {("replacement", "inpaint_box"), ("reconstruction 2, deterministic", "inpaint_box")}
QUICK = {("reconstruction 2", "inpaint_box"), ("PiGDM", "interpolation")}
CELLS = [
    pytest.param(
        method,
        mask,
        evaluations,
        cell,
        id=f"{method}-{mask}",
        marks=[
            *([] if method in ("replacement", "DDRM 20") or (method, mask) in QUICK else [pytest.mark.slow]),
            *([pytest.mark.xfail(strict=True, reason="docs/log.md 14")] if (method, mask) in MISSED else []),
        ],
    )
    for method, (evaluations, *cells) in BY_MASK.items()
    for mask, cell in zip(MASKS, cells, strict=False)
]


def check(figures: Figures, expected: Figures) -> None:
    """At most 0.1 sd farther from the posterior mean, and the variance within a fifth."""
    (error, ratio), (error_there, ratio_there) = figures, expected
    assert error <= error_there + 0.1, figures
    assert 0.8 <= ratio / ratio_there <= 1.2, figures


@pytest.mark.parametrize(("method", "mask", "evaluations", "expected"), CELLS)
def test_known_pixels(
    problem: Callable[[str], Problem], method: str, mask: str, evaluations: int, expected: Figures
) -> None:
    p = problem(mask)
    last = METHODS[method](p)
    assert last.n == evaluations
    x = put_known(last.z, p.canvas)
    known = p.canvas.known.expand_as(x)
    assert torch.equal(x[known], p.canvas.frames[known])
    check(p.judge(x), expected)


@pytest.mark.slow
@pytest.mark.parametrize("mask", MASKS[3:])
def test_the_best_methods_serve_any_mask(problem: Callable[[str], Problem], mask: str) -> None:
    p = problem(mask)
    error, ratio = p.judge(METHODS["RePaint, 10 times, jump 1"](p).z)
    assert error < 0.45  # scattered pixels, the hardest, .33
    assert 0.8 < ratio < 1.25
    error_guided, _ = p.judge(METHODS["reconstruction 2"](p).z)
    error_plain, _ = p.judge(METHODS["replacement"](p).z)
    assert error < error_guided < error_plain


# --- Damaged clips ----------------------------------------------------------------------------------------------------

BY_OPERATOR: dict[str, dict[int, Figures]] = {
    "op_denoise_0.05": {20: (0.11, 0.25), 100: (0.20, 0.26)},
    "op_denoise_0.2": {20: (0.19, 0.24), 100: (0.45, 0.17)},
    "op_sr_space2": {20: (0.31, 0.67), 100: (0.23, 0.73)},
    "op_sr_time2": {20: (0.24, 0.64), 100: (0.16, 0.69)},
    "op_grey": {20: (0.14, 0.60), 100: (0.20, 0.75)},
    "op_deblur": {20: (0.39, 0.27), 100: (0.83, 0.24)},
}


@pytest.mark.parametrize("n", [20, pytest.param(100, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", OPERATORS)
def test_damaged_clips_by_ddrm(problem: Callable[[str], Problem], name: str, n: int) -> None:
    p = problem(name)
    last = by_ddrm(p, n)
    assert last.n == n
    check(p.judge(last.z), BY_OPERATOR[name][n])
    residual = (p.y - p.operator(last.z)).square().mean().sqrt()
    assert residual <= 1.05 * p.sigma_y
