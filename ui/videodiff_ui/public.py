"""A public server, as a Space is: what visitors may ask for, and who does their jobs.

Visitors are strangers to each other and to the machine. What they may ask for is held here, below the pages and the
endpoints, so that no way in goes around it.
"""

import os
import re
import threading
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from videodiff import shelf, video
from videodiff.errors import LimitExceeded, UserError
from videodiff.files import hold
from videodiff.jobs import RUNNING, WAITING, Job, Store
from videodiff.room import remove
from videodiff.settings import Infill, Predict, Reading, Settings, Task
from videodiff.supervisor import Supervisor

MOST_WAITING = 16
"""Jobs of all visitors."""
MOST_OWN = 3
"""Jobs of one visitor that wait or run."""
MOST_STEPS = 32
MOST_FRAMES = 64
MOST_SIDE = 256
MOST_READ = 256
"""Frames of an input, those between them included where there are to be some."""
KEPT_SECONDS = 24 * 3600.0
"""How long a job and its files stay."""
RETRY_SECONDS = 10.0
"""After a call that failed."""
RESUME_SECONDS = 300.0
"""After which a queue that crashes or a full disk have paused tries again: nobody is there to say so."""


class PublicStore(Store):
    """A store that takes from visitors only what they may ask for."""

    _paused_since: tuple[str, float] = ("", 0.0)  # why, and when that was first seen (monotonic)

    def add_all(self, requests: Sequence[Settings], visitor: str = "", suffix: str = ".mp4") -> list[Job]:
        """As `Store.add_all`. UserError for what only the owner of a machine may ask, LimitExceeded over a limit."""
        self.forget(time.time() - KEPT_SECONDS)
        own = [job.folder for job in self.list(visitor=visitor, limit=1000)] if visitor else []
        for settings in requests:
            check(settings, (self.cache, self.uploads, *own))
        with self._table.changing():  # so that nobody adds between the count and the deed
            queue, new = self.queue(), len(requests)
            if len(queue) + new > MOST_WAITING:
                raise LimitExceeded(f"{len(queue)} jobs wait already; try again in a while, or run videodiff yourself")
            if (going := sum(job.visitor == visitor for job in queue)) + new > MOST_OWN:
                raise LimitExceeded(
                    f"{new} more would be {going + new} jobs of yours that wait or run, and at most {MOST_OWN} may; "
                    "ask for fewer variants, wait for one, or cancel one"
                )
            return super().add_all(requests, visitor, suffix)

    def relent(self) -> None:
        """Let a queue go on that was paused a while ago. What ended its worker twice has failed, so it is not tried."""
        why = self.paused()
        if why != self._paused_since[0]:
            self._paused_since = (why, time.monotonic())
        elif why and time.monotonic() - self._paused_since[1] > RESUME_SECONDS:
            self.resume()

    def forget(self, before: float) -> None:
        """Remove the jobs made before a time and all their files, and the uploads no job waits for any more."""
        for job in self.list(limit=100_000):
            if job.created < before and job.state not in (WAITING, RUNNING):
                self.trash_job(job.id)
        shown = [path for path in (self.cache / "gradio").glob("*") if path.lstat().st_mtime < before]
        for path in (*self.unread(before), *self.trash.iterdir(), *shown):  # another thread may be at the same
            remove(path)


