"""The library in a real browser: jobs are found, starred, compared, moved to the trash and back, and made again."""

import json
from pathlib import Path
from typing import Any

import browser
import gradio as gr
import numpy as np
import pytest

from videodiff import video
from videodiff.errors import UserError
from videodiff.files import hold
from videodiff.jobs import DONE, FAILED, WAITING, Job, Store
from videodiff.settings import Predict
from videodiff_ui import library as library_page
from videodiff_ui.context import App
from videodiff_ui.library import View

EVIL = "<img src=x onerror=window.hacked=1>"
PID = 1


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small clip."""
    path = tmp_path_factory.mktemp("clips") / "boat.mp4"
    frames = np.zeros((8, 32, 48, 3), np.uint8)
    frames[:, 8:20, 10:30] = np.arange(0, 240, 30, dtype=np.uint8)[:, None, None, None]
    video.write(path, frames, 8)
    return path


def made(store: Store, clip: Path, state: str = DONE, title: str = "", **settings: Any) -> Job:
    """A job that has ended, as a worker leaves it; the queue is paused, so that no worker takes it."""
    source = clip
    if title:
        source = clip.with_name(title)
        source.write_bytes(clip.read_bytes())
    job = store.add(Predict(input=source, **settings))
    if state == WAITING:
        return job
    for other in store.queue():
        if other.id != job.id and other.state == WAITING:
            store.move(job.id, other.id)
            break
    lock = hold(store.lock("nowhere"))  # as a worker does, lest the app take it for dead
    assert lock is not None
    with lock:
        store.resume()
        taken = store.claim("nowhere", PID)
        store.pause("a test")
        assert taken is not None
        assert taken.id == job.id
        saved = []
        if state == DONE:
            output = Path(job.settings["output"])
            output.write_bytes(clip.read_bytes())
            (job.folder / "thumbnail.jpg").write_bytes(video.jpeg(np.full((9, 16, 3), 99, np.uint8)))
            saved = [(str(output), "clip")]
        store.beat(job.id, PID, 600, done=1, total=2, what="windows", notes=[f"a note {EVIL}"], saved=saved)
        failed = state == FAILED
        store.finish(job.id, PID, state, f"it failed {EVIL}" if failed else "", 2 if failed else None)
    return store.get(job.id)


@pytest.fixture
def library(app: Any, page: Any, clip: Path) -> Any:
    """The page Library over a table that holds nothing yet and begins no job."""
    app.store.pause("a test")
    for job in app.store.list(limit=1000):
        app.store.trash_job(job.id)
    browser.tab(page, "library")
    page.locator("#vd-library-cards .vd-empty").wait_for()
    return page


def card(page: Any, job: Job) -> Any:
    return page.locator(f"#vd-library-cards [data-job='{job.id}']")


def press(where: Any, act: str) -> None:
    where.locator(f"[data-act={act}]").first.click()


def titles(page: Any) -> list[str]:
    return page.locator("#vd-library-cards h3").all_inner_texts()


def test_jobs_are_found_by_words_kind_state_and_star(app: Any, library: Any, clip: Path) -> None:
    one, two = made(app.store, clip, title="harbour.mp4"), made(app.store, clip, FAILED, title="street.mp4", seed=77)
    card(library, two).wait_for()
    assert titles(library) == ["street.mp4", "harbour.mp4"]
    library.locator("#vd-library-search textarea, #vd-library-search input").first.fill("harb")
    browser.until(lambda: titles(library) == ["harbour.mp4"])
    library.locator("#vd-library-search textarea, #vd-library-search input").first.fill("")
    browser.until(lambda: len(titles(library)) == 2)
    press(card(library, one), "star")
    browser.until(lambda: app.store.get(one.id).starred)
    library.locator("#vd-library-starred input").check()
    browser.until(lambda: titles(library) == ["harbour.mp4"])
    library.locator("#vd-library-starred input").uncheck()
    library.locator("#vd-library-state input").click()
    library.get_by_role("option", name="failed").click()
    browser.until(lambda: titles(library) == ["street.mp4"])
    assert "77" in card(library, two).inner_text()


def test_what_was_deleted_lies_in_the_trash_and_comes_back(app: Any, library: Any, clip: Path) -> None:
    job = made(app.store, clip)
    press(card(library, job), "trash")
    card(library, job).wait_for(state="detached")
    assert (app.store.trash / job.folder.name / "boat.predict.mp4").is_file()
    press(library.locator("#vd-library-queue"), "undo")
    card(library, job).wait_for()
    assert job.output is not None
    assert job.output.is_file()


def test_what_lies_in_the_trash_is_listed_and_put_back(app: Any, library: Any, clip: Path) -> None:
    jobs = [made(app.store, clip) for _ in range(2)]
    for job in jobs:
        press(card(library, job), "trash")
        card(library, job).wait_for(state="detached")
    library.locator("#vd-library-in-trash input").check()
    press(card(library, jobs[0]), "undo")
    card(library, jobs[0]).wait_for(state="detached")
    card(library, jobs[1]).wait_for()
    library.locator("#vd-library-in-trash input").uncheck()
    card(library, jobs[0]).wait_for()
    assert [job.id for job in app.store.list()] == [jobs[0].id]


def test_settings_are_seen_and_go_back_to_make(app: Any, library: Any, clip: Path) -> None:
    job = made(app.store, clip, seed=4242, frames=5)
    press(card(library, job), "show")
    detail = library.locator("#vd-library-detail")
    shown = json.loads(detail.locator("pre").inner_text())
    assert (shown["seed"], shown["frames"]) == (4242, 5)
    film = detail.locator("video")
    browser.until(lambda: film.evaluate("v => v.videoWidth") == 48, what="the result plays")
    press(detail, "restore")
    library.wait_for_function("getComputedStyle(document.getElementById('page-make')).display !== 'none'")
    value = "() => [...document.querySelectorAll('#page-make input')].some((i) => i.value === '4242')"
    library.wait_for_function(value)


def test_the_same_is_made_again_with_another_seed(app: Any, library: Any, clip: Path) -> None:
    job = made(app.store, clip, seed=1, frames=5)
    press(card(library, job), "show")
    press(library.locator("#vd-library-detail"), "again")
    again = browser.until(lambda: [one for one in app.store.queue() if one.id > job.id])[0]
    assert again.settings["seed"] != 1
    assert again.settings["frames"] == 5
    assert again.settings["output"] != job.settings["output"]


def test_two_results_are_compared(app: Any, library: Any, clip: Path) -> None:
    one, two = made(app.store, clip), made(app.store, clip)
    press(card(library, one), "compare")
    library.locator("#vd-library-detail .vd-notice").wait_for()
    press(card(library, two), "compare")
    films = library.locator("#vd-library-detail video")
    browser.until(lambda: films.count() == 2)
    for film in films.all():
        browser.until(lambda film=film: film.evaluate("v => v.videoWidth") == 48)  # type: ignore[misc]
    press(library.locator("#vd-library-detail"), "close")
    films.first.wait_for(state="detached")


def test_waiting_jobs_are_moved_paused_and_cancelled(app: Any, library: Any, clip: Path) -> None:
    jobs = [made(app.store, clip, WAITING) for _ in range(3)]
    rows = library.locator("#vd-library-queue li")
    browser.until(lambda: rows.count() == 3)

    def order() -> list[int]:
        return [job.id for job in app.store.queue()]

    press(rows.nth(2), "up")
    browser.until(lambda: order() == [jobs[0].id, jobs[2].id, jobs[1].id])
    press(rows.nth(0), "down")
    browser.until(lambda: order() == [jobs[2].id, jobs[0].id, jobs[1].id])
    browser.until(lambda: str(jobs[2].id) in rows.nth(0).inner_text())
    press(rows.nth(0), "pause")
    browser.until(lambda: app.store.get(jobs[2].id).state == "paused")
    press(card(library, jobs[2]), "resume")
    browser.until(lambda: rows.count() == 3)
    press(rows.nth(1), "cancel")
    browser.until(lambda: rows.count() == 2)


def test_why_the_queue_is_paused_is_said_and_it_is_let_go_on(app: Any, library: Any) -> None:
    app.store.pause(f"the worker died twice {EVIL}")
    said = library.locator("#vd-library-queue .vd-notice-error")
    browser.until(lambda: f"died twice {EVIL}" in said.inner_text())
    press(said, "resume-queue")
    browser.until(lambda: app.store.paused() == "")


def test_many_are_paged_through(app: Any, library: Any, clip: Path) -> None:
    jobs = [made(app.store, clip, WAITING) for _ in range(26)]
    card(library, jobs[-1]).wait_for()
    pages = library.locator("#vd-library-cards .vd-pages [data-act=page]")
    pages.last.click()
    card(library, jobs[0]).wait_for()
    assert len(titles(library)) == 2
    assert pages.last.is_disabled()
    pages.first.click()
    browser.until(lambda: len(titles(library)) == 24)


def test_markup_in_names_notes_and_errors_is_text(app: Any, library: Any, clip: Path) -> None:
    name = f"{EVIL}${{window.hacked=2}}{{{{value}}}}`.mp4".replace("/", "")
    job = made(app.store, clip, FAILED, title=name)
    card(library, job).wait_for()
    press(card(library, job), "show")
    detail = library.locator("#vd-library-detail")
    browser.until(lambda: f"a note {EVIL}" in detail.inner_text())
    assert name in titles(library)[0]
    assert f"it failed {EVIL}" in card(library, job).inner_text()
    assert library.evaluate("window.hacked") is None
    assert library.locator("#page-library img[src=x]").count() == 0


def test_a_visitor_of_a_public_server_sees_and_moves_only_their_own(tmp_path: Path, clip: Path) -> None:
    store = Store(tmp_path)
    with gr.Blocks():
        shared = App(store, None, True, gr.State(), gr.Tabs())  # type: ignore[arg-type]
    mine, theirs = (gr.Request(session_hash=who, cookies={}) for who in ("me", "you"))
    job = store.add(Predict(input=clip), visitor="me")
    assert f'data-job="{job.id}"' in "".join(library_page.render(shared, View(), mine))
    assert "boat" not in "".join(library_page.render(shared, View(), theirs))
    for act in ("show", "compare", "trash", "undo", "up", "star", "cancel", "pause", "resume", "again", "reveal"):
        with pytest.raises(UserError):
            library_page.ACTS[act](shared, View(), str(job.id), theirs)
    assert store.get(job.id) == job
    assert len(store.list()) == 1
    for act in ("reveal", "resume-queue"):
        with pytest.raises(UserError):
            library_page.ACTS[act](shared, View(), str(job.id), mine)


def test_the_keyboard_reaches_every_button_and_keeps_its_place(app: Any, library: Any, clip: Path) -> None:
    job = made(app.store, clip)
    star = card(library, job).locator("[data-act=star]")
    star.focus()
    library.keyboard.press("Enter")
    browser.until(lambda: app.store.get(job.id).starred)
    browser.until(lambda: star.get_attribute("aria-pressed") == "true")
    browser.until(lambda: library.evaluate("document.activeElement.dataset.act") == "star")
    names = library.locator("#page-library .vd-act").evaluate_all("all => all.map((b) => b.innerText.trim())")
    assert names
    assert all(names)
