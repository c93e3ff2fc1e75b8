"""Jobs in their own process: each is done once, whatever is killed, and what stops one is told."""

import contextlib
import os
import random
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from videodiff import room, service, shelf, supervisor, video, worker
from videodiff.events import Metric, Note, Progress, Saved
from videodiff.files import hold
from videodiff.jobs import CANCELLED, DONE, FAILED, PAUSED, RUNNING, WAITING, Store
from videodiff.settings import Evaluate, Generate, Predict, Train
from videodiff.supervisor import Supervisor
from videodiff.worker import Keeper, Watch, perform

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture
def store(tmp_path):
    store = Store(tmp_path / "data")
    yield store
    store.close()


@pytest.fixture
def request_(tiny):
    """A small request; more frames make more windows."""

    def make(seed=1, **more):
        values = {"width": 16, "height": 16, "frames": 20, "steps": 2, "device": "cpu", "precision": "float32", **more}
        return Generate(checkpoint=str(tiny), seed=seed, **values)

    return make


def until(condition, seconds=120.0):
    """Wait until condition() is true; returns what it was."""
    ends = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < ends, "it did not come about"
        time.sleep(0.02)  # a look costs a millisecond of the core that a worker may need
    return found


def log_of(job):
    return job.log.read_text() if job.log.exists() else ""


def run_here(store, stopping=None):
    """Do all waiting jobs in this process."""
    stopping = stopping or threading.Event()
    keeper = Keeper(lambda _: None)
    while (job := store.claim("auto", os.getpid())) is not None:
        perform(store, job, "auto", stopping, keeper)


@contextlib.contextmanager
def supervised(store, **more):
    watching = Supervisor(store, "cpu", **more)
    watching.start()
    try:
        yield watching
    finally:
        watching.stop(kill=True)


# --- one job


def test_a_job_becomes_what_the_library_makes(store, request_, tmp_path):
    request = request_()
    job = store.add(request, suffix=".mkv")
    run_here(store)
    done = store.get(job.id)
    assert (done.state, done.error, done.exit_code) == (DONE, "", None), done.error
    list(service.run(request.model_copy(update={"output": tmp_path / "bare.mkv"})))
    made, bare = (video.read(path, trusted=True).frames for path in (done.output, tmp_path / "bare.mkv"))
    # Kernels may sum in another order where memory lies otherwise: a byte may round to its neighbour.
    np.testing.assert_allclose(made.astype(int), bare.astype(int), atol=1)
    assert done.done == done.total > 0
    assert done.digest
    assert done.thumbnail is not None
    assert done.finished >= done.started >= done.created
    assert not store.work_folder(job.id).exists()
    assert sorted(p.name for p in done.folder.iterdir()) == [
        "job.log", "seed1.generate.mkv", "seed1.generate.mkv.json", "thumbnail.jpg"
    ]  # fmt: skip


def test_the_network_stays_between_jobs_that_want_the_same(store, request_, tiny, monkeypatch):
    from videodiff import pipeline

    opened, real = [], pipeline.open_model
    monkeypatch.setattr(pipeline, "open_model", lambda settings: opened.append(1) or real(settings))
    for seed in range(3):
        store.add(request_(seed))
    run_here(store)
    assert len(opened) == 1
    store.add(request_(9, precision="bfloat16"))
    run_here(store)
    assert len(opened) == 2
    config = tiny / "config.json"
    os.utime(config, (config.stat().st_atime, config.stat().st_mtime + 5))
    store.add(request_(9, precision="bfloat16"))
    run_here(store)
    assert len(opened) == 3, "another file may be another network"
    assert {job.state for job in store.list()} == {DONE}


def test_what_the_user_can_mend_is_told_without_a_trace(store, tmp_path):
    job = store.add(Predict(input=tmp_path / "none.mp4", device="cpu"))
    run_here(store)
    failed = store.get(job.id)
    assert (failed.state, failed.exit_code) == (FAILED, 3 if "unreadable" in failed.error else failed.exit_code)
    assert "none.mp4" in failed.error
    assert "Traceback" not in log_of(failed)


