"""Guidance short-circuits, adds up, and agrees with Bayes' rule on mixtures whose every posterior is known."""

import itertools
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.guidance import chained, classifier, classifier_free, dynamic_threshold, interval
from videodiff.noise import NoiseSource, spread
from videodiff.sampling import log_snr, sample, sampler
from videodiff.types import Denoise


def gaussian(mean: float, variance: float) -> Denoise:
    """The exact denoiser of N(mean, variance)."""
    return lambda z, s: mean + variance / (variance + spread(s, z) ** 2) * (z - mean)


unconditional, conditional = gaussian(0.1, 0.25), gaussian(0.5, 0.1)
CHAIN = (unconditional, gaussian(0.3, 0.2), gaussian(0.4, 0.15), conditional)


def never(z: Tensor, s: Tensor) -> Tensor:
    raise AssertionError("this one must not be called")


def together(*denoisers: Denoise) -> Denoise:
    """One denoiser of a batch that holds each one's part."""

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        k = len(denoisers)
        return torch.cat([d(*part) for d, *part in zip(denoisers, z.chunk(k), s.chunk(k), strict=True)])

    return denoise


@pytest.fixture
def z() -> Tensor:
    return torch.randn(2, 3, 1, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))


@pytest.fixture(params=[(2,), (2, 3)], ids=["level per clip", "level per frame"])
def s(request: pytest.FixtureRequest) -> Tensor:
    return 0.5 + torch.rand(request.param, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


# --- Classifier-free --------------------------------------------------------------------------------------------------


def test_guidance_at_one_and_zero_is_one_plain_call(z: Tensor, s: Tensor) -> None:
    assert torch.equal(classifier_free(conditional, never, 1.0)(z, s), conditional(z, s))
    assert torch.equal(classifier_free(never, unconditional, 0.0)(z, s), unconditional(z, s))
    assert torch.equal(classifier_free(conditional, never, 1.0, both=never, rescale=0.7)(z, s), conditional(z, s))


@pytest.mark.parametrize("w", [-1.0, 0.5, 2.0, 8.0])
def test_guidance_extrapolates_in_one_batch_or_two_passes(z: Tensor, s: Tensor, w: float) -> None:
    expected = (1 - w) * unconditional(z, s) + w * conditional(z, s)
    two = classifier_free(conditional, unconditional, w)(z, s)
    one = classifier_free(never, never, w, both=together(unconditional, conditional))(z, s)
    torch.testing.assert_close(two, expected, rtol=1e-12, atol=1e-12)
    assert torch.equal(one, two)


@pytest.mark.parametrize("weights", list(itertools.product([0.0, 1.0, 2.5], repeat=3)))
def test_conditions_that_drop_one_by_one_add_up_and_ask_only_for_what_counts(
    z: Tensor, s: Tensor, weights: tuple[float, ...]
) -> None:
    answers = [d(z, s) for d in CHAIN]
    expected = answers[0] + sum(w * (answers[k + 1] - answers[k]) for k, w in enumerate(weights))
    coefficients = [a - b for a, b in itertools.pairwise((1.0, *weights, 0.0))]
    asked = [d if c else never for d, c in zip(CHAIN, coefficients, strict=True)]
    torch.testing.assert_close(chained(asked, weights)(z, s), expected, rtol=1e-12, atol=1e-12)
    if all(coefficients):
        assert torch.equal(chained([never] * 4, weights, together(*CHAIN))(z, s), chained(CHAIN, weights)(z, s))


def test_all_conditions_at_one_or_zero_are_bitwise_the_end_of_the_chain(z: Tensor, s: Tensor) -> None:
    assert torch.equal(chained((never, never, never, conditional), (1, 1, 1))(z, s), conditional(z, s))
    assert torch.equal(chained((unconditional, never, never, never), (0, 0, 0))(z, s), unconditional(z, s))


def test_rescaling_brings_back_the_spread_of_the_conditional_answer(z: Tensor, s: Tensor) -> None:
    def spreads(x0: Tensor) -> Tensor:
        return x0.flatten(1).std(1)

    plain = classifier_free(conditional, unconditional, 8.0)(z, s)
    whole = classifier_free(conditional, unconditional, 8.0, rescale=1.0)(z, s)
    torch.testing.assert_close(spreads(whole), spreads(conditional(z, s)), rtol=1e-12, atol=0)
    half = classifier_free(conditional, unconditional, 8.0, rescale=0.5)(z, s)
    torch.testing.assert_close(half, (plain + whole) / 2, rtol=1e-12, atol=1e-12)
    with pytest.raises(UserError, match="rescale"):
        classifier_free(conditional, unconditional, 8.0, rescale=1.5)


def test_guidance_in_an_interval_is_the_conditional_alone_outside(z: Tensor) -> None:
    guided = classifier_free(conditional, unconditional, 3.0)
    some = interval(guided, conditional, 0.3, 1.0)
    for level, expected in ((0.2, conditional), (0.3, guided), (1.0, guided), (1.1, conditional)):
        s = torch.full((2,), level, dtype=torch.float64)
        assert torch.equal(some(z, s), expected(z, s))
    below, inside = torch.full((2,), 0.1).double(), torch.full((2,), 0.5).double()
    assert torch.equal(interval(never, conditional, 0.3, 1.0)(z, below), conditional(z, below))
    assert torch.equal(interval(guided, never, 0.3, 1.0)(z, inside), guided(z, inside))
    mixed = torch.tensor([0.1, 0.5], dtype=torch.float64)  # each clip by its own level
    expected = torch.stack([conditional(z, mixed)[0], guided(z, mixed)[1]])
    assert torch.equal(some(z, mixed), expected)
    frames = torch.tensor([[0.1, 0.5, 2.0]], dtype=torch.float64).expand(2, 3)
    assert torch.equal(some(z, frames)[:, 1], guided(z, frames)[:, 1])
    assert torch.equal(some(z, frames)[:, ::2], conditional(z, frames)[:, ::2])
    with pytest.raises(UserError, match="interval"):
        interval(guided, conditional, 1.0, 0.3)


# --- Classifier -------------------------------------------------------------------------------------------------------

WEIGHTS = torch.tensor([0.2, 0.3, 0.5], dtype=torch.float64)
MEANS = torch.tensor([[-1.0, 0.5], [1.0, 0.8], [0.2, -1.2]], dtype=torch.float64)
VARIANCES = torch.tensor([0.05, 0.1, 0.2], dtype=torch.float64)


def log_components(z: Tensor, s: Tensor) -> Tensor:
    """log w_k N(z; m_k, v_k + s^2), up to one constant: [b k]."""
    total = VARIANCES + s[:, None] ** 2
    return WEIGHTS.log() - 0.5 * ((z[:, None] - MEANS) ** 2).sum(-1) / total - z.shape[1] / 2 * total.log()


def mixture_of(components: list[int]) -> Denoise:
    """E[x0 | z] when x0 comes from one of these components."""

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        shrink = VARIANCES / (VARIANCES + s[:, None] ** 2)
        x0 = MEANS + shrink[..., None] * (z[:, None] - MEANS)
        share = log_components(z, s)[:, components].softmax(-1)
        return torch.einsum("bk,bkd->bd", share, x0[:, components])

    return denoise


def responsibility(components: list[int]) -> Callable[[Tensor, Tensor], Tensor]:
    """log p(x0 came from one of these | z)."""

    def log_prob(z: Tensor, s: Tensor) -> Tensor:
        logits = log_components(z, s)
        return logits[:, components].logsumexp(-1) - logits.logsumexp(-1)

    return log_prob


@pytest.mark.parametrize("w", [1.0, 3.0, -0.5])
@pytest.mark.parametrize("wanted", [[0], [1, 2]])
def test_an_exact_classifier_is_classifier_free_guidance(wanted: list[int], w: float) -> None:
    every, some = mixture_of([0, 1, 2]), mixture_of(wanted)
    by_gradient = classifier(every, responsibility(wanted), w)
    by_mixing = classifier_free(some, every, w)
    generator = torch.Generator().manual_seed(0)
    for level in (0.05, 0.3, 1.0, 5.0, 50.0):
        s = torch.full((64,), level, dtype=torch.float64)
        z = MEANS[torch.arange(64) % 3] + level * torch.randn(64, 2, generator=generator, dtype=torch.float64)
        torch.testing.assert_close(by_gradient(z, s), by_mixing(z, s), rtol=0, atol=1e-10)


def test_sampling_with_an_exact_classifier_is_sampling_the_condition() -> None:
    noise = NoiseSource(tuple(range(32)))
    z, plan = 80 * noise.draw((2,)).double(), log_snr(80, 0.01, 20)

    def run(denoise: Denoise) -> Tensor:
        *_, last = sample(denoise, z, plan, sampler("ddpm"), noise)
        return last.z

    guided = run(classifier(mixture_of([0, 1, 2]), responsibility([0]), 1.0))
    torch.testing.assert_close(guided, run(mixture_of([0])), rtol=0, atol=1e-10)
    assert torch.equal(run(classifier(mixture_of([0, 1, 2]), never, 0.0)), run(mixture_of([0, 1, 2])))


def test_a_classifier_takes_levels_per_frame(z: Tensor) -> None:
    s = torch.rand(2, 3, dtype=torch.float64) + 0.5
    target = torch.randn_like(z)
    guided = classifier(unconditional, lambda z, s: -0.5 * (z - target).square().flatten(1).sum(1), 2.0)
    expected = unconditional(z, s) + 2 * s[..., None, None, None] ** 2 * (target - z)
    torch.testing.assert_close(guided(z, s), expected, rtol=1e-12, atol=1e-12)
    assert not guided(z, s).requires_grad


# --- Dynamic thresholding ---------------------------------------------------------------------------------------------


def test_thresholding_leaves_what_is_in_range_and_bounds_the_rest() -> None:
    inside = torch.rand(2, 4, 3, 8, 8) * 2 - 1
    s = torch.ones(2)
    assert torch.equal(dynamic_threshold(lambda z, s: z)(inside, s), inside)
    wide = 3 * inside
    for percentile in (50.0, 99.5, 100.0):
        bounded = dynamic_threshold(lambda z, s: z, percentile)(wide, s)
        assert bounded.abs().max() <= 1
    size = wide[0].abs().flatten()
    limit = size.quantile(0.5, interpolation="higher")
    half = dynamic_threshold(lambda z, s: z, 50.0)(wide, s)[0]
    torch.testing.assert_close(half, (wide[0] / limit).clamp(-1, 1), rtol=0.02, atol=0)
    with pytest.raises(UserError, match="percentile"):
        dynamic_threshold(unconditional, 0)


def test_one_threshold_serves_a_whole_clip_and_no_other() -> None:
    x = torch.rand(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1
    x[0, 2] *= 5  # one bright frame
    x0 = dynamic_threshold(lambda z, s: z, 99.5)(x, torch.ones(2))
    assert torch.equal(x0[1], x[1])
    ratio = x[0, [0, 1, 3]] / x0[0, [0, 1, 3]]  # the other frames of its clip are divided by the same number
    torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio), rtol=1e-5, atol=0)
    assert ratio.mean() > 4
