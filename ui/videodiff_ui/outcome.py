"""What became of a request: progress and preview, the finished clip beside its input, and what can be done with it.

A run only adds jobs to the store. What is seen of them is read again whenever a job changes, so a page that is opened
anew finds its run.
"""

import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gradio as gr

from videodiff.errors import UserError
from videodiff.jobs import DONE, PAUSED, RUNNING, WAITING, Job
from videodiff_ui import export, player, said
from videodiff_ui.context import PAGES, PRIVATE, QUIET, App, parcel, told
from videodiff_ui.form import MACHINE
from videodiff_ui.html import message, picture, tag
from videodiff_ui.intake import READING
from videodiff_ui.words import _

ACTIVE = (WAITING, RUNNING, PAUSED)
MOST_VARIANTS = 8
KEPT = ("checkpoint", "size", *MACHINE)
"""The settings that go with a result to another task."""


class Outcome:
    """The components of a tab that show its last run, and what happens in them.

    stop: the button that stops it. shown: the components that `begun` updates.
    """

    def __init__(self, app: App, name: str, stop: gr.Button):
        self.app, self.kinds, self.stop = app, PAGES[name], stop
        self.jobs = gr.State(None)  # the jobs shown, newest run; None before the page has looked for them
        self.chosen = gr.State(None)  # the job whose result was chosen among variants
        self.drawn = gr.State(("", -1))  # what the result shows, and the version of the store that was drawn
        self._lay_out("vd" if name == "make" else f"vd-{name}")
        self.shown = [
            self.jobs, self.drawn, self.progress, self.preview, self.stop, self.grid, self.variant, self.result,
            self.after, self.download, self.exported,
        ]  # fmt: skip
        self._listen(name)

    def _lay_out(self, name: str) -> None:
        self.progress = gr.HTML("", elem_id=f"{name}-progress", padding=False, apply_default_css=False)
        self.preview = gr.HTML("", elem_id=f"{name}-preview", padding=False, apply_default_css=False)
        self.grid = gr.HTML("", elem_id=f"{name}-grid", padding=False, apply_default_css=False)
        self.variant = gr.Radio([], label=_("make.variant"), visible=False, elem_id=f"{name}-variant")
        self.result = gr.HTML(said.nothing_yet(), elem_id=f"{name}-result", padding=False, apply_default_css=False)
        with gr.Column(visible=False) as self.after:
            with gr.Row(elem_classes="vd-actions"):
                self.download = gr.DownloadButton(
                    _("make.download"), size="sm", variant="primary", min_width=90, elem_id=f"{name}-download"
                )
                self.again = gr.Button(_("make.again"), size="sm", min_width=90, elem_id=f"{name}-again")
                self.extend = gr.Button(_("make.extend"), size="sm", min_width=90, elem_id=f"{name}-extend")
            with gr.Row(elem_classes="vd-actions"):
                self.send = {
                    page: gr.Button(_(f"make.send_{page}"), size="sm", min_width=90, elem_id=f"{name}-send-{page}")
                    for page in PAGES
                }
            with gr.Row(elem_classes="vd-actions"):
                self.form_out = gr.Dropdown(
                    [(_(f"make.export_{form}"), form) for form in export.FORMS],
                    value="mp4",
                    label=_("make.export_as"),
                    min_width=120,
                    elem_id=f"{name}-export-form",
                )
                self.export = gr.Button(_("make.export"), size="sm", min_width=90, elem_id=f"{name}-export")
                self.exported = gr.DownloadButton(
                    _("make.exported"), size="sm", visible=False, min_width=90, elem_id=f"{name}-exported"
                )

    def _listen(self, page: str) -> None:
        shown, sent = [self.jobs, self.chosen], [self.app.inbox, self.app.tabs]
        self.stop.click(told(self.stopped), self.jobs, self.stop, **QUIET)
        self.app.pulse(page, fn=told(self.ticked), inputs=[self.jobs, self.drawn, self.chosen], outputs=self.shown)
        self.variant.input(told(self.redraw), [self.jobs, self.variant], [self.chosen, *self.shown], **QUIET)
        self.again.click(told(self.made_again), shown, self.shown, **QUIET)
        self.extend.click(told(self.extended), shown, sent, **QUIET)
        for target, button in self.send.items():
            button.click(told(self.sender(target)), shown, sent, **QUIET)
        # What was exported before goes first: if this fails, nothing else is taken for it.
        self.export.click(lambda: gr.update(visible=False), None, self.exported, **QUIET).then(
            told(self.exporting), [*shown, self.form_out], self.exported, **PRIVATE
        )

    def begun(self, jobs: list[Job], request: gr.Request) -> dict[Any, Any]:
        """Updates that show a run from its first moment; what was shown before goes."""
        numbers = [job.id for job in jobs]
        return {self.jobs: numbers} | self._drawn(numbers, "", self.app.store.version(), None, request)

    def stopped(self, jobs: list[int], request: gr.Request) -> Any:
        """Stop what is shown."""
        for number in jobs or []:
            if self.app.own(number, request).state in ACTIVE:
                self.app.store.cancel(number)
        return gr.update(interactive=False)

    def ticked(self, jobs: list[int] | None, drawn: tuple[str, int], variant: int | None, request: gr.Request) -> Any:
        """Draw what has changed since; a page that has just been opened looks for its last run first."""
        found = self._last(request) if jobs is None else jobs
        version = self.app.store.version()
        if jobs is not None and drawn[1] == version:
            return {self.drawn: gr.skip()}
        return self._drawn(found, drawn[0], version, variant, request) | ({self.jobs: found} if jobs is None else {})

    def redraw(self, jobs: list[int], variant: int, request: gr.Request) -> dict[Any, Any]:
        """Another of the variants is to be shown."""
        return {self.chosen: variant} | self._drawn(jobs, "", self.app.store.version(), variant, request)

    def _last(self, request: gr.Request) -> list[int]:
        """The last run: a job, with those before it that are variants of one request with it."""
        visitor = self.app.visitor(request) if self.app.public else None
        jobs = self.app.store.list(kinds=self.kinds, visitor=visitor, limit=MOST_VARIANTS)
        number = 1
        while number < len(jobs) and _asked(jobs[number]) == _asked(jobs[number - 1], -1):
            number += 1
        return [job.id for job in reversed(jobs[:number])]

    def _drawn(self, numbers: list[int], shown: str, version: int, variant: int | None, request: gr.Request) -> Any:
        jobs = [self.app.own(number, request) for number in numbers]
        active = [job for job in jobs if job.state in ACTIVE]
        live = next((job for job in jobs if job.state == RUNNING), None)
        preview = self.app.store.preview(live.id) if live else None
        done = [job for job in jobs if job.state == DONE and job.output and job.output.exists()]
        chosen = next((job for job in done if job.id == variant), done[0] if done else None)
        now = f"{chosen.id if chosen else 0}/{len(done)}/{len(jobs)}"
        updates = {
            self.drawn: (now, version),
            self.progress: said.progress(
                jobs, self.app.store.queue(), "" if self.app.public else self.app.store.paused()
            ),
            self.preview: picture(preview, "", class_="vd-live") if preview else "",
            self.stop: gr.update(interactive=bool(active)),
        }
        if now == shown:
            return updates
        updates[self.variant] = gr.update(
            choices=[(f"{place + 1} · {job.settings.get('seed')}", job.id) for place, job in enumerate(done)],
            value=chosen.id if chosen else None,
            visible=len(jobs) > 1,
        )
        updates[self.grid] = said.variants([self._film(job) for job in done]) if len(jobs) > 1 else ""
        updates[self.after] = gr.update(visible=chosen is not None)
        updates[self.exported] = gr.update(visible=False)
        if chosen is None:
            return updates | {self.result: said.nothing_yet()}
        output = output_of(chosen)
        try:
            view = player.view_of(output, self.app.store.cache)
            updates[self.result] = player.draw(view, self._given(view.result))
        except UserError as error:
            updates[self.result] = tag("p", message(str(error)), class_="vd-hint")
        if output.is_file():
            updates[self.download] = gr.update(value=self.app.shown(output), visible=True)
        else:  # a folder of pictures: as an archive, by the export
            updates[self.download] = gr.update(visible=False)
        return updates

    def _film(self, job: Job) -> str:
        """The address of a finished clip, as a browser plays it."""
        return player.address(self._given(player.playable(output_of(job), self.app.store.cache, trusted=True)))

    def _given(self, path: Path) -> str:
        """The path by which the page may ask for a film."""
        return str(path) if path.is_relative_to(self.app.store.cache) else self.app.shown(path)

    # --- afterwards

    def _chosen(self, jobs: list[int], variant: int | None, request: gr.Request) -> Job:
        """The finished job that is shown."""
        done = [job for job in (self.app.own(number, request) for number in jobs or []) if job.state == DONE]
        if not done:
            raise UserError("there is no result yet; wait for the run to end")
        return next((job for job in done if job.id == variant), done[0])

    def made_again(self, jobs: list[int], variant: int | None, request: gr.Request) -> Any:
        """The same request with another seed."""
        job = self._chosen(jobs, variant, request)
        return self.begun([self.app.store.again(job.id, seed=random.SystemRandom().randrange(2**31))], request)

    def extended(self, jobs: list[int], variant: int | None, request: gr.Request) -> Any:
        """The result is the clip, and is to be continued."""
        job = self._chosen(jobs, variant, request)
        return parcel("predict", output_of(job), carried(job, "predict")), gr.Tabs(selected="make")

    def sender(self, page: str) -> Callable[..., Any]:
        """The handler of a button that sends the result to a page."""

        def send(jobs: list[int], variant: int | None, request: gr.Request) -> Any:
            job, kind = self._chosen(jobs, variant, request), PAGES[page][0]
            return parcel(kind, output_of(job), carried(job, kind)), gr.Tabs(selected=page)

        return send

    def exporting(self, jobs: list[int], variant: int | None, form: str, request: gr.Request) -> Any:
        """The result in another form, ready to be taken."""
        output = output_of(self._chosen(jobs, variant, request))
        self.app.store.check_room()
        return gr.update(value=str(export.export(output, form, self.app.store.cache)), visible=True)


def carried(job: Job, kind: str) -> dict[str, Any]:
    """The settings with which a result is worked on: the network and the machine; all where the task is the same.

    A seed is drawn anew, what was cut out of the input has been cut, and other files belong to the clip before.
    """
    left = {"seed", "input", "output", "overwrite", *READING, *said.OTHERS}
    same = job.settings.keys() - left if job.kind == kind else set(KEPT)
    return {name: value for name, value in job.settings.items() if name in same}


def _asked(job: Job, by: int = 0) -> dict[str, Any]:
    """What was asked of a job wherever it writes, with a seed changed by so much."""
    return {**job.settings, "output": None, "seed": (job.settings["seed"] + by) % 2**63}


def output_of(job: Job) -> Path:
    """The clip a finished job wrote; UserError where it is gone."""
    if job.output is None or not job.output.exists():
        raise UserError(f"the result of job {job.id} is not where it was written; make it again")
    return job.output
