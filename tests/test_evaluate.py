"""A report is complete, repeatable and about the wanted frames alone."""

import json
import math
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

from videodiff import questions, video
from videodiff.baselines import BASELINES, FOR
from videodiff.checkpoint import Levels, Window, save
from videodiff.datasets.moving_mnist import test_clip as digits_of  # not a test, whatever its name
from videodiff.errors import MissingExtra, UnreadableInput, UserError
from videodiff.evaluate import as_table, canvases, evaluate, judge
from videodiff.events import Metric, Note, Progress, Saved
from videodiff.guess import Spread
from videodiff.metrics.psnr import FLOOR
from videodiff.models import unet
from videodiff.pipeline import open_model
from videodiff.questions import PROTOCOLS, Damaged, film_windows, window_starts
from videodiff.settings import Evaluate, Restore

SAMPLES = ("single", "best", "mean_of_samples")
PERFECT = -10 * math.log10(FLOOR)


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def make_checkpoint(folder: Path, channels: int, window: int = 16) -> str:
    torch.manual_seed(0)
    config = unet.Config(channels=channels, widths=(16, 16), spatial_attention=(), head_width=16, embedding=16)
    net = unet.build(config)
    for weight in net.parameters():  # an untrained network answers nothing at all; this one answers something
        weight.data += 0.02 * torch.randn_like(weight)
    save(folder, "unet", config, net.state_dict(), Spread(), Levels(), Window(frames=window), {})
    return str(folder)


def clip(num_frames: int, height: int = 64, width: int = 64, seed: int = 0) -> np.ndarray:
    """uint8 [t h w 3]: a bright square that moves over noise."""
    rng = np.random.default_rng(seed)
    frames = np.repeat(rng.integers(0, 100, (1, height, width, 3), dtype=np.uint8), num_frames, axis=0)
    for i in range(num_frames):
        left = 4 + (2 * i + seed) % (width - 24)
        frames[i, 20:36, left : left + 16] = (220, 180, 60 + 40 * seed)
    return frames