def test_a_fault_of_ours_is_told_with_a_trace_in_the_log(store, request_, monkeypatch):
    def broken(*_, **__):
        raise ZeroDivisionError("what only we can mend")
        yield

    monkeypatch.setattr(service, "run", broken)
    job = store.add(request_())
    run_here(store)
    failed = store.get(job.id)
    assert (failed.state, failed.exit_code) == (FAILED, 1)
    assert "bug of ours" in failed.error
    assert "ZeroDivisionError" in log_of(failed)
    assert "Traceback" in log_of(failed)


def counted(monkeypatch, act, at):
    """Calls act() before the evaluation `at`, once; returns the list that counts evaluations."""
    from videodiff import pipeline

    counts, real = [], pipeline.cancellable

    def counting(denoise, cancelled):
        inner = real(lambda z, s: counts.append(1) or denoise(z, s), cancelled)

        def evaluate(z, s):
            if len(counts) == at:
                act()
            return inner(z, s)

        return evaluate

    monkeypatch.setattr(pipeline, "cancellable", counting)
    return counts


@pytest.fixture
def prompt(monkeypatch):
    """Wishes are looked for before every evaluation, however fast."""
    monkeypatch.setattr(worker, "ASK_SECONDS", -1.0)


@pytest.mark.parametrize("at", [0, 1, 3])
def test_a_cancelled_job_stops_within_one_evaluation_and_leaves_nothing(store, request_, monkeypatch, prompt, at):
    job = store.add(request_())
    counts = counted(monkeypatch, lambda: store.cancel(job.id), at)
    run_here(store)
    assert store.get(job.id).state == CANCELLED
    assert len(counts) == at
    assert sorted(p.name for p in job.folder.iterdir()) == ["job.log"]
    assert list(store.work.iterdir()) == []


def test_a_paused_job_goes_on_after_what_was_finished(store, request_, monkeypatch, prompt):
    whole = store.add(request_())
    with monkeypatch.context() as patched:
        evaluations = counted(patched, lambda: None, 10**6)
        run_here(store)
    job = store.add(request_())
    with monkeypatch.context() as patched:
        first = counted(patched, lambda: store.pause_job(job.id), 5)
        run_here(store)
    assert store.get(job.id).state == PAUSED
    assert len(first) == 5
    store.resume_job(job.id)
    with monkeypatch.context() as patched:
        second = counted(patched, lambda: None, 10**6)
        run_here(store)
    assert store.get(job.id).state == DONE
    assert len(first) + len(second) < 2 * len(evaluations)
    made, other = (video.read(store.get(j.id).output, trusted=True).frames for j in (job, whole))
    np.testing.assert_array_equal(made, other)


def test_a_worker_told_to_end_puts_its_job_back(store, request_, monkeypatch, prompt):
    job = store.add(request_())
    stopping = threading.Event()
    counted(monkeypatch, stopping.set, 3)
    claimed = store.claim("auto", os.getpid())
    perform(store, claimed, "auto", stopping, Keeper(lambda _: None))
    back = store.get(job.id)
    assert (back.state, back.attempts) == (WAITING, 0)
    assert store.paused() == ""
    assert store.work_folder(job.id).is_dir(), "it goes on there"


def test_a_job_taken_from_a_worker_is_not_touched_by_it(store, request_, monkeypatch, prompt):
    job = store.add(request_())
    counted(monkeypatch, lambda: store.recover("auto"), 2)
    perform(store, store.claim("auto", os.getpid()), "auto", threading.Event(), Keeper(lambda _: None))
    assert store.get(job.id).state == WAITING


def small_training(**more):
    small = {"widths": (16, 16), "spatial_attention": (1,), "head_width": 16, "embedding": 16}
    return Train(
        model=small, batch=1, frames=3, sizes=((16, 16),), steps=6, device="cpu", warmup=0, log_every=1, **more
    )


def test_a_training_job_is_paused_and_resumed(store, monkeypatch, prompt):
    job = store.add(small_training())
    real = Watch.take

    def take(self, event):
        real(self, event)
        if isinstance(event, Progress) and (event.what, event.done) == ("training", 3):
            self.tell()
            store.pause_job(job.id)

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "take", take)
        run_here(store)
    paused = store.get(job.id)
    assert paused.state == PAUSED, paused.error
    assert [path for path, kind in paused.saved if kind == "state"]
    store.resume_job(job.id)
    run_here(store)
    done = store.get(job.id)
    assert done.state == DONE, done.error
    assert [step for step, name, _ in store.metrics(job.id) if name == "train"] == [1, 2, 3, 4, 5, 6]
    assert [step for step, name, _ in store.metrics(job.id) if name == "measure"] == [3, 6]
    assert any("resumed step-00000003" in note for note in done.notes)


