"""Undoing damage that is known: noise, blur, fewer pixels, no colour. y = A x + sigma n is all that is left of a clip.

A small network knows more of what a frame is like beside its neighbours than of frames as such. So a clip is first
estimated without it, and then half of the frames are restored with the other half taken for known, and the other way
round, which is what the network was trained to do. Each time the frames are held to the measurement by one of METHODS.

    estimate, noise = first_estimate(measurement, canvas)
    for step in restore(bind, canvas, measurement, ddrm, ...): ...     # the last step's z is the clip
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.conditioning import pigdm, reconstruction
from videodiff.denoiser import scaled
from videodiff.flow import flow, warp
from videodiff.noise import NoiseSource
from videodiff.operators import Operator
from videodiff.sampling import Plan, Step, Stepper, sample
from videodiff.sampling.spectral import Spectral
from videodiff.smoothing import lee
from videodiff.types import Canvas, Denoise

TRUST = 0.2
"""How far a frame may be from its damaged self, as a standard deviation: the weight of A^-1 against noise in y."""
LEVEL = 0.1
"""The noise under which an estimate is shown to the network, at least."""
HALFWAY = 0.5
"""How far an estimate follows a pass: both halves move at once, and each went by the other's former place."""


@dataclass(frozen=True)
class Measurement:
    """What is left of clips x [b t c h w]: y = operator(x) + sigma n, with x in [-1, 1]."""

    operator: Operator
    y: Tensor
    sigma: float


Method = Callable[[Denoise, Measurement, Tensor, Plan, Stepper, NoiseSource], Iterator[Step]]
"""Steps of sampling what a measurement left, from its denoiser, noise [b t c h w], a plan and a stepper."""


def restore(
    bind: Callable[[Canvas], Denoise],
    canvas: Canvas,
    given: Measurement,
    method: Method,
    walk: Callable[[float], tuple[Stepper, Plan]],
    noise: NoiseSource,
    passes: int,
    carry: bool = False,
) -> Iterator[Step]:
    """Steps of restoring the frames that are not known; the last one's z is the clip [b t c h w].

    bind:   gives the denoiser of a canvas.
    canvas: its frames are damaged but laid out like whole ones, except those that are known.
    method: how frames are held to the measurement, one of METHODS.
    walk:   gives a stepper, and a plan that begins at 1, for a unit of noise.
    passes: how often each half is restored; 0 leaves it at the first estimate.
    carry:  as in `first_estimate`.
    """
    estimate, error = first_estimate(given, canvas, carry)
    unit = max(error, LEVEL)
    stepper, plan = walk(unit)
    new = (~canvas.known[0].flatten(1).all(1)).nonzero()[:, 0]
    n = i = 0
    step = Step(0, 0, 0.0, estimate, estimate)
    for number in range(passes):
        made = estimate.clone()
        for half, wanted in enumerate(new[k::2] for k in (0, 1) if len(new) > k):
            known = torch.ones_like(canvas.known)
            known[:, wanted] = False
            denoise = bind(replace(canvas, frames=estimate * known, known=known))
            # The walk is that of what the estimate lacks, in units of the noise put on it.
            lacking = scaled(_about(denoise, estimate), estimate.new_full(estimate.shape[:1], unit))
            rest = Measurement(given.operator, (given.y - given.operator(estimate)) / unit, given.sigma / unit)
            source = replace(noise, window=noise.window * 2 * passes + 2 * number + half)
            start = source.draw(estimate.shape[1:]).to(estimate)
            for step in method(lacking, rest, start, plan, stepper, source):
                preview = torch.where(known, made, estimate + unit * step.x0)
                yield replace(step, n=n + step.n, i=i + step.i, x0=preview, z=estimate)
            made[:, wanted] += unit * step.z[:, wanted]
            n, i = n + step.n, i + step.i + 1
        estimate = torch.lerp(estimate, made, HALFWAY)
    yield replace(step, n=n, i=max(i - 1, 0), z=estimate, x0=estimate)


