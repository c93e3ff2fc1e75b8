"""What pages are given: results by a path that the server may give, and what the disk refused in words."""

import errno
import os
import re
import tempfile
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("gradio")

import gradio as gr

from videodiff.errors import UserError
from videodiff.jobs import Store
from videodiff_ui.context import App, told
from videodiff_ui.server import Options, serve


@pytest.mark.parametrize("public", [False, True])
def test_a_result_is_served_in_place_or_by_a_link_that_is_made_once(tmp_path: Path, public: bool) -> None:
    """In place only from the folder of results, which alone is given; a changed file is another one."""
    store = Store(tmp_path / "data")
    with gr.Blocks():
        app = App(store, None, public, gr.State(), gr.Tabs())  # type: ignore[arg-type]
    ours, elsewhere = store.results / "a.mp4", tmp_path / "own" / "b.mp4"
    elsewhere.parent.mkdir()
    for path in (ours, elsewhere):
        path.write_bytes(b"film")
        shown = Path(app.shown(path))
        assert shown.read_bytes() == b"film"
        assert app.shown(path) == str(shown)
        assert (shown == path) == (path == ours and not public)
        assert shown == path or shown.is_relative_to(store.cache / "gradio")
    before = app.shown(elsewhere)
    elsewhere.unlink()
    elsewhere.write_bytes(b"another")
    assert Path(app.shown(elsewhere)).read_bytes() == b"another"
    assert Path(before).read_bytes() == b"film"


def test_a_result_written_elsewhere_reaches_a_program(app: Any, tiny: Path) -> None:
    """docs/api.md promises `output` on one's own machine: outside what Gradio serves by itself."""
    from gradio_client import Client

    elsewhere = Path(tempfile.mkdtemp(dir=Path.home())) / "made.mp4"
    try:
        client = Client(app.url, verbose=False)
        asked = {"frames": 2, "steps": 1, "width": 16, "height": 16, "checkpoint": str(tiny), "output": str(elsewhere)}
        job = client.predict(asked, True, api_name="/generate")
        assert job["state"] == "done"
        assert Path(job["clip"]).read_bytes() == elsewhere.read_bytes()
    finally:
        for path in (elsewhere, elsewhere.with_name("made.mp4.json")):
            path.unlink(missing_ok=True)
        elsewhere.parent.rmdir()


def test_what_the_system_refuses_a_handler_is_told(tmp_path: Path) -> None:
    """Which file and why; the log has it as well, except that the disk is full."""
    (tmp_path / "file").touch()
    (tmp_path / "clip").touch()
    below = tmp_path / "file" / "below"
    for act in (below.mkdir, below.read_bytes, lambda: (tmp_path / "clip").rename(below)):
        with pytest.raises(gr.Error) as caught:
            told(act)()
        assert caught.value.message.startswith(f"{below} cannot be read or written: ")
        assert caught.value.print_exception

    def full() -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(gr.Error, match="the disk is full") as caught:
        told(full)()
    assert not caught.value.print_exception


@pytest.mark.parametrize("obstacle", ["data", "data/server.lock/folder"])
def test_a_data_folder_that_cannot_be_used_is_told(tmp_path: Path, obstacle: str) -> None:
    """As the command tells it, with what was given and why: one that cannot be made, and one that cannot be written."""
    obstacles = tmp_path / obstacle  # these refuse root too, as permissions do not
    obstacles.parent.mkdir(parents=True, exist_ok=True)
    obstacles.touch()
    folder = tmp_path / "data" / "below" if obstacle == "data" else tmp_path / "data"
    said = rf"the data folder {re.escape(str(folder))} cannot be used: \w.*; set VIDEODIFF_DATA to another"
    with pytest.raises(UserError, match=said):
        serve(folder, Options(port=0), show="no")
