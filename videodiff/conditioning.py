"""Ways to hold a sample to what is known, around any denoiser.

A network trained to see the known frames (the native one) needs none of this while it samples. The others get `clamp`
(known frames clean in the input, RaMViD), or ways that need no training: `replace` (known region at the noise level of
the rest; RePaint when the plan is `plans.repaint`), `reconstruction` and `pigdm` (gradients; any operator), and
`low_pass_mix` (rough shapes of a reference, ILVR). DDRM is a stepper, `sampling.spectral`. Where pixels are known the
result gets `put_known`, so that they come back bit for bit.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from videodiff.noise import spread
from videodiff.operators import Operator
from videodiff.sampling import Before
from videodiff.sampling.evaluate import leaf
from videodiff.types import Canvas, Denoise


def put_known(x0: Tensor, canvas: Canvas) -> Tensor:
    """x0 [b t c h w] with the known pixels taken from the canvas, bit for bit."""
    return torch.where(canvas.known, canvas.frames.to(x0), x0)


def clamp(denoise: Denoise, canvas: Canvas, per_frame: bool = False) -> Denoise:
    """The denoiser with the known region clean in its input and in its answer.

    Höppe et al. 2022 (RaMViD), whose network is told one level for all frames. With `per_frame` the network gets s as
    [b t], and 0 for frames that are known whole.
    """
    whole = canvas.known.flatten(2).all(2)  # [b t]

    def clamping(z: Tensor, s: Tensor) -> Tensor:
        if per_frame:
            s = torch.where(whole, 0.0, s if s.ndim == 2 else s[:, None])
        return put_known(denoise(put_known(z, canvas), s), canvas)

    return clamping


def replace(canvas: Canvas) -> Before:
    """A hook for `sample` that puts the known region, noised to the present level, into z before each evaluation.

    Song et al. 2021 (Score-SDE), appendix I.2. It needs no training but the seam stays visible: the unknown region
    hears of the known one only through noise (Ho et al. 2022, section 3.1). The sample's own end needs `put_known`.
    """

    def before(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        return torch.where(canvas.known, canvas.frames.to(z) + spread(s, z) * draw(), z)

    return before


def reconstruction(denoise: Denoise, operator: Callable[[Tensor], Tensor], y: Tensor, w: float = 2.0) -> Denoise:
    """The denoiser D - (w/2) grad_z |y - A D|^2: answers whose view does not agree with y are pushed until it does.

    Ho et al. 2022 (Video Diffusion Models), equation 7; their alpha cancels in z. A is any function of clips that can
    be differentiated, so it serves masks, super-resolution in space and time, and all of `operators.OPERATORS`. Every
    evaluation also goes backward through the network. Around w = 2 the spread of the answers is right; 5 and more find
    the mean better and spread too little. Where y is known pixels, sample with `replace` as well.
    """

    def loss(x0: Tensor, s: Tensor) -> Tensor:
        return w * (y - operator(x0)).square().sum()

    return _pulled(denoise, loss)


def pigdm(denoise: Denoise, operator: Operator, y: Tensor, sigma_y: float = 0.0, w: float = 1.0) -> Denoise:
    """The denoiser D + w s^2 grad_z log N(y; A D, r^2 A A' + sigma_y^2) with D's own uncertainty r^2 = s^2 / (1 + s^2).

    Song et al. 2023 (PiGDM); r is that of data with variance 1. For known pixels it is `reconstruction` with the weight
    1 + s^2. With A = U S V' each coordinate has the weight 1 / (S^2 / (1 + s^2) + sigma_y^2 / s^2). Well calibrated
    where no direction of the data has a variance far above 1. Where one has (frames that share their brightness), steps
    are too long and it diverges: lower w, or take `sampling.spectral` (docs/method.md).
    """
    singular = operator.singular.to(y)
    target = operator.spectrum_of(y)

    def loss(x0: Tensor, s: Tensor) -> Tensor:
        s2 = spread(s, x0) ** 2
        variance = singular**2 / (1 + s2) + sigma_y**2 / s2.clamp(min=torch.finfo(s2.dtype).tiny)
        weight = torch.where(singular > 0, w / variance, 0.0)
        return (weight * (target - singular * operator.to_spectrum(x0)).square()).sum()

    return _pulled(denoise, loss)


def _pulled(denoise: Denoise, loss: Callable[[Tensor, Tensor], Tensor]) -> Denoise:
    """D - 1/2 grad_z loss(D(z, s), s), with one pass forward and one backward. Clips must only add to the loss."""

    def pulled(z: Tensor, s: Tensor) -> Tensor:
        with torch.enable_grad():
            z = leaf(z)
            x0 = denoise(z, s)
            (gradient,) = torch.autograd.grad(loss(x0, s), z)
        return x0.detach() - gradient / 2

    return pulled


def low_pass_mix(reference: Tensor, operator: Operator, s_stop: float = 0.0) -> Before:
    """A hook for `sample` that takes what the operator sees from the reference, noised to the present level.

    Choi et al. 2021 (ILVR), equation 8: z <- z - phi(z) + phi(reference + s n) with the projection phi = A^+ A. With
    `operators.average` the rough shapes in space (a clip like this one), in time (the slow motion, with other details)
    or both are kept. Below the level `s_stop` the sample goes its own way.
    """

    def before(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        wanted = reference.to(z) + spread(s, z) * draw()
        mixed = z + operator.pinv(operator(wanted - z))
        return torch.where(spread(s >= s_stop, z), mixed, z)

    return before
