"""Bits per dimension of real clips under a checkpoint, made from nothing: how well it knows what clips look like.

    for event in bpd(settings, clips): ...

Two answers for the first window of each clip. `ode` is the log density along the probability flow, of uniformly
dequantised pixels; `vlb` the variational bound on their probability, in its three parts. Lower is better, and figures
of different sizes, frame counts or `s_min` do not compare.
"""

import math
from collections.abc import Callable, Generator, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from videodiff import video
from videodiff.denoiser import cancellable
from videodiff.errors import UserError
from videodiff.events import Event, Metric, Note, Progress
from videodiff.guess import Spread, guess
from videodiff.likelihood import (
    BINS,
    RANGE,
    Hutchinson,
    Likelihood,
    bits_per_dim,
    dequantised,
    gaussian_end,
    log_likelihood,
)
from videodiff.noise import NoiseSource
from videodiff.pipeline import Model, open_model, to_tensor
from videodiff.sampling import Plan, Step, log_snr, sampler
from videodiff.settings import Bpd, Sampling, parse_crop
from videodiff.tasks.layout import to_channels
from videodiff.types import Canvas, Denoise
from videodiff.variational import PIXELS, bound

SOLVER = "dpm3"
"""On a real clip of the tests 10 steps came within .035 bits of 20."""

DRAWS = 3
"""Levels of the bound for each of the flow: as long without a derivative as one with it."""


