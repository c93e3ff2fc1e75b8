"""Small files, written whole or not at all; and files as locks between processes."""

import os
import shutil
import sys
from pathlib import Path
from typing import BinaryIO

from videodiff.errors import check_full, refused


def replace_file(path: Path, data: bytes) -> None:
    """Write `data` to a temporary name beside `path`, then rename: a kill leaves what was there before."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        temporary.write_bytes(data)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def link_or_copy(source: Path, target: Path) -> None:
    """The file under a second name, whose folder is made: linked where the system can, else copied."""
    target.parent.mkdir(parents=True, exist_ok=True)
    try:
        os.link(source, target)
    except OSError:  # another file system, or one without links
        try:
            shutil.copyfile(source, target)
        except OSError as error:
            target.unlink(missing_ok=True)
            check_full(error)
            raise


def move_folder(source: Path, target: Path) -> None:
    """Move a folder. UserError where the system refuses, and on one disk it is then where it was, whole."""
    try:
        one_disk = source.stat().st_dev == target.parent.stat().st_dev
        # What it may not rename, shutil.move copies, and then takes apart as far as it can.
        (os.rename if one_disk else shutil.move)(source, target)
    except OSError as error:
        raise refused(error) from error


def folder_size(*folders: Path) -> int:
    """Bytes of all files below folders, linked ones counted once; what goes away meanwhile counts nothing."""
    sizes: dict[tuple[int, int], int] = {}
    for folder in folders:
        for top, _, names in os.walk(folder):
            for name in names:
                try:
                    found = os.lstat(os.path.join(top, name))
                except FileNotFoundError:
                    continue
                sizes[found.st_dev, found.st_ino] = found.st_size
    return sum(sizes.values())


def hold(path: Path) -> BinaryIO | None:
    """The file, made if need be and locked for as long as it stays open; None if another process holds it.

    The system lets go of the lock when the process ends, however it ends.
    """
    file = open(path, "a+b")  # noqa: SIM115 - the lock lives as long as the file
    try:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        file.close()
        return None
    return file
