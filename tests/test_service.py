"""A request becomes a file that holds what was known bit for bit, or there is no file and a reason."""

import errno
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from videodiff import pipeline, service, video
from videodiff.denoiser import Cancelled
from videodiff.errors import CheckpointError, LimitExceeded, OutOfResources, UnreadableInput, UserError
from videodiff.events import Note, Progress, Saved
from videodiff.settings import (
    TASKS,
    Demo,
    Edit,
    Evaluate,
    Generate,
    Infill,
    Interpolate,
    Loop,
    Morph,
    Predict,
    Restore,
    Train,
    Vary,
)


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_clip(path: str, num_frames: int = 9, size: tuple[int, int] = (16, 16), fps: float = 8) -> np.ndarray:
    """A lossless clip of noise and a drifting stripe; returns its frames."""
    frames = np.random.default_rng(num_frames).integers(0, 60, (num_frames, *size, 3), np.uint8)
    for i in range(num_frames):
        frames[i, :, (2 * i) % size[1]] = 240
    video.write(path, frames, fps)
    return frames


def result(path: str = "out.mkv") -> np.ndarray:
    return video.read(path, trusted=True).frames


def files() -> list[str]:
    return sorted(p.name for p in Path().rglob("*"))


# --- what is known stays, in a lossless file


@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_predict_keeps_the_context(quick, direction):
    frames = make_clip("clip.mkv")
    *_, saved = service.run(Predict(input="clip.mkv", output="out.mkv", frames=11, direction=direction, **quick))
    assert saved == Saved("out.mkv", "clip")
    made = result()
    assert len(made) == 15
    if direction == "forward":
        np.testing.assert_array_equal(made[:4], frames[-4:])
    else:
        np.testing.assert_array_equal(made[11:], frames[:4])
    assert len(np.unique(made.reshape(15, -1), axis=0)) == 15, "no frame is a copy of another"


@pytest.mark.parametrize("factor", [2, 4, 8])
def test_interpolate_keeps_the_frames_of_the_clip(quick, factor):
    frames = make_clip("clip.mkv", 5)
    list(service.run(Interpolate(input="clip.mkv", output="out.mkv", factor=factor, **quick)))
    np.testing.assert_array_equal(result()[::factor], frames)
    assert len(result()) == 4 * factor + 1
    assert video.probe("out.mkv").fps == 8 * factor


def test_interpolate_keeps_both_clips(quick):
    first, second = make_clip("a.mkv", 5), make_clip("b.mkv", 6)
    list(service.run(Interpolate(input="a.mkv", to="b.mkv", frames=5, output="out.mkv", **quick)))
    np.testing.assert_array_equal(result()[:2], first[-2:])
    np.testing.assert_array_equal(result()[-2:], second[:2])
    assert len(result()) == 9


def test_infill_keeps_the_frames_that_are_not_missing(quick):
    frames = make_clip("clip.mkv")
    list(service.run(Infill(input="clip.mkv", missing="2:5,7", output="out.mkv", **quick)))
    same = (result() == frames).reshape(9, -1).all(1)
    assert same.tolist() == [True, True, False, False, False, True, True, False, True]


@pytest.mark.parametrize("moving", [False, True])
def test_infill_leaves_all_pixels_outside_the_mask_unchanged(quick, moving):
    frames = make_clip("clip.mkv", 12)
    mask = np.zeros((12 if moving else 1, 16, 16, 3), np.uint8)
    for i in range(len(mask)):
        mask[i, i % 8 : i % 8 + 5, 3:9] = 255
    video.write("mask.mkv", mask, 8)
    list(service.run(Infill(input="clip.mkv", mask="mask.mkv", output="out.mkv", **quick)))
    hole = np.broadcast_to(mask > 0, frames.shape)
    made = result()
    np.testing.assert_array_equal(made[~hole], frames[~hole])
    assert all((made[i][hole[i]] != frames[i][hole[i]]).any() for i in range(12))


def test_outpainting_keeps_the_picture(quick):
    frames = make_clip("clip.mkv")
    list(service.run(Infill(input="clip.mkv", canvas="32x24", output="out.mkv", **quick)))
    made = result()
    assert made.shape == (9, 24, 32, 3)
    np.testing.assert_array_equal(made[:, 4:20, 8:24], frames)
    assert made[:, :4].any()


