"""The one door of the command and the app: `run(settings)` does what a request says and yields its events."""

import hashlib
import json
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from videodiff import __version__, video
from videodiff.datasets.moving_layers import MovingLayers
from videodiff.denoiser import Cancelled
from videodiff.errors import OutOfResources, UserError, check_full
from videodiff.events import Event, Note, Saved
from videodiff.files import replace_file
from videodiff.noise import NoiseSource
from videodiff.pipeline import (
    Model,
    check_memory,
    cost,
    cut,
    fill,
    fill_canvas,
    never,
    open_model,
    to_pixels,
    window_canvas,
)
from videodiff.sampling import Plan, sampler
from videodiff.settings import Bpd, Demo, Evaluate, Predict, Sampling, Settings, Task, Train
from videodiff.spool import Journal
from videodiff.tasks import TASKS
from videodiff.tasks.layout import Layout

Opened = Callable[[Sampling], Model]


def run(
    settings: Settings,
    previews: bool = False,
    dry: bool = False,
    cancelled: Callable[[], bool] = never,
    work: Path | None = None,
    opened: Opened | None = None,
) -> Iterator[Event]:
    """The events of a request. Close the iterator to stop between two of them; what is not complete is then not there.

    `cancelled` is asked before every evaluation of the network, and between the steps of a training run; once it says
    yes, `denoiser.Cancelled` is raised, and nothing partial is left either. It may look at a flag of another thread.
    A training run saves its state first, and goes on from there when it is asked for again.

    `work` is a folder in which a task keeps its finished windows: the same request with the same folder goes on after
    them, to the result of a run in one go. Whoever gave the folder removes it. `opened` opens the network instead of
    `pipeline.open_model`, for who keeps one between requests.
    """
    try:
        if isinstance(settings, Task):
            yield from _render(settings, previews, dry, cancelled, work, opened or open_model)
        elif dry:
            yield outline(settings)
        elif isinstance(settings, Train):
            yield from _train(settings, cancelled)
        elif isinstance(settings, Evaluate):
            from videodiff.evaluate import evaluate

            yield from evaluate(settings, cancelled)
        elif isinstance(settings, Bpd):
            from videodiff.bpd import bpd

            yield from bpd(settings, _each_clip(settings), cancelled)
        elif isinstance(settings, Demo):
            yield from _demo(settings, previews, cancelled)
        else:
            raise AssertionError(type(settings))
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise OutOfResources(OUT_OF_MEMORY) from error
    except RuntimeError as error:
        if "allocate memory" in str(error) or "not enough memory" in str(error):  # torch's CPU allocator
            raise OutOfResources(OUT_OF_MEMORY) from error
        raise
    except OSError as error:
        check_full(error)
        raise


OUT_OF_MEMORY = "memory ran out; lower --size, --window or --average, or set --precision bfloat16"


# ---------------------------------------------------------------------------------------------------------------------
# Clips


def _render(
    settings: Task, previews: bool, dry: bool, cancelled: Callable[[], bool], work: Path | None, opened: Opened
) -> Iterator[Event]:
    clips = None if settings.source is None else video.clips_in(settings.source)
    if clips is None:
        yield from _render_one(opened(settings), settings, previews, dry, cancelled, work)
        return
    if settings.output is not None and settings.output.suffix:
        raise UserError(f"{settings.source} holds several clips; --output must then be a folder, not {settings.output}")
    if settings.output is not None and not dry:
        _make_folder(settings.output)
    stems = Counter(clip.stem for clip in clips)
    model, failed = opened(settings), list[UserError]()
    for clip in clips:
        name = clip.stem if stems[clip.stem] == 1 else clip.name  # a.mp4 beside a.mov
        output = (settings.output or Path()) / _result_of(name, settings)
        one = settings.model_copy(update={"input": clip, "output": output})
        try:
            yield from _render_one(model, one, previews, dry, cancelled, None if work is None else work / name)
        except OutOfResources:
            raise
        except UserError as error:
            failed.append(error)
            yield Note(f"skipped {clip.name}: {error}")
    if len(failed) == len(clips):
        last = failed[-1]
        raise type(last)(f"none of the {len(clips)} clips in {settings.source} could be done; the last: {last}")


