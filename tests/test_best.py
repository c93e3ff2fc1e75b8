"""A run measures its states always on the same, keeps the best of them, and its folder stands for that one."""

import json
import math
import random
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from test_checkpoint import calls_of, needs_fork
from test_train import Make, clips, last, make, measured, notes, parts, run, same, tensors

from videodiff import checkpoint, shelf, train
from videodiff.datasets.mixture import Mixture
from videodiff.datasets.packed import Packed
from videodiff.denoiser import Cancelled
from videodiff.events import Event, Metric, Note, Progress, Saved

__all__ = ["clips", "make"]  # fixtures

CPU = torch.device("cpu")


@pytest.fixture
def inject(monkeypatch: pytest.MonkeyPatch) -> Callable[[dict[int, float]], None]:
    """`inject({step: loss})`: what is said to have been measured of the state of a step."""

    def inject(figures: dict[int, float]) -> None:
        told = iter(figures.values())

        def measure(*args: Any) -> Iterator[Progress]:
            yield Progress(1, 1, "measuring")
            return next(told)  # type: ignore[return-value]

        monkeypatch.setattr(train, "measure", measure)

    return inject


def wall(folder: Path, lengths: list[int], order: list[int] | None = None) -> Path:
    """Packed clips of one colour each: clip k is grey 10 + k, so a batch tells where it is from."""
    order = order or list(range(len(lengths)))
    folder.mkdir()
    frames = [np.full((lengths[k], 8, 8, 1), 10 + k, np.uint8) for k in order]
    (folder / "frames.u8").write_bytes(b"".join(x.tobytes() for x in frames))
    offset, index = 0, []
    for k, x in zip(order, frames, strict=True):
        shape = {"t": lengths[k], "h": 8, "w": 8, "c": 1, "fps": 10.0, "stride": 1}
        index.append({"file": f"{k:02d}.mp4", "offset": offset, **shape})
        offset += x.size
    (folder / "index.json").write_text(json.dumps({"clips": index}))
    return folder


def shown(source: Packed, t: int, draws: int) -> set[int]:
    """The clips of a `wall` that are in many batches."""
    generator = torch.Generator().manual_seed(0)
    frames = [source.batch(generator, 16, t, (8, 8))[0] for _ in range(draws)]
    return {round((float(x) + 1) * 127.5) - 10 for x in torch.cat(frames).unique()}


# ---------------------------------------------------------------------------------------------------------------------
# What is measured


def test_a_state_measured_again_gives_the_figure_it_has(make: Make) -> None:
    settings = make(steps=3)
    figures = measured(run(settings))
    net, optimizer, ema = parts(settings)
    train.load_state(last(settings), net, optimizer, ema)
    denoiser = train.centred.CentredDenoiser(net, train.Spread())
    source = Mixture([(1.0, train.build_source(settings.data[0], 1))])

    def again() -> float:
        steps = train.measure(denoiser, ema, source, settings, CPU, torch.float32)
        while True:
            try:
                next(steps)
                torch.rand(3)  # whatever else happens meanwhile
            except StopIteration as end:
                return end.value

    assert again() == again() == figures[3] == (shelf.measured(last(settings)) or ())[0]
    before = {name: p.clone() for name, p in net.named_parameters()}
    assert figures[3] > 0
    assert all(torch.equal(before[name], p) for name, p in net.named_parameters())
    assert net.training, "as it was"


def test_a_run_is_the_same_with_and_without_measuring(make: Make, tmp_path: Path, inject: Any) -> None:
    for name in ("with", "without"):
        if name == "without":
            inject(dict.fromkeys(range(1, 7), 1.0))
        run(make(out=tmp_path / name, save_minutes=1e-9, levels={"loss_aware": True}))
    same(*(last(make(out=tmp_path / name)) for name in ("with", "without")))
    one, two = (checkpoint.load_tensors(last(make(out=tmp_path / n)), "history") for n in ("with", "without"))
    assert all(torch.equal(one[name], two[name]) for name in one), "and so is what it knows of its losses"


