"""The library: every job that was asked for, what waits, what came of it, with which settings."""

import json
import random
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import gradio as gr

from videodiff import video
from videodiff.errors import UserError
from videodiff.jobs import CANCELLED, DONE, FAILED, PAUSED, RUNNING, WAITING, Job
from videodiff.settings import REQUESTS, TASKS, Sampling
from videodiff_ui import cards, player
from videodiff_ui.cards import button, facts, notice, panel
from videodiff_ui.context import HOME, QUIET, App, parcel, told
from videodiff_ui.html import Html, join, message, tag, word
from videodiff_ui.outcome import output_of
from videodiff_ui.words import _

PAGE = 24
STATES = (WAITING, RUNNING, PAUSED, DONE, FAILED, CANCELLED)


@dataclass(frozen=True)
class View:
    """What one visitor looks at: filters, page, the job shown whole, one or two compared, the last one trashed."""

    text: str = ""
    kinds: tuple[str, ...] = ()
    states: tuple[str, ...] = ()
    starred: bool = False
    in_trash: bool = False
    page: int = 0
    shown: int | None = None
    compared: tuple[int, ...] = ()
    trashed: int | None = None
    error: str = ""
    version: int = -1


def build(app: App) -> None:
    """The components of the page, inside its tab."""
    view = gr.State(View())
    with gr.Row(elem_classes="vd-filters"):
        text = gr.Textbox(
            "", label=_("library.search"), max_lines=1, scale=3, min_width=160, elem_id="vd-library-search"
        )
        kinds = gr.Dropdown(
            [(_(f"kind.{name}"), name) for name in REQUESTS],
            multiselect=True,
            label=_("library.kind"),
            min_width=160,
            elem_id="vd-library-kind",
        )
        states = gr.Dropdown(
            [(_(f"library.state_{name}"), name) for name in STATES],
            multiselect=True,
            label=_("library.state"),
            min_width=160,
            elem_id="vd-library-state",
        )
        starred = gr.Checkbox(label=_("library.starred"), min_width=120, elem_id="vd-library-starred")
        in_trash = gr.Checkbox(label=_("library.in_trash"), min_width=120, elem_id="vd-library-in-trash")
    parts = [panel(f"vd-library-{name}") for name in ("queue", "detail", "cards")]

    def drawn(now: View, request: gr.Request) -> list[Any]:
        now = replace(now, version=app.store.version())
        return [now, *render(app, now, request)]

    def filtered(
        now: View, text: str, kinds: list[str], states: list[str], starred: bool, in_trash: bool, request: gr.Request
    ) -> Any:
        chosen = replace(now, text=text, kinds=tuple(kinds), states=tuple(states), page=0)
        return drawn(replace(chosen, starred=starred, in_trash=in_trash), request)

    def ticked(now: View, request: gr.Request) -> Any:
        if now.version == app.store.version():
            return [gr.skip()] * 4
        return drawn(now, request)

    def clicked(now: View, request: gr.Request, event: gr.EventData) -> Any:
        inbox, tab = gr.skip(), gr.skip()
        try:
            act, key = str(event.act), str(event.key)
            if act in ("restore", "use"):
                job = app.own(int(key), request)
                inbox = sent(job, whole=act == "restore")
                tab = gr.Tabs(selected=HOME[inbox["task"]])
            else:
                now = replace(ACTS[act](app, replace(now, error=""), key, request), error="")
        except UserError as error:
            now = replace(now, error=str(error))
        return [*drawn(now, request), inbox, tab]

    filters = [text, kinds, states, starred, in_trash]
    for one in (text, kinds, states, starred, in_trash):
        one.change(filtered, [view, *filters], [view, *parts], **QUIET)
    app.pulse("library", fn=ticked, inputs=view, outputs=[view, *parts])
    for part in parts:
        part.click(told(clicked), view, [view, *parts, app.inbox, app.tabs], **QUIET)


def sent(job: Job, whole: bool) -> dict[str, Any]:
    """What goes to another page: a job's settings with its input, or its result as an input."""
    settings = {name: value for name, value in job.settings.items() if name not in ("output", "overwrite")}
    if whole:
        return parcel(job.kind, settings.get("input") or "", settings)
    return parcel("predict", output_of(job))


# ---------------------------------------------------------------------------------------------------------------------
# What the buttons do: a View in, a View out


