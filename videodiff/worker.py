"""The process that does the jobs of a data folder on one device, one after another, and keeps the network between them.

    python -m videodiff.worker --data DIR --device auto

It holds a lock for its life, so there is one for each folder and device; it needs nobody: a server that started it may
die. A termination puts its job back. How it watches over a job is `Watch`, what becomes of one is `perform`.
"""

import argparse
import os
import shutil
import signal
import statistics
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from videodiff.errors import DISK_FULL, OutOfResources, UserError
from videodiff.events import Event, Metric, Note, Progress, Saved
from videodiff.files import hold, replace_file
from videodiff.jobs import CANCELLED, DONE, FAILED, WAITING, WISHED, Job, Store
from videodiff.room import QUOTA, check_disk
from videodiff.settings import Evaluate, Sampling, Settings, Task

if TYPE_CHECKING:
    from videodiff.pipeline import Model

TELL_SECONDS = 0.5
"""The table hears of a job at most this often."""
ASK_SECONDS = 0.01
"""A wish is looked for at most this often; a look takes 0.03 ms."""
DISK_SECONDS = 2.0
POLL_SECONDS = 0.1
PATIENCE = 60.0
"""Seconds without a sign of life while a clip is sampled, at least; ten steps where those take longer."""
LONG_PATIENCE = 600.0
"""The same while something is read, loaded, written or trained, whose pieces differ more."""


def main(arguments: list[str]) -> int:
    """The exit code: 0 also where another worker lives already."""
    parser = argparse.ArgumentParser(prog="videodiff.worker", description="Do the jobs of a data folder.")
    parser.add_argument("--data", type=Path, required=True, help="the data folder")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1 or mps")
    parser.add_argument("--quota", type=int, default=QUOTA, help="bytes that cache and uploads may take")
    parser.add_argument("--idle", type=float, default=600, help="seconds without a job after which it ends")
    given = parser.parse_args(arguments)
    stopping = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stopping.set())
    store = Store(given.data, given.quota)
    lock = hold(store.lock(given.device))
    for _ in range(20):  # a supervisor that looks whether a worker lives holds it for a moment
        if lock is not None or stopping.wait(POLL_SECONDS):
            break
        lock = hold(store.lock(given.device))
    if lock is None:
        print(f"another worker serves {store.folder} on {given.device}", file=sys.stderr)
        return 0
    with lock:
        serve(store, given.device, given.idle, stopping)
    return 0


def serve(store: Store, device: str, idle: float, stopping: threading.Event) -> None:
    """Do jobs until there was none for `idle` seconds, or `stopping` is set. The caller holds the worker's lock."""
    store.recover(device)
    store.sweep()
    store.introduce(device, os.getpid())
    keeper = Keeper(lambda name: store.introduce(device, os.getpid(), name))
    from videodiff import service  # noqa: F401 - its seconds of loading are not those of the first job

    free_since = time.monotonic()
    while not stopping.is_set():
        job = next_job(store, device)
        if job is not None:
            perform(store, job, device, stopping, keeper)
            free_since = time.monotonic()
        elif time.monotonic() - free_since > idle:
            return
        else:
            stopping.wait(POLL_SECONDS)


def next_job(store: Store, device: str) -> Job | None:
    """The next job, now this process's; where there is no room for its result the queue is paused and says so."""
    if store.paused() or not any(job.state == WAITING for job in store.queue()):
        return None
    try:
        store.check_room()
    except OutOfResources as error:
        store.pause(str(error))
        return None
    return store.claim(device, os.getpid())


class Keeper:
    """Opens networks, and keeps the last one as long as the next request wants the same."""

    def __init__(self, told: Callable[[str], None]) -> None:
        self._told = told
        self._key: tuple[Any, ...] | None = None
        self._model: Model | None = None
        self._threads: int | None = None
        self.digest = ""

    def __call__(self, settings: Sampling) -> "Model":
        """As `pipeline.open_model`."""
        import torch

        from videodiff import checkpoint
        from videodiff.pipeline import open_model

        self._threads = self._threads or torch.get_num_threads()
        folder = checkpoint.find(settings.checkpoint)
        files = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in sorted(folder.iterdir())]
        key = (folder, files, settings.device, settings.precision, settings.attention)
        if self._model is None or key != self._key:
            self.drop()  # first, as two may not fit
            self._model, self._key = open_model(settings), key
            self.digest = self._model.bundle.digest
            self._told(self._model.bundle.name)
        torch.set_num_threads(settings.threads or self._threads)
        return self._model

    def drop(self) -> None:
        """Let go of the network."""
        if self._model is not None:
            self._model = self._key = None
            self._told("")


