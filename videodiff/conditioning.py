"""Ways to hold a sample to what is known, around any denoiser.

A network trained to see the known frames (the native one) needs none of this while it samples. The others get `clamp`
(known frames clean in the input, RaMViD) or `replace` (known region at the noise level of the rest, no training), and
every result gets `put_known`, so that known pixels come back bit for bit. `classifier_free` strengthens a condition.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from videodiff.noise import spread
from videodiff.sampling import Before
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


def classifier_free(conditional: Denoise, unconditional: Denoise, w: float, both: Denoise | None = None) -> Denoise:
    """The denoiser D_u + w (D_c - D_u): w above 1 strengthens the condition (Ho and Salimans 2021).

    w = 1 is the conditional denoiser and w = 0 the unconditional one, bit for bit and at one evaluation. For other w
    each is called in turn, or, given `both`, a denoiser of the doubled batch (first half conditional), that one once:
    faster, for twice the memory.
    """
    if w == 1:
        return conditional
    if w == 0:
        return unconditional

    def guided(z: Tensor, s: Tensor) -> Tensor:
        if both is None:
            x0_c, x0_u = conditional(z, s), unconditional(z, s)
        else:
            x0_c, x0_u = both(torch.cat([z, z]), torch.cat([s, s])).chunk(2)
        return x0_u + w * (x0_c - x0_u)

    return guided
