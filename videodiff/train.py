"""Training, as one readable story: a generator of events that stops at any moment and resumes exactly.

    for event in fit(settings): ...                      # or: videodiff train --data DIR
    python -m videodiff.train run.json                   # bare: torch, numpy, einops, safetensors, pydantic alone

Everything random in a step is drawn from a generator seeded by (run seed, step, micro-batch, process), so the position
in the data and the state of every random number generator are one number, the step. A state is a folder
`<out>/step-00001234/` that is a loadable checkpoint (EMA weights as bf16) and also holds weights, optimizer and EMA in
full. It appears by one rename, so a kill at any moment leaves the previous state.

Every saved state is measured: the loss of its EMA weights on the same examples each time, from clips that are kept out
of training where there are ten or more. The run goes on from the newest state; its folder stands for the best.
"""

import contextlib
import hashlib
import json
import math
import shutil
import sys
import time
from collections.abc import Callable, Generator, Iterator
from pathlib import Path

import torch
from torch import Tensor

from videodiff import centred, checkpoint, masks, shelf
from videodiff.checkpoint import Window
from videodiff.compute import autocast, pick_device, pick_precision
from videodiff.datasets.mixture import Mixture
from videodiff.datasets.moving_layers import MovingLayers
from videodiff.datasets.moving_mnist import MovingMNIST, load_images
from videodiff.datasets.packed import Packed
from videodiff.datasets.source import Source
from videodiff.denoiser import Cancelled
from videodiff.errors import UserError
from videodiff.events import Event, Metric, Note, Progress, Saved
from videodiff.files import replace_file
from videodiff.guess import Spread, guess
from videodiff.losses import (
    WEIGHT_SPREAD,
    WEIGHTS,
    LossHistory,
    draw_t,
    log_uniform,
    lognormal,
    scheduled,
    wanted_mean,
    with_rate,
)
from videodiff.models import NETWORKS
from videodiff.noise import NoiseSource
from videodiff.parallel import team
from videodiff.sampling import make_plan, sample, sampler
from videodiff.settings import Data, Levels, Train, load, validate
from videodiff.types import Canvas