class Watch:
    """What the table hears of one job, at most twice a second, and what the user wants, before every evaluation."""

    def __init__(self, store: Store, job: Job, stopping: threading.Event, patience: float = LONG_PATIENCE) -> None:
        self.store, self.job, self.stopping, self.floor = store, job, stopping, patience
        self.reason, self.digest, self.late = "", "", False
        self.notes = list(job.notes)
        self.saved = [(path, kind) for path, kind in job.saved if Path(path).exists()]  # by an attempt before this
        self._metrics: list[tuple[int, str, dict[str, float]]] = []
        self._progress = Progress(job.done, job.total, job.what)
        self._preview: bytes | None = None
        self._told = self._asked = self._evaluated = time.monotonic()
        self._disk_checked = -DISK_SECONDS
        self._steps: deque[float] = deque(maxlen=101)
        self._origin: tuple[str, float, int] = ("", 0.0, 0)  # what, when and where its progress began

    def cancelled(self) -> bool:
        """Whether to stop; `reason` then says why: "cancel", "pause", "stop" (the worker ends) or "lost"."""
        now = time.monotonic()
        self._steps.append(now - self._evaluated)
        self._evaluated = now
        self.late = self.late or now - self._told > self.patience
        if not self.reason and (now - self._asked > ASK_SECONDS or self.stopping.is_set()):
            self._asked = now
            self.reason = self.store.wish(self.job.id, os.getpid()) or ("stop" if self.stopping.is_set() else "")
        if now - self._disk_checked > DISK_SECONDS:
            self._disk_checked = now
            check_disk(self.store.folder)
        if now - self._told > TELL_SECONDS:
            self.tell()
        return bool(self.reason)

    def take(self, event: Event) -> None:
        """Keep an event for the table."""
        if isinstance(event, Progress):
            self._progress = event
            self._preview = event.preview or self._preview
            if self._origin[0] != event.what:
                self._origin = (event.what, time.monotonic(), event.done)
        elif isinstance(event, Metric):
            self._metrics.append((event.step, event.name, event.values))
        elif isinstance(event, Note) and event.text not in self.notes:
            self.notes.append(event.text)
        elif isinstance(event, Saved) and (event.path, event.kind) not in self.saved:
            self.saved.append((event.path, event.kind))
        if time.monotonic() - self._told > TELL_SECONDS:
            self.tell()

    @property
    def patience(self) -> float:
        """Seconds without a sign of life after which this process is to be taken for hung."""
        if not 0 < self._progress.done < self._progress.total:
            return LONG_PATIENCE
        return max(self.floor, 10 * statistics.median(self._steps) if self._steps else 0)

    @property
    def eta(self) -> float | None:
        """Seconds left, by the pace since progress began."""
        _, since, first = self._origin
        gone = self._progress.done - first
        return (self._progress.total - self._progress.done) * (time.monotonic() - since) / gone if gone > 0 else None

    def tell(self) -> None:
        """Tell the table all that is new."""
        self._told = time.monotonic()
        wish = self.store.beat(
            self.job.id,
            os.getpid(),
            self.patience,
            self._preview,
            self._metrics,
            self.notes,
            self.saved,
            done=self._progress.done,
            total=self._progress.total,
            what=self._progress.what,
            eta=self.eta,
            digest=self.digest,
        )
        self._preview = None
        self._metrics.clear()
        self.reason = self.reason or wish


