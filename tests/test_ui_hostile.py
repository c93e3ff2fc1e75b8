"""Clips a stranger made, put into the page: nothing in their names, settings or streams runs, hangs or ends the app."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from videodiff import video
from videodiff.jobs import FAILED

EVIL = "<img src=x onerror=window.hacked=1>"
SETTINGS = {"settings": {"kind": "predict", "input": f"/{EVIL}.mp4", "checkpoint": EVIL, "seed": 7}}
BOMBS = {
    "long": '{"kind": "' + "x" * 1_000_000 + '"}',
    "deep": '{"kind":' * 10_000,
    "endless": '{"kind": "predict", "seed": 1e999}',
    "twice": '{"kind": "predict", "kind": "loop"}',
    "wrong": json.dumps({"settings": {"kind": "predict", "input": "a.mp4", "seed": EVIL}}),
}
"""Settings that are none, as JSON."""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str, str], Path]:
    """`write(name, text)`: a clip that carries this text as its settings."""

    def written(name: str, text: str) -> Path:
        frames = np.zeros((6, 16, 16, 3), np.uint8)
        with monkeypatch.context() as patched:
            patched.setattr("videodiff.video.writer.as_text", lambda _: text)
            patched.setattr("videodiff.video.formats.readable", lambda _: "")
            video.write(tmp_path / name, frames, 8, metadata={})
        return tmp_path / name

    return written


def test_nothing_of_a_clip_runs_on_the_page(app: Any, page: Any, write: Callable[[str, str], Path]) -> None:
    """Its name and settings are text wherever they are said: facts, settings to look at, toasts, progress, library."""
    path = write(f"{EVIL}.mp4", json.dumps(SETTINGS))
    page.set_input_files("#vd-input input[type=file]", str(path))
    page.wait_for_selector("#vd-facts .vd-former")
    page.locator("#vd-facts summary").click()
    page.click("#vd-use")
    page.locator("#vd-more button").first.click()
    page.wait_for_function(f"document.querySelector('#vd-field-checkpoint input')?.value === {json.dumps(EVIL)}")
    page.click("#vd-run")
    page.wait_for_selector("#vd-progress .vd-problem")
    (job,) = app.store.list(limit=1)
    assert job.state == FAILED
    assert EVIL in job.error
    for name in ("Library", "Models", "Make"):
        page.click(f"#vd-tabs button[role=tab]:text-is('{name}')")
        page.wait_for_timeout(500)
    page.evaluate("document.querySelectorAll('button[data-act=show]').forEach((e) => e.click())")
    page.wait_for_timeout(500)
    assert page.evaluate("window.hacked") is None
    assert page.locator("img[src='x']").count() == 0


def test_files_that_a_clip_names_are_named_and_never_read(page: Any, write: Callable[[str, str], Path]) -> None:
    """A mask it was made with may be any path of this machine: the page says that one is to be given again."""
    settings = {"settings": {"kind": "infill", "input": "/a.mp4", "mask": f"/etc/{EVIL}.png", "seed": 7}}
    page.set_input_files("#vd-input input[type=file]", str(write("made.mp4", json.dumps(settings))))
    page.wait_for_selector("#vd-facts .vd-hint:has-text('give it again')")
    assert f"{Path(EVIL).name}.png" in page.locator("#vd-facts .vd-hint").inner_text()
    page.click("#vd-use")
    page.wait_for_selector("#vd-task input[value=infill]:checked")
    assert page.locator("#vd-mask-file .file-preview").count() == 0
    assert page.evaluate("window.hacked") is None


@pytest.mark.parametrize("kind", BOMBS)
def test_a_bomb_in_the_settings_is_told_and_the_clip_is_used(
    page: Any, write: Callable[[str, str], Path], kind: str
) -> None:
    """The clip itself is good; what its settings are, or are not, becomes a line beside it."""
    page.set_input_files("#vd-input input[type=file]", str(write("bomb.mp4", BOMBS[kind])))
    page.wait_for_selector("#vd-timeline .vd-cell")
    facts = page.locator("#vd-facts")
    assert "6 frames" in facts.inner_text()
    assert facts.locator(".vd-hint").count() == 1
    assert page.locator("#vd-use").is_hidden()
    assert page.evaluate("window.hacked") is None


def test_what_is_no_clip_is_told_in_plain_words(page: Any, tmp_path: Path) -> None:
    """A text by the name of a clip; the page goes on."""
    bad = tmp_path / f"{EVIL}.mp4"
    bad.write_text(EVIL * 1000)
    page.set_input_files("#vd-input input[type=file]", str(bad))
    page.wait_for_selector(".toast-body.error")
    assert page.evaluate("window.hacked") is None
    page.click("#vd-example")
    page.wait_for_selector("#vd-timeline .vd-cell")
