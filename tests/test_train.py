"""Training stops at any moment and goes on exactly, tells what is wrong, and needs little installed."""

import json
import math
import multiprocessing
import random
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pytest
import torch
from test_checkpoint import calls_of, needs_fork
from torch import Tensor

from videodiff import checkpoint, masks, shelf, train
from videodiff.errors import UserError
from videodiff.events import Event, Metric, Note, Progress, Saved
from videodiff.losses import WEIGHTS, LossHistory
from videodiff.models import NETWORKS
from videodiff.presets import PRESETS
from videodiff.settings import Levels, Train, load
from videodiff.types import Canvas

KINDS = ("weights", "ema", "exp_avg", "exp_avg_sq", "model")


@pytest.fixture(scope="session")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three packed clips of a moving wave, 12 frames 20 x 20 in colour."""
    folder = tmp_path_factory.mktemp("packed")
    y, x = np.mgrid[:20, :20]
    frames = [
        np.stack([127.5 + 120 * np.sin((x * (k + 1) + y - 2 * t) / 4 + c) for c in range(3)], -1)
        for k in range(3)
        for t in range(12)
    ]
    (folder / "frames.u8").write_bytes(np.stack(frames).astype(np.uint8).tobytes())
    shape = {"t": 12, "h": 20, "w": 20, "c": 3, "fps": 10.0, "stride": 1}
    index = [{"file": f"{k}.mp4", "offset": k * 12 * 1200, **shape} for k in range(3)]
    (folder / "index.json").write_text(json.dumps({"clips": index}))
    return folder


Make = Callable[..., Train]


@pytest.fixture
def make(clips: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Make:
    """A small run on the packed clips, about 20 ms a step."""
    monkeypatch.setattr(train, "EXAMPLES", 4)  # many of these runs measure after every step

    def settings(**changes: Any) -> Train:
        values = {
            "out": tmp_path / "run",
            "data": [{"source": "packed", "path": clips}],
            "model": {"channels": 1, "widths": [16, 16], "blocks_up": 1, "head_width": 16, "embedding": 16},
            "frames": 4,
            "sizes": [[16, 16]],
            "batch": 2,
            "steps": 6,
            "warmup": 3,
            "threads": 1,
            "device": "cpu",
            "precision": "float32",
            "sample_minutes": 1e9,
            "log_every": 1,
        }
        return Train.model_validate({**values, **changes})

    return settings


def run(settings: Train) -> list[Event]:
    return list(train.fit(settings))


def notes(events: list[Event]) -> list[str]:
    return [event.text for event in events if isinstance(event, Note)]


def losses(events: list[Event]) -> list[float]:
    return [event.values["loss"] for event in events if isinstance(event, Metric) and event.name == "train"]


def measured(events: list[Event]) -> dict[int, float]:
    """What was measured of the states, by step."""
    return {e.step: e.values["held_out"] for e in events if isinstance(e, Metric) and e.name == "measure"}


def steps_done(events: list[Event]) -> list[int]:
    return [event.done for event in events if isinstance(event, Progress) and event.what == "training"]


def tensors(state: Path, kinds: tuple[str, ...] = KINDS) -> dict[str, Tensor]:
    return {f"{kind} {name}": x for kind in kinds for name, x in checkpoint.load_tensors(state, kind).items()}


def same(one: Path, other: Path) -> None:
    """Two states are bit for bit the same training."""
    a, b = tensors(one), tensors(other)
    assert a.keys() == b.keys()
    assert len(a) > 100
    assert [name for name in a if not torch.equal(a[name], b[name])] == []
    a_state, b_state = (json.loads((state / "state.json").read_text()) for state in (one, other))
    assert [a_state[k] for k in ("step", "updates", "clips")] == [b_state[k] for k in ("step", "updates", "clips")]


def last(settings: Train) -> Path:
    state = train.newest_state(settings.out)
    assert state is not None
    return state


# ---------------------------------------------------------------------------------------------------------------------
# Stopping and going on


@pytest.fixture(scope="module")
def processes() -> Any:
    """Processes that start at once, because all is imported in the one they are forked from."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["videodiff.train", "torch._dynamo"])  # which optimizers import when made
    return context


