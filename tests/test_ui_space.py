"""A Space: it starts from a plain checkout, strangers see only what is theirs, and its header is valid."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import urllib.request
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest
import yaml

from videodiff import video
from videodiff.errors import LimitExceeded, UserError
from videodiff.jobs import DONE, WAITING, Store
from videodiff.settings import Bpd, Edit, Generate, Infill, Interpolate, Predict, Settings
from videodiff.supervisor import Supervisor
from videodiff_ui import public
from videodiff_ui.public import PublicStore

ROOT = Path(__file__).resolve().parents[1]

KEYS = {
    "title", "emoji", "colorFrom", "colorTo", "sdk", "sdk_version", "python_version", "app_file", "license", "pinned",
    "short_description", "suggested_hardware", "models", "datasets", "tags", "thumbnail", "preload_from_hub",
    "startup_duration_timeout", "disable_embedding", "custom_headers", "fullWidth", "header", "hf_oauth",
}  # fmt: skip
"""What a Space's front matter may hold."""
COLOURS = {"red", "yellow", "green", "blue", "indigo", "purple", "pink", "gray"}


# ---------------------------------------------------------------------------------------------------------------------
# The header and what is installed


def test_the_front_matter_is_valid() -> None:
    """Known keys, known values, and a Gradio that pyproject.toml allows."""
    header = yaml.safe_load((ROOT / "README.md").read_text(encoding="utf-8").split("---")[1])
    assert set(header) <= KEYS
    assert header["sdk"] == "gradio"
    assert {header["colorFrom"], header["colorTo"]} <= COLOURS
    assert (ROOT / header["app_file"]).is_file()
    assert len(header["short_description"]) <= 60
    assert header["python_version"] in ("3.11", "3.12")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    (gradio,) = (line for line in project["optional-dependencies"]["ui"] if line.startswith("gradio"))
    least = re.search(r">=(\d+)\.(\d+)", gradio)
    assert least
    assert [int(n) for n in header["sdk_version"].split(".")][:2] >= [int(n) for n in least.groups()]
    assert "<7" in gradio
    assert header["sdk_version"].startswith("6.")


def test_the_package_has_the_apps_files() -> None:
    """A wheel brings what the pages need: pyproject.toml packs the folder, and every file of it is tracked."""
    build = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["hatch"]["build"]
    assert "ui/videodiff_ui" in build["targets"]["wheel"]["packages"]
    for name in ("static/app.js", "static/app.css", "static/icon.png", "locales/en.json", "locales/ko.json"):
        assert (ROOT / "ui" / "videodiff_ui" / name).is_file()


# ---------------------------------------------------------------------------------------------------------------------
# It starts


@pytest.fixture
def space(tmp_path: Path) -> Any:
    """`python ui/app.py` as a Space runs it, without a package installed on the path: its address."""
    log = tmp_path / "log"
    kept = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.lower().endswith("_proxy")}
    environment = {"SPACE_ID": "someone/videodiff", "SPACE_HOST": "someone-videodiff.hf.space"}
    with log.open("w") as out:
        process = subprocess.Popen(
            [sys.executable, str(ROOT / "ui" / "app.py")],
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=tmp_path,
            env={**kept, **environment, "TMPDIR": str(tmp_path), "OMP_NUM_THREADS": "1"},
        )

    def ready() -> re.Match[str] | None:
        assert process.poll() is None, log.read_text()
        return re.search(r"videodiff runs at http://localhost:(\d+)", log.read_text())

    found = browser.until(ready, 120, "the Space did not become ready")
    yield f"http://127.0.0.1:{found[1]}"
    process.terminate()
    process.wait(30)
    (data,) = re.findall(r"\(data in (.+?)\)", log.read_text())
    Supervisor(Store(Path(data))).stop(kill=True)  # a worker outlives its server by ten minutes