def test_a_worker_told_to_end_leaves_a_saved_state_unmeasured(store, monkeypatch, prompt):
    """It has some seconds only; what is not measured now is measured later, and what is saved is saved."""
    job = store.add(small_training(save_minutes=1e-9))
    stopping, real = threading.Event(), Watch.take

    def take(self, event):
        real(self, event)
        if isinstance(event, Saved) and event.path.endswith("step-00000002"):
            stopping.set()

    with monkeypatch.context() as patched:
        patched.setattr(Watch, "take", take)
        perform(store, store.claim("auto", os.getpid()), "auto", stopping, Keeper(lambda _: None))
    back = store.get(job.id)
    assert (back.state, back.attempts) == (WAITING, 0)
    states = shelf.states(Path(back.settings["out"]))
    assert [(state.name[-1], shelf.measured(state) is None) for state in states] == [("2", True), ("1", False)]
    run_here(store)
    assert store.get(job.id).state == DONE
    assert [step for step, name, _ in store.metrics(job.id) if name == "measure"] == [1, 3, 4, 5, 6]


def test_a_report_that_is_whole_is_not_made_again(store, tmp_path):
    job = store.add(Evaluate(data=[tmp_path], device="cpu"))
    for _ in range(2):
        claimed = store.claim("auto", os.getpid())
        if claimed.attempts == 1:
            Path(claimed.settings["report"]).write_text("{}")
            store.recover("auto")
    perform(store, claimed, "auto", threading.Event(), Keeper(lambda _: None))
    assert store.get(job.id).state == DONE
    assert store.get(job.id).saved == ((claimed.settings["report"], "report"),)


# --- what the table hears