def fit(settings: Train, cancelled: Callable[[], bool] = lambda: False) -> Iterator[Event]:
    """Train until `settings.steps` or `settings.minutes`; yields Progress, Metric, Saved and Note.

    `cancelled` is asked before every step, in a run of one process: then the state is saved, and `Cancelled` raised.
    """
    # --- who trains, and where
    began = time.monotonic()
    if settings.threads:
        torch.set_num_threads(settings.threads)
    crew = team(settings.device)
    device = crew.device or pick_device(settings.device)
    precision = pick_precision(settings.precision, device)
    chief = crew.rank == 0
    out = settings.out
    if out.exists() and not out.is_dir():
        raise UserError(f"{out} is a file; --out takes the folder of a run")
    out.mkdir(parents=True, exist_ok=True)

    # --- what is trained
    network = NETWORKS[settings.network]
    model = validate(network.Config, settings.model, where="model")
    spread = validate(Spread, settings.spread, where="spread")
    torch.manual_seed(settings.seed)
    net = network.build(model).to(device)
    net.recompute = settings.recompute
    denoiser = centred.CentredDenoiser(net, spread)
    parts = [split_source(build_source(spec, model.channels), settings.frames) for spec in settings.data]
    source, unseen = (
        Mixture([(spec.weight, both[part]) for spec, both in zip(settings.data, parts, strict=True)]) for part in (0, 1)
    )
    names, weights = zip(*net.named_parameters(), strict=True)
    optimizer = torch.optim.AdamW(weights, lr=settings.rate, betas=settings.betas, weight_decay=settings.weight_decay)
    ema = {name: x.detach().clone().float() for name, x in zip(names, weights, strict=True)}
    history = LossHistory(device) if settings.levels.loss_aware else None
    step, seen_clips, lost_seconds = 0, 0, 0.0

    # --- where a former run stopped
    if (state := newest_state(out)) is not None:
        step, seen_clips, lost_seconds = load_state(state, net, optimizer, ema, history)
        yield Note(f"resumed {state.name}: {seen_clips} clips seen in {lost_seconds / 60:.0f} min")
    elif kept := clips_kept_out(parts):
        yield Note(kept)
    if chief:
        (out / "settings.json").write_text(json.dumps(settings.as_json(), indent=1) + "\n")
    start_step = saved_step = step

    def save() -> Iterator[Event]:
        nonlocal saved_step
        seconds = lost_seconds + time.monotonic() - began
        path = save_state(settings, out, step, seen_clips, seconds, net, optimizer, ema, model, spread, history)
        saved_step = step
        yield from judge(path)

    def judge(saved: Path) -> Iterator[Event]:
        # Only now, as a process that is being ended may not have the time: then the state is there, unmeasured.
        yield Saved(str(saved), "state")
        if shelf.measured(saved) is None:
            loss = yield from measure(denoiser, ema, unseen, settings, device, precision)
            figure = {"loss": loss, "on": ruler(settings, unseen, device, precision)}
            replace_file(saved / shelf.MEASURED, json.dumps(figure).encode())
            minutes = (lost_seconds + time.monotonic() - began) / 60
            tell(out, {"step": step, "minutes": minutes, "held_out": loss})
            yield Metric(step, {"held_out": loss}, "measure")
        prune(out, settings.keep)
        if settings.export is not None:
            checkpoint.export(shelf.best(out) or saved, settings.export)
            yield Saved(str(settings.export), "checkpoint")

    if chief and state is not None and step >= settings.steps:  # a kill may have come before anybody heard of it
        yield from judge(state)
    last_save = last_sample = time.monotonic()
    running: list[float] = []
    bad_losses = 0
    while step < settings.steps:
        if cancelled():
            if step > saved_step:
                yield from save()
            raise Cancelled
        # --- one step: accumulate gradients over micro-batches
        rate = learning_rate(step, settings)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad(set_to_none=True)
        loss_sum = 0.0
        for micro in range(settings.accumulate):
            generator = step_generator(settings.seed, step, micro, crew.rank, device)
            canvas = draw_canvas(generator, source, settings)
            if step == start_step and micro == 0 and (complaint := data_complaint(canvas.frames)):
                yield Note(complaint)
            with autocast(device, precision):
                loss = draw_loss(generator, denoiser, canvas, settings, history) / settings.accumulate
            loss.backward()
            loss_sum += float(loss.detach())
        gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in weights]
        for p, gradient in zip(weights, gradients, strict=True):
            p.grad = gradient
        shared_loss = torch.tensor([loss_sum], device=device)
        # The loss too, so that all processes agree on whether to skip; and where it was large, so on the next draws.
        crew.average([*gradients, shared_loss, *([history.pending] if history else [])])
        loss_sum = float(shared_loss)
        norm = float(torch.nn.utils.clip_grad_norm_(weights, settings.clip))

        # --- health: a bad step is skipped and said so, many in a row end the run
        if math.isfinite(loss_sum) and math.isfinite(norm):
            optimizer.step()
            bad_losses = 0
            if history:
                history.update()
        else:
            if history:
                history.drop()
            bad_losses += 1
            yield Note(f"step {step}: the loss or its gradient is not finite; the step was skipped")
            if bad_losses >= 10:
                raise UserError(f"10 steps in a row were not finite from step {step - 9} on; lower --rate")
        if norm == 0:
            yield Note(f"step {step}: the gradient is zero everywhere; nothing is being learnt")
        step += 1
        seen_clips += settings.batch * settings.accumulate * crew.size
        decay = min(settings.ema, (1 + step) / (10 + step))
        with torch.no_grad():
            for name, p in zip(names, weights, strict=True):
                ema[name].lerp_(p.float(), 1 - decay)

        # --- tell the world
        running.append(loss_sum)
        now = time.monotonic()
        if step % settings.log_every == 0 or step == settings.steps:
            speed = (step - start_step) / (now - began)
            values = {
                "loss": sum(running) / len(running),
                "gradient_norm": norm,
                "rate": rate,
                "clips": seen_clips,
                "steps_a_second": speed,
            }
            running.clear()
            if chief:
                tell(out, {"step": step, "minutes": (lost_seconds + now - began) / 60, **values})
            yield Metric(step, values, "train")
        yield Progress(step, settings.steps, "training")
        if chief and now - last_sample > 60 * settings.sample_minutes:
            last_sample = now
            yield from sample_sheet(out, step, denoiser, ema, source, settings, device)
        out_of_time = settings.minutes is not None and now - began > 60 * settings.minutes
        if settings.minutes is not None:  # no process may stop while another waits for its gradients
            votes = torch.tensor([float(out_of_time)], device=device)
            crew.average([votes])
            out_of_time = float(votes) > 0
        if chief and (now - last_save > 60 * settings.save_minutes or out_of_time or step == settings.steps):
            last_save = now
            yield from save()
        if out_of_time:
            yield Note(f"stopped after {settings.minutes:g} min at step {step} of {settings.steps}; run again to go on")
            return