def _change(work: Callable[[App, int], object]) -> Callable[[App, View, str, gr.Request], View]:
    """An act on one job of this visitor's."""

    def act(app: App, view: View, key: str, request: gr.Request) -> View:
        work(app, app.own(int(key), request).id)
        return view

    return act


def _show(app: App, view: View, key: str, request: gr.Request) -> View:
    number = app.own(int(key), request).id
    return replace(view, shown=None if view.shown == number else number)


def _compare(app: App, view: View, key: str, request: gr.Request) -> View:
    number = app.own(int(key), request).id
    kept = tuple(one for one in view.compared if one != number)
    return replace(view, compared=kept if number in view.compared else (*kept, number)[-2:])


def _trash(app: App, view: View, key: str, request: gr.Request) -> View:
    number = app.own(int(key), request).id
    app.store.trash_job(number)
    kept = tuple(one for one in view.compared if one != number)
    return replace(view, trashed=number, compared=kept, shown=None if view.shown == number else view.shown)


def _undo(app: App, view: View, key: str, request: gr.Request) -> View:
    number = app.own(int(key), request).id
    app.store.untrash_job(number)
    return replace(view, trashed=None if view.trashed == number else view.trashed)


def _move(by: int) -> Callable[[App, View, str, gr.Request], View]:
    """Move a waiting job past its neighbour among those this visitor sees."""

    def act(app: App, view: View, key: str, request: gr.Request) -> View:
        number = app.own(int(key), request).id
        order = [job.id for job in queued(app, request) if job.state == WAITING]
        if number not in order:
            raise UserError(f"job {number} does not wait any more; only waiting jobs can be moved")
        place = order.index(number) + by + (by > 0)
        if place >= 0:
            app.store.move(number, order[place] if place < len(order) else None)
        return view

    return act


def _reveal(app: App, view: View, key: str, request: gr.Request) -> View:
    if app.public:
        raise UserError("folders are opened on one's own machine only; download the result instead")
    reveal(app.own(int(key), request).folder)
    return view


def _resume_queue(app: App, view: View, key: str, request: gr.Request) -> View:
    if app.public:
        raise UserError("the queue is paused by who runs this server; your job waits")
    app.store.resume()
    return view


def _again(app: App, number: int) -> None:
    """The same with another seed, where there is one."""
    job = app.store.get(number)
    drawn = {"seed": random.SystemRandom().randrange(2**31)} if issubclass(REQUESTS[job.kind], Sampling) else {}
    app.store.again(number, **drawn)


def _resume(app: App, number: int) -> None:
    app.store.resume_job(number)


ACTS: dict[str, Callable[[App, View, str, gr.Request], View]] = {
    "show": _show,
    "compare": _compare,
    "trash": _trash,
    "undo": _undo,
    "up": _move(-1),
    "down": _move(1),
    "reveal": _reveal,
    "resume-queue": _resume_queue,
    "star": _change(lambda app, number: app.store.star(number, not app.store.get(number).starred)),
    "cancel": _change(lambda app, number: app.store.cancel(number)),
    "pause": _change(lambda app, number: app.store.pause_job(number)),
    "resume": _change(_resume),
    "again": _change(_again),
    "close": lambda app, view, key, request: replace(view, shown=None, compared=()),
    "page": lambda app, view, key, request: replace(view, page=max(0, int(key))),
    "forget": lambda app, view, key, request: replace(view, trashed=None),
}


def reveal(folder: Path) -> None:
    """Open a folder with the system's file manager."""
    if not folder.is_dir():
        raise UserError(f"{folder} is not there any more; was it moved?")
    if sys.platform == "win32":
        command = ["explorer", str(folder)]
    else:
        name = "open" if sys.platform == "darwin" else "xdg-open"
        found = shutil.which(name)
        if found is None:
            raise UserError(f"no file manager was found ({name} is not installed); the folder is {folder}")
        command = [found, str(folder)]
    subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


# ---------------------------------------------------------------------------------------------------------------------
# What is seen


def queued(app: App, request: gr.Request) -> list[Job]:
    """Running and waiting jobs this visitor may see."""
    return [job for job in app.store.queue() if not app.public or job.visitor == app.visitor(request)]


