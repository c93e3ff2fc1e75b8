"""Filling a clip: open a network, fill one canvas, fill a timeline window by window.

model = open_model(settings)
for step in fill_canvas(model, canvas, settings, noise): ...    # one window; the last step's z is the answer
for event in fill(model, layout, settings): ...                 # any length, through the spool
"""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from videodiff import checkpoint
from videodiff.centred import CentredDenoiser
from videodiff.checkpoint import Bundle
from videodiff.compute import free_memory, pick_device, pick_precision
from videodiff.conditioning import clamp, put_known
from videodiff.conditioning import replace as put_noised
from videodiff.errors import LimitExceeded, OutOfResources, UserError
from videodiff.events import Progress
from videodiff.guess import Guess, guess
from videodiff.guidance import classifier_free
from videodiff.models.attention import check_xformers
from videodiff.noise import SCHEDULES, NoiseSource
from videodiff.planner import Timeline, Window, windows
from videodiff.sampling import Before, Plan, Step, make_plan, sample, sampler
from videodiff.settings import Sampling
from videodiff.spool import Spool
from videodiff.tasks.layout import Layout, Shape
from videodiff.types import Canvas, Denoise
from videodiff.video import jpeg

PREVIEW_SECONDS = 0.5
"""A preview is made at most this often, which keeps its cost far below that of a step."""

MAX_WINDOW_PIXELS = 16_000_000
"""About 13 GB with the shipped networks."""
BYTES_A_PIXEL = 820
"""Memory of one evaluation for each pixel of a window, in float32 (docs/log.md)."""


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


def make_levels(model: Model, settings: Sampling) -> Plan:
    """The walk of levels, in units of a clip's own largest spread, from the first to the last the network knows."""
    levels, spread = model.bundle.levels, model.bundle.spread
    schedule = SCHEDULES["cosine"]() if settings.walk in ("uniform_t", "quadratic_t") else None
    return make_plan(settings.walk, levels.max_ratio, levels.min / spread.unknown, settings.steps, schedule)


def fill_canvas(model: Model, canvas: Canvas, settings: Sampling, noise: NoiseSource) -> Iterator[Step]:
    """Steps of sampling one canvas [b t c h w]; the last one's z is the answer, its known pixels as given bit for bit.

    Each clip walks the same plan in units of the largest spread of its own guess, `unit` [b]: dz/ds = (z - D) / s does
    not change when z and s are scaled together, and so no clip's levels depend on its neighbours in the batch.
    """
    if settings.guidance != 1 and settings.conditioning != "concat":
        raise UserError(f"--guidance needs --conditioning concat; {settings.conditioning!r} has no two answers to mix")
    canvas = canvas.to(model.device)
    g = guess(canvas, model.bundle.spread)
    if settings.guidance != 1 or settings.conditioning != "concat":
        unit = torch.full((len(g.sd),), model.bundle.spread.unknown, device=model.device)
    else:
        unit = g.sd.amax((1, 2, 3, 4)).clamp(min=model.bundle.levels.min)
    scale = unit[:, None, None, None, None]

    denoise, before = _conditioned(model, canvas, g, settings)

    def scaled(z: Tensor, s: Tensor) -> Tensor:
        return denoise(z * scale, s * unit) / scale

    def scaled_before(z: Tensor, s: Tensor, draw: Callable[[], Tensor]) -> Tensor:
        assert before is not None
        return before(z * scale, s * unit, draw) / scale

    plan = make_levels(model, settings)
    z = g.base / scale + plan.levels[0] * noise.draw(canvas.frames.shape[1:], kind="start").to(model.device)
    for step in sample(scaled, z, plan, sampler(settings.sampler), noise, before and scaled_before):
        x0, z = step.x0 * scale, step.z * scale
        yield replace(step, x0=x0, z=put_known(z, canvas) if step.s == 0 else z)


def _conditioned(model: Model, canvas: Canvas, g: Guess, settings: Sampling) -> tuple[Denoise, Before | None]:
    """The denoiser that knows what the canvas gives, and what is to be done before each evaluation."""
    if settings.conditioning == "concat" and settings.guidance == 1:
        return model.denoiser.bind(canvas, g), None
    blank = replace(canvas, known=torch.zeros_like(canvas.known))
    denoise = model.denoiser.bind(blank, guess(blank, model.bundle.spread))
    if settings.conditioning == "concat":
        return classifier_free(model.denoiser.bind(canvas, g), denoise, settings.guidance), None
    return (clamp(denoise, canvas), None) if settings.conditioning == "clamp" else (denoise, put_noised(canvas))


def fill(model: Model, layout: Layout, settings: Sampling, previews: bool = False) -> Iterator[Progress]:
    """Fill all that is wanted, window by window, into the layout's spool; yields Progress after every step."""
    assert settings.seed is not None, "a request that samples has its seed drawn"
    spool, timeline = layout.spool, layout.timeline
    plan = list(windows(timeline.given, timeline.wanted, model.shape(settings.window).window))
    total, done, shown_at = len(plan) * settings.steps, 0, time.monotonic()
    for number, window in enumerate(plan):
        canvas = window_canvas(spool, timeline, window)
        canvas = Canvas(
            *(x.expand(settings.average, *x.shape[1:]) for x in (canvas.frames, canvas.known, canvas.index))
        )
        noise = NoiseSource(tuple(settings.seed + i for i in range(settings.average)), number)
        for step in fill_canvas(model, canvas, settings, noise):
            preview = None
            if previews and time.monotonic() - shown_at > PREVIEW_SECONDS:
                shown_at = time.monotonic()
                preview = jpeg(to_pixels(step.x0.mean(0)))
            yield Progress(done + step.i + 1, total, "sampling", preview)
        done += settings.steps
        _keep(spool, timeline, window, to_pixels(step.z.mean(0)))


def window_canvas(spool: Spool, timeline: Timeline, window: Window) -> Canvas:
    """The canvas of one window, batch of one. Places count from the window's first frame."""
    places = sorted((*window.observed, *window.new))
    height, width, channels = spool.shape
    frames = torch.zeros(1, len(places), channels, height, width)
    known = torch.zeros(1, len(places), 1, height, width, dtype=torch.bool)
    new = set(window.new)
    for i, place in enumerate(places):
        if place in spool:
            frames[0, i] = to_tensor(spool.get(place))
        if place not in new:
            known[0, i] = True
        elif timeline.hole is not None:
            known[0, i, 0] = torch.from_numpy(~timeline.hole(place))
    return Canvas(frames * known, known, torch.tensor([[place - places[0] for place in places]]))


def _keep(spool: Spool, timeline: Timeline, window: Window, pixels: np.ndarray) -> None:
    """Put the new frames into the spool; known pixels of a frame stay the bytes they were."""
    places = sorted((*window.observed, *window.new))
    for place in window.new:
        frame = pixels[places.index(place)]
        if timeline.hole is not None:
            frame = np.where(timeline.hole(place)[..., None], frame, spool.get(place))
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
    pixels = height * width * frames * settings.average
    what = f"a window of {width}x{height} with {frames} frames and --average {settings.average}"
    if pixels > MAX_WINDOW_PIXELS:
        raise LimitExceeded(
            f"{what} is {pixels / 1e6:.0f} million pixels, the limit is {MAX_WINDOW_PIXELS / 1e6:.0f}; "
            "lower --size, --window or --average"
        )
    needed, free = pixels * BYTES_A_PIXEL, free_memory(model.device)
    if free is not None and needed > free:
        raise OutOfResources(
            f"{what} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "lower --size, --window or --average"
        )
