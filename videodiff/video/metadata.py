"""The settings inside a file: JSON under the key `videodiff`, read back as if a stranger had written it.

Where it lies: a custom tag of MP4, MKV and WebM (beside a readable copy in `comment`), the comment of a GIF, a text
chunk of the first PNG of a folder. `write_sidecar` puts the same beside the file.
"""

import json
import math
import os
from pathlib import Path
from typing import Any

from videodiff.errors import DISK_FULL, OutOfResources, UserError
from videodiff.video import guard
from videodiff.video.shapes import Limits, Request

KEY = "videodiff"
MAX_BYTES = 64 * 1024
MAX_DEPTH = 32


def as_text(metadata: dict[str, Any]) -> str:
    """The JSON that goes into the file, at most 64 kB."""
    text = json.dumps(metadata, allow_nan=False, sort_keys=True)
    if len(text) > MAX_BYTES:
        raise UserError(f"the settings take {len(text)} bytes; at most {MAX_BYTES} fit into a file: shorten them")
    return text


def readable(text: str) -> str:
    """The same for people, for the comment field that every player shows: `name: value` a line, at most 4 kB."""
    lines = [f"{name}: {value}" for name, value in json.loads(text).items() if value is not None]
    return "\n".join(["made by videodiff", *lines])[:4096]


def read_metadata(path: str | os.PathLike, *, limits: Limits | None = None, trusted: bool = False) -> dict[str, Any]:
    """The settings a file was made with; empty if there are none. All values are a stranger's: check them."""
    request = Request(os.fspath(path), "metadata", limits=limits or Limits())
    text = guard.answer(request, trusted).get(KEY)
    return {} if text is None else parse(text, Path(path).name)


def parse(text: str, name: str) -> dict[str, Any]:
    """The dict in the JSON text found in the file `name`; too large, too deep, NaN or double keys are refused."""
    try:
        if len(text.encode("utf-8", "replace")) > MAX_BYTES:
            raise ValueError(f"over {MAX_BYTES} bytes")
        if _depth(text) > MAX_DEPTH:
            raise ValueError(f"nested deeper than {MAX_DEPTH}")
        found = json.loads(text, object_pairs_hook=_unique, parse_constant=_finite, parse_float=_finite)
        if not isinstance(found, dict):
            raise ValueError("not an object")
    except ValueError as error:
        raise UserError(f"the settings inside {name} cannot be used ({error}); give the settings yourself") from None
    return _clean(found)


def _depth(text: str) -> int:
    """Deepest nesting of brackets, those inside strings not counted; cheap, and before any recursive parser."""
    depth = deepest = 0
    inside = escaped = False
    for letter in text:
        if inside:
            inside, escaped = escaped or letter != '"', letter == "\\" and not escaped
        elif letter == '"':
            inside = True
        elif letter in "[{":
            depth += 1
            deepest = max(deepest, depth)
        elif letter in "]}":
            depth -= 1
    return deepest


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("a key occurs twice")
    return found


def _finite(number: str) -> float:
    value = float(number)
    if not math.isfinite(value):
        raise ValueError(f"the number {number[:20]}")
    return value


def _clean(value: Any) -> Any:
    """Text that can be written anywhere: halves of characters (lone surrogates) become question marks."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace").decode()
    if isinstance(value, list):
        return [_clean(item) for item in value]
    if isinstance(value, dict):
        return {_clean(name): _clean(item) for name, item in value.items()}
    return value


def unwritable(path: Path, error: OSError) -> UserError:
    """The error to show when `path` could not be written."""
    if error.errno in DISK_FULL:
        return OutOfResources(f"the disk is full: {path.name} could not be written; free some space and try again")
    return UserError(f"{path} could not be written: {error.strerror or error}; choose another place")


def write_sidecar(path: str | os.PathLike, metadata: dict[str, Any]) -> Path:
    """Writes the settings to `<path>.json`, whole or not at all, and returns its path."""
    target = Path(f"{str(path).rstrip('/')}.json")
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp.json")
    try:
        with open(temporary, "w", encoding="utf-8") as file:
            json.dump(metadata, file, indent=2, allow_nan=False)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
    except OSError as error:
        raise unwritable(target, error) from error
    finally:
        temporary.unlink(missing_ok=True)
    return target