def check(settings: Settings, folders: tuple[Path, ...]) -> None:
    """Raise unless a visitor may ask for this: a task, on files in these folders, of a modest size."""
    from videodiff_ui.form import MACHINE  # late, as it brings Gradio, which the server first tells its folder

    if not isinstance(settings, Task):
        raise UserError("a shared machine only makes clips; to train and measure, run videodiff on your own")
    if settings.output is not None:
        raise UserError("on a shared machine the place of a result cannot be chosen; leave output out")
    if settings.checkpoint not in shelf.names():
        raise UserError(f"on a shared machine the checkpoints are {', '.join(shelf.names())}")
    for name in MACHINE:
        given = getattr(settings, name)
        if given != type(settings).model_fields[name].default:
            raise UserError(f"on a shared machine {name} cannot be chosen (given {given!r}); leave it out")
    for path in settings.reads:
        if not any(path.resolve().is_relative_to(folder.resolve()) for folder in folders):
            raise UserError("on a shared machine only clips that were put in can be read; upload the clip")
        if path.is_dir():
            raise UserError("on a shared machine one clip is done at a time; upload a clip, not a folder")
    limits = {"steps": MOST_STEPS, "frames": MOST_FRAMES, "average": 4, "repaint_times": 10}
    limits |= dict.fromkeys(("size", "width", "height"), MOST_SIDE)
    for name, most in limits.items():
        given = getattr(settings, name, None)
        if isinstance(given, int) and given > most:
            raise LimitExceeded(f"{name} is {given}, and at most {most} here; for more, run videodiff yourself")
    canvas = (settings.canvas or "") if isinstance(settings, Infill) else ""
    if any(int(side) > MOST_SIDE for side in re.findall(r"\d{1,9}", canvas)):
        raise LimitExceeded(
            f"canvas is {canvas}, and at most {MOST_SIDE}x{MOST_SIDE} here; for more, run videodiff yourself"
        )
    for path in settings.reads:
        if path.is_file() and too_long(path, settings):
            raise LimitExceeded(
                f"{path.name} gives more than {MOST_READ} frames, the limit here; use a part of it (start, end), "
                "or run videodiff yourself"
            )


def too_long(path: Path, settings: Task) -> bool:
    """Whether a clip, as it will be read, has more than MOST_READ frames with those that are to come between them.

    They are counted, as headers may say anything.
    """
    choice: dict[str, Any] = {}
    if path == settings.source and isinstance(settings, Predict):
        return False  # of however long a clip only the frames next to the new ones are used
    if path == settings.source and isinstance(settings, Reading):
        choice = {name: getattr(settings, name) for name in ("start", "end", "fps", "stride")}
    most = MOST_READ // (getattr(settings, "factor", None) or 1)
    frames = video.stream(path, size=(16, 16), num_frames=most + 1, **choice)
    return sum(isinstance(item, video.Frame) for item in frames) > most


class Caretaker(Supervisor):
    """A supervisor of a public server, whose queue nobody else lets go on."""

    store: PublicStore

    def look(self) -> None:
        """As `Supervisor.look`."""
        self.store.relent()
        super().look()


class Here:
    """Does the jobs in this process, one after another, where a GPU is lent to single calls (ZeroGPU).

    Takes the place of a `Supervisor`. `call(folder, quota)` does one job of a data folder with a lent GPU.
    """

    def __init__(self, store: PublicStore, call: Callable[[str, int], None]) -> None:
        self.store, self.call = store, call
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._work, name="jobs", daemon=True)

    def start(self) -> None:
        """Begin to do jobs, in a thread."""
        self._thread.start()

    def stop(self, kill: bool = False) -> None:
        """Do no further job; the one that is being done ends with the process."""
        self._stopped.set()

    def worker_state(self) -> dict[str, Any]:
        """As `Supervisor.worker_state`."""
        return {"pid": os.getpid(), "device": "auto", "memory": None, "model": "", "since": None}

    def _work(self) -> None:
        while not self._stopped.wait(0.25):
            try:
                self.store.relent()
                if not self.store.paused() and any(job.state == WAITING for job in self.store.queue()):
                    self.call(str(self.store.folder), self.store.quota)
            except Exception:  # the lender's, such as that a quota is used up, or ours: jobs need this thread
                traceback.print_exc()
                self._stopped.wait(RETRY_SECONDS)
            with suppress(UserError):  # a full disk, which the next round meets again
                # The call has returned or was cut off at its time, so nothing runs any more.
                if any(job.state == RUNNING for job in self.store.queue()):
                    self.store.recover("auto")


def do_one(folder: str, quota: int) -> None:
    """Do the first waiting job of a data folder. Opens the table itself, as it may run in a process of its own."""
    from videodiff import worker

    with closing(Store(Path(folder), quota)) as store:
        lock = hold(store.lock("auto"))
        if lock is None:
            return
        with lock:
            job = worker.next_job(store, "auto")
            if job is not None:
                worker.perform(store, job, "auto", threading.Event(), worker.Keeper(lambda name: None))
