"""Langevin moves: closed forms on a Gaussian, weights of a mixture's parts, what the corrector is worth."""

import math
from collections.abc import Callable, Sequence

import pytest
import torch
from oracles import NOISE, gaussian, mixture
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import NoiseSource
from videodiff.sampling import FirstOrder, Multistep, Plan, log_snr, sample
from videodiff.sampling.langevin import Corrected, Langevin, contraction_step

MANY = 6000


class Many:
    """Noise for thousands of small clips at once, from one stream."""

    def __init__(self, count: int, seed: int = 0) -> None:
        self.count, self.source = count, NoiseSource((seed,))

    def draw(self, shape: Sequence[int], **key: object) -> Tensor:
        return self.source.draw((self.count, *shape), **key)[0]  # type: ignore[arg-type]


def parts_of(data: dict, count: int) -> tuple[Tensor, torch.distributions.MultivariateNormal, Tensor]:
    """(weights, the mixture's parts, exact samples) of a stored mixture."""
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))
    generator = torch.Generator().manual_seed(1)
    which = torch.multinomial(weights, count, True, generator=generator)
    noise = torch.randn(count, means.shape[1], generator=generator, dtype=torch.float64)
    x = means[which] + torch.einsum("nij,nj->ni", torch.linalg.cholesky(covs)[which], noise)
    return weights, torch.distributions.MultivariateNormal(means, covs), x


def sliced_distance(a: Tensor, b: Tensor) -> float:
    """Sliced Wasserstein-2 distance of two equally large sets of points [n 2], over 200 directions."""
    angle = math.pi * torch.arange(200, dtype=torch.float64) / 200
    directions = torch.stack([angle.cos(), angle.sin()])
    return float(((a @ directions).sort(0)[0] - (b @ directions).sort(0)[0]).square().mean().sqrt())


def test_annealed_langevin_finds_the_weights_of_the_modes(ode: Callable) -> None:
    data, count = ode("gmm2"), 2000
    weights, parts, exact = parts_of(data, 300_000)

    def shares(x: Tensor) -> Tensor:
        return torch.bincount((parts.log_prob(x[:, None]) + weights.log()).argmax(1), minlength=6) / len(x)

    noise, plan = Many(count), log_snr(20, 0.02, 30)
    *_, last = sample(mixture(data), 20 * noise.draw((2,)).double(), plan, Langevin(moves=30), noise)
    assert last.n == Langevin(moves=30).evaluations(plan) == 29 * 30 + 1
    expected = shares(exact)
    standard_error = (expected * (1 - expected) / count).sqrt()
    assert ((shares(last.z) - expected).abs() < 3 * standard_error).all()


def test_a_corrector_improves_ancestral_samples_at_equal_levels(ode: Callable) -> None:
    data = ode("gmm2")
    exact = parts_of(data, MANY)[2]
    noise, plan = Many(MANY), log_snr(157, 0.01, 20)
    z = 157 * noise.draw((2,)).double()
    distance = {}
    for stepper in (FirstOrder(1.0), Corrected(FirstOrder(1.0), snr=0.16)):
        *_, last = sample(mixture(data), z, plan, stepper, noise)
        assert last.n == stepper.evaluations(plan)
        distance[type(stepper)] = sliced_distance(last.z, exact)
    assert distance[Corrected] < 0.85 * distance[FirstOrder], distance


@pytest.mark.parametrize(("rule", "c"), [("constant", 0.2), ("ncsnv2", None)])
def test_the_variance_after_the_moves_is_the_closed_form(rule: str, c: float | None) -> None:
    s, r, moves, count = 4.0, 3.0, 10, 200_000
    z = s * NOISE.draw((count,)).double()[0]
    stepper = Langevin(moves, rule)
    step = next(sample(lambda z, s: 0 * z, z[:, None], Plan((s, r, 0.0)), stepper, Many(count)))
    c = c or contraction_step(s / r, moves)
    fixed = r**2 / (1 - c / 2)
    expected = (1 - c) ** (2 * moves) * (s**2 - fixed) + fixed
    assert step.z.var().item() == pytest.approx(expected, rel=4 * math.sqrt(2 / count))


def test_the_rule_of_ncsnv2_comes_nearest_to_the_variance_of_the_level() -> None:
    def variance(c: float, ratio: float, moves: int) -> float:
        after = ratio**2
        for _ in range(moves):
            after = (1 - c) ** 2 * after + 2 * c
        return after

    for ratio, moves in ((1.1, 5), (1.4, 30), (3.0, 100)):
        best = contraction_step(ratio, moves)
        gap = abs(variance(best, ratio, moves) - 1)
        assert all(gap <= abs(variance(k / 500, ratio, moves) - 1) + 1e-6 for k in range(1, 500))


def test_a_corrector_moves_by_the_stated_step() -> None:
    seen, noise = [], NoiseSource((3, 4))
    z = 5 * noise.draw((40,)).double()

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        seen.append(z)
        return gaussian(z, s)

    plan, snr = Plan((5.0, 2.0, 0.0)), 0.1
    step = next(sample(denoise, z, plan, Corrected(FirstOrder(0.0), snr, moves=2), noise))
    for move in (1, 2):
        s = torch.full((2,), 2.0).double()
        score = (gaussian(seen[move], s) - seen[move]) / 4
        size = 2 * (snr * math.sqrt(40) / score.norm(dim=1, keepdim=True)) ** 2
        n = noise.draw((40,), evaluation=0, kind=f"step {move}").double()
        after = seen[move] + size * score + (2 * size).sqrt() * n
        torch.testing.assert_close(after, seen[move + 1] if move == 1 else step.z)


def test_the_noises_of_one_move_of_the_plan_differ() -> None:
    keys: list[object] = []

    class Recording(NoiseSource):
        def draw(self, shape: Sequence[int], **key: object) -> Tensor:  # type: ignore[override]
            keys.append(tuple(key.items()))
            return super().draw(shape, **key)  # type: ignore[arg-type]

    for stepper in (Langevin(5), Corrected(FirstOrder(1.0), moves=4)):
        keys.clear()
        list(sample(gaussian, torch.ones(1, 3), log_snr(10, 0.1, 6), stepper, Recording((0,))))
        assert len(keys) == len(set(keys)) == 25


def test_a_corrected_sampler_begins_anew_after_each_correction() -> None:
    noise, plan = NoiseSource((5,)), log_snr(80, 0.1, 8)
    one, three = (
        list(sample(gaussian, 80 * noise.draw((6,)), plan, Corrected(Multistep(order)), noise))[-1].z
        for order in (1, 3)
    )
    assert torch.equal(one, three)


def test_what_cannot_be_is_refused() -> None:
    for bad in ({"moves": 0}, {"rule": "v3"}, {"step_size": 1.5}):
        with pytest.raises(UserError):
            Langevin(**bad)  # type: ignore[arg-type]
    for bad in ({"snr": 0}, {"moves": 0}):
        with pytest.raises(UserError):
            Corrected(FirstOrder(), **bad)