def bpd(settings: Bpd, clips: Sequence[Path], cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """A Metric for each clip and one for their mean, in bits per dimension, after Notes that say what was computed."""
    model = open_model(
        Sampling(
            checkpoint=settings.checkpoint,
            device=settings.device,
            threads=settings.threads,
            seed=settings.seed,
            precision="float32",
        )
    )
    bundle = model.bundle
    plan = log_snr(bundle.levels.max_ratio * bundle.spread.unknown, bundle.levels.min, settings.steps)
    yield from _explained(settings, plan, bundle.spread)

    rows: list[dict[str, float]] = []
    for i, clip in enumerate(clips):
        try:
            x, notes = _window(model, settings, clip)
        except UserError as error:
            if len(clips) == 1:
                raise
            yield Note(f"skipped {clip.name}: {error}")
            continue
        yield from (Note(note) for note in notes)
        x = x.to(model.device)
        denoise = cancellable(_from_nothing(model, x), cancelled)
        values: dict[str, float] = {"frames": x.shape[1], "height": x.shape[3], "width": x.shape[4]}
        if settings.method != "vlb":
            values |= yield from _by_flow(denoise, x, plan, settings, bundle.spread, clip.name)
        if settings.method != "ode":
            values |= _by_bound(denoise, x, plan, settings, bundle.spread)
        rows.append(values)
        yield Metric(i, values, clip.name)
    if not rows:
        raise UserError(f"none of the {len(clips)} clips could be read; see the notes above")
    if len(rows) > 1:
        names = [name for name in rows[0] if name.endswith("bpd")]
        yield Metric(len(rows), {name: float(np.mean([row[name] for row in rows])) for name in names}, "mean")


def _explained(settings: Bpd, plan: Plan, spread: Spread) -> Iterator[Note]:
    """What the figures are: formula and scale, where they end, what was left out."""
    s_max, s_min = plan.levels[0], plan.levels[-2]
    scale = math.log2(BINS / RANGE)
    facts = {"s_min": s_min, "s_max": s_max, "bins": BINS, "range": RANGE, "prior_mean": spread.base}
    yield Note(
        f"given nothing, noise levels s {s_max:g} to {s_min:g}, seed {settings.seed}; what sampling starts from is "
        f"N({spread.base:g}, s^2 + {spread.unknown:g}^2)",
        {**facts, "prior_sd": spread.unknown},
    )
    if settings.method != "vlb":
        least = math.log2(BINS / RANGE * s_min * math.sqrt(2 * math.pi))
        yield Note(
            f"ode: bpd = -(log p) / (d log 2) + log2({BINS} / {RANGE:.4f}) = -(log p) / (d log 2) + {scale:.3f}; "
            f"pixels are p / 127.5 - 1, uniformly dequantised; {SOLVER} with {settings.steps} levels, "
            f"{settings.probes} Hutchinson probe{'s' if settings.probes > 1 else ''}",
            {"formula": "-(log p) / (d log 2) + log2(bins / range)", "offset": scale},
        )
        yield Note(
            f"ode: truncated at s = {s_min:g}, {127.5 * s_min:.2g} grey levels: log p is the density of clips with "
            f"noise of that size; no density with such noise in it is worth less than {least:.2f} bits",
            {"least": least},
        )
    if settings.method != "ode":
        yield Note(
            f"vlb: bpd <= prior + reconstruction + diffusion, of the pixels' probability, so nothing is added; the "
            f"reconstruction is from s = {s_min:g}; {DRAWS * settings.steps} noise levels, a random one in each of as "
            "many equal parts"
        )


def _window(model: Model, settings: Bpd, clip: Path) -> tuple[Tensor, list[str]]:
    """The first window of a clip, [1 t c h w] in [-1, 1], and what there is to say of it."""
    shape, wanted = model.shape(None), settings.frames or model.bundle.window.frames
    fps = None if settings.fps is None else Fraction(settings.fps).limit_denominator(100_000)
    film = video.read(
        clip,
        start=settings.start,
        end=settings.end,
        crop=None if settings.crop is None else parse_crop(settings.crop),
        fps=fps,
        stride=settings.stride,
        num_frames=wanted,
        short_side=settings.size or shape.side,
        multiple=shape.multiple,
        fit="crop",
    )
    notes = list(film.notes)
    if len(film.frames) < wanted:
        notes.append(
            f"{clip.name} has {len(film.frames)} frames, not {wanted}; figures of other lengths do not compare"
        )
    return torch.stack([to_tensor(to_channels(frame, shape.channels)) for frame in film.frames])[None], notes


def _from_nothing(model: Model, x: Tensor) -> Denoise:
    """The model's denoiser for clips like x of which nothing is known."""
    known = torch.zeros_like(x[:, :, :1], dtype=torch.bool)
    canvas = Canvas(torch.zeros_like(x), known, torch.arange(x.shape[1], device=x.device)[None])
    return model.denoiser.bind(canvas, guess(canvas, model.bundle.spread))


def _by_flow(
    denoise: Denoise, x: Tensor, plan: Plan, settings: Bpd, spread: Spread, name: str
) -> Generator[Event, None, dict[str, float]]:
    noise = NoiseSource((settings.seed,))
    steps = log_likelihood(
        denoise,
        dequantised(x, noise),
        plan,
        Hutchinson(noise, settings.probes),
        gaussian_end(spread.base, spread.unknown),
        sampler(SOLVER),
    )
    result = yield from _told(steps, len(plan.levels) - 2, f"flow of {name}")
    d = x.numel()
    values = {"ode_bpd": float(bits_per_dim(result.logp, d)), "ode_nats_per_dim": float(result.logp) / d}
    if settings.probes > 1:
        values["ode_error"] = float(result.error) / (d * math.log(2))
    return values


def _told(steps: Generator[Step, None, Likelihood], total: int, what: str) -> Generator[Event, None, Likelihood]:
    """The result of a generator of steps, told as Progress."""
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        yield Progress(step.i + 1, total, what)


def _by_bound(denoise: Denoise, x: Tensor, plan: Plan, settings: Bpd, spread: Spread) -> dict[str, float]:
    with torch.no_grad():
        terms = bound(
            denoise,
            x,
            plan.levels[-2],
            plan.levels[0],
            NoiseSource((settings.seed,)),
            evaluations=DRAWS * settings.steps,
            values=PIXELS,
            mean=spread.base,
            sd=spread.unknown,
        )
    bits = {name: float(getattr(terms, name)) / math.log(2) for name in ("prior", "reconstruction", "diffusion")}
    return {"vlb_bpd": float(terms.bits), **bits, "vlb_error": float(terms.error) / math.log(2)}
