"""The command. Its options are the fields of the Settings models; it prints events and turns errors into exit codes.

Nothing heavy is imported before it is known that work is to be done, so help is instant.
"""

import inspect
import json
import math
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional, get_args

from cyclopts import App, CycloptsError, Parameter, UnusedCliTokensError
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from videodiff import __version__
from videodiff.errors import MissingExtra, UserError
from videodiff.events import Event, Note, Saved, as_json
from videodiff.events import Metric as MetricEvent
from videodiff.events import Progress as ProgressEvent
from videodiff.settings import REQUESTS, Demo, Settings, Task, Train, load, validate

if TYPE_CHECKING:
    from pydantic.fields import FieldInfo

    from videodiff.jobs import Job, Store

STOPPED = 130
POSITIONAL = {"input", "data"}
"""Fields given by position: the clips a command works on."""


def build() -> App:
    """The command tree."""
    app = App(
        name="videodiff",
        help="Continue, interpolate, infill and generate video clips with a space-time diffusion model.",
        version=__version__,
        help_epilogue="Exit codes: 0 done, 1 our bug, 2 usage, 3 unreadable input, 4 checkpoint, 5 over a limit, "
        "6 out of memory, disk or device, 7 an extra is not installed, 130 stopped.",
    )
    for name, kind in REQUESTS.items():
        app.command(_command(name, kind), name=name)
    app.command(info)
    app.command(list_, name="list")
    app.command(doctor)
    app.command(ui)
    queue = App(name="queue", help="List the jobs of the queue, steer them, and run them; --background adds to it.")
    queue.default(queue_list)
    for command in (queue_cancel, queue_pause, queue_resume, queue_run):
        queue.command(command, name=command.__name__.removeprefix("queue_"))
    app.command(queue)
    return app


def _command(name: str, kind: type[Settings]) -> Callable[..., None]:
    """A function whose signature is the fields of a request; only what is given reaches it."""

    def run(**given: Any) -> None:
        perform(kind, given)

    run.__doc__ = kind.__doc__
    run.__name__ = name
    signature = []
    for field, about in kind.model_fields.items():
        if field == "kind" or (kind is Train and field not in TRAIN_OPTIONS):
            continue
        positional = field in POSITIONAL and kind is not Train
        signature.append(
            inspect.Parameter(
                field,
                inspect.Parameter.POSITIONAL_OR_KEYWORD if positional else inspect.Parameter.KEYWORD_ONLY,
                # A required field is optional here: --from may bring it, and pydantic has the last word.
                default=None if about.is_required() else about.default,
                annotation=Annotated[
                    _plain(about), Parameter(help=about.description or "", negative=(), converter=_converter(about))
                ],
            )
        )
    extra = TRAIN_EXTRA if kind is Train else TASK_EXTRA if issubclass(kind, Task) else {}
    common = COMMON if kind is Demo else {**COMMON, **QUEUED}
    for field, (annotation, about_extra) in {**extra, **common}.items():
        signature.append(
            inspect.Parameter(
                field,
                inspect.Parameter.KEYWORD_ONLY,
                default=False if annotation is bool else None,
                annotation=Annotated[
                    annotation,
                    Parameter(
                        name="--" + field.strip("_").replace("_", "-"),
                        help=about_extra,
                        negative=(),
                        consume_multiple=field == "data",
                    ),
                ],
            )
        )
    signature.sort(key=lambda p: p.kind)
    run.__signature__ = inspect.Signature(signature)  # type: ignore[attr-defined]
    return run


COMMON: dict[str, tuple[Any, str]] = {
    "from_": (Path | None, "Take all settings from a JSON file or from a former result (its metadata)."),
    "json": (bool, "Print events as JSON lines."),
    "dry_run": (bool, "Say what would be done and what it would cost; write nothing."),
}
QUEUED: dict[str, tuple[Any, str]] = {
    "background": (
        bool,
        "Add a job to the queue instead, which is run by a process of its own; see `videodiff queue`.",
    ),
}
TASK_EXTRA: dict[str, tuple[Any, str]] = {
    "preset": (str | None, "draft, fine or likely; see `videodiff list presets`."),
}
TRAIN_OPTIONS = (
    "out", "steps", "batch", "rate", "seed", "device", "precision", "threads", "minutes", "recompute", "decay", "export"
)  # fmt: skip
TRAIN_EXTRA: dict[str, tuple[Any, str]] = {
    "data": (tuple[str, ...] | None, "Folders of clips, moving_layers, moving_mnist (fetched) or moving_mnist:FOLDER."),
    "preset": (str | None, "What to train; see `videodiff list presets`."),
}


