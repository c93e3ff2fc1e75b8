"""A running app and a page in a real browser: what tests of the app stand on.

The app is a process of its own on a folder of its own, as a user starts it. The browser is the Chromium that is
installed; nothing is downloaded. A page keeps what its console said and which addresses it asked for, so that
`Watched.quiet` can say that nothing went wrong and nothing went outside.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pytest

from videodiff.jobs import Job, Store
from videodiff.supervisor import Supervisor
from videodiff_ui import window, words

ROOT = Path(__file__).resolve().parents[1]
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--mute-audio",
)
T = TypeVar("T")


def until(question: Callable[[], T], seconds: float = 60, what: str = "") -> T:
    """The first answer that is true, asked again and again; fails with `what` when the time is over."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        answer = question()
        if answer:
            return answer
        time.sleep(0.05)
    raise AssertionError(f"not within {seconds} s: {what or question}")


# ---------------------------------------------------------------------------------------------------------------------
# The app


@dataclass
class Served:
    """A running app. `store` reads the same table of jobs as the app does."""

    url: str
    data: Path
    process: subprocess.Popen[str]
    store: Store
    log: Path

    def job(self, id: int, *states: str, seconds: float = 120) -> Job:
        """Job `id` as soon as it is in one of the states."""
        until(lambda: self.store.get(id).state in states, seconds, f"job {id} {states}, is {self.store.get(id)}")
        return self.store.get(id)

    def stop(self) -> None:
        """Stop the app as Ctrl+C does, and its worker."""
        try:
            if self.process.poll() is None:
                self.process.send_signal(signal.SIGTERM)
                self.process.wait(30)
        finally:  # whatever became of it, nothing goes on beside the tests that follow
            self.process.kill()
            Supervisor(self.store).stop(kill=True)  # a worker outlives its server by ten minutes

    def kill(self) -> None:
        """End the app as a power cut would; its worker lives on."""
        self.process.kill()
        self.process.wait(30)


def start(data: Path, *options: str, environment: dict[str, str] | None = None) -> Served:
    """Start `videodiff ui` on a data folder and wait until its page answers."""
    data.mkdir(parents=True, exist_ok=True)
    log = data / "server.log"
    # Nothing of a proxy stands between a test and its server; a test's threads are few.
    kept = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    command = [sys.executable, "-m", "videodiff", "ui", "--data", str(data), "--no-open", *options]
    if "--port" not in options:
        command += ["--port", "0"]
    with log.open("a") as out:
        process = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            text=True,
            cwd=data,
            env={**kept, "OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "ui")))}
            | (environment or {}),
        )
    note = data / "server.json"

    def ready() -> bool:
        assert process.poll() is None, f"the app ended:\n{log.read_text()}"
        return note.is_file() and json.loads(note.read_text())["pid"] == process.pid

    until(ready, 120, "the app did not become ready")
    url = json.loads(note.read_text())["url"].rstrip("/")
    with urllib.request.urlopen(url, timeout=30) as answer:
        assert answer.status == 200
    return Served(url, data, process, Store(data), log)


def add_checkpoint(data: Path, checkpoint: Path) -> Path:
    """Put a checkpoint folder into a data folder, where the app finds it by its name."""
    target = data / "checkpoints" / checkpoint.name
    shutil.copytree(checkpoint, target, dirs_exist_ok=True)
    return target


# ---------------------------------------------------------------------------------------------------------------------
# The browser


def program() -> str | None:
    """The installed Chromium-family browser; None where there is none."""
    return window.browser()


def require() -> str:
    """The browser's program. Where there is none a test is skipped; in CI it fails, where nothing may be left out."""
    found = program()
    if found is None:
        message = "no Chromium-family browser is installed"
        if os.environ.get("CI") == "true":
            pytest.fail(message)
        pytest.skip(message)
    return found


@dataclass
class Watched:
    """What a page said and asked for."""

    console: list[str] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    bad: list[str] = field(default_factory=list)

    def quiet(self) -> None:
        """Nothing was written to the console as an error, nothing failed, nothing was asked of another host."""
        assert not self.console, self.console
        assert not self.outside, self.outside
        assert not self.bad, self.bad


def watch(page: Any, url: str) -> Watched:
    """Record what goes wrong on a page, and what it asks of others than `url`."""
    seen = Watched()
    page.on("console", lambda m: seen.console.append(m.text) if m.type == "error" else None)
    page.on("pageerror", lambda e: seen.console.append(str(e)))
    page.on(
        "request",
        lambda r: None if r.url.startswith((url, "data:", "blob:")) else seen.outside.append(r.url),
    )
    page.on("response", lambda r: seen.bad.append(f"{r.status} {r.url}") if r.status >= 400 else None)
    return seen


@contextmanager
def opened(chromium: Any, url: str, **context: Any) -> Iterator[Any]:
    """A page of the app in a fresh browser profile; `page.watched` has what went wrong. Options are Playwright's."""
    made = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, "locale": "en-US", **context})
    made.set_default_timeout(20_000)
    try:
        page = made.new_page()
        page.watched = watch(page, url)
        page.goto(url)
        page.wait_for_selector("#vd-header .vd-name")
        page.wait_for_selector("#vd-tabs [role=tab]")
        yield page
    finally:
        made.close()


def reload(page: Any) -> None:
    """Load the page anew. What Gradio's own streams say as they are cut off by that is no fault of the page."""
    page.reload()
    page.wait_for_selector("#vd-tabs [role=tab]")
    cut = ("AbortError", "Unexpected error Connection errored out")
    page.watched.console[:] = [line for line in page.watched.console if not line.startswith(cut)]


def tab(page: Any, name: str, language: str = "en") -> None:
    """Open the page with this id (make, library, ...), wherever its tab is: in the row or behind the dots."""
    label = words.text(f"tab_{name}", language)
    wanted = page.locator(f"#vd-tabs button[role=tab]:text-is('{label}')").locator("visible=true")
    dots = page.locator("#vd-tabs .overflow-menu > button").locator("visible=true")
    until(lambda: wanted.count() or dots.count())  # a page just opened has neither
    if wanted.count() == 0:
        dots.click()
        wanted = page.locator(f"#vd-tabs .overflow-dropdown button:text-is('{label}')")
    wanted.first.click()
    page.wait_for_function(
        "(id) => { const e = document.getElementById(id); return e && getComputedStyle(e).display !== 'none'; }",
        arg=f"page-{name}",
    )