def test_the_figure_falls_when_there_is_something_to_learn(make: Make) -> None:
    settings = make(steps=60, rate=3e-3, masks={"half": 1}, batch=4, save_minutes=1e-9, ema=0.9)
    figures = list(measured(run(settings)).values())
    assert figures[-1] < 0.7 * figures[0]
    assert shelf.measured(shelf.find(str(settings.out))) is not None


@pytest.mark.parametrize("spaced", [0.0, 0.5])
@pytest.mark.parametrize("count", [9, 10, 11, 25, 40])
def test_clips_kept_out_are_never_trained_on(tmp_path: Path, count: int, spaced: float) -> None:
    source = Packed(wall(tmp_path / "w", [40] * count), 1, spaced=spaced)
    seen, unseen = source.split(4)
    if count < 10:
        assert seen is unseen is source
        return
    trained, kept = shown(seen, 4, 60), shown(unseen, 4, 20)
    assert trained | kept == set(range(count)), "every clip serves"
    assert not trained & kept
    assert len(kept) == count // 10


def test_which_clips_are_kept_out_is_by_their_names(tmp_path: Path) -> None:
    order = list(range(30))
    kept = []
    for turn in range(3):
        folder = wall(tmp_path / f"w{turn}", [12] * 30, order)
        kept.append({clip["file"] for clip in Packed(folder, 1).split(4)[1].clips})
        random.Random(turn).shuffle(order)
    assert kept[0] == kept[1] == kept[2]
    more = {clip["file"] for clip in Packed(wall(tmp_path / "more", [12] * 33), 1).split(4)[1].clips}
    assert len(more & kept[0]) >= 1, "clips that are added leave most as they were"


def test_a_split_leaves_both_parts_what_they_need(tmp_path: Path) -> None:
    draw = random.Random(0)
    for turn in range(40):
        lengths = [draw.choice([3, 5, 8, 61]) for _ in range(draw.randint(1, 40))]
        span = draw.choice([2, 5, 8])
        source = Packed(wall(tmp_path / f"w{turn}", lengths), 1, spaced=0.5)
        seen, unseen = source.split(span)
        long = sum(t >= span for t in lengths)
        if long < 10:
            assert seen is unseen is source
            continue
        assert len(unseen.clips) == long // 10
        assert min(clip["t"] for clip in unseen.clips) >= span
        assert max(clip["t"] for clip in seen.clips) == max(lengths), "uneven gaps fit as they did"
        assert len(seen.clips) + len(unseen.clips) == len(lengths)
        assert not shown(seen, 2, 3) & {int(clip["file"][:2]) for clip in unseen.clips}
        unseen.batch(torch.Generator().manual_seed(turn), 16, span, (8, 8))


