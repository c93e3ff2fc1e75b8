"""The page Models in a real browser: checkpoints are added by path, by upload and from a Hub, or refused by name."""

import json
import pickle
import re
import shutil
import struct
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from videodiff import shelf, video
from videodiff.errors import CheckpointError, UserError
from videodiff.jobs import DONE, Store
from videodiff.settings import Predict
from videodiff_ui import card, models

EVIL = "<img src=x onerror=window.hacked=1>"
SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture(scope="module")
def hub(tiny: Path) -> Iterator[ThreadingHTTPServer]:
    """A Hub on this machine with one repository of ours, which also holds a pickle, and one of something else."""
    files = {f.name: f.read_bytes() for f in tiny.iterdir()} | {
        "README.md": b"---\nlicense: cc0-1.0\n---\n# from afar\n",
        "pytorch_model.bin": pickle.dumps("never fetched"),
    }
    repositories: dict[str, dict[str, bytes]] = {"someone/afar": files, "someone/other": {"model.bin": b"x"}}

    class Hub(BaseHTTPRequestHandler):
        asked: list[str] = []  # noqa: RUF012 - of the one server of this test

        def do_GET(self) -> None:
            self.answer(True)

        def do_HEAD(self) -> None:
            self.answer(False)

        def answer(self, whole: bool) -> None:
            Hub.asked.append(self.path)
            path = self.path.split("?")[0].strip("/")
            for name, found in repositories.items():
                if path in (f"api/models/{name}", f"api/models/{name}/revision/{SHA}"):
                    rows = [{"rfilename": file, "size": len(data)} for file, data in found.items()]
                    about = {"id": name, "sha": SHA, "siblings": rows, "cardData": {"license": "cc0-1.0"}}
                    return self.send(json.dumps(about).encode(), whole, "application/json")
                file = path.removeprefix(f"{name}/resolve/{SHA}/")
                if file in found:
                    return self.send(found[file], whole)
            self.send_error(404)
            return None

        def send(self, data: bytes, whole: bool, kind: str = "application/octet-stream") -> None:
            self.send_response(200)
            head = {"Content-Type": kind, "Content-Length": len(data), "ETag": f'"{hash(data)}"', "X-Repo-Commit": SHA}
            for key, value in head.items():
                self.send_header(key, str(value))
            self.end_headers()
            if whole:
                self.wfile.write(data)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.shutdown()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, hub: ThreadingHTTPServer) -> Iterator[Any]:
    """A running app for which the Hub is the one of this machine."""
    address = f"http://127.0.0.1:{hub.server_address[1]}"
    running = browser.start(tmp_path_factory.mktemp("data"), environment={"HF_ENDPOINT": address})
    yield running
    running.stop()


@pytest.fixture
def shown(page: Any) -> Any:
    browser.tab(page, "models")
    page.locator("#vd-models-list [data-name=motion]").wait_for()
    return page


def fill(page: Any, field: str, text: str) -> None:
    page.locator(f"#vd-models-{field} textarea, #vd-models-{field} input").first.fill(text)


def opened(page: Any, way: str) -> None:
    box = page.locator(f"#vd-models-by-{way}")
    if not page.locator(f"#vd-models-by-{way} button:text('Check and add'), #vd-models-look").first.is_visible():
        box.locator("button").first.click()


def add_folder(page: Any, folder: Path, name: str) -> str:
    """Add a folder by its path; what the page says of it."""
    opened(page, "folder")
    said = page.locator("#vd-models-said")
    before = said.inner_text()
    fill(page, "folder", str(folder))
    fill(page, "folder-name", name)
    page.locator("#vd-models-folder-add").click()
    return browser.until(lambda: changed(said.inner_text(), before), 60)


def changed(text: str, before: str) -> str:
    """What a line says now; nothing while it is empty, or blank as it is on its way."""
    return "" if text.strip() == before.strip() else text.strip()


def test_shipped_ones_are_described_and_their_card_has_the_scores(shown: Any) -> None:
    entry = shown.locator("#vd-models-list [data-name=motion]")
    text = entry.inner_text()
    assert shelf.digest(shelf.find("motion")) in text
    assert "apache-2.0" in text
    entry.locator("[data-act=card]").click()
    entry.locator(".vd-readme").wait_for()
    assert "coffee_room" in entry.locator(".vd-readme table").last.inner_text()


