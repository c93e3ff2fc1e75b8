"""The server: which pages there are, with what Gradio is started, and that there is one for a data folder.

Everything Gradio would take from its environment is said here explicitly. It runs no network and does not import torch:
jobs go to the table of `videodiff.jobs`, and a worker process does them.
"""

import os
import secrets
import shutil
import socket
import threading
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from videodiff.errors import OutOfResources, UserError
from videodiff.jobs import Store
from videodiff.supervisor import Supervisor
from videodiff_ui import window
from videodiff_ui.guard import LOOPBACK, Guard, Quota
from videodiff_ui.single import Single

if TYPE_CHECKING:
    import gradio as gr

STATIC = Path(__file__).parent / "static"
STYLES = ("app.css", "make.css", "lists.css")
SCRIPTS = ("app.js", "pulse.js", "player.js", "timeline.js", "painter.js", "part.js")
VERSION = "videodiff/version/"
"""Where a page asks whether a job has changed; a secret follows."""
CLOSED_PAGES, CLOSED_PAGES_PUBLIC = 4, 100
"""Pages that a browser may come back to after it was cut off, as telephones are when they sleep."""
USER = "videodiff"
"""The name that goes with the password."""


@dataclass(frozen=True)
class Options:
    """How the server is to run. Sizes in bytes."""

    host: str = "127.0.0.1"
    port: int = 7860
    password: str = ""
    share: bool = False
    mcp: bool = False
    device: str = "auto"
    max_upload: int = 500_000_000
    quota: int = 20_000_000_000
    public: bool = False
    names: frozenset[str] = field(default_factory=frozenset)
    """Further host names the server goes by: a Space's own."""

    def __post_init__(self) -> None:
        """Nobody reaches the app from outside without a password, except where a Space is meant to be public."""
        if self.public or self.password:
            return
        if self.share:
            raise UserError("a share link is open to everyone who has it: set a password with --password")
        if not self.local:
            raise UserError(f"{self.host} can be reached by others: set a password with --password")

    @property
    def local(self) -> bool:
        """Whether only this machine can reach the server."""
        return self.host in ("127.0.0.1", "localhost", "::1", "[::1]")


class Jobs(Protocol):
    """Who does the jobs: a `Supervisor` and its worker, or on a Space this process."""

    def start(self) -> None:
        """Begin."""

    def stop(self, kill: bool = False) -> None:
        """End; see `Supervisor.stop`."""

    def worker_state(self) -> dict[str, Any]:
        """See `Supervisor.worker_state`."""


Runner = Callable[[Any, str], Jobs]
"""Makes, for a store and a device, who does the jobs."""


# ---------------------------------------------------------------------------------------------------------------------
# The pages


