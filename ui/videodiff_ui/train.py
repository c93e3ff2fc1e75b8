"""Training a network on clips of one's own: what was found, the start, the curve, pause, stop, go on."""

import json
import math
import secrets
from base64 import b64encode
from pathlib import Path
from typing import Any

import gradio as gr

from videodiff import shelf
from videodiff.errors import UserError
from videodiff.files import link_or_copy
from videodiff.jobs import CANCELLED, FAILED, PAUSED, RUNNING, WAITING, Job, Store
from videodiff.presets import PRESETS
from videodiff.settings import Train, validate
from videodiff.video.folders import Found, survey
from videodiff_ui import cards
from videodiff_ui.cards import button, facts, notice, panel
from videodiff_ui.context import QUIET, App, told
from videodiff_ui.curves import curve
from videodiff_ui.html import Html, join, message, tag, word
from videodiff_ui.words import _

MOST_ROWS = 200
"""Clips listed by name; more are counted."""


def build(app: App) -> None:
    """The components of the page, inside its tab."""
    chosen = gr.State(None)
    seen = gr.State((-1, None))  # the version of the store, and the sheet, that were drawn
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            name = gr.Textbox(
                "", label=_("train.name"), info=_("train.name_info"), max_lines=1, elem_id="vd-train-name"
            )
            folder = gr.Textbox(
                "", label=_("train.folder"), info=_("train.folder_info"), max_lines=1, elem_id="vd-train-folder"
            )
            with gr.Accordion(_("train.upload"), open=False):
                files = gr.File(label=_("train.files"), file_count="multiple", elem_id="vd-train-files")
            look = gr.Button(_("train.look"), elem_id="vd-train-look")
            preset = gr.Dropdown(list(PRESETS), value="motion", label=_("train.preset"), elem_id="vd-train-preset")
            about = panel("vd-train-about", _about("motion"))
            with gr.Row():
                minutes = gr.Number(0, label=_("train.minutes"), minimum=0, min_width=120, elem_id="vd-train-minutes")
                steps = gr.Number(
                    2000, label=_("train.steps"), minimum=1, precision=0, min_width=120, elem_id="vd-train-steps"
                )
            with gr.Accordion(_("train.more"), open=False, elem_id="vd-train-more-box"):
                more = gr.Textbox(
                    "", label=_("train.json"), info=_("train.json_info"), lines=4, max_lines=12, elem_id="vd-train-more"
                )
            start = gr.Button(_("train.start"), variant="primary", elem_id="vd-train-start")
        with gr.Column(scale=2, min_width=320):
            said = panel("vd-train-said")
            runs = panel("vd-train-runs")
            live = panel("vd-train-live")
            sheet = panel("vd-train-sheet")
    form = [name, folder, preset, minutes, steps, more]

    def drawn(chosen: int | None, seen: tuple[int, Path | None]) -> list[Any]:
        version = app.store.version()  # first: what changes meanwhile is drawn the next time
        jobs = app.store.list(kinds=["train"])
        shown = next((job for job in jobs if job.id == chosen), jobs[0] if jobs else None)
        rows = tag("ul", *(_row(job, job == shown) for job in jobs), class_="vd-runs") if jobs else _nothing()
        newest = _newest_sheet(shown) if shown else None
        picture = gr.skip() if newest == seen[1] else _sheet(newest) if newest else Html("")
        return [(version, newest), rows, _live(app.store, shown) if shown else Html(""), picture]

    def looked(folder: str) -> Any:
        try:
            return found_in(list(survey(_folder(folder))))
        except UserError as error:
            return notice(str(error), kind="error")

    def uploaded(files: list[str] | None) -> Any:
        """Clips put in are kept in a folder of their own, as a run that goes on needs them again."""
        if not files:
            return gr.skip(), gr.skip()
        try:
            app.store.check_room()
            target = app.store.uploads / secrets.token_urlsafe(12)
            target.mkdir(parents=True)
            for file in files:
                link_or_copy(Path(file), _free(target, Path(file).name))
        except UserError as error:
            return gr.skip(), notice(str(error), kind="error")
        return str(target), looked(str(target))

    def started(seen: tuple[int, Path | None], *form: Any) -> Any:
        try:
            settings = request(app.store, *form)
            app.store.check_room()
            job = app.store.add(settings)
        except UserError as error:
            return [gr.skip(), notice(str(error), kind="error"), *[gr.skip()] * 4]
        return [job.id, notice(word("train.started", name=settings.out.name)), *drawn(job.id, seen)]

    def clicked(chosen: int | None, seen: tuple[int, Path | None], event: gr.EventData) -> Any:
        number, message = int(str(event.key)), Html("")
        try:
            if event.act == "choose":
                chosen = number
            elif event.act == "pause":
                app.store.pause_job(number)
            elif event.act == "resume":
                app.store.resume_job(number)
            elif event.act == "stop":
                app.store.cancel(number)
                message = notice(word("train.stopped"))
            elif event.act == "go-on":
                run = app.store.get(number)
                check_alone(app.store, Path(run.settings["out"]))
                chosen = app.store.add(run.request()).id
        except UserError as error:
            message = notice(str(error), kind="error")
        return [chosen, message, *drawn(chosen, seen)]

    def ticked(chosen: int | None, seen: tuple[int, Path | None]) -> Any:
        return [gr.skip()] * 4 if seen[0] == app.store.version() else drawn(chosen, seen)

    views = [seen, runs, live, sheet]
    preset.change(_about, preset, about, **QUIET)
    look.click(told(looked), folder, said, api_visibility="private", show_progress_on=look)
    files.upload(told(uploaded), files, [folder, said], api_visibility="private", show_progress_on=files)
    start.click(told(started), [seen, *form], [chosen, said, *views], **QUIET)
    runs.click(told(clicked), [chosen, seen], [chosen, said, *views], **QUIET)
    app.pulse("train", fn=ticked, inputs=[chosen, seen], outputs=views)