def test_a_loop_keeps_the_clip_and_adds_to_its_end(quick):
    frames = make_clip("clip.mkv", 7)
    list(service.run(Loop(input="clip.mkv", frames=5, output="out.mkv", **quick)))
    made = result()
    assert len(made) == 12
    np.testing.assert_array_equal(made[:7], frames)
    assert len(np.unique(made.reshape(12, -1), axis=0)) == 12


def test_an_edit_of_strength_0_is_the_clip_bit_for_bit(quick):
    frames = make_clip("clip.mkv", 13)
    list(service.run(Edit(input="clip.mkv", strength=0, output="out.mkv", **quick)))
    np.testing.assert_array_equal(result(), frames)
    list(service.run(Edit(input="clip.mkv", strength=0.5, output="half.mkv", **quick)))
    assert ((result("half.mkv") != frames).reshape(13, -1).mean(1) > 0.5).all()


@pytest.mark.parametrize("moving", [False, True])
def test_an_edit_leaves_what_is_black_in_the_mask_and_changes_the_rest_by_its_share(quick, moving):
    frames = make_clip("clip.mkv", 12)
    mask = np.zeros((12 if moving else 1, 16, 16, 3), np.uint8)
    for i in range(len(mask)):
        mask[i, 2:14, i % 4 : i % 4 + 5] = 255
        mask[i, 2:14, i % 4 + 5 : i % 4 + 10] = 20
    video.write("mask.mkv", mask, 8)
    list(service.run(Edit(input="clip.mkv", strength=0.9, mask="mask.mkv", output="out.mkv", **{**quick, "steps": 6})))
    change = np.abs(result().astype(int) - frames)
    white, grey, black = (np.broadcast_to(mask == level, frames.shape) for level in (255, 20, 0))
    assert not change[black].any()
    assert 0 < change[grey].mean() < change[white].mean()


def test_a_guide_takes_the_place_of_the_clip_under_the_mask(quick):
    frames, painted = make_clip("clip.mkv", 6), make_clip("painted.mkv", 9)
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, 4:12, 4:12] = 255
    video.write("mask.mkv", mask, 8)
    request = Edit(input="clip.mkv", guide="painted.mkv", mask="mask.mkv", strength=0, output="out.mkv", **quick)
    list(service.run(request))
    np.testing.assert_array_equal(result(), np.where(mask > 0, painted[:6], frames))


def test_a_variation_of_amount_0_is_the_clip_and_more_is_farther_away(quick):
    frames = make_clip("clip.mkv", 10)
    away = []
    for amount in (0.0, 0.3, 1.0):
        again = {**quick, "steps": 8, "overwrite": True}
        list(service.run(Vary(input="clip.mkv", amount=amount, output="out.mkv", **again)))
        away.append(np.abs(result().astype(int) - frames).mean())
    assert away[0] == 0
    assert away == sorted(away)


def test_a_morph_begins_as_one_clip_and_ends_as_the_other(quick):
    first, second = make_clip("a.mkv", 11), make_clip("b.mkv", 13)
    list(service.run(Morph(input="a.mkv", to="b.mkv", output="out.mkv", **{**quick, "steps": 6})))
    made = result()
    assert len(made) == 11
    np.testing.assert_array_equal(made[0], first[0])
    np.testing.assert_array_equal(made[-1], second[10])


@pytest.mark.parametrize("operator", ["denoise", "deblur", "upscale", "colorize", "inpaint", "slowmo"])
def test_restore_writes_a_clip_of_the_size_and_length_it_should(quick, operator):
    frames = make_clip("clip.mkv", 11)
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, 4:9, 4:9] = 255
    video.write("mask.mkv", mask, 8)
    more = {"inpaint": {"mask": "mask.mkv"}, "colorize": {"passes": 1}}.get(operator, {})
    events = list(service.run(Restore(input="clip.mkv", operator=operator, output="out.mkv", **more, **quick)))
    progress = [event for event in events if isinstance(event, Progress)]
    assert progress[-1].done == progress[-1].total
    made = result()
    scale = 2 if operator == "upscale" else 1
    assert made.shape == (21 if operator == "slowmo" else 11, 16 * scale, 16 * scale, 3)
    if operator == "slowmo":
        np.testing.assert_array_equal(made[::2], frames)
        assert video.probe("out.mkv").fps == 8
    if operator == "inpaint":
        np.testing.assert_array_equal(made[:, mask[0, ..., 0] == 0], frames[:, mask[0, ..., 0] == 0])
    if operator == "upscale":
        small = made.reshape(11, 16, 2, 16, 2, 3).mean((2, 4))
        inside = (made > 0) & (made < 255)  # what is cut off at black and white cannot agree
        whole = inside.reshape(11, 16, 2, 16, 2, 3).all((2, 4))
        assert np.abs(small - frames)[whole].max() < 1, "its view is the clip that was given"