def test_a_run_killed_again_and_again_is_the_uninterrupted_run(make: Make, tmp_path: Path, processes: Any) -> None:
    whole = make(out=tmp_path / "whole", steps=20, save_minutes=1e-9)
    killed = make(out=tmp_path / "killed", steps=20, save_minutes=1e-9)
    files = []
    for settings in (whole, killed):
        file = tmp_path / f"{settings.out.name}.json"
        file.write_text(json.dumps(settings.as_json()))
        files.append([str(file)])
    seconds = []
    for changes in (["steps=1", f"out={tmp_path / 'warm'}"], ["steps=1", f"out={tmp_path / 'start'}"], []):
        began = time.monotonic()
        process = processes.Process(target=train.main, args=(files[0] + changes,))
        process.start()
        process.join()
        assert process.exitcode == 0
        seconds.append(time.monotonic() - began)
    _, start, duration = seconds  # the first one waits for the imports

    moments, kills = random.Random(0), []
    for attempt in range(9):
        process = processes.Process(target=train.main, args=(files[1],))
        process.start()
        if attempt < 8:
            process.join(moments.uniform(0, start) if attempt % 4 == 3 else start + moments.random() * duration / 4)
            process.kill()
        process.join()
        if process.exitcode == 0:
            break
        state = train.newest_state(killed.out)
        kills.append(state.name if state else "before the first state")
    assert process.exitcode == 0
    assert len(set(kills)) >= 3, kills
    same(last(whole), last(killed))
    assert json.loads((last(killed) / "state.json").read_text())["step"] == 20
    left = sorted(p.name for p in killed.out.iterdir() if "step-" in p.name)
    best = shelf.best(killed.out)
    assert best is not None
    assert left == sorted({"step-00000019", "step-00000020", best.name}), "nothing of the killed saves lies about"