def render(app: App, view: View, request: gr.Request) -> list[Html]:
    """Queue, detail and cards."""
    visitor = app.visitor(request) if app.public else None
    found = app.store.list(
        view.states, view.text, view.starred, view.kinds, visitor, PAGE + 1, PAGE * view.page, view.in_trash
    )
    return [_queue(app, view, request), _detail(app, view, request), _cards(view, found[:PAGE], len(found) > PAGE)]


def _queue(app: App, view: View, request: gr.Request) -> Html:
    jobs, why = queued(app, request), app.store.paused()
    lines = []
    if view.error:
        lines.append(notice(view.error, kind="error"))
    if why:
        go_on = None if app.public else button("resume-queue", "", word("library.resume_queue"))
        lines.append(
            notice(word("library.queue_paused"), " ", "" if app.public else why, " ", go_on or "", kind="error")
        )
    if view.trashed is not None:
        said = tag("bdi", app.store.get(view.trashed).title)
        undo = button("undo", view.trashed, word("library.undo"))
        lines.append(notice(word("library.trashed"), " ", said, " ", undo, button("forget", "", word("library.close"))))
    rows = [_row(app, job) for job in jobs]
    if rows:
        lines.append(tag("ol", *rows, class_="vd-queue", data_title="system.queue"))
    return join(*lines)


def _row(app: App, job: Job) -> Html:
    """A running or waiting job, with what can be done to it."""
    live = job.state == RUNNING
    left = f"{cards.lasting(job.eta)}" if job.eta is not None else ""
    count = join(message(job.what), f" {job.done}/{job.total}" if job.total else None)
    moves = () if live else (
        button("up", job.id, word("library.up"), job.title),
        button("down", job.id, word("library.down"), job.title),
    )  # fmt: skip
    return tag(
        "li",
        cards.thumbnail(job, app.store.preview(job.id)),
        tag(
            "div",
            tag("strong", tag("bdi", job.title)),
            " ",
            cards.state(job),
            tag("small", word(f"kind.{job.kind}"), f" · {job.id}"),
        ),
        tag("div", cards.bar(job.done, job.total), tag("small", count, " · " if left else "", left)) if live else None,
        tag(
            "div",
            *moves,
            button("pause", job.id, word("library.pause"), job.title),
            button("cancel", job.id, word("library.cancel"), job.title),
            class_="vd-acts",
        ),
        class_=f"vd-row vd-row-{job.state}",
    )


def _cards(view: View, jobs: list[Job], more: bool) -> Html:
    if not jobs:
        nothing = view == View(version=view.version)
        return tag("p", word("library.empty" if nothing else "library.nothing_found"), class_="vd-empty")
    earlier = button("page", view.page - 1, word("library.newer"), disabled=view.page == 0)
    later = button("page", view.page + 1, word("library.older"), disabled=not more)
    number = tag("span", word("library.page", number=view.page + 1))
    pages = tag("nav", earlier, number, later, class_="vd-pages") if more or view.page else None
    return join(tag("ul", *(_card(view, job) for job in jobs), class_="vd-cards"), pages)


def _acts(view: View, job: Job) -> list[Html | None]:
    """What can be done with a job on its card."""
    if view.in_trash:
        return [button("undo", job.id, word("library.put_back"), job.title)]
    chosen = "true" if job.id in view.compared else "false"
    return [
        button("show", job.id, word("library.details"), job.title),
        button("compare", job.id, word("library.compare"), job.title, aria_pressed=chosen) if job.output else None,
        button("resume", job.id, word("library.resume"), job.title) if job.state in (PAUSED, FAILED) else None,
        button("trash", job.id, word("library.trash"), job.title) if job.state != RUNNING else None,
    ]


def _star(job: Job) -> Html:
    sign = tag("span", "★" if job.starred else "☆", aria_hidden="true")
    return button(
        "star",
        job.id,
        join(sign, tag("span", word("library.star"), class_="vd-unseen")),
        job.title,
        aria_pressed="true" if job.starred else "false",
        class_="vd-act vd-star",
    )


