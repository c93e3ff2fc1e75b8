"""Filling a clip: open a network, fill one canvas, fill a timeline window by window.

model = open_model(settings)
for step in fill_canvas(model, canvas, settings, noise): ...    # one window; the last step's z is the answer
for event in fill(model, layout, settings): ...                 # any length, through the spool
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from videodiff import checkpoint
from videodiff.budget import check_window, goes_backward
from videodiff.centred import CentredDenoiser
from videodiff.checkpoint import Bundle
from videodiff.compute import free_memory, pick_device, pick_precision
from videodiff.conditioning import clamp, put_known, reconstruction
from videodiff.conditioning import replace as put_noised
from videodiff.denoiser import cancellable, scaled
from videodiff.errors import UserError
from videodiff.events import Progress
from videodiff.guess import Guess, guess
from videodiff.guidance import classifier_free, dynamic_threshold, interval
from videodiff.models.attention import check_xformers
from videodiff.noise import SCHEDULES, NoiseSource, spread
from videodiff.operators import inpaint
from videodiff.planner import Window, windows
from videodiff.restoration import METHODS, Measurement, restore
from videodiff.sampling import Before, Plan, Step, Stepper, make_plan, repaint, row, sample
from videodiff.sampling.inversion import encode, slerp
from videodiff.settings import Restore, Sampling
from videodiff.smoothing import local
from videodiff.spool import Journal
from videodiff.tasks.layout import Damage, Layout, Shape
from videodiff.types import Canvas, Denoise
from videodiff.video import jpeg

PREVIEW_SECONDS = 0.5
"""A preview is made at most this often, which keeps its cost far below that of a step."""

PREVIEW_HEIGHT = 256
"""Pixels; larger previews cost more than they show."""


def never() -> bool:
    """Nobody asks to stop."""
    return False


# ---------------------------------------------------------------------------------------------------------------------
# Networks


@dataclass(frozen=True)
class Model:
    """A checkpoint on a device, ready to denoise."""

    bundle: Bundle
    denoiser: CentredDenoiser
    device: torch.device
    precision: torch.dtype

    def shape(self, window: int | None) -> Shape:
        """What it asks of frames; `window` overrides the number of frames it was trained on, if those are enough."""
        b = self.bundle
        return Shape(b.window.side, b.model.multiple, b.channels, window or max(3, b.window.frames))


def open_model(settings: Sampling) -> Model:
    """Load the checkpoint and move it to the device and precision asked for."""
    if settings.threads:
        torch.set_num_threads(settings.threads)
    device = pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    if settings.attention == "xformers":
        check_xformers(device.type, precision)
    bundle = checkpoint.load(settings.checkpoint)
    net = bundle.net.to(device=device, dtype=precision)
    return Model(bundle, CentredDenoiser(net, bundle.spread, settings.attention), device, precision)


# ---------------------------------------------------------------------------------------------------------------------
# One canvas

Share = TypeVar("Share", float, Tensor)


def first_level(model: Model, share: Share) -> Share:
    """The level at which a share of the walk begins, in units of a clip's largest spread: a straight line in log s."""
    last = last_level(model)
    return last * (model.bundle.levels.max_ratio / last) ** share


def last_level(model: Model) -> float:
    """The lowest level the network knows, in the same units."""
    return model.bundle.levels.min / model.bundle.spread.unknown


def make_levels(model: Model, settings: Sampling, share: float = 1.0) -> Plan:
    """The walk of levels, in units of a clip's own largest spread; a share below 1 begins lower, with as many steps."""
    first, last = first_level(model, share), last_level(model)
    if first < 1.5 * last:  # no room for steps between
        return Plan((first, 0.0))
    schedule = SCHEDULES["cosine"]() if settings.walk in ("uniform_t", "quadratic_t") else None
    return make_plan(settings.walk, first, last, settings.steps, schedule)


def make_walk(model: Model, settings: Sampling, share: float = 1.0) -> tuple[Stepper, Plan]:
    """How, and along which levels, a canvas is sampled."""
    sampler, levels = row(settings.sampler), make_levels(model, settings, share)
    plan = sampler.replan(levels)
    if settings.conditioning == "repaint":
        if plan != levels:
            raise UserError(f"--sampler {settings.sampler} jumps by itself; take another with --conditioning repaint")
        plan = repaint(levels, jump=1, times=settings.repaint_times)
    return sampler.stepper, plan