def _render_one(
    model: Model, settings: Task, previews: bool, dry: bool, cancelled: Callable[[], bool], work: Path | None = None
) -> Iterator[Event]:
    output = settings.output or default_output(settings)
    for read in settings.reads:
        if read.exists() and output.exists() and output.samefile(read):
            raise UserError(f"{output} is read by this request, and would be lost; choose another --output")
    sheet = output.with_name(f"{output.stem}.sheet.png")
    sidecar = output.with_name(f"{output.name}.json")
    ours = work is not None and _made_before(work, output, settings)
    if ours and sidecar.exists() and (sheet.exists() or not settings.sheet):
        yield Note("the result was whole before the interruption", {"whole": True})
        yield Saved(str(output), "clip")
        if settings.sheet:
            yield Saved(str(sheet), "sheet")
        return
    overwrite = settings.overwrite or ours
    for beside in (sidecar, *([sheet] if settings.sheet else [])):
        if beside.exists() and not overwrite:
            raise UserError(f"{beside} exists; choose another --output, or allow it to be replaced with --overwrite")
    layout = yield from TASKS[settings.kind].lay_out(settings, model.shape(settings.window))
    with layout.spool as spool:
        check_memory(model, layout, settings)
        about = describe(model, layout, settings)
        writer = video.Writer(output, layout.timeline.fps, about, overwrite)
        if dry:
            yield estimate(model, layout, settings, output)
            return
        with writer, _journal(work, about, layout, settings) as journal:  # the writer refuses before the work is done
            if journal is not None and journal.stale:
                yield Note("the input or the network is not what it was before the interruption; begun anew")
            yield from fill(model, layout, settings, previews, cancelled, journal)
            if journal is not None:
                journal.complete()
            for place in layout.timeline.shown:
                writer.add(spool.get(place))
                if cancelled():
                    raise Cancelled
        video.write_sidecar(output, about)
        for note in writer.notes:
            yield Note(note)
        yield Saved(str(output), "clip")
        if settings.sheet:
            _write_sheet(sheet, layout)
            yield Saved(str(sheet), "sheet")


def _journal(work: Path | None, about: dict, layout: Layout, settings: Task) -> AbstractContextManager[Journal | None]:
    """The journal of a request's windows, its key all that decides what is in them; none without a folder for it."""
    if work is None:
        return nullcontext()
    read = [(str(path), *_stamp(path)) for path in settings.reads]
    timeline = [list(x) for x in (layout.timeline.given, layout.timeline.wanted, layout.timeline.shown)]
    made = {name: value for name, value in about["settings"].items() if name not in ("output", "overwrite", "sheet")}
    everything = json.dumps([{**about, "settings": made}, layout.spool.shape, timeline, read], sort_keys=True)
    return Journal(work, hashlib.sha256(everything.encode()).hexdigest(), layout.spool.shape)


def _stamp(path: Path) -> list[tuple[str, int, int]]:
    """(name, size, time of the last change) of a file, or of the files of a folder."""
    files = [path] if not path.is_dir() else sorted(p for p in path.iterdir() if p.is_file())
    return [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]


def _made_before(work: Path, output: Path, settings: Task) -> bool:
    """Whether an interrupted run of this very request had filled all its windows and given its result its name."""
    lines = work / "windows.jsonl"
    if not (output.exists() and lines.is_file() and b'{"whole": true}\n' in lines.read_bytes()):
        return False
    return video.read_metadata(output).get("settings") == settings.as_json()


def _each_clip(settings: Bpd) -> list[Path]:
    """The clips named, and those in the folders named."""
    return [clip for given in settings.input for clip in video.clips_in(given) or [given]]


def default_output(settings: Task) -> Path:
    """`<name>.<task>.mp4` in the working directory."""
    name = f"seed{settings.seed}" if settings.source is None else settings.source.resolve().stem
    return _result_of(name, settings)


def _result_of(name: str, settings: Task) -> Path:
    short = os.fsencode(name)[:180].decode(errors="ignore")  # leaves room for what is added; systems allow 255 bytes
    return Path(f"{short}.{settings.kind}.mp4")


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"the folder {path} cannot be made: {error.strerror}; choose another --output") from error


def describe(model: Model, layout: Layout, settings: Task) -> dict:
    """What is stored inside and beside a result: everything that makes it again."""
    timeline = layout.timeline
    return {
        "videodiff": __version__,
        "torch": torch.__version__,
        "settings": settings.as_json(),
        "checkpoint": {"name": model.bundle.name, "digest": model.bundle.digest},
        "device": model.device.type,
        "precision": str(model.precision).removeprefix("torch."),
        "frames": {"given": len(timeline.given), "filled": len(timeline.wanted), "written": len(timeline.shown)},
    }


def estimate(model: Model, layout: Layout, settings: Task, output: Path) -> Note:
    """What a run would do and take, from one timed evaluation of its first window."""
    timeline = layout.timeline
    plan = list(cut(model, layout, settings))
    total = sum(cost(model, layout, settings, window) for window in plan)
    canvas = replace(window_canvas(layout, plan[0]), start=None)
    began = time.perf_counter()
    for _ in fill_canvas(model, canvas, settings.model_copy(update={"steps": 1, "sampler": "ddim"}), NoiseSource((0,))):
        pass
    seconds = (time.perf_counter() - began) * total * settings.average
    height, width, _ = layout.spool.shape
    # A sampler that chooses its own steps takes as many evaluations as its tolerance asks for in each move.
    unknown = sampler(settings.sampler).evaluations(Plan((1.0, 0.0))) is None
    data = {
        "output": str(output),
        "frames": len(timeline.shown),
        "new_frames": len(timeline.wanted),
        "width": width,
        "height": height,
        "windows": len(plan),
        "evaluations": total * settings.average,
        "seconds": round(seconds, 1),
        "device": model.device.type,
    }
    return Note(
        f"would write {output}: {data['frames']} frames of {width}x{height}, {data['new_frames']} of them new, in "
        f"{data['windows']} windows, {'many times ' if unknown else ''}{data['evaluations']} evaluations, "
        f"{'more than' if unknown else 'about'} {seconds:.0f} s on {model.device.type}",
        data,
    )


