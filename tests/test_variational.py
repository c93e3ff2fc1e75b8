"""The bound's terms equal their closed forms, add up to at least the truth, and are estimated without bias."""

import itertools
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from oracles import mixture
from torch import Tensor

from videodiff.denoiser import coefficients
from videodiff.losses import WEIGHTS, log_uniform, scheduled, with_rate
from videodiff.monotone import Monotone
from videodiff.noise import (
    NoiseSource,
    Schedule,
    cosine,
    cosine_betas,
    fixed_variances,
    linear,
    spread,
    step_variance,
    table,
)
from videodiff.types import Denoise
from videodiff.variational import (
    PIXELS,
    bound,
    chain,
    chain_bound,
    chain_nll,
    discrete_nll,
    gaussian_nll,
    hybrid,
    prior_kl,
    step_kl,
)

Stored = dict[str, np.ndarray]


@pytest.fixture(scope="module")
def moments(shared: Path) -> Stored:
    return dict(np.load(shared / "vectors/ode/stochastic_moments.npz"))


@pytest.fixture(scope="module")
def tables(shared: Path) -> Stored:
    return dict(np.load(shared / "vectors/ode/schedules.npz"))


def modes(moments: Stored) -> tuple[float, Tensor, Denoise]:
    """Mean and variances of independent Gaussian modes, and their exact denoiser."""
    mean, variance = float(moments["mode_mean"]), torch.from_numpy(moments["mode_var"])

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        return mean + variance / (variance + spread(s, z) ** 2) * (z - mean)

    return mean, variance, denoise


def quadrature() -> tuple[Tensor, Tensor, Tensor]:
    """Points (a, b) [4] and weights for two independent normals; exact for terms of second degree."""
    a, b = torch.tensor([[-1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0]], dtype=torch.float64)
    return a, b, torch.full((4, 1), 0.25, dtype=torch.float64)


@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_each_term_of_the_chain_equals_the_stored_one(moments: Stored, tables: Stored, name: str) -> None:
    mean, variance, denoise = modes(moments)
    levels = tables[f"{name}/s"]
    a, b, weight = quadrature()
    x0 = mean + a[:, None] * variance.sqrt()
    terms = []
    for r, s in itertools.pairwise(levels):
        d = denoise(x0 + s * b[:, None], torch.full((4,), s, dtype=torch.float64))
        terms.append((weight * step_kl(x0, d, s, r, step_variance(s, r, 0.0))).sum(0))
    np.testing.assert_allclose(
        torch.stack(terms, 1).numpy(), moments[f"{name}/vlb_terms"][:, 1:], rtol=1e-6, atol=1e-12
    )
    prior = (weight * prior_kl(x0, levels[-1])).sum(0)
    np.testing.assert_allclose(prior.numpy(), moments[f"{name}/prior_kl"], rtol=1e-6, atol=1e-12)


def any_monotone() -> Schedule:
    """A schedule that falls, and is otherwise as random weights make it."""
    net = Monotone(11.0, -11.0, hidden=8)
    with torch.no_grad():
        for p in (net.height, net.slope, net.place):
            p.copy_(3 * torch.randn(p.shape, generator=torch.Generator().manual_seed(4), dtype=p.dtype))
    return net.schedule()


@pytest.mark.parametrize("schedule", [None, linear(), cosine(), any_monotone()], ids=lambda s: s.name if s else "lam")
@pytest.mark.parametrize("name", ["linear", "cosine"])
def test_the_diffusion_part_depends_on_the_end_levels_alone(
    moments: Stored, tables: Stored, name: str, schedule: Schedule | None
) -> None:
    _, variance, denoise = modes(moments)
    levels, clips = tables[f"{name}/s"], 100
    exact = moments[f"{name}/continuous_diffusion_loss"].mean()
    generator = torch.Generator().manual_seed(1)
    x0 = 0.7 + variance.sqrt() * torch.randn((clips, 6), generator=generator, dtype=torch.float64)
    terms = bound(denoise, x0, levels[0], levels[-1], NoiseSource(tuple(range(clips))), schedule=schedule)
    # Clips differ in what they cost, so the standard error is that between clips.
    assert abs(terms.diffusion.mean() - exact) < 3 * terms.diffusion.std() / math.sqrt(clips)


