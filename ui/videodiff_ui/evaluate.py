"""Measuring a checkpoint on clips it has not seen, and the reports of former measurements."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

import gradio as gr

from videodiff.errors import UserError
from videodiff.jobs import DONE, FAILED, PAUSED, RUNNING, WAITING, Job
from videodiff.settings import Evaluate, validate
from videodiff_ui import cards, models
from videodiff_ui.cards import button, facts, notice, panel
from videodiff_ui.context import QUIET, App, told
from videodiff_ui.html import Html, join, message, tag, term, word
from videodiff_ui.words import _

PROTOCOLS = list(get_args(Evaluate.model_fields["protocol"].annotation))
OURS = ("single", "mean_of_samples", "best")
MOST_BYTES = 50_000_000


def build(app: App) -> None:
    """The components of the page, inside its tab."""
    chosen = gr.State(None)
    version = gr.State(-1)
    with gr.Row():
        with gr.Column(scale=1, min_width=300):
            protocol = gr.Dropdown(
                [(_(f"evaluate.{name}"), name) for name in PROTOCOLS],
                value=PROTOCOLS[0],
                label=_("evaluate.protocol"),
                elem_id="vd-evaluate-protocol",
            )
            folders = gr.Textbox(
                "", label=_("evaluate.folders"), info=_("evaluate.folders_info"), lines=2, elem_id="vd-evaluate-folders"
            )
            network = gr.Dropdown(
                models.choices(app.store), value="motion", label=_("evaluate.checkpoint"), elem_id="vd-evaluate-model"
            )
            with gr.Row():
                numbers = [
                    gr.Number(
                        value, label=_(f"evaluate.{name}"), minimum=least, precision=0, min_width=100,
                        elem_id=f"vd-evaluate-{name}",
                    )
                    for name, value, least in (("samples", 4, 1), ("steps", 4, 1), ("clips", 0, 0))
                ]  # fmt: skip
            start = gr.Button(_("evaluate.start"), variant="primary", elem_id="vd-evaluate-start")
        with gr.Column(scale=2, min_width=320):
            said = panel("vd-evaluate-said")
            listed = panel("vd-evaluate-list")
            shown = panel("vd-evaluate-report")
            download = gr.DownloadButton(_("evaluate.download"), visible=False, elem_id="vd-evaluate-download")

    def drawn(chosen: int | None) -> list[Any]:
        now = app.store.version()  # first: what changes meanwhile is drawn the next time
        jobs = app.store.list(kinds=["evaluate"])
        job = next((job for job in jobs if job.id == chosen), next((job for job in jobs if job.state == DONE), None))
        rows = tag("ul", *(_row(one, one == job) for one in jobs), class_="vd-runs")
        empty = tag("p", word("evaluate.empty"), class_="vd-empty")
        file = Path(job.settings["report"]) if job else None
        whole = file is not None and file.is_file()
        return [
            now,
            rows if jobs else empty,
            _report_of(app, job) if job else Html(""),
            gr.DownloadButton(value=app.shown(file) if file and whole else None, visible=whole),
        ]

    def started(protocol: str, folders: str, network: str, samples: int, steps: int, clips: int | None) -> Any:
        given = [line.strip() for line in folders.splitlines() if line.strip()]
        try:
            if not given:
                raise UserError("give at least one folder of clips, one a line")
            values = {"protocol": protocol, "data": given, "checkpoint": network, "samples": samples, "steps": steps}
            settings = validate(Evaluate, {**values, "clips": clips or None}, where="evaluation")
            missing = [path for path in settings.data if not path.expanduser().is_dir()]
            if missing:
                raise UserError(f"no folder at {missing[0]}; give folders of clips, one a line")
            app.store.check_room()
            job = app.store.add(settings)
        except UserError as error:
            return [gr.skip(), notice(str(error), kind="error"), *[gr.skip()] * 4]
        return [job.id, notice(word("evaluate.started")), *drawn(job.id)]

    def clicked(chosen: int | None, event: gr.EventData) -> Any:
        number, message = int(str(event.key)), Html("")
        try:
            if event.act == "choose":
                chosen = number
            elif event.act == "cancel":
                app.store.cancel(number)
        except UserError as error:
            message = notice(str(error), kind="error")
        return [chosen, message, *drawn(chosen)]

    def ticked(version: int, chosen: int | None) -> Any:
        return [gr.skip()] * 4 if version == app.store.version() else drawn(chosen)

    views = [version, listed, shown, download]
    start.click(told(started), [protocol, folders, network, *numbers], [chosen, said, *views], **QUIET)
    listed.click(told(clicked), chosen, [chosen, said, *views], **QUIET)
    app.pulse("evaluate", fn=ticked, inputs=[version, chosen], outputs=views)
    app.tabs.select(lambda: gr.Dropdown(choices=models.choices(app.store)), None, network, **QUIET)


def _row(job: Job, shown: bool) -> Html:
    about = f"{job.settings['protocol']} · {Path(job.settings['checkpoint']).name}"
    going = job.state in (RUNNING, WAITING, PAUSED)
    return tag(
        "li",
        button("choose", job.id, tag("bdi", about), aria_pressed=str(shown).lower(), class_="vd-act vd-choose"),
        cards.state(job),
        cards.when(job.finished or job.created),
        cards.bar(job.done, job.total) if job.state == RUNNING else None,
        tag("div", button("cancel", job.id, word("library.cancel"), about), class_="vd-acts") if going else None,
        class_="vd-run",
        data_job=job.id,
        data_state=job.state,
    )


# ---------------------------------------------------------------------------------------------------------------------
# Reports


def _report_of(app: App, job: Job) -> Html:
    """The report of a finished job; of any other, what is known so far."""
    notes = tag("ul", *(tag("li", message(note)) for note in job.notes), class_="vd-notes") if job.notes else None
    if job.state == FAILED:
        return join(notice(job.error, kind="error"), notes)
    if job.state != DONE:
        rows = [
            (name, f"{value:.4g}")
            for _step, case, values in app.store.metrics(job.id)
            for name, value in ((f"{case}: {name}", value) for name, value in values.items() if name == "psnr")
        ]
        return tag("section", tag("p", word("evaluate.measuring"), class_="vd-empty"), facts(rows), class_="vd-detail")
    try:
        report = read(Path(job.settings["report"]))
        return join(render(report), notes)
    except UserError as error:
        return join(notice(str(error), kind="error"), notes)


def read(file: Path) -> dict[str, Any]:
    """A report as it was written; UserError if it is not there or not one."""
    try:
        if file.stat().st_size > MOST_BYTES:
            raise UserError(f"{file.name} is larger than a report of ours")
        report = json.loads(file.read_text(encoding="utf-8"))
        assert isinstance(report["sets"], dict)
    except (OSError, ValueError, KeyError, TypeError, AssertionError, RecursionError) as error:
        raise UserError(f"{file} cannot be read as a report ({type(error).__name__}); measure again") from error
    return report


def render(report: Mapping[str, Any]) -> Html:
    """The figures of each set and task: ours beside the baselines, with 95 % intervals over clips."""
    figure = str(report["psnr"])
    about = facts(
        [
            (word("evaluate.checkpoint"), f"{report['checkpoint']['name']} ({report['checkpoint']['digest']})"),
            (word("evaluate.protocol"), str(report["protocol"])),
            (word("evaluate.samples"), str(report["samples"])),
            (word("evaluate.took"), cards.lasting(float(report.get("seconds") or 0))),
        ]
    )
    parts = [about]
    for name, found in report["sets"].items():
        parts.append(tag("h3", tag("bdi", name), " ", tag("small", f"{found['width']}x{found['height']}")))
        for task, result in found["tasks"].items():
            parts.append(_table(task, result, figure, int(report["samples"])))
        skipped = [tag("li", tag("bdi", clip), ": ", message(why)) for clip, why in found["skipped"].items()]
        if skipped:
            parts.append(
                tag("details", tag("summary", word("evaluate.skipped", number=len(skipped))), tag("ul", *skipped))
            )
    return tag("section", *parts, class_="vd-detail vd-report")


def _table(task: str, result: Mapping[str, Any], figure: str, samples: int) -> Html:
    """One task: who made the frames in rows, ours first; figures in columns, the best of each marked."""
    figures, intervals = result["figures"], result["intervals"]
    ours = OURS if samples > 1 else OURS[:1]  # the mean and the best of one sample are the sample
    who = [*(name for name in ours if name in figures), *(name for name in figures if name not in OURS)]
    best = max((figures[name].get(figure) or -math.inf for name in who), default=None)
    rows = []
    for name in who:
        label = word(f"evaluate.{name}", number=samples) if name in OURS else term("baseline", name)
        value = figures[name].get(figure)
        rows.append(
            (
                label,
                tag("strong" if value == best else "span", _number(value)),
                _interval(intervals.get(name, {}).get(figure)),
                _number(figures[name].get("ssim"), 3),
                _interval(intervals.get(name, {}).get("ssim"), 3),
                _number(figures[name].get("motion")),
            )
        )
    head = (
        word("evaluate.who"), "PSNR (dB)", word("evaluate.interval"), "SSIM", word("evaluate.interval"),
        word("evaluate.motion"),
    )  # fmt: skip
    counts = word("evaluate.counts", clips=result["clips"], windows=result["windows"])
    caption = join(term("question", task), ": ", counts)
    lines = [
        tag("li", word(f"evaluate.{name}", number=samples), " - ", term("baseline", rival), ": ", _gain(by.get(figure)))
        for name, against in result.get("differences", {}).items()
        if name in ours
        for rival, by in against.items()
    ]
    return join(
        cards.table(head, rows, caption),
        tag("details", tag("summary", word("evaluate.differences")), tag("ul", *lines)) if lines else None,
    )


def _number(value: float | None, digits: int = 2) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _interval(ends: list[float | None] | None, digits: int = 2) -> str:
    if not ends or None in ends:
        return "-"
    return " … ".join(_number(end, digits) for end in ends)


def _gain(found: Mapping[str, float | None] | None) -> str:
    if not found or found["mean"] is None:
        return "-"
    ends = "" if found["low"] is None or found["high"] is None else f" [{found['low']:+.2f}, {found['high']:+.2f}]"
    return f"{found['mean']:+.2f} dB{ends}"