def test_colours_of_a_reference_stay_and_reach_the_other_frames(quick):
    """A red square moves over grey; the first frame says that it is red."""
    frames = np.full((9, 32, 32, 3), 120, np.uint8)
    for i in range(9):
        frames[i, 8:20, 4 + i : 18 + i] = (220, 40, 40)
    video.write("clip.mkv", frames, 8)
    video.write("first", frames[:1], 8)
    request = {
        "input": "clip.mkv",
        "operator": "colorize",
        "size": 32,
        "output": "out.mkv",
        **quick,
        "checkpoint": "motion",
    }
    list(service.run(Restore(reference="first/00000.png", **request)))
    made = result().astype(int)
    np.testing.assert_array_equal(made[0], frames[0])
    inside = made[8, 10:18, 14:24].mean((0, 1))
    assert inside[0] - inside[2] > 90


def test_generate_makes_frames_of_the_size_asked_for(quick):
    list(service.run(Generate(frames=11, width=24, height=16, fps=12.5, output="out.mkv", **quick)))
    assert result().shape == (11, 16, 24, 3)
    assert float(video.probe("out.mkv").fps) == 12.5


# --- what is told


def test_events_of_a_run(quick):
    make_clip("clip.mkv", size=(30, 50))
    events = list(service.run(Predict(input="clip.mkv", frames=6, sheet=True, **quick)))
    progress = [event for event in events if isinstance(event, Progress)]
    assert [event.done for event in progress] == [1, 2, 3, 4]
    assert {event.total for event in progress} == {4}
    assert isinstance(events[0], Note)
    assert events[-2:] == [Saved("clip.predict.mp4", "clip"), Saved("clip.predict.sheet.png", "sheet")]
    assert files() == ["clip.mkv", "clip.predict.mp4", "clip.predict.mp4.json", "clip.predict.sheet.png"]


def test_all_that_makes_a_result_again_is_in_it_and_beside_it(quick):
    make_clip("clip.mkv")
    request = Predict(input="clip.mkv", frames=2, **quick)
    list(service.run(request))
    inside = video.read_metadata("clip.predict.mp4")
    assert inside == json.loads(Path("clip.predict.mp4.json").read_text())
    assert Predict(**inside["settings"]) == request
    assert len(inside["checkpoint"]["digest"]) == 16
    assert inside["frames"] == {"given": 4, "filled": 2, "written": 6}
    assert inside["precision"] == "float32"


def test_a_drawn_seed_is_recorded(quick):
    make_clip("clip.mkv")
    del quick["seed"]
    list(service.run(Predict(input="clip.mkv", frames=2, **quick)))
    seed = video.read_metadata("clip.predict.mp4")["settings"]["seed"]
    assert isinstance(seed, int)
    list(service.run(Predict(input="clip.mkv", frames=2, seed=seed, output="again.mp4", **quick)))
    np.testing.assert_array_equal(result("again.mp4"), result("clip.predict.mp4"))


@pytest.mark.parametrize(
    "request_of",
    [
        lambda quick: Predict(input="clip.mkv", frames=5, sheet=True, **quick),
        lambda quick: Interpolate(input="clip.mkv", **quick),
        lambda quick: Infill(input="clip.mkv", missing="2", **quick),
        lambda quick: Generate(**quick),
        lambda quick: Loop(input="clip.mkv", **quick),
        lambda quick: Edit(input="clip.mkv", **quick),
        lambda quick: Vary(input="clip.mkv", **quick),
        lambda quick: Morph(input="clip.mkv", to="clip.mkv", **quick),
        lambda quick: Restore(input="clip.mkv", operator="upscale", **quick),
        lambda quick: Demo(**quick),
        lambda quick: Train(out="run", steps=3),
        lambda quick: Evaluate(data=(".",), **quick),
    ],
)
def test_a_dry_run_says_what_would_be_done_and_writes_nothing(quick, request_of):
    make_clip("clip.mkv", 20)
    *_, note = service.run(request_of(quick), dry=True)
    assert isinstance(note, Note)
    assert note.text.startswith("would ")
    assert note.data
    assert files() == ["clip.mkv"]


