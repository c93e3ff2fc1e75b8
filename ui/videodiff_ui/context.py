"""What every page is given: the store, the shared components, and whose jobs a visitor may see."""

import hashlib
import os
import secrets
import shutil
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any

import gradio as gr

import videodiff
from videodiff.errors import DISK_FULL, UserError, check_full, refused
from videodiff.files import link_or_copy
from videodiff.jobs import Job, Store
from videodiff_ui.guard import COOKIE
from videodiff_ui.html import tag

if TYPE_CHECKING:
    from videodiff_ui.server import Jobs


PAGES: dict[str, tuple[str, ...]] = {
    "make": ("predict", "interpolate", "infill", "loop", "generate"),
    "edit": ("edit", "vary", "morph"),
    "restore": ("restore",),
}
HOME = {kind: page for page, kinds in PAGES.items() for kind in kinds}
"""The page a task is asked for on."""

QUIET: dict[str, Any] = {"api_visibility": "private", "show_progress": "hidden"}
PRIVATE: dict[str, Any] = {"api_visibility": "private", "show_progress": "minimal"}


def told(handler: Callable[..., Any]) -> Callable[..., Any]:
    """The handler, its UserErrors shown on the page, where static/app.js puts them in the page's words.

    So is what the system says of files. Unless it is that the disk is full, its trace is in the server's log as well:
    the folder may have gone, or be none of ours to write, but the mistake may also be in the handler.
    """

    @wraps(handler)
    def safe(*given: Any, **named: Any) -> Any:
        try:
            return handler(*given, **named)
        except UserError as error:
            raise gr.Error(str(error), duration=12, print_exception=False) from error
        except OSError as error:
            logged = error.errno not in DISK_FULL
            raise gr.Error(str(refused(error)), duration=12, print_exception=logged) from error

    return safe


@dataclass(frozen=True)
class App:
    """One per server. `public`: visitors see only their own jobs, choose no folders and do not train."""

    store: Store
    jobs: "Jobs"
    public: bool
    inbox: gr.State
    """A `parcel`, or None: what another page sends to Make, Edit or Restore."""
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


def parcel(task: str, clip: Path | str, settings: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """What one page sends to another: a task, the clip for it ("" for none), and settings for its form."""
    number = secrets.token_hex(4)  # the same sent twice arrives twice
    return {"task": task, "settings": dict(settings or {}), "input": str(clip), "number": number}


def made_once(cache: Path, key: Any, write: Callable[[Path], Path]) -> Path:
    """The file that `write(folder)` made for this key, in a folder of the cache that nobody can guess, made only then.

    What fails leaves nothing behind; OutOfResources where the disk is full.
    """
    index = cache / "made" / hashlib.sha256(repr(key).encode()).hexdigest()[:24]
    if index.is_file() and (made := Path(index.read_text())).is_file():
        return made
    folder = cache / "gradio" / secrets.token_urlsafe(24)
    folder.mkdir(parents=True)
    try:
        made = write(folder)
        index.parent.mkdir(parents=True, exist_ok=True)
        index.write_text(str(made))
    except BaseException as error:
        shutil.rmtree(folder, ignore_errors=True)
        if isinstance(error, OSError):
            check_full(error)
        raise
    return made


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
