"""The table of jobs: what was asked for is kept, in order, once, whatever happens to its processes."""

import os
import sqlite3
import subprocess
import sys
import threading
import time

import pytest

from videodiff import jobs, room
from videodiff.errors import OutOfResources, UserError
from videodiff.jobs import CANCELLED, DONE, FAILED, PAUSED, RUNNING, WAITING, Store
from videodiff.settings import Bpd, Demo, Evaluate, Generate, Predict, Train

ME = os.getpid()


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


def add(store, **settings):
    return store.add(Generate(**{"frames": 4, "seed": 1, **settings}))


def states(store):
    return {job.id: job.state for job in store.list()}


# --- what is asked for


def test_a_job_says_all_that_makes_it_again_and_where_its_result_goes(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    job = store.add(Predict(input="a clip.mp4", frames=3))
    assert (job.state, job.kind, job.title) == (WAITING, "predict", "a clip.mp4")
    assert job.settings["seed"] is not None
    assert job.settings["input"] == str(tmp_path / "a clip.mp4")
    request = job.request()
    assert request.output == job.folder / "a clip.predict.mp4"
    assert job.folder.parent == store.results
    assert job.folder.is_dir()
    assert job.folder.name.endswith(f"-{job.id}-predict")
    assert job.output is None, "nothing is made yet"
    assert Store(store.folder).get(job.id) == job, "another process sees the same"


def test_a_place_that_was_asked_for_is_kept(store, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert store.add(Predict(input="a.mp4", output="b.webm")).settings["output"] == str(tmp_path / "b.webm")
    assert store.add(Train(out="runs/model")).settings["out"] == str(tmp_path / "runs/model")
    (tmp_path / "mine").mkdir()
    assert store.add(Generate(checkpoint="mine")).settings["checkpoint"] == str(tmp_path / "mine")
    assert store.add(Generate(checkpoint="motion")).settings["checkpoint"] == "motion"


def test_the_rest_is_chosen(store, tmp_path):
    evaluate = store.add(Evaluate(data=[tmp_path]))
    assert evaluate.settings["report"] == str(evaluate.folder / "report.json")
    train = store.add(Train())
    assert train.settings["out"].startswith(str(store.runs))
    assert store.add(Bpd(input=["a.mp4"])).kind == "bpd"
    (tmp_path / "clips").mkdir()
    (tmp_path / "clips" / "a.mp4").touch()
    several = store.add(Predict(input=tmp_path / "clips"))
    assert several.settings["output"] == str(several.folder / "clips")
    with pytest.raises(UserError, match="cannot be queued"):
        store.add(Demo())


def test_again_changes_what_is_said_and_the_place(store):
    first = add(store, steps=3)
    second = store.again(first.id, seed=7)
    assert (second.settings["seed"], second.settings["steps"]) == (7, 3)
    assert second.settings["output"] != first.settings["output"]
    with pytest.raises(UserError, match="seed"):
        store.again(first.id, seed=-1)
    assert len(store.list()) == 2


def test_pictures_go_into_a_folder_whose_name_has_no_ending(store):
    first = store.add(Generate(frames=2, seed=5), suffix="")
    assert first.settings["output"] == str(first.folder / "seed5-generate")
    assert store.again(first.id, seed=6).settings["output"].endswith("seed6-generate")


# --- order and search


def test_jobs_run_in_the_order_of_the_queue(store):
    a, b, c, d = (add(store).id for _ in range(4))
    store.move(d, before=a)
    store.move(b, before=None)
    assert [job.id for job in store.queue()] == [d, a, c, b]
    assert [store.claim("auto", ME).id for _ in range(4)] == [d, a, c, b]
    assert store.claim("auto", ME) is None
    with pytest.raises(UserError, match="not waiting"):
        store.move(a, before=None)


def test_the_list_is_searched(store, tmp_path):
    a = store.add(Predict(input=tmp_path / "Waves.mp4"), visitor="v1")
    b = add(store, steps=9)
    store.star(b.id, True)
    assert [j.id for j in store.list()] == [b.id, a.id]
    assert [j.id for j in store.list(text="waves")] == [a.id]
    assert [j.id for j in store.list(text="% _")] == []
    assert [j.id for j in store.list(starred=True)] == [b.id]
    assert [j.id for j in store.list(kinds=["predict"])] == [a.id]
    assert [j.id for j in store.list(visitor="v1")] == [a.id]
    assert [j.id for j in store.list(limit=1, offset=1)] == [a.id]
    assert store.list(states=[DONE]) == []


def test_the_trash_keeps_the_files(store):
    job = add(store)
    (job.folder / "result.mp4").touch()
    store.trash_job(job.id)
    assert store.list() == []
    assert store.queue() == []
    assert (store.trash / job.folder.name / "result.mp4").is_file()
    store.untrash_job(job.id)
    assert [one.id for one in store.list()] == [job.id]
    assert (job.folder / "result.mp4").is_file()
    assert not (store.trash / job.folder.name).exists()


def test_a_folder_that_cannot_be_moved_keeps_its_job_where_it_is(store):
    job = add(store)
    (job.folder / "result.mp4").touch()
    there, back = store.trash / job.folder.name, store.results / job.folder.name
    there.touch()  # in the way, for root too
    with pytest.raises(UserError, match=f"{there} cannot be read or written: "):
        store.trash_job(job.id)
    assert [one.id for one in store.list()] == [job.id]
    assert (back / "result.mp4").is_file()
    there.unlink()
    store.trash_job(job.id)
    store.results.rename(store.folder / "gone")
    with pytest.raises(UserError, match=f"{store.results} cannot be read or written: "):
        store.untrash_job(job.id)
    assert store.list() == []
    assert (there / "result.mp4").is_file()
    (store.folder / "gone").rename(store.results)
    store.untrash_job(job.id)
    assert [one.id for one in store.list()] == [job.id]
    assert (back / "result.mp4").is_file()


@pytest.mark.parametrize("steer", ["cancel", "trash_job"])
def test_what_the_table_refuses_leaves_the_files_where_they_are(store, steer):
    job = add(store)
    (job.folder / "result.mp4").touch()
    store.work_folder(job.id).mkdir()
    with sqlite3.connect(store.folder / "jobs.sqlite") as other:
        other.execute("CREATE TRIGGER refuse BEFORE UPDATE ON job BEGIN SELECT RAISE(FAIL, 'no room'); END")
    with pytest.raises(sqlite3.IntegrityError, match="no room"):
        getattr(store, steer)(job.id)
    assert store.get(job.id).state == WAITING
    assert (job.folder / "result.mp4").is_file()
    assert store.work_folder(job.id).is_dir()


def test_what_the_table_refuses_stays_in_the_trash(store):
    job = add(store)
    store.trash_job(job.id)
    with sqlite3.connect(store.folder / "jobs.sqlite") as other:
        other.execute("CREATE TRIGGER refuse BEFORE UPDATE ON job BEGIN SELECT RAISE(FAIL, 'no room'); END")
    with pytest.raises(sqlite3.IntegrityError, match="no room"):
        store.untrash_job(job.id)
    assert store.list() == []
    assert (store.trash / job.folder.name).is_dir()
    assert not job.folder.exists()


def test_every_change_is_seen(store):
    seen = [store.version()]
    job = add(store)
    for change in (
        lambda: store.star(job.id, True),
        lambda: store.pause("a reason"),
        lambda: store.resume(),
        lambda: store.claim("auto", ME),
        lambda: store.beat(job.id, ME, 60, done=1, total=2, what="sampling"),
        lambda: store.cancel(job.id),
        lambda: store.finish(job.id, ME, CANCELLED),
    ):
        seen.append(store.version())
        change()
    seen.append(store.version())
    assert seen == sorted(set(seen))


def test_a_job_that_is_not_there_is_told(store):
    with pytest.raises(UserError, match="no job 5"):
        store.get(5)


# --- the worker's side


def test_a_worker_tells_and_is_told(store):
    job = add(store)
    assert store.claim("auto", ME).id == job.id
    figures = [(20, "train", {"loss": 0.5})]
    assert (
        store.beat(job.id, ME, 60, b"jpeg", figures, ["a note"], [("a.mp4", "clip")], done=3, total=8, what="sampling")
        == ""
    )
    now = store.get(job.id)
    assert (now.state, now.done, now.total, now.what, now.notes) == (RUNNING, 3, 8, "sampling", ("a note",))
    assert str(now.output) == "a.mp4"
    assert store.preview(job.id) == b"jpeg"
    assert store.metrics(job.id) == figures
    assert store.metrics(job.id, after=20) == []
    store.pause_job(job.id)
    assert store.wish(job.id, ME) == "pause"
    store.cancel(job.id)
    assert store.beat(job.id, ME, 60) == "cancel"
    store.finish(job.id, ME, CANCELLED)
    assert store.get(job.id).state == CANCELLED
    assert store.beat(job.id, ME, 60) == "lost"
    store.finish(job.id, ME, DONE)
    assert store.get(job.id).state == CANCELLED, "a job that was given up is not the worker's any more"


def test_no_job_is_claimed_twice(store):
    for _ in range(40):
        add(store)
    claimed = []

    def take():
        own = Store(store.folder)
        while (job := own.claim("auto", ME)) is not None:
            claimed.append(job.id)
        own.close()

    threads = [threading.Thread(target=take) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(claimed) == sorted(states(store))


def test_pause_and_resume_of_a_job(store):
    job = add(store)
    store.pause_job(job.id)
    assert store.get(job.id).state == PAUSED
    assert store.claim("auto", ME) is None
    store.resume_job(job.id)
    assert store.claim("auto", ME).id == job.id
    store.finish(job.id, ME, FAILED, "the disk is full", 6)
    failed = store.get(job.id)
    assert (failed.error, failed.exit_code) == ("the disk is full", 6)
    store.resume_job(job.id)
    assert store.claim("auto", ME).attempts == 1
    store.finish(job.id, ME, DONE)
    with pytest.raises(UserError, match="again"):
        store.resume_job(job.id)


def test_a_paused_queue_gives_nothing(store):
    add(store)
    store.pause("for a reason")
    assert store.paused() == "for a reason"
    assert store.claim("auto", ME) is None
    store.resume()
    assert store.claim("auto", ME) is not None


def test_a_job_that_ends_its_worker_twice_has_failed_and_the_queue_says_why(store):
    job, good = add(store), add(store)
    store.claim("auto", ME)
    store.recover("cuda:1")
    assert store.get(job.id).state == RUNNING, "another device's worker lives"
    store.recover("auto")
    assert store.get(job.id).state == WAITING
    assert store.paused() == "", "one crash is an accident"
    assert store.claim("auto", ME).id == job.id
    store.recover("auto")
    failed = store.get(job.id)
    assert (failed.state, failed.exit_code) == (FAILED, 1)
    assert str(job.id) in store.paused()
    assert store.claim("auto", ME) is None
    store.resume()
    assert store.claim("auto", ME).id == good.id


def test_two_crashes_of_different_jobs_pause_the_queue(store):
    first, second = add(store), add(store)
    store.claim("auto", ME)
    store.recover("auto")
    store.move(second.id, before=first.id)
    store.claim("auto", ME)
    store.recover("auto")
    assert "twice" in store.paused()
    assert set(states(store).values()) == {WAITING}


def test_a_worker_that_ends_well_puts_its_job_back_uncounted(store):
    job = add(store)
    for _ in range(3):
        store.claim("auto", ME)
        store.put_back(job.id, ME)
    assert (store.get(job.id).state, store.get(job.id).attempts) == (WAITING, 0)
    assert store.paused() == ""


@pytest.mark.parametrize(("wish", "state"), [("cancel", CANCELLED), ("pause_job", PAUSED)])
def test_a_wish_outlives_the_worker(store, wish, state):
    job = add(store)
    store.claim("auto", ME)
    getattr(store, wish)(job.id)
    store.recover("auto")
    assert store.get(job.id).state == state


def test_a_cancel_is_heard_while_a_job_is_being_paused_or_put_back(store):
    """A training run that pauses saves for a while; whoever stops it then does not find it waiting."""
    paused, ended, both = add(store), add(store), add(store)
    for _ in range(3):
        store.claim("auto", ME)
    store.pause_job(paused.id)
    store.cancel(paused.id)
    store.finish(paused.id, ME, PAUSED)
    store.cancel(ended.id)
    store.put_back(ended.id, ME)
    store.pause_job(both.id)
    store.put_back(both.id, ME)
    assert [store.get(job.id).state for job in (paused, ended, both)] == [CANCELLED, CANCELLED, PAUSED]


# --- disk and table


def test_a_disk_nearly_full_or_a_full_cache_is_told(store, monkeypatch):
    (store.cache / "a").write_bytes(b"12345")
    monkeypatch.setattr(room, "LOW_WATER", 0)
    store.check_room()
    store.quota = 4
    with pytest.raises(OutOfResources, match="cache"):
        store.check_room()
    monkeypatch.setattr(room, "LOW_WATER", 10**18)
    with pytest.raises(OutOfResources, match="free"):
        store.check_room()


def test_what_is_kept_for_convenience_goes_oldest_first_and_results_never(store, monkeypatch):
    """Uploads no job reads, then the cache from its oldest file on, as far as needed; what is young stays."""

    def kept(path, hours):
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(bytes(100))
        for one in (path, path.parent):
            os.utime(one, (time.time() - 3600 * hours,) * 2)
        return path

    monkeypatch.setattr(room, "LOW_WATER", 0)
    result = kept(store.results / "old" / "clip.mp4", 99)
    read, unread = (kept(store.uploads / name / "clip.mp4", 50) for name in ("read", "unread"))
    profile = kept(store.cache / "window" / "cookies", 99)
    oldest, old, young = (kept(store.cache / "gradio" / f"{h}" / "film.mp4", h) for h in (9, 5, 0.5))
    store.add(Predict(input=read))
    store.quota = 600
    store.check_room()
    assert unread.exists()
    store.quota = 400
    store.check_room()
    assert [path.exists() for path in (unread, oldest, old, young, read, profile, result)] == [
        False,
        False,
        *[True] * 5,
    ]
    store.check_room(wanted=100)
    assert [path.exists() for path in (old, young, read, profile, result)] == [False, *[True] * 4]
    with pytest.raises(OutOfResources, match="--quota"):
        store.check_room(wanted=200)
    assert young.exists()


def test_several_requests_are_added_all_or_none(store):
    with pytest.raises(UserError):
        store.add_all([Generate(frames=2, seed=1), Demo()])
    assert store.list() == []
    assert [job.settings["seed"] for job in store.add_all([Generate(seed=1), Generate(seed=2)])] == [1, 2]


def test_a_table_that_cannot_grow_keeps_what_it_has(store):
    """At every size at which the disk may be full, a change is there wholly or not at all, and is told as such."""
    store._table.db.execute("PRAGMA synchronous = OFF")  # nobody pulls the plug here
    told = 0
    (pages,) = store._table.db.execute("PRAGMA page_count").fetchone()
    for more in range(50):
        store._table.db.execute(f"PRAGMA max_page_count = {pages + more}")
        before = store.list(limit=10**6)
        try:
            for _ in range(8):
                add(store)
                before = store.list(limit=10**6)
        except OutOfResources:
            told += 1
            assert store.list(limit=10**6) == before
        assert store._table.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert told > 5
    store._table.db.execute("PRAGMA max_page_count = 1000000")
    add(store)


def test_a_table_of_another_version_is_refused_untouched(store):
    store._table.db.execute("PRAGMA user_version = 99")
    with pytest.raises(UserError, match="another version"):
        Store(store.folder)
    assert store._table.db.execute("PRAGMA user_version").fetchone() == (99,)


def test_a_file_that_is_no_table_is_told(tmp_path):
    (tmp_path / "jobs.sqlite").write_bytes(b"not a table at all" * 100)
    with pytest.raises(UserError, match="table of jobs"):
        Store(tmp_path)


def test_looking_at_the_queue_needs_no_torch(tmp_path):
    code = f"import sys, pathlib; from videodiff.jobs import Store; Store(pathlib.Path({str(tmp_path)!r})).list();"
    code += "print(sorted({'torch', 'gradio', 'av'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "[]"


def test_the_folder_of_data_may_be_named(monkeypatch, tmp_path):
    monkeypatch.setenv("VIDEODIFF_DATA", str(tmp_path))
    assert jobs.data_folder() == tmp_path
    monkeypatch.delenv("VIDEODIFF_DATA")
    assert jobs.data_folder().name == "videodiff"


def test_two_processes_may_make_the_folder_at_once(tmp_path):
    """Whoever comes second waits for the first to have made the table."""
    code = f"from pathlib import Path; from videodiff.jobs import Store; Store(Path({str(tmp_path)!r}))"
    made = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(3)]
    assert [process.wait(60) for process in made] == [0, 0, 0]
    assert sqlite3.connect(tmp_path / "jobs.sqlite").execute("PRAGMA integrity_check").fetchone() == ("ok",)