def test_a_dry_run_counts_frames_windows_and_evaluations(quick):
    make_clip("clip.mkv")
    *_, note = service.run(Predict(input="clip.mkv", frames=10, average=3, output="out.mp4", **quick), dry=True)
    told = {name: note.data[name] for name in ("output", "frames", "new_frames", "width", "height", "windows")}
    assert told == {"output": "out.mp4", "frames": 14, "new_frames": 10, "width": 16, "height": 16, "windows": 3}
    assert note.data["evaluations"] == 3 * 2 * 3
    assert note.data["seconds"] >= 0


# --- the demo


def test_the_demo_shows_truth_and_result_side_by_side(quick):
    """Also with a network of other sizes and windows than the shipped ones."""
    events = list(service.run(Demo(**quick)))
    assert {e.path for e in events if isinstance(e, Saved)} == {"demo.context.mkv", "demo.mp4", "demo.png"}
    assert len(result("demo.context.mkv")) == 8
    assert result("demo.mp4").shape[1:] == (64, 64, 3)
    with pytest.raises(UserError, match="--overwrite"):
        list(service.run(Demo(**quick)))
    list(service.run(Demo(overwrite=True, **quick)))


def test_a_demo_that_fails_or_is_stopped_leaves_nothing(quick):
    with pytest.raises(CheckpointError):
        list(service.run(Demo(checkpoint="nowhere")))
    running = service.run(Demo(**quick))
    next(running)
    running.close()
    assert files() == []


# --- folders


def test_a_folder_of_clips_does_each_and_notes_the_bad_ones(quick):
    Path("in").mkdir()
    for name in ("a.mkv", "c.mkv"):
        make_clip(f"in/{name}")
    Path("in/b.mp4").write_bytes(b"this is no video")
    Path("in/notes.txt").write_text("nor this")
    events = list(service.run(Predict(input="in", frames=2, output="out", **quick)))
    assert [Path(e.path).name for e in events if isinstance(e, Saved)] == ["a.predict.mp4", "c.predict.mp4"]
    assert sum("skipped" in e.text and "b.mp4" in e.text for e in events if isinstance(e, Note)) == 1
    assert sorted(p.name for p in Path("out").iterdir() if p.suffix == ".mp4") == ["a.predict.mp4", "c.predict.mp4"]


def test_a_clip_that_cannot_be_done_does_not_keep_the_others_from_it(quick):
    """One is too short for what is asked, one was done before."""
    Path("in").mkdir()
    for name, length in (("a.mkv", 9), ("b.mkv", 3), ("c.mkv", 9)):
        make_clip(f"in/{name}", length)
    list(service.run(Infill(input="in/a.mkv", missing="5", output="a.infill.mp4", **quick)))
    events = list(service.run(Infill(input="in", missing="5", **quick)))
    assert [e.path for e in events if isinstance(e, Saved)] == ["c.infill.mp4"]
    skipped = [e.text for e in events if isinstance(e, Note) and "skipped" in e.text]
    assert len(skipped) == 2
    assert "exists" in skipped[0]
    assert "frames 0 to 2" in skipped[1]


def test_clips_of_one_name_get_results_of_two_names(quick):
    Path("in").mkdir()
    make_clip("in/a.mkv", 4)
    make_clip("in/a.webm", 5)
    list(service.run(Predict(input="in", frames=2, **quick)))
    assert len(list(Path().glob("*.mp4"))) == 2


def test_a_folder_without_a_usable_clip_is_unreadable(quick):
    Path("in").mkdir()
    for name in ("a.mp4", "b.mkv"):
        Path("in", name).write_bytes(b"no video")
    with pytest.raises(UnreadableInput, match="none of the 2 clips"):
        list(service.run(Predict(input="in", **quick)))
    assert files() == ["a.mp4", "b.mkv", "in"]


def test_a_folder_of_pictures_is_one_clip(quick):
    frames = make_clip("pictures", 6)
    list(service.run(Predict(input="pictures", frames=2, output="out.mkv", **quick)))
    np.testing.assert_array_equal(result()[:4], frames[2:])
    assert len(result()) == 6


@pytest.mark.parametrize("output", ["out.mp4", "taken"])
def test_several_clips_need_a_folder_for_their_results(quick, output):
    Path("in").mkdir()
    make_clip("in/a.mkv")
    Path("taken").write_text("a file")
    with pytest.raises(UserError, match=output):
        list(service.run(Predict(input="in", output=output, **quick)))
    assert Path("taken").read_text() == "a file"