# ---------------------------------------------------------------------------------------------------------------------
# One example, one loss


def build_source(spec: Data, channels: int) -> Source:
    """The training source of one row of `settings.data`."""
    if spec.source == "moving_layers":
        return MovingLayers(channels=channels, spaced=spec.spaced)
    if spec.path is None:
        raise UserError(f"data: {spec.source} needs a path (--data moving_mnist:FOLDER, or a folder of clips)")
    if spec.source == "moving_mnist":
        if channels != 1:
            raise UserError("moving_mnist is grey, this network takes colour; use --preset digits")
        return MovingMNIST(load_images(spec.path), spaced=spec.spaced)
    return Packed(spec.path, channels=channels, strides=spec.strides, spaced=spec.spaced)


def split_source(source: Source, frames: int) -> tuple[Source, Source]:
    """What to train on and what to measure on; a source that makes its clips up serves as both."""
    return source.split(frames) if isinstance(source, Packed) else (source, source)


def clips_kept_out(parts: list[tuple[Source, Source]]) -> str:
    """How many clips of the sets are not trained on, in words; "" if all are."""
    sets = [[len(part.clips) for part in both if isinstance(part, Packed)] for both in parts if both[0] is not both[1]]
    out, total = sum(few for _, few in sets), sum(map(sum, sets))
    return f"{out} of {total} clips are kept out of training, to measure on" if out else ""


def step_generator(seed: int, step: int, micro: int, rank: int, device: torch.device) -> torch.Generator:
    """The one source of randomness of a micro-batch."""
    key = hashlib.blake2b(repr((seed, step, micro, rank)).encode(), digest_size=8).digest()
    return torch.Generator(device).manual_seed(int.from_bytes(key, "big"))


def draw_canvas(generator: torch.Generator, source: Source, settings: Train) -> Canvas:
    """Clips of one of the sizes, with masks drawn from the mixture."""
    size = settings.sizes[int(torch.randint(len(settings.sizes), (), generator=generator, device=generator.device))]
    frames, index = source.batch(generator, settings.batch, settings.frames, size)
    known = masks.draw(generator, settings.batch, settings.frames, size, settings.masks)
    return Canvas(frames, known, index)