def test_the_command_killed_and_given_again_is_the_uninterrupted_run(make: Make, tmp_path: Path) -> None:
    whole = make(out=tmp_path / "whole", steps=6, save_minutes=1e-9)
    run(whole)
    file = tmp_path / "run.json"
    file.write_text(json.dumps(whole.as_json()))
    command = [sys.executable, "-m", "videodiff.train", str(file), f"out={tmp_path / 'killed'}"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for line in process.stdout:
        if json.loads(line)["event"] == "saved":
            break
    time.sleep(random.Random(0).uniform(0, 0.2))
    process.kill()
    assert process.wait() == -9
    process.stdout.close()
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    first, *_, end = (json.loads(line) for line in result.stdout.splitlines())
    assert first["text"].startswith("resumed step-")
    assert (end["event"], end["name"]) == ("metric", "measure")
    same(last(whole), tmp_path / "killed" / "step-00000006")


def test_minutes_stop_cleanly_and_the_next_call_goes_on_exactly(make: Make, tmp_path: Path) -> None:
    whole, sliced = (make(out=tmp_path / name) for name in ("whole", "sliced"))
    run(whole)
    slices = 0
    while slices < 6:
        events = run(sliced.model_copy(update={"minutes": 1e-9}))
        slices += 1
        assert isinstance(events[-1], Note)
        assert "run again to go on" in events[-1].text
        assert any(isinstance(event, Saved) for event in events)
    same(last(whole), last(sliced))
    assert run(sliced)[0] == Note(events[0].text.replace("00000005", "00000006").replace("10 clips", "12 clips"))  # type: ignore[union-attr]


def test_a_generator_that_is_closed_stops_and_leaves_a_run_that_goes_on(make: Make, tmp_path: Path) -> None:
    whole, stopped = (make(out=tmp_path / name, save_minutes=1e-9) for name in ("whole", "stopped"))
    run(whole)
    events = train.fit(stopped)
    seen = next(event for event in events if isinstance(event, Progress) and steps_done([event]) == [3])
    assert seen.total == 6
    events.close()  # type: ignore[attr-defined]
    run(stopped)
    same(last(whole), last(stopped))


def test_a_step_that_was_skipped_is_remembered_on_resuming(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    _poison(monkeypatch, lambda step: step == 2)
    whole, sliced = (make(out=tmp_path / name) for name in ("whole", "sliced"))
    assert "step 2: the loss or its gradient is not finite" in " ".join(notes(run(whole)))
    while (state := train.newest_state(sliced.out)) is None or "00000006" not in state.name:
        run(sliced.model_copy(update={"minutes": 1e-9}))
    assert json.loads((last(whole) / "state.json").read_text())["updates"] == 5
    same(last(whole), last(sliced))


def test_a_run_may_resume_before_its_first_update(make: Make, monkeypatch: Any) -> None:
    _poison(monkeypatch, lambda step: step < 2)
    settings = make(minutes=1e-9)
    for _ in range(3):
        run(settings)
    assert json.loads((last(settings) / "state.json").read_text()) | {"seconds": 0} == {
        "step": 3, "updates": 1, "clips": 6, "seconds": 0,
    }  # fmt: skip


@needs_fork
def test_a_kill_anywhere_in_a_save_leaves_a_state_that_loads(make: Make, tmp_path: Path) -> None:
    settings = make(steps=2, save_minutes=1e-9, keep=1)
    run(settings)
    second = tmp_path / "second"
    shutil.move(settings.out / "step-00000002", second)
    run(settings.model_copy(update={"steps": 1}))
    shutil.copytree(settings.out / "step-00000001", tmp_path / "first")

    net, optimizer, ema = parts(settings)
    train.load_state(second, net, optimizer, ema)
    spread = train.Spread()
    model = net.config

    def save() -> None:
        train.save_state(settings, settings.out, 2, 4, 1.0, net, optimizer, ema, model, spread)
        train.prune(settings.out, settings.keep)

    (tmp_path / "first" / shelf.MEASURED).unlink()  # nothing is measured here, so the newest is the one to use
    found = []
    for n in range(1000):
        for left in settings.out.glob("*step-*" if n % 2 else "step-*"):  # every second time beside a half-made one
            shutil.rmtree(left)
        shutil.copytree(tmp_path / "first", settings.out / "step-00000001")
        code = calls_of(save, n)
        state = last(settings)
        assert state.name in ("step-00000001", "step-00000002")
        same(state, tmp_path / "first" if state.name.endswith("1") else second)
        if n % 10 == 0:
            assert checkpoint.load(str(settings.out)).training["steps"] == int(state.name[-1])
        found.append(state.name)
        if code == 0:
            break
    assert code == 0
    assert len(found) >= 50, "kills were swept over fewer than 50 points"
    assert found == sorted(found), "once the new state is there it stays"
    assert len(set(found)) == 2
    assert [p.name for p in settings.out.glob("*step-*")] == ["step-00000002"]


def parts(settings: Train) -> tuple[Any, torch.optim.Optimizer, dict[str, Tensor]]:
    """Network, optimizer and EMA as a run makes them."""
    module = NETWORKS[settings.network]
    net = module.build(module.Config(**settings.model))
    ema = {name: x.detach().clone() for name, x in net.named_parameters()}
    return net, torch.optim.AdamW(net.parameters()), ema


# ---------------------------------------------------------------------------------------------------------------------
# States


def test_only_the_newest_states_and_the_best_are_kept(make: Make) -> None:
    settings = make(save_minutes=1e-9, keep=2)
    settings.out.mkdir()
    (settings.out / ".step-00000001.part").mkdir()  # what a killed save leaves
    (settings.out / ".step-00000001.part" / "weights.safetensors").touch()
    for event in train.fit(settings):
        if isinstance(event, Saved):
            assert Path(event.path).is_dir()
        if isinstance(event, Progress):
            assert len(list(settings.out.glob("*step-*"))) <= 2 + 1 + (event.what == "measuring"), "and the best"
    best = shelf.best(settings.out)
    assert best is not None
    left = [p.name for p in sorted(settings.out.glob("*step-*"))]
    assert left == sorted({"step-00000005", "step-00000006", best.name})


def test_no_file_of_a_state_is_larger_than_asked(make: Make) -> None:
    settings = make(steps=1, shard_mb=0.03)
    run(settings)
    files = list(last(settings).glob("*.safetensors"))
    assert len(files) > 5
    for file in files:
        header = 8 + int.from_bytes(file.read_bytes()[:8], "little")
        one_tensor = len(json.loads(file.read_bytes()[8:header])) == 2  # and the metadata
        if not file.name.startswith("model"):  # that is sharded as it ships
            assert file.stat().st_size - header <= 30_000 or one_tensor


def test_a_state_is_a_checkpoint_of_the_averaged_weights(make: Make) -> None:
    settings = make(ema=0.5)
    run(settings)
    bundle = checkpoint.load(str(settings.out))
    ema = checkpoint.load_tensors(last(settings), "ema")
    for name, x in bundle.net.state_dict().items():
        assert torch.equal(x, ema[name].bfloat16().float())
    weights = checkpoint.load_tensors(last(settings), "weights")
    assert any(not torch.equal(weights[name], x) for name, x in ema.items())
    assert bundle.training["steps"] == 6
    assert bundle.training["clips"] == 12
    assert bundle.window == checkpoint.Window(4, 16)
    assert "out" not in bundle.training["settings"], "no path of this machine goes into what is shared"
    assert str(settings.out.parent) not in (last(settings) / "config.json").read_text()


def test_the_average_follows_the_weights(make: Make, monkeypatch: Any) -> None:
    settings = make(steps=1, ema=0.9)
    net, *_ = parts(settings)
    torch.manual_seed(settings.seed)
    net = NETWORKS["unet"].build(net.config)
    run(settings)
    weights, ema = (checkpoint.load_tensors(last(settings), kind) for kind in ("weights", "ema"))
    decay = 2 / 11  # (1 + step) / (10 + step) while that is below 0.9
    for name, start in net.named_parameters():
        torch.testing.assert_close(ema[name], decay * start.detach() + (1 - decay) * weights[name])


def test_the_settings_beside_a_run_run_it_again(make: Make, tmp_path: Path) -> None:
    settings = make(steps=2)
    run(settings)
    again = load(Train, settings.out / "settings.json")
    assert again == settings
    run(again.model_copy(update={"out": tmp_path / "again"}))
    same(last(settings), tmp_path / "again" / "step-00000002")


def test_the_log_has_a_line_for_each_report(make: Make) -> None:
    settings = make(log_every=2)
    events = run(settings)
    lines = [json.loads(line) for line in (settings.out / "log.jsonl").read_text().splitlines()]
    *trained, last_line = lines
    assert [line["step"] for line in trained] == [2, 4, 6]
    assert [line["loss"] for line in trained] == losses(events)
    assert all(line["gradient_norm"] > 0 and line["clips"] == 2 * line["step"] for line in trained)
    assert {last_line["step"]: last_line["held_out"]} == measured(events)
    assert steps_done(events) == [1, 2, 3, 4, 5, 6]


def test_a_sample_sheet_is_drawn_and_changes_nothing(make: Make, tmp_path: Path) -> None:
    plain, drawn = make(out=tmp_path / "plain", steps=2), make(out=tmp_path / "drawn", steps=2, sample_minutes=1e-9)
    run(plain)
    events = run(drawn)
    sheets = [event.path for event in events if isinstance(event, Saved) and event.kind == "samples"]
    assert len(sheets) == 2
    assert Path(sheets[0]).read_bytes().startswith(b"\x89PNG")
    same(last(plain), last(drawn))


# ---------------------------------------------------------------------------------------------------------------------
# Learning


def test_the_loss_falls_when_there_is_little_to_learn(make: Make) -> None:
    seen = losses(run(make(steps=120, rate=3e-3, masks={"half": 1}, batch=4, log_every=20)))
    assert seen[-1] < 0.6 * seen[0], seen


def test_accumulating_the_same_batch_twice_is_having_it_once(make: Make, tmp_path: Path, monkeypatch: Any) -> None:
    step_generator = train.step_generator
    monkeypatch.setattr(
        train, "step_generator", lambda seed, step, micro, rank, device: step_generator(seed, step, 0, rank, device)
    )
    once, twice = make(out=tmp_path / "once", steps=3), make(out=tmp_path / "twice", steps=3, accumulate=2)
    one, two = run(once), run(twice)
    assert losses(one) == pytest.approx(losses(two), rel=1e-6)
    a, b = tensors(last(once), ("weights", "ema")), tensors(last(twice), ("weights", "ema"))
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=1e-6, atol=1e-7)


def test_accumulated_batches_differ_and_are_counted(make: Make, monkeypatch: Any) -> None:
    drawn: list[Tensor] = []
    draw_canvas = train.draw_canvas

    def draw(*args: Any) -> Canvas:
        canvas = draw_canvas(*args)
        drawn.append(canvas.frames)
        return canvas

    monkeypatch.setattr(train, "draw_canvas", draw)
    settings = make(steps=2, accumulate=2)
    run(settings)
    assert len(drawn) == 4 + train.EXAMPLES // settings.batch, "two steps of two, and what is measured on"
    assert all(not torch.equal(drawn[i], drawn[j]) for i in range(4) for j in range(i))
    assert json.loads((last(settings) / "state.json").read_text())["clips"] == 8


def test_the_gradient_is_clipped(make: Make, monkeypatch: Any) -> None:
    norms: list[float] = []
    step = torch.optim.AdamW.step

    def watched(self: torch.optim.AdamW, *args: Any) -> None:
        weights = [p for group in self.param_groups for p in group["params"]]
        norms.append(math.sqrt(sum(float(p.grad.square().sum()) for p in weights)))
        step(self, *args)

    monkeypatch.setattr(torch.optim.AdamW, "step", watched)
    run(make(steps=2, clip=1e-3))
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-3)