def _plain(about: "FieldInfo") -> Any:
    """A field's type without pydantic's constraints, which pydantic itself will check."""
    annotation = about.annotation
    if hasattr(annotation, "__metadata__"):
        annotation = get_args(annotation)[0]
    return Optional[annotation] if about.is_required() else annotation  # noqa: UP045 - built at run time


def _converter(about: "FieldInfo") -> Callable[..., str] | None:
    """Whole numbers reach pydantic as they were typed: cyclopts would cut 2.5 down to 2."""
    whole = about.annotation is int or int in get_args(about.annotation)
    return (lambda _, tokens: tokens[0].value) if whole else None


# ---------------------------------------------------------------------------------------------------------------------
# Requests


def perform(kind: type[Settings], given: dict[str, Any]) -> None:
    """Run one request and print its events."""
    source, as_lines, dry = given.pop("from_", None), given.pop("json", False), given.pop("dry_run", False)
    background = given.pop("background", False)
    values = {**(_former(source, kind) if source else {}), **_preset(kind, given.pop("preset", None)), **given}
    if kind is Train:
        rows = values.get("data") or DATA
        if isinstance(rows, list | tuple):  # anything else is refused below
            rows = [_data_row(row) if isinstance(row, str) else row for row in rows]
        values["data"] = rows
    settings = validate(kind, values, where=str(kind.model_fields["kind"].default))
    if background and not dry:
        _queue(settings, as_lines)
        return
    from videodiff import service

    printer = print_lines if as_lines else print_pretty
    printer(service.run(settings, dry=dry))


def _former(source: Path, kind: type[Settings]) -> dict[str, Any]:
    """The settings of a JSON file, or of a result by its metadata; output and overwrite are not taken over."""
    if source.suffix == ".json":
        values = load(dict, source)
    else:
        from videodiff.video import read_metadata

        values = read_metadata(source)
    values = values.get("settings", values)
    if not isinstance(values, Mapping):
        raise UserError(f"{source} holds no settings of videodiff")
    if values.get("kind", kind.model_fields["kind"].default) != kind.model_fields["kind"].default:
        raise UserError(f"{source} was made by `videodiff {values['kind']}`; use that command with --from")
    return {name: value for name, value in values.items() if name not in ("output", "overwrite", "report", "sheet")}


def _preset(kind: type[Settings], name: str | None) -> Mapping[str, Any]:
    """The settings of a preset for this kind of request."""
    from videodiff.presets import PRESETS, QUALITIES

    rows: Mapping[str, Any] = PRESETS if kind is Train else QUALITIES
    if name is None:
        return {}
    if name not in rows:
        raise UserError(f"no preset {name!r}; there are {', '.join(rows)} (`videodiff list presets`)")
    return rows[name].settings


DATA = ("moving_layers",)
"""What is trained on where neither --data nor a preset says."""


def _data_row(text: str) -> dict[str, Any]:
    if text in ("moving_layers", "moving_mnist"):
        return {"source": text}
    if text.startswith("moving_mnist:"):
        return {"source": "moving_mnist", "path": text.removeprefix("moving_mnist:")}
    return {"source": "packed", "path": text}


# ---------------------------------------------------------------------------------------------------------------------
# Printers of events


def print_lines(events: Iterator[Event]) -> None:
    """One JSON object a line on standard output; a figure that is not a number is null."""
    for event in events:
        print(json.dumps(_finite(as_json(event)), allow_nan=False), flush=True)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def print_pretty(events: Iterator[Event]) -> None:
    """A progress bar with the time left on standard error; what was saved and measured on standard output."""
    console = Console(stderr=True, highlight=False)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, Any] = {}
        for event in events:
            if isinstance(event, ProgressEvent):
                if event.what not in tasks:
                    tasks[event.what] = bar.add_task(event.what, total=event.total)
                bar.update(tasks[event.what], completed=event.done, total=event.total)
            elif isinstance(event, Saved):
                print(event.path, flush=True)
            elif isinstance(event, MetricEvent):
                figures = "  ".join(f"{name} {value:.4g}" for name, value in event.values.items())
                console.print(f"{event.name} {event.step}: {figures}", soft_wrap=True, markup=False)
            elif isinstance(event, Note):
                console.print(f"note: {event.text}", soft_wrap=True, markup=False)


