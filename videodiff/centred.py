"""The centred preconditioner: start from a cheap guess of the wanted pixels and let the network say how it is wrong.

    D(z, s) = base' + c_skip (z - base') + c_out F        base' = base + shift, sd' = sd exp(doubt)

c_skip, c_out and c_in are EDM's (Karras et al. 2022, table 1) with a spread `sd` that, like `base`, depends on the
mask and on the distance in time to the known frames, pixel by pixel (`guess.py`). `shift`, `doubt` and F are the
network's. With base 0 and sd constant this is EDM; with sd 1 it is v-prediction (sign flipped).

Training minimises the F-loss, |D - x0|^2 / c_out^2 over the wanted pixels.
"""

import torch
from torch import Tensor

from videodiff.guess import Guess, Spread
from videodiff.models.attention import Backend
from videodiff.models.unet import Inputs, Memory, Output, SpaceTimeUNet
from videodiff.types import Canvas, Denoise

KNOWN_LEVEL = 1e-3
"""The level s at which known frames are shown to the network: cleaner than any level it is trained on."""


class CentredDenoiser:
    """A network with its preconditioner: D for a canvas, in training of all frames, in sampling of the wanted ones."""

    def __init__(self, net: SpaceTimeUNet, spread: Spread, backend: Backend = "auto") -> None:
        self.net, self.spread, self.backend = net, spread, backend

    def __call__(self, z: Tensor, s: Tensor, canvas: Canvas, g: Guess) -> Tensor:
        """D [b t c h w] in float32, with gradient. s is [b] or [b t]; known pixels come back as given."""
        return self.parts(z, s, canvas, g)[0]

    def parts(self, z: Tensor, s: Tensor, canvas: Canvas, g: Guess) -> tuple[Tensor, Tensor]:
        """D and the moved base, both [b t c h w]."""
        whole = whole_frames(canvas.known)
        levels = _levels(s, whole)
        inputs = self._inputs(z, levels, canvas, g)
        out = self.net(inputs, c_noise(levels), canvas.index, whole, vector=canvas.vector, backend=self.backend)
        return _combine(z, levels, out, canvas, g)

    def bind(self, canvas: Canvas, g: Guess) -> Denoise:
        """`denoise(z, s)` for one canvas. Frames known in every clip of the batch are computed once, here."""
        whole = whole_frames(canvas.known)
        same = bool((whole == whole[:1]).all())
        wanted = (~whole[0]).nonzero()[:, 0]
        given = whole[0].nonzero()[:, 0]
        if not same or len(given) == 0 or len(wanted) == 0 or not hasattr(self.net, "remember"):
            return lambda z, s: self(z, s, canvas, g)

        memory = self._remember(canvas, g, given)
        part = _pick(canvas, wanted)
        part_guess = Guess(*(getattr(g, name)[:, wanted] for name in Guess.__dataclass_fields__))

        def denoise(z: Tensor, s: Tensor) -> Tensor:
            levels = _levels(s, whole)[:, wanted]
            out = self.net(
                self._inputs(z[:, wanted], levels, part, part_guess),
                c_noise(levels),
                part.index,
                torch.zeros_like(part.index, dtype=torch.bool),
                vector=canvas.vector,
                memory=memory,
                backend=self.backend,
            )
            full = canvas.frames.clone()
            full[:, wanted], _ = _combine(z[:, wanted], levels, out, part, part_guess)
            return full

        return denoise

    def _remember(self, canvas: Canvas, g: Guess, given: Tensor) -> Memory:
        part = _pick(canvas, given)
        levels = torch.full_like(part.index, KNOWN_LEVEL, dtype=torch.float32)
        part_guess = Guess(*(getattr(g, name)[:, given] for name in Guess.__dataclass_fields__))
        inputs = self._inputs(part.frames, levels, part, part_guess)
        return self.net.remember(inputs, c_noise(levels), part.index, vector=canvas.vector, backend=self.backend)

    def _inputs(self, z: Tensor, levels: Tensor, canvas: Canvas, g: Guess) -> Inputs:
        c_in = (levels[:, :, None, None, None] ** 2 + g.sd**2).rsqrt()
        noisy = (c_in * (z - g.base)).masked_fill(canvas.known, 0.0)
        dtype = next(self.net.parameters()).dtype
        noisy, base, near, far, maps = (x.to(dtype) for x in (noisy, g.base, g.near, g.far, g.maps))
        return Inputs(noisy, base, near, far, maps, g.reach)


def _combine(z: Tensor, levels: Tensor, out: Output, canvas: Canvas, g: Guess) -> tuple[Tensor, Tensor]:
    """D and the moved base: EDM's c_skip and c_out with base and spread as the network corrected them."""
    s = levels[:, :, None, None, None]
    sd = g.sd if out.doubt is None else g.sd * out.doubt.float().exp()
    moved = g.base + out.shift.float()
    total = s**2 + sd**2
    d = moved + sd**2 / total * (z - moved) + s * sd * total.rsqrt() * out.f.float()
    # A known pixel is its own base and both its references, with sd 0; only the warp's rounding would move it.
    return torch.where(canvas.known, canvas.frames, d), torch.where(canvas.known, canvas.frames, moved)


def whole_frames(known: Tensor) -> Tensor:
    """bool [b t]: the frames given whole, from known [b t 1 h w]."""
    return known.flatten(2).all(2)


def _levels(s: Tensor, whole: Tensor) -> Tensor:
    """s as [b t], known frames at KNOWN_LEVEL."""
    s = s[:, None].expand(whole.shape) if s.ndim == 1 else s
    return s.float().clamp(min=KNOWN_LEVEL).masked_fill(whole, KNOWN_LEVEL)


def _pick(canvas: Canvas, keep: Tensor) -> Canvas:
    return Canvas(canvas.frames[:, keep], canvas.known[:, keep], canvas.index[:, keep], canvas.vector)


def c_noise(s: Tensor) -> Tensor:
    """How the network is told the level: log(s) / 4 (Karras et al. 2022, table 1)."""
    return s.log() / 4
