"""Sees to it that a data folder with work has a worker that lives: a thread in the server or in `videodiff queue run`.

It starts a worker where there is work and none, stops one that shows no life, and puts back the job of one that died.
Any number of supervisors may watch one folder: the worker's lock decides. No torch is imported here.
"""

import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any, BinaryIO

import videodiff
from videodiff.errors import UserError
from videodiff.files import hold
from videodiff.jobs import RUNNING, WAITING, Job, Store

LOOK_SECONDS = 0.25
GRACE_SECONDS = 10.0
"""What a worker that was terminated has to end by itself, before it is killed."""
PATIENCE = 600.0
"""Seconds without a sign of life of a worker that did not say what is usual."""
MAX_LOG_BYTES = 1_000_000


class Supervisor:
    """Watches one data folder and device; `start` and `stop` it. `trouble` says what keeps it from its work."""

    def __init__(self, store: Store, device: str = "auto", idle: float = 600.0) -> None:
        self.store, self.device, self.idle = store, device, idle
        self.trouble = ""
        self._child: subprocess.Popen | None = None
        self._stopped = threading.Event()
        self._thread: threading.Thread | None = None
        self._seen: tuple[int | None, float | None, float] = (None, None, 0.0)  # job, its beat, since when (monotonic)
        self._terminated: dict[int, float] = {}  # process: when it was asked to end (monotonic)

    def start(self) -> None:
        """Begin to watch, in a thread."""
        assert self._thread is None
        self._thread = threading.Thread(target=self._watch, name="supervisor", daemon=True)
        self._thread.start()

    def stop(self, kill: bool = False) -> None:
        """Watch no more. The worker goes on until it was idle for long; with `kill` it puts its job back and ends."""
        self._stopped.set()
        if self._thread is not None:
            self._thread.join()
        if kill and (pid := self._alive()) is not None:
            _signal(pid, signal.SIGTERM)
            ends = time.monotonic() + GRACE_SECONDS
            while self._alive() is not None and time.monotonic() < ends:
                time.sleep(LOOK_SECONDS / 5)
            if self._alive() is not None:
                _signal(pid, KILL)
        if self._child is not None and kill:
            self._child.terminate()  # it may not have got as far as its lock
            self._child.wait()

    def worker_state(self) -> dict[str, Any]:
        """pid, device, memory (bytes, None where the system does not say), model and since; empty if none lives."""
        if self._alive() is None or (found := self.store.worker(self.device)) is None:
            return {}
        pid, since, model = found
        return {"pid": pid, "device": self.device, "memory": memory(pid), "model": model, "since": since}

    def look(self) -> None:
        """One look: bury the dead, start the wanted, end the hung."""
        self._bury_others()
        lock = hold(self.store.lock(self.device))
        if lock is None:
            self._feel_pulse()
            return
        with lock:  # nobody else can begin to work meanwhile, so a job that is running has lost its worker
            buried = self.store.recover(self.device)
        code = None if self._child is None else self._child.poll()
        if code is not None:
            self._child = None
            if code != 0 and not buried:
                self.store.crashed(f"with exit code {code} before it had a job; see {self._log}")
        waiting = any(job.state == WAITING for job in self.store.queue())
        if waiting and self._child is None and not self.store.paused():
            self._child = self._begin()

    def _bury_others(self) -> None:
        """Put back the jobs of dead workers of other devices, which may have no supervisor any more."""
        for device in {job.device for job in self.store.queue() if job.state == RUNNING} - {self.device}:
            assert device is not None
            if (lock := hold(self.store.lock(device))) is not None:
                with lock:
                    self.store.recover(device)

    @property
    def _log(self) -> Path:
        return self.store.folder / "worker.log"

    def _watch(self) -> None:
        while not self._stopped.wait(LOOK_SECONDS):
            try:
                self.look()
                self.trouble = ""
            except UserError as error:  # the disk of the table is full: the next look may find room
                self.trouble = str(error)
            except (
                Exception
            ) as error:  # a fault of ours: told in full, but jobs must not wait for a thread that is gone
                self.trouble = f"{type(error).__name__}: {error}"
                traceback.print_exc()

    def _begin(self) -> subprocess.Popen:
        fresh = not self._log.exists() or self._log.stat().st_size > MAX_LOG_BYTES
        given = ["--data", str(self.store.folder), "--device", self.device, "--idle", str(self.idle)]
        given += ["--quota", str(self.store.quota)]
        with open(self._log, "wb" if fresh else "ab") as log:
            return _apart(["-m", "videodiff.worker", *given], log, {}, self.store)

    def _feel_pulse(self) -> None:
        """End a worker whose job gave no sign of life for longer than it said was usual.

        The time is counted here and not taken from the table, as clocks are set and machines sleep.
        """
        job = next((job for job in self.store.queue() if job.state == RUNNING and job.device == self.device), None)
        now = time.monotonic()
        if job is None or job.pid is None or self._seen[:2] != (job.id, job.beat):
            self._seen = (job.id, job.beat, now) if job else (None, None, now)
            return
        if job.pid in self._terminated:
            if now - self._terminated[job.pid] > GRACE_SECONDS:
                _signal(job.pid, KILL)
        elif now - self._seen[2] > (job.patience or PATIENCE):
            self._terminated[job.pid] = now
            _signal(job.pid, signal.SIGTERM)

    def _alive(self) -> int | None:
        """The process of the worker, if one holds the lock."""
        if not _held(self.store.lock(self.device)):
            return None
        found = self.store.worker(self.device)
        return None if found is None else found[0]


