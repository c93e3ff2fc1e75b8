"""Room on the disk: how much of it stays free, how much a data folder may keep for convenience, and what goes first."""

import os
import shutil
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path

from videodiff.errors import OutOfResources
from videodiff.files import folder_size

LOW_WATER = 2 * 10**9
"""Bytes that stay free on the disk of a data folder: a system without any does strange things."""
QUOTA = 20 * 10**9
"""Bytes that what is kept for convenience (cache and uploads) may take."""
YOUNG_SECONDS = 3600.0
"""What is younger may be in use by a page and stays."""
WINDOW = "window"
"""The folder of the cache that is a browser's profile: the browser keeps it small itself."""


def check_disk(folder: Path, wanted: int = 0) -> None:
    """OutOfResources where the disk of a folder is nearly full, or would be with `wanted` bytes more."""
    free = shutil.disk_usage(folder).free
    if free - wanted < LOW_WATER:
        raise OutOfResources(
            f"{free / 1e9:.1f} GB are free where {folder} lies, and {LOW_WATER / 1e9:.0f} GB are to stay "
            "free; make room, then go on"
        )


def make_room(
    quota: int, cache: Path, uploads: Path, unread: Callable[[float], Iterable[Path]], wanted: int = 0
) -> None:
    """Bring cache and uploads so far under `quota` that `wanted` bytes more fit; OutOfResources where they cannot be.

    Uploads that nothing reads go first, as `unread(t)` names them (made before the time t), then the oldest of the
    cache.
    """
    if folder_size(cache, uploads) + wanted <= quota:
        return
    before = time.time() - YOUNG_SECONDS
    for path in unread(before):
        remove(path)
    excess = folder_size(cache, uploads) + wanted - quota
    for age, size, path in sorted(_files(cache)):
        if excess <= 0 or age >= before:
            break
        remove(path)
        excess -= size
    kept = folder_size(cache, uploads)
    if kept + wanted > quota:
        raise OutOfResources(
            f"{cache} and {uploads} hold {kept / 1e9:.1f} GB, the limit is {quota / 1e9:.1f} GB; "
            "delete what is no longer needed there, or allow more with --quota"
        )


def remove(path: Path) -> None:
    """A file or a folder with all in it, if it is still there."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _files(cache: Path) -> Iterable[tuple[float, int, Path]]:
    """(time of the last change, bytes, path) of every file that may go."""
    for top, folders, names in os.walk(cache):
        if Path(top) == cache and WINDOW in folders:
            folders.remove(WINDOW)
        for name in names:
            path = Path(top) / name
            with suppress(FileNotFoundError):  # gone meanwhile
                about = path.lstat()
                yield about.st_mtime, about.st_size, path
