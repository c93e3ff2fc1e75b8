"""This machine: devices, attention, codecs, disk, the worker, and the queue as a whole.

What needs torch to be known is asked of `videodiff doctor` in a process of its own, so that the server stays small.
"""

import json
import os
import shutil
import subprocess
from datetime import datetime
from typing import Any

import gradio as gr

from videodiff.jobs import RUNNING
from videodiff.supervisor import memory
from videodiff_ui.cards import facts, notice
from videodiff_ui.context import QUIET, App, ask_command, told
from videodiff_ui.html import Html, join, message, tag, word
from videodiff_ui.words import _

DOCTOR_SECONDS = 120.0


def build(app: App) -> None:
    """The components of the page, inside its tab."""
    with gr.Row():
        with gr.Column(min_width=300):
            live = gr.HTML(_live(app), elem_id="vd-system-live", apply_default_css=False)
            with gr.Row():
                pause = gr.Button(_("system.pause"), elem_id="vd-system-pause")
                resume = gr.Button(_("system.resume"), elem_id="vd-system-resume")
        with gr.Column(min_width=300):
            machine = gr.HTML(tag("p", word("system.not_asked")), elem_id="vd-system-machine", apply_default_css=False)
            check = gr.Button(_("system.check"), elem_id="vd-system-check")
    seen = gr.State("")

    def refreshed(seen: str) -> tuple[Any, str]:
        now = _live(app)
        return (gr.skip() if now == seen else now), now

    def paused() -> Html:
        app.store.pause("paused by hand")
        return _live(app)

    def resumed() -> Html:
        app.store.resume()
        return _live(app)

    app.pulse("system", every=2, fn=refreshed, inputs=seen, outputs=[live, seen])
    pause.click(told(paused), None, live, **QUIET)
    resume.click(told(resumed), None, live, **QUIET)
    check.click(lambda: tag("p", word("system.asking")), None, machine, **QUIET).then(
        told(_machine), None, machine, **QUIET
    )


def _live(app: App) -> Html:
    """What changes while one looks: the queue, the worker, the disk."""
    why, worker = app.store.paused(), app.jobs.worker_state()
    queue = app.store.queue()
    running = sum(job.state == RUNNING for job in queue)
    rows: list[tuple[Html, Html | str]] = [
        (word("system.queue"), word("system.queue_is", running=running, waiting=len(queue) - running))
    ]
    if worker:
        rows += [
            (word("system.worker"), word("system.worker_is", pid=worker["pid"], device=worker["device"])),
            (word("system.worker_model"), str(worker["model"] or "-")),
            (word("system.worker_memory"), size(worker["memory"])),
        ]
        if worker["since"]:
            since = datetime.fromtimestamp(worker["since"]).strftime("%Y-%m-%d %H:%M")
            rows.append((word("system.worker_since"), since))
    else:
        rows.append((word("system.worker"), word("system.no_worker")))
    disk = shutil.disk_usage(app.store.folder)
    # In tenths, so that the page is not drawn again for every byte.
    rows += [
        (word("system.server_memory"), size(memory(os.getpid()), 1e8)),
        (word("system.disk"), word("system.disk_is", free=f"{disk.free / 1e9:.1f}", total=f"{disk.total / 1e9:.0f}")),
        (word("system.folder"), str(app.store.folder)),
    ]
    told = notice(word("system.paused"), " ", why) if why else None
    trouble = getattr(app.jobs, "trouble", "")  # of a Supervisor; where GPUs are lent there is none
    if trouble:
        told = join(told, notice(trouble, kind="error"))
    return join(told, tag("h3", word("system.now")), facts(rows))


def _machine() -> Html:
    """What `videodiff doctor` says, by groups."""
    try:
        asked = ask_command("doctor", "--json", seconds=DOCTOR_SECONDS)
    except subprocess.TimeoutExpired:
        return notice(word("system.no_answer", seconds=round(DOCTOR_SECONDS)), kind="error")
    if asked.returncode != 0:
        return notice(asked.stderr.strip().split("\n")[-1], kind="error")
    return join(tag("h3", word("system.machine")), _grouped(json.loads(asked.stdout)))


def _grouped(values: dict[str, Any]) -> Html:
    plain = [(message(name), message(str(value))) for name, value in values.items() if not isinstance(value, dict)]
    groups = [(name, value) for name, value in values.items() if isinstance(value, dict)]
    return join(facts(plain), *(join(tag("h4", message(name)), _grouped(value)) for name, value in groups))


def size(bytes_: int | None, step: float = 1e6) -> str:
    """Bytes for a reader, rounded to `step`; a dash where they are not known."""
    if bytes_ is None:
        return "-"
    rounded = round(bytes_ / step) * step
    return f"{rounded / 1e9:.1f} GB" if rounded >= 1e9 else f"{rounded / 1e6:.0f} MB"
