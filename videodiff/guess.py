"""The cheap guess: what a careful person without a model would write for the wanted pixels, and how far off it may be.

Between two known frames: both moved to the time in between along the optical flow, and blended. After (or before) the
known frames: the nearest one, moved on as things last moved - as far as doing so would have foretold the nearest known
frame from earlier ones, pixel by pixel; where it would not, the nearest frame as it is. The same test gives the spread.

Where frames are known in part only, each pixel goes by its own known values in time: their linear blend, or the
nearest; where it is known at no time, a smooth fill from the same frame; mid-grey where nothing is known.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.flow import flow, smooth, warp
from videodiff.types import Canvas


@dataclass(frozen=True)
class Spread:
    """sd of x0 about the guess, in [-1, 1] units, for a pixel d frames from the nearest known one:

        sd = error * e * (d / h) ** error_growth + still * d ** still_growth       at most `unknown`

    e is the error that the guess would have made h frames away among the known frames, the largest within NEAR pixels.
    Where nothing ever moved little will, and a network that need not undo noise there makes clean backgrounds from the
    first minutes of training. Where frames are known in part, e is the `active` share of the standard deviation of
    the place through time, the largest within REACH pixels, and h is 1. The defaults are the best of those measured on
    the training clips (docs/log.md).

    `unknown` also holds where the pixel is known at no time, `unseen` is the deviation where it is known only once, and
    `base` is the guess where nothing is known. With `motion` off nothing is moved and all frames are treated as
    known in part; with `blend` off base and sd are constants: plain EDM about `base`.
    """

    unknown: float = 0.5
    error: float = 0.6
    error_growth: float = 0.6
    still: float = 0.01
    still_growth: float = 0.5
    active: float = 0.45
    active_growth: float = 0.3
    unseen: float = 0.15
    base: float = 0.0
    blend: bool = True
    motion: bool = True


NEAR = 3
REACH = 5
"""Pixels within which movement makes a place uncertain: what moves next is near what moved (measured 2 to 5)."""
SAME = 1e-3
"""Mean square error below which two forecasts of a place count as equally good (measured 1e-4 to 1e-3)."""
BACKTEST = 3
"""How many frames ahead the forecast is tried on known frames, where there are so many (chosen, not tuned)."""


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

    filled = torch.where(canvas.known, canvas.frames, filled)
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

    if spread.blend and spread.motion:
        base, sd, near, far, near_d, far_d = _move(canvas, spread, base, sd, near, far, near_d, far_d)

    known = canvas.known.to(base.dtype)
    maps = torch.cat([known, sd, near_d.sign() * near_d.abs().log1p(), far_d.sign() * far_d.abs().log1p()], 2)
    return Guess(base, sd, near, far, maps, torch.cat([near_d.abs(), far_d.abs()], 2))


def _move(canvas: Canvas, spread: Spread, *still: Tensor) -> tuple[Tensor, ...]:
    """The guess with things moved along the optical flow, in clips whose frames are known whole or not at all.

    `still` and the result: base, sd, near, far, distances to near and far. Of a forecast, near is the nearest known
    frame as it is and far the same moved on; of a blend, both are moved to the wanted time.
    """
    places = _places(canvas)
    if not places:
        return still
    base, sd, near, far, near_d, far_d = (x.clone() for x in still)
    flows = _Flows(canvas)
    for p in places:
        flows.want(p.clip, p.first, p.second)
        if p.third is not None and p.fourth is not None:
            flows.want(p.clip, p.third, p.fourth)
    flows.compute()

    def column(name: str) -> list[int]:
        return [getattr(p, name) for p in chosen]

    # --- between two known frames: both moved to the time in between, and blended
    if chosen := [p for p in places if p.kind == "blend"]:
        b, t, i, j = (torch.tensor(column(n), device=base.device) for n in ("clip", "place", "first", "second"))
        a, c = canvas.frames[b, i], canvas.frames[b, j]
        f = flows.get(column("clip"), column("first"), column("second"))
        gap = _frames_apart(canvas, b, i, j)
        q = _frames_apart(canvas, b, i, t) / gap
        moved_a, moved_c = warp(a, -f * q), warp(c, f * (1 - q))
        trust, e2 = _judge(a, warp(c, f), c)
        base[b, t] = trust * ((1 - q) * moved_a + q * moved_c) + (1 - trust) * ((1 - q) * a + q * c)
        sd[b, t] = _spread(spread, e2, gap * q * (1 - q), gap)
        first = q <= 0.5
        near[b, t], far[b, t] = torch.where(first, moved_a, moved_c), torch.where(first, moved_c, moved_a)

    # --- beyond the known frames: the nearest one moved on, as far as that would have foretold it
    if chosen := [p for p in places if p.kind == "forecast"]:
        tried = {(p.clip, p.first): p for p in chosen}  # one trial serves all frames beyond a known one
        row = {key: k for k, key in enumerate(tried)}
        which = torch.tensor([row[p.clip, p.first] for p in chosen], device=base.device)
        trusts, errors, horizons = zip(*(_backtest(canvas, flows, p) for p in tried.values()), strict=True)
        trust, e2, h = (torch.cat(x)[which] for x in (trusts, errors, horizons))
        b, t, i, j = (torch.tensor(column(n), device=base.device) for n in ("clip", "place", "first", "second"))
        f = flows.get(column("clip"), column("first"), column("second"))
        d = _frames_apart(canvas, b, i, t)
        last = canvas.frames[b, i]
        forecast = warp(last, f * (d / _frames_apart(canvas, b, i, j)))
        base[b, t] = trust * forecast + (1 - trust) * last
        sd[b, t] = _spread(spread, e2, d, h)
        near[b, t], far[b, t], far_d[b, t] = last, forecast, near_d[b, t]
    return base, sd, near, far, near_d, far_d


@dataclass(frozen=True)
class _Place:
    """A wanted frame and the known ones it is guessed from, nearest first; third and fourth are for the backtest."""

    kind: str
    clip: int
    place: int
    first: int
    second: int
    third: int | None = None
    fourth: int | None = None


def _places(canvas: Canvas) -> list[_Place]:
    """The wanted frames of clips in which two frames or more are known whole and none in part."""
    found = []
    whole, some = canvas.known.flatten(2).all(2).tolist(), canvas.known.flatten(2).any(2).tolist()
    for clip, (all_known, any_known) in enumerate(zip(whole, some, strict=True)):
        known = [t for t, k in enumerate(all_known) if k]
        if all_known != any_known or len(known) < 2:
            continue
        for t in (t for t, k in enumerate(all_known) if not k):
            before, after = [k for k in known if k < t][::-1], [k for k in known if k > t]
            if before and after:
                found.append(_Place("blend", clip, t, before[0], after[0]))
                continue
            side = before or after
            m = min(BACKTEST, len(side) - 2)
            found.append(_Place("forecast", clip, t, side[0], side[1], *(side[m : m + 2] if m > 0 else ())))
    return found


class _Flows:
    """Optical flow between pairs of frames of a canvas, each computed once, all in one batch."""

    def __init__(self, canvas: Canvas) -> None:
        self.canvas = canvas
        self.rows: dict[tuple[int, int, int], int] = {}

    def want(self, clip: int, i: int, j: int) -> None:
        """Ask for the flow from frame i to frame j of a clip."""
        self.rows.setdefault((clip, i, j), len(self.rows))

    def compute(self) -> None:
        """Compute all that was asked for."""
        b, i, j = torch.tensor(list(self.rows), device=self.canvas.frames.device).unbind(1)
        self.flows = flow(self.canvas.frames[b, i], self.canvas.frames[b, j])

    def get(self, clips: list[int], first: list[int], second: list[int]) -> Tensor:
        """Flows [n 2 h w] of the pairs."""
        return self.flows[[self.rows[key] for key in zip(clips, first, second, strict=True)]]


def _backtest(canvas: Canvas, flows: _Flows, p: _Place) -> tuple[Tensor, Tensor, Tensor]:
    """Trust in motion and squared error of the guess [1 1 h w], over how many frames [1 1 1 1]: on a known frame."""
    b, i, j = (torch.tensor([n], device=canvas.frames.device) for n in (p.clip, p.first, p.second))
    truth, still = canvas.frames[b, i], canvas.frames[b, j]
    if p.third is None or p.fourth is None:  # two known frames: nothing to try the forecast on
        e2 = smooth((truth - still).square().mean(1, keepdim=True))
        return torch.full_like(e2, 0.5), e2, _frames_apart(canvas, b, i, j)
    j, k = (torch.tensor([n], device=canvas.frames.device) for n in (p.third, p.fourth))
    h, still = _frames_apart(canvas, b, i, j), canvas.frames[b, j]
    moved = warp(still, flows.get([p.clip], [p.third], [p.fourth]) * (h / _frames_apart(canvas, b, j, k)))
    return *_judge(truth, moved, still), h


def _judge(truth: Tensor, moved: Tensor, still: Tensor) -> tuple[Tensor, Tensor]:
    """How far to trust `moved` rather than `still` [n 1 h w], and the squared error to expect of the mixture."""
    e_moved, e_still = (smooth((truth - x).square().mean(1, keepdim=True)) for x in (moved, still))
    trust = e_still / (e_still + e_moved + SAME)
    return trust, trust * torch.minimum(e_moved, e_still) + (1 - trust) * e_still


def _spread(spread: Spread, e2: Tensor, d: Tensor, h: Tensor) -> Tensor:
    e = F.max_pool2d(e2, 2 * NEAR + 1, 1, NEAR).sqrt()
    sd = spread.error * e * (d / h) ** spread.error_growth + spread.still * d**spread.still_growth
    return sd.clamp(max=spread.unknown)


def _frames_apart(canvas: Canvas, b: Tensor, i: Tensor, j: Tensor) -> Tensor:
    """Distance in frames [n 1 1 1], positive."""
    return (canvas.index[b, i] - canvas.index[b, j]).abs().to(canvas.frames.dtype)[:, None, None, None]


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