def test_the_table_hears_at_most_twice_a_second(store, request_, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    store.add(request_())
    job = store.claim("auto", os.getpid())
    watch = Watch(store, job, threading.Event(), 60.0)
    changes = []
    for done in range(100):
        now[0] += 0.1
        before = store.version()
        watch.take(Progress(done, 100, "sampling", b"jpeg %d" % done))
        watch.take(Metric(done, {"loss": 1.0}, "train"))
        watch.cancelled()
        changes.append(store.version() - before)
    assert sum(changes) <= 21
    told = store.get(job.id)
    assert told.eta == pytest.approx((100 - told.done) * 0.1, abs=0.11)
    assert store.preview(job.id) == b"jpeg %d" % told.done
    assert len(store.metrics(job.id)) >= told.done
    assert told.patience == 60


def test_slow_steps_are_not_taken_for_a_hang(store, request_, monkeypatch):
    now = [100.0]
    monkeypatch.setattr(worker.time, "monotonic", lambda: now[0])
    store.add(request_())
    watch = Watch(store, store.claim("auto", os.getpid()), threading.Event(), 60.0)
    assert watch.patience == worker.LONG_PATIENCE, "a network is being loaded"
    for done in range(1, 6):
        now[0] += 20
        watch.cancelled()
        watch.take(Progress(done, 10, "sampling"))
    assert watch.patience == pytest.approx(200)
    now[0] += 201
    watch.stopping.set()
    assert watch.cancelled()
    assert watch.late, "an end after a hang counts as one"
    watch.take(Progress(10, 10, "sampling"))
    assert watch.patience == worker.LONG_PATIENCE, "a result is being written"
    watch.take(Note("a note"))
    watch.take(Saved("a", "clip"))
    watch.tell()


def test_a_lost_device_ends_the_worker_and_the_next_one_does_the_job(store, request_, monkeypatch):
    """After a fault of CUDA everything in that process fails, so no other job is begun in it."""
    import torch

    def lost(*_, **__):
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    first, second = store.add(request_(1)), store.add(request_(2))
    with monkeypatch.context() as patched:
        patched.setattr(service, "run", lost)
        stopping = threading.Event()
        worker.serve(store, "auto", idle=60, stopping=stopping)
    assert stopping.is_set()
    assert [store.get(job.id).state for job in (first, second)] == [WAITING, WAITING]
    assert "the device is lost: CUDA error" in log_of(first)
    worker.serve(store, "auto", idle=0, stopping=threading.Event())
    assert [(store.get(job.id).state, store.get(job.id).attempts) for job in (first, second)] == [(DONE, 2), (DONE, 1)]


# --- no room


def test_a_queue_without_room_is_paused_and_says_why(store, request_, monkeypatch):
    store.add(request_())
    monkeypatch.setattr(room, "LOW_WATER", 10**18)
    assert worker.next_job(store, "auto") is None
    assert "free" in store.paused()
    monkeypatch.setattr(room, "LOW_WATER", 0)
    store.resume()
    assert worker.next_job(store, "auto") is not None


def test_a_job_stops_when_room_runs_out_and_goes_on_when_there_is_some(store, request_, monkeypatch, prompt):
    monkeypatch.setattr(worker, "DISK_SECONDS", -1.0)
    job = store.add(request_())
    with monkeypatch.context() as patched:
        counted(patched, lambda: patched.setattr(room, "LOW_WATER", 10**18), 5)
        run_here(store)
    failed = store.get(job.id)
    assert (failed.state, failed.exit_code) == (FAILED, 6)
    assert "free" in failed.error
    assert failed.output is None
    store.resume_job(job.id)
    run_here(store)
    assert store.get(job.id).state == DONE


def test_a_disk_full_at_any_byte_fails_the_job_alone(store, request_, monkeypatch):
    """The system refuses to let a file grow beyond n bytes: table, journal, spool, result, log and thumbnail alike."""
    resource = pytest.importorskip("resource")
    monkeypatch.setattr(room, "LOW_WATER", 0)
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    keeper = Keeper(lambda _: None)
    stopping = threading.Event()
    store._table.db.execute("PRAGMA wal_autocheckpoint = 5")  # the table's own file grows too
    told = 0

    def some(*_):
        resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        return False

    monkeypatch.setattr(stopping, "wait", some)  # the end of a job waits for room, and gets some
    for limit in np.linspace(0, 16_000, 50).astype(int):
        job = store.add(request_(frames=12))
        claimed = store.claim("auto", os.getpid())
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        try:
            perform(store, claimed, "auto", stopping, keeper)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        after = store.get(job.id)
        if after.state == FAILED:
            told += 1
            assert after.exit_code == 6, after.error
            assert "disk is full" in after.error
            assert [p.name for p in after.folder.iterdir() if p.name.startswith(".")] == []
            store.resume_job(job.id)
            run_here(store)
            after = store.get(job.id)
        assert after.state == DONE, after.error
        assert len(video.read(after.output, trusted=True).frames) == 12
        assert store._table.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert told > 10


def test_a_small_disk_that_fills_up(tmp_path, request_, monkeypatch):
    small = tmp_path / "small"
    small.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=400k", "tmpfs", small], capture_output=True).returncode:
        pytest.skip("mounting is not permitted here")
    try:
        monkeypatch.setattr(room, "LOW_WATER", 0)
        store = Store(small)
        job = store.add(request_(frames=12))
        (small / "filler").write_bytes(b"0" * 150_000)
        with contextlib.suppress(OSError), open(small / "filler", "ab", buffering=0) as file:
            while True:
                file.write(b"0" * 4096)
        with open(small / "filler", "r+b") as file:
            file.truncate(file.seek(0, 2) - 16384)
        stopping = threading.Event()
        monkeypatch.setattr(stopping, "wait", lambda *_: (small / "filler").unlink(missing_ok=True))
        perform(store, store.claim("auto", os.getpid()), "auto", stopping, Keeper(lambda _: None))
        failed = store.get(job.id)
        assert (failed.state, failed.exit_code) == (FAILED, 6), failed.error
        (small / "filler").unlink(missing_ok=True)
        store.resume_job(job.id)
        run_here(store)
        assert store.get(job.id).state == DONE
        assert store._table.db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        store.close()
    finally:
        subprocess.run(["umount", small], check=True)


# --- processes


def invariants(store, ids):
    """All jobs done, each result made once, nothing partial, the table sound."""
    for id in ids:
        job = store.get(id)
        assert job.state == DONE, (job.state, job.error, log_of(job))
        assert len(video.read(job.output, trusted=True).frames) == job.settings["frames"]
        assert log_of(job).count("its result is whole") <= 1, log_of(job)
        assert log_of(job).count("result") >= 1, log_of(job)
        assert sorted(p.suffix for p in job.folder.iterdir()) == [".jpg", ".json", ".log", ".mp4"]
    assert list(store.work.iterdir()) == []
    with sqlite3.connect(store.folder / "jobs.sqlite") as db:
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def all_ended(store):
    return not store.queue()


def test_a_supervisor_starts_a_worker_that_does_all_and_ends(store, request_):
    ids = [store.add(request_(seed)).id for seed in range(3)]
    with supervised(store, idle=1.0) as watching:
        state = until(watching.worker_state)
        assert state["device"] == "cpu"
        assert state["memory"] is None or state["memory"] > 0
        until(lambda: all_ended(store))
        until(lambda: not watching.worker_state())
        assert store.paused() == ""
    invariants(store, ids)


def test_two_supervisors_make_one_worker(store, request_):
    ids = [store.add(request_(seed)).id for seed in range(4)]
    other = Store(store.folder)
    with supervised(store) as first, supervised(other) as second:
        pids = set()

        def ended():
            pids.update(job.pid for job in store.queue() if job.state == RUNNING)
            return all_ended(store)

        until(ended)
        assert len(pids) == 1
        assert first.worker_state()["pid"] == second.worker_state()["pid"]
    other.close()
    assert store.paused() == ""
    invariants(store, ids)


def test_a_second_worker_does_nothing(store):
    lock = hold(store.lock("cpu"))
    with lock:
        command = [sys.executable, "-m", "videodiff.worker", "--data", str(store.folder), "--device", "cpu"]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=60)
    assert done.returncode == 0
    assert "another worker" in done.stderr


