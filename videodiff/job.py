"""One job: its states, its row in the table, and the table's form. Who keeps them is `jobs.Store`."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videodiff.settings import REQUESTS, Settings, validate

WAITING, RUNNING, PAUSED, DONE, FAILED, CANCELLED = "waiting", "running", "paused", "done", "failed", "cancelled"

VERSION = 1
SCHEMA = """
CREATE TABLE job (
    id INTEGER PRIMARY KEY AUTOINCREMENT, kind TEXT NOT NULL, settings TEXT NOT NULL, state TEXT NOT NULL,
    title TEXT NOT NULL, folder TEXT NOT NULL, visitor TEXT NOT NULL, position INTEGER NOT NULL, created REAL NOT NULL,
    started REAL, finished REAL, done INTEGER NOT NULL DEFAULT 0, total INTEGER NOT NULL DEFAULT 0,
    what TEXT NOT NULL DEFAULT '', eta REAL, attempts INTEGER NOT NULL DEFAULT 0, error TEXT NOT NULL DEFAULT '',
    exit_code INTEGER, notes TEXT NOT NULL DEFAULT '[]', saved TEXT NOT NULL DEFAULT '[]',
    starred INTEGER NOT NULL DEFAULT 0, trashed INTEGER NOT NULL DEFAULT 0, digest TEXT NOT NULL DEFAULT '',
    wish TEXT NOT NULL DEFAULT '', device TEXT, pid INTEGER, beat REAL, patience REAL
);
CREATE INDEX job_state ON job (state, position);
CREATE TABLE preview (job INTEGER PRIMARY KEY, jpeg BLOB NOT NULL);
CREATE TABLE metric (job INTEGER NOT NULL, step INTEGER NOT NULL, name TEXT NOT NULL, figures TEXT NOT NULL);
CREATE UNIQUE INDEX metric_once ON metric (job, step, name);
CREATE TABLE worker (device TEXT PRIMARY KEY, pid INTEGER NOT NULL, since REAL NOT NULL, model TEXT NOT NULL);
CREATE TABLE fact (name TEXT PRIMARY KEY, value NOT NULL);
INSERT INTO fact VALUES ('version', 0), ('paused', ''), ('crashes', '[]');
CREATE TRIGGER job_added AFTER INSERT ON job BEGIN UPDATE fact SET value = value + 1 WHERE name = 'version'; END;
CREATE TRIGGER job_changed AFTER UPDATE ON job BEGIN UPDATE fact SET value = value + 1 WHERE name = 'version'; END;
CREATE TRIGGER queue_paused AFTER UPDATE ON fact WHEN new.name = 'paused' BEGIN
    UPDATE fact SET value = value + 1 WHERE name = 'version';
END;
"""


@dataclass(frozen=True)
class Job:
    """One row of the table. Times are `time.time()`; `done` of `total` units of `what`; `eta` in seconds left."""

    id: int
    kind: str
    settings: dict[str, Any]
    state: str
    title: str
    created: float
    started: float | None
    finished: float | None
    done: int
    total: int
    what: str
    eta: float | None
    attempts: int
    error: str
    exit_code: int | None
    notes: tuple[str, ...]
    saved: tuple[tuple[str, str], ...]
    starred: bool
    visitor: str
    digest: str
    folder: Path
    """Of its results, its log and its thumbnail."""
    device: str | None = None
    pid: int | None = None
    beat: float | None = None
    """When its worker was last heard of."""
    patience: float | None = None
    """Seconds after `beat` from which on the worker counts as hung."""

    @property
    def output(self) -> Path | None:
        """The clip it made, once it is whole."""
        return next((Path(path) for path, kind in self.saved if kind == "clip"), None)

    @property
    def thumbnail(self) -> Path | None:
        """A small JPEG of the result, if there is one."""
        path = self.folder / "thumbnail.jpg"
        return path if path.is_file() else None

    @property
    def log(self) -> Path:
        """What happened to it, a line each, and the trace of an error of ours."""
        return self.folder / "job.log"

    def request(self) -> Settings:
        """Its settings as a request."""
        return validate(REQUESTS[self.kind], self.settings, where=self.kind)


FIELDS = "id, kind, settings, state, title, created, started, finished, done, total, what, eta, attempts, error, "
FIELDS += "exit_code, notes, saved, starred, visitor, digest, folder, device, pid, beat, patience"
"""The columns that `from_row` takes, in this order."""


def from_row(row: Sequence[Any], results: Path) -> Job:
    """The job in a row of the table; its folder lies in `results`."""
    columns = dict(zip(FIELDS.split(", "), row, strict=True))
    columns["settings"] = json.loads(columns["settings"] or "{}")
    columns["notes"] = tuple(json.loads(columns["notes"]))
    columns["saved"] = tuple((path, kind) for path, kind in json.loads(columns["saved"]))
    columns["starred"] = bool(columns["starred"])
    columns["folder"] = results / columns["folder"]
    return Job(**columns)
