"""Make, Edit and Restore in a real browser: from a clip to its result, and what happens to a run meanwhile."""

import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

import browser
from browser import until

from videodiff import video
from videodiff.jobs import CANCELLED, DONE, RUNNING

LONG = {"frames": 3000, "steps": 200}
"""A request that does not end by itself while a test looks at it."""


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 32x24 in which something moves, without loss."""
    y, x = np.mgrid[:24, :32]
    ball = [((x - 4 - 2 * t) ** 2 + (y - 12) ** 2 < 20) for t in range(12)]
    frames = np.stack([np.stack([255 * b, 6 * x, 8 * y], -1) for b in ball]).astype(np.uint8)
    path = tmp_path_factory.mktemp("clips") / "ball.mkv"
    video.write(path, frames, 10)
    return path


def put_in(page: Any, path: Path, prefix: str = "vd") -> None:
    """Upload a clip and wait for its strip."""
    page.set_input_files(f"#{prefix}-input input[type=file]", str(path))
    page.wait_for_selector(f"#{prefix}-timeline .vd-cell")


def fill(page: Any, prefix: str = "vd", **fields: Any) -> None:
    """Type settings, and take the tiny model."""
    page.locator(f"#{prefix}-more button").first.click()
    model = page.locator(f"#{prefix}-field-checkpoint input")
    model.click()
    page.locator("ul[role=listbox] li:has-text('tiny')").click()
    for name, value in fields.items():
        box = page.locator(f"#{prefix}-field-{name} :is(input, textarea)").last
        box.fill(str(value))
        box.press("Tab")


def run(page: Any, app: Any, prefix: str = "vd") -> int:
    """Press Run; the number of the job it adds."""
    before = {job.id for job in app.store.list()}
    page.click(f"#{prefix}-run")
    new = until(lambda: {job.id for job in app.store.list()} - before, 30, "a job")
    return max(new)


def played(page: Any, film: str = "after") -> None:
    """Wait until a film of the player can be seen."""
    page.wait_for_function(f"document.querySelector('#vd-result .vd-{film}')?.readyState >= 2")


def value(page: Any, name: str, prefix: str = "vd") -> str:
    """What a control shows."""
    return page.locator(f"#{prefix}-field-{name} :is(input, textarea)").last.input_value()


def test_upload_predict_watch_download(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    assert page.locator("#vd-timeline .vd-cell").count() == 12
    assert page.locator("#vd-timeline .vd-slot").count() == 12
    fill(page, frames=40, steps=8, seed=5)
    number = run(page, app)
    page.wait_for_selector("#vd-preview img[src^='data:image/jpeg']")
    page.wait_for_selector("#vd-progress progress")
    page.wait_for_selector("#vd-result .vd-player", timeout=90_000)
    job = app.job(number, DONE)
    assert job.settings["seed"] == 5
    assert job.settings["frames"] == 40
    assert Path(job.settings["checkpoint"]).name == "tiny"
    with page.expect_download() as download:
        page.click("#vd-download")
    assert Path(download.value.path()).read_bytes() == job.output.read_bytes()
    # Both films play, and a step is a frame.
    played(page)
    played(page, "before")
    page.click(".vd-play")
    place = page.locator(".vd-place")
    page.locator(".vd-seek").evaluate("(e) => { e.value = 3; e.dispatchEvent(new Event('input')); }")
    until(lambda: place.inner_text().startswith("4 / 44"), what="frame 4")
    page.click(".vd-forward")
    until(lambda: place.inner_text() == "5 / 44 · new", what="the first new frame")
    page.locator(".vd-place").click()
    page.keyboard.press("ArrowLeft")
    until(lambda: place.inner_text() == "4 / 44", what="a frame back by the keyboard")
    # The player fits on a telephone.
    page.set_viewport_size({"width": 360, "height": 800})
    beyond = "(player) => [...player.querySelectorAll('*')].filter((e) => e.getBoundingClientRect().right > innerWidth)"
    assert page.locator("#vd-result .vd-player").evaluate(f"(player) => ({beyond})(player).length") == 0


def test_frames_are_marked_by_hand_and_by_keys(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    cells = page.locator("#vd-timeline .vd-cell")
    start, end = cells.nth(3).bounding_box(), cells.nth(5).bounding_box()
    page.mouse.move(start["x"] + 5, start["y"] + 5)
    page.mouse.down()
    page.mouse.move(end["x"] + 5, end["y"] + 5, steps=5)
    page.mouse.up()
    until(lambda: page.locator("#vd-field-missing").count() and value(page, "missing") == "3:6", what="3:6")
    cells.nth(8).focus()
    page.keyboard.press("Space")
    until(lambda: value(page, "missing") == "3:6,8", what="3:6,8")
    page.click("#vd-preset-before")
    until(lambda: page.locator("#vd-field-direction input:checked").input_value() == "backward", what="backward")
    page.click("#vd-preset-slow")
    page.wait_for_selector("#vd-field-factor")
    assert page.locator("#vd-task input:checked").get_attribute("value") == "interpolate"


def test_what_the_marks_cannot_ask_for_is_not_run(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    cells = page.locator("#vd-timeline .vd-cell")
    cells.nth(3).click()
    until(lambda: page.locator("#vd-field-missing").count() and value(page, "missing") == "3", what="frame 3")
    first, last = cells.nth(0).bounding_box(), cells.nth(11).bounding_box()
    page.mouse.move(first["x"] + 5, first["y"] + 5)
    page.mouse.down()
    page.mouse.move(last["x"] + 5, last["y"] + 5, steps=12)
    page.mouse.up()
    page.wait_for_selector("#vd-asked:has-text('all frames are marked as wanted')")
    before = len(app.store.list())
    page.click("#vd-run")
    page.wait_for_selector("[data-testid=toast-text]:has-text('all frames are marked as wanted')")
    assert len(app.store.list()) == before


def test_what_is_put_into_a_field_at_once_is_on_the_strip(page: Any, clip: Path) -> None:
    """As by pasting."""
    put_in(page, clip)
    page.locator("#vd-task label:has-text('Infill')").click()
    missing = page.locator("#vd-field-missing :is(input, textarea)").last
    missing.click()
    page.keyboard.insert_text("2:4")
    page.keyboard.press("Tab")
    until(lambda: page.locator("#vd-timeline .vd-wanted").count() == 2, what="two frames are marked")


def test_the_strip_is_that_of_the_clip_whatever_is_asked_for(page: Any, clip: Path, tmp_path: Path) -> None:
    put_in(page, clip)
    page.locator("#vd-timeline .vd-cell").nth(8).click()
    until(lambda: page.locator("#vd-field-missing").count() and value(page, "missing") == "8", what="frame 8")
    short = tmp_path / "short.mkv"
    video.write(short, video.read(clip).frames[:4], 10)
    page.locator("#vd-input button[aria-label='Remove this file'], #vd-input button[aria-label='Clear']").first.click()
    page.set_input_files("#vd-input input[type=file]", str(short))
    until(lambda: page.locator("#vd-timeline .vd-cell").count() == 4, what="the strip of the short clip")
    page.wait_for_selector("#vd-asked .vd-hint")


def test_a_result_can_be_pictures(app: Any, page: Any, clip: Path, tmp_path: Path) -> None:
    put_in(page, clip)
    fill(page, frames=2, steps=1, size=24)
    page.locator("#vd-container input").click()
    page.locator("ul[role=listbox] li:has-text('PNG')").click()
    job = app.job(run(page, app), DONE, "failed")
    assert job.state == DONE, job.error
    assert len(list(job.output.glob("*.png"))) == 6
    played(page)
    page.locator("#vd-export-form input").click()
    page.locator("ul[role=listbox] li:has-text('zip')").click()
    page.click("#vd-export")
    with page.expect_download() as download:
        page.click("#vd-exported")
    with zipfile.ZipFile(download.value.path()) as archive:
        assert len([name for name in archive.namelist() if name.endswith(".png")]) == 6


def test_stop_ends_the_run(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    fill(page, **LONG)
    number = run(page, app)
    app.job(number, RUNNING)
    page.wait_for_selector("#vd-stop:not([disabled])")
    page.click("#vd-stop")
    assert app.job(number, CANCELLED, seconds=30).output is None
    page.wait_for_selector("#vd-stop[disabled]")


def test_a_page_opened_anew_finds_its_run_and_a_closed_one_its_result(
    app: Any, chromium: Any, page: Any, clip: Path
) -> None:
    put_in(page, clip)
    fill(page, **LONG)
    number = run(page, app)
    app.job(number, RUNNING)
    page.wait_for_selector("#vd-progress progress")
    browser.reload(page)
    page.wait_for_selector("#vd-progress progress")
    app.store.cancel(number)
    app.job(number, CANCELLED)
    with browser.opened(chromium, app.url) as other:
        put_in(other, clip)
        fill(other, frames=8, steps=2)
        closed = run(other, app)
        other.watched.quiet()
    assert app.job(closed, DONE).output
    browser.reload(page)
    page.wait_for_selector("#vd-result .vd-player")
    page.wait_for_selector("#vd-download")


def test_two_browsers_see_one_queue(app: Any, chromium: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    fill(page, **LONG)
    first = run(page, app)
    app.job(first, RUNNING)
    with browser.opened(chromium, app.url) as other:
        put_in(other, clip)
        fill(other, frames=4, steps=2)
        second = run(other, app)
        other.wait_for_selector("#vd-progress:has-text('1 ahead')")
        page.click("#vd-stop")
        app.job(first, CANCELLED)
        other.wait_for_selector("#vd-result .vd-player", timeout=60_000)
        assert app.store.get(second).state == DONE
        other.watched.quiet()


def test_a_result_brings_its_settings_and_overwrites_nothing_by_itself(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    fill(page, frames=6, steps=3, seed=77)
    result = app.job(run(page, app), DONE).output
    browser.reload(page)
    put_in(page, result)
    page.wait_for_selector("#vd-facts:has-text('seed 77')")
    assert value(page, "steps") == "4"
    page.click("#vd-use")
    until(lambda: value(page, "steps") == "3", what="the settings")
    assert (value(page, "frames"), value(page, "seed")) == ("6", "77")
    until(lambda: page.locator("#vd-timeline .vd-slot").count() == 6, what="the strip shows them too")
    assert page.locator("#vd-task input:checked").get_attribute("value") == "predict"


def test_the_trimmed_part_is_what_is_used(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    page.click("#vd-preset-loop")
    fill(page, start=0.2, end=0.7, frames=3, steps=2)
    until(lambda: page.locator("#vd-timeline .vd-cell").count() == 5, what="five frames on the strip")
    job = app.job(run(page, app), DONE)
    assert (job.kind, job.settings["start"], job.settings["end"]) == ("loop", 0.2, 0.7)
    assert len(video.read(job.output, trusted=True).frames) == 5 + 3


def paint(page: Any, prefix: str, left: float, top: float, right: float, bottom: float) -> None:
    """Paint an area of the painter's canvas, in shares of its box, by one stroke there and back."""
    canvas = page.locator(f"#{prefix}-painter canvas")
    canvas.scroll_into_view_if_needed()
    box = canvas.bounding_box()

    def move(x: float, y: float) -> None:
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=6)

    move(left, top)
    page.mouse.down()
    for y in np.linspace(top, bottom, 4):
        move(left, y)
        move(right, y)
    page.mouse.up()