# ---------------------------------------------------------------------------------------------------------------------
# The queue


def _queue(settings: Settings, as_lines: bool) -> None:
    """Add a job, and see to it that somebody does it."""
    from videodiff.supervisor import detach

    store = _store()
    job = store.add(settings)
    paused = store.paused()
    if not paused:
        detach(store)
    if as_lines:
        print(json.dumps({"event": "job", "id": job.id, "folder": str(job.folder), "paused": paused}))
        return
    print(f"job {job.id}")
    print(f"videodiff: `videodiff queue` shows it; its results go to {job.folder}", file=sys.stderr)
    if paused:
        print(f"videodiff: the queue is paused: {paused}; let it go on with `videodiff queue resume`", file=sys.stderr)


def _store() -> "Store":
    from videodiff.jobs import Store, data_folder

    return Store(data_folder())


def queue_list(*, limit: int = 20, json: bool = False) -> None:
    """List the running and waiting jobs, then the last others.

    Parameters
    ----------
    limit
        Jobs to list.
    """
    store = _store()
    queue = store.queue()
    seen = {job.id for job in queue}
    jobs = [*queue, *(job for job in store.list(limit=limit) if job.id not in seen)][:limit]
    rows = {
        str(job.id): {"state": job.state, "kind": job.kind, "title": job.title, "about": _about(job)} for job in jobs
    }
    paused = store.paused()
    if json:
        _show({"paused": paused, "jobs": rows}, True)
        return
    for id, row in rows.items():
        print(f"{id:>4}  {row['state']:<9}  {row['kind']:<11}  {row['title']}  {row['about']}".rstrip())
    if paused:
        print(f"paused: {paused}; let it go on with `videodiff queue resume`")


def _about(job: "Job") -> str:
    """What is worth saying of a job in one line: how far it is, what went wrong, or what it made."""
    if job.state == "running":
        left = "" if job.eta is None else f", {job.eta:.0f} s left"
        return f"{job.what} {job.done}/{job.total}{left}" if job.total else "begins"
    return job.error or str(job.output or "")


def queue_cancel(id: int) -> None:
    """Stop a job, whether it waits or runs; what is not complete goes."""
    _store().cancel(id)


def queue_pause(id: int | None = None) -> None:
    """Pause a job, which keeps what is finished of it; without a number, begin no other job."""
    store = _store()
    if id is None:
        store.pause("by `videodiff queue pause`")
    else:
        store.pause_job(id)


def queue_resume(id: int | None = None) -> None:
    """Let a paused or failed job wait for its turn again; without a number, let the queue go on."""
    from videodiff.supervisor import detach

    store = _store()
    if id is None:
        store.resume()
    else:
        store.resume_job(id)
    if store.queue() and not store.paused():
        detach(store)


def queue_run(*, device: str = "auto") -> None:
    """Do all jobs that wait, and say what becomes of them. Ctrl+C puts the running one back.

    Parameters
    ----------
    device
        auto, cpu, cuda, cuda:0, mps: where the jobs run.
    """
    from videodiff.supervisor import run_until_empty

    run_until_empty(_store(), device, lambda text: print(text, flush=True))


# ---------------------------------------------------------------------------------------------------------------------
# Questions


def info(path: Path, *, json: bool = False) -> None:
    """Say what a clip or a checkpoint is, and with which settings a result was made."""
    from videodiff import about

    _show(about.describe(path), json)


def list_(what: str = "all", *, json: bool = False) -> None:
    """List checkpoints, samplers, tasks, presets, networks or datasets."""
    from videodiff import about

    _show(about.catalogue(what), json)


def doctor(*, json: bool = False) -> None:
    """Check this machine: torch, devices, attention by a real call, codecs, checkpoints, disk."""
    from videodiff import about

    _show(about.doctor(), json)


