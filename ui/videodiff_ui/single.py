"""One server for a data folder: the first holds a lock for its life, a second finds its address."""

import json
import os
from pathlib import Path
from typing import BinaryIO

from videodiff.files import hold, replace_file
from videodiff.jobs import unusable


class Single:
    """The lock `server.lock` of a data folder, and `server.json`, which says where its server is.

    The system takes the lock back when a process ends, however it ends, so a lock is never stale; an old `server.json`
    is not believed unless somebody holds the lock.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.lock, self.note = folder, folder / "server.lock", folder / "server.json"
        self._file: BinaryIO | None = None

    def take(self) -> bool:
        """Whether the lock is ours now. UserError where the folder, which is made if need be, cannot be written."""
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._file = hold(self.lock)
            if self._file is None:
                return False
            self.note.unlink(missing_ok=True)
        except OSError as error:
            raise unusable(self.folder, error) from error
        return True

    def tell(self, url: str) -> None:
        """Say where the server is, for those who come second."""
        replace_file(self.note, json.dumps({"url": url, "pid": os.getpid()}).encode())

    def other(self) -> str | None:
        """The address of the server that holds the lock, or None while it is still starting."""
        try:
            return str(json.loads(self.note.read_text(encoding="utf-8"))["url"])
        except FileNotFoundError:
            return None

    def release(self) -> None:
        """Give the lock back."""
        assert self._file is not None
        self.note.unlink(missing_ok=True)
        self._file.close()
