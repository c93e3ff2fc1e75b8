"""The queue of jobs: one SQLite table in the data folder, which any number of processes may read and write at once.

    store = Store(data_folder())
    job = store.add(Predict(input="clip.mp4"))      # the command and the app; settings and output are now fixed
    store.get(job.id).state; store.cancel(job.id)   # watching and steering, from anywhere
    store.claim("auto", os.getpid())                # the worker alone: `worker.py`

A job is running in the table exactly while a worker works on it or has died over it; `recover`, called by who holds the
worker's lock, tells the two apart. Every change is one transaction, so a kill at any moment leaves a whole table.
No torch is imported here.
"""

import json
import os
import shutil
import time
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from videodiff import room
from videodiff.errors import UserError
from videodiff.files import move_folder
from videodiff.job import (
    CANCELLED,
    DONE,
    FAILED,
    FIELDS,
    PAUSED,
    RUNNING,
    SCHEMA,
    VERSION,
    WAITING,
    Job,
    from_row,
)
from videodiff.settings import REQUESTS, Demo, Evaluate, Settings, Task, Train, validate
from videodiff.table import Table
from videodiff.video import clips_in

__all__ = ["CANCELLED", "DONE", "FAILED", "PAUSED", "RUNNING", "WAITING", "Job", "Store", "data_folder"]

MOST_ATTEMPTS = 2
"""A job that ended its worker this often is not tried again by itself."""
CRASH_SECONDS = 600.0
"""Two crashes within this time pause the queue, whichever jobs they befell."""
WISHED = {"cancel": CANCELLED, "pause": PAUSED}
"""What a job is that was stopped by a wish."""
MOST_NOTES = 200
"""Of notes and of saved files, the last so many are kept."""

Jobs = list[Job]
Paths = list[Path]
Devices = list[str]
Figures = list[tuple[int, str, dict[str, float]]]


def data_folder() -> Path:
    """$VIDEODIFF_DATA, or the system's place for a user's data."""
    if given := os.environ.get("VIDEODIFF_DATA"):
        return Path(given).expanduser().absolute()
    from platformdirs import user_data_path

    return user_data_path("videodiff")


def unusable(folder: Path, error: OSError) -> UserError:
    """The error to show where a data folder cannot be made, or cannot be written."""
    return UserError(f"the data folder {folder} cannot be used: {error.strerror}; set VIDEODIFF_DATA to another")