def draw_loss(
    generator: torch.Generator,
    denoiser: centred.CentredDenoiser,
    canvas: Canvas,
    settings: Train,
    history: LossHistory | None = None,
    t: Tensor | None = None,
) -> Tensor:
    """w(s) |D - x0|^2 over the wanted pixels at levels drawn for each clip, plus the pull on the moved base.

    `history` says where in t losses were large, and is told these; `t` [b] in (0, 1) is drawn if not given.
    """
    levels, x0 = settings.levels, canvas.frames
    b, device = x0.shape[0], x0.device
    g = guess(canvas, denoiser.spread)
    top = g.sd.amax((1, 2, 3, 4))
    t = draw_t(generator, b, levels.stratified) if t is None else t
    share = torch.ones(b, device=device)
    if history is not None:
        t, share = history.warp(t)
    s, rate = with_rate(lambda t: draw_level(t, top, levels), t)
    noise = torch.randn(x0.shape, generator=generator, device=device)
    d, moved = denoiser.parts(x0 + s[:, None, None, None, None] * noise, s, canvas, g)
    wanted = ~canvas.known
    sd = g.sd.clamp(min=1e-4)
    weight = WEIGHTS[levels.weight](s[:, None, None, None, None], sd, rate[:, None, None, None, None])
    losses = wanted_mean(weight * (d - x0).square(), wanted)
    if history is not None:
        history.note(t, losses)
    loss = (share * losses).mean()
    if settings.move_weight:
        pull = wanted_mean((moved - x0).square() / sd.clamp(min=WEIGHT_SPREAD) ** 2, wanted)  # "f" at the noisy end
        loss = loss + settings.move_weight * pull.mean()
    return loss


def draw_level(t: Tensor, top: Tensor, levels: Levels) -> Tensor:
    """s [b] for t [b] in (0, 1), between `levels.min` and `levels.max_ratio` times the largest spread `top` [b]."""
    s_max = levels.max_ratio * top
    if levels.draw == "log_snr":
        return log_uniform(t, levels.min, s_max)
    s = lognormal(t, levels.mean, levels.std) * top if levels.draw == "lognormal" else scheduled(t, levels.draw)
    return torch.minimum(s.clamp(min=levels.min), s_max)


def learning_rate(step: int, settings: Train) -> float:
    """Linear warm-up, constant, cosine decay to 0 over the last `decay` steps."""
    warm = min(1.0, (step + 1) / max(1, settings.warmup))
    left = (settings.steps - step) / settings.decay if settings.decay else 1.0
    return settings.rate * warm * (0.5 - 0.5 * math.cos(math.pi * min(1.0, left)))


def data_complaint(frames: Tensor) -> str | None:
    """What is wrong with a batch, if its values cannot be frames in [-1, 1]."""
    low, high = float(frames.min()), float(frames.max())
    if not (math.isfinite(low) and math.isfinite(high)) or low < -1.01 or high > 1.01:
        return f"training clips hold values from {low:.3g} to {high:.3g}; frames must lie in [-1, 1]"
    if high - low < 1e-3:
        return "the first training clips are of one single colour; is the data folder the right one?"
    return None


# ---------------------------------------------------------------------------------------------------------------------
# How far it has come

SHEET, MEASURE = -1, -2  # the steps, never taken, whose random numbers these have

EXAMPLES = 32
"""Measured on at least so many; how fine that tells states apart, and what it costs, is in docs/log.md, 18."""


@contextlib.contextmanager
def averaged(net: torch.nn.Module, ema: dict[str, Tensor]) -> Iterator[None]:
    """Within, the network has the EMA weights."""
    current = {name: p.detach().clone() for name, p in net.named_parameters()}
    net.load_state_dict(ema, strict=False)
    net.eval()
    try:
        yield
    finally:
        net.load_state_dict(current, strict=False)
        net.train()


def measure(
    denoiser: centred.CentredDenoiser,
    ema: dict[str, Tensor],
    unseen: Source,
    settings: Train,
    device: torch.device,
    precision: torch.dtype,
) -> Generator[Progress, None, float]:
    """The training loss of the EMA weights, at the same clips, masks, levels and noise whenever it is asked for.

    Levels are drawn evenly over all examples, and not by the history of losses, which changes.
    """
    count = math.ceil(EXAMPLES / settings.batch)
    generator = step_generator(settings.seed, MEASURE, 0, 0, device)
    parts = draw_t(generator, count * settings.batch, stratified=True).split(settings.batch)
    total = 0.0
    with averaged(denoiser.net, ema):
        for k, t in enumerate(parts):
            canvas = draw_canvas(generator, unseen, settings)
            with torch.no_grad(), autocast(device, precision):
                total += float(draw_loss(generator, denoiser, canvas, settings, None, t))
            yield Progress(k + 1, count, "measuring")
    return total / count