@pytest.mark.parametrize("s", [0.002, 0.01, 0.2])
def test_the_probability_of_a_value_given_the_cleanest_level_is_one_of_256(s: float) -> None:
    z = torch.tensor([[-1.05, -0.3, 0.001, 1.0]], dtype=torch.float64).expand(256, 4)
    nll = discrete_nll(PIXELS[:, None].expand(256, 4), z, s, PIXELS)
    torch.testing.assert_close(torch.exp(-nll).sum(0), torch.ones(4, dtype=torch.float64))
    # By Bayes with every value as likely: far apart against s, the nearest value is certain; else as q says.
    ratio = nll[100] - nll[101]
    torch.testing.assert_close(ratio, ((z[0] - PIXELS[100]) ** 2 - (z[0] - PIXELS[101]) ** 2) / (2 * s**2))


@pytest.mark.parametrize("sd", [1e-3, 0.05, 2.0])
def test_bins_of_a_gaussian_add_up_to_one_and_have_finite_gradients(sd: float) -> None:
    mean = torch.tensor([[-3.0, -0.999, 0.1, 2.0]], dtype=torch.float64).expand(256, 4).clone().requires_grad_()
    nll = gaussian_nll(PIXELS[:, None].expand(256, 4), mean, sd**2, PIXELS)
    torch.testing.assert_close(torch.exp(-nll).sum(0), torch.ones(4, dtype=torch.float64))
    nll[nll < 1e4].sum().backward()
    assert mean.grad is not None
    assert torch.isfinite(mean.grad).all()


def test_nothing_is_lost_far_out_in_a_tail() -> None:
    x0, mean = torch.zeros(1, dtype=torch.float64), torch.full((1,), 0.3, dtype=torch.float64)
    for x, m in ((x0, mean), (mean, x0)):  # a plain difference would be log 0
        edge = torch.tensor((1 / 255 - 0.3) / 0.01, dtype=torch.float64)
        assert float(gaussian_nll(x, m, 0.01**2, PIXELS)) == pytest.approx(
            -float(torch.special.log_ndtr(edge)), rel=1e-9
        )


def test_a_density_is_the_limit_of_fine_bins() -> None:
    x0, mean = torch.tensor([0.5, -0.25], dtype=torch.float64), torch.tensor([0.4, -0.2], dtype=torch.float64)
    values = torch.linspace(-1, 1, 8001, dtype=torch.float64)
    binned = gaussian_nll(x0, mean, 0.01, values) + math.log(2 / 8000)
    torch.testing.assert_close(binned, gaussian_nll(x0, mean, 0.01), rtol=1e-6, atol=1e-6)
    normal = torch.distributions.Normal(mean, 0.1)
    torch.testing.assert_close(gaussian_nll(x0, mean, 0.01), -normal.log_prob(x0))


def test_a_step_is_the_divergence_of_two_normals() -> None:
    x0, d = torch.tensor([0.5, -1.0, 0.0], dtype=torch.float64), torch.tensor([0.45, -0.8, 0.3], dtype=torch.float64)
    s, r, z = 2.0, 1.5, 0.7
    small, _ = fixed_variances(s, r)

    def step(clean: Tensor, variance: float) -> torch.distributions.Normal:
        return torch.distributions.Normal(clean + (r / s) ** 2 * (z - clean), math.sqrt(variance))

    for u in (0.0, 0.3, 1.0):
        exact = torch.distributions.kl_divergence(step(x0, small), step(d, step_variance(s, r, u)))
        torch.testing.assert_close(step_kl(x0, d, s, r, step_variance(s, r, u)), exact)
    torch.testing.assert_close(step_kl(x0, d, s, r, small), 0.5 * (1 / r**2 - 1 / s**2) * (x0 - d) ** 2)
    start, ideal = torch.distributions.Normal(x0, 5.0), torch.distributions.Normal(0.1, math.sqrt(25 + 0.04))
    torch.testing.assert_close(
        prior_kl(x0, 5.0, mean=0.1, sd=0.2),
        torch.distributions.kl_divergence(start, ideal.expand(x0.shape)),
    )


