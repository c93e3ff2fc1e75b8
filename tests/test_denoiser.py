"""Whatever a network outputs, the wrapper gives back the same x0; time labels and wrappers do what they say."""

from pathlib import Path

import numpy as np
import pytest
import torch

from videodiff.denoiser import (
    OUTPUTS,
    Cancelled,
    LearnedVariance,
    cancellable,
    clamped,
    coefficients,
    counted,
    denoiser,
    edm_time,
    flow_time,
    scaled,
    split_variance,
    table_time,
)
from videodiff.errors import UserError
from videodiff.noise import FAMILIES, NoiseSource, alpha, spread, table
from videodiff.sampling import Multistep, log_snr, sample


def no_time(s: torch.Tensor) -> torch.Tensor:
    return s


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("file", ["gmm2", "gmm16", "gmm_video"])
def test_stored_outputs_give_the_stored_x0(shared: Path, file: str, dtype: torch.dtype) -> None:
    data = np.load(shared / f"vectors/ode/{file}.npz")
    for problem in [key.removesuffix("/x") for key in data if key.endswith("/x")]:
        s, a, x, x0, eps, v, score = (
            torch.from_numpy(data[f"{problem}/{key}"])[:-1].to(dtype)  # the last level is clean: nothing to predict
            for key in ("s", "alpha", "x", "x0", "eps", "v", "score")
        )
        family = next(name for name in FAMILIES if torch.allclose(alpha(s, name), a, rtol=1e-5))
        answers = {"eps": eps, "v": v, "score": score, "x0": x0}
        if family == "flow":
            answers["flow"] = eps - x0
        for output, answer in answers.items():
            denoise = denoiser(lambda _, __, answer=answer: answer, output, no_time, family=family)
            error = (denoise(x / spread(a, x), s) - x0).abs() / spread(s.clamp(min=1), x)
            assert error.max() < (1e-11 if dtype == torch.float64 else 1e-4), (problem, output)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("output", OUTPUTS)
def test_the_network_sees_the_native_state(output: str, family: str) -> None:
    s = torch.logspace(-2, 2, 5, dtype=torch.float64)
    z = torch.randn(5, 3, 2, 4, 4, dtype=torch.float64)
    seen = []
    denoiser(lambda x, _: seen.append(x) or x, output, no_time, family=family)(z, s)  # type: ignore[func-returns-value]
    scale = {"edm": (s * s + 0.25).rsqrt(), "flow": 1 / (1 + s)}.get(output, alpha(s, family))
    torch.testing.assert_close(seen[0], spread(scale, z) * z)


def test_edm_coefficients_match_the_stored_ones(shared: Path) -> None:
    stored = np.load(shared / "vectors/ode/schedules.npz")
    s = torch.from_numpy(stored["edm_precond/s"])
    for sd in (0.5, 1.0):
        rows = stored[f"edm_precond_sd{sd}"]
        ours = [*coefficients("edm", s, "ve", sd), edm_time(s)]
        for row, value in zip(rows, ours, strict=False):
            np.testing.assert_allclose(value.numpy(), row, rtol=1e-12, atol=1e-14)


def test_v_is_edm_with_unit_spread_and_the_sign_turned() -> None:
    s = torch.logspace(-3, 3, 20, dtype=torch.float64)
    v, edm = coefficients("v", s), coefficients("edm", s, sd=1.0)
    torch.testing.assert_close(v.c_skip, edm.c_skip)
    torch.testing.assert_close(v.c_out, -edm.c_out)
    torch.testing.assert_close(v.c_in, edm.c_in)


@pytest.mark.parametrize("output", OUTPUTS)
def test_levels_per_clip_and_per_frame_agree(output: str) -> None:
    z, s = torch.randn(2, 3, 1, 4, 4), torch.tensor([0.3, 7.0])
    denoise = denoiser(lambda x, time: torch.tanh(x + spread(time, x)), output, flow_time)
    torch.testing.assert_close(denoise(z, s), denoise(z, s[:, None].expand(2, 3)), rtol=1e-6, atol=1e-6)


def test_a_clean_frame_comes_back_as_it_is() -> None:
    z = torch.randn(1, 2, 1, 4, 4)
    for output in ("eps", "v", "edm", "flow"):
        denoise = denoiser(lambda x, time: torch.ones_like(x), output, edm_time)
        assert torch.equal(denoise(z, torch.zeros(1, 2)), z), output