def status(url: str, host: str) -> int:
    """What the server answers to a request for this host."""
    try:
        with urllib.request.urlopen(urllib.request.Request(url, headers={"Host": host}), timeout=30) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return int(error.code)


def test_it_starts_as_a_space_does(space: Any) -> None:
    """It answers to the Space's name and to health checks by address, not to others; other sites may frame it."""
    url = space
    assert status(url, "someone-videodiff.hf.space") == 200
    assert status(url, "10.1.2.3:7860") == 200
    assert status(url, "evil.example") == 400
    with urllib.request.urlopen(url) as answer:
        assert "frame-ancestors" not in answer.headers["content-security-policy"]


def test_a_space_has_no_pages_for_its_owner(space: Any, chromium: Any) -> None:
    """Training, measuring and the machine are not shown to strangers; the rest is, quietly."""
    with browser.opened(chromium, space) as page:
        for name in ("make", "edit", "restore", "library", "models"):
            browser.tab(page, name)
        assert page.locator("#page-train, #page-evaluate, #page-system").count() == 0
        page.watched.quiet()


# ---------------------------------------------------------------------------------------------------------------------
# What strangers may ask for


@pytest.fixture
def store(tmp_path: Path) -> PublicStore:
    """A public data folder with an uploaded clip."""
    made = PublicStore(tmp_path / "data")
    video.write(made.uploads / "clip.mp4", np.zeros((8, 16, 16, 3), np.uint8), fps=8)
    return made