class Store:
    """A data folder with its table of jobs. One instance may be used from several threads.

    quota: bytes that cache and uploads may take.
    """

    def __init__(self, folder: Path, quota: int = room.QUOTA) -> None:
        self.folder, self.quota = folder.absolute(), quota
        self.results, self.work, self.uploads = (self.folder / name for name in ("results", "work", "uploads"))
        self.cache, self.trash = self.folder / "cache", self.folder / "trash"
        self.checkpoints, self.runs = self.folder / "checkpoints", self.folder / "runs"
        try:
            for made in (self.results, self.work, self.uploads, self.cache, self.trash, self.checkpoints, self.runs):
                made.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise unusable(self.folder, error) from error
        self._table = Table(self.folder / "jobs.sqlite", SCHEMA, VERSION)

    def close(self) -> None:
        """Let go of the table."""
        self._table.close()

    # -----------------------------------------------------------------------------------------------------------------
    # Asking for work

    def add(self, settings: Settings, visitor: str = "", suffix: str = ".mp4") -> Job:
        """Put a request at the end of the queue; see `add_all`."""
        return self.add_all([settings], visitor, suffix)[0]

    def add_all(self, requests: Sequence[Settings], visitor: str = "", suffix: str = ".mp4") -> Jobs:
        """Put requests at the end of the queue, all or none. Paths are made absolute and what was left open is chosen.

        A clip goes to `results/<date>-<id>-<kind>/<input stem>.<kind><suffix>` (without a suffix: to the folder
        `<input stem>-<kind>` there; a folder of clips: to `clips` there), a report into the same folder, a training run
        to `runs/`, unless the settings say where.
        """
        with self._table.changing():
            return [self.get(self._add(settings, visitor, suffix)) for settings in requests]

    def _add(self, settings: Settings, visitor: str, suffix: str) -> int:
        if isinstance(settings, Demo):
            raise UserError("a demo writes into the working directory and cannot be queued; run `videodiff demo`")
        values = _absolute(settings.model_dump(), settings)
        source = settings.source if isinstance(settings, Task) else None
        title = source.name if source is not None else settings.out.name if isinstance(settings, Train) else ""
        with self._table.changing() as db:
            (position,) = db.execute("SELECT coalesce(max(position), 0) + 1 FROM job").fetchone()
            (id,) = db.execute(
                "INSERT INTO job (kind, settings, state, title, folder, visitor, position, created) "
                "VALUES (?, '', ?, ?, '', ?, ?, ?) RETURNING id",
                (values["kind"], WAITING, title or values["kind"], visitor, position, time.time()),
            ).fetchone()
            name = f"{time.strftime('%Y-%m-%d')}-{id}-{values['kind']}"
            folder = self.results / name
            if isinstance(settings, Task) and settings.output is None:
                stem = f"seed{settings.seed}" if source is None else source.absolute().stem
                short = os.fsencode(stem)[:180].decode(errors="ignore")
                name_of = f"{short}.{settings.kind}"
                name_of = f"{name_of}{suffix}" if suffix else name_of.replace(".", "-")  # a folder's has no ending
                several = source is not None and clips_in(source) is not None
                values["output"] = folder / ("clips" if several else name_of)
            elif isinstance(settings, Evaluate) and settings.report is None:
                values["report"] = folder / "report.json"
            elif isinstance(settings, Train) and "out" not in settings.model_fields_set:
                values["out"] = self.runs / name
            request = validate(type(settings), values)
            folder.mkdir(parents=True, exist_ok=True)
            db.execute(
                "UPDATE job SET settings = ?, folder = ? WHERE id = ?", (json.dumps(request.as_json()), name, id)
            )
        return int(id)

    def again(self, id: int, **changes: Any) -> Job:
        """The same request with other settings, such as seed=7; where its result goes is chosen anew."""
        job = self.get(id)
        kind = REQUESTS[job.kind]
        chosen = {"output", "report", "overwrite"} | ({"out"} if kind is Train else set())
        values = {name: value for name, value in job.settings.items() if name not in chosen}
        suffix = Path(job.settings.get("output") or "clip.mp4").suffix
        return self.add(validate(kind, {**values, **changes}, where=job.kind), job.visitor, suffix)

    # -----------------------------------------------------------------------------------------------------------------
    # Looking

    def get(self, id: int) -> Job:
        """The job with this number; UserError if there is none."""
        found = self._jobs(f"SELECT {FIELDS} FROM job WHERE id = ?", (id,))
        if not found:
            raise UserError(f"there is no job {id}; see `videodiff queue`")
        return found[0]

    def list(
        self,
        states: Collection[str] = (),
        text: str = "",
        starred: bool = False,
        kinds: Collection[str] = (),
        visitor: str | None = None,
        limit: int = 100,
        offset: int = 0,
        trashed: bool = False,
    ) -> Jobs:
        """Jobs, newest first, those in the trash or the others; `text` is looked for in titles and settings."""
        where, values = ["trashed" if trashed else "NOT trashed"], list[Any]()
        for column, choice in (("state", states), ("kind", kinds)):
            if choice:
                where.append(f"{column} IN ({', '.join('?' * len(choice))})")
                values += choice
        for word in text.split():
            where.append("instr(lower(title || ' ' || settings), lower(?))")
            values.append(word)
        if starred:
            where.append("starred")
        if visitor is not None:
            where.append("visitor = ?")
            values.append(visitor)
        query = f"SELECT {FIELDS} FROM job WHERE {' AND '.join(where)} ORDER BY id DESC LIMIT ? OFFSET ?"
        return self._jobs(query, (*values, limit, offset))

    def queue(self) -> Jobs:
        """The running jobs, then the waiting ones in the order in which they will run."""
        query = f"SELECT {FIELDS} FROM job WHERE state IN (?, ?) ORDER BY state = ? DESC, position, id"
        return self._jobs(query, (RUNNING, WAITING, RUNNING))

    def preview(self, id: int) -> bytes | None:
        """The last preview of a job, a JPEG strip of frames."""
        return self._table.one("SELECT jpeg FROM preview WHERE job = ?", (id,))

    def metrics(self, id: int, after: int = -1) -> Figures:
        """(step, name, figures) of a job's metrics beyond the step `after`, in the order they came."""
        rows = self._table.rows(
            "SELECT step, name, figures FROM metric WHERE job = ? AND step > ? ORDER BY rowid", (id, after)
        )
        return [(step, name, json.loads(figures)) for step, name, figures in rows]

    def version(self) -> int:
        """A number that grows with every change of any job or of the queue."""
        return int(self._table.one("SELECT value FROM fact WHERE name = 'version'"))

    # -----------------------------------------------------------------------------------------------------------------
    # Steering

    def cancel(self, id: int) -> None:
        """Stop a job, whatever it is doing; what is not complete goes."""
        with self._table.changing() as db:
            job = self.get(id)
            if job.state == RUNNING:
                db.execute("UPDATE job SET wish = 'cancel' WHERE id = ?", (id,))
            elif job.state in (WAITING, PAUSED, FAILED):
                self._settle(id, CANCELLED, job.error, job.exit_code)
        if job.state != RUNNING:
            shutil.rmtree(self.work_folder(id), ignore_errors=True)

    def pause_job(self, id: int) -> None:
        """Stop a job and keep what is finished of it: windows, or the state of a training run."""
        with self._table.changing() as db:
            job = self.get(id)
            if job.state == RUNNING:
                db.execute("UPDATE job SET wish = 'pause' WHERE id = ? AND wish = ''", (id,))
            elif job.state == WAITING:
                db.execute("UPDATE job SET state = ? WHERE id = ?", (PAUSED, id))
            elif job.state != PAUSED:
                raise UserError(f"job {id} is {job.state} and cannot be paused")

    def resume_job(self, id: int) -> None:
        """Let a paused or failed job wait for its turn again; it goes on after what was finished."""
        with self._table.changing() as db:
            job = self.get(id)
            if job.state in (PAUSED, FAILED):
                db.execute(
                    "UPDATE job SET state = ?, attempts = 0, error = '', exit_code = NULL, finished = NULL "
                    "WHERE id = ?",
                    (WAITING, id),
                )
            elif job.state == RUNNING:  # asked to pause a moment ago
                db.execute("UPDATE job SET wish = '' WHERE id = ? AND wish = 'pause'", (id,))
            elif job.state != WAITING:
                raise UserError(f"job {id} is {job.state}; make it again instead")

    def move(self, id: int, before: int | None) -> None:
        """Let a waiting job run before another waiting one, or after all (None)."""
        with self._table.changing() as db:
            order = [job.id for job in self.queue() if job.state == WAITING]
            if id not in order or before not in (*order, None):
                raise UserError(f"job {id if id not in order else before} is not waiting; only waiting jobs are moved")
            if id == before:
                return
            order.remove(id)
            order.insert(len(order) if before is None else order.index(before), id)
            db.executemany("UPDATE job SET position = ? WHERE id = ?", [(i, one) for i, one in enumerate(order, 1)])

    def star(self, id: int, on: bool) -> None:
        """Mark a job as a favourite, or not."""
        with self._table.changing() as db:
            self.get(id)
            db.execute("UPDATE job SET starred = ? WHERE id = ?", (int(on), id))

    def trash_job(self, id: int) -> None:
        """Move a job's folder to the trash and the job out of the lists; what it wrote elsewhere stays where it is.

        A job whose folder cannot be moved stays in the lists; if it waited, it is cancelled all the same.
        """
        with self._table.changing() as db:
            job = self.get(id)
            if job.state == RUNNING:
                raise UserError(f"job {id} is running; cancel it first")
            if job.state in (WAITING, PAUSED):
                self._settle(id, CANCELLED)
            db.execute("UPDATE job SET trashed = 1 WHERE id = ?", (id,))
        # After the table has taken it: where it does not, the job is in the lists and its folder beside it.
        if job.folder.is_dir():
            try:
                move_folder(job.folder, self.trash / job.folder.name)
            except UserError:
                with self._table.changing() as db:
                    db.execute("UPDATE job SET trashed = 0 WHERE id = ?", (id,))
                raise
        shutil.rmtree(self.work_folder(id), ignore_errors=True)

    def untrash_job(self, id: int) -> None:
        """Take a job and its folder out of the trash again, both or neither."""
        with self._table.changing() as db:
            job = self.get(id)
            db.execute("UPDATE job SET trashed = 0 WHERE id = ?", (id,))
            # Within the change: a job is in the lists only with its folder beside it.
            if not job.folder.exists() and (self.trash / job.folder.name).is_dir():
                move_folder(self.trash / job.folder.name, job.folder)

    def paused(self) -> str:
        """Why the whole queue is paused; empty if it is not."""
        return str(self._table.one("SELECT value FROM fact WHERE name = 'paused'"))

    def pause(self, why: str) -> None:
        """Begin no other job; the running one goes on."""
        with self._table.changing() as db:
            db.execute("UPDATE fact SET value = ? WHERE name = 'paused'", (why or "paused",))

    def resume(self) -> None:
        """Let the queue go on."""
        with self._table.changing() as db:
            db.execute("UPDATE fact SET value = '' WHERE name = 'paused'")
            db.execute("UPDATE fact SET value = '[]' WHERE name = 'crashes'")

    def check_room(self, wanted: int = 0) -> None:
        """OutOfResources where the disk is nearly full, or `wanted` bytes more would bring what is kept over its quota.

        Before that the oldest of what is kept for convenience goes; results never do.
        """
        room.check_disk(self.folder, wanted)
        room.make_room(self.quota, self.cache, self.uploads, self.unread, wanted)

    def unread(self, before: float) -> Paths:
        """The uploads made before a time that no job outside the trash was asked with."""
        old = [path for path in self.uploads.iterdir() if path.lstat().st_mtime < before]
        asked = [settings for (settings,) in self._table.rows("SELECT settings FROM job WHERE NOT trashed")]
        return [path for path in old if not any(json.dumps(str(path))[1:-1] in settings for settings in asked)]

    # -----------------------------------------------------------------------------------------------------------------
    # The worker's side. What it does to a job has an effect only while the job is its own.

    def claim(self, device: str, pid: int) -> Job | None:
        """Take the first waiting job, unless the queue is paused: one statement, so no two workers take the same."""
        with self._table.changing() as db:
            row = db.execute(
                "UPDATE job SET state = ?, started = coalesce(started, ?), attempts = attempts + 1, wish = '', "
                "eta = NULL, error = '', exit_code = NULL, device = ?, pid = ?, beat = ?, patience = NULL WHERE id = ("
                "SELECT id FROM job WHERE state = ? AND (SELECT value FROM fact WHERE name = 'paused') = '' "
                "ORDER BY position, id LIMIT 1) RETURNING id",
                (RUNNING, time.time(), device, pid, time.time(), WAITING),
            ).fetchone()
        return None if row is None else self.get(row[0])

    def beat(
        self,
        id: int,
        pid: int,
        patience: float,
        preview: bytes | None = None,
        metrics: Sequence[tuple[int, str, Mapping[str, float]]] = (),
        notes: Sequence[str] = (),
        saved: Sequence[tuple[str, str]] = (),
        **columns: Any,
    ) -> str:
        """Say that a job is alive and how far it is; the answer is the user's wish, see `wish`.

        `columns`: done, total, what, eta, digest. `notes` and `saved` are all so far, `metrics` the new ones.
        """
        values = {
            **columns,
            "notes": json.dumps(list(notes)[-MOST_NOTES:]),
            "saved": json.dumps(list(saved)[-MOST_NOTES:]),
            "beat": time.time(),
            "patience": patience,
        }
        with self._table.changing(durable=False) as db:
            row = db.execute(
                f"UPDATE job SET {', '.join(f'{name} = ?' for name in values)} "
                "WHERE id = ? AND state = ? AND pid = ? RETURNING wish",
                (*values.values(), id, RUNNING, pid),
            ).fetchone()
            if row is None:
                return "lost"
            if preview is not None:
                db.execute("INSERT OR REPLACE INTO preview VALUES (?, ?)", (id, preview))
            db.executemany(
                "INSERT OR REPLACE INTO metric VALUES (?, ?, ?, ?)",
                [(id, step, name, json.dumps(dict(figures))) for step, name, figures in metrics],
            )
        return row[0]

    def wish(self, id: int, pid: int) -> str:
        """What the user wants of a running job: "", "cancel" or "pause"; "lost" if it is not this worker's."""
        found = self._table.one("SELECT wish FROM job WHERE id = ? AND state = ? AND pid = ?", (id, RUNNING, pid))
        return "lost" if found is None else found

    def finish(self, id: int, pid: int, state: str, error: str = "", exit_code: int | None = None) -> None:
        """End a running job as done, failed, cancelled or paused."""
        with self._table.changing():
            wish = self.wish(id, pid)
            if wish != "lost":  # a job may be cancelled while it is being paused
                self._settle(id, CANCELLED if (state, wish) == (PAUSED, "cancel") else state, error, exit_code)

    def put_back(self, id: int, pid: int, counted: bool = False) -> None:
        """Let a running job wait again, as its worker ends; `counted`: the attempt counts, as it did not end well."""
        with self._table.changing() as db:
            wish = self.wish(id, pid)
            if wish == "lost":
                return
            if counted:
                self._interrupt(self.get(id))
            else:
                db.execute("UPDATE job SET attempts = attempts - 1 WHERE id = ?", (id,))
                self._settle(id, WISHED.get(wish, WAITING))

    def recover(self, device: str) -> Jobs:
        """Put the jobs of a dead worker back, or give up on them; returns them. Only for who holds the worker's lock.

        A job that ended its worker twice has failed. That, or two crashes within ten minutes, pauses the queue.
        """
        with self._table.changing() as db:
            query = f"SELECT {FIELDS} FROM job WHERE state = ? AND device = ?"
            left = self._jobs(query, (RUNNING, device))
            for job in left:
                self._interrupt(job)
            db.execute("DELETE FROM worker WHERE device = ?", (device,))
        return [self.get(job.id) for job in left]

    def crashed(self, what: str) -> None:
        """Note that a worker died; the second time within ten minutes pauses the queue."""
        with self._table.changing() as db:
            now = time.time()
            crashes = json.loads(self._table.one("SELECT value FROM fact WHERE name = 'crashes'"))
            crashes = [*(then for then in crashes if 0 <= now - then < CRASH_SECONDS), now]
            db.execute("UPDATE fact SET value = ? WHERE name = 'crashes'", (json.dumps(crashes),))
            if len(crashes) >= 2 and not self.paused():
                self.pause(f"the worker died twice within {CRASH_SECONDS / 60:.0f} minutes, the last time {what}")

    def introduce(self, device: str, pid: int, model: str = "") -> None:
        """Say which worker serves a device, and which checkpoint it holds."""
        with self._table.changing(durable=False) as db:
            db.execute(
                "INSERT INTO worker VALUES (?, ?, ?, ?) ON CONFLICT (device) DO UPDATE SET model = excluded.model, "
                "since = CASE WHEN pid = excluded.pid THEN since ELSE excluded.since END, pid = excluded.pid",
                (device, pid, time.time(), model),
            )

    def worker(self, device: str) -> tuple[int, float, str] | None:
        """(process, since when, checkpoint it holds) of the worker last seen on a device."""
        rows = self._table.rows("SELECT pid, since, model FROM worker WHERE device = ?", (device,))
        return rows[0] if rows else None

    def devices(self) -> Devices:
        """The devices that have, or had, a worker."""
        return [device for (device,) in self._table.rows("SELECT device FROM worker")]

    def lock(self, device: str) -> Path:
        """The file that the worker of a device holds locked (`files.hold`) for its life."""
        return self.folder / f"worker-{device.replace(':', '-')}.lock"

    def sweep(self) -> None:
        """Remove the work of jobs that will not go on, left by a kill between an end and its tidying."""
        for folder in self.work.iterdir():
            if not folder.name.isdigit() or self._table.one(
                "SELECT state FROM job WHERE id = ?", (int(folder.name),)
            ) in (
                None,
                DONE,
                CANCELLED,
            ):
                shutil.rmtree(folder, ignore_errors=True)

    def work_folder(self, id: int) -> Path:
        """Where a job keeps what it can go on from."""
        return self.work / str(id)

    # -----------------------------------------------------------------------------------------------------------------

    def _interrupt(self, job: Job) -> None:
        """What becomes of a running job whose worker is no more."""
        wish = self._table.one("SELECT wish FROM job WHERE id = ?", (job.id,))
        self.crashed(f"while it ran job {job.id} ({job.title})")
        if wish in WISHED:
            self._settle(job.id, WISHED[wish])
        elif job.attempts < MOST_ATTEMPTS:
            self._settle(job.id, WAITING, "interrupted: its worker died; it goes on after what was finished")
        else:
            why = f"job {job.id} ({job.title}) ended its worker {job.attempts} times"
            self._settle(job.id, FAILED, f"{why}, perhaps for lack of memory; lower --size, --window or --average", 1)
            self.pause(f"{why}; look at it, then let the queue go on")

    def _settle(self, id: int, state: str, error: str = "", exit_code: int | None = None) -> None:
        """Give a job that is not, or no longer, worked on its state. Its preview and its work go where it has ended."""
        ended = state in (DONE, FAILED, CANCELLED)
        with self._table.changing() as db:
            db.execute(
                "UPDATE job SET state = ?, error = ?, exit_code = ?, finished = ?, eta = NULL, wish = '', pid = NULL, "
                "beat = NULL WHERE id = ?",
                (state, error, exit_code, time.time() if ended else None, id),
            )
            if ended:
                db.execute("DELETE FROM preview WHERE job = ?", (id,))

    def _jobs(self, query: str, values: Sequence[Any] = ()) -> Jobs:
        return [from_row(row, self.results) for row in self._table.rows(query, values)]


def _absolute(values: dict[str, Any], settings: Settings) -> dict[str, Any]:
    """The values with absolute paths, as the worker lives in another folder; also of a checkpoint's folder."""

    def made(value: Any) -> Any:
        if isinstance(value, Path):
            return value.expanduser().absolute()
        if isinstance(value, dict):
            return {name: made(item) for name, item in value.items()}
        if isinstance(value, list | tuple):
            return type(value)(made(item) for item in value)
        return value

    values = made(values)
    checkpoint = values.get("checkpoint")
    if checkpoint is not None and (os.sep in checkpoint or Path(checkpoint).expanduser().is_dir()):
        values["checkpoint"] = str(Path(checkpoint).expanduser().absolute())
    return values
