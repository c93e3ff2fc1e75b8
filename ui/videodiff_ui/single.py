"""One server for a data folder: the first holds a lock for its life, a second finds its address."""

import json
import os
import sys
from pathlib import Path
from typing import IO, Any

from videodiff.files import replace_file


class Single:
    """The lock `server.lock` of a data folder, and `server.json`, which says where its server is.

    The system takes the lock back when a process ends, however it ends, so a lock is never stale; an old `server.json`
    is not believed unless somebody holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.note = folder / "server.json"
        folder.mkdir(parents=True, exist_ok=True)
        self._file: IO[bytes] = (folder / "server.lock").open("a+b")

    def take(self) -> bool:
        """Whether the lock is ours now."""
        if not _lock(self._file):
            return False
        self.note.unlink(missing_ok=True)
        return True

    def tell(self, url: str) -> None:
        """Say where the server is, for those who come second."""
        replace_file(self.note, json.dumps({"url": url, "pid": os.getpid()}).encode())

    def other(self) -> str | None:
        """The address of the server that holds the lock, or None while it is still starting."""
        try:
            said: dict[str, Any] = json.loads(self.note.read_text(encoding="utf-8"))
        except FileNotFoundError:
            return None
        return str(said["url"])

    def release(self) -> None:
        """Give the lock back."""
        self.note.unlink(missing_ok=True)
        self._file.close()


if sys.platform == "win32":
    import msvcrt

    def _lock(file: IO[bytes]) -> bool:
        try:
            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        except OSError:
            return False
        return True

else:
    import fcntl

    def _lock(file: IO[bytes]) -> bool:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        return True