def test_a_run_says_once_how_many_clips_are_kept_out_and_trains_on_the_others(
    make: Make, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(train, "EXAMPLES", 16)
    folder = wall(tmp_path / "w", [12] * 20)
    batches: list[torch.Tensor] = []
    draw_canvas = train.draw_canvas
    monkeypatch.setattr(train, "draw_canvas", lambda *a: batches.append((c := draw_canvas(*a)).frames) or c)
    settings = make(data=[{"source": "packed", "path": folder}], sizes=[[8, 8]], steps=30)
    first = run(settings.model_copy(update={"minutes": 1e-9}))
    events = run(settings)
    assert [text for text in notes(first) + notes(events) if "kept out" in text] == [
        "2 of 20 clips are kept out of training, to measure on"
    ]
    few = train.EXAMPLES // settings.batch
    kept = torch.cat(batches[1 : 1 + few]).unique()
    trained = torch.cat([batches[0], *batches[1 + few : -few]]).unique()
    assert len(kept) == 2
    assert len(trained) > 12
    assert not set(kept.tolist()) & set(trained.tolist())
    assert torch.cat(batches[-few:]).equal(torch.cat(batches[1 : 1 + few])), "measured on the same each time"


# ---------------------------------------------------------------------------------------------------------------------
# What is kept


@pytest.mark.parametrize("keep", [1, 2, 3])
def test_the_least_of_all_that_was_measured_is_kept(make: Make, inject: Any, tmp_path: Path, keep: int) -> None:
    for turn in range(3):
        draw = random.Random(turn)
        figures = {step: draw.choice([0.1, 0.2, 0.3, math.nan]) + step * (draw.random() - 0.5) for step in range(1, 7)}
        inject(figures)
        settings = make(out=tmp_path / f"{turn}", save_minutes=1e-9, keep=keep)
        so_far: dict[int, float] = {}
        for event in train.fit(settings):
            if isinstance(event, Progress) and event.what == "training":
                assert len(shelf.states(settings.out)) <= keep + 1
            if isinstance(event, Metric) and event.name == "measure":
                so_far[event.step] = event.values["held_out"]
            known = {step: x for step, x in so_far.items() if math.isfinite(x)}
            if known:
                best = shelf.best(settings.out)
                assert best is not None
                assert best.name == f"step-{min(known, key=lambda step: known[step]):08d}"
        newest = [f"step-{step:08d}" for step in range(6, 6 - keep, -1)]
        assert [p.name for p in shelf.states(settings.out)][:keep] == newest


def test_a_run_that_gets_worse_leaves_what_was_better(make: Make) -> None:
    export = make().out / "e"
    wild = {"rate": 30.0, "warmup": 0, "clip": 1e6, "ema": 0.0}
    settings = make(steps=12, keep=1, save_minutes=1e-9, export=export, **wild)
    figures = measured(run(settings))
    finite = {step: x for step, x in figures.items() if math.isfinite(x)}
    least = min(finite, key=lambda step: finite[step])
    assert least < 12, "it did get worse"
    best = shelf.find(str(settings.out))
    assert best.name == f"step-{least:08d}"
    assert checkpoint.load(str(settings.out)).training["steps"] == least
    assert shelf.digest(export) == shelf.digest(best)
    assert last(settings).name == "step-00000012"


def test_a_run_goes_on_from_the_newest_state(make: Make, inject: Any, tmp_path: Path) -> None:
    whole, sliced = (make(out=tmp_path / name, keep=1) for name in ("whole", "sliced"))
    inject({6: 0.6})
    run(whole)
    inject({step: step / 10 for step in range(1, 7)})  # the first state is the best
    for step in range(1, 7):
        events = run(sliced.model_copy(update={"minutes": 1e-9} if step < 6 else {}))
        if step > 1:
            assert isinstance(events[0], Note)
            assert events[0].text.startswith(f"resumed step-{step - 1:08d}")
        assert shelf.find(str(sliced.out)).name == "step-00000001"
    same(last(whole), last(sliced))


def test_with_other_clips_the_best_is_found_anew(make: Make, inject: Any, tmp_path: Path) -> None:
    settings = make(keep=1, steps=1)
    inject({1: 0.1, 2: 0.9, 3: 0.8})
    run(settings)
    other = settings.model_dump(mode="json") | {"data": [{"source": "moving_layers"}]}
    for steps in (2, 3):
        run(make(**{**other, "steps": steps}))
    assert [p.name for p in shelf.states(settings.out)] == ["step-00000003"], "0.1 was measured on something else"


def test_a_stop_saves_once_and_measures_once(make: Make, tmp_path: Path) -> None:
    asked = iter([False, False, True])
    settings = make(save_minutes=1e-9)
    events: list[Event] = []
    with pytest.raises(Cancelled):
        events.extend(train.fit(settings, lambda: next(asked)))
    assert [Path(e.path).name for e in events if isinstance(e, Saved)] == ["step-00000001", "step-00000002"]
    assert list(measured(events)) == [1, 2]
    assert tensors(last(settings))


def test_a_run_that_ended_unmeasured_is_measured_when_asked_for_again(make: Make) -> None:
    settings = make(steps=2, export=make().out / "e")
    figures = measured(run(settings))
    (last(settings) / shelf.MEASURED).unlink()
    assert settings.export is not None
    shutil.rmtree(settings.export)
    assert measured(run(settings)) == figures
    assert measured(run(settings)) == {}
    assert shelf.digest(settings.export) == shelf.digest(last(settings))


@needs_fork
@pytest.mark.parametrize("figure", [0.3, pytest.param(0.05, marks=pytest.mark.slow)])
def test_a_kill_anywhere_leaves_the_newest_and_the_best(make: Make, tmp_path: Path, inject: Any, figure: float) -> None:
    settings = make(steps=3, keep=1, export=tmp_path / "exported")
    inject({1: 0.1, 2: 0.5})
    for steps in (1, 2):
        run(make(steps=steps, keep=1))
    inject({3: figure})
    closed = train.fit(make(steps=3, keep=1))
    next(event for event in closed if isinstance(event, Saved))
    closed.close()  # type: ignore[attr-defined] - saved, and not measured yet
    shutil.copytree(settings.out, tmp_path / "before")
    assert [p.name[-1] for p in shelf.states(settings.out)] == ["3", "2", "1"]

    bests = []
    for n in range(2000):
        shutil.rmtree(settings.out)
        shutil.copytree(tmp_path / "before", settings.out)
        code = calls_of(lambda: list(train.fit(settings)), n)
        same(last(settings), tmp_path / "before" / "step-00000003")
        best = shelf.find(str(settings.out))
        bests.append(best.name[-1])
        for state in shelf.states(settings.out):
            assert shelf.describe(state).parameters == shelf.describe(best).parameters, "no state is seen in part"
        if n % 20 == 0:
            checkpoint.load(str(settings.out))
        if code == 0:
            break
    assert code == 0
    assert len(bests) >= 30, "kills were swept over fewer than 30 points"
    assert "".join(bests).strip("1") == "3" * bests.count("3"), "once it is known to be better it stays"
    assert bests[-1] == ("1" if figure > 0.1 else "3")
    assert [p.name[-1] for p in shelf.states(settings.out)] == (["3", "1"] if figure > 0.1 else ["3"])
    assert not list(settings.out.glob(".step*"))
    assert shelf.digest(tmp_path / "exported") == shelf.digest(shelf.find(str(settings.out)))


# ---------------------------------------------------------------------------------------------------------------------
# What a run folder stands for


@pytest.fixture
def states(tmp_path: Path, tiny: Path) -> Callable[[dict[int, str | None]], Path]:
    """A run folder with states of these steps, and what each says of itself."""

    def states(told: dict[int, str | None]) -> Path:
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        for step, text in told.items():
            state = tmp_path / "run" / f"step-{step:08d}"
            shutil.copytree(tiny, state)
            if text is not None:
                (state / shelf.MEASURED).write_text(text)
        return tmp_path / "run"

    return states


def says(loss: object, on: str = "a") -> str:
    return json.dumps({"loss": loss, "on": on})


@pytest.mark.parametrize(
    ("told", "found"),
    [
        ({1: says(0.3), 2: says(0.1), 3: says(0.2)}, 2),
        ({1: says(0.1), 2: says(0.1), 3: says(0.2)}, 2),  # of equals the newer one
        ({1: None, 2: None, 3: None}, 3),
        ({1: says(0.3), 2: None, 3: None}, 1),
        ({1: says(0.1, "b"), 2: says(0.4), 3: says(0.5)}, 2),
        ({1: says(0.1), 2: says(math.nan), 3: says(-math.inf)}, 1),
        ({1: says(0.3), 2: "{", 3: "[" * 10_000, 4: "[]", 5: '{"loss": {}}', 6: '"', 7: says("x"), 8: "\ud7ff"}, 1),
        ({1: says(0.3), 2: says(0.1) + " " * 2_000_000}, 1),
    ],
)
def test_a_run_folder_stands_for_its_best_state(states: Any, told: dict[int, str | None], found: int) -> None:
    folder = states(told)
    assert shelf.find(str(folder)).name == f"step-{found:08d}"
    for step in told:
        state = folder / f"step-{step:08d}"
        assert shelf.find(str(state)) == state, "a state that is named is that state"


def test_a_best_state_that_is_no_checkpoint_is_passed_over(states: Any) -> None:
    folder = states({1: says(0.3), 2: says(0.1), 3: says(0.2)})
    (folder / "step-00000002" / "config.json").unlink()
    assert shelf.find(str(folder)).name == "step-00000003"