def fill_canvas(
    model: Model, canvas: Canvas, settings: Sampling, noise: NoiseSource, cancelled: Callable[[], bool] = never
) -> Iterator[Step]:
    """Steps of sampling one canvas [b t c h w]; the last one's z is the answer, its known pixels as given bit for bit.

    Each clip walks the same plan in units of the largest spread of its own guess, `unit` [b]: dz/ds = (z - D) / s does
    not change when z and s are scaled together, and so no clip's levels depend on its neighbours in the batch.
    `cancelled` is asked before every evaluation; once it says yes, `denoiser.Cancelled` is raised.
    """
    canvas = canvas.to(model.device)
    share = 1.0 if canvas.start is None else float(canvas.start.max())
    if share == 0:
        yield Step(0, 0, 0.0, canvas.frames, canvas.frames)
        return
    g = guess(canvas, model.bundle.spread)
    guided = canvas.start is not None or canvas.noise is not None
    denoise, before, unit = _conditioned(model, canvas, g, settings, cancelled, guided)
    stepper, plan = make_walk(model, settings, share)
    scale = spread(unit, canvas.frames)
    n = noise.draw(canvas.frames.shape[1:], kind="start") if canvas.noise is None else canvas.noise
    n = n.to(model.device)
    z = g.base / scale + plan.levels[0] * n
    if canvas.start is not None:
        guide = canvas.frames / scale
        z = torch.where(canvas.start < 1, guide + plan.levels[0] * n, z)
        begin = torch.where(canvas.start < 1, first_level(model, canvas.start), torch.inf)
        before = _in_turn(before, _hold(guide, begin, n))
        canvas = replace(canvas, known=canvas.known | (canvas.start == 0))
    for step in sample(scaled(denoise, unit), z, plan, stepper, noise, before):
        x0, z = step.x0 * scale, step.z * scale
        yield replace(step, x0=x0, z=put_known(z, canvas) if step.s == 0 else z)


def _conditioned(
    model: Model, canvas: Canvas, g: Guess, settings: Sampling, cancelled: Callable[[], bool], guided: bool
) -> tuple[Denoise, Before | None, Tensor]:
    """The denoiser that knows what the canvas gives, what is to be done before each evaluation, and the unit [b]."""

    def bind(canvas: Canvas, g: Guess) -> Denoise:
        denoise = _by_itself(model, canvas, g) if guided and not canvas.known.any() else model.denoiser.bind(canvas, g)
        return cancellable(denoise, cancelled)

    native = settings.conditioning == "concat"
    unit = torch.full((len(g.sd),), model.bundle.spread.unknown, device=g.sd.device)
    before = None
    if native and settings.guidance == 1:
        denoise = bind(canvas, g)
        unit = g.sd.amax((1, 2, 3, 4)).clamp(min=model.bundle.levels.min)
    else:
        blank = replace(canvas, known=torch.zeros_like(canvas.known))
        denoise = bind(blank, guess(blank, model.bundle.spread))
        if native:
            conditional = bind(canvas, g)
            denoise = classifier_free(conditional, denoise, settings.guidance, rescale=settings.guidance_rescale)
            if settings.guidance_interval is not None:
                denoise = interval(denoise, conditional, *settings.guidance_interval)
        else:
            denoise, before = CONDITIONINGS[settings.conditioning](denoise, canvas)
            before = before and _scaled_hook(before, unit)
    if settings.threshold is not None:
        denoise = dynamic_threshold(denoise, settings.threshold)
    return denoise, before, unit


VISIBLE = 2.0
"""The level up to which a clip under noise still shows what it is like (measured on train clips, docs/log.md)."""


def _by_itself(model: Model, canvas: Canvas, g: Guess) -> Denoise:
    """D where nothing is known: centred on what the clip under noise itself shows, instead of on nothing.

    A network that has seen few clips without known frames knows little of them: at level .2 it comes within 25 dB of
    the clip, the local means of z within 29, and the network centred on these within 30 (docs/log.md).
    """

    def denoise(z: Tensor, s: Tensor) -> Tensor:
        mean, v = local(z, s)
        sd = v.sqrt().clamp(max=model.bundle.spread.unknown)
        own = Guess(mean, sd, mean, mean, torch.cat([g.maps[:, :, :1], sd, g.maps[:, :, 2:]], 2), g.reach)
        shows = spread(s <= VISIBLE, z)
        parts = (torch.where(shows, getattr(own, name), getattr(g, name)) for name in Guess.__dataclass_fields__)
        return model.denoiser(z, s, canvas, Guess(*parts))

    return denoise


