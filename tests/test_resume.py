"""A run that was interrupted anywhere goes on after its last finished window, to the result of a run in one go."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from videodiff import pipeline, service, video
from videodiff.denoiser import Cancelled
from videodiff.errors import OutOfResources, UserError
from videodiff.events import Note, Progress, Saved
from videodiff.settings import TASKS, Edit, Generate, Infill, Predict, Restore, Train
from videodiff.spool import Journal, Spool

FRAMES = 20


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def make_clip(path="clip.mkv", num_frames=9):
    video.write(path, np.random.default_rng(3).integers(0, 255, (num_frames, 16, 16, 3), np.uint8), 8, overwrite=True)


def frames(path):
    return video.read(path, trusted=True).frames


class Killed(BaseException):
    """What ends a run in mid-step, unlike anything it could wait for."""


def killed_after(monkeypatch, evaluations):
    """The network dies after so many evaluations; returns the list that counts them."""
    counts, real = [], pipeline.cancellable

    def counted(denoise, cancelled):
        inner = real(denoise, cancelled)

        def evaluate(z, s):
            if len(counts) >= evaluations:
                raise Killed
            counts.append(1)
            return inner(z, s)

        return evaluate

    monkeypatch.setattr(pipeline, "cancellable", counted)
    return counts


REQUESTS = {
    "predict": lambda quick: Predict(input="clip.mkv", frames=FRAMES, output="out.mkv", **quick),
    "backward": lambda quick: Predict(
        input="clip.mkv", frames=FRAMES, direction="backward", sampler="euler_ancestral", output="out.mkv", **quick
    ),
    "infill": lambda quick: Infill(input="clip.mkv", canvas="24x24", output="out.mkv", **quick),
    "edit": lambda quick: Edit(input="clip.mkv", strength=0.5, output="out.mkv", **quick),
    "restore": lambda quick: Restore(input="clip.mkv", operator="deblur", output="out.mkv", passes=1, **quick),
    "generate": lambda quick: Generate(width=16, height=16, frames=FRAMES, output="out.mkv", **quick),
}


@pytest.mark.parametrize("name", REQUESTS)
def test_a_run_interrupted_after_each_window_ends_as_one_in_one_go(quick, name, monkeypatch):
    make_clip(num_frames=20 if name in ("infill", "edit", "restore") else 9)
    request = REQUESTS[name](quick)
    with monkeypatch.context() as patched:
        counts = killed_after(patched, 10**6)
        list(service.run(request))
    whole, evaluations = frames("out.mkv"), len(counts)
    Path("out.mkv").unlink()
    Path("out.mkv.json").unlink()

    done, total = 0, 0
    for window in range(50):  # each run dies in the window after the one it finishes
        with monkeypatch.context() as patched:
            counts = killed_after(patched, evaluations if window == 0 else 10**6)
            events = service.run(request, work=Path("work"))
            try:
                for _ in events:
                    lines = Path("work/windows.jsonl").read_text().splitlines() if Path("work").is_dir() else []
                    if len(lines) > window + 1 and not Path("out.mkv").exists():
                        raise Killed
            except Killed:
                events.close()
                assert not Path("out.mkv").exists()
            total += len(counts)
        done = window
        if Path("out.mkv").exists():
            break
    assert done >= 2, "several windows"
    np.testing.assert_array_equal(frames("out.mkv"), whole)
    assert total <= evaluations + 3 * done, "finished windows are not filled again"
    assert sorted(p.name for p in Path().iterdir()) == ["clip.mkv", "out.mkv", "out.mkv.json", "work"]


@pytest.mark.parametrize("after", range(1, 8))
def test_a_run_killed_at_any_evaluation_goes_on(quick, after, monkeypatch):
    request = REQUESTS["generate"](quick)
    list(service.run(request))
    whole = frames("out.mkv")
    for file in ("out.mkv", "out.mkv.json"):
        Path(file).unlink()
    with monkeypatch.context() as patched:
        killed_after(patched, after)
        with pytest.raises(Killed):
            list(service.run(request, work=Path("work")))
    list(service.run(request, work=Path("work")))
    np.testing.assert_array_equal(frames("out.mkv"), whole)


def test_progress_begins_where_it_was(quick):
    request = REQUESTS["generate"](quick)
    progress = []
    for event in (events := service.run(request, work=Path("work"))):
        if isinstance(event, Progress):
            progress.append(event.done)
        if len(progress) == 5:
            events.close()
    again = [e.done for e in service.run(request, work=Path("work")) if isinstance(e, Progress)]
    assert again == sorted(again)
    assert again[0] > 0
    assert len(again) < len(progress) + again[-1]


def journal_cut_at(size):
    lines = Path("work/windows.jsonl").read_bytes()
    Path("work/windows.jsonl").write_bytes(lines[:size])
    return len(lines)


def test_a_journal_cut_off_anywhere_gives_the_same_result(quick):
    """As a loss of power leaves it: the lines to some byte, the frames beyond it or up to it."""
    request = REQUESTS["generate"](quick)
    list(service.run(request, work=Path("work")))
    whole = frames("out.mkv")
    shutil.copytree("work", "kept")
    size = Path("work/windows.jsonl").stat().st_size
    for cut in np.linspace(0, size, 12).astype(int):
        for file in ("out.mkv", "out.mkv.json"):
            Path(file).unlink()
        shutil.rmtree("work")
        shutil.copytree("kept", "work")
        journal_cut_at(cut)
        list(service.run(request, work=Path("work")))
        np.testing.assert_array_equal(frames("out.mkv"), whole)


@pytest.mark.parametrize("change", ["seed", "steps", "frames", "input", "network"])
def test_what_belongs_to_another_request_is_begun_anew(quick, change, tmp_path, tiny):
    make_clip()
    values = {"input": "clip.mkv", "frames": FRAMES, "output": "out.mkv", **quick}
    list(service.run(Predict(**values), work=Path("work")))
    for file in ("out.mkv", "out.mkv.json"):
        Path(file).unlink()
    if change == "input":
        make_clip(num_frames=8)
    elif change == "network":
        shutil.copytree(tiny, "other")
        card = Path("other/config.json")
        card.write_text(card.read_text() + " ")
        values["checkpoint"] = "other"
    else:
        values[change] = {"seed": 2, "steps": 3, "frames": FRAMES + 1}[change]
    request = Predict(**values)
    notes = [e.text for e in service.run(request, work=Path("work")) if isinstance(e, Note)]
    assert any("begun anew" in note for note in notes)
    resumed = frames("out.mkv")
    list(service.run(request.model_copy(update={"output": Path("plain.mkv")})))
    np.testing.assert_array_equal(resumed, frames("plain.mkv"))


# --- between the result and whoever notes it


@pytest.mark.parametrize("left", ["all", "no sidecar", "no sheet"])
def test_a_result_that_is_whole_is_not_made_again(quick, left, monkeypatch):
    request = REQUESTS["generate"](quick).model_copy(update={"sheet": True})
    list(service.run(request, work=Path("work")))
    whole = frames("out.mkv")
    for file in {"all": [], "no sidecar": ["out.mkv.json", "out.sheet.png"], "no sheet": ["out.sheet.png"]}[left]:
        Path(file).unlink()
    counts = killed_after(monkeypatch, 0)
    *_, saved, sheet = service.run(request, work=Path("work"))
    assert (saved, sheet) == (Saved("out.mkv", "clip"), Saved("out.sheet.png", "sheet"))
    assert counts == []
    np.testing.assert_array_equal(frames("out.mkv"), whole)
    assert json.loads(Path("out.mkv.json").read_text())["settings"] == request.as_json()
    assert Path("out.sheet.png").is_file()


def test_a_file_of_another_that_is_in_the_way_is_kept(quick):
    request = REQUESTS["generate"](quick)
    list(service.run(request, work=Path("work")))
    list(service.run(request.model_copy(update={"seed": 9, "output": Path("other.mkv")})))
    Path("other.mkv").replace("out.mkv")
    with pytest.raises(UserError, match="exists"):
        list(service.run(request, work=Path("work")))


def test_a_folder_of_clips_goes_on_with_the_clip_it_was_at(quick):
    Path("in").mkdir()
    for name in ("a", "b", "c"):
        make_clip(f"in/{name}.mkv")
    request = Predict(input="in", output="out", frames=4, **quick)
    for event in (events := service.run(request, work=Path("work"))):
        if isinstance(event, Saved):
            events.close()
    first = (Path("out") / "a.predict.mp4").stat().st_mtime_ns
    saved = [e.path for e in service.run(request, work=Path("work")) if isinstance(e, Saved)]
    assert saved == [f"out/{name}.predict.mp4" for name in "abc"]
    assert (Path("out") / "a.predict.mp4").stat().st_mtime_ns == first


# --- training


def test_a_training_run_keeps_its_state_when_it_is_stopped_and_ends_as_in_one_go():
    small = {"widths": (16, 16), "spatial_attention": (1,), "head_width": 16, "embedding": 16}
    common = {"model": small, "batch": 1, "frames": 3, "sizes": ((16, 16),), "steps": 4, "device": "cpu", "warmup": 0}
    list(service.run(Train(out="whole", **common)))
    request = Train(out="parts", **common)
    steps = []
    for _ in range(10):
        asked = iter([False, True, True])
        try:
            for event in service.run(request, cancelled=lambda asked=asked: next(asked)):
                if isinstance(event, Progress) and event.what == "training":
                    steps.append(event.done)
            break
        except Cancelled:
            pass
    assert steps == [1, 2, 3, 4], "no step is taken twice"
    for name in ("weights", "ema"):
        a, b = (sorted(Path(run).glob(f"step-00000004/{name}*.safetensors")) for run in ("whole", "parts"))
        assert [x.read_bytes() for x in a] == [x.read_bytes() for x in b]


def test_a_training_run_that_had_ended_says_again_what_it_made():
    small = {"widths": (16, 16), "spatial_attention": (1,), "head_width": 16, "embedding": 16}
    values = {"model": small, "batch": 1, "frames": 3, "sizes": ((16, 16),), "steps": 1, "device": "cpu"}
    request = Train(out="run", export="exported", **values)
    list(service.run(request))
    shutil.rmtree("exported")
    saved = [event for event in service.run(request) if isinstance(event, Saved)]
    assert saved == [Saved("run/step-00000001", "state"), Saved("exported", "checkpoint")]
    assert Path("exported/model.safetensors").is_file()


# --- a full disk


def test_a_disk_that_is_full_anywhere_is_told_and_the_run_goes_on_when_there_is_room(quick, monkeypatch):
    """The system refuses to let any file grow beyond n bytes, for n up to what the largest file needs."""
    resource = pytest.importorskip("resource")
    request = REQUESTS["generate"](quick)
    list(service.run(request, work=Path("work")))
    whole = frames("out.mkv")
    needed = max(p.stat().st_size for p in (Path("out.mkv"), *Path("work").iterdir())) + 4096
    _, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    told = 0
    for limit in np.linspace(0, needed, 50).astype(int):
        for path in ("out.mkv", "out.mkv.json"):
            Path(path).unlink(missing_ok=True)
        shutil.rmtree("work")
        resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), hard))
        try:
            list(service.run(request, work=Path("work")))
        except OutOfResources:
            told += 1
            assert not Path("out.mkv").exists()
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, (hard, hard))
        assert [p.name for p in Path().iterdir() if p.name.startswith(".")] == []
        if not Path("out.mkv").exists():
            list(service.run(request, work=Path("work")))
        np.testing.assert_array_equal(frames("out.mkv"), whole)
    assert told > 20


def test_a_journal_keeps_windows_in_any_order(tmp_path):
    shape = (2, 3, 3)
    with Spool(shape) as spool:
        for place in range(6):
            spool.put(place, np.full(shape, place, np.uint8))
        with Journal(tmp_path, "key", shape) as journal:
            journal.add(3, (5, 1), spool)
            journal.add(1, (0,), spool)
    with Journal(tmp_path, "key", shape) as journal, Spool(shape) as spool:
        assert not journal.stale
        assert [n for n in range(5) if n in journal] == [1, 3]
        journal.restore(3, spool)
        journal.restore(1, spool)
        assert [place in spool for place in range(6)] == [True, True, False, False, False, True]
        assert all((spool.get(place) == place).all() for place in (0, 1, 5))
    with Journal(tmp_path, "another", shape) as journal:
        assert journal.stale
        assert len(journal) == 0


def test_every_task_is_named_here_or_walks_as_one_that_is():
    """A new task's windows go through the same loop; this fails to remind its author to think of resuming."""
    assert set(TASKS) == {
        "predict", "interpolate", "infill", "loop", "edit", "vary", "morph", "restore", "generate"
    }  # fmt: skip
