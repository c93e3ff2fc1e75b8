"""What every page is given: the store, the shared components, and whose jobs a visitor may see."""

import os
import secrets
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

import videodiff
from videodiff.errors import UserError
from videodiff.files import link_or_copy
from videodiff.jobs import Job, Store
from videodiff_ui.guard import COOKIE
from videodiff_ui.html import tag

if TYPE_CHECKING:
    from videodiff_ui.server import Jobs


@dataclass(frozen=True)
class App:
    """One per server. `public`: visitors see only their own jobs, choose no folders and do not train."""

    store: Store
    jobs: "Jobs"
    public: bool
    inbox: gr.State
    """{"task": str, "settings": dict, "input": str} or None: what another page sends to Make, Edit or Restore."""
    tabs: gr.Tabs
    """Ids: make, edit, restore, library, models, train, evaluate, system."""
    _given: dict[tuple[Path, int], Path] = field(default_factory=dict, compare=False)

    def pulse(self, page: str, every: float = 0, **listening: Any) -> None:
        """Call a handler whenever a job changed while `page` is looked at, and when it is opened; see static/pulse.js.

        An event of Gradio costs the browser some 50 ms, so there are none while nothing changes. `every`: seconds after
        which it is called all the same. `listening`: fn, inputs and outputs of the event.
        """
        heard = "element.addEventListener('vd-pulse', () => trigger('input'));"
        beat = gr.HTML(
            tag("i", data_every=every), elem_id=f"vd-pulse-{page}", elem_classes="vd-pulse", js_on_load=heard,
            padding=False, apply_default_css=False,
        )  # fmt: skip
        beat.input(**listening, api_visibility="private", show_progress="hidden", trigger_mode="always_last")

    def visitor(self, request: gr.Request) -> str:
        """Whose job it is: "" locally; on a public server the browser's cookie, or the session where there is none."""
        return str(request.cookies.get(COOKIE) or request.session_hash or "nobody") if self.public else ""

    def own(self, job: int, request: gr.Request) -> Job:
        """A job this visitor may see and change. UserError if there is none, or it is someone else's."""
        found = self.store.get(job)
        if self.public and found.visitor != self.visitor(request):
            raise UserError(f"there is no job {job}; jobs of this visit are listed in the library")
        return found

    def shown(self, path: Path) -> str:
        """The path to give a component for a result: in place, or by a link in the cache.

        The link is for what lies elsewhere, as Gradio serves no other folder, and on a public server for everything,
        as nobody else can guess it.
        """
        if not self.public and path.is_relative_to(self.store.results):
            return str(path)
        key = path, path.stat().st_mtime_ns
        given = self._given.get(key)
        if given is None or not given.is_file():
            given = self.store.cache / "gradio" / secrets.token_urlsafe(24) / path.name
            link_or_copy(path, given)
            self._given[key] = given
        return str(given)


def ask_command(*arguments: str, seconds: float) -> "subprocess.CompletedProcess[str]":
    """What `videodiff` with these arguments says, in a process of its own: torch, and its troubles, stay there.

    It is found where this server found it, installed or not. subprocess.TimeoutExpired after `seconds`.
    """
    root = str(Path(videodiff.__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.run(
        [sys.executable, "-P", "-m", "videodiff", *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
        env={**os.environ, "PYTHONPATH": path},
    )