# --- refused before the work


class Worked(Exception):
    pass


@pytest.fixture
def no_work(monkeypatch):
    """Filling raises: what is to be refused must be so before."""

    def fill(*_, **__):
        raise Worked
        yield

    monkeypatch.setattr(service, "fill", fill)


@pytest.mark.parametrize("output", ["nowhere/out.mp4", "out.avi", "out.mp4", "out.json", "full"])
def test_an_output_that_cannot_be_is_refused_before_the_work(quick, no_work, output):
    make_clip("clip.mkv")
    Path("out.mp4").write_text("mine")
    Path("full").mkdir()
    Path("full", "mine.txt").write_text("mine")
    before = files()
    with pytest.raises(UserError):
        list(service.run(Predict(input="clip.mkv", output=output, **quick)))
    assert files() == before


@pytest.mark.parametrize("beside", ["out.mp4.json", "out.sheet.png"])
def test_neither_are_files_beside_it_replaced(quick, no_work, beside):
    make_clip("clip.mkv")
    Path(beside).write_text("mine")
    with pytest.raises(UserError, match="--overwrite"):
        list(service.run(Predict(input="clip.mkv", output="out.mp4", sheet=True, **quick)))
    assert Path(beside).read_text() == "mine"


def test_a_dry_run_refuses_what_a_run_would(quick):
    make_clip("clip.mkv")
    with pytest.raises(UserError, match="cannot write"):
        list(service.run(Predict(input="clip.mkv", output="out.avi", **quick), dry=True))


def test_an_existing_result_is_replaced_if_allowed(quick):
    make_clip("clip.mkv")
    for seed in (1, 2):
        again = {**quick, "seed": seed, "overwrite": True}
        list(service.run(Predict(input="clip.mkv", frames=2, output="out.mkv", **again)))
    assert video.read_metadata("out.mkv")["settings"]["seed"] == 2
    assert json.loads(Path("out.mkv.json").read_text())["settings"]["seed"] == 2


def test_a_clip_is_never_replaced_by_its_own_continuation(quick):
    make_clip("clip.mkv")
    before = Path("clip.mkv").read_bytes()
    with pytest.raises(UserError, match="would be lost"):
        list(service.run(Predict(input="clip.mkv", output="clip.mkv", overwrite=True, frames=2, **quick)))
    assert Path("clip.mkv").read_bytes() == before


def test_a_name_near_the_longest_possible_still_gives_a_result(quick):
    name = "n" * 245 + ".mkv"
    make_clip("clip.mkv")
    os.rename("clip.mkv", name)
    *_, saved = service.run(Predict(input=name, frames=2, **quick))
    assert Path(saved.path).is_file()
    assert saved.path.endswith(".predict.mp4")


# --- things run out


def test_memory_that_runs_out_is_told(quick, monkeypatch):
    make_clip("clip.mkv")
    for error in (
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:121] DefaultCPUAllocator: can't allocate memory: you tried to"),
    ):

        def fill(*_, error=error, **__):
            raise error
            yield

        monkeypatch.setattr(service, "fill", fill)
        with pytest.raises(OutOfResources, match="lower --size, --window or --average"):
            list(service.run(Predict(input="clip.mkv", **quick)))
    assert files() == ["clip.mkv"]


def test_memory_that_really_runs_out_is_told(quick, monkeypatch):
    make_clip("clip.mkv")

    def guess(*_):
        return torch.empty(2**50)

    monkeypatch.setattr(pipeline, "guess", guess)
    with pytest.raises(OutOfResources, match="memory ran out"):
        list(service.run(Predict(input="clip.mkv", **quick)))
    assert files() == ["clip.mkv"]


@pytest.mark.parametrize("where", ["spool", "writer", "sheet", "sidecar"])
def test_a_full_disk_is_told_wherever_it_is_met(quick, monkeypatch, where):
    make_clip("clip.mkv")
    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def fail(*_, **__):
        raise full

    if where == "spool":
        monkeypatch.setattr("videodiff.spool.np.ascontiguousarray", fail)
    elif where == "writer":
        monkeypatch.setattr("videodiff.video.formats.os.fsync", fail)
    elif where == "sheet":
        monkeypatch.setattr(service.Path, "write_bytes", fail)
    else:
        monkeypatch.setattr("videodiff.video.metadata.json.dump", fail)
    with pytest.raises(OutOfResources, match="disk is full"):
        list(service.run(Predict(input="clip.mkv", frames=2, sheet=True, **quick)))
    complete = {"clip.mkv", "clip.predict.mp4", "clip.predict.mp4.json"}
    assert set(files()) <= (complete if where in ("sheet", "sidecar") else {"clip.mkv"})