def build(store: Store, jobs: Jobs, options: Options, secret: str) -> "gr.Blocks":
    """The app: a tab for each page. `secret` ends the address of the table's version, which only a page is told."""
    import gradio as gr

    from videodiff_ui import api, evaluate, html, library, make, models, system, train
    from videodiff_ui.context import App
    from videodiff_ui.words import _

    with gr.Blocks(title="videodiff", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as blocks:
        header = _header(html, options.public, f"./{VERSION}{secret}")
        gr.HTML(header, elem_id="vd-header", padding=False, apply_default_css=False)
        inbox = gr.State(None)
        with gr.Tabs(elem_id="vd-tabs") as tabs:
            app = App(store, jobs, options.public, inbox, tabs)
            for name in ("make", "edit", "restore"):
                with gr.Tab(_(f"tab_{name}"), id=name, elem_id=f"page-{name}"):
                    make.build(app, name)
            for name, page in (("library", library), ("models", models)):
                with gr.Tab(_(f"tab_{name}"), id=name, elem_id=f"page-{name}"):
                    page.build(app)
            if not options.public:
                for name, page in (("train", train), ("evaluate", evaluate), ("system", system)):
                    with gr.Tab(_(f"tab_{name}"), id=name, elem_id=f"page-{name}"):
                        page.build(app)
        api.build(app)
        blocks.unload(_forgetting(blocks, CLOSED_PAGES_PUBLIC if options.public else CLOSED_PAGES))
    # Events add, change and read rows of a table; the work itself waits in that table, not here.
    return blocks.queue(max_size=64, default_concurrency_limit=8, api_open=False)


def _forgetting(blocks: "gr.Blocks", kept: int) -> Callable[..., None]:
    """The handler of a page's end: what Gradio remembers of all but the last `kept` closed pages goes.

    By itself it keeps 1.7 MB of each until a thousand others were opened.
    """
    import gradio as gr

    closed: deque[tuple[str, datetime]] = deque()
    its_own_end = timedelta(minutes=1)

    def unloaded(request: gr.Request) -> None:
        closed.append((str(request.session_hash), datetime.now()))
        pages, used = blocks.state_holder.session_data, blocks.state_holder.time_last_used
        with blocks.state_holder.lock:
            while len(closed) > kept:
                page, when = closed.popleft()
                if used.get(page, when) < when + its_own_end:  # else it was only cut off, and came back
                    pages.pop(page, None)
                    used.pop(page, None)

    # As the annotations of this module are strings, Gradio would not find out what the argument is.
    unloaded.__annotations__["request"] = gr.Request
    return unloaded


def _header(html: Any, public: bool, version: str) -> str:
    def switch(what: str, sign: str) -> str:
        return html.tag(
            "button", sign, type="button", class_="vd-switch", id=f"vd-{what}", data_title=f"switch_{what}_label"
        )

    header = html.tag(
        "header",
        html.tag("span", "videodiff", class_="vd-name"),
        html.tag("span", html.word("public_note"), class_="vd-note") if public else None,
        html.tag("span", switch("language", "A/가"), switch("theme", "◐"), class_="vd-switches"),
        class_="vd-header",
        data_version=version,
    )
    # What static/pulse.js shows when this server no longer answers. Visitors of a Space cannot start it.
    lost = html.tag(
        "div",
        html.tag("p", html.word("server.away_public" if public else "server.away"), data_lost="away", hidden=True),
        html.tag(
            "p",
            html.word("server.anew"),
            html.tag("button", html.word("server.load"), type="button", id="vd-load"),
            data_lost="anew",
            hidden=True,
        ),
        role="status",
        class_="vd-lost",
    )
    return html.join(header, lost)


# ---------------------------------------------------------------------------------------------------------------------
# Gradio's start


def launch(blocks: "gr.Blocks", store: Store, options: Options, port: int, secret: str) -> str:
    """Start answering; the address. What Gradio leaves open is closed by `guard.py`."""
    import gradio as gr
    from starlette.middleware import Middleware
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route
    from starlette.staticfiles import StaticFiles

    from videodiff_ui.words import FOLDER, I18N

    def version(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(store.version()), headers={"Cache-Control": "no-store"})

    if not options.public:
        gr.set_static_paths([store.results])
    hosts = {*LOOPBACK, *options.names}
    if options.host not in ("0.0.0.0", "::"):
        hosts.add(options.host.lower())
    guard = Middleware(
        Guard,
        hosts=hosts,
        addresses=not options.local,
        quota=Quota(store.quota, store.check_room),
        most=options.max_upload,
        framed=options.public,
    )
    blocks.launch(
        server_name=options.host,
        server_port=port,
        share=options.share,
        auth=(USER, options.password) if options.password else None,
        prevent_thread_lock=True,
        quiet=True,
        inbrowser=False,
        inline=False,
        show_error=False,
        strict_cors=True,
        allowed_paths=[],
        blocked_paths=[str(store.folder / "jobs.sqlite")],
        max_file_size=options.max_upload,
        run_history=False,
        enable_monitoring=False,
        ssr_mode=False,
        _frontend=False,  # else a machine that is busy for three seconds is told to share itself
        num_workers=0,
        mcp_server=options.mcp,
        pwa=True,
        root_path="",
        footer_links=["settings"],
        favicon_path=str(STATIC / "icon.png"),
        state_session_capacity=1000,
        i18n=I18N,
        theme=_theme(),
        head="".join(
            [f'<link rel="stylesheet" href="videodiff/static/{name}">' for name in STYLES]
            + [f'<script defer src="videodiff/static/{name}"></script>' for name in SCRIPTS]
        ),
        app_kwargs={
            "middleware": [guard],
            "routes": [
                Mount("/videodiff/static", StaticFiles(directory=STATIC)),
                Mount("/videodiff/words", StaticFiles(directory=FOLDER)),
                Route(f"/{VERSION}{secret}", version),
            ],
        },
    )
    if blocks.share_url:
        hosts.add(blocks.share_url.split("://", 1)[1].rstrip("/").lower())
    return str(blocks.share_url or blocks.local_url)


def _theme() -> "gr.themes.Base":
    """Quiet: one accent, system fonts (nothing is fetched), little shadow."""
    import gradio as gr

    return gr.themes.Base(
        primary_hue="teal",
        neutral_hue="slate",
        radius_size="md",
        font=["system-ui", "-apple-system", "Segoe UI", "Noto Sans KR", "sans-serif"],
        font_mono=["ui-monospace", "Consolas", "monospace"],
    ).set(button_large_text_weight="500", button_large_text_size="*text_md")


def free_port(host: str, wanted: int) -> int:
    """`wanted`, or the next port that nobody listens on; 0 asks the system for any."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    for port in range(wanted, min(wanted + 100, 65536)) if wanted else (0,):
        with socket.socket(family) as trial:
            if os.name == "posix":  # elsewhere this option would take a port that is in use
                trial.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                trial.bind((host.strip("[]"), port))
            except OSError:
                continue
            return int(trial.getsockname()[1])
    raise OutOfResources(f"the ports {wanted} to {wanted + 99} are all taken; choose another with --port")


# ---------------------------------------------------------------------------------------------------------------------
# The life of a server


def serve(
    folder: Path,
    options: Options,
    show: str = "window",
    store: Callable[[Path, int], Store] = Store,
    runner: Runner = Supervisor,
) -> None:
    """Run the app until it is interrupted, and print where it is. `show` is "window", "tab" or "no"."""
    single = Single(folder)
    profile = folder / "cache" / "window"
    if not single.take():
        url = _wait_for(single)
        print(f"videodiff already runs on {folder}: {url}", flush=True)
        if show != "no":
            window.show(url, profile, tab=show == "tab")
        return
    try:
        table = store(folder, options.quota)
        sweep(table)
        # Read by Gradio at import and whenever something is put in: nothing of ours lies in the system's folder.
        os.environ["GRADIO_TEMP_DIR"] = str(table.cache / "gradio")
        port = free_port(options.host, options.port)
        jobs = runner(table, options.device)
        secret = secrets.token_urlsafe(16)
        blocks = build(table, jobs, options, secret)
        url = launch(blocks, table, options, port, secret)
        jobs.start()
        single.tell(url)
        if options.port not in (0, port):
            print(f"port {options.port} is taken; using {port}", flush=True)
        print(f"videodiff runs at {url} (data in {folder}); stop it with Ctrl+C")
        if show != "no":
            window.show(url, profile, tab=show == "tab")
        try:
            threading.Event().wait()
        finally:
            jobs.stop()
            blocks.close(verbose=False)
    finally:
        single.release()


def _wait_for(single: Single, seconds: float = 60) -> str:
    """The address of the server that is there, which may be starting still."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        url = single.other()
        if url is not None:
            return url
        time.sleep(0.1)
    raise OutOfResources(
        f"another server holds {single.note.parent} but did not become ready; "
        "end it, or choose another folder with --data"
    )


def sweep(store: Store) -> None:
    """Remove what a former server left of uploads and previews; results and the clips of jobs are elsewhere."""
    shutil.rmtree(store.cache / "gradio", ignore_errors=True)
    (store.cache / "gradio").mkdir(parents=True)