def keyframes(page: Any, places: str) -> None:
    """Wait until these frames have a mask of their own."""
    page.wait_for_selector(f"#vd-mask-facts [data-keys='{places}']")


def turn(page: Any, place: int) -> None:
    """Choose the frame to paint on."""
    frame = page.locator("#vd-mask-frame input[type=number]")
    frame.fill(str(place))
    frame.press("Enter")
    page.wait_for_selector(f"#vd-painter [data-place='{place}']")


def test_of_a_clip_under_a_painted_mask_only_the_mask_changes(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    page.locator("#vd-task label:has-text('Infill')").click()
    page.locator("#vd-mask button").first.click()
    page.wait_for_selector("#vd-painter [data-place='0']")
    paint(page, "vd", 0.35, 0.45, 0.42, 0.55)
    keyframes(page, "0")
    turn(page, 11)
    page.click("#vd-painter .vd-clear")
    keyframes(page, "0, 11")
    paint(page, "vd", 0.55, 0.45, 0.62, 0.55)
    turn(page, 6)
    paint(page, "vd", 0.1, 0.1, 0.2, 0.2)
    keyframes(page, "0, 6, 11")
    page.click("#vd-mask-drop")
    keyframes(page, "0, 11")
    page.click("#vd-mask-earlier")
    page.wait_for_selector("#vd-painter [data-place='0']")
    page.wait_for_selector("#vd-mask-earlier[disabled]")
    fill(page, steps=2, size=24)
    page.locator("#vd-container input").click()
    page.locator("ul[role=listbox] li:has-text('MKV')").click()
    job = app.job(run(page, app), DONE)
    assert job.output.suffix == ".mkv"
    before, after = video.read(clip).frames, video.read(job.output).frames
    mask = video.read_mask(Path(job.settings["mask"]), (24, 32), 12)
    assert before.shape == after.shape
    assert mask.any((1, 2)).all()
    assert not mask.all((1, 2)).any()
    centres = [np.argwhere(one)[:, 1].mean() for one in mask]
    assert centres[0] + 3 < centres[-1]
    assert (np.diff(centres) >= -0.5).all()
    np.testing.assert_array_equal(after[~mask], before[~mask])
    assert (after[mask] != before[mask]).any()
    played(page)  # though no browser plays FFV1


def test_the_camera_gives_a_clip(app: Any, chromium: Any) -> None:
    """Of the browser's own make-believe camera; nothing but the browser is needed for it."""
    flags = [*browser.FLAGS, "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]
    with_camera = chromium.browser_type.launch(executable_path=browser.require(), args=flags)
    try:
        with browser.opened(with_camera, app.url) as page:
            page.click("#vd-camera-open")
            page.click("#vd-camera button")  # asks for the camera
            page.click("#vd-camera button[aria-label='start recording']")
            page.wait_for_timeout(1500)  # of film
            page.click("#vd-camera .button-wrap button")
            page.wait_for_selector("#vd-timeline .vd-cell")
            assert "640x480" in page.locator("#vd-facts").inner_text()
            page.watched.quiet()
    finally:
        with_camera.close()


def test_a_wrong_setting_is_said_plainly_and_nothing_is_added(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    fill(page, steps=0)
    before = len(app.store.list())
    page.click("#vd-run")
    page.wait_for_selector("text=steps: input should be greater than or equal to 1 (given '0')")
    assert len(app.store.list()) == before


def test_results_go_on_from_page_to_page(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    fill(page, frames=4, steps=2)
    page.locator("#vd-variants input").fill("2")
    page.locator("#vd-variants input").press("Tab")
    last = run(page, app)
    app.job(last, DONE)
    until(lambda: page.locator("#vd-variant label").count() == 2, what="two variants")
    page.click("#vd-export")
    page.wait_for_selector("#vd-exported")
    page.click("#vd-extend")
    until(lambda: page.locator("#vd-timeline .vd-cell").count() == 8, what="the result is the clip")
    assert (value(page, "checkpoint"), value(page, "frames")) == ("tiny (added)", "4")
    page.click("#vd-send-edit")
    page.wait_for_selector("#vd-edit-timeline .vd-cell")
    page.locator("#vd-edit-more button").first.click()
    until(lambda: value(page, "checkpoint", "vd-edit") == "tiny (added)", what="the network goes with the result")
    page.locator("#vd-edit-field-steps :is(input, textarea)").last.fill("2")
    page.locator("#vd-edit-field-steps :is(input, textarea)").last.press("Tab")
    job = app.job(run(page, app, "vd-edit"), DONE)
    assert job.kind == "edit"
    page.wait_for_selector("#vd-edit-result .vd-player")
    page.click("#vd-edit-send-restore")
    page.wait_for_selector("#vd-restore-timeline .vd-cell")


def test_variants_of_an_example_play_side_by_side(app: Any, page: Any) -> None:
    page.click("#vd-example")
    page.wait_for_selector("#vd-timeline .vd-cell")
    fill(page, frames=3, steps=1, size=24)
    page.locator("#vd-variants input").fill("2")
    page.locator("#vd-variants input").press("Tab")
    last = run(page, app)
    jobs = [app.job(id, DONE) for id in sorted(job.id for job in app.store.list(limit=2))]
    assert last in [job.id for job in jobs]
    assert jobs[1].settings["seed"] == jobs[0].settings["seed"] + 1
    page.wait_for_function("document.querySelectorAll('#vd-grid video').length === 2")
    page.wait_for_function("[...document.querySelectorAll('#vd-grid video')].every((film) => film.currentTime > 0)")
    browser.reload(page)
    page.wait_for_function("document.querySelectorAll('#vd-grid video').length === 2")
