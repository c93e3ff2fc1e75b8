"""The decoder at work: one request in, facts, frames and notes out. Runs in a child process, or here for trusted files.

As a program (`python -m videodiff.video.child`) it serves requests from standard input until that closes. Each request
is a line of JSON; each answer is a line of JSON, followed by the bytes of the frame if it is one. It gives itself an
address-space limit where the system has one, so that a hostile file ends in MemoryError here and not in the parent.
"""

import json
import os
import signal
import sys
import traceback
from collections.abc import Iterator
from typing import Any

from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video import decode, pictures
from videodiff.video.shapes import ClipInfo, Frame, Request, Table, from_plain, to_plain

HEADROOM = 3 * 2**29
"""Bytes of address space a decoder may take beyond what it has after its imports: 1.5 GiB."""
MAX_TEXT = 2**20
"""Characters of one metadata value that are passed on; more than any value we would use."""


def perform(request: Request) -> Iterator[ClipInfo | Frame | Table | str | dict[str, str]]:
    """Does one request. Whatever a damaged file makes the libraries raise becomes a UserError that names the file."""
    name = os.path.basename(request.path)
    try:
        reader: Any = pictures if pictures.is_pictures(request.path) else decode
        if request.what == "frames":
            yield from reader.frames(request)
        elif request.what == "probe":
            yield reader.probe(request.path, request.limits)
        elif request.what == "table":
            yield reader.table(request.path, request.limits)
        else:
            tags = reader.metadata(request.path, request.limits)
            yield {str(k)[:100]: str(v)[:MAX_TEXT] for k, v in list(tags.items())[:100] if isinstance(v, str)}
    except UserError:
        raise
    except MemoryError:
        raise LimitExceeded(f"{name} needs more memory than a decoder may use; scale it down first") from None
    except (*decode.DAMAGE, *pictures.DAMAGE) as error:
        reason = str(error) or type(error).__name__
        raise UnreadableInput(f"{name} cannot be read: {reason.splitlines()[0][:200]}") from None


def serve(inward: Any, outward: Any) -> None:
    """Answers requests until `inward` closes."""

    def answer(header: dict[str, Any], payload: Any = b"") -> None:
        outward.write(json.dumps(header).encode() + b"\n")
        outward.write(payload)
        outward.flush()

    answer({"ready": True})
    for line in inward:
        try:
            for item in perform(from_plain(json.loads(line))):
                if isinstance(item, Frame):
                    answer({"frame": item.pixels.shape, "time": item.time}, item.pixels.data)
                elif isinstance(item, str):
                    answer({"note": item})
                elif isinstance(item, dict):
                    answer({"tags": item})
                else:
                    answer(to_plain(item))
            answer({"done": True})
        except UserError as error:
            answer({"error": type(error).__name__, "text": str(error)})
        except (NameError, ImportError):  # no file can cause these: the code is wrong, or the installation
            answer({"bug": traceback.format_exc()})


def limit_memory(extra: int) -> None:
    """Lets this process take at most `extra` bytes of address space more than now, where the system can say so."""
    try:
        import resource

        with open("/proc/self/statm") as file:
            now = int(file.read().split()[0]) * os.sysconf("SC_PAGE_SIZE")
        resource.setrlimit(resource.RLIMIT_AS, (now + extra, now + extra))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    except (ImportError, OSError, ValueError):
        return  # Windows and macOS: the limits on sizes and counts remain


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the parent, which ends this process if it wants to
    decode.av.logging.set_level(None)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # whatever a library prints must not end up between the frames
    limit_memory(HEADROOM)
    serve(sys.stdin.buffer, answers)
