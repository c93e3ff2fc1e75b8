"""What a run would take is said before it: memory by its window, time by former runs."""

import json
import os
from fractions import Fraction
from pathlib import Path

import pytest

pytest.importorskip("gradio")

from videodiff.budget import window_bytes
from videodiff.jobs import DONE, Store
from videodiff.settings import Edit, Task
from videodiff_ui import estimate
from videodiff_ui.cards import size
from videodiff_ui.intake import Taken


def taken(path: Path, frames: int) -> Taken:
    """A clip of so many frames of 128x96."""
    return Taken(path, frames, frames, Fraction(10), 128, 96, even=True, thumbnails=(), times=())


def done(store: Store, request: Task, written: int) -> float:
    """Pretend that a job was done whose result has so many frames; the seconds it took."""
    job = store.add(request)
    store.claim("auto", os.getpid())
    output = Path(job.settings["output"])
    output.with_name(f"{output.name}.json").write_text(json.dumps({"settings": {}, "frames": {"written": written}}))
    store.beat(job.id, os.getpid(), 1.0, saved=[(str(output), "clip")])
    store.finish(job.id, os.getpid(), DONE)
    ended = store.get(job.id)
    assert ended.finished
    assert ended.started
    return ended.finished - ended.started


def test_time_is_in_proportion_to_frames_and_steps(tmp_path: Path) -> None:
    """By the median of former runs of the same task and network; none where there were none."""
    store, clip = Store(tmp_path / "data"), tmp_path / "clip.mp4"
    asked = Edit(input=clip, steps=8)
    assert estimate.time(asked, taken(clip, 30), store) is None
    took = done(store, Edit(input=clip, steps=2), written=10)
    assert estimate.time(asked, taken(clip, 30), store) == pytest.approx(took * 3 * 4)
    assert estimate.time(asked.model_copy(update={"checkpoint": "digits"}), taken(clip, 30), store) is None


def test_memory_is_that_of_a_window_at_the_size_worked_on(tmp_path: Path) -> None:
    """The short side is the network's, 64, unless another is asked for."""
    store, clip = Store(tmp_path / "data"), tmp_path / "clip.mp4"
    for side, (width, height) in ((None, (85, 64)), (48, (64, 48))):
        said = estimate.draw(Edit(input=clip, size=side), taken(clip, 30), store)
        assert size(window_bytes(width, height, 16)) in said