def test_the_rate_warms_up_stays_and_decays() -> None:
    settings = Train.model_validate({"steps": 100, "warmup": 10, "decay": 20, "rate": 0.5})
    rates = [train.learning_rate(step, settings) for step in range(100)]
    assert rates[:10] == pytest.approx([0.05 * (i + 1) for i in range(10)])
    assert set(rates[10:81]) == {0.5}
    assert rates[90] == pytest.approx(0.25)
    assert rates[80:] == sorted(rates[80:], reverse=True)
    assert 0 < rates[-1] < 0.01
    plain = Train.model_validate({"steps": 100, "warmup": 0, "rate": 0.5})
    assert {train.learning_rate(step, plain) for step in range(100)} == {0.5}


@pytest.mark.parametrize("draw", get_args(Levels.model_fields["draw"].annotation))
def test_every_way_to_draw_levels_trains(make: Make, draw: str) -> None:
    assert all(math.isfinite(x) for x in losses(run(make(steps=2, levels={"draw": draw}))))


@pytest.mark.parametrize("weight", WEIGHTS)
def test_every_weight_trains(make: Make, weight: str) -> None:
    assert all(math.isfinite(x) for x in losses(run(make(steps=2, levels={"weight": weight, "stratified": False}))))


def test_a_run_that_draws_by_the_history_of_its_losses_resumes_exactly(
    make: Make, tmp_path: Path, monkeypatch: Any
) -> None:
    for name in ("BINS", "MEMORY"):
        monkeypatch.setattr(LossHistory, name, 2)  # so that the history is full, and steers, after a few steps
    whole, sliced, plain = (
        make(out=tmp_path / name, steps=12, levels={"loss_aware": name != "plain"}) for name in ("a", "b", "plain")
    )
    assert losses(run(whole))[6:] != losses(run(plain))[6:]
    for steps in (3, 8, 12):
        run(sliced.model_copy(update={"steps": steps}))
    same(last(whole), last(sliced))
    one, other = (checkpoint.load_tensors(last(settings), "history") for settings in (whole, sliced))
    assert all(torch.equal(one[name], other[name]) for name in ("square", "seen"))
    assert (one["seen"] > 2).all()