@pytest.fixture(scope="module")
def colour(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_checkpoint(tmp_path_factory.mktemp("colour") / "net", 3)


@pytest.fixture(scope="module")
def grey(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_checkpoint(tmp_path_factory.mktemp("grey") / "net", 1)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sets: `squares` with a test folder (two slow clips, a short and a broken one), `plain` with one fast clip."""
    root = tmp_path_factory.mktemp("films")
    test = root / "squares" / "test"
    test.mkdir(parents=True)
    video.write(test / "a.mkv", clip(17), fps=10)
    video.write(test / "b.mkv", clip(16, seed=1), fps=10)
    video.write(test / "short.mkv", clip(9), fps=10)
    (test / "broken.mp4").write_bytes(b"not a film")
    (root / "plain").mkdir()
    video.write(root / "plain" / "fast.mkv", clip(32, 64, 96, seed=2), fps=30)
    return root


def request(data: Path, checkpoint: str, **more: object) -> Evaluate:
    return Evaluate(data=(data,), checkpoint=checkpoint, **{"steps": 1, "samples": 3, "precision": "float32", **more})


def run(settings: Evaluate) -> tuple[list, dict]:
    events, story = [], evaluate(settings)
    while True:
        try:
            events.append(next(story))
        except StopIteration as end:
            return events, end.value


# ---------------------------------------------------------------------------------------------------------------------
# Real clips


@pytest.fixture(scope="module")
def measured(films: Path, colour: str, tmp_path_factory: pytest.TempPathFactory) -> tuple[list, dict, Path]:
    out = tmp_path_factory.mktemp("report")
    settings = Evaluate(
        data=(films / "squares", films / "plain"),
        checkpoint=colour,
        steps=1,
        samples=3,
        precision="float32",
        report=out / "report.json",
        sheet=out / "sheets",
    )
    events, report = run(settings)
    return events, report, out


def test_every_set_task_and_rival_is_in_the_report(measured: tuple[list, dict, Path]) -> None:
    _, report, out = measured
    assert json.loads((out / "report.json").read_text()) == report
    assert list(report["sets"]) == ["squares", "plain"]
    assert len(report["checkpoint"]["digest"]) == 16
    assert {"videodiff", "torch", "numpy", "scikit-image"} <= set(report["versions"])
    assert Evaluate.model_validate(report["settings"]).steps == 1
    for found in report["sets"].values():
        assert list(found["tasks"]) == ["prediction", "interpolation_2x", "interpolation_4x"]
        for task, result in found["tasks"].items():
            question = PROTOCOLS["real-v1"].questions[task]
            assert set(result["figures"]) == {*SAMPLES, *FOR[question.kind]}
            for who, figures in result["figures"].items():
                frames = len(question.wanted)
                expected = {"psnr", "psnr_clip", "ssim"}
                if who != "best":
                    expected |= {"motion", "motion_result", "motion_truth"}
                    expected |= {f"{name}_{i + 1}" for name in ("psnr", "ssim") for i in range(frames)}
                assert set(figures) == expected
                assert all(math.isfinite(value) for value in figures.values())
            assert set(result["differences"]) == {"single", "mean_of_samples"}
            for rivals in result["differences"].values():
                assert set(rivals) == set(FOR[question.kind])


def test_clips_that_cannot_be_measured_are_named(measured: tuple[list, dict, Path]) -> None:
    events, report, _ = measured
    assert set(report["sets"]["squares"]["skipped"]) == {"broken.mp4", "short.mkv"}
    notes = [event.text for event in events if isinstance(event, Note)]
    assert any("broken.mp4" in text for text in notes)
    assert any("short.mkv has 9 frames" in text for text in notes)
    assert report["sets"]["squares"]["tasks"]["prediction"]["clips"] == 2
    assert report["sets"]["squares"]["tasks"]["prediction"]["windows"] == 2 + 1


def test_fast_films_lose_every_second_frame_and_keep_their_shape(measured: tuple[list, dict, Path]) -> None:
    found = measured[1]["sets"]["plain"]
    assert (found["height"], found["width"]) == (64, 96)
    assert found["tasks"]["prediction"]["windows"] == 1  # 32 frames at 30 fps are one window of 16


def test_events_count_clips_and_bring_figures_as_soon_as_there_are_any(measured: tuple[list, dict, Path]) -> None:
    events, report, out = measured
    progress = [(event.done, event.total) for event in events if isinstance(event, Progress)]
    assert progress == sorted(progress)
    assert progress[0] == (0, 5)
    assert progress[-1] == (5, 5)
    names = [event.name for event in events if isinstance(event, Metric)]
    assert names == [f"{name} {task}" for name in report["sets"] for task in PROTOCOLS["real-v1"].questions]
    first = next(i for i, event in enumerate(events) if isinstance(event, Metric))
    assert any(isinstance(event, Progress) for event in events[first:])
    assert events[-1] == Saved(str(out / "report.json"), "report")


def test_a_sheet_is_drawn_for_every_set_and_task(measured: tuple[list, dict, Path]) -> None:
    events, report, out = measured
    drawn = {Path(event.path) for event in events if isinstance(event, Saved) and event.kind == "sheet"}
    tasks = PROTOCOLS["real-v1"].questions
    assert drawn == {out / "sheets" / f"{name}.{task}.png" for name in report["sets"] for task in tasks}
    assert all(file.read_bytes().startswith(b"\x89PNG") for file in drawn)
    assert set(out.rglob("*.*")) == drawn | {out / "report.json"}  # no temporary is left


def test_the_best_sample_is_not_worse_than_the_mean_one(measured: tuple[list, dict, Path]) -> None:
    for found in measured[1]["sets"].values():
        for result in found["tasks"].values():
            for name in ("psnr", "psnr_clip", "ssim"):
                assert result["figures"]["best"][name] >= result["figures"]["single"][name]


def test_a_set_is_the_mean_of_its_clips_and_intervals_are_about_clips(measured: tuple[list, dict, Path]) -> None:
    result = measured[1]["sets"]["squares"]["tasks"]["prediction"]
    assert list(result["by_clip"]) == ["a.mkv", "b.mkv"]
    ours, theirs = ([c[who]["psnr"] for c in result["by_clip"].values()] for who in ("single", "last_frame"))
    assert result["figures"]["single"]["psnr"] == pytest.approx(np.mean(ours), abs=1e-4)
    gain = result["differences"]["single"]["last_frame"]["psnr"]
    differences = sorted(a - b for a, b in zip(ours, theirs, strict=True))
    assert gain["mean"] == pytest.approx(np.mean(differences), abs=1e-4)
    assert (gain["low"], gain["high"]) == pytest.approx(differences, abs=1e-4)  # all that two clips can say
    alone = measured[1]["sets"]["plain"]["tasks"]["prediction"]["differences"]["single"]["last_frame"]["psnr"]
    assert alone["low"] is None  # one clip says nothing about others


def test_motion_of_a_set_is_a_ratio_of_means(measured: tuple[list, dict, Path]) -> None:
    result = measured[1]["sets"]["squares"]["tasks"]["prediction"]
    for who in ("single", "mean_of_samples", "mean_of_past"):
        figures = result["figures"][who]
        assert figures["motion"] == pytest.approx(figures["motion_result"] / figures["motion_truth"], abs=1e-4)
    assert result["figures"]["last_frame"]["motion"] == 0
    assert result["figures"]["single"]["motion"] > result["figures"]["mean_of_samples"]["motion"] > 0


def test_the_table_has_a_row_for_every_set(measured: tuple[list, dict, Path]) -> None:
    report = measured[1]
    tables = as_table(report).split("**")[1:]
    assert len(tables) == 6  # a name and a table for each task
    for table in tables[1::2]:
        rows = [line.strip("|").split("|") for line in table.splitlines() if line.startswith("|")]
        assert [row[0].strip() for row in rows[2:]] == list(report["sets"])
        assert len({len(row) for row in rows}) == 1
    figure = report["sets"]["squares"]["tasks"]["interpolation_4x"]["figures"]["linear_blend"]["psnr"]
    assert f" {figure:.2f} " in tables[-1]


def test_the_same_seed_gives_the_same_figures_whatever_else_is_measured(
    films: Path, colour: str, measured: tuple[list, dict, Path]
) -> None:
    _, again = run(request(films / "squares" / "test", colour, clips=1))  # the folder itself, its first clip alone
    for task, result in again["sets"]["squares"]["tasks"].items():
        assert result["by_clip"]["a.mkv"] == measured[1]["sets"]["squares"]["tasks"][task]["by_clip"]["a.mkv"]
    _, other = run(request(films / "squares", colour, clips=1, seed=1))
    one, two = (r["sets"]["squares"]["tasks"]["prediction"]["figures"]["single"]["psnr"] for r in (again, other))
    assert one != two


def test_a_grey_network_is_measured_on_grey(films: Path, grey: str) -> None:
    model = open_model(request(films, grey))
    assert [window.shape for window in film_windows(films / "plain" / "fast.mkv", model)] == [(16, 64, 96, 1)]
    _, report = run(request(films / "plain", grey, samples=1))
    figures = report["sets"]["plain"]["tasks"]["prediction"]["figures"]
    assert figures["single"] == figures["mean_of_samples"]


def test_a_folder_of_sets_is_all_sets_that_have_a_test_folder(films: Path, colour: str) -> None:
    settings = request(films, colour)
    assert {name: list(clips) for name, clips in questions.real_clips(settings).items()} == {
        "squares": ["a.mkv", "b.mkv", "broken.mp4", "short.mkv"]
    }


def test_what_holds_no_clips_is_refused(tmp_path: Path, colour: str, films: Path) -> None:
    for data in (tmp_path, tmp_path / "absent"):
        with pytest.raises(UserError, match=r"give folders|no clips"):
            run(request(data, colour))
    with pytest.raises(UserError, match="two sets are named"):
        run(Evaluate(data=(films / "squares", films / "squares" / "test"), checkpoint=colour))
    video.write(tmp_path / "short.mkv", clip(9), fps=10)
    with pytest.raises(UnreadableInput, match="no clip could be measured"):
        run(request(tmp_path, colour))


# ---------------------------------------------------------------------------------------------------------------------
# Windows, questions, answers


@pytest.mark.parametrize(
    ("num_frames", "starts"),
    [(15, []), (16, [0]), (17, [0, 1]), (19, [0, 1, 2, 3]), (46, [0, 10, 20, 30]), (100, [0, 28, 56, 84])],
)
def test_windows_are_evenly_spaced_from_the_first_frame_to_the_last(num_frames: int, starts: list[int]) -> None:
    assert window_starts(num_frames, 16, 4) == starts


def test_the_questions_are_those_of_the_protocols() -> None:
    real = PROTOCOLS["real-v1"].questions
    assert real["prediction"].wanted == tuple(range(8, 16))
    assert real["interpolation_2x"].wanted == (1, 3, 5, 7, 9, 11, 13)
    assert real["interpolation_4x"].known == (0, 4, 8, 12)
    assert len(real["interpolation_4x"].wanted) == 9
    assert PROTOCOLS["mcvd-digits"].questions["prediction"].wanted == tuple(range(5, 15))
    for protocol in PROTOCOLS.values():
        for question in protocol.questions.values():
            if isinstance(question, Damaged):
                assert question.kind in get_args(Restore.model_fields["operator"].annotation)
                assert question.rivals == ("input", "no_network")
            else:
                assert set(question.rivals) <= set(FOR[question.kind]) <= set(BASELINES)


def test_the_truth_scores_perfectly() -> None:
    frames = clip(16)
    for question in (*PROTOCOLS["real-v1"].questions.values(), *PROTOCOLS["restore-v1"].questions.values()):
        truth = frames[: question.length]
        wanted = truth[list(question.wanted)]
        scores = judge(truth, question, np.stack([wanted, wanted]), wanted)
        for who in ("single", "mean_of_samples"):
            assert scores[who]["psnr"] == pytest.approx(PERFECT)
            assert scores[who]["ssim"] == pytest.approx(1)
            assert scores[who]["motion"] == pytest.approx(1)
        assert max(scores[who]["psnr"] for who in scores if who not in SAMPLES) < PERFECT


def test_each_metric_takes_its_own_best_sample() -> None:
    question = PROTOCOLS["real-v1"].questions["prediction"]
    frames = clip(16)
    wanted = frames[8:]
    shifted = np.clip(wanted.astype(int) + 12, 0, 255).astype(np.uint8)  # the same structure, all pixels wrong
    speckled = wanted.copy()
    speckled[:, ::8, ::8] = 255 - speckled[:, ::8, ::8] // 2
    scores = judge(frames, question, np.stack([shifted, speckled]), shifted)
    alone = [judge(frames, question, x[None], x)["single"] for x in (shifted, speckled)]
    for name in ("psnr", "psnr_clip", "ssim"):
        assert scores["best"][name] == max(one[name] for one in alone)
        assert scores["single"][name] == pytest.approx(np.mean([one[name] for one in alone]))


@pytest.mark.parametrize("window", [None, 8])
def test_the_network_never_sees_the_frames_it_is_asked_for(films: Path, colour: str, window: int | None) -> None:
    settings = request(films, colour, window=window)
    model, frames = open_model(settings), clip(16)
    for question in PROTOCOLS["real-v1"].questions.values():
        truth = frames[: question.length]
        hidden = truth.copy()
        hidden[list(question.wanted)] = 255 - hidden[list(question.wanted)]
        one, two = (
            np.concatenate(list(question.answer(model, np.stack([x, x]), [1, 2], settings))) for x in (truth, hidden)
        )
        assert one.shape == (2, len(question.wanted), 64, 64, 3)
        np.testing.assert_array_equal(one, two)
        assert (one[0] != one[1]).any()


def test_damage_is_what_its_operator_says_and_the_same_for_all(films: Path, colour: str) -> None:
    frames = clip(16)
    asked = PROTOCOLS["restore-v1"].questions
    made = {name: q.baselines(frames) for name, q in asked.items() if isinstance(q, Damaged)}
    again = asked["denoise_26"].baselines(frames)
    np.testing.assert_array_equal(made["denoise_26"]["input"], again["input"])
    smooth = np.full((16, 64, 64, 3), 128, np.uint8)
    noise = {name: asked[name].baselines(smooth)["input"] for name in ("denoise_13", "denoise_26")}
    assert noise["denoise_13"].astype(float).std() == pytest.approx(12.75, rel=0.02)
    assert noise["denoise_26"].astype(float).std() == pytest.approx(25.5, rel=0.02)
    assert made["colorize"]["input"].shape[0] == 15
    assert np.ptp(made["colorize"]["input"].astype(int), axis=3).max() <= 1
    hole = questions.moving_square(16, 64, 64)
    np.testing.assert_array_equal(made["inpaint"]["input"][~hole], frames[~hole])


def test_the_network_never_sees_what_the_damage_took(films: Path, colour: str) -> None:
    """Two clips that are damaged into the same bytes are restored into the same."""
    settings = request(films, colour)
    model, frames = open_model(settings), clip(16)
    other = frames.copy()
    hole = questions.moving_square(16, 64, 64)
    other[hole] = 255 - other[hole]
    question = PROTOCOLS["restore-v1"].questions["inpaint"]
    one, two = (np.concatenate(list(question.answer(model, x[None], [1], settings))) for x in (frames, other))
    np.testing.assert_array_equal(one, two)
    frames = frames // 8 * 4 + 60  # means of four are whole numbers
    finer = frames.astype(int)
    finer[:, ::2, ::2] += 3 * (-1) ** np.arange(3)
    finer[:, 1::2, 1::2] -= 3 * (-1) ** np.arange(3)
    question = PROTOCOLS["restore-v1"].questions["upscale_2x"]
    one, two = (
        np.concatenate(list(question.answer(model, x[None], [1], settings))) for x in (frames, finer.astype(np.uint8))
    )
    np.testing.assert_array_equal(one, two)


def test_a_sample_does_not_depend_on_what_shares_its_batch(
    films: Path, colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings, question = request(films, colour, samples=2), PROTOCOLS["real-v1"].questions["interpolation_4x"]
    model, asked = open_model(settings), np.stack([clip(13), clip(13, seed=1)])
    frames, seeds = canvases(asked, settings, "set", "clip")
    assert len(set(seeds)) == len(frames) == 4
    assert all(0 <= seed < 2**63 for seed in seeds)
    np.testing.assert_array_equal(frames[[0, 1]], asked[[0, 0]])
    (together,) = question.answer(model, frames, seeds, settings)
    monkeypatch.setattr(questions, "BATCH", 3)
    parts = list(question.answer(model, frames, seeds, settings))
    assert [len(part) for part in parts] == [3, 1]
    assert abs(np.concatenate(parts).astype(int) - together).max() <= 1


# ---------------------------------------------------------------------------------------------------------------------
# Digits


def fake_digits(folder: Path, split: str) -> torch.Tensor:
    assert split == "test"
    images = torch.zeros(10, 28, 28, dtype=torch.uint8)
    for i in range(10):
        images[i, 4 + i : 10 + i, 6:22] = 255
    return images


def test_digits_are_judged_as_mcvd_does(grey: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(questions, "load_images", fake_digits)
    events, report = run(request(tmp_path, grey, protocol="mcvd-digits", clips=2, samples=2))
    result = report["sets"]["digits"]["tasks"]["prediction"]
    assert result["clips"] == result["windows"] == 2
    truth = (digits_of(fake_digits(tmp_path, "test"), 1, 15) + 1) / 2
    error = (truth[5:] - truth[4]).square().mean(dim=(1, 2, 3)).mean()  # over frames first, then decibels
    assert result["by_clip"]["1"]["last_frame"]["psnr_clip"] == pytest.approx(-10 * math.log10(error), abs=0.01)
    assert report["psnr"] == "psnr_clip"
    metric = next(event for event in events if isinstance(event, Metric))
    assert metric.values["psnr_best"] == pytest.approx(result["figures"]["best"]["psnr_clip"], abs=1e-4)
    assert "digits" in as_table(report)


def test_ssim_of_digits_is_of_black_and_white() -> None:
    question = PROTOCOLS["mcvd-digits"].questions["prediction"]
    frames = np.where(clip(15)[..., :1] > 120, np.uint8(255), np.uint8(0))
    dim = np.where(frames > 0, np.uint8(150), np.uint8(90))[5:]
    assert judge(frames, question, dim[None], dim, binary=True)["single"]["ssim"] == 1
    assert judge(frames, question, dim[None], dim)["single"]["ssim"] < 0.9


def test_digits_come_from_one_folder(tmp_path: Path, grey: str) -> None:
    with pytest.raises(UserError, match="one folder"):
        run(Evaluate(data=(tmp_path, tmp_path), checkpoint=grey, protocol="mcvd-digits"))
    with pytest.raises(UserError, match="no MNIST images"):
        run(Evaluate(data=(tmp_path,), checkpoint=grey, protocol="mcvd-digits"))


# ---------------------------------------------------------------------------------------------------------------------
# What goes wrong


def test_existing_files_are_refused_before_any_work(films: Path, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("mine")
    settings = request(films / "plain", "no such checkpoint", report=tmp_path / "report.json")
    with pytest.raises(UserError, match="--overwrite"):
        run(settings)
    (tmp_path / "plain.prediction.png").write_text("mine")
    with pytest.raises(UserError, match=r"prediction\.png exists"):
        run(request(films / "plain", "no such checkpoint", sheet=tmp_path))
    assert (tmp_path / "report.json").read_text() == "mine"


def test_existing_files_are_replaced_when_asked(films: Path, colour: str, tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text("mine")
    report = tmp_path / "report.json"
    run(request(films / "plain", colour, report=report, overwrite=True, samples=1))
    assert json.loads(report.read_text())["protocol"] == "real-v1"


def test_stopping_leaves_no_report(films: Path, colour: str, tmp_path: Path) -> None:
    story = evaluate(request(films / "squares", colour, report=tmp_path / "report.json"))
    for _ in range(3):
        next(story)
    story.close()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("package", ["cv2", "skimage.metrics"])
def test_a_missing_extra_is_said_at_once(
    package: str, films: Path, colour: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingExtra, match=r"videodiff\[metrics\]") as caught:
        next(evaluate(request(films / "squares", colour)))
    assert caught.value.exit_code == 7


# ---------------------------------------------------------------------------------------------------------------------
# Real data


def test_sets_of_real_clips_give_four_windows_each(shared: Path, colour: str) -> None:
    data = shared / "data"
    settings = Evaluate(data=(data / "weizmann", data / "ucsd_ped2"), checkpoint=colour, clips=1)
    model, sets = open_model(settings), questions.real_clips(settings)
    assert set(sets) == {"weizmann", "ucsd_ped2"}
    shapes = [window.shape for clips in sets.values() for read in clips.values() for window in read(model)]
    assert shapes == 4 * [(16, 64, 64, 3)] + 4 * [(16, 64, 96, 3)]


def test_the_last_frame_of_real_digits_is_where_it_has_always_been(shared: Path, grey: str) -> None:
    settings = request(shared / "data/mnist", grey, protocol="mcvd-digits", clips=8, samples=1)
    model = open_model(settings)
    question, values = PROTOCOLS["mcvd-digits"].questions["prediction"], []
    for read in questions.digit_clips(settings)["digits"].values():
        (frames,) = read(model)
        still = np.repeat(frames[4:5], 10, axis=0)
        values.append(judge(frames, question, still[None], still, binary=True)["last_frame"]["psnr_clip"])
    assert 10 < np.mean(values) < 15  # 11.7 over all 256 test clips
