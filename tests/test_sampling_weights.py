"""The weights of the multistep formula: exact integrals, published rules, and what does not exist."""

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from oracles import NOISE, gaussian, walk
from scipy.integrate import quad

from videodiff.errors import UserError
from videodiff.noise import linear
from videodiff.sampling import PNDM, Ancestral, FirstOrder, Multistep, Plan, log_snr, sample, sampler


@pytest.mark.parametrize("order", [1, 2, 3, 4])
def test_weights_integrate_polynomials_exactly(order: int) -> None:
    levels, r = [9.0, 5.0, 3.0, 2.0][-order:], 0.01
    nodes, s = np.array(levels), 2.0
    for k in range(order):
        eps_s = np.dot(Multistep(order, "eps", "s").weights(levels, s, r), nodes**k)
        assert eps_s == pytest.approx((r ** (k + 1) - s ** (k + 1)) / (k + 1), rel=1e-11)
    eps_lam = Multistep(order, "eps", "lam").weights(levels, s, r)
    x0_lam = Multistep(order, "x0", "lam").weights(levels, s, r)
    assert sum(eps_lam) == pytest.approx(r - s, rel=1e-11)
    assert sum(x0_lam) == pytest.approx(1 - r / s, rel=1e-11)
    if order > 1:  # Int log(q) dq = q log q - q, and Int (r / q^2) log(q) dq = -(r / q) (log q + 1)
        assert np.dot(eps_lam, np.log(nodes)) == pytest.approx(r * math.log(r) - r - (s * math.log(s) - s), rel=1e-11)
        expected = (math.log(r) + 1) - r / s * (math.log(s) + 1)
        assert np.dot(x0_lam, np.log(nodes)) == pytest.approx(expected, rel=1e-11)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("start", [0, 5, 30])
def test_tab_weights_equal_numeric_quadrature_in_time(order: int, start: int) -> None:
    # Zhang and Chen 2023, equation 15, for the variance-preserving linear schedule: in x the weight of a node is
    # Int Psi(t_next, tau) beta(tau) / (2 sigma(tau)) L_j(tau) dtau; here done in t, by another integrator.
    schedule = linear()
    t = np.linspace(1, 1e-3, 40)[start : start + order + 1]
    beta_min, beta_max = 0.1, 20.0

    def alpha(tau: float) -> float:
        return math.exp(-(beta_min * tau + (beta_max - beta_min) * tau**2 / 2) / 2)

    def lagrange(j: int, tau: float) -> float:
        return math.prod((tau - t[i]) / (t[j] - t[i]) for i in range(order) if i != j)

    def integrand(tau: float, j: int) -> float:
        beta = beta_min + (beta_max - beta_min) * tau
        return alpha(t[-1]) / alpha(tau) * beta / (2 * math.sqrt(1 - alpha(tau) ** 2)) * lagrange(j, tau)

    expected = [quad(integrand, t[-2], t[-1], args=(j,), epsabs=1e-13, epsrel=1e-13)[0] for j in range(order)]
    levels = schedule.s(torch.from_numpy(t)).tolist()
    ours = np.array(Multistep(order, "eps", "t").weights(levels[:-1], levels[-2], levels[-1])) * alpha(t[-1])
    np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=1e-11)


def test_dpm_solver_3_is_the_published_formula() -> None:
    # Lu et al. 2022 (DPM-Solver), algorithm 2 with r1 = 1/3 and r2 = 2/3, in z: sigma / alpha is s, x / alpha is z.
    z, s0, h = torch.tensor([[2.0]], dtype=torch.float64), 5.0, 0.8

    def eps(z: torch.Tensor, s: float) -> torch.Tensor:
        return (z - gaussian(z, torch.tensor([s], dtype=torch.float64))) / s

    s1, s2, s3 = (s0 * math.exp(-h * part) for part in (1 / 3, 2 / 3, 1))
    e0 = eps(z, s0)
    u1 = z - s1 * math.expm1(h / 3) * e0
    d1 = eps(u1, s1) - e0
    u2 = z - s2 * math.expm1(2 * h / 3) * e0 - s2 * 2 * (math.expm1(2 * h / 3) / (2 * h / 3) - 1) * d1
    d2 = eps(u2, s2) - e0
    expected = z - s3 * math.expm1(h) * e0 - s3 * 1.5 * (math.expm1(h) / h - 1) * d2
    ours = walk(gaussian, z, Plan((s0, s1, s2, s3, 0.0)), Multistep(3, single=True, rule="published"), s3)
    torch.testing.assert_close(ours, expected, rtol=1e-12, atol=0)