@pytest.mark.parametrize("mask", masks.MASKS)
def test_every_mask_trains(make: Make, mask: str) -> None:
    assert all(math.isfinite(x) for x in losses(run(make(steps=2, masks={mask: 1}))))


@pytest.mark.parametrize("change", [{"precision": "bfloat16"}, {"recompute": True}, {"sizes": [[16, 24], [24, 16]]}])
def test_other_ways_to_compute_train_too(make: Make, tmp_path: Path, change: dict) -> None:
    plain, other = make(out=tmp_path / "plain", steps=3), make(out=tmp_path / "other", steps=3, **change)
    assert losses(run(other)) == pytest.approx(losses(run(plain)), rel=0.5)
    if change == {"recompute": True}:
        same(last(plain), last(other))


def test_levels_stay_in_the_range_the_checkpoint_states(make: Make, monkeypatch: Any) -> None:
    seen: list[Tensor] = []
    denoiser = train.centred.CentredDenoiser
    inner = denoiser.parts

    def watched(self: Any, z: Tensor, s: Tensor, *args: Any) -> Any:
        seen.append(s)
        return inner(self, z, s, *args)

    monkeypatch.setattr(denoiser, "parts", watched)
    settings = make(steps=20, levels={"std": 4.0, "min": 0.05, "max_ratio": 3.0}, spread={"unknown": 0.5})
    run(settings)
    levels = torch.cat(seen)
    assert levels.min() == pytest.approx(0.05)
    assert levels.max() <= 3.0 * 0.5 + 1e-6