def test_a_worker_outlives_its_supervisor_and_ends_on_request(store, request_):
    job = store.add(request_(frames=400))
    first = Supervisor(store, "cpu")
    first.start()
    until(lambda: store.get(job.id).done > 0)
    first.stop()
    pid = store.get(job.id).pid
    seen = store.get(job.id).done
    until(lambda: store.get(job.id).done > seen)
    with supervised(store) as second:
        assert second.worker_state()["pid"] == pid
        os.kill(pid, signal.SIGTERM)
        until(lambda: store.get(job.id).pid != pid)
    assert store.paused() == ""
    back = store.get(job.id)
    assert (back.state, back.attempts) == (WAITING, 0)


def test_a_worker_that_cannot_begin_pauses_the_queue(store, request_, monkeypatch):
    store.add(request_())
    monkeypatch.setattr(supervisor.sys, "executable", "/bin/false")
    watching = Supervisor(store, "cpu")

    def paused():
        watching.look()
        return store.paused()

    assert "worker.log" in until(paused)


def test_a_hung_worker_is_ended_and_its_job_put_back(store, request_, monkeypatch):
    """A process that holds the lock and stands still stands for a kernel that never comes back."""
    held = "import sys, time; from pathlib import Path; from videodiff.files import hold; "
    held += "lock = hold(Path(sys.argv[1])); print('held', flush=True); "
    held += "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(600)"
    stuck = subprocess.Popen([sys.executable, "-c", held, store.lock("cpu")], stdout=subprocess.PIPE, cwd=ROOT)
    stuck.stdout.readline()
    stuck.stdout.readline()
    job = store.add(request_())
    store.introduce("cpu", stuck.pid)
    assert store.claim("cpu", stuck.pid).id == job.id
    store.beat(job.id, stuck.pid, 60.0)
    monkeypatch.setattr(supervisor, "LOOK_SECONDS", 0.02)
    now, real = [0.0], time.monotonic
    monkeypatch.setattr(supervisor.time, "monotonic", lambda: real() + now[0])
    with supervised(store):
        looked = until(lambda: store.get(job.id).pid == stuck.pid)
        assert looked
        now[0] += 61
        while stuck.poll() is None:
            now[0] += 1
            time.sleep(0.05)
        assert stuck.returncode == -signal.SIGKILL
        until(lambda: store.get(job.id).state == DONE)
    assert store.get(job.id).attempts == 2