def test_a_base_and_a_spread_per_pixel_move_the_guess() -> None:
    z = torch.randn(2, 3, 1, 4, 4, dtype=torch.float64)
    base, sd = torch.rand(2, 3, 1, 4, 4), torch.rand(2, 3, 1, 4, 4) + 0.1
    denoise = denoiser(lambda x, time: torch.zeros_like(x), "edm", edm_time, base=base, sd=sd)
    s = torch.tensor([0.5, 30.0], dtype=torch.float64)
    # A network that answers 0 leaves the best linear guess for data N(base, sd^2).
    expected = base + sd**2 / (sd**2 + spread(s, z) ** 2) * (z - base)
    torch.testing.assert_close(denoise(z, s), expected)


def test_learned_variance_is_split_off() -> None:
    z = torch.randn(1, 2, 3, 4, 4)

    def network(x: torch.Tensor, time: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, 99 * torch.ones_like(x)], dim=-3)

    plain = denoiser(lambda x, time: x, "eps", no_time)
    latest = LearnedVariance()
    both = denoiser(network, "eps", no_time, learned_variance=latest)
    assert torch.equal(both(z, torch.ones(1)), plain(z, torch.ones(1)))
    assert (split_variance(network(z, z))[1] == 99).all()
    assert (latest() == 50).all()


def test_the_table_time_is_the_index() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    schedule = table(betas)
    s = schedule.s(torch.arange(1, 1001, dtype=torch.float64) / 1000)
    whole = torch.arange(1000, dtype=torch.float32)
    torch.testing.assert_close(table_time(schedule, 1000)(s.float()), whole, rtol=0, atol=2e-3)
    assert torch.equal(table_time(schedule, 1000, rounded=True)(s.float()), whole)
    between = table_time(schedule, 1000)((s[100] * s[101]).sqrt()[None])
    assert between.item() == pytest.approx(100.5, abs=1e-6)
    assert table_time(schedule, 1000)(torch.tensor([0.0, 1e9])).tolist() == [0, 999]


def test_half_precision_stays_inside_the_network() -> None:
    denoise = denoiser(lambda x, time: x.bfloat16(), "v", edm_time)
    assert denoise(torch.randn(1, 2, 1, 4, 4), torch.ones(1)).dtype == torch.float32


def test_unknown_outputs_are_named() -> None:
    with pytest.raises(UserError, match="did you mean 'eps'"):
        denoiser(lambda x, time: x, "epss", no_time)


@pytest.mark.parametrize("per_frame", [False, True])
def test_one_walk_of_numbers_serves_clips_and_frames_with_levels_of_their_own(per_frame: bool) -> None:
    unit = (
        torch.tensor([[0.1, 1.0, 7.0], [0.5, 2.0, 0.02]]).double() if per_frame else torch.tensor([0.1, 3.0]).double()
    )
    variance = torch.rand(2, 3, 1, 2, 2, dtype=torch.float64) + 0.1  # frames are independent: each has its own flow

    def denoise(z: torch.Tensor, s: torch.Tensor) -> torch.Tensor:
        return variance / (variance + spread(s, z) ** 2) * z

    z, plan = 5 * torch.randn(2, 3, 1, 2, 2, dtype=torch.float64), log_snr(5.0, 0.01, 200)
    *_, step, _ = sample(scaled(denoise, unit), z, plan, Multistep(3), NoiseSource((0, 1)))
    first, last = (spread(unit, z) * s for s in (plan.levels[0], plan.levels[-2]))
    exact = spread(unit, z) * z * ((variance + last**2) / (variance + first**2)).sqrt()
    torch.testing.assert_close(spread(unit, z) * step.z, exact, rtol=1e-4, atol=0)


def test_scaled_takes_levels_per_clip_and_per_frame() -> None:
    z, seen = torch.randn(2, 3, 1, 2, 2), []
    for unit in (torch.tensor([2.0, 3.0]), torch.tensor([[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]])):
        for s in (torch.ones(2), torch.ones(2, 3)):
            denoise = scaled(lambda z, s: seen.append(s) or z, unit)  # type: ignore[func-returns-value]
            torch.testing.assert_close(denoise(z, s), z)
            assert (seen[-1] == spread(torch.tensor([2.0, 3.0]), seen[-1])).all()


def test_clamped_keeps_the_range() -> None:
    x0 = clamped(lambda z, s: z)(torch.tensor([-3.0, 0.5, 2.0]), torch.ones(1))
    assert x0.tolist() == [-1, 0.5, 1]


def test_counted_reports_every_evaluation_and_cancellable_stops_the_next() -> None:
    reports: list[int] = []
    denoise = cancellable(counted(lambda z, s: z, reports.append), lambda: len(reports) >= 2)
    z, s = torch.zeros(1), torch.ones(1)
    denoise(z, s)
    denoise(z, s)
    with pytest.raises(Cancelled):
        denoise(z, s)
    assert reports == [1, 2]