def ruler(settings: Train, unseen: Mixture, device: torch.device, precision: torch.dtype) -> str:
    """A name for all that figures must share to be compared: the examples, and the loss."""
    loss = {"seed", "frames", "sizes", "batch", "masks", "levels", "move_weight", "spread"}
    clips = [[[clip["file"], clip["t"]] for clip in getattr(part, "clips", [])] for part in unseen.sources]
    data = [row.model_dump(exclude={"path"}) for row in settings.data]
    told = [settings.model_dump(mode="json", include=loss), data, clips, device.type, str(precision)]
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=8).hexdigest()


def tell(out: Path, line: dict[str, float]) -> None:
    """One line more in the log of a run."""
    with open(out / "log.jsonl", "a") as log:
        log.write(json.dumps(line) + "\n")


def sample_sheet(
    out: Path,
    step: int,
    denoiser: centred.CentredDenoiser,
    ema: dict[str, Tensor],
    source: Source,
    settings: Train,
    device: torch.device,
) -> Iterator[Event]:
    """Continue four fixed clips with the EMA weights: truth above, sample below, as `samples/<step>.png`."""
    generator = step_generator(settings.seed, SHEET, 0, 0, device)
    frames, index = source.batch(generator, 4, settings.frames, settings.sizes[0])
    known = masks.half(generator, settings.frames, *settings.sizes[0]).expand(4, -1, -1, -1, -1)
    canvas = Canvas(frames, known, index)
    with averaged(denoiser.net, ema), torch.no_grad():
        g = guess(canvas, denoiser.spread)
        top = float(g.sd.max())
        plan = make_plan("log_snr", settings.levels.max_ratio * top, settings.levels.min, 8)
        noise = NoiseSource(tuple(range(4)))
        z = g.base + plan.levels[0] * noise.draw(frames.shape[1:]).to(device)
        *_, last = sample(denoiser.bind(canvas, g), z, plan, sampler("dpm3"), noise)
    rows = torch.stack([frames, last.z], 1).flatten(0, 1).clamp(-1, 1)
    pixels = ((rows + 1) * 127.5).round().byte().permute(0, 1, 3, 4, 2).cpu().numpy()
    try:
        from videodiff.video import contact_sheet

        sheet = contact_sheet(pixels.reshape(-1, *pixels.shape[2:]), columns=settings.frames)
    except ImportError as error:
        yield Note(f"no sample sheet: {error.name} is not installed here")
        return
    folder = out / "samples"
    folder.mkdir(exist_ok=True)
    path = folder / f"step-{step:08d}.png"
    path.write_bytes(sheet)
    yield Saved(str(path), "samples")


# ---------------------------------------------------------------------------------------------------------------------
# State

MOMENTS = ("exp_avg", "exp_avg_sq")  # what AdamW keeps of every weight


def newest_state(out: Path) -> Path | None:
    """The newest saved state of a run; a state is complete because it got its name by one rename."""
    states = sorted(out.glob("step-*/state.json"))
    return states[-1].parent if states else None