def kill_at_random(store, seed, kills, ids):
    """SIGKILL the worker at random moments until so many kills have been, resuming what that pauses."""
    chance = random.Random(seed)
    killed = 0
    while not all(store.get(id).state == DONE for id in ids):
        if store.paused():
            store.resume()
        for job in store.list(states=[FAILED]):
            assert "ended its worker" in job.error, job.error
            store.resume_job(job.id)
        running = next((job for job in store.queue() if job.state == RUNNING), None)
        if killed < kills and running is not None and running.pid:
            time.sleep(chance.uniform(0, 0.4))
            with contextlib.suppress(ProcessLookupError):
                os.kill(running.pid, signal.SIGKILL)
                killed += 1
            until(lambda pid=running.pid: all(job.pid != pid for job in store.queue()))
        time.sleep(0.05)
    return killed


@pytest.mark.parametrize(
    ("kills", "frames"), [(3, 20), pytest.param(20, 60, marks=[pytest.mark.slow, pytest.mark.timeout(900)])]
)
def test_kills_at_random_moments_lose_no_job_and_repeat_none(store, request_, kills, frames):
    ids = [store.add(request_(seed, frames=frames)).id for seed in range(5)]
    with supervised(store):
        killed = kill_at_random(store, 7, kills, ids)
    assert killed >= min(kills, 3)
    invariants(store, ids)


def test_ten_good_jobs_are_done_after_a_poisoned_one(store, request_):
    poison = store.add(request_(99, frames=5000))
    good = [store.add(request_(seed, frames=8)).id for seed in range(10)]
    with supervised(store):
        deaths = 0
        while not store.paused():
            job = store.get(poison.id)
            if job.state == RUNNING and job.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(job.pid, signal.SIGKILL)
                    deaths += 1
                until(lambda pid=job.pid: store.get(poison.id).pid != pid)
            time.sleep(0.02)
        assert deaths == 2
        failed = store.get(poison.id)
        assert (failed.state, failed.attempts) == (FAILED, 2)
        assert str(poison.id) in store.paused()
        assert {store.get(id).state for id in good} == {WAITING}
        store.resume()
        until(lambda: all_ended(store))
    assert {store.get(id).state for id in good} == {DONE}
    assert store.paused() == ""


# --- the command


@pytest.fixture
def command(store, monkeypatch):
    """`command("queue")`: (exit code, lines of its output)."""
    monkeypatch.setenv("VIDEODIFF_DATA", str(store.folder))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")

    def run(*arguments):
        done = subprocess.run(
            [sys.executable, "-m", "videodiff", *arguments], capture_output=True, text=True, cwd=ROOT, timeout=120
        )
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


SMALL = ["--width", "16", "--height", "16", "--frames", "8", "--steps", "2", "--device", "cpu", "--seed", "1"]


def test_a_job_of_the_command_runs_in_the_background(store, command, tiny):
    code, lines, _ = command("generate", "--checkpoint", str(tiny), *SMALL, "--background")
    assert (code, lines) == (0, ["job 1"])
    assert store.get(1).settings["frames"] == 8
    until(lambda: store.get(1).state == DONE)
    code, lines, _ = command("queue")
    assert lines == [f"   1  done       generate     generate  {store.get(1).output}"]

    def all_gone():
        locks = [hold(store.folder / "queue-run.lock"), hold(store.lock("auto"))]
        for lock in filter(None, locks):
            lock.close()
        return None not in locks

    until(all_gone)
    invariants(store, [1])


def test_the_command_steers_the_queue(store, command, request_):
    first, second = store.add(request_(1, frames=8)), store.add(request_(2, frames=8))
    assert command("queue", "pause")[0] == 0
    code, _, told = command("queue", "run")
    assert code == 2
    assert "queue resume" in told
    assert command("queue", "cancel", str(first.id))[0] == 0
    assert store.get(first.id).state == CANCELLED
    assert command("queue", "pause", str(second.id))[0] == 0
    assert store.get(second.id).state == PAUSED
    assert command("queue", "cancel", "99")[0] == 2
    store.resume()
    store.resume_job(second.id)
    code, lines, _ = command("queue", "run", "--device", "cpu")
    assert code == 0
    assert lines[-1] == f"job {second.id} done: {store.get(second.id).output}"
    invariants(store, [second.id])


def test_the_job_of_a_dead_worker_of_another_device_is_put_back(store, request_):
    job = store.add(request_(frames=8))
    assert store.claim("cuda:3", 4_000_000).id == job.id
    with supervised(store):
        until(lambda: store.get(job.id).state == DONE)
    assert store.get(job.id).attempts == 2