def run_until_empty(store: Store, device: str = "auto", told: Callable[[str], None] = lambda _: None) -> None:
    """Watch until no job waits or runs; `told` hears what becomes of each. UserError where the queue is paused.

    One process at a time does this for a folder: another finds it done for it. Left early, by an interruption, it ends
    the worker, which puts its job back.
    """
    while store.queue():
        lock = hold(store.folder / "queue-run.lock")
        if lock is None:
            told("another process runs this queue already")
            return
        with lock:
            _until_empty(store, device, told)
        if why := store.paused():
            raise UserError(f"the queue is paused: {why}; let it go on with `videodiff queue resume`")
        # Whoever adds a job and finds the lock held counts on this look after it is let go.


def _until_empty(store: Store, device: str, told: Callable[[str], None]) -> None:
    watching = Supervisor(store, device, idle=2.0)
    watching.start()
    states: dict[int, str] = {}
    try:
        while queue := store.queue():
            for id in {*states, *(job.id for job in queue)}:
                job = store.get(id)
                if states.get(id, WAITING) != job.state:
                    told(_line(job))
                states[id] = job.state
            if store.paused() and all(job.state == WAITING for job in queue):
                break
            time.sleep(LOOK_SECONDS)
        for id, state in states.items():
            job = store.get(id)
            if job.state != state:
                told(_line(job))
    except BaseException:
        watching.stop(kill=True)
        raise
    watching.stop()


def _held(path: Path) -> bool:
    lock = hold(path)
    if lock is not None:
        lock.close()
    return lock is None


def _line(job: Job) -> str:
    about = job.error or str(job.output or "")
    return f"job {job.id} {job.state}" + (f": {about}" if about else "")


def detach(store: Store) -> None:
    """Let `videodiff queue run` go on in a process of its own, on the device of the worker that lives if one does."""
    device = next((device for device in store.devices() if _held(store.lock(device))), "auto")
    with open(store.folder / "queue.log", "ab") as log:
        _apart(
            ["-m", "videodiff", "queue", "run", "--device", device], log, {"VIDEODIFF_DATA": str(store.folder)}, store
        )


def _apart(arguments: list[str], log: BinaryIO, environment: dict[str, str], store: Store) -> subprocess.Popen:
    """A Python process in a session of its own, so that neither our end nor a Ctrl+C for us ends it."""
    root = str(Path(videodiff.__file__).resolve().parents[1])
    path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
    return subprocess.Popen(
        [sys.executable, "-P", *arguments],
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
        cwd=store.folder,
        env={**os.environ, "PYTHONPATH": path, **environment},
        start_new_session=True,
    )


KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows knows one way to end a process


def _signal(pid: int, number: int) -> None:
    """Send a signal to a process that may be gone already."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return


def memory(pid: int) -> int | None:
    """Bytes of memory a process holds; None where the system does not say."""
    try:
        pages = Path(f"/proc/{pid}/statm").read_text().split()[1]
    except (FileNotFoundError, ProcessLookupError):
        return None
    return int(pages) * os.sysconf("SC_PAGE_SIZE")
