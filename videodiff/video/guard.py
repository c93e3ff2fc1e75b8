"""The parent's side of the decoder: sends requests to a child process and checks what comes back.

A child serves many requests, one at a time; when it dies, hangs or is left in the middle of an answer, it is killed and
the next request starts a new one. One idle child is kept, because starting one costs a third of a second.
"""

import atexit
import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

import videodiff
from videodiff import errors
from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video.shapes import Frame, Limits, Request, from_plain, to_plain

MAX_LINE = 64 * 2**20
MAX_SERVED = 500
"""Requests after which a child is replaced, so that no leak of a library adds up."""


class Worker:
    """One child process and the pipe to it; `deadline` (monotonic seconds) is watched by a thread that kills it."""

    def __init__(self) -> None:
        root = str(Path(videodiff.__file__).resolve().parents[1])
        path = os.pathsep.join([root, *filter(None, [os.environ.get("PYTHONPATH")])])
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-m", "videodiff.video.child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env={**os.environ, "PYTHONPATH": path},
        )
        self.owner, self.served, self.late = os.getpid(), 0, False
        self.deadline: float | None = None
        assert self.process.stdout
        if self.process.stdout.readline() != b'{"ready": true}\n':  # an installation that is broken, not a file
            raise RuntimeError(f"the decoder process does not start; try: {sys.executable} -m videodiff.video.child")
        threading.Thread(target=self._watch, daemon=True).start()

    def _watch(self) -> None:
        while self.process.poll() is None:
            time.sleep(0.1)
            deadline = self.deadline
            if deadline is not None and time.monotonic() > deadline:
                self.late = True
                self.process.kill()

    def ask(self, request: Request) -> Iterator[Any]:
        """What `child.perform` yields for the request; only the time spent waiting for the child counts."""
        name, limits = Path(request.path).name, request.limits
        left = limits.max_wall_seconds
        self.served += 1
        try:
            self._send(request)
            while True:
                began = time.monotonic()
                self.deadline = began + left
                item = self._receive(limits)
                self.deadline = None
                left -= time.monotonic() - began
                if item is None:
                    return
                yield item
        except (EOFError, BrokenPipeError, json.JSONDecodeError, KeyError, TypeError, ValueError):
            self.kill()
            if self.late:
                raise LimitExceeded(
                    f"{name} takes longer to decode than the limit max_wall_seconds, {limits.max_wall_seconds:g} s; "
                    "choose less with --start and --end"
                ) from None
            raise UnreadableInput(f"{name} cannot be read: it makes the decoder fail; re-encode it") from None

    def _send(self, request: Request) -> None:
        assert self.process.stdin
        self.process.stdin.write(json.dumps(to_plain(request)).encode() + b"\n")
        self.process.stdin.flush()

    def _receive(self, limits: Limits) -> Any:
        """The next item, or None at the end; raises the child's typed error. Nothing the child says is trusted."""
        assert self.process.stdout
        line = self.process.stdout.readline(MAX_LINE)
        if not line.endswith(b"\n"):
            raise EOFError
        header = json.loads(line)
        if "frame" in header:
            h, w, c = header["frame"]
            if not (0 < h <= limits.max_side and 0 < w <= limits.max_side and c == 3):
                raise ValueError(header["frame"])
            pixels = np.empty((h, w, c), np.uint8)
            if (
                self.process.stdout.readinto(  # type: ignore[attr-defined]
                    pixels.reshape(-1).data
                )
                != pixels.size
            ):
                raise EOFError
            return Frame(pixels, float(header["time"]))
        if "error" in header:
            kind = getattr(errors, header["error"], UserError)
            raise (kind if issubclass(kind, UserError) else UserError)(header["text"])
        if "bug" in header:
            raise RuntimeError(f"the decoder process failed:\n{header['bug']}")
        if "done" in header:
            return None
        return header["note"] if "note" in header else header["tags"] if "tags" in header else from_plain(header)

    def kill(self) -> None:
        """Ends the child, if it is ours."""
        if self.owner == os.getpid():
            self.process.kill()
            self.process.wait()
            for pipe in (self.process.stdin, self.process.stdout):
                if pipe:
                    pipe.close()


_idle: list[Worker] = []  # at most one; a cache of a process, not a state that changes any result
_lock = threading.Lock()


@contextmanager
def _worker() -> Iterator[Worker]:
    with _lock:
        worker = _idle.pop() if _idle else None
    if worker is None or worker.owner != os.getpid() or worker.process.poll() is not None:
        worker = Worker()
    try:
        yield worker
    except BaseException:  # in the middle of an answer: what is still in the pipe belongs to nobody
        worker.kill()
        raise
    with _lock:
        if not _idle and worker.served < MAX_SERVED:
            _idle.append(worker)
            return
    worker.kill()


def close() -> None:
    """Ends the idle child, if there is one."""
    with _lock:
        while _idle:
            _idle.pop().kill()


atexit.register(close)


def perform(request: Request, trusted: bool = False) -> Iterator[Any]:
    """What the decoder yields for the request, from a child process, or from this one, without limits of memory and of
    time on the clock, if the file is `trusted`."""
    request = replace(request, path=str(checked(request.path)))
    if trusted:
        from videodiff.video import child

        yield from child.perform(request)
        return
    with _worker() as worker:
        error = None
        try:
            yield from worker.ask(request)
        except UserError as raised:  # a complete answer, after which the child can go on
            error = raised
    if error:
        raise error


def answer(request: Request, trusted: bool = False) -> Any:
    """The only item of a request that has just one answer."""
    (item,) = perform(request, trusted)
    return item


def checked(path: str | os.PathLike) -> Path:
    """The resolved path of an existing file or folder; anything that is not one is refused, with what to do."""
    name = os.fspath(path)
    given = repr(name if len(name) < 200 else name[:200] + "...")
    if name in ("-", "") or "\0" in name:
        raise UnreadableInput(f"{given} is not a file; give the path of a file or of a folder of pictures")
    if not os.path.exists(name):
        if name.split(":")[0].replace("+", "").isalnum() and len(name.split(":")[0]) > 1 and ":" in name:
            raise UnreadableInput(f"{given} is not a file on this machine; addresses and protocols are not opened")
        raise UnreadableInput(f"{given} does not exist; check the path")
    found = Path(name).resolve()
    if not found.is_dir() and not found.is_file():
        raise UnreadableInput(f"{given} is not an ordinary file; give the path of a file or of a folder of pictures")
    if not os.access(found, os.R_OK):
        raise UnreadableInput(f"{given} may not be read by you; change its permissions")
    if found.is_file() and found.stat().st_size == 0:
        raise UnreadableInput(f"{given} is empty; give a file with pictures in it")
    return found