# ---------------------------------------------------------------------------------------------------------------------
# The request


def request(
    store: Store, name: str, folder: str, preset: str, minutes: float | None, steps: float | None, more: str
) -> Train:
    """The form as a request. `more` is JSON that goes over the preset; a run gets a folder of its own in `runs`."""
    out = _new(store.runs, name)
    check_alone(store, out)
    try:
        further = json.loads(more) if more.strip() else {}
    except (ValueError, RecursionError) as error:
        raise UserError(f'more settings are not JSON: {error}; write them as {{"batch": 2}}') from error
    if not isinstance(further, dict):
        raise UserError('more settings are not a JSON object; write them as {"batch": 2}')
    values: dict[str, Any] = {**PRESETS[preset].settings, **further}
    if "data" not in further:
        source = "moving_mnist" if preset == "digits" else "packed"
        values["data"] = [{"source": source, "path": str(_folder(folder))}]
    if steps:
        values["steps"] = int(steps)
    if minutes:
        values["minutes"] = minutes
    return validate(Train, {**values, "out": str(out)}, where="training")


def check_alone(store: Store, out: Path) -> None:
    """UserError where a run of this folder, which is made when it begins, is asked for already: two would be one."""
    asked = store.list(kinds=["train"], states=(WAITING, RUNNING, PAUSED), limit=100_000)
    if any(job.settings.get("out") == str(out) for job in asked):
        raise UserError(f"a run named {out.name!r} waits already; choose another name")


def _folder(text: str) -> Path:
    """The folder that was named, which must be there."""
    given = Path(text.strip()).expanduser()
    if not text.strip() or not given.is_dir():
        raise UserError(f"no folder at {text.strip()[:200]!r}; give the path of one that has clips in it")
    return given.absolute()


def _new(home: Path, name: str) -> Path:
    """A folder in `home` that is not there yet."""
    name = name.strip()
    if not shelf.NAME.fullmatch(name) or shelf.RESERVED.fullmatch(name):
        raise UserError(f"{name[:80]!r} cannot name a run; use letters, digits, dots and hyphens, such as my-clips")
    if (home / name).exists():
        raise UserError(f"there is {name!r} already; choose another name, or let that run go on in the list")
    return home / name


def _free(folder: Path, name: str) -> Path:
    """`folder/name`, or with a number where two clips put in have one name."""
    path, number = folder / name, 1
    while path.exists():
        number += 1
        path = folder / f"{Path(name).stem}-{number}{Path(name).suffix}"
    return path


# ---------------------------------------------------------------------------------------------------------------------
# What is seen


def _about(preset: str) -> Html:
    row = PRESETS[preset]
    return facts([(word("train.preset_is"), message(row.help)), (word("train.preset_time"), message(row.time))])


def found_in(found: list[Found]) -> Html:
    """A table of clips that can be used, above one of those that cannot, with the reasons."""
    good = [clip for clip in found if clip.info]
    bad = [clip for clip in found if clip.problem]
    parts = [notice(word("train.found", good=len(good), bad=len(bad)))]
    if bad:
        why = [(tag("bdi", clip.path.name), message(clip.problem)) for clip in bad[:MOST_ROWS]]
        parts.append(cards.table((word("train.clip"), word("train.why")), why, word("train.rejected")))
    rows = []
    for clip in good[:MOST_ROWS]:
        info = clip.info
        assert info
        frames = "" if info.num_frames is None else str(info.num_frames)
        rows.append((tag("bdi", clip.path.name), f"{info.width}x{info.height}", f"{float(info.fps):.4g}", frames))
    if rows:
        head = tuple(word(f"train.{name}") for name in ("clip", "size", "fps", "frames"))
        parts.append(cards.table(head, rows, word("train.accepted")))
    listed = tag("details", tag("summary", word("train.clips_of_folder")), *parts[1:], open=bool(bad))
    return join(parts[0], listed)


