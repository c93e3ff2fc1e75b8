"""Ways to follow a condition more strongly, around any denoiser: mixing answers, a classifier's gradient, thresholds.

`classifier_free` mixes a conditional and an unconditional answer and `chained` those of several conditions that can be
dropped one after the other; `interval` restricts any of them to a range of levels; `classifier` follows the gradient of
a log-probability; `dynamic_threshold` keeps strong guidance from leaving the range of pixels. All return a denoiser.
"""

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import spread
from videodiff.sampling.evaluate import leaf
from videodiff.types import Denoise


def classifier_free(
    conditional: Denoise, unconditional: Denoise, w: float, both: Denoise | None = None, rescale: float = 0.0
) -> Denoise:
    """The denoiser D_u + w (D_c - D_u): w above 1 strengthens the condition (Ho and Salimans 2021).

    w = 1 is the conditional denoiser and w = 0 the unconditional one, bit for bit and at one evaluation. For other w
    each is called in turn, or, given `both`, a denoiser of the doubled batch (first half unconditional), that one once:
    faster, for twice the memory. `rescale` as in `chained`.
    """
    return chained((unconditional, conditional), (w,), both, rescale)


def chained(
    denoisers: Sequence[Denoise], weights: Sequence[float], together: Denoise | None = None, rescale: float = 0.0
) -> Denoise:
    """The denoiser D_0 + sum_k w_k (D_k - D_(k-1)), where each D_k is told one condition more than the one before.

    Brooks et al. 2023, equation 3: with known frames, a class and a vector that can be dropped separately, D_0 knows
    none and D_3 all. Equal weights make the conditions between them one; so all 1 is D_K and all 0 is D_0, bit for bit.
    Only answers that count are asked for, in turn, or, where all count and `together` is given, from that denoiser of
    the (K + 1)-fold batch in the order of `denoisers`.

    rescale: in [0, 1], how far each clip's spread is brought back to that of its most conditional answer, which strong
    guidance raises (Lin et al. 2023, equations 15 and 16, on x0; they use 0.7).
    """
    assert len(denoisers) == len(weights) + 1, (len(denoisers), len(weights))
    if not 0 <= rescale <= 1:
        raise UserError(f"the guidance's rescale is between 0 (off) and 1 (whole), not {rescale}")
    edges = (1.0, *weights, 0.0)
    used = [k for k in range(len(denoisers)) if edges[k] != edges[k + 1]]  # those with a coefficient w_k - w_(k+1)
    if len(used) == 1:
        return denoisers[used[0]]

    def guided(z: Tensor, s: Tensor) -> Tensor:
        if together is not None and len(used) == len(denoisers):
            answers = list(together(torch.cat([z] * len(used)), torch.cat([s] * len(used))).chunk(len(used)))
        else:
            answers = [denoisers[k](z, s) for k in used]
        x0 = answers[0]
        for k, less, more in zip(used[1:], answers, answers[1:], strict=False):
            x0 = x0 + weights[k - 1] * (more - less)
        if rescale:
            x0 = x0 * (1 - rescale + rescale * _spread_of(answers[-1]) / _spread_of(x0))
        return x0

    return guided


def _spread_of(x0: Tensor) -> Tensor:
    """The standard deviation of each clip, [b 1 ...]."""
    return x0.std(tuple(range(1, x0.ndim)), keepdim=True)


def interval(guided: Denoise, conditional: Denoise, low: float, high: float) -> Denoise:
    """Guidance for levels low <= s <= high alone, elsewhere the conditional answer at its own cost.

    Kynkäänniemi et al. 2024: at high levels guidance narrows what can come out and at low ones it changes nothing.
    """
    if not 0 <= low < high:
        raise UserError(f"guidance needs an interval of levels 0 <= low < high, not {low:.4g} to {high:.4g}")

    def within(z: Tensor, s: Tensor) -> Tensor:
        inside = (low <= s) & (s <= high)
        if inside.all():
            return guided(z, s)
        if not inside.any():
            return conditional(z, s)
        return torch.where(spread(inside, z), guided(z, s), conditional(z, s))

    return within


def classifier(denoise: Denoise, log_prob: Callable[[Tensor, Tensor], Tensor], w: float) -> Denoise:
    """The denoiser D + w s^2 grad_z log p(y | z, s), which is Bayes' rule for w = 1 (Dhariwal and Nichol 2021).

    log_prob: (z, s) -> [b], the log-probability (nats, any constant) of what is wanted given the noisy clip; any
    function that can be differentiated. w = 0 never calls it.
    """
    if w == 0:
        return denoise

    def guided(z: Tensor, s: Tensor) -> Tensor:
        with torch.enable_grad():
            z_ = leaf(z)
            (gradient,) = torch.autograd.grad(log_prob(z_, s).sum(), z_)
        return denoise(z, s) + w * spread(s, z) ** 2 * gradient

    return guided


def dynamic_threshold(denoise: Denoise, percentile: float = 99.5) -> Denoise:
    """The denoiser with each clip's x0 cut at its own percentile of |x0| and divided by it, where that is above 1.

    Saharia et al. 2022 (Imagen), section 2.3; one threshold for a clip, because one for a frame would flicker. A clip
    within [-1, 1] comes back bit for bit.
    """
    if not 0 < percentile <= 100:
        raise UserError(f"the percentile of the threshold is above 0 and at most 100, not {percentile}")

    def thresholded(z: Tensor, s: Tensor) -> Tensor:
        x0 = denoise(z, s)
        size = x0.abs().flatten(1)
        rank = math.ceil(percentile / 100 * size.shape[1])
        limit = size.kthvalue(rank, dim=1).values.clamp(min=1)  # torch.quantile refuses more than 16 million values
        limit = spread(limit, x0)
        return x0.clamp(-limit, limit) / limit

    return thresholded