def test_too_large_a_request_is_over_a_limit(quick):
    make_clip("clip.mkv")
    with pytest.raises(LimitExceeded, match="lower --size, --window or --average"):
        list(service.run(Predict(input="clip.mkv", size=1024, window=256, **quick)))


# --- stopping


@pytest.mark.parametrize("events", [1, 2, 3, 5])
def test_closing_leaves_nothing_behind(quick, events):
    make_clip("clip.mkv", size=(30, 50))
    running = service.run(Predict(input="clip.mkv", frames=30, **quick))
    for _ in range(events):
        next(running)
    running.close()
    assert files() == ["clip.mkv"]


ASKED = {
    "predict": {"frames": 9},
    "interpolate": {},
    "infill": {"missing": "2:5"},
    "loop": {},
    "edit": {},
    "vary": {},
    "morph": {"to": "clip.mkv"},
    "restore": {"operator": "deblur"},
    "generate": {},
}


def flag(after: int):
    """Says yes when asked for the time after so many: the user has pressed stop."""
    times = itertools.count()
    return lambda: next(times) >= after


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("after", [0, 1, 4])
def test_a_cancelled_task_leaves_nothing(quick, task, after):
    if task != "generate":
        make_clip("clip.mkv", 12)
    before = files()
    more = {**ASKED[task], **({} if task == "generate" else {"input": "clip.mkv"}), **quick, "steps": 6}
    with pytest.raises(Cancelled):
        list(service.run(TASKS[task](**more), cancelled=flag(after)))
    assert files() == before


@pytest.mark.parametrize(
    "request_of",
    [
        lambda quick: Edit(input="in", output="out", **quick),
        lambda quick: Demo(**quick),
        lambda quick: Evaluate(data=("in",), report="report.json", **quick),
        lambda quick: Train(out="run", steps=3, batch=1, device="cpu"),
    ],
)
def test_all_that_takes_long_can_be_cancelled(quick, request_of):
    Path("in").mkdir()
    make_clip("in/a.mkv", 16)
    with pytest.raises(Cancelled):
        list(service.run(request_of(quick), cancelled=flag(2)))
    assert [name for name in files() if name.endswith((".mp4", "report.json", ".png", ".tmp"))] == []


# --- bounded memory


MEMORY = """
import json, sys
from pathlib import Path
from videodiff import service
from videodiff.settings import Predict

settings = Predict(**json.loads(sys.argv[1]))
model = service.open_model(settings)
service.open_model = lambda _: model

def kilobytes(name):
    return int(next(line for line in open("/proc/self/status") if line.startswith(name)).split()[1])

Path("/proc/self/clear_refs").write_text("5")  # the peak counts from here
loaded = kilobytes("VmRSS")
for event in service.run(settings):
    pass
print(kilobytes("VmHWM") - loaded)
"""


def rise(quick, num_frames: int) -> float:
    """Megabytes above the loaded model at the peak of predicting so many frames."""
    request = {**quick, "input": "clip.mkv", "frames": num_frames, "output": f"{num_frames}.mp4", "threads": 1}
    request["size"] = 64  # 2,000 such frames are 98 MB in float32: keeping them would show
    answer = subprocess.run(
        [sys.executable, "-c", MEMORY, json.dumps(request)],
        env={**os.environ, "PYTHONPATH": str(Path(service.__file__).parents[1])},
        capture_output=True,
        text=True,
        check=True,
    )
    assert len(result(f"{num_frames}.mp4")) == num_frames + 4
    return int(answer.stdout) / 1024


def bounded(quick, num_frames: int) -> None:
    make_clip("clip.mkv")
    short, long = rise(quick, 64), rise(quick, num_frames)
    print(f"rise of memory: {short:.1f} MB for 64 frames, {long:.1f} MB for {num_frames}")
    assert long < 1.1 * short + 5  # 5 MB: what allocators keep differs from run to run


@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_the_clip(quick):
    bounded(quick, 400)


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="reads the peak of memory from /proc")
def test_memory_does_not_grow_with_a_clip_of_2000_frames(quick):
    bounded(quick, 2000)