def outline(settings: Settings) -> Note:
    """What a request other than a task would do."""
    if isinstance(settings, Train):
        clips = settings.batch * settings.accumulate
        text = f"train a {settings.network} for {settings.steps} steps of {clips} clips in {settings.out}"
        if settings.minutes is not None:
            text += f", {settings.minutes:g} minutes at most"
    elif isinstance(settings, Evaluate):
        from videodiff.questions import PROTOCOLS

        protocol = PROTOCOLS[settings.protocol]
        sets = protocol.clips(settings)
        text = (
            f"ask {len(protocol.questions)} questions of each window of {sum(map(len, sets.values()))} clips in "
            f"{len(sets)} sets, {settings.samples} samples of {settings.steps} steps each"
        )
    elif isinstance(settings, Bpd):
        clips = len(_each_clip(settings))
        text = f"count the bits of {clips} clips by {settings.method}, {settings.steps} noise levels each"
    else:
        text = "write demo.context.mkv, demo.mp4 and demo.png: 8 frames, and 8 more that continue them"
    return Note(f"would {text}", settings.as_json())


def _write_sheet(path: Path, layout: Layout, most: int = 64) -> None:
    """A contact sheet of the result (at most `most` frames, evenly spaced), the filled ones labelled."""
    shown, wanted = list(layout.timeline.shown), set(layout.timeline.wanted)
    places = shown[:: -(-len(shown) // most)]
    labels = [f"{place} new" if place in wanted else f"{place}" for place in places]
    replace_file(path, video.contact_sheet(np.stack([layout.spool.get(place) for place in places]), 8, labels))


# ---------------------------------------------------------------------------------------------------------------------
# Demo and training


def _demo(settings: Demo, previews: bool, cancelled: Callable[[], bool]) -> Iterator[Event]:
    """Render a clip, continue its first half, and lay truth and result side by side."""
    context, clip, sheet = Path("demo.context.mkv"), Path("demo.mp4"), Path("demo.png")
    for path in (context, clip, sheet):
        if path.exists() and not settings.overwrite:
            raise UserError(f"{path} exists; run in another folder, or allow it to be replaced with --overwrite")
    sampling = {name: getattr(settings, name) for name in Sampling.model_fields}
    request = Predict(input=context, output=clip, frames=8, size=64, overwrite=settings.overwrite, **sampling)
    model = open_model(request)
    generator = torch.Generator().manual_seed(DEMO_CLIP)
    truth = to_pixels(MovingLayers().batch(generator, 1, 16, (64, 64))[0][0])
    video.write(context, truth[:8], fps=8, overwrite=settings.overwrite)
    try:
        yield from _render_one(model, request, previews, False, cancelled)
    except BaseException:  # a demo that was stopped leaves nothing in the way of the next
        context.unlink(missing_ok=True)
        raise
    yield Saved(str(context), "clip")
    new = video.read(clip, last=8, trusted=True).frames
    labels = [*(f"{i} true" for i in range(16)), *(f"{i} given" if i < 8 else f"{i} new" for i in range(16))]
    replace_file(sheet, video.contact_sheet(np.concatenate([truth, truth[:8], new]), 16, labels))
    yield Saved(str(sheet), "sheet")


DEMO_CLIP = 4
"""The seed of the demo's clip: several things moving in different ways."""


def _train(settings: Train, cancelled: Callable[[], bool]) -> Iterator[Event]:
    """Pack folders of clips once, then train."""
    from videodiff.datasets.folder import pack
    from videodiff.datasets.moving_mnist import fetch_images
    from videodiff.train import fit

    rows = []
    for number, row in enumerate(settings.data):
        if row.source == "moving_mnist" and row.path is None:
            row = row.model_copy(update={"path": settings.out / "mnist"})
            yield Note(f"fetching MNIST (CC BY-SA 3.0, 11 MB) to {row.path}, unless it is there")
            fetch_images(settings.out / "mnist")
        if row.source == "packed" and row.path is not None and not (row.path / "frames.u8").is_file():
            cache = settings.out / "packed" / f"{number}-{row.path.resolve().name}"  # two folders may share a name
            channels = settings.model.get("channels", 3)
            for event in pack(row.path, cache, short_side=min(settings.sizes[0]), channels=channels):
                yield event
                if cancelled():
                    raise Cancelled
            row = row.model_copy(update={"path": cache})
        rows.append(row)
    yield from fit(settings.model_copy(update={"data": tuple(rows)}), cancelled)
