"""The app loses nothing: its server is killed at any moment, pages are reloaded, jobs come and go."""

import os
import random
import sqlite3
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import browser
import numpy as np
import pytest

from videodiff import video
from videodiff.jobs import CANCELLED, DONE, PAUSED, RUNNING, WAITING, Store
from videodiff.settings import Predict
from videodiff_ui.server import CLOSED_PAGES

ENDED = (DONE, CANCELLED)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 32x24 in which something moves."""
    path = tmp_path_factory.mktemp("clips") / "clip.mp4"
    frames = np.zeros((12, 24, 32, 3), np.uint8)
    for t, frame in enumerate(frames):
        frame[8:16, 2 * t : 2 * t + 8] = (250, 120, 30)
    video.write(path, frames, fps=8)
    return path


def request(clip: Path, tiny: Path, seed: int, frames: int = 8) -> Predict:
    return Predict(input=clip, checkpoint=str(tiny), frames=frames, steps=8, seed=seed, threads=1)


def check_whole(store: Store, frames: int = 8) -> None:
    """Every job has ended once, what is done is whole, and nothing half-written lies about."""
    jobs = store.list(limit=1000)
    assert not [job for job in jobs if job.state not in ENDED], [(job.id, job.state, job.error) for job in jobs]
    for job in jobs:
        made = job.log.read_text().count("its result is whole") if job.log.exists() else 0
        assert made == (job.state == DONE), (job.id, job.state, job.log.read_text())
        if job.state == DONE:
            assert job.output is not None
            new = video.read(job.output, trusted=True).frames
            assert len(new) >= frames
    assert not [file for file in store.results.rglob("*") if ".tmp" in file.name or file.name.startswith(".")]
    assert sqlite3.connect(store.folder / "jobs.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.slow)])
def test_a_killed_server_loses_no_job(serve: Callable[..., Any], tiny: Path, clip: Path, kills: int) -> None:
    """The worker goes on while the server is gone; the next server finds the jobs as they are by then."""
    moments = random.Random(0)
    app = serve()
    added = [app.store.add(request(clip, tiny, seed, frames=24)).id for seed in range(kills + 2)]
    for _ in range(kills):
        time.sleep(moments.uniform(0, 1.5))  # the random moment itself
        app.kill()
        app = serve(data=app.data)
    for id in added:
        app.job(id, DONE)
    assert len(app.store.list(limit=1000)) == len(added)
    check_whole(app.store, 24)


# ---------------------------------------------------------------------------------------------------------------------
# Soak


def resources(pid: int) -> tuple[int, int]:
    """(bytes of memory held, open files) of a process."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE"), len(os.listdir(f"/proc/{pid}/fd"))


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_two_hundred_jobs_with_cancels_reloads_and_kills(
    serve: Callable[..., Any], chromium: Any, tiny: Path, clip: Path
) -> None:
    """Jobs are added, cancelled, paused, resumed and starred while pages reload and workers are killed.

    The first quarter warms up: more pages are closed than the server remembers, and a result is shown, which loads what
    reads clips. From there on the server's memory may grow by 5 % and its open files not at all.
    """
    if not Path("/proc/self/statm").exists():
        pytest.skip("needs /proc to look into a process")
    chance, app = random.Random(1), serve()
    store, before = app.store, (0, 0)
    with browser.opened(chromium, app.url) as page:
        for _ in range(CLOSED_PAGES + 1):
            reload(page)
        for number in range(200):
            id = store.add(request(clip, tiny, number, frames=chance.choice((2, 8, 24)))).id
            what = chance.random()
            if what < 0.15:
                time.sleep(chance.uniform(0, 0.3))  # so that some run, and others wait
                store.cancel(id)
            elif what < 0.25 and store.get(id).state in (WAITING, RUNNING):
                pause_and_resume(store, id)
            elif what < 0.35:
                store.star(id, True)
            elif what < 0.40:
                reload(page)
            elif what < 0.43:
                worker = next((job.pid for job in store.queue() if job.state == RUNNING), None)
                if worker is not None:
                    os.kill(worker, 9)
            browser.until(lambda: go_on(store) <= 4, 240, "the queue does not get shorter")
            if number == 40:
                browser.until(lambda: store.list(states=(DONE,)), 120, "no job is done")
                reload(page)
                page.wait_for_selector("#vd-result .vd-player, #vd-result .vd-hint", timeout=60_000)
            if number == 50:
                before = resources(app.process.pid)
        browser.until(lambda: go_on(store) == 0, 240, "jobs are left")
        page.watched.quiet()
    after = resources(app.process.pid)
    print(f"server: {before[0] / 1e6:.0f} MB, {before[1]} files; then {after[0] / 1e6:.0f} MB, {after[1]} files")
    for job in store.list(limit=1000):
        assert job.state in ENDED or job.attempts >= 2, job
    check_whole(store, 2)
    assert after[0] <= 1.05 * before[0]
    assert after[1] <= before[1] + 2  # a page has connections of its own


def reload(page: Any) -> None:
    """Load the page anew, as a reader would: when it is there."""
    browser.reload(page)
    page.wait_for_timeout(500)


def pause_and_resume(store: Store, id: int) -> None:
    """Pause a job, wait until it has stopped or ended, and let it go on."""
    store.pause_job(id)
    browser.until(lambda: store.get(id).state not in (WAITING, RUNNING), 60)
    if store.get(id).state == PAUSED:
        store.resume_job(id)


def go_on(store: Store) -> int:
    """The length of the queue; one that crashes have paused is resumed, as a person would."""
    if store.paused():
        store.resume()
    return len(store.queue())
