"""What a long operation tells the world: small, plain, picklable values, no tensors.

Sampling, training, evaluation and reading are generators of these. Want a progress bar? Iterate. Want to stop? Close
the generator. The command prints them, the app draws them, tests collect them.
"""

from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Progress:
    """`done` of `total` units of `what`; `preview` is an encoded JPEG of the frames so far, or None."""

    done: int
    total: int
    what: str
    preview: bytes | None = None


@dataclass(frozen=True)
class Metric:
    """Named figures at a step (training) or for a case (evaluation)."""

    step: int
    values: dict[str, float]
    name: str = ""


@dataclass(frozen=True)
class Saved:
    """A file or folder that is now complete at `path`."""

    path: str
    kind: str


@dataclass(frozen=True)
class Note:
    """Something the user should know: a choice not honoured, a damaged input, a figure worth keeping."""

    text: str
    data: dict[str, Any] = field(default_factory=dict)


Event = Progress | Metric | Saved | Note


def as_json(event: Event) -> dict[str, Any]:
    """The event as a plain dict with its kind, previews left out: one line of `--json` output."""
    values = {name: value for name, value in asdict(event).items() if not isinstance(value, bytes)}
    return {"event": type(event).__name__.lower(), **values}
