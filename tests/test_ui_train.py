"""The page Train in a real browser: what a folder holds, a run with its curve, paused, resumed, stopped and used."""

import json
import re
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from videodiff import shelf, video
from videodiff.errors import UserError
from videodiff.jobs import CANCELLED, PAUSED, RUNNING, Store
from videodiff_ui import curves, models, train

EVIL = "<img src=x onerror=window.hacked=1>"
TINY = {
    "model": {"widths": [8, 8], "spatial_attention": [], "head_width": 8, "embedding": 8},
    "frames": 4,
    "sizes": [[16, 16]],
    "batch": 1,
    "log_every": 1,
    "device": "cpu",
    "threads": 1,
}


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clips that can be used, one of a single frame, and one that is torn; the last by a name that is markup."""
    folder = tmp_path_factory.mktemp("clips")
    frames = np.random.default_rng(0).integers(0, 255, (8, 20, 24, 3), np.uint8)
    video.write(folder / "one.mp4", frames, 8)
    video.write(folder / "two.mp4", frames[::-1], 8)
    video.write(folder / "still.mp4", frames[:1], 8)
    (folder / f"{EVIL}.mp4").write_bytes((folder / "one.mp4").read_bytes()[:200])
    return folder


@pytest.fixture
def shown(page: Any) -> Any:
    browser.tab(page, "train")
    return page


def fill(page: Any, field: str, text: str) -> None:
    page.locator(f"#vd-train-{field} textarea, #vd-train-{field} input").first.fill(text)


def test_a_folder_is_looked_through_before_the_start(shown: Any, clips: Path) -> None:
    fill(shown, "folder", str(clips))
    shown.locator("#vd-train-look").click()
    said = shown.locator("#vd-train-said")
    browser.until(lambda: "2 clips can be used, 2 cannot" in said.inner_text())
    rows = said.locator("tbody tr").all_inner_texts()
    assert len(rows) == 4
    assert any(row.startswith(EVIL) for row in rows)
    assert any("a clip needs two frames" in row for row in rows)
    assert any(row.startswith("one.mp4") and "24x20" in row for row in rows)
    assert shown.evaluate("window.hacked") is None
    fill(shown, "folder", str(clips / EVIL))
    shown.locator("#vd-train-look").click()
    browser.until(lambda: "no folder at" in said.inner_text())


def test_what_was_never_opened_or_typed_is_as_if_left_empty(app: Any, shown: Any) -> None:
    """The fold with more settings is closed, so the browser has no field for them yet."""
    fill(shown, "name", "empty")
    shown.locator("#vd-train-start").click()
    said = shown.locator("#vd-train-said")
    browser.until(lambda: "no folder at ''" in said.inner_text(), 20, "what is missing is said")
    assert not app.store.list(kinds=["train"])


def test_a_run_is_started_watched_paused_resumed_stopped_and_used(app: Any, shown: Any, clips: Path) -> None:
    fill(shown, "name", "boats")
    fill(shown, "folder", str(clips))
    fill(shown, "steps", "100000")
    shown.locator("#vd-train-more-box button").first.click()
    fill(shown, "more", json.dumps(TINY))
    shown.locator("#vd-train-start").click()
    job = browser.until(lambda: app.store.list(kinds=["train"]), 30)[0]
    row = shown.locator(f"#vd-train-runs [data-job='{job.id}']")
    curve = shown.locator("#vd-train-curve svg .vd-line")
    curve.wait_for(timeout=90_000)

    def last_step() -> int:
        return max((step for step, _, _ in app.store.metrics(job.id)), default=0)

    first = curve.get_attribute("points")
    browser.until(lambda: curve.get_attribute("points") != first, what="the curve grows")
    row.locator("[data-act=pause]").click()
    app.job(job.id, PAUSED)
    paused_at = last_step()
    row.locator("[data-act=resume]").click()
    app.job(job.id, RUNNING)
    browser.until(lambda: last_step() > paused_at + 3, 90, "the run goes on after its state")
    steps = [step for step, name, _ in app.store.metrics(job.id) if name == "train"]
    assert steps == sorted(set(steps)), "no step was taken twice"
    row.locator("[data-act=stop]").click()
    app.job(job.id, CANCELLED)
    run = Path(dict(models.choices(app.store))["boats (trained)"])
    folder = shelf.find(str(run))
    assert folder == shelf.best(run)
    assert int(shelf.states(run)[0].name.removeprefix("step-")) > paused_at
    live = shown.locator("#vd-train-live")
    browser.until(lambda: f"step {int(folder.name.removeprefix('step-'))}, loss" in live.inner_text(), 20, "the best")
    assert live.locator("circle.vd-rare").count() >= 2, "what was measured at the pause and at the stop"
    browser.tab(shown, "models")
    entry = shown.locator("#vd-models-list [data-name=boats]")
    entry.wait_for()
    assert shelf.digest(folder) in entry.inner_text()


def test_what_cannot_be_trained_is_said_and_nothing_begins(app: Any, shown: Any, clips: Path) -> None:
    before = len(app.store.list(kinds=["train"]))
    said = shown.locator("#vd-train-said")
    for name, folder, more, reason in (
        ("", clips, "", "cannot name a run"),
        ("../x", clips, "", "cannot name a run"),
        ("fine", clips / "nowhere", "", "no folder at"),
        ("fine", clips, "{", "not JSON"),
        ("fine", clips, '{"bach": 2}', "did you mean 'batch'"),
        ("fine", clips, '{"batch": 0}', "batch"),
    ):
        fill(shown, "name", name)
        fill(shown, "folder", str(folder))
        if not shown.locator("#vd-train-more textarea").is_visible():
            shown.locator("#vd-train-more-box button").first.click()
        fill(shown, "more", more)
        shown.locator("#vd-train-start").click()
        browser.until(lambda reason=reason: reason in said.inner_text(), 20, reason)  # type: ignore[misc]
    assert len(app.store.list(kinds=["train"])) == before


def test_clips_put_in_are_kept_for_the_run(app: Any, shown: Any, clips: Path) -> None:
    shown.locator("#page-train button:has-text('Or put clips in')").click()
    shown.locator("#vd-train-files input[type=file]").set_input_files([clips / "one.mp4", clips / "still.mp4"])
    said = shown.locator("#vd-train-said")
    browser.until(lambda: "1 clips can be used, 1 cannot" in said.inner_text())
    kept = Path(shown.locator("#vd-train-folder textarea, #vd-train-folder input").first.input_value())
    assert kept.is_relative_to(app.store.uploads)
    assert sorted(f.name for f in kept.iterdir()) == ["one.mp4", "still.mp4"]


# ---------------------------------------------------------------------------------------------------------------------
# Without a browser


def test_the_form_is_a_request_as_the_command_would_make_it(tmp_path: Path, clips: Path) -> None:
    store = Store(tmp_path)
    settings = train.request(store, "mine", str(clips), "motion", 5, 70, '{"batch": 2}')
    assert settings.out == store.runs / "mine"
    assert [(row.source, row.path) for row in settings.data] == [("packed", clips)]
    assert (settings.steps, settings.minutes, settings.batch) == (70, 5, 2)
    assert settings.sizes[-1] == (96, 64), "from the preset"
    digits = train.request(store, "two", str(clips), "digits", 0, 70, "")
    assert [(row.source, row.path) for row in digits.data] == [("moving_mnist", clips)]
    assert digits.minutes is None
    (store.runs / "mine").mkdir()
    with pytest.raises(UserError, match="there is 'mine' already"):
        train.request(store, "mine", str(clips), "motion", 5, 70, "")


def test_round_numbers_enclose_what_they_are_for() -> None:
    for low, high in ((0.0, 1.0), (0.013, 0.0172), (-3.0, 20_000.0), (5.0, 5.0), (0.0, 0.0), (1e-9, 2e-9)):
        found = curves.ticks(low, high)
        assert found[0] <= low
        assert found[-1] >= high
        assert found == sorted(set(found))
        assert len(found) <= 8


def test_a_smoothed_constant_is_that_constant_and_noise_gets_calmer() -> None:
    assert curves.smoothed([3.0] * 50) == pytest.approx([3.0] * 50)
    noise = np.random.default_rng(0).normal(size=400)
    assert np.std(curves.smoothed(list(noise))[100:]) < 0.5 * np.std(noise)


def test_a_long_curve_keeps_its_ends_and_stays_small() -> None:
    points = [(float(i), 1 / (i + 1)) for i in range(100_000)]
    drawn = curves.curve(points, "loss")
    assert len(drawn) < 60_000
    assert "at step 99999" in drawn
    assert curves.curve(points[:1], "loss") == ""
    beside = curves.curve([(10.0, 1.0), (20.0, 0.5)], "loss", rare=[(5.0, 2.0), (15.0, float("nan")), (25.0, 0.1)])
    assert beside.count("<circle") == 2
    assert all(0 <= float(x) <= curves.WIDTH for x in re.findall(r'cx="([-\d.]+)"', beside))
    assert all(0 <= float(y) <= curves.HEIGHT for y in re.findall(r'cy="([-\d.]+)"', beside))
    assert "nan" not in curves.curve([(0.0, 1.0), (1.0, float("nan")), (2.0, 3.0)], "loss")