def test_an_added_folder_makes_a_clip_and_goes_and_comes_back(app: Any, shown: Any, tiny: Path) -> None:
    assert "Added: mine" in add_folder(shown, tiny, "mine")
    shown.locator("#vd-models-list [data-name=mine]").wait_for()
    value = dict(models.choices(app.store))["mine (added)"]
    clip = app.data / "clip.mp4"
    video.write(clip, np.zeros((4, 16, 16, 3), np.uint8), 8)
    job = app.store.add(Predict(input=clip, checkpoint=value, frames=2, steps=1, device="cpu", threads=1))
    assert app.job(job.id, DONE, "failed").state == DONE, app.store.get(job.id).error
    assert app.store.get(job.id).digest == shelf.digest(tiny)
    shown.locator("[data-name=mine] [data-act=remove]").click()
    shown.locator("[data-name=mine]").wait_for(state="detached")
    assert "mine (added)" not in dict(models.choices(app.store))
    shown.locator("#vd-models-said [data-act=undo]").click()
    shown.locator("[data-name=mine]").wait_for()


def test_files_put_in_become_a_checkpoint(app: Any, shown: Any, tiny: Path) -> None:
    opened(shown, "files")
    shown.locator("#vd-models-files input[type=file]").set_input_files(sorted(tiny.iterdir()))
    browser.until(lambda: "model.safetensors" in shown.locator("#vd-models-files").inner_text())
    fill(shown, "files-name", "uploaded")
    shown.locator("#vd-models-files-add").click()
    shown.locator("#vd-models-list [data-name=uploaded]").wait_for(timeout=60_000)
    assert shelf.digest(app.store.checkpoints / "uploaded") == shelf.digest(tiny)


def safetensors(header: bytes, body: bytes = b"", size: int | None = None) -> bytes:
    return struct.pack("<Q", len(header) if size is None else size) + header + body


def wide(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["model"].update(widths=[60_000] * 8, blocks_up=16)
    (folder / "config.json").write_text(json.dumps(config))


def write(data: bytes, name: str = "model.safetensors") -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(data)


def pickled(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"a": 1}))


OVERFLOW = b'{"a":{"dtype":"F32","shape":[1099511627776,1099511627776],"data_offsets":[0,4]}}'
BAD: dict[str, tuple[Callable[[Path], object], str]] = {
    "a pickle": (pickled, "is a pickle, which can run any code"),
    "a pickle by another name": (write(pickle.dumps({"a": 1})), "safetensors"),
    "a truncated body": (lambda f: (f / "model.safetensors").write_bytes(
        (f / "model.safetensors").read_bytes()[:-9]), "ends too early"),
    "a header of 100 MB": (write(safetensors(b"{}", size=100_000_000)), "a header of 1.0e+08 bytes"),
    "shapes that overflow": (write(safetensors(OVERFLOW, b"1234")), "its shapes ask for 1.2e+24 numbers"),
    "10^12 parameters": (wide, "parameters; at most"),
    "a config of something else": (write(b'{"_class_name": "UNet2D"}', "config.json"), "is not a videodiff checkpoint"),
}  # fmt: skip


def test_what_is_no_checkpoint_is_refused_with_the_reason(app: Any, shown: Any, tiny: Path, tmp_path: Path) -> None:
    before = sorted(app.store.checkpoints.iterdir())
    for number, (spoil, reason) in enumerate(BAD.values()):
        folder = tmp_path / f"bad-{number}"
        shutil.copytree(tiny, folder)
        spoil(folder)
        said = add_folder(shown, folder, "")
        assert reason in said, said
    assert "cannot name a checkpoint" in add_folder(shown, tiny, "../../outside")
    assert f"no checkpoint '{tmp_path / EVIL.replace('/', '')}'" in add_folder(shown, tmp_path / EVIL, "")
    assert sorted(app.store.checkpoints.iterdir()) == before
    assert shown.evaluate("window.hacked") is None


def test_a_process_that_only_looked_took_no_memory_for_a_claim(tiny: Path, tmp_path: Path) -> None:
    """The server refuses by header; only what survives that is loaded, in a process of its own."""
    tried: list[Path] = []
    for number, (spoil, reason) in enumerate(BAD.values()):
        folder = tmp_path / f"bad-{number}"
        shutil.copytree(tiny, folder)
        spoil(folder)
        if reason != BAD["10^12 parameters"][1]:
            with pytest.raises(CheckpointError, match=re.escape(reason)):
                shelf.add(sorted(folder.iterdir()), tmp_path / "home", "bad", tried.append)
    assert tried == []
    assert list((tmp_path / "home").iterdir()) == []


def test_a_card_may_say_anything_and_nothing_of_it_is_executed(app: Any, shown: Any, tiny: Path) -> None:
    folder = browser.add_checkpoint(app.data, tiny).rename(app.store.checkpoints / "evil")
    links = "![x](http://far.example/x.png) [a](javascript:alert(1))"
    text = f"# {EVIL}\n\n{EVIL} {links}\n\n| {EVIL} |\n|---|\n| `{EVIL}` |\n"
    (folder / "README.md").write_text(f"---\nlicense: {EVIL}\n---\n{text}")
    browser.tab(shown, "library")
    browser.tab(shown, "models")
    entry = shown.locator("[data-name=evil]")
    entry.locator("[data-act=card]").click()
    browser.until(lambda: entry.locator(".vd-readme").inner_text().count(EVIL) == 4)
    assert entry.locator("img, a").count() == 0
    assert shown.evaluate("window.hacked") is None