@pytest.mark.parametrize("order", [1, 2, 3, 4])
@pytest.mark.parametrize("n", range(1, 12))
def test_singlestep_takes_one_evaluation_a_level_whatever_their_number(order: int, n: int) -> None:
    z, plan = 5 * NOISE.draw((2,)).double(), log_snr(5, 0.1, n)
    *_, last = sample(gaussian, z, plan, Multistep(order, single=True), NOISE)
    assert last.n == Multistep(order, single=True).evaluations(plan) == n
    # A group is a walk of its own: whole groups first, then the rest.
    done = (n - 1) // order * order
    if done:
        middle = walk(gaussian, z, plan, Multistep(order, single=True), plan.levels[done])
        rest = walk(gaussian, middle, Plan(plan.levels[done:]), Multistep(order, single=True))
        torch.testing.assert_close(last.z, rest, rtol=1e-12, atol=1e-14)


def test_names_for_the_same_thing_give_the_same_samples() -> None:
    z, plan = 80 * NOISE.draw((2, 3)).double(), log_snr(80, 0.002, 12)
    for eta in (0.0, 1.0):
        for single in (False, True):
            torch.testing.assert_close(
                walk(gaussian, z, plan, FirstOrder(eta)),
                walk(gaussian, z, plan, Multistep(1, "x0", eta=eta, single=single)),
            )
    for clock in ("lam", "s", "t"):
        torch.testing.assert_close(
            walk(gaussian, z, plan, FirstOrder()), walk(gaussian, z, plan, Multistep(1, "eps", clock))
        )
    torch.testing.assert_close(walk(gaussian, z, plan, FirstOrder(1.0)), walk(gaussian, z, plan, Ancestral("small")))


@given(s=st.floats(0.01, 100), ratio=st.floats(0.1, 0.9))
@settings(max_examples=30, deadline=None)
def test_the_published_2m_extrapolates_by_a_first_difference(s: float, ratio: float) -> None:
    # Lu et al. 2022 (DPM-Solver++), algorithm 2: x0 + h / (2 h_prev) (x0 - x0_prev), held over the step.
    before, r = 2 * s, s * ratio
    half = math.log(s / r) / math.log(before / s) / 2
    whole = 1 - r / s
    weights = sampler("dpmpp_2m").weights([before, s], s, r)  # type: ignore[attr-defined]
    assert weights == pytest.approx([-half * whole, (1 + half) * whole], rel=1e-10)


@pytest.mark.parametrize(
    ("bad", "reason"),
    [
        ({"order": 5}, "order"),
        ({"order": 2, "target": "v"}, "target"),
        ({"order": 2, "clock": "sigma"}, "clock"),
        ({"order": 2, "eta": 0.5}, "x0"),
        ({"order": 2, "target": "eps", "corrector": True}, "diverges"),
        ({"order": 2, "target": "x0", "corrector": True, "eta": 1.0}, "noise"),
        ({"order": 2, "target": "x0", "corrector": True, "single": True}, "singlestep"),
        ({"order": 4, "target": "x0", "rule": "published"}, "order 2 and 3"),
        ({"order": 2, "clock": "s", "rule": "published"}, "clock 'lam'"),
        ({"order": 2, "target": "x0", "eta": 1.5}, "eta"),
    ],
)
def test_combinations_that_do_not_exist_are_refused(bad: dict, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        Multistep(**bad)


@pytest.mark.parametrize(
    "bad", [lambda: FirstOrder(1.5), lambda: PNDM(3), lambda: Ancestral("medium"), lambda: Ancestral(family="vpp")]
)
def test_steppers_that_do_not_exist_are_refused(bad: Callable) -> None:
    with pytest.raises(UserError):
        bad()