def _card(view: View, job: Job) -> Html:
    seed = job.settings.get("seed")
    return tag(
        "li",
        cards.thumbnail(job),
        tag("h3", tag("bdi", job.title)),
        None if view.in_trash else _star(job),
        tag(
            "p",
            cards.state(job),
            tag("span", word(f"kind.{job.kind}")),
            tag("span", word("library.seed", seed=str(seed))) if seed is not None else None,
            cards.when(job.finished or job.created),
            class_="vd-about",
        ),
        tag("p", message(job.error), class_="vd-error") if job.error else None,
        tag("div", *_acts(view, job), class_="vd-acts"),
        class_="vd-card",
        data_job=job.id,
        data_state=job.state,
    )


def _detail(app: App, view: View, request: gr.Request) -> Html:
    parts = []
    if len(view.compared) == 1:
        parts.append(notice(word("library.choose_another")))
    if len(view.compared) == 2:
        left, right = (app.own(number, request) for number in view.compared)
        names = [tag("bdi", f"{job.title} ({job.id})") for job in (left, right)]
        head = tag("div", tag("h2", names[0], " | ", names[1]), _close(), class_="vd-head")
        parts.append(tag("section", head, _pair(app, left, right), class_="vd-detail"))
    if view.shown is not None:
        parts.append(_whole(app, app.own(view.shown, request)))
    return join(*parts)


def _close() -> Html:
    return button("close", "", word("library.close"))


def clip(app: App, job: Job) -> Html | None:
    """The result as a player, served in place; of a folder of pictures, as a film."""
    if job.output is None or not job.output.exists():
        return None
    try:
        film = job.output if job.output.is_file() else player.playable(job.output, app.store.cache, trusted=True)
    except UserError as error:
        return notice(str(error), kind="error")
    address = player.address(app.shown(film))
    if job.output.suffix in (".gif", ".png", ".webp"):
        return tag("img", src=address, alt=job.title, class_="vd-clip")
    return tag("video", src=address, controls=True, loop=True, muted=True, playsinline=True, class_="vd-clip")


def _pair(app: App, left: Job, right: Job) -> Html:
    """Two results under one player, which shows them side by side, under a slider, or their difference."""
    films = [job.output for job in (left, right)]
    if not all(film is not None and film.exists() for film in films):
        return notice(word("library.file_gone"), kind="error")
    try:
        names = f"{left.title} ({left.id})", f"{right.title} ({right.id})"
        return _drawn(app, *((film, film.stat().st_mtime_ns) for film in films if film), names)
    except UserError as error:
        return notice(str(error), kind="error")


@lru_cache(maxsize=100)
def _drawn(app: App, left: tuple[Path, int], right: tuple[Path, int], names: tuple[str, str]) -> Html:
    before, after = (player.playable(film, app.store.cache, trusted=True) for film, _ in (left, right))
    info = video.probe(after, trusted=True)
    view = player.View(
        after, float(info.fps), info.num_frames or 1, info.width, info.height, before=Path(app.shown(before))
    )
    return player.draw(view, app.shown(after), names)


def _whole(app: App, job: Job) -> Html:
    """One job with everything known of it; looking changes no setting anywhere."""
    task = job.kind in TASKS
    where = job.output or job.folder
    acts = [
        button("restore", job.id, word("library.restore")) if task else None,
        button("use", job.id, word("library.use")) if job.output else None,
        button("again", job.id, word("library.again")),
        button("copy", str(where), word("library.copy_path")) if not app.public else None,
        button("reveal", job.id, word("library.reveal")) if not app.public else None,
    ]
    times = [
        (word("library.created"), cards.when(job.created)),
        (word("library.took"), cards.lasting(job.finished - job.started) if job.started and job.finished else ""),
        (word("library.checkpoint_digest"), job.digest),
        (word("library.file"), tag("code", str(where)) if not app.public else where.name),
    ]
    given = {name: value for name, value in job.settings.items() if value is not None}
    settings = json.dumps(given, indent=1, ensure_ascii=False)
    return tag(
        "section",
        tag("div", tag("h2", tag("bdi", job.title)), cards.state(job), _close(), class_="vd-head"),
        notice(job.error, kind="error") if job.error else None,
        clip(app, job),
        tag("div", *acts, class_="vd-acts"),
        facts(row for row in times if row[1]),
        tag("ul", *(tag("li", message(note)) for note in job.notes), class_="vd-notes") if job.notes else None,
        tag(
            "details",
            tag("summary", word("library.settings")),
            button("copy", settings, word("library.copy_settings")),
            tag("pre", settings, tabindex="0"),
            open=True,
        ),
        class_="vd-detail",
    )
