"""The centred preconditioner: start from a cheap guess of the wanted pixels and let the network say how it is wrong.

    D(z, s) = base' + c_skip (z - base') + c_out F        base' = base + shift, sd' = sd exp(doubt)

c_skip, c_out and c_in are EDM's (Karras et al. 2022, table 1) with a spread `sd` that, like `base`, depends on the
mask and on the distance in time to the known frames, pixel by pixel. `base` is what a careful person without a model
would write: the linear blend of the known pixels before and after, the nearest one where there is one side only, a
smooth fill from the same frame where a pixel is known at no time, and mid-grey where nothing is known. `shift`,
`doubt` and F are the network's. With base 0 and sd constant this is EDM; with sd 1 it is v-prediction (sign flipped).

Training minimises the F-loss, |D - x0|^2 / c_out^2 over the wanted pixels.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.models.attention import Backend
from videodiff.models.unet import Inputs, Memory, Output, SpaceTimeUNet
from videodiff.types import Canvas, Denoise

KNOWN_LEVEL = 1e-3
"""The level s at which known frames are shown to the network: cleaner than any level it is trained on."""


@dataclass(frozen=True)
class Spread:
    """sd of x0 about the guess, in [-1, 1] units, for a pixel d frames from a known one:

        sd = active * a * d ** active_growth + still * d ** still_growth        at most `unknown`

    a is the activity of the place: the standard deviation through time of the known values, the largest within REACH
    pixels. Where nothing ever moved little will, and a network that must not undo noise there makes clean backgrounds
    from the first minutes of training. The defaults follow measurements on the training clips (docs/log.md).

    `unknown` also holds where the pixel is known at no time, `unseen` is the activity where it is known only once, and
    `base` is the guess where nothing is known. With `blend` off base and sd are constants: plain EDM about `base`.
    """

    unknown: float = 0.5
    active: float = 0.45
    active_growth: float = 0.3
    still: float = 0.02
    still_growth: float = 0.5
    unseen: float = 0.15
    base: float = 0.0
    blend: bool = True


REACH = 5
"""Pixels within which movement makes a place active: what moves next is near what moved (measured 2 and 5)."""


@dataclass(frozen=True)
class Guess:
    """What is derived from a canvas once: [b t . h w] each."""

    base: Tensor  # c
    sd: Tensor  # 1, 0 where known
    near: Tensor  # c
    far: Tensor  # c
    maps: Tensor  # 4: known, sd, signed log distances
    reach: Tensor  # 2


def guess(canvas: Canvas, spread: Spread) -> Guess:
    """The cheap guess for every pixel of a canvas, its spread, and the two reference frames.

    `canvas.index` increases along time. A known pixel is its own guess with spread 0.
    """
    past = _carry(canvas, forward=True)
    future = _carry(canvas, forward=False)
    (x1, d1, has1), (x1b, d1b, has1b) = past
    (x2, d2, has2), (x2b, d2b, has2b) = future

    both, either = has1 & has2, has1 | has2
    total = (d1 + d2).clamp(min=1)
    blend = (x1 * d2 + x2 * d1) / total
    nearest = torch.where(has1, x1, x2)
    filled = torch.where(both, blend, nearest)
    # Brownian bridge between two known pixels, Brownian motion from one: variance d1 d2 / (d1 + d2), or d.
    effective = torch.where(both, d1 * d2 / total, torch.where(has1, d1, d2))

    fill = _fill_space(filled, either, spread.base)
    base = torch.where(either, filled, fill) if spread.blend else torch.full_like(filled, spread.base)
    if spread.blend:
        d, a = effective.clamp(min=1e-6), activity(canvas, spread.unseen)
        sd = spread.active * a * d**spread.active_growth + spread.still * d**spread.still_growth
        sd = torch.where(either, sd.clamp(max=spread.unknown), torch.full_like(sd, spread.unknown))
    else:
        sd = torch.full_like(effective, spread.unknown)
    sd = sd.masked_fill(canvas.known, 0.0)
    base = torch.where(canvas.known, canvas.frames, base)

    # near: the closer side; far: the other side, or the second nearest on the same side, or near again.
    first = has1 & (~has2 | (d1 <= d2))
    near = torch.where(first, x1, torch.where(has2, x2, base))
    near_d = torch.where(first, -d1, torch.where(has2, d2, torch.zeros_like(d1)))
    other_x, other_d = torch.where(first, x2, x1), torch.where(first, d2, -d1)
    second_x, second_d = torch.where(first, x1b, x2b), torch.where(first, -d1b, d2b)
    second_has = torch.where(first, has1b, has2b)
    far = torch.where(both, other_x, torch.where(second_has, second_x, near))
    far_d = torch.where(both, other_d, torch.where(second_has, second_d, near_d))
    near, far = (torch.where(canvas.known, canvas.frames, x) for x in (near, far))
    near_d, far_d = (x.masked_fill(canvas.known, 0.0) for x in (near_d, far_d))

    known = canvas.known.to(base.dtype)
    maps = torch.cat([known, sd, near_d.sign() * near_d.abs().log1p(), far_d.sign() * far_d.abs().log1p()], 2)
    return Guess(base, sd, near, far, maps, torch.cat([near_d.abs(), far_d.abs()], 2))


def activity(canvas: Canvas, unseen: float) -> Tensor:
    """[b 1 1 h w]: standard deviation through time of each pixel's known values, the largest within REACH pixels."""
    known = canvas.known.to(canvas.frames.dtype)
    count = known.sum(1)
    mean = (canvas.frames * known).sum(1) / count.clamp(min=1)
    square = ((canvas.frames - mean[:, None]) * known).square().sum(1) / count.clamp(min=1)
    deviation = square.mean(1, keepdim=True).sqrt()
    deviation = torch.where(count >= 2, deviation, torch.full_like(deviation, unseen))
    return F.max_pool2d(deviation, 2 * REACH + 1, 1, REACH)[:, None]


