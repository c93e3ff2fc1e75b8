"""The endpoints for programs, as docs/api.md describes them: one for each task, and those that watch and stop jobs.

Their docstrings are what a program that speaks MCP is told about them.
"""

import asyncio
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gradio as gr
from pydantic import Field

from videodiff.errors import UserError
from videodiff.jobs import RUNNING, WAITING, Job
from videodiff.settings import TASKS, Settings, validate
from videodiff_ui.context import App, told
from videodiff_ui.intake import keep

POLL_SECONDS = 0.2
Answer = dict[str, Any]


class Which(Settings):
    """What is given to find a job."""

    number: int = Field(ge=1, lt=2**63)


class Search(Settings):
    """What is given to find jobs."""

    text: str
    limit: int


def build(app: App) -> None:
    """The endpoints, inside the app's Blocks."""
    for name in TASKS:
        gr.api(_asking(app, name), api_name=name)

    def job(number: int, request: gr.Request) -> Answer:
        """What became of a job: state, progress, error, notes and, once it is done, the clip if it is one file."""
        return _answer(app, _own(app, number, request))

    def jobs(request: gr.Request, text: str = "", limit: int = 20) -> list[Answer]:
        """The last jobs, newest first; `text` is looked for in names and settings. Without their clips."""
        search = validate(Search, {"text": text, "limit": limit}, where="jobs")
        visitor = app.visitor(request) if app.public else None
        limit = max(1, min(search.limit, 200))
        return [_facts(job) for job in app.store.list(text=search.text, visitor=visitor, limit=limit)]

    def cancel(number: int, request: gr.Request) -> Answer:
        """Stop a job, whether it runs or waits."""
        job = _own(app, number, request)
        app.store.cancel(job.id)
        return _facts(app.store.get(job.id))

    for function in (job, jobs, cancel):
        gr.api(told(function), api_name=function.__name__)


def _asking(app: App, kind: str) -> Callable[..., Any]:
    """The endpoint of a task."""

    @told
    def added(settings: Any, request: gr.Request) -> Job:
        if not isinstance(settings, Mapping):
            raise UserError(f'{kind}: settings are {settings!r:.80}; give them by name, such as {{"steps": 4}}')
        values = {name: _file(app, value) for name, value in settings.items()}
        return app.store.add(validate(TASKS[kind], values, where=kind), app.visitor(request))

    async def ask(settings: dict, request: gr.Request, wait: bool = False) -> dict:
        asked = added(settings, request)
        while wait and _goes_on(app, asked.id):
            await asyncio.sleep(POLL_SECONDS)
        return _answer(app, app.store.get(asked.id))

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


def _own(app: App, number: Any, request: gr.Request) -> Job:
    """`App.own` for a number as a program gave it."""
    return app.own(validate(Which, {"number": number}, where="job").number, request)


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


@told
def _answer(app: App, job: Job) -> Answer:
    """What is said of a job, with its clip as a file to download. A folder of pictures is none, nor is what is gone."""
    made = job.output
    file = gr.FileData(path=app.shown(made)).model_dump() if made is not None and made.is_file() else None
    return {**_facts(job), "clip": file}