def first_estimate(given: Measurement, canvas: Canvas, carry: bool = False) -> tuple[Tensor, float]:
    """The clip as well as it can be had without a network, and the standard deviation of the noise that was in it.

    Least squares about the damaged frames, |y - A x|^2 / sigma^2 + |x - frames|^2 / TRUST^2, in the operator's singular
    frame; then Lee's filter (`smoothing.py`): means over neighbours in space and time, as far as a place varies no more
    than the noise does. A smaller picture is enlarged first (bicubic). With `carry`, what A does not see, such as
    colour, comes from the known frames along the optical flow.
    """
    guide = canvas.frames
    if given.y.shape[-2:] != guide.shape[-2:]:
        large = F.interpolate(given.y.flatten(0, 1), guide.shape[-2:], mode="bicubic", align_corners=False)
        guide = torch.where(canvas.known, guide, large.unflatten(0, guide.shape[:2]))
    if carry and bool(canvas.known.any()):
        guide = _carried(given, canvas)
    singular = given.operator.singular.to(guide)
    gain = torch.where(singular > 0, singular / (singular**2 + (given.sigma / TRUST) ** 2), 0.0)
    residual = given.operator.spectrum_of(given.y - given.operator(guide))
    x = guide + given.operator.from_spectrum(gain * residual)
    # The noise of y that is in the guide, and what of it the correction takes away or adds.
    noise = float((given.sigma * (1 + gain * (1 - singular))).expand(x.shape[1:]).square().mean().sqrt())
    if noise:
        x = lee(x, x.new_full(x.shape[:1], noise))
    return torch.where(canvas.known, canvas.frames, x), noise


def lifted(operator: Operator, y: Tensor, like: Tensor) -> Tensor:
    """What is left of clips, laid out like them: grey in all channels, pixels as squares, the rest as it is."""
    return y.expand_as(like) if y.shape[2] < like.shape[2] else operator.pinv(y)


def _carried(given: Measurement, canvas: Canvas) -> Tensor:
    """The frames, with what the operator does not see taken from the known frame before, or after, as things moved."""
    seen = lifted(given.operator, given.operator(canvas.frames), canvas.frames)
    unseen = canvas.frames - seen
    full = {i for i, known in enumerate(canvas.known[0].flatten(1).all(1).tolist()) if known}
    first = min(full)
    for i in (*range(first - 1, -1, -1), *range(first + 1, seen.shape[1])):
        if i not in full:
            j = i + 1 if i < first else i - 1
            unseen[:, i] = warp(unseen[:, j], flow(seen[:, i], seen[:, j]))
    return seen + unseen - torch.where(canvas.known, 0.0, lifted(given.operator, given.operator(unseen), unseen))


def _about(denoise: Denoise, estimate: Tensor) -> Denoise:
    """The denoiser of what is left over an estimate."""
    return lambda z, s: denoise(z + estimate, s) - estimate


# ---------------------------------------------------------------------------------------------------------------------
# How frames are held to the measurement


def ddrm(
    denoise: Denoise, given: Measurement, n: Tensor, plan: Plan, stepper: Stepper, noise: NoiseSource
) -> Iterator[Step]:
    """Kawar et al. 2022: each coordinate of the operator's singular frame follows y as far as y shows it."""
    spectral = Spectral(given.operator, given.y, given.sigma)
    return sample(denoise, spectral.start(n, plan.levels[0]), plan, spectral, noise)


def by_pigdm(
    denoise: Denoise, given: Measurement, n: Tensor, plan: Plan, stepper: Stepper, noise: NoiseSource
) -> Iterator[Step]:
    """Song et al. 2023: answers are pulled by the gradient of the likelihood of y, with any stepper."""
    return sample(pigdm(denoise, given.operator, given.y, given.sigma), plan.levels[0] * n, plan, stepper, noise)


def by_guidance(
    denoise: Denoise, given: Measurement, n: Tensor, plan: Plan, stepper: Stepper, noise: NoiseSource
) -> Iterator[Step]:
    """Ho et al. 2022: answers are pulled by the gradient of their squared distance from y, with any stepper."""
    return sample(reconstruction(denoise, given.operator, given.y), plan.levels[0] * n, plan, stepper, noise)


METHODS: dict[str, Method] = {"ddrm": ddrm, "pigdm": by_pigdm, "guidance": by_guidance}
