"""The endpoints for programs, as docs/api.md describes them: one for each task, and those that watch and stop jobs.

Their docstrings are what a program that speaks MCP is told about them.
"""

import asyncio
from collections.abc import Callable, Mapping
from functools import wraps
from pathlib import Path
from typing import Any

import gradio as gr

from videodiff.errors import UserError
from videodiff.jobs import RUNNING, WAITING, Job
from videodiff.settings import TASKS, validate
from videodiff_ui.context import App
from videodiff_ui.intake import keep

POLL_SECONDS = 0.2
Answer = dict[str, Any]


def build(app: App) -> None:
    """The endpoints, inside the app's Blocks."""
    for name in TASKS:
        gr.api(_asking(app, name), api_name=name)

    def job(number: int, request: gr.Request) -> Answer:
        """What became of a job: state, progress, error, notes and, once it is done, the clip."""
        return _told(app, app.own(number, request))

    def jobs(request: gr.Request, text: str = "", limit: int = 20) -> list[Answer]:
        """The last jobs, newest first; `text` is looked for in names and settings. Without their clips."""
        visitor = app.visitor(request) if app.public else None
        return [_facts(job) for job in app.store.list(text=text, visitor=visitor, limit=max(1, min(limit, 200)))]

    def cancel(number: int, request: gr.Request) -> Answer:
        """Stop a job, whether it runs or waits."""
        app.store.cancel(app.own(number, request).id)
        return _facts(app.store.get(number))

    for function in (job, jobs, cancel):
        gr.api(_plainly(function), api_name=function.__name__)


def _asking(app: App, kind: str) -> Callable[..., Any]:
    """The endpoint of a task."""

    async def ask(settings: dict, request: gr.Request, wait: bool = False) -> dict:
        try:
            values = {name: _file(app, value) for name, value in settings.items()}
            asked = app.store.add(validate(TASKS[kind], values, where=kind), app.visitor(request))
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error
        while wait and _goes_on(app, asked.id):
            await asyncio.sleep(POLL_SECONDS)
        return _told(app, app.store.get(asked.id))

    line = (TASKS[kind].__doc__ or kind).strip().split("\n")[0]
    ask.__name__ = kind
    ask.__doc__ = (
        f"{line} Adds a job and returns it at once, or with wait=True when it has ended or is paused.\n\n"
        f"Args:\n    settings: The options of `videodiff {kind}` by name; files as uploads.\n"
        "    wait: Whether to return only when the job has ended."
    )
    return ask


def _goes_on(app: App, number: int) -> bool:
    """Whether a job will end by itself: one that is paused, or waits in a queue that is, does not."""
    state = app.store.get(number).state
    return state == RUNNING or (state == WAITING and not app.store.paused())


def _plainly(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function with its UserErrors shown as they are."""

    @wraps(function)
    def plain(*given: Any, **named: Any) -> Any:
        try:
            return function(*given, **named)
        except UserError as error:
            raise gr.Error(str(error), print_exception=False) from error

    return plain


def _file(app: App, value: Any) -> Any:
    """A setting as it was given; an upload becomes a file of the store's own."""
    if not isinstance(value, Mapping) or "path" not in value:
        return value
    # Gradio has seen to it that it is one; this holds should it ever not.
    path, uploads = Path(str(value["path"])).resolve(), (app.store.cache / "gradio").resolve()
    if not path.is_relative_to(uploads) or not path.is_file():
        raise UserError("a file has to be uploaded; see handle_file of gradio_client")
    return keep(path, app.store)


def _facts(job: Job) -> Answer:
    names = ("id", "kind", "title", "state", "done", "total", "what", "eta", "error", "exit_code", "settings", "digest")
    return {**{name: getattr(job, name) for name in names}, "notes": list(job.notes)}


def _told(app: App, job: Job) -> Answer:
    """What is said of a job, with its clip as a file to download."""
    file = None if job.output is None else gr.FileData(path=app.shown(job.output)).model_dump()
    return {**_facts(job), "clip": file}