def perform(store: Store, job: Job, device: str, stopping: threading.Event, keeper: Keeper) -> None:
    """Do one claimed job and say what became of it, whatever happens."""
    from videodiff import service
    from videodiff.compute import device_lost
    from videodiff.denoiser import Cancelled

    watch = Watch(store, job, stopping, PATIENCE if job.kind not in ("train", "evaluate", "bpd") else LONG_PATIENCE)

    def opened(settings: Sampling) -> "Model":
        model = keeper(settings)
        watch.digest = keeper.digest
        return model

    try:
        _log(job, f"attempt {job.attempts} in process {os.getpid()}")
        request = _on(job.request(), device)
        if not isinstance(request, Task):
            keeper.drop()
        if _reported(job, request):
            watch.take(Saved(str(job.settings["report"]), "report"))
        else:
            whole = False
            work = store.work_folder(job.id)
            for event in service.run(request, True, cancelled=watch.cancelled, work=work, opened=opened):
                watch.take(event)
                if _measuring(event) and watch.cancelled() and watch.reason == "stop":
                    raise Cancelled  # the state is saved; a process that is being ended is not given time to measure it
                whole = whole or (isinstance(event, Note) and "whole" in event.data)
            _log(job, "its result was whole already" if whole else "its result is whole")
        _thumbnail(job, watch)
        watch.tell()
    except Cancelled:
        _log(job, f"stopped: {watch.reason}")
        if watch.reason == "stop":
            with suppress(OutOfResources):  # what was measured so far; the next attempt goes on after it
                watch.tell()
            _surely(stopping, lambda: store.put_back(job.id, os.getpid(), counted=watch.late))
        elif watch.reason in WISHED:
            _end(store, job, watch, WISHED[watch.reason])
    except UserError as error:
        _fail(store, job, watch, str(error), error.exit_code)
    except Exception as error:
        if device_lost(error):  # another process may find it well, so this one ends, and the attempt counts
            _log(job, f"the device is lost: {error}\n{traceback.format_exc()}")
            stopping.set()
            _surely(stopping, lambda: store.put_back(job.id, os.getpid(), counted=True))
            return
        if (
            isinstance(error, OSError) and error.errno in DISK_FULL
        ):  # the log's or the thumbnail's; others are told above
            _fail(store, job, watch, "the disk is full; free some space and try again", OutOfResources.exit_code)
            return
        text = f"this is a bug of ours ({type(error).__name__}: {error}); please report it with {job.log}"
        _fail(store, job, watch, text, 1, traceback.format_exc())
    else:
        _end(store, job, watch, DONE)


def _measuring(event: Event) -> bool:
    return isinstance(event, Progress) and event.what == "measuring"


def _end(store: Store, job: Job, watch: Watch, state: str, error: str = "", exit_code: int | None = None) -> None:
    _surely(watch.stopping, watch.tell)
    _surely(watch.stopping, lambda: store.finish(job.id, os.getpid(), state, error, exit_code))
    if state in (DONE, CANCELLED):
        shutil.rmtree(store.work_folder(job.id), ignore_errors=True)


def _fail(store: Store, job: Job, watch: Watch, text: str, exit_code: int, trace: str = "") -> None:
    with suppress(OSError):  # the table has the message; a disk that is full may have no room for more
        _log(job, f"failed: {text}\n{trace}".strip())
    _end(store, job, watch, FAILED, text, exit_code)


def _surely(stopping: threading.Event, change: Callable[[], None]) -> None:
    """Make a change in the table, as soon as its disk has room for it."""
    while True:
        try:
            return change()
        except OutOfResources:
            if stopping.wait(1.0):
                raise


def _on(request: Settings, device: str) -> Settings:
    """The request on this worker's device, unless it names its own."""
    mine = device != "auto" and getattr(request, "device", "") == "auto"
    return request.model_copy(update={"device": device}) if mine else request


def _reported(job: Job, request: Settings) -> bool:
    """Whether an interrupted attempt got as far as its report, which lies in the job's own folder and appears whole."""
    if not isinstance(request, Evaluate) or request.report is None or job.attempts < 2:
        return False
    return job.folder in request.report.parents and request.report.is_file()


def _thumbnail(job: Job, watch: Watch) -> None:
    """A small picture of the clip that was made, from its middle."""
    from videodiff import video

    made = next((Path(path) for path, kind in watch.saved if kind == "clip"), None)
    if made is None:
        return
    try:
        middle = (video.probe(made, trusted=True).duration or 0) / 2
        frame = video.read(made, start=middle, num_frames=1, short_side=128, trusted=True).frames
    except UserError as error:  # what was asked for is there all the same
        watch.take(Note(f"no thumbnail: {error}"))
        return
    replace_file(job.folder / "thumbnail.jpg", video.jpeg(frame))


def _log(job: Job, text: str) -> None:
    job.folder.mkdir(parents=True, exist_ok=True)
    with open(job.log, "a", encoding="utf-8") as file:
        file.write(f"{time.strftime('%Y-%m-%d %H:%M:%S')} {text}\n")


if __name__ == "__main__":
    try:
        sys.exit(main(sys.argv[1:]))
    except UserError as error:
        print(f"videodiff.worker: {error}", file=sys.stderr)
        sys.exit(error.exit_code)