def test_what_a_stranger_may_ask(store: PublicStore, tmp_path: Path) -> None:
    """A clip that was put in, a shipped network, a modest size, no say in where the result goes."""
    given, long = store.uploads / "clip.mp4", store.uploads / "long.mp4"
    video.write(long, np.zeros((public.MOST_READ // 2 + 1, 16, 16, 3), np.uint8), fps=10)
    assert store.add(Predict(input=given), "anna").visitor == "anna"
    outside = tmp_path / "own.mp4"
    shutil.copy(given, outside)
    link = store.uploads / "link.mp4"
    link.symlink_to(outside)
    refused: list[Settings] = [
        Predict(input=outside),
        Predict(input=link),
        Predict(input=store.uploads / ".." / ".." / "own.mp4"),
        Predict(input=store.uploads),
        Predict(input=given, output=tmp_path / "out.mp4"),
        Predict(input=given, checkpoint=str(tmp_path)),
        Bpd(input=(given,)),
    ]
    for settings in refused:
        with pytest.raises(UserError, match="shared machine"):
            store.add(settings, "anna")
    for settings in (
        Interpolate(input=long),
        Edit(input=given, fps=1000),
        Predict(input=given, steps=1000),
        Generate(frames=1000),
        Predict(input=given, size=1024),
        Infill(input=given, canvas="960x960"),
        Infill(input=given, canvas="96 X 257"),
    ):
        with pytest.raises(LimitExceeded, match="here"):
            store.add(settings, "anna")
    assert len(store.list()) == 1
    store.add(Interpolate(input=long, end=10), "anna")
    store.add(Predict(input=long), "anna")


def test_a_stranger_does_not_choose_how_the_machine_works(store: PublicStore) -> None:
    """What the form leaves out is refused to programs too; what it would be anyway may be said."""
    given = store.uploads / "clip.mp4"
    for asked in ({"device": "cuda:7"}, {"threads": 256}, {"precision": "float32"}, {"attention": "math"}):
        ((name, value),) = asked.items()
        with pytest.raises(UserError, match=f"shared machine {name} cannot be chosen .*{value}"):
            store.add(Predict(input=given, **asked), "anna")
    store.add(Infill(input=given, canvas=f"{public.MOST_SIDE}x96", device="auto", attention="auto"), "anna")


def test_a_result_can_be_read_by_its_owner_alone(store: PublicStore) -> None:
    """Though its path can be guessed."""
    job = store.add(Predict(input=store.uploads / "clip.mp4"), "anna")
    assert job.output is None
    made = job.folder / "made.mp4"
    video.write(made, np.zeros((8, 16, 16, 3), np.uint8), fps=8)
    with pytest.raises(UserError, match="shared machine"):
        store.add(Predict(input=made), "berta")
    assert store.add(Predict(input=made), "anna").visitor == "anna"


def test_nobody_takes_the_whole_queue(store: PublicStore) -> None:
    """A few jobs each, and not without end together."""
    with pytest.raises(LimitExceeded, match="fewer variants"):
        store.add_all([Generate(frames=2)] * (public.MOST_OWN + 1), "anna")
    assert store.queue() == []
    for _ in range(public.MOST_OWN):
        store.add(Generate(frames=2), "anna")
    with pytest.raises(LimitExceeded, match="of yours"):
        store.add(Generate(frames=2), "anna")
    number = 0
    while len(store.queue()) < public.MOST_WAITING:
        number += 1
        store.add(Generate(frames=2), f"visitor {number}")
    with pytest.raises(LimitExceeded, match="wait already"):
        store.add(Generate(frames=2), "berta")


def test_a_paused_queue_goes_on_by_itself(store: PublicStore, monkeypatch: pytest.MonkeyPatch) -> None:
    """After a while, as visitors cannot see to it."""
    store.pause("job 1 ended its worker 2 times")
    store.relent()
    store.relent()
    assert store.paused()
    monkeypatch.setattr(public, "RESUME_SECONDS", 0)
    store.relent()
    assert not store.paused()


def test_a_visitor_is_a_browser(space: Any, chromium: Any) -> None:
    """Its library is the same after a reload, and another browser's is another."""
    with browser.opened(chromium, space) as page, browser.opened(chromium, space) as other:
        page.click("#vd-example")
        page.wait_for_selector("#vd-timeline .vd-cell")
        page.locator("#vd-field-frames input").fill("2")
        page.locator("#vd-field-frames input").press("Tab")
        page.click("#vd-run")
        page.wait_for_selector("#vd-progress :is(progress, .vd-hint)")
        page.reload()
        browser.tab(page, "library")
        page.wait_for_selector("#page-library :is(.vd-row, .vd-card)")
        browser.tab(other, "library")
        other.wait_for_selector("#page-library .vd-empty")
        cookies = page.context.cookies()
        assert [(one["name"], one["httpOnly"], one["secure"]) for one in cookies] == [("videodiff-visitor", True, True)]


def test_jobs_go_after_a_day(store: PublicStore) -> None:
    """With all their files; those that wait stay, and what they read."""
    store_read = store.uploads / "clip.mp4"
    old, waiting = store.add(Generate(frames=2), "anna"), store.add(Predict(input=store_read), "anna")
    forgotten = store.uploads / "folder" / "clip.mp4"
    forgotten.parent.mkdir()
    shutil.copy(store_read, forgotten)
    store.cancel(old.id)
    store.forget(waiting.created + 1)
    assert [job.id for job in store.list()] == [waiting.id]
    assert store.get(waiting.id).state == WAITING
    assert not old.folder.exists()
    assert not list(store.trash.iterdir())
    assert list(store.uploads.iterdir()) == [store_read]


def test_jobs_are_done_in_this_process_where_gpus_are_lent(store: PublicStore, tiny: Path) -> None:
    """The same table, the same result, without a worker; the call that lends is given the folder alone."""
    request = Generate(frames=2, checkpoint=str(tiny), steps=1, seed=1, device="cpu")
    (job,) = super(PublicStore, store).add_all([request])  # not a network that visitors may choose
    lent = []

    def call(folder: str, quota: int) -> None:
        lent.append(folder)
        public.do_one(folder, quota)

    here = public.Here(store, call)
    here.start()
    try:
        browser.until(lambda: store.get(job.id).state == DONE, 120, f"{store.get(job.id)}")
    finally:
        here.stop()
    assert lent == [str(store.folder)]
    assert store.get(job.id).output is not None
