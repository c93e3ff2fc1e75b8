"""Samplers against certified flows: stated orders, exact answers, other software's samples.

The mixtures of `vectors/ode` have closed-form denoisers, so a solver's error is its own.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from oracles import error, gaussian, gaussian_video, mixture, problem, problems, walk

from videodiff.noise import NoiseSource
from videodiff.sampling import (
    DEFAULT_PLAN,
    DEFAULT_SAMPLER,
    SAMPLERS,
    FirstOrder,
    Multistep,
    Stepper,
    log_snr,
    make_plan,
    sample,
    sampler,
)

# The order each method states, of rows of `SAMPLERS` and of what else the formulas allow.
NAMED = {
    "ddim": 1,
    "dpm3": 3,
    "dpm4": 3.6,  # 3.65 in the median
    "deis": 3,
    "deis_rho": 3,
    "lms": 4,
    "dpmpp_2m": 2,
    "dpmpp_2m_exact": 2,
    "dpmpp_3m": 2,  # it halves a term that it needs
    "dpmpp_3m_exact": 3,
    "unipc": 3,
    "unipc_3": 3.7,
    "unipc_exact": 3,
    "dpm_2s": 2,
    "dpm_3s": 3,
    "dpmpp_2s": 2,
    "dpmpp_3s": 3,
    "heun": 2,
    "genie": 2,
    "pndm": 1.9,
    "s_pndm": 1.9,
}
ORDERS: dict[str, tuple[Stepper, float]] = {
    **{name: (sampler(name), order) for name, order in NAMED.items()},
    "x0 lam 4": (Multistep(4, "x0"), 4),
    "eps t 4": (Multistep(4, "eps", "t"), 4),
    **{f"{f} {u} {k}": (Multistep(k, f, u), k) for f in ("eps", "x0") for u in ("lam", "s", "t") for k in (1, 2, 3)},
    **{f"x0 {u} {k} + corrector": (Multistep(k, "x0", u, True), k + 1) for u in ("lam", "s", "t") for k in (1, 2)},
    **{f"single {f} {k}": (Multistep(k, f, single=True), k) for f in ("eps", "x0") for k in (2, 3)},
    **{f"2S {f}": (Multistep(2, f, single=True, rule="published"), 2) for f in ("eps", "x0")},
    **{f"3S {f}": (Multistep(3, f, single=True, rule="published"), 3) for f in ("eps", "x0")},
}


def test_every_method_that_follows_the_flow_in_given_steps_has_a_stated_order() -> None:
    same = {"euler": "ddim", "deis_log_rho": "dpm3"}  # two names for one stepper
    assert all(sampler(name) == sampler(other) for name, other in same.items())
    for name, (stepper, _, replan) in SAMPLERS.items():
        plan = replan(log_snr(8, 0.02, 6))
        ends = [list(sample(gaussian, torch.ones(1, 1), plan, stepper, NoiseSource((k,))))[-1].z for k in (0, 1)]
        follows = torch.equal(*ends) and stepper.evaluations(plan) is not None
        assert follows == (name in {**NAMED, **same}), name


@pytest.mark.parametrize("name", [n if n in NAMED else pytest.param(n, marks=pytest.mark.slow) for n in ORDERS])
def test_a_method_converges_with_its_stated_order(ode: Callable, name: str) -> None:
    stepper, order = ORDERS[name]
    data = ode("gmm16")
    denoise = mixture(data)
    z, reference, levels = problem(data, "edm", level=-2)

    def error_with(n: int) -> float:  # n moves down to the last level above 0, not counting the one to 0
        plan = log_snr(levels[0], levels[-2], n + 1)
        return error(walk(denoise, z, plan, stepper, stop=levels[-2]), reference, data["data"])

    slope = math.log(error_with(160) / error_with(640)) / math.log(4)
    assert slope >= order - 0.25, slope


@pytest.mark.parametrize("file", ["gmm2", "gmm16", "gmm_video"])
def test_exact_denoisers_agree_with_the_stored_ones(ode: Callable, file: str) -> None:
    data = ode(file)
    for name in problems(data):
        s, a, x, x0 = (torch.from_numpy(data[f"{name}/{key}"])[:-1] for key in ("s", "alpha", "x", "x0"))
        for level in range(len(s)):
            ours = mixture(data)(x[level] / a[level], s[level].expand(len(x[level])))
            assert (ours - x0[level]).abs().max() < 1e-11 * max(1, s[level]), name


@pytest.mark.parametrize("stepper", [Multistep(3, "eps"), Multistep(2, "x0", corrector=True), Multistep(3, "x0")])
def test_many_steps_give_the_exact_answer(ode: Callable, stepper: Stepper) -> None:
    data = ode("gmm16")
    for name in problems(data):
        z, reference, levels = problem(data, name)
        plan = log_snr(levels[0], 1e-5, 800)
        assert error(walk(mixture(data), z, plan, stepper), reference, data["data"]) < 1e-5, name


@pytest.mark.slow
@pytest.mark.parametrize("stepper", [s for s, order in ORDERS.values() if order >= 2])
@pytest.mark.parametrize("file", ["gmm2", "gmm16"])
def test_three_thousand_steps_of_second_order_suffice(ode: Callable, file: str, stepper: Stepper) -> None:
    data = ode(file)
    for name in problems(data):
        z, reference, levels = problem(data, name, level=-2)
        x = walk(mixture(data), z, log_snr(levels[0], levels[-2], 3000), stepper, stop=levels[-2])
        assert error(x, reference, data["data"]) < 1e-5, name


def test_the_exact_answer_for_mixtures_of_videos(ode: Callable) -> None:
    data = ode("gmm_video")
    for name in problems(data):
        z, reference, levels = problem(data, name)
        x = walk(mixture(data), z, log_snr(levels[0], 1e-5, 300), Multistep(3))
        assert error(x, reference, data["data"]) < 1e-4, name


def test_the_exact_answer_for_a_gaussian_video(ode: Callable) -> None:
    data = ode("gauss_video")
    denoise = gaussian_video(data)
    for name in problems(data):
        z, reference, levels = problem(data, name)
        x = walk(denoise, z, log_snr(levels[0], 1e-5, 200), Multistep(3))
        assert error(x, reference, data["data"]) < 1e-4, name


BAR: dict[str, Stepper] = {
    "first order": FirstOrder(),
    "eps-lam 2": Multistep(2),
    "eps-lam 3": sampler("dpm3"),
    "eps-t 3 (tAB)": sampler("deis"),
    "eps-s 4 (LMS)": sampler("lms"),
    "x0-lam 2": sampler("dpmpp_2m_exact"),
    "x0-lam 2 +C": sampler("unipc_exact"),
    "Taylor (GENIE)": sampler("genie"),
    "Heun": sampler("heun"),
}


@pytest.mark.parametrize("name", BAR)
def test_errors_are_those_of_an_independent_program(ode: Callable, shared: Path, name: str) -> None:
    data, bar = ode("gmm16"), json.loads((shared / "vectors/ode/error_vs_nfe.json").read_text())
    z, reference, levels = problem(data, "linear")
    for walk_name, theirs in {"karras": "karras", "log_snr": "logsnr"}.items():
        for evaluations, expected in bar[f"proto|gmm16|{name} {theirs}"]:
            n = (evaluations + 1) // 2 if name in ("Heun", "Taylor (GENIE)") else evaluations
            if n > 25:
                continue
            plan = make_plan(walk_name, levels[0], levels[-2], n)
            assert BAR[name].evaluations(plan) == evaluations
            ours = error(walk(mixture(data), z, plan, BAR[name]), reference, data["data"])
            assert ours == pytest.approx(expected, rel=0.05), (walk_name, n)


def test_the_default_beats_every_measured_configuration_of_diffusers(ode: Callable, shared: Path) -> None:
    data = ode("gmm16")
    z, reference, levels = problem(data, "linear")
    bar = json.loads((shared / "vectors/ode/error_vs_nfe.json").read_text())
    rows = [dict(row) for who, row in bar.items() if who.startswith("diffusers|gmm16|") and "|EDM " not in who]
    ratios = {}
    for n in (8, 10, 15, 20, 25):
        best = min(row[n] for row in rows if row.get(n) is not None and math.isfinite(row[n]))
        plan = make_plan(DEFAULT_PLAN, levels[0], levels[-2], n)
        ours = error(walk(mixture(data), z, plan, sampler(DEFAULT_SAMPLER)), reference, data["data"])
        ratios[n] = ours / best
    assert sorted(ratios.values())[3] < 1, ratios  # better at four of five,
    assert max(ratios.values()) < 1.5, ratios  # and near at the fifth