def ui(
    *,
    data: Path | None = None,
    port: int = 7860,
    host: str = "127.0.0.1",
    password: str = "",
    share: Annotated[bool, Parameter(negative=())] = False,
    device: str = "auto",
    max_upload: float = 500,
    quota: float = 20,
    mcp: Annotated[bool, Parameter(negative=())] = False,
    tab: Annotated[bool, Parameter(negative=())] = False,
    no_open: Annotated[bool, Parameter(negative=())] = False,
) -> None:
    """Open the app, in a window of its own where a Chromium-family browser is installed, else in the default browser.

    Parameters
    ----------
    data
        The data folder: jobs, results, checkpoints added. Default: $VIDEODIFF_DATA, or the system's place for it.
    port
        Where to listen; if it is taken, the next that is free. 0: any.
    host
        The address to listen on. Any but this machine's own needs a password.
    password
        Asked of everyone who opens the app; the name is videodiff. Default: $VIDEODIFF_PASSWORD.
    share
        Make a public link through Gradio's tunnel, which sees all that passes. Needs a password.
    device
        auto, cpu, cuda, cuda:0, mps: where the jobs run.
    max_upload
        Megabytes of the largest clip that may be put in.
    quota
        Gigabytes that clips put in may take together.
    mcp
        Also serve the tools of docs/api.md to programs that speak MCP (extra: mcp).
    tab
        Open a tab of the default browser instead of a window.
    no_open
        Open nothing; print the address.
    """
    extra = next(
        (extra for module, extra in UI_EXTRAS.items() if (module != "mcp" or mcp) and not find_spec(module)), ""
    )
    if extra:
        raise MissingExtra(f"this needs the extra {extra}: pip install 'videodiff[{extra}]'")
    from videodiff.jobs import data_folder
    from videodiff_ui.server import Options, serve

    options = Options(
        host=host,
        port=port,
        password=password or os.environ.get("VIDEODIFF_PASSWORD", ""),
        share=share,
        mcp=mcp,
        device=device,
        max_upload=round(max_upload * 1e6),
        quota=round(quota * 1e9),
    )
    show = "no" if no_open else "tab" if tab else "window"
    serve(data.expanduser().absolute() if data else data_folder(), options, show)


UI_EXTRAS = {"gradio": "ui", "mcp": "mcp"}
"""What the app imports, and the extra that brings it."""


def _show(values: dict[str, Any], as_lines: bool, indent: str = "") -> None:
    if as_lines:
        print(json.dumps(values))
        return
    width = max((len(str(name)) for name in values), default=0)
    for name, value in values.items():
        if isinstance(value, dict):
            print(f"{indent}{name}")
            _show(value, False, indent + "  ")
        else:
            print(f"{indent}{name:<{width}}  {value}")


# ---------------------------------------------------------------------------------------------------------------------


def main(arguments: list[str] | None = None) -> None:
    """Parse, run, and exit with the code the README lists."""
    sys.exit(run(sys.argv[1:] if arguments is None else arguments))


def run(arguments: list[str]) -> int:
    """The exit code of a command line."""
    app = build()
    # A termination is an interruption: generators are closed and partial files removed on the way out.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        command, bound, _ = app.parse_args(arguments, exit_on_error=False, print_error=False)
        command(**bound.arguments)
    except CycloptsError as error:
        if isinstance(error, UnusedCliTokensError) and error.unused_tokens:
            text = (
                f"nothing takes '{error.unused_tokens[0]}' where it stands; it may need the name of an option before it"
            )
        else:
            text = re.sub(r"(?<!\.)\.$", "", " ".join(str(error).split()))
            text = re.sub(
                r"1 validation error for \S+ (.*?) \[type=.*", r"\1", text
            )  # pydantic's words, not its report
        where = " ".join(["videodiff", *(error.command_chain or ())])
        print(f"videodiff: {text}; see `{where} --help`", file=sys.stderr)
        return UserError.exit_code
    except UserError as error:
        print(f"videodiff: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("videodiff: stopped; nothing partial was left", file=sys.stderr)
        exec("")  # had it come in the middle of an import, `python -m` would end by the signal, not with our code
        return STOPPED
    except BrokenPipeError:
        sys.stderr.close()
        return 0
    except Exception:
        traceback.print_exc()
        print("videodiff: this is a bug of ours; please report the lines above", file=sys.stderr)
        return 1
    return 0