def test_known_dimensions_cost_nothing(moments: Stored) -> None:
    _, variance, denoise = modes(moments)
    x0 = 0.7 + variance.sqrt() * torch.randn((8, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    wanted = torch.tensor([True, False, True, True, False, True])
    noise = NoiseSource(tuple(range(8)))

    def masked(z: Tensor, s: Tensor) -> Tensor:
        return torch.where(wanted, denoise(z, s), 1e6)

    terms = bound(masked, x0, 0.01, 50.0, noise, wanted=wanted)
    assert torch.isfinite(terms.total).all()
    plain = bound(denoise, x0, 0.01, 50.0, noise)
    torch.testing.assert_close(terms.prior, prior_kl(x0, 50.0)[:, wanted].mean(1))
    assert not torch.equal(terms.diffusion, plain.diffusion)
    torch.testing.assert_close(terms.bits * math.log(2), terms.prior + terms.reconstruction + terms.diffusion)


def test_a_clip_has_the_same_bound_alone_or_in_a_batch(moments: Stored) -> None:
    _, _, denoise = modes(moments)
    x0 = torch.randn((3, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    together = bound(denoise, x0, 0.01, 50.0, NoiseSource((5, 6, 7)), evaluations=8)
    alone = bound(denoise, x0[1:2], 0.01, 50.0, NoiseSource((6,)), evaluations=8)
    torch.testing.assert_close(together.total[1:2], alone.total, rtol=1e-12, atol=0)


def test_single_precision_changes_nothing_that_matters(moments: Stored) -> None:
    _, _, denoise = modes(moments)
    x0 = torch.randn((3, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = NoiseSource((5, 6, 7))
    single, double = (bound(denoise, x, 0.01, 1e4, noise, values=PIXELS) for x in (x0.float(), x0))
    assert single.total.dtype == torch.float64
    torch.testing.assert_close(single.total, double.total, rtol=1e-4, atol=1e-4)
    steps = chain(linear().s(torch.linspace(0.01, 1, 100, dtype=torch.float64)).tolist())
    single, double = (chain_bound(lambda z, s: (denoise(z, s).to(z), 0.3), x, steps, noise) for x in (x0.float(), x0))
    torch.testing.assert_close(single.total, double.total, rtol=1e-3, atol=1e-3)


def test_the_error_is_that_of_repeated_estimates_and_falls_with_evaluations(moments: Stored) -> None:
    _, variance, denoise = modes(moments)
    x0 = 0.7 + variance.sqrt() * torch.randn((1, 6), generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    for evaluations in (16, 64):
        terms = bound(denoise, x0.expand(400, 6), 0.01, 50.0, NoiseSource(tuple(range(400))), evaluations=evaluations)
        assert terms.total.std() == pytest.approx(float(terms.error.square().mean().sqrt()), rel=0.15)


def test_the_bound_of_8_bit_clips_is_above_their_entropy_and_near_it() -> None:
    """Pixels that are one of 256 values, independently, have a known denoiser and a known entropy in bits."""
    weights = torch.softmax(4 * torch.sin(torch.arange(256, dtype=torch.float64) / 20), 0)

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        score = weights.log() - 0.5 * ((z[..., None] - PIXELS) / spread(s, z)[..., None]) ** 2
        return (score.softmax(-1) * PIXELS).sum(-1)

    drawn = torch.multinomial(weights, 20 * 108, replacement=True, generator=torch.Generator().manual_seed(0))
    x0 = PIXELS[drawn].reshape(20, 3, 1, 6, 6)
    terms = bound(denoise, x0, 0.002, 100.0, NoiseSource(tuple(range(20))), values=PIXELS)
    cost = -weights.log2()[drawn].mean()  # of these very clips
    gap = terms.bits.mean() - cost
    error = terms.error.square().mean().sqrt() / math.sqrt(20) / math.log(2)
    assert -3 * error < gap < 0.02 + 3 * error, (gap, error)


# --- Chains -----------------------------------------------------------------------------------------------------------


def test_the_bound_of_a_chain_is_the_sum_of_its_terms(moments: Stored, tables: Stored) -> None:
    mean, variance, denoise = modes(moments)
    x0 = mean + variance.sqrt() * torch.randn((50, 6), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    noise = NoiseSource(tuple(range(50)))
    steps = chain(tables["linear/s"])
    terms = chain_bound(lambda z, s: (denoise(z, s), 0.0), x0, steps, noise)
    exact = moments["linear/vlb_terms"].sum(1).mean()
    assert abs(terms.diffusion.mean() - exact) < 3 * terms.diffusion.std() / math.sqrt(50)
    torch.testing.assert_close(terms.prior, prior_kl(x0, float(steps.s[-1])).mean(1))
    # DDPM's table of the posterior's variance, clipped below at its second entry.
    first, d = steps.small[0], denoise(x0 + steps.s[0] * noise.draw((6,), kind="bound"), steps.s[:1].expand(50))
    assert first == pytest.approx(tables["linear/posterior_var"][1], rel=1e-9)
    torch.testing.assert_close(terms.reconstruction, gaussian_nll(x0, d, first).mean(1))


def test_more_steps_cost_less_and_end_at_the_continuous_bound(moments: Stored) -> None:
    # Kingma et al. 2021, appendix F: the loss of T steps falls with T, when D is good, towards the integral.
    _, _, denoise = modes(moments)
    s_min, s_max = 0.05, 50.0
    a, b, weight = quadrature()
    x0 = 0.7 + a[:, None] * torch.from_numpy(moments["mode_var"]).sqrt()
    costs = []
    for n in (10, 30, 100, 1000):
        steps = chain(torch.logspace(math.log10(s_min), math.log10(s_max), n, dtype=torch.float64).tolist())
        cost = torch.zeros(6, dtype=torch.float64)
        for i in range(1, n):
            s = steps.s[i].expand(4)
            d = denoise(x0 + s[:, None] * b[:, None], s)
            cost += (weight * chain_nll(x0, d, 0.0, torch.full((4,), i), steps)).sum(0)
        costs.append(float(cost.mean()))
    v = moments["mode_var"]
    exact = float(0.5 * np.log((1 + v / s_min**2) / (1 + v / s_max**2)).mean())
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] == pytest.approx(exact, rel=0.01)
    assert costs[-1] > exact


def test_the_mean_of_the_hybrid_loss_learns_from_its_first_part_and_the_variance_from_its_second() -> None:
    steps = chain(linear().s(torch.linspace(0.02, 1, 50, dtype=torch.float64)).tolist())
    generator = torch.Generator().manual_seed(0)
    x0, d, u = (torch.randn((50, 4), generator=generator, dtype=torch.float64) for _ in range(3))
    d.requires_grad_()
    u = u.sigmoid().requires_grad_()
    i = torch.arange(50)
    hybrid(x0, d, u, i, steps).sum().backward()
    by_mean, by_variance = d.grad, u.grad
    assert by_mean is not None
    torch.testing.assert_close(by_mean, 2 * (d - x0).detach() / steps.s[:, None] ** 2)
    (expected,) = torch.autograd.grad((0.05 * chain_nll(x0, d.detach(), u, i, steps)).sum(), u)
    torch.testing.assert_close(by_variance, expected)


def test_u_of_0_and_1_are_the_two_fixed_variances() -> None:
    steps = chain(linear().s(torch.linspace(0.02, 1, 50, dtype=torch.float64)).tolist())
    x0, d = torch.randn((2, 50, 4), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    i = torch.arange(50)
    for u, variance in ((0.0, steps.small), (1.0, steps.large)):
        terms = chain_nll(x0, d, torch.full_like(x0, u), i, steps)
        assert torch.equal(terms, chain_nll(x0, d, u, i, steps))
        kl = step_kl(x0, d, steps.s[:, None], steps.r[:, None], variance[:, None])
        assert torch.equal(terms[1:], kl[1:])
        assert torch.equal(terms[0], gaussian_nll(x0[0], d[0], variance[0]))


def test_a_variance_learned_for_each_step_costs_less_than_either_fixed_one(moments: Stored) -> None:
    # With the exact mean, the best variance is that of q(z_r | z_s): the small one, and what is uncertain about x0.
    mean, v, denoise = modes(moments)
    steps = chain(table(cosine_betas(50)).s(torch.arange(1, 51, dtype=torch.float64) / 50).tolist())
    a, b, weight = quadrature()
    x0 = (mean + a[:, None] * v.sqrt()).expand(50, 4, 6).reshape(200, 6)
    i = torch.arange(50).repeat_interleave(4)
    s = steps.s[i]
    d = denoise(x0 + s[:, None] * b.repeat(50)[:, None], s)

    def cost(u: Tensor) -> Tensor:
        terms = weight.repeat(50, 1) * chain_nll(x0, d, u.repeat_interleave(4, 0), i, steps)
        return terms.sum() / 6

    raw = torch.zeros(50, 6, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.Adam([raw], lr=0.1)
    for _ in range(150):
        optimizer.zero_grad()
        loss = weight.repeat(50, 1) * hybrid(x0, d, raw.sigmoid().repeat_interleave(4, 0), i, steps)
        loss.sum().backward()
        optimizer.step()
    learned, small, large = (float(cost(u)) for u in (raw.sigmoid().detach(), 0 * raw.detach(), 0 * raw.detach() + 1))
    s, r = steps.s[:, None], steps.r[:, None]
    best = r**2 * (1 - (r / s) ** 2) + (1 - (r / s) ** 2) ** 2 * v * s**2 / (v + s**2)
    small_v, large_v = steps.small[:, None], steps.large[:, None]
    exact = cost(((best / small_v).log() / (large_v / small_v).log()).clamp(0, 1))
    assert learned < min(small, large) - 0.05
    assert learned == pytest.approx(float(exact), abs=0.01)


# --- Likelihood weighting ---------------------------------------------------------------------------------------------

S_MIN, S_MAX = 0.01, 150.0


@pytest.fixture(scope="module")
def gmm2(shared: Path) -> Stored:
    return dict(np.load(shared / "vectors/ode/gmm2.npz"))


def draw(data: Stored, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Fresh samples of a mixture and noise, [n d] each."""
    generator = torch.Generator().manual_seed(seed)
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))
    k = torch.multinomial(weights, n, replacement=True, generator=generator)
    a, b = torch.randn((2, n, means.shape[1]), generator=generator, dtype=torch.float64)
    return means[k] + torch.einsum("bij,bj->bi", torch.linalg.cholesky(covs)[k], a), b


def level(draw: str) -> Callable[[Tensor], Tensor]:
    """s of t: as DDPM draws it, or ScoreFlow's importance sampling of the likelihood."""
    if draw == "log_snr":
        return lambda t: log_uniform(t, S_MIN, torch.tensor(S_MAX, dtype=torch.float64))
    return lambda t: scheduled(t, draw).double().clamp(S_MIN, S_MAX)


def fit(data: Stored, weight: str, how: str, hidden: int = 128, n: int = 40_000) -> Denoise:
    """A network with a random hidden layer whose last one is trained exactly: the least weighted loss over n draws."""
    generator = torch.Generator().manual_seed(0)
    w1 = 2 * torch.randn((3, hidden), generator=generator, dtype=torch.float64)
    b1 = 3 * torch.randn(hidden, generator=generator, dtype=torch.float64)

    def features(z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out, c_in = coefficients("edm", s[:, None], sd=1.0)
        x = torch.cat([c_in * z, s[:, None].log() / 4], 1)
        return c_skip * z, c_out * torch.cat([torch.tanh(x @ w1 + b1), torch.ones_like(c_in)], 1)

    x0, noise = draw(data, n, 1)
    s, rate = with_rate(level(how), (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    skip, hidden_layer = features(x0 + s[:, None] * noise, s)
    w = WEIGHTS[weight](s, torch.ones_like(s), rate)[:, None]
    square = hidden_layer.T @ (w * hidden_layer)
    ridge = 1e-7 * square.diagonal().mean() * torch.eye(hidden + 1)
    w2 = torch.linalg.solve(square + ridge, hidden_layer.T @ (w * (x0 - skip)))

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        skip, hidden_layer = features(z, s)
        return skip + hidden_layer @ w2

    return denoise


def test_the_bound_is_at_least_the_exact_likelihood_and_likelihood_weighting_brings_it_nearer(gmm2: Stored) -> None:
    x0, exact = torch.from_numpy(gmm2["data"]), -torch.from_numpy(gmm2["data_logp"]) / 2
    noise = NoiseSource(tuple(range(len(x0))))

    def gap(denoise: Denoise) -> tuple[float, float]:
        terms = bound(denoise, x0, S_MIN, S_MAX, noise, evaluations=32)
        return float((terms.total - exact).mean()), float(terms.error.square().mean().sqrt() / math.sqrt(len(x0)))

    ideal, error = gap(mixture(gmm2))
    assert -3 * error < ideal < 3 * error + 0.001  # tight, but for the two ends
    plain, _ = gap(fit(gmm2, "eps", "linear"))
    likely, _ = gap(fit(gmm2, "likelihood", "log_snr"))
    assert plain > 6 * error
    assert 3 * error < likely < 0.75 * plain


def test_importance_sampling_has_the_same_mean_and_less_variance(gmm2: Stored) -> None:
    denoise, n = fit(gmm2, "eps", "linear", hidden=32, n=5000), 100_000
    x0, noise = draw(gmm2, n, 2)
    losses = {}
    for how in ("linear", "log_snr"):
        s, rate = with_rate(level(how), (torch.arange(n, dtype=torch.float64) + 0.5) / n)
        error = (denoise(x0 + s[:, None] * noise, s) - x0).square().mean(1)
        losses[how] = WEIGHTS["likelihood"](s, torch.ones_like(s), rate) * error
    plain, important = losses["linear"], losses["log_snr"]
    assert important.var() < plain.var() / 5
    assert abs(plain.mean() - important.mean()) < 3 * math.sqrt((plain.var() + important.var()) / n)


# --- A network that learns its variance -------------------------------------------------------------------------------


class Small(torch.nn.Module):
    """Two hidden layers that see z and the level, and answer (D, u)."""

    def __init__(self) -> None:
        super().__init__()
        widths = [10, 128, 128, 128]
        layers = [torch.nn.Sequential(torch.nn.Linear(a, b), torch.nn.SiLU()) for a, b in itertools.pairwise(widths)]
        self.net = torch.nn.Sequential(*layers, torch.nn.Linear(128, 4))

    def forward(self, z: Tensor, s: Tensor) -> tuple[Tensor, Tensor]:
        c_skip, c_out, c_in = coefficients("edm", s[:, None].to(z), sd=1.0)
        phase = (s[:, None].to(z).log() / 4) * torch.tensor([1.0, 2.0, 4.0, 8.0])
        f, u = self.net(torch.cat([c_in * z, phase.sin(), phase.cos()], 1)).chunk(2, 1)
        return c_skip * z + c_out * f, u.sigmoid()


@pytest.mark.slow
def test_a_network_trained_with_the_hybrid_loss_costs_fewer_bits_than_with_either_fixed_variance(gmm2: Stored) -> None:
    steps = chain(table(cosine_betas(50)).s(torch.arange(1, 51, dtype=torch.float64) / 50).tolist())
    torch.manual_seed(0)
    net, count = Small(), 1500
    optimizer = torch.optim.Adam(net.parameters(), lr=2e-3)
    decay = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, count)
    for step in range(count):
        x0, noise = (x.float() for x in draw(gmm2, 256, step))
        i = torch.randint(50, (256,), generator=torch.Generator().manual_seed(step))
        d, u = net(x0 + steps.s[i].float()[:, None] * noise, steps.s[i])
        optimizer.zero_grad()
        hybrid(x0, d, u, i, steps).mean().backward()
        optimizer.step()
        decay.step()
    data, streams = torch.from_numpy(gmm2["data"]).float(), NoiseSource(tuple(range(1024)))
    with torch.no_grad():
        learned = chain_bound(net, data, steps, streams).bits
        for u in (0.0, 1.0):
            fixed = chain_bound(lambda z, s, u=u: (net(z, s)[0], u), data, steps, streams).bits
            assert (fixed - learned).mean() > 2 * (fixed - learned).std() / 32, (u, fixed.mean(), learned.mean())
    exact = -gmm2["data_logp"].mean() / 2 / math.log(2)
    assert learned.mean() > exact
