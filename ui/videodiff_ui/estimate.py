"""What a run would take, said before it starts: memory from the size of a window, time from former runs."""

import statistics
from contextlib import suppress

from videodiff import shelf
from videodiff.budget import goes_backward, window_bytes
from videodiff.errors import CheckpointError, UserError
from videodiff.jobs import DONE, Job, Store
from videodiff.settings import Task
from videodiff_ui.cards import lasting, size
from videodiff_ui.html import Html, tag, word
from videodiff_ui.intake import Taken
from videodiff_ui.models import described
from videodiff_ui.player import about_of

FORMER = 5
"""Runs that a time is judged by, at most."""


def draw(settings: Task, taken: Taken | None, store: Store) -> Html:
    """A line with memory and, if there were runs of this task with this model, time."""
    try:
        about = described(shelf.find(settings.checkpoint))
    except CheckpointError:
        about = ""
    if isinstance(about, str):
        return Html("")  # the run will say what is wrong
    width, height = getattr(settings, "width", None), getattr(settings, "height", None)
    if not width and taken is not None:
        side = getattr(settings, "size", None) or about.side
        scale = side / min(taken.width, taken.height)
        width, height = round(taken.width * scale), round(taken.height * scale)
    if not width or not height:
        return Html("")
    backward = goes_backward(settings.conditioning, getattr(settings, "method", "ddrm"))
    needed = window_bytes(width, height, settings.window or about.frames, settings.average, backward)
    seconds = time(settings, taken, store)
    said = word("make.needs", memory=size(needed))
    return tag("p", said, " ", word("make.takes", time=lasting(seconds)) if seconds else None, class_="vd-hint")


def time(settings: Task, taken: Taken | None, store: Store) -> float | None:
    """Seconds a run would take by former ones of the same task and model, in proportion to frames and steps."""
    done = store.list(states=(DONE,), kinds=(settings.kind,), limit=FORMER)
    rates = []
    for job in done:
        if job.settings["checkpoint"] == settings.checkpoint and job.output is not None:
            with suppress(UserError):  # a result that was moved away says nothing
                rates.append(_seconds(job) / _work(job.settings, about_of(job.output)["frames"]["written"]))
    new = taken.frames * (getattr(settings, "factor", None) or 1) if taken else 16
    return statistics.median(rates) * _work(settings.model_dump(), new) if rates else None


def _seconds(job: Job) -> float:
    return max(0.0, (job.finished or 0) - (job.started or 0))


def _work(settings: dict, written: int) -> float:
    """What a run's time is taken to be in proportion to; `written`: frames of the result, given ones included."""
    frames = settings.get("frames") or written
    return frames * settings["steps"] * settings["average"] * (settings.get("size") or 64) ** 2