Conditioning = Callable[[Denoise, Canvas], tuple[Denoise, Before | None]]
CONDITIONINGS: dict[str, Conditioning] = {
    "clamp": lambda denoise, canvas: (clamp(denoise, canvas), None),
    "replace": lambda denoise, canvas: (denoise, put_noised(canvas)),
    "repaint": lambda denoise, canvas: (denoise, put_noised(canvas)),  # the walk does the rest
    "reconstruction": lambda denoise, canvas: (
        reconstruction(denoise, inpaint(canvas.known), canvas.frames * canvas.known),
        put_noised(canvas),
    ),
}
"""How a network that was not told is held to what is known: from one that knows nothing, to one that does."""


def _scaled_hook(before: Before, unit: Tensor) -> Before:
    """A hook of z and s for a walk in units of `unit` [b]."""

    def scaling(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        scale = spread(unit, z)
        return before(z * scale, s * unit, draw) / scale

    return scaling


def _hold(guide: Tensor, begin: Tensor, n: Tensor) -> Before:
    """A hook that keeps every pixel at its guide under noise down to the last level not below its own, `begin`.

    It is SDEdit (Meng et al. 2022) with a strength for each pixel. One noise serves all levels, so that a pixel leaves
    its guide where SDEdit alone would have put it. 1e-4: levels that are equal but for rounding count as equal.
    """

    def before(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        level = spread(s, z)
        return torch.where(level >= begin * (1 - 1e-4), guide + level * n, z)

    return before


def _in_turn(first: Before | None, second: Before) -> Before:
    if first is None:
        return second
    return lambda z, s, draw: second(first(z, s, draw), s, draw)


def code(
    model: Model, canvas: Canvas, frames: Tensor, settings: Sampling, cancelled: Callable[[], bool] = never
) -> Iterator[Step]:
    """Steps of finding the noise that frames [b t c h w] come from; the last one's z is that noise.

    With it, the same settings and the rest of the canvas, `fill_canvas` gives the frames back (DDIM inversion), as
    nearly as its number of steps allows.
    """
    canvas, frames = canvas.to(model.device), frames.to(model.device)
    g = guess(canvas, model.bundle.spread)
    denoise, _, unit = _conditioned(model, canvas, g, settings, cancelled, guided=True)
    stepper, plan = make_walk(model, settings)
    scale = spread(unit, frames)
    for step in encode(scaled(denoise, unit), frames / scale, plan, stepper):
        z = step.z * scale if step.s < plan.levels[0] else (step.z - g.base / scale) / plan.levels[0]
        yield replace(step, x0=step.x0 * scale, z=z)


def restored(
    model: Model,
    canvas: Canvas,
    damage: Damage,
    settings: Restore,
    noise: NoiseSource,
    carry: bool,
    cancelled: Callable[[], bool] = never,
) -> Iterator[Step]:
    """Steps of restoring the damaged frames of a canvas, beside those that are known; the last one's z is the clip."""
    canvas = canvas.to(model.device)
    operator = damage.operator(tuple(canvas.frames.shape[1:]))  # type: ignore[arg-type]
    y = operator(canvas.frames)
    if not damage.reduced:
        y = torch.where(canvas.known, y, canvas.frames)

    def bind(canvas: Canvas) -> Denoise:
        return cancellable(model.denoiser.bind(canvas, guess(canvas, model.bundle.spread)), cancelled)

    yield from restore(
        bind,
        canvas,
        Measurement(operator, y, damage.sigma),
        METHODS[settings.method],
        lambda unit: restoring_walk(model, settings, unit),
        noise,
        settings.num_passes,
        carry,
    )


def restoring_walk(model: Model, settings: Restore, unit: float) -> tuple[Stepper, Plan]:
    """How, and along which levels, what an estimate lacks is sampled, in units of the noise put on it."""
    last = min(model.bundle.levels.min / unit, 0.5)
    schedule = SCHEDULES["cosine"]() if settings.walk in ("uniform_t", "quadratic_t") else None
    sampler = row("ddim" if settings.method == "ddrm" else settings.sampler)  # DDRM takes as many evaluations as DDIM
    return sampler.stepper, sampler.replan(make_plan(settings.walk, 1.0, last, settings.steps, schedule))


# ---------------------------------------------------------------------------------------------------------------------
# A clip of any length


def fill(
    model: Model,
    layout: Layout,
    settings: Sampling,
    previews: bool = False,
    cancelled: Callable[[], bool] = never,
    journal: Journal | None = None,
) -> Iterator[Progress]:
    """Fill all that is wanted, window by window, into the layout's spool; Progress counts network evaluations.

    Windows that the journal holds are taken from it, and those that are filled are added to it: as the noise of a
    window depends on the seed and its number alone, the result is that of a run in one go.
    """
    assert settings.seed is not None, "a request that samples has its seed drawn"
    plan = list(cut(model, layout, settings))
    costs = [cost(model, layout, settings, window) for window in plan]
    done, total, shown_at = 0, sum(costs), time.monotonic()
    for number, window in enumerate(plan):
        if layout.edit is not None and costs[number] == 0:  # nothing in it is to change
            continue
        if journal is not None and number in journal:
            journal.restore(number, layout.spool)
            done += costs[number]
            yield Progress(done, total, "sampling")
            continue
        noise = NoiseSource(tuple(settings.seed + i for i in range(settings.average)), number)
        for n, step in _steps(model, layout, window, settings, noise, cancelled):
            preview = None
            if previews and time.monotonic() - shown_at > PREVIEW_SECONDS:
                shown_at = time.monotonic()
                preview = jpeg(to_pixels(_small(step.x0.mean(0))))
            yield Progress(done + n, total, "sampling", preview)
        done += costs[number]
        _keep(layout, window, to_pixels(step.z.mean(0)))
        if journal is not None:
            journal.add(number, window.new, layout.spool)


def _small(frames: Tensor) -> Tensor:
    """Frames [t c h w] at a height of at most PREVIEW_HEIGHT."""
    shrink = PREVIEW_HEIGHT / frames.shape[-2]
    return frames if shrink >= 1 else interpolate(frames, scale_factor=shrink, mode="area")


def cut(model: Model, layout: Layout, settings: Sampling) -> Iterator[Window]:
    """The windows of a layout, in the order of filling."""
    t = layout.timeline
    return windows(t.given, t.wanted, model.shape(settings.window).window, t.context)


def cost(model: Model, layout: Layout, settings: Sampling, window: Window) -> int:
    """Evaluations that a window takes; moves, with a sampler of which only the walk itself can tell."""
    edit = layout.edit
    if layout.damage is not None:
        assert isinstance(settings, Restore)
        return _count(*restoring_walk(model, settings, 1.0)) * min(2, len(window.new)) * settings.num_passes
    share = 1.0 if edit is None else edit.share(window.new)
    if share == 0:
        return 0
    if edit is None or not edit.coded:
        return _count(*make_walk(model, settings, share))
    return _count(*make_walk(model, settings)) * (2 if edit.other is None else 3)


def _count(stepper: Stepper, plan: Plan) -> int:
    return stepper.evaluations(plan) or len(plan.moves)


def _exact(stepper: Stepper, plan: Plan) -> bool:
    return stepper.evaluations(plan) is not None


def _steps(
    model: Model,
    layout: Layout,
    window: Window,
    settings: Sampling,
    noise: NoiseSource,
    cancelled: Callable[[], bool],
) -> Iterator[tuple[int, Step]]:
    """The steps of filling one window, with a count of evaluations (or moves, as `cost`) through all of them."""
    canvas, edit = window_canvas(layout, window).repeat(len(noise.seeds)), layout.edit
    if layout.damage is not None:
        assert isinstance(settings, Restore)
        exact = _exact(*restoring_walk(model, settings, 1.0))
        for step in restored(model, canvas, layout.damage, settings, noise, bool(layout.timeline.given), cancelled):
            yield step.n if exact else step.i + 1, step
        return
    stepper, plan = make_walk(model, settings)
    exact, done = _exact(stepper, plan), 0
    if edit is not None and edit.coded:
        # The noise of the frames is turned, frame by frame, towards that of others or towards fresh noise.
        assert canvas.start is not None
        share, canvas = canvas.start.flatten(2).amax(2).flatten(), replace(canvas, start=None)
        codes = []
        others = [] if edit.other is None else [_other_frames(layout, window).expand_as(canvas.frames)]
        for frames in (canvas.frames, *others):
            for step in code(model, canvas, frames, settings, cancelled):
                yield done + (step.n if exact else step.i + 1), step
            codes.append(step.z)
            done += _count(stepper, plan)
        if edit.other is None:
            codes.append(noise.draw(canvas.frames.shape[1:]).to(model.device))
        own, towards = (x.flatten(0, 1) for x in codes)
        canvas = replace(canvas, noise=slerp(own, towards, share).view_as(codes[0]).to(canvas.frames))
    for step in fill_canvas(model, canvas, settings, noise, cancelled):
        yield done + (step.n if exact else step.i + 1), step


def window_canvas(layout: Layout, window: Window) -> Canvas:
    """The canvas of one window, batch of one. Places count from the window's first frame.

    Where the layout is an edit, frames that are there are a guide that is not to change (`start` 0), and not known: the
    network then treats all windows of a clip alike.
    """
    spool, timeline, edit = layout.spool, layout.timeline, layout.edit
    places = sorted((*window.observed, *window.new))
    height, width, channels = spool.shape
    frames = torch.zeros(1, len(places), channels, height, width)
    known = torch.zeros(1, len(places), 1, height, width, dtype=torch.bool)
    start = torch.zeros(known.shape)
    new = set(window.new)
    for i, place in enumerate(places):
        if place in spool:
            frames[0, i] = to_tensor(spool.get(place))
        if edit is not None:
            start[0, i, 0] = torch.as_tensor(edit.start(place)) if place in new else 0
        elif place not in new:
            known[0, i] = True
        elif timeline.hole is not None:
            known[0, i, 0] = torch.from_numpy(~timeline.hole(place))
    index = torch.tensor([[place - places[0] for place in places]])
    if edit is not None:
        return Canvas(frames, known, index, start=start)
    return Canvas(frames if layout.damage is not None else frames * known, known, index)


def _other_frames(layout: Layout, window: Window) -> Tensor:
    """The frames [1 t c h w] towards which an edit turns those of a window; those that stay, as they are."""
    assert layout.edit is not None
    assert layout.edit.other is not None
    places = [layout.edit.other(p) if p in window.new else p for p in sorted((*window.observed, *window.new))]
    return torch.stack([to_tensor(layout.spool.get(place)) for place in places])[None]


def _keep(layout: Layout, window: Window, pixels: np.ndarray) -> None:
    """Put the new frames into the spool; pixels that are known or not to change stay the bytes they were."""
    spool, timeline, edit = layout.spool, layout.timeline, layout.edit
    places = sorted((*window.observed, *window.new))
    for place in window.new:
        frame = pixels[places.index(place)]
        wanted: np.ndarray | None = None
        if timeline.hole is not None:
            wanted = timeline.hole(place)
        elif edit is not None:
            wanted = np.broadcast_to(np.asarray(edit.start(place)) > 0, frame.shape[:2])
        if wanted is not None:
            frame = np.where(wanted[..., None], frame, spool.get(place))
        spool.put(place, frame)


def to_tensor(frame: np.ndarray) -> Tensor:
    """uint8 [h w c] as float32 [c h w] in [-1, 1]."""
    return torch.tensor(frame).permute(2, 0, 1).float() / 127.5 - 1


def to_pixels(frames: Tensor) -> np.ndarray:
    """[t c h w] in [-1, 1] as uint8 [t h w c]."""
    pixels = ((frames.float().clamp(-1, 1) + 1) * 127.5).round().byte()
    return pixels.permute(0, 2, 3, 1).cpu().numpy()


def check_memory(model: Model, layout: Layout, settings: Sampling) -> None:
    """Refuse a window that is too large for any machine, or for the memory free on this one."""
    height, width, _ = layout.spool.shape
    frames = model.shape(settings.window).window
    backward = goes_backward(settings.conditioning, getattr(settings, "method", "ddrm"))
    check_window(width, height, frames, settings.average, backward, free_memory(model.device))
