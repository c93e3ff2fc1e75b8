"""A SQLite file that any number of processes and threads read and change at once, each change whole or not at all."""

import sqlite3
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from videodiff.errors import OutOfResources, UserError

WAIT_SECONDS = 30
"""How long a change waits for its turn."""


class Table:
    """The file at `path`, made by the statements of `schema` if it is new; UserError if it is of another `version`."""

    def __init__(self, path: Path, schema: str, version: int) -> None:
        self._lock = threading.RLock()
        try:
            # Transactions are begun by hand, in `changing`.
            self.db = sqlite3.connect(path, timeout=WAIT_SECONDS, isolation_level=None, check_same_thread=False)
            self.db.execute("PRAGMA journal_mode = WAL")
            with self.changing() as db:
                (found,) = db.execute("PRAGMA user_version").fetchone()
                if found == 0:
                    for statement in _statements(schema):
                        db.execute(statement)
                    db.execute(f"PRAGMA user_version = {version}")
                elif found != version:
                    raise UserError(
                        f"{path} was written by another version of videodiff (table {found}, ours {version}); "
                        "use that version, or set VIDEODIFF_DATA to another folder"
                    )
        except sqlite3.Error as error:
            raise _told(error) from error

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self.db.close()

    @contextmanager
    def changing(self, durable: bool = True) -> Iterator[sqlite3.Connection]:
        """A transaction; one inside another is part of it. A disk that is full is told as such, nothing changed.

        A loss of power may take back what is not `durable`, which spares waiting for the disk; a kill never does.
        """
        with self._lock:
            if self.db.in_transaction:
                yield self.db
                return
            try:
                self.db.execute(f"PRAGMA synchronous = {'FULL' if durable else 'NORMAL'}")
                self.db.execute("BEGIN IMMEDIATE")
                try:
                    yield self.db
                    self.db.execute("COMMIT")
                except BaseException:
                    if self.db.in_transaction:  # SQLite itself takes back what a full disk interrupted
                        self.db.execute("ROLLBACK")
                    raise
            except sqlite3.Error as error:
                raise _told(error) from error

    def rows(self, query: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows that a query finds."""
        with self._lock:
            try:
                return self.db.execute(query, values).fetchall()
            except sqlite3.Error as error:
                raise _told(error) from error

    def one(self, query: str, values: Sequence[Any] = ()) -> Any:
        """The first value of the first row, or None."""
        rows = self.rows(query, values)
        return rows[0][0] if rows else None


def _statements(script: str) -> Iterator[str]:
    """The statements of a script one by one: `executescript` would end the transaction."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if statement.strip() and sqlite3.complete_statement(statement):
            yield statement
            statement = ""


def _told(error: sqlite3.Error) -> Exception:
    """The error to show for one of SQLite's."""
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF
    if code in (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR):
        return OutOfResources(f"the table of jobs cannot be written, the disk is full or failing ({error}); make room")
    if code == sqlite3.SQLITE_BUSY:
        return OutOfResources("the table of jobs is in use by another process and did not become free; try again")
    if code in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY):
        return UserError(f"the table of jobs cannot be used ({error}); set VIDEODIFF_DATA to another folder")
    return error
