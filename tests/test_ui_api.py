"""Programs get what pages get: the examples of docs/api.md run, and what is not theirs is refused."""

import json
import re
import urllib.request
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
from gradio_client import Client, handle_file
from gradio_client.exceptions import AppError

from videodiff import video
from videodiff.settings import TASKS


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a clip, where the examples run."""
    video.write(tmp_path / "clip.mp4", np.zeros((8, 64, 64, 3), np.uint8), fps=8)
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def client(app: Any, tmp_path: Path) -> Client:
    """A program."""
    return Client(app.url, verbose=False, download_files=tmp_path)


def test_the_examples_run(app: Any, desk: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As they stand, at the address of this app; the result is on the program's disk and can be read."""
    text = (browser.ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    names: dict[str, Any] = {}
    for number, block in enumerate(blocks):
        exec(compile(block.replace("http://127.0.0.1:7860", app.url), "docs/api.md", "exec"), names)
        job = names["job"]
        assert job["state"] == "done", job["error"]
        clip = Path(job["clip"] if isinstance(job["clip"], str) else job["clip"]["path"])
        assert video.read(clip, trusted=True).frames.shape[0] > (8 if number else 0)
    assert "done" in capsys.readouterr().out


def test_the_document_names_every_endpoint(client: Client) -> None:
    """No more and no less than the app has."""
    text = (browser.ROOT / "docs" / "api.md").read_text(encoding="utf-8")
    table = text.split("## The endpoints")[1].split("*Settings*")[0]
    first = [row.split("|")[1] for row in table.splitlines() if row.startswith("| `")]
    named = {f"/{name}" for cell in first for name in re.findall(r"`(\w+)`", cell)}
    there = client.view_api(return_format="dict", print_info=False)["named_endpoints"]
    assert named == set(there)
    assert {f"/{task}" for task in TASKS} <= named


def test_a_request_that_cannot_be_done_says_why(client: Client) -> None:
    """In the words of the command, without a trace."""
    with pytest.raises(AppError, match="steps"):
        client.predict({"frames": 2, "steps": 0}, api_name="/generate")
    with pytest.raises(AppError, match="there is no job 99999"):
        client.predict(99999, api_name="/job")


@pytest.mark.parametrize(
    ("name", "given", "said"),
    [
        ("generate", ([1, 2],), r"generate: settings are \[1, 2\]; give them by name"),
        ("generate", ("frames",), "generate: settings are 'frames'; give them by name"),
        ("job", (10**30,), f"number: .* less than .*given '{10**30}'"),
        ("job", ("last",), "number: .* valid integer.*given 'last'"),
        ("cancel", (10**30,), f"number: .* less than .*given '{10**30}'"),
        ("jobs", ("seed", "x"), "limit: .* valid integer.*given 'x'"),
        ("jobs", (5, 1), "text: .* valid string.*given '5'"),
    ],
)
def test_what_is_of_another_kind_is_named(client: Client, name: str, given: tuple[Any, ...], said: str) -> None:
    """What was given and what is possible, not that something went wrong."""
    with pytest.raises(AppError, match=said):
        client.predict(*given, api_name=f"/{name}")


def test_a_folder_of_pictures_is_named_to_a_program(app: Any, client: Client, tiny: Path, tmp_path: Path) -> None:
    """It is no file to download; the job is done all the same, and says where it is."""
    asked = {
        "frames": 2,
        "steps": 1,
        "width": 16,
        "height": 16,
        "checkpoint": str(tiny),
        "output": str(tmp_path / "made"),
    }
    job = client.predict(asked, True, api_name="/generate")
    assert (job["state"], job["clip"]) == ("done", None)
    assert len(list(Path(job["settings"]["output"]).glob("*.png"))) == 2
    assert client.predict(job["id"], api_name="/job") == job


@pytest.mark.parametrize("path", ["/etc/passwd", "http://127.0.0.1:1/x.mp4", "../../../../etc/passwd"])
@pytest.mark.parametrize("meta", [{"meta": {"_type": "gradio.FileData"}}, {}])
def test_only_uploads_are_read_as_files(app: Any, path: str, meta: dict[str, Any]) -> None:
    """A file of the machine or an address given as an upload is refused, and no job is made of it."""
    before = app.store.list()
    body = json.dumps({"data": [{"input": {"path": path, **meta}}, False]}).encode()
    address = f"{app.url}/gradio_api/call/predict"
    asked = urllib.request.Request(address, body, {"Content-Type": "application/json"})
    with urllib.request.urlopen(asked) as answer:
        event = json.load(answer)["event_id"]
    with urllib.request.urlopen(f"{address}/{event}") as answer:
        assert answer.read().startswith(b"event: error")
    assert app.store.list() == before


def test_a_waiting_job_is_cancelled(app: Any, client: Client, desk: Path) -> None:
    """And is listed as such."""
    app.store.pause("by a test")
    try:
        job = client.predict({"input": handle_file("clip.mp4"), "steps": 1}, api_name="/predict")
        assert job["state"] == "waiting"
        assert client.predict(job["id"], api_name="/cancel")["state"] == "cancelled"
        assert client.predict("", 1, api_name="/jobs")[0]["id"] == job["id"]
    finally:
        app.store.resume()


def test_events_of_pages_are_private(client: Client) -> None:
    """Nothing a page does by itself can be called by name."""
    there = client.view_api(return_format="dict", print_info=False)
    assert not there["unnamed_endpoints"]