def save_state(
    settings: Train,
    out: Path,
    step: int,
    seen_clips: int,
    seconds: float,
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    model: object,
    spread: Spread,
    history: LossHistory | None = None,
) -> Path:
    """Write `step-<step>/`."""
    shard = int(settings.shard_mb * 1e6)
    folder = out / f"step-{step:08d}"
    names = [name for name, _ in net.named_parameters()]
    moments = optimizer.state_dict()["state"]
    updates = int(moments[0]["step"]) if moments else 0  # fewer than steps where some were skipped
    training = {
        "steps": step,
        "clips": seen_clips,
        "minutes": round(seconds / 60, 1),
        "settings": settings.model_dump(mode="json", exclude={"out", "data", "threads", "minutes", "device"}),
    }
    with checkpoint.Replacing(folder) as part:
        checkpoint.save_tensors(part, "weights", dict(net.named_parameters()), shard)
        checkpoint.save_tensors(part, "ema", ema, shard)
        if history:
            checkpoint.save_tensors(part, "history", history.state())
        for key in MOMENTS if moments else ():
            checkpoint.save_tensors(part, key, {names[i]: m[key] for i, m in moments.items()}, shard)
        checkpoint.write_bundle(
            part,
            settings.network,
            model,
            ema,
            spread,
            checkpoint.Levels(settings.levels.min, settings.levels.max_ratio),
            Window(settings.frames, min(settings.sizes[0])),
            training,
        )
        state = {"step": step, "updates": updates, "clips": seen_clips, "seconds": seconds}
        (part / "state.json").write_text(json.dumps(state) + "\n")
    return folder


def prune(out: Path, keep: int) -> None:
    """Remove all states but the newest `keep` and the best one. They go by one rename too, so none is seen in part."""
    best = shelf.best(out)
    for part in out.glob(".step-*.part"):  # of killed saves
        shutil.rmtree(part, ignore_errors=True)
    for old in shelf.states(out)[keep:]:
        if old != best:
            with contextlib.suppress(OSError):  # somebody may be reading it; then the next time
                shutil.rmtree(old.rename(out / f".{old.name}.part"), ignore_errors=True)


def load_state(
    folder: Path,
    net: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    ema: dict[str, Tensor],
    history: LossHistory | None = None,
) -> tuple[int, int, float]:
    """Put a saved state into network, optimizer and EMA; returns step, clips seen, seconds spent."""
    state = json.loads((folder / "state.json").read_text())
    parameters = dict(net.named_parameters())
    shapes = {name: p.shape for name, p in parameters.items()}
    weights = checkpoint.load_tensors(folder, "weights", shapes)
    with torch.no_grad():
        for name, p in parameters.items():
            p.copy_(weights[name])
        for name, x in checkpoint.load_tensors(folder, "ema", shapes).items():
            ema[name].copy_(x)
    updates = state.get("updates", state["step"])
    if updates:
        loaded = {key: checkpoint.load_tensors(folder, key, shapes) for key in MOMENTS}
        moments = {
            i: {"step": torch.tensor(float(updates)), **{key: loaded[key][name] for key in MOMENTS}}
            for i, name in enumerate(parameters)
        }
        optimizer.load_state_dict({"state": moments, "param_groups": optimizer.state_dict()["param_groups"]})
    if history and (folder / "history.safetensors").is_file():  # none yet where a run begins to draw by loss
        saved = history.state()
        for name, x in checkpoint.load_tensors(folder, "history", {k: x.shape for k, x in saved.items()}).items():
            saved[name].copy_(x)
    return state["step"], state["clips"], state["seconds"]


def main(arguments: list[str]) -> None:
    """`python -m videodiff.train run.json [name=value ...]`: train and print the events as JSON lines."""
    from videodiff.events import as_json

    if not arguments or not all("=" in argument for argument in arguments[1:]):
        raise UserError("give a settings file, then changes: python -m videodiff.train run.json minutes=9 out=runs/new")
    settings = load(Train, Path(arguments[0]))
    changes = dict(argument.split("=", 1) for argument in arguments[1:])
    settings = validate(Train, {**settings.as_json(), **changes})
    for event in fit(settings):
        if not isinstance(event, Progress):
            print(json.dumps(as_json(event)), flush=True)


if __name__ == "__main__":
    try:
        main(sys.argv[1:])
    except UserError as error:
        print(f"videodiff.train: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