Side = tuple[Tensor, Tensor, Tensor]


def _carry(canvas: Canvas, forward: bool) -> tuple[Side, Side]:
    """Per pixel, the last and the last but one known value on one side: value, distance in frames, whether any.

    A known pixel is its own last value, at distance 0.
    """
    order = range(canvas.index.shape[1]) if forward else reversed(range(canvas.index.shape[1]))
    zero = torch.zeros_like(canvas.frames[:, 0])
    when = torch.zeros_like(zero[:, :1])
    none = torch.zeros_like(canvas.known[:, 0])
    (x, at, has), (x_b, at_b, has_b) = (zero, when, none), (zero, when, none)
    rows: list[tuple[int, Side, Side]] = []
    for i in order:
        known, now = canvas.known[:, i], canvas.index[:, i, None, None, None].to(when.dtype)
        x_b, at_b, has_b = torch.where(known, x, x_b), torch.where(known, at, at_b), torch.where(known, has, has_b)
        x, at, has = torch.where(known, canvas.frames[:, i], x), torch.where(known, now, at), has | known
        rows.append((i, (x, (now - at).abs(), has), (x_b, (now - at_b).abs(), has_b)))
    rows.sort(key=lambda row: row[0])

    def stack(which: int) -> Side:
        values, distances, flags = zip(*(row[which] for row in rows), strict=True)  # type: ignore[misc]
        return torch.stack(values, 1), torch.stack(distances, 1), torch.stack(flags, 1)

    return stack(1), stack(2)


def _fill_space(x: Tensor, has: Tensor, default: float) -> Tensor:
    """x where `has`; elsewhere a smooth fill from the same frame (means of ever larger squares), else `default`."""
    if bool(has.all()):
        return x
    b = x.shape[0]
    x, has = x.flatten(0, 1), has.flatten(0, 1).to(x.dtype)
    levels = [(x * has, has)]
    while max(levels[-1][0].shape[-2:]) > 1:
        levels.append(tuple(F.avg_pool2d(y, 2, ceil_mode=True) for y in levels[-1]))  # type: ignore[arg-type]
    top, weight = levels[-1]
    filled = torch.where(weight > 0, top / weight.clamp(min=1e-8), torch.full_like(top, default))
    for total, weight in reversed(levels[:-1]):
        coarse = F.interpolate(filled, total.shape[-2:], mode="bilinear", align_corners=False)
        filled = torch.where(weight > 0, total / weight.clamp(min=1e-8), coarse)
    return filled.unflatten(0, (b, -1))


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

    def bind(self, canvas: Canvas) -> Denoise:
        """`denoise(z, s)` for one canvas. Frames known in every clip of the batch are computed once, here."""
        g = guess(canvas, self.spread)
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