# ---------------------------------------------------------------------------------------------------------------------
# Health


def _poison(monkeypatch: Any, when: Callable[[int], bool], factor: float = math.nan) -> None:
    """The loss is multiplied by `factor` at steps where `when(step)`."""
    step_generator, draw_loss = train.step_generator, train.draw_loss
    now = [0]

    def generator(seed: int, step: int, *args: Any) -> torch.Generator:
        now[0] = step
        return step_generator(seed, step, *args)

    def loss(*args: Any) -> Tensor:
        return draw_loss(*args) * (factor if when(now[0]) else 1.0)

    monkeypatch.setattr(train, "step_generator", generator)
    monkeypatch.setattr(train, "draw_loss", loss)


def test_a_step_that_is_not_finite_is_skipped_and_said_so(make: Make, monkeypatch: Any, tmp_path: Path) -> None:
    run(make(out=tmp_path / "healthy", steps=2))
    _poison(monkeypatch, lambda step: step == 2)
    settings = make(steps=3)
    assert notes(run(settings)) == ["step 2: the loss or its gradient is not finite; the step was skipped"]
    kinds = ("weights", "exp_avg", "exp_avg_sq")
    before, after = (tensors(last(s), kinds) for s in (make(out=tmp_path / "healthy"), settings))
    assert all(torch.equal(before[name], after[name]) for name in before)


@pytest.mark.parametrize("factor", [math.nan, math.inf])
def test_ten_steps_in_a_row_that_are_not_finite_end_the_run(make: Make, monkeypatch: Any, factor: float) -> None:
    _poison(monkeypatch, lambda step: step >= 2, factor)
    with pytest.raises(UserError, match=r"10 steps in a row were not finite from step 2 on; lower --rate"):
        run(make(steps=50))


def test_nine_in_a_row_do_not(make: Make, monkeypatch: Any) -> None:
    _poison(monkeypatch, lambda step: step % 10 != 9)
    assert len(notes(run(make(steps=25)))) == 23


def test_a_dead_gradient_is_noticed(make: Make, monkeypatch: Any) -> None:
    _poison(monkeypatch, lambda step: step == 1, 0.0)
    assert notes(run(make(steps=3))) == ["step 1: the gradient is zero everywhere; nothing is being learnt"]


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda x: 3 * x, "frames must lie in [-1, 1]"),
        (lambda x: x * math.nan, "frames must lie in [-1, 1]"),
        (lambda x: 0 * x, "one single colour"),
    ],
)
def test_data_out_of_range_is_noticed(make: Make, monkeypatch: Any, change: Callable, complaint: str) -> None:
    build_source = train.build_source

    class Changed:
        def __init__(self, *args: Any) -> None:
            self.inner = build_source(*args)
            self.channels = self.inner.channels

        def batch(self, *args: Any) -> tuple[Tensor, Tensor]:
            frames, index = self.inner.batch(*args)
            return change(frames), index

    assert notes(run(make(steps=1))) == []
    monkeypatch.setattr(train, "build_source", Changed)
    said = notes(run(make(steps=1, out=make().out / "bad")))
    assert complaint in said[0]