def _nothing() -> Html:
    return tag("p", word("train.empty"), class_="vd-empty")


def _row(job: Job, shown: bool) -> Html:
    acts = []
    if job.state in (RUNNING, WAITING):
        acts.append(button("pause", job.id, word("library.pause"), job.title))
    if job.state == PAUSED:
        acts.append(button("resume", job.id, word("library.resume"), job.title))
    if job.state in (RUNNING, WAITING, PAUSED):
        acts.append(button("stop", job.id, word("train.stop"), job.title))
    if job.state in (CANCELLED, FAILED):
        acts.append(button("go-on", job.id, word("train.go_on"), job.title))
    left = cards.lasting(job.eta) if job.eta is not None and job.state == RUNNING else ""
    at_work = job.total and job.state in (RUNNING, PAUSED)
    what = join(message(job.what), f" {job.done}/{job.total}") if at_work else None
    return tag(
        "li",
        button(
            "choose",
            job.id,
            tag("bdi", Path(job.settings["out"]).name),
            aria_pressed=str(shown).lower(),
            class_="vd-act vd-choose",
        ),
        cards.state(job),
        tag("small", what, " · " if left else "", left),
        cards.bar(job.done, job.total) if job.state == RUNNING else None,
        tag("div", *acts, class_="vd-acts"),
        class_="vd-run",
        data_job=job.id,
        data_state=job.state,
    )


def losses(store: Store, id: int, kind: str = "train") -> dict[int, dict[str, float]]:
    """The figures of a training run by step; of a step that was taken twice, as after a kill, the last ones.

    `kind` "measure": those of its saved states.
    """
    by_step = {step: values for step, name, values in store.metrics(id) if name == kind}
    return {step: by_step[step] for step in sorted(by_step)}


def _live(store: Store, job: Job) -> Html:
    """The curve of a run and its latest figures."""
    found = losses(store, job.id)
    points = [(float(step), values["loss"]) for step, values in found.items() if math.isfinite(values["loss"])]
    measured = [(float(step), values["held_out"]) for step, values in losses(store, job.id, "measure").items()]
    parts = [tag("h2", tag("bdi", Path(job.settings["out"]).name))]
    if job.error:
        parts.append(notice(job.error, kind="error"))
    if len(points) > 1:
        drawn = curve(points, "loss", rare=measured)
        legend = tag("figcaption", word("train.loss"), " ", word("train.held_out") if measured else "")
        parts.append(tag("figure", drawn, legend, id="vd-train-curve", class_="vd-figure"))
    elif job.state in (RUNNING, WAITING):
        parts.append(tag("p", word("train.no_curve_yet"), class_="vd-empty"))
    if found:
        step, last = next(reversed(found.items()))
        rows: list[tuple[Html | str, Html | str]] = [
            (word("train.step"), f"{step} / {job.settings['steps']}"),
            (word("train.loss_now"), f"{last['loss']:.4g}"),
            (word("train.speed"), f"{last['steps_a_second']:.3g}"),
            (word("train.clips_seen"), f"{last['clips']:g}"),
        ]
        out = Path(job.settings["out"])
        if (best := shelf.best(out)) and (figure := shelf.measured(best)):
            rows.append((word("train.best"), word("train.best_is", step=_step(best), loss=f"{figure[0]:.4g}")))
        parts.append(facts(rows))
    states = [path for path, kind in job.saved if kind == "state"]
    if states:
        parts.append(tag("p", word("train.saved", name=Path(job.settings["out"]).name), class_="vd-note"))
    if job.notes:
        parts.append(tag("ul", *(tag("li", message(note)) for note in job.notes[-8:]), class_="vd-notes"))
    return tag("section", *parts, class_="vd-detail")


def _newest_sheet(job: Job) -> Path | None:
    """The newest sample sheet of a run."""
    return max((Path(job.settings["out"]) / "samples").glob("step-*.png"), default=None)


def _sheet(path: Path) -> Html:
    """A sample sheet, in the page itself."""
    data = b64encode(path.read_bytes()).decode()
    picture = tag("img", src=f"data:image/png;base64,{data}", alt="", class_="vd-sheet")
    return tag("figure", picture, tag("figcaption", word("train.sheet", step=_step(path))), class_="vd-figure")


def _step(path: Path) -> str:
    """The number in the name of a state or a sheet."""
    return path.stem.removeprefix("step-").lstrip("0")