def test_from_the_hub_only_what_was_shown_is_fetched_and_never_a_pickle(
    app: Any, shown: Any, tiny: Path, hub: ThreadingHTTPServer
) -> None:
    asked = hub.RequestHandlerClass.asked  # type: ignore[attr-defined]
    assert asked == [], "nothing is asked of the Hub before a button is pressed"
    opened(shown, "hub")
    fill(shown, "repository", "someone/afar")
    shown.locator("#vd-models-look").click()
    offer = shown.locator("#vd-models-offer")
    browser.until(lambda: SHA in offer.inner_text())
    assert "cc0-1.0" in offer.inner_text()
    assert "bin" not in offer.inner_text()
    assert not any("resolve" in path for path in asked)
    shown.locator("#vd-models-fetch").click()
    said = shown.locator("#vd-models-said")
    text = browser.until(lambda: changed(said.inner_text(), ""), 60)
    assert "Added: afar" in text, (asked, app.log.read_text())
    shown.locator("#vd-models-list [data-name=afar]").wait_for(timeout=60_000)
    assert sorted(f.name for f in (app.store.checkpoints / "afar").iterdir()) == [
        "README.md", "config.json", "model.safetensors",
    ]  # fmt: skip
    assert all(SHA in path for path in asked if "resolve" in path)
    assert not any(".bin" in path for path in asked)
    for repository, reason in (
        ("someone/other", "no config.json with model.safetensors"),
        ("someone/missing", "no public repository"),
        ("no repository", "write owner/name"),
    ):
        fill(shown, "repository", repository)
        shown.locator("#vd-models-look").click()
        browser.until(lambda reason=reason: reason in offer.inner_text())  # type: ignore[misc]
        assert not shown.locator("#vd-models-fetch").is_visible()


def test_without_a_hub_the_page_says_so(app: Any, shown: Any, hub: ThreadingHTTPServer) -> None:
    hub.shutdown()
    hub.server_close()
    opened(shown, "hub")
    fill(shown, "repository", "someone/afar")
    shown.locator("#vd-models-look").click()
    browser.until(lambda: "seems to be offline" in shown.locator("#vd-models-offer").inner_text(), 60)


def test_a_card_is_laid_out() -> None:
    text = "# A\n\ntext **bold** `x<y`\nmore\n\n- one\n  on\n- two\n\n```json\n{}\n```\n\n    code\n\n"
    text += "| a | b |\n|---|---|\n| 1 | 2 |\n"
    made = card.render(text)
    assert made.startswith("<h3>A</h3><p>text <strong>bold</strong> <code>x&lt;y</code> more</p>")
    assert "<ul><li>one on</li><li>two</li></ul>" in made
    assert made.count("<pre") == 2
    assert '<th scope="row">1</th><td>2</td>' in made
    assert card.render("```\nnever closed") == '<pre tabindex="0">never closed</pre>'
    assert "<li>a</li>" in card.render("- a\n|")


def test_trained_runs_are_listed_by_their_best_state(tiny: Path, tmp_path: Path) -> None:
    store = Store(tmp_path)
    for step, loss in ((10, 0.5), (20, 0.7)):
        shutil.copytree(tiny, store.runs / "mine" / f"step-{step:08d}")
        (store.runs / "mine" / f"step-{step:08d}" / shelf.MEASURED).write_text(f'{{"loss": {loss}, "on": ""}}')
    (store.runs / "begun").mkdir()
    found = {entry.name: entry for entry in models.entries(store) if entry.origin == "trained"}
    assert list(found) == ["mine"]
    assert found["mine"].value == str(store.runs / "mine")
    assert shelf.find(found["mine"].value).name == "step-00000010"


def test_of_two_removed_under_one_name_the_right_one_comes_back(tiny: Path, tmp_path: Path) -> None:
    store, places = Store(tmp_path), []
    for card_text in ("first", "second"):
        shutil.copytree(tiny, store.checkpoints / "mine")
        (store.checkpoints / "mine" / "README.md").write_text(card_text)
        places.append(models.remove(store, "mine"))
    assert list(store.checkpoints.iterdir()) == []
    models.put_back(store, places[0])
    assert (store.checkpoints / "mine" / "README.md").read_text() == "first"
    with pytest.raises(UserError, match="remove it first"):
        models.put_back(store, places[1])
    with pytest.raises(UserError, match="not removed here"):
        models.remove(store, "motion")