# ---------------------------------------------------------------------------------------------------------------------
# Settings


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_is_a_request_and_builds_a_network(name: str) -> None:
    preset = PRESETS[name]
    settings = Train.model_validate(preset.settings)
    module = NETWORKS[settings.network]
    config = train.validate(module.Config, settings.model)
    train.validate(train.Spread, settings.spread)
    size = sum(p.numel() for p in module.build(config).parameters())
    assert size * 2 < 20_000_000, "two models of this size in bf16 ship in 40 MB"
    for h, w in settings.sizes:
        assert h % config.multiple == 0
        assert w % config.multiple == 0
    assert preset.help
    assert preset.time
    assert preset.result


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"masks": {"hafl": 1}}, "masks"),
        ({"masks": {"half": -1}}, "masks"),
        ({"masks": {"half": 0}}, "at least one weight"),
        ({"data": []}, "data and sizes"),
        ({"sizes": []}, "data and sizes"),
        ({"rate": 0}, "rate"),
        ({"frames": 10**9}, "frames"),
    ],
)
def test_settings_that_cannot_train_are_refused(change: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        train.validate(Train, change)


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"model": {"wdths": [16, 16]}}, "did you mean 'widths'"),
        ({"spread": {"unknwn": 1}}, "did you mean 'unknown'"),
        ({"data": [{"source": "packed"}]}, "needs a path"),
        ({"data": [{"source": "packed", "path": "nowhere"}]}, "no packed clips"),
        ({"frames": 200}, "no clip .* is long enough"),
        ({"device": "cuda:99"}, "not available"),
    ],
)
def test_a_run_that_cannot_start_says_why(make: Make, change: dict, complaint: str) -> None:
    with pytest.raises(UserError, match=complaint):
        run(make(**change))


def as_command(monkeypatch: Any, capsys: Any, *arguments: object) -> tuple[int, str]:
    """Exit code and error output of `python -m videodiff.train ...`, in this process."""
    monkeypatch.setattr(sys, "argv", ["videodiff.train", *(str(x) for x in arguments)])
    monkeypatch.delitem(sys.modules, "videodiff.train", raising=False)
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("videodiff.train", run_name="__main__")
    return int(caught.value.code or 0), capsys.readouterr().err


def test_what_the_user_can_fix_is_one_line_and_its_exit_code(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    bad, good = tmp_path / "bad.json", tmp_path / "good.json"
    bad.write_text("{")
    good.write_text("{}")
    cases = [((), "give a settings file"), ((bad,), "cannot be read as a settings file"), ((good, "rat=1"), "'rate'")]
    for arguments, complaint in [*cases, ((good, "minutes"), "give a settings file"), ((good, "rate=x"), "rate: ")]:
        code, error = as_command(monkeypatch, capsys, *arguments)
        assert code == 2
        assert complaint in error
        assert error.count("\n") == 1
        assert "Traceback" not in error


BARE = """
import json, re, runpy, sys
from importlib import metadata
from importlib.machinery import PathFinder

class Gate(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.split(".")[0] in BLOCKED else super().find_spec(name, *rest)

BLOCKED = set(sys.argv.pop(1).split(","))
sys.meta_path[sys.meta_path.index(PathFinder)] = Gate
runpy.run_module("videodiff.train", run_name="__main__", alter_sys=True)

def closure(names):
    found, left = set(), list(names)
    while left:
        name = re.sub(r"[-_.]+", "-", left.pop()).lower()
        if name in found:
            continue
        found.add(name)
        try:
            needs = metadata.requires(name) or []
        except metadata.PackageNotFoundError:
            continue
        left += [re.match(r"[A-Za-z0-9._-]+", need)[0] for need in needs if "extra ==" not in need]
    return found

allowed = closure(["torch", "numpy", "einops", "safetensors", "pydantic"]) | {"videodiff"}
owners = metadata.packages_distributions()
used = {m.split(".")[0] for m in list(sys.modules)} & set(owners)
foreign = {m for m in used if not {re.sub(r"[-_.]+", "-", d).lower() for d in owners[m]} & allowed}
print(json.dumps(sorted(foreign)))
"""


def test_the_trainer_starts_where_little_is_installed(make: Make, tmp_path: Path) -> None:
    file = tmp_path / "run.json"
    file.write_text(json.dumps(make(steps=2, sample_minutes=1e-9).as_json()))
    blocked = "av,imageio,PIL,cyclopts,rich,gradio,accelerate,skimage,cv2,scipy,matplotlib,xformers,yaml,tqdm"
    result = subprocess.run([sys.executable, "-c", BARE, blocked, file], capture_output=True, text=True, check=False)
    assert result.returncode == 0, result.stderr
    *events, foreign = (json.loads(line) for line in result.stdout.splitlines())
    assert foreign == []
    assert [event["name"] for event in events if event["event"] == "metric"] == ["train", "train", "measure"]
    assert any("no sample sheet" in event.get("text", "") for event in events)
    assert (tmp_path / "run" / "step-00000002" / "state.json").is_file()
