"""The page Evaluate in a real browser: a measurement from the form to the report, and reports of any content."""

import json
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from videodiff import video
from videodiff.baselines import BASELINES
from videodiff.errors import UserError
from videodiff.jobs import DONE
from videodiff.questions import PROTOCOLS
from videodiff_ui import evaluate, words

EVIL = "<img src=x onerror=window.hacked=1>"


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A set of two clips in which a square moves, and a file that is none."""
    folder = tmp_path_factory.mktemp("sets") / EVIL.replace("/", "")
    folder.mkdir()
    for number in range(2):
        frames = np.full((16, 64, 64, 3), 30, np.uint8)
        for t in range(16):
            frames[t, 20:40, 2 * t + number : 2 * t + number + 16] = (200, 50 * number, 90)
        video.write(folder / f"{number}.mp4", frames, 8)
    (folder / "torn.mp4").write_bytes((folder / "0.mp4").read_bytes()[:200])
    return folder


def fill(page: Any, field: str, text: str) -> None:
    page.locator(f"#vd-evaluate-{field} textarea, #vd-evaluate-{field} input").first.fill(text)


def test_all_that_a_report_names_has_its_words() -> None:
    asked = {name: question for protocol in PROTOCOLS.values() for name, question in protocol.questions.items()}
    rivals = {rival for question in asked.values() for rival in question.rivals}
    keys = {f"question.{name}" for name in asked} | {f"baseline.{name}" for name in rivals | set(BASELINES)}
    assert {key for key in words.LOCALES["ko"] if key.startswith(("question.", "baseline."))} == keys


def test_a_measurement_ends_in_a_report_with_baselines_beside(app: Any, page: Any, clips: Path, tmp_path: Path) -> None:
    browser.tab(page, "evaluate")
    page.locator("#vd-evaluate-list .vd-empty").wait_for()
    said = page.locator("#vd-evaluate-said")
    page.locator("#vd-evaluate-start").click()
    browser.until(lambda: "at least one folder" in said.inner_text())
    fill(page, "folders", str(clips / "nowhere"))
    page.locator("#vd-evaluate-start").click()
    browser.until(lambda: "no folder at" in said.inner_text())

    fill(page, "folders", str(clips))
    page.locator("#vd-evaluate-model input").click()
    page.get_by_role("option", name="tiny (added)").click()
    fill(page, "samples", "1")
    fill(page, "steps", "1")
    page.locator("#vd-evaluate-start").click()
    job = browser.until(lambda: app.store.list(kinds=["evaluate"]), 30)[0]
    assert app.job(job.id, DONE, "failed").state == DONE, app.store.get(job.id).error
    shown = page.locator("#vd-evaluate-report .vd-report")
    shown.wait_for()
    report = json.loads(Path(job.settings["report"]).read_text())
    (found,) = report["sets"].values()
    figures = found["tasks"]["prediction"]["figures"]
    table = shown.locator("table").first
    rows = {row.split("\t")[0]: row.split("\t")[1] for row in table.locator("tbody tr").all_inner_texts()}
    assert rows["one sample"] == f"{figures['single']['psnr']:.2f}"
    assert rows["last frame"] == f"{figures['last_frame']['psnr']:.2f}"
    best = max(float(value) for value in rows.values())
    assert table.locator("strong").first.inner_text() == f"{best:.2f}"
    low, high = found["tasks"]["prediction"]["intervals"]["single"]["psnr"]
    assert f"{low:.2f} … {high:.2f}" in table.inner_text()
    assert "torn.mp4" in shown.locator("details li").all_text_contents()[-1]
    assert EVIL in shown.inner_text(), "the name of the set"
    assert page.evaluate("window.hacked") is None

    with page.expect_download() as download:
        page.locator("#vd-evaluate-download").click()
    download.value.save_as(tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_report_is_text_and_damage_is_told(tmp_path: Path) -> None:
    figures = {who: {"psnr": 20.0, "ssim": 0.5, "motion": None} for who in ("single", "best", EVIL)}
    task = {"clips": 1, "windows": 2, "figures": figures, "intervals": {"single": {"psnr": [None, None]}}}
    found = {"height": 64, "width": 96, "skipped": {EVIL: EVIL}, "tasks": {EVIL: task}}
    about = {"name": EVIL, "digest": EVIL}
    report = {"psnr": "psnr", "samples": 2, "protocol": EVIL, "checkpoint": about, "sets": {EVIL: found}}
    drawn = evaluate.render(report)
    assert "<img" not in drawn
    assert drawn.count("&lt;img") >= 7
    file = tmp_path / "report.json"
    for text in ("", "[]", "{}", '{"sets": []}', "[" * 100_000):
        file.write_text(text)
        with pytest.raises(UserError, match="cannot be read as a report"):
            evaluate.read(file)
    with pytest.raises(UserError, match="cannot be read"):
        evaluate.read(tmp_path / "none.json")
