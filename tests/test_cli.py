"""Every command line ends with the exit code it should, and says why in one line; help costs nothing."""

import errno
import json
import os
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch

import videodiff
from videodiff import cli, losses, masks, noise, pipeline, restoration, sampling, settings, tasks, video
from videodiff.models import NETWORKS

ROOT = str(Path(videodiff.__file__).parents[1])


@pytest.fixture(autouse=True)
def _own_folder(tmp_path, monkeypatch):
    """A command works in its own folder; what it says of signals ends with the test."""
    before = signal.getsignal(signal.SIGTERM)
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.fixture
def quick(tiny) -> list[str]:
    """Options of a quick run."""
    return ["--checkpoint", str(tiny), "--seed", "1", "--steps", "2", "--device", "cpu", "--precision", "float32"]


@pytest.fixture
def clip() -> str:
    """A lossless clip of nine frames, beside the folder the command works in."""
    return make_clip("../clip.mkv")


def merged(quick: list[str], options: list[str]) -> list[str]:
    """The quick options, those given again left out."""
    values = dict(zip(quick[::2], quick[1::2], strict=True))
    kept = [word for name in values if name not in options for word in (name, values[name])]
    return [*kept, *options]


def make_clip(path: str, num_frames: int = 9) -> str:
    video.write(path, np.random.default_rng(num_frames).integers(0, 256, (num_frames, 16, 16, 3), np.uint8), 8)
    return path


def files() -> list[str]:
    return sorted(str(p) for p in Path().rglob("*"))


def refused(capsys, code: int, *arguments: str) -> str:
    """The one line on standard error of a command that ends with `code` and leaves nothing."""
    before = files()
    capsys.readouterr()
    assert cli.run(list(arguments)) == code
    out, err = capsys.readouterr()
    lines = [line for line in err.splitlines() if not line.startswith("note: ")]
    assert len(lines) == 1, err
    assert lines[0].startswith("videodiff: ")
    assert "Traceback" not in err
    assert out == ""
    assert files() == before
    return lines[0]


# ---------------------------------------------------------------------------------------------------------------------
# Every kind of clip. Frames that decode, or the exit code where none does.

CLIPS = {
    "animated_200x150.gif": 36,
    "animated_odd_314x273.gif": 30,
    "asl_signer_yuvj420p.mkv": 65,
    "av1.mkv": 125,
    "corrupt_stream.mp4": 28,
    "derived_empty.mp4": "exit 3",
    "derived_gray_h264.mp4": 60,
    "derived_h264_odd_175x143_yuv444.mp4": 40,
    "derived_mjpeg.avi": 60,
    "derived_truncated_mid.webm": 3,
    "derived_truncated_no_moov.mp4": "exit 3",
    "derived_vfr.mp4": 60,
    "failing_audio.mp4": 280,
    "h264_10bit.mp4": 30,
    "h264_aac_320x240.mp4": 36,
    "h264_full_range_bt709.mp4": 30,
    "hevc_10bit.mp4": 30,
    "hevc_8bit.mp4": 10,
    "microscopy_gray.mov": 480,
    "mpeg1_face.mpg": 75,
    "mpeg4_mp3.avi": 164,
    "nasa_h264_audio.mp4": 325,
    "qcif_carphone.mp4": 120,
    "rotate_0.mov": 3,
    "rotate_180.mov": 3,
    "rotate_270.mov": 3,
    "rotate_90.mov": 3,
    "single_frame.gif": 1,
    "single_frame_h263.3gp": 1,
    "single_frame_hevc.mp4": 1,
    "unordered_pts.mov": 4,
    "vp8_vorbis.webm": 24,
    "vp9_alpha.webm": 150,
    "vp9_no_duration.webm": 74,
}
DAMAGED = {"corrupt_stream.mp4"}


def test_the_table_of_clips_is_complete(shared):
    index = json.loads((shared / "data" / "clips" / "index.json").read_text())
    assert set(index) == set(CLIPS)
    for name, facts in index.items():
        assert CLIPS[name] == facts.get("decoded_frames", "exit 3"), name


@pytest.mark.parametrize("name", CLIPS)
def test_every_clip_is_continued_or_refused_with_its_exit_code(shared, tiny, capsys, name):
    path, frames = shared / "data" / "clips" / name, CLIPS[name]
    command = ["predict", str(path), "--frames", "6", "--steps", "4", "--checkpoint", str(tiny), "--seed", "0"]
    if isinstance(frames, str):
        line = refused(capsys, int(frames.removeprefix("exit ")), *command)
        assert name in line
        return
    assert cli.run(command) == 0
    out, err = capsys.readouterr()
    output = f"{path.stem}.predict.mp4"
    assert out == f"{output}\n"
    assert files() == [output, f"{output}.json"]
    made = video.probe(output)
    assert (made.codec, made.pix_fmt, made.container.split(",")[0]) == ("h264", "yuv420p", "mov")
    assert len(video.read(output).frames) == min(frames, 4) + 6
    assert b"moov" in Path(output).read_bytes()[:64], "the index is in front, as browsers want it"
    assert all(line.startswith("note: ") for line in err.splitlines())
    if name in DAMAGED:
        assert "damaged" in err


# ---------------------------------------------------------------------------------------------------------------------
# Exit codes


@pytest.mark.parametrize(
    "options",
    [
        ["--steps", "0"],
        ["--steps", "many"],
        ["--steps"],
        ["--steps", "1001"],
        ["--frames", "0"],
        ["--frames", "100001"],
        ["--frames", "2.5"],
        ["--sampler", "hun"],
        ["--walk", "slow"],
        ["--seed", "-1"],
        ["--seed", str(2**63)],
        ["--guidance", "-1"],
        ["--guidance", "nan"],
        ["--guidance", "2", "--conditioning", "clamp"],
        ["--guidance-rescale", "0.7"],
        ["--guidance", "2", "--guidance-rescale", "1.5"],
        ["--guidance-interval", "0.3", "5"],
        ["--guidance", "2", "--guidance-interval", "5", "0.3"],
        ["--threshold", "0"],
        ["--threshold", "101"],
        ["--conditioning", "none"],
        ["--repaint-times", "3"],
        ["--conditioning", "repaint", "--repaint-times", "1"],
        ["--conditioning", "repaint", "--sampler", "restart"],
        ["--average", "0"],
        ["--window", "2"],
        ["--window", "257"],
        ["--device", "gpu"],
        ["--device", "cuda"],
        ["--device", "cuda:7"],
        ["--device", "mps"],
        ["--precision", "float8"],
        ["--precision", "float16"],
        ["--attention", "best"],
        ["--threads", "0"],
        ["--size", "8"],
        ["--size", "2000"],
        ["--stride", "0"],
        ["--fps", "0"],
        ["--fps", "inf"],
        ["--start", "-1"],
        ["--start", "2", "--end", "1"],
        ["--end", "0"],
        ["--context", "0"],
        ["--direction", "sideways"],
        ["--nonsense"],
        ["--nonsense", "1"],
        ["--from", "nowhere.json"],
        ["--output", "out.avi"],
        ["--output", "out.txt"],
        ["--output", "nowhere/out.mp4"],
        ["--output", ".."],
        ["another.mp4", "and-another.mp4"],
    ],
    ids=" ".join,
)
def test_a_wrong_option_is_a_usage_error(quick, clip, capsys, options):
    refused(capsys, 2, "predict", clip, *merged(quick, options))


@pytest.mark.parametrize(
    "command",
    [
        ["predikt", "clip.mp4"],
        ["predict"],
        ["interpolate"],
        ["interpolate", "CLIP", "--factor", "3"],
        ["infill", "CLIP"],
        ["infill", "CLIP", "--missing", "3:1"],
        ["infill", "CLIP", "--missing", "0:9"],
        ["infill", "CLIP", "--missing", "7:20"],
        ["infill", "CLIP", "--canvas", "8x8"],
        ["loop"],
        ["loop", "CLIP", "--frames", "0"],
        ["edit", "CLIP", "--strength", "2"],
        ["edit", "CLIP", "--strength", "-0.1"],
        ["edit", "CLIP", "--guide", "CLIP"],
        ["edit", "CLIP", "--guidance", "2"],
        ["edit", "CLIP", "--conditioning", "replace"],
        ["vary", "CLIP", "--amount", "1.1"],
        ["vary", "CLIP", "--sampler", "ddpm"],
        ["vary", "CLIP", "--sampler", "restart"],
        ["morph", "CLIP"],
        ["morph", "CLIP", "--to", "CLIP", "--frames", "20"],
        ["morph", "CLIP", "--to", "CLIP", "--frames", "2"],
        ["restore", "CLIP"],
        ["restore", "CLIP", "--operator", "magic"],
        ["restore", "CLIP", "--operator", "inpaint"],
        ["restore", "CLIP", "--operator", "colorize"],
        ["restore", "CLIP", "--operator", "colorize", "--reference", "CLIP"],
        ["restore", "CLIP", "--operator", "upscale", "--factor", "8"],
        ["restore", "CLIP", "--operator", "denoise", "--noise", "-1"],
        ["restore", "CLIP", "--operator", "denoise", "--blur", "2"],
        ["restore", "CLIP", "--operator", "denoise", "--guidance", "2"],
        ["restore", "CLIP", "--operator", "deblur", "--sampler", "heun"],
        ["restore", "CLIP", "--operator", "slowmo", "--method", "pigdm"],
        ["restore", "CLIP", "--operator", "deblur", "--mask", "CLIP"],
        ["generate", "--width", "1"],
        ["generate", "--fps", "0"],
        ["evaluate"],
        ["evaluate", "nowhere"],
        ["evaluate", "CLIP", "--protocol", "none"],
        ["train", "--preset", "none"],
        ["train", "--steps", "0"],
        ["train", "--batch", "x"],
        ["list", "nothing"],
        ["info", "nowhere.mp4"],
        ["info"],
    ],
    ids=" ".join,
)
def test_a_wrong_command_is_a_usage_error(tiny, clip, capsys, command):
    with_model = ["--checkpoint", str(tiny)] if command[0] in settings.TASKS else []
    refused(capsys, 2, *(clip if word == "CLIP" else word for word in command), *with_model)


def test_wrong_names_get_a_suggestion(quick, clip, capsys):
    assert "predict" in refused(capsys, 2, "predikt", clip)
    assert "heun" in refused(capsys, 2, "predict", clip, *merged(quick, ["--sampler", "hun"]))


def test_a_word_too_many_is_named_with_the_help_that_fits(clip, capsys):
    said = refused(capsys, 2, "morph", clip, "second.mp4")
    assert "'second.mp4'" in said
    assert "`videodiff morph --help`" in said


@pytest.mark.parametrize("what", ["missing", "text", "folder", "protocol", "empty folder"])
def test_an_input_that_is_no_clip_has_code_3(quick, capsys, tmp_path, what):
    path = tmp_path / "input.mp4"
    if what == "text":
        path.write_text("not a clip")
    elif what == "folder":
        path.mkdir()
        (path / "a.txt").write_text("no picture")
    elif what == "empty folder":
        path.mkdir()
    name = "http://127.0.0.1/a.mp4" if what == "protocol" else str(path)
    refused(capsys, 3, "predict", name, *quick)


@pytest.mark.parametrize("name", ["none-such", "../clip.mkv", "..", "x" * 5000, ""])
def test_a_checkpoint_that_is_none_has_code_4(clip, capsys, name):
    assert "checkpoint" in refused(capsys, 4, "predict", clip, "--checkpoint", name)


def test_a_damaged_checkpoint_has_code_4(tiny, clip, capsys, tmp_path):
    folder = tmp_path / "damaged"
    folder.mkdir()
    (folder / "config.json").write_bytes((tiny / "config.json").read_bytes())
    (folder / "model.safetensors").write_bytes((tiny / "model.safetensors").read_bytes()[:-100])
    refused(capsys, 4, "predict", clip, "--checkpoint", str(folder))


@pytest.mark.parametrize(
    "command",
    [
        ["predict", "CLIP", "--size", "1024", "--window", "256"],
        ["generate", "--width", "1024", "--height", "1024", "--window", "200"],
        ["infill", "CLIP", "--canvas", "1024x1024", "--average", "64"],
    ],
    ids=" ".join,
)
def test_over_a_limit_has_code_5(quick, clip, capsys, command):
    line = refused(capsys, 5, *(clip if word == "CLIP" else word for word in command), *quick)
    assert "limit" in line


def test_an_input_over_a_limit_has_code_5(quick, capsys):
    video.write("../long.mkv", (np.full((16, 16, 3), i % 256, np.uint8) for i in range(80)), 0.1)
    assert "max_seconds" in refused(capsys, 5, "interpolate", "../long.mkv", *quick)


def test_of_a_long_film_only_the_end_is_read(quick):
    video.write("../long.mkv", (np.full((16, 16, 3), i % 256, np.uint8) for i in range(80)), 0.1)
    assert cli.run(["predict", "../long.mkv", "--frames", "2", "--output", "next.mkv", *quick]) == 0
    assert video.read("next.mkv", trusted=True).frames[:4, 0, 0, 0].tolist() == [76, 77, 78, 79]


def test_a_full_disk_has_code_6(quick, clip, capsys, monkeypatch):
    def full(*_, **__):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr("videodiff.video.formats.os.fsync", full)
    assert "disk is full" in refused(capsys, 6, "predict", clip, "--frames", "2", *quick)
    monkeypatch.undo()


@pytest.mark.skipif(os.name != "posix", reason="limits the size of files as POSIX systems can")
def test_a_disk_that_is_really_full_has_code_6(quick):
    """No file may grow beyond 3000 bytes: first the frames of a clip do, then its film."""
    make_clip("../clip.mkv", 3)
    limited = "import resource, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (3000, 3000));"
    limited += "from videodiff.cli import main; main()"
    for options in (["--frames", "30"], ["--frames", "1", "--context", "1"]):
        command = [sys.executable, "-c", limited, "predict", os.path.abspath("../clip.mkv"), *quick, *options]
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True)
        assert ended.returncode == 6, ended.stderr
        assert "disk is full" in ended.stderr
        assert len(ended.stderr.splitlines()) == 1
        assert files() == []


def test_memory_that_runs_out_has_code_6(quick, clip, capsys, monkeypatch):
    def greedy(*_):
        return torch.empty(2**50)

    monkeypatch.setattr("videodiff.pipeline.guess", greedy)
    assert "memory ran out" in refused(capsys, 6, "predict", clip, *quick)


def test_an_extra_that_is_not_installed_has_code_7(quick, clip, capsys):
    try:
        import xformers  # noqa: F401
    except ImportError:
        line = refused(capsys, 7, "predict", clip, *quick, "--attention", "xformers")
        assert "xformers" in line
        assert "pip install" in line
    else:
        pytest.skip("xformers is installed here, so nothing is missing")


def test_a_bug_has_code_1_and_its_trace(quick, clip, capsys, monkeypatch):
    def broken(*_):
        raise ZeroDivisionError("a bug")

    monkeypatch.setattr("videodiff.pipeline.guess", broken)
    assert cli.run(["predict", clip, *quick]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "ZeroDivisionError: a bug" in err
    assert "bug of ours" in err
    assert files() == []


def test_nonsense_of_the_network_is_one_line(quick, clip, capsys, monkeypatch):
    monkeypatch.setattr("videodiff.centred.c_noise", lambda s: s * float("nan"))
    assert "not finite" in refused(capsys, 2, "predict", clip, *quick)


@pytest.mark.parametrize("output", ["clip.predict.mp4", "mine.mkv", "pictures"])
def test_an_existing_output_is_refused_and_untouched(quick, clip, capsys, output):
    given = [] if output == "clip.predict.mp4" else ["--output", output]
    if output == "pictures":
        video.write(output, np.zeros((1, 16, 16, 3), np.uint8), 8)
        mine = Path(output, "00000.png")
    else:
        mine = Path(output)
        mine.write_bytes(b"mine")
    before = mine.read_bytes()
    assert "--overwrite" in refused(capsys, 2, "predict", clip, *quick, *given)
    assert mine.read_bytes() == before
    assert cli.run(["predict", clip, *quick, *given, "--overwrite"]) == 0
    assert len(video.read(output).frames) == 20


# ---------------------------------------------------------------------------------------------------------------------
# What is printed


def test_events_are_lines_of_json(quick, clip, capsys):
    assert cli.run(["predict", clip, "--frames", "6", *quick, "--json", "--size", "32", "--sheet"]) == 0
    out, err = capsys.readouterr()
    events = [json.loads(line) for line in out.splitlines()]
    assert err == ""
    assert {event["event"] for event in events} == {"note", "progress", "saved"}
    progress = [event for event in events if event["event"] == "progress"]
    assert [event["done"] for event in progress] == [1, 2, 3, 4]
    assert {event["total"] for event in progress} == {4}
    assert [event["path"] for event in events if event["event"] == "saved"] == [
        "clip.predict.mp4",
        "clip.predict.sheet.png",
    ]


def test_json_stays_json_where_a_figure_is_not_a_number(capsys):
    from videodiff.events import Metric

    cli.print_lines(iter([Metric(1, {"a": float("nan"), "b": float("inf"), "c": 1.5})]))

    def no_constant(name):
        raise AssertionError(f"{name} is no JSON")

    assert json.loads(capsys.readouterr().out, parse_constant=no_constant)["values"] == {"a": None, "b": None, "c": 1.5}


def test_a_dry_run_writes_nothing(quick, clip, capsys):
    assert cli.run(["predict", clip, *quick, "--dry-run", "--sheet"]) == 0
    assert "would write clip.predict.mp4: 20 frames of 16x16, 16 of them new" in capsys.readouterr().err
    assert cli.run(["predict", clip, *quick, "--dry-run", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["data"]["evaluations"] == 8
    assert cli.run(["train", "--dry-run", "--out", "run"]) == 0
    assert files() == []


@pytest.mark.parametrize("command", [[], ["predict"], ["train"], ["list"], ["info"], ["doctor"]], ids=str)
def test_help_is_given(command, capsys):
    assert cli.run([*command, "--help"]) == 0
    assert "Usage: videodiff" in capsys.readouterr().out


def test_every_field_of_a_request_is_an_option_with_help(capsys):
    for name, kind in cli.REQUESTS.items():
        assert cli.run([name, "--help"]) == 0
        text = capsys.readouterr().out
        for field in kind.model_fields:
            if field != "kind" and (kind is not settings.Train or field in cli.TRAIN_OPTIONS):
                assert "--" + field.replace("_", "-") in text, (name, field)


LIGHT = """
import sys, time
began = time.process_time()
from videodiff import cli
for command in {commands}:
    assert cli.run([*command, "--help"]) == 0
heavy = [name for name in ("torch", "numpy", "gradio", "av", "PIL", "safetensors") if name in sys.modules]
assert not heavy, heavy
"""


def test_help_of_every_command_loads_nothing_heavy():
    commands = [[], *([name] for name in (*cli.REQUESTS, "info", "list", "doctor"))]
    subprocess.run(
        [sys.executable, "-c", LIGHT.format(commands=commands)], env=environment(), check=True, capture_output=True
    )


# ---------------------------------------------------------------------------------------------------------------------
# The same again


AGAIN = {
    "predict": ["CLIP", "--frames", "6", "--average", "2", "--sampler", "ddpm"],
    "predict guided": ["CLIP", "--guidance", "2", "--guidance-rescale", "0.5", "--guidance-interval", "0.1", "5"],
    "predict repainted": ["CLIP", "--conditioning", "repaint", "--repaint-times", "2", "--threshold", "99"],
    "predict pulled": ["CLIP", "--conditioning", "reconstruction"],
    "interpolate": ["CLIP", "--factor", "4", "--sampler", "ddpm"],
    "infill": ["CLIP", "--missing", "2:4,6", "--sampler", "ddpm"],
    "loop": ["CLIP", "--frames", "5", "--sampler", "ddpm"],
    "edit": ["CLIP", "--strength", "0.6", "--sampler", "ddpm"],
    "vary": ["CLIP", "--amount", "0.5", "--average", "2"],
    "morph": ["CLIP", "--to", "CLIP", "--frames", "7", "--average", "2"],
    "restore": ["CLIP", "--operator", "denoise"],
    "restore deblur": ["CLIP", "--operator", "deblur", "--method", "pigdm", "--sampler", "ddpm"],
    "restore upscale": ["CLIP", "--operator", "upscale", "--factor", "4"],
    "restore slowmo": ["CLIP", "--operator", "slowmo", "--factor", "4", "--sampler", "ddpm"],
    "generate": ["--frames", "10", "--width", "16", "--height", "16", "--sampler", "ddpm"],
}


def test_every_task_is_made_again():
    assert {name.split()[0] for name in AGAIN} == set(settings.TASKS)


@pytest.mark.parametrize("name", AGAIN)
def test_a_result_makes_itself_again_bit_for_bit(quick, clip, name):
    command, options = name.split()[0], [clip if word == "CLIP" else word for word in AGAIN[name]]
    without_seed = [*quick[:2], *quick[4:]]
    assert cli.run([command, *options, *without_seed, "--output", "first.mp4"]) == 0
    for number, source in enumerate(("first.mp4", "first.mp4.json")):
        assert cli.run([command, "--from", source, "--output", f"again{number}.mp4"]) == 0
        assert Path(f"again{number}.mp4").stat().st_size > 500
        np.testing.assert_array_equal(video.read(f"again{number}.mp4").frames, video.read("first.mp4").frames)
    if command == "morph":
        return  # both codes are found, and nothing is drawn
    assert cli.run([command, "--from", "first.mp4", "--seed", "5", "--output", "other.mp4"]) == 0
    assert (video.read("other.mp4").frames != video.read("first.mp4").frames).any()


@pytest.mark.parametrize("output", ["first.mkv", "first.webm", "first.gif", "first"])
def test_every_form_of_result_holds_its_settings(quick, clip, output):
    assert cli.run(["predict", clip, "--frames", "3", *quick, "--output", output]) == 0
    assert cli.run(["predict", "--from", output, "--output", "again.mkv"]) == 0
    inside, again = video.read_metadata(output)["settings"], video.read_metadata("again.mkv")["settings"]
    assert {**inside, "output": None} == {**again, "output": None}


def test_settings_of_another_command_or_of_none_are_refused(quick, clip, capsys):
    assert cli.run(["predict", clip, "--frames", "2", *quick]) == 0
    assert "videodiff predict" in refused(capsys, 2, "interpolate", "--from", "clip.predict.mp4")
    Path("list.json").write_text("[1, 2]")
    Path("odd.json").write_text('{"settings": {"stepz": 3}}')
    Path("text.json").write_text("{")
    Path("deep.json").write_text("[" * 100_000)
    Path("kind.json").write_text('{"kind": [1]}')
    for name in ("list", "odd", "text", "deep", "kind"):
        refused(capsys, 2, "predict", "--from", f"{name}.json")
    Path("data.json").write_text('{"data": 5}')
    refused(capsys, 2, "train", "--from", "data.json")
    refused(capsys, 2, "predict", "--from", clip)


def test_the_same_seed_gives_the_same_clip_and_another_another(quick, clip):
    for output in ("a.mkv", "b.mkv"):
        assert cli.run(["predict", clip, "--frames", "6", *quick, "--output", output]) == 0
    np.testing.assert_array_equal(video.read("a.mkv").frames, video.read("b.mkv").frames)
    assert cli.run(["predict", clip, "--frames", "6", *merged(quick, ["--seed", "2"]), "--output", "c.mkv"]) == 0
    assert (video.read("a.mkv").frames != video.read("c.mkv").frames).any()


def test_a_folder_of_clips_is_done_clip_by_clip(quick, capsys):
    Path("../clips").mkdir()
    make_clip("../clips/a.mkv")
    make_clip("../clips/b.mkv")
    Path("../clips/bad.mp4").write_text("no clip")
    assert cli.run(["predict", "../clips", "--frames", "2", *quick]) == 0
    out, err = capsys.readouterr()
    assert out.split() == ["a.predict.mp4", "b.predict.mp4"]
    assert err.count("note: skipped bad.mp4") == 1


def test_a_folder_of_pictures_is_one_clip(quick, capsys):
    make_clip("../pictures", 6)
    assert cli.run(["predict", "../pictures", "--frames", "2", *quick]) == 0
    assert capsys.readouterr().out == "pictures.predict.mp4\n"
    assert len(video.read("pictures.predict.mp4").frames) == 6


# ---------------------------------------------------------------------------------------------------------------------
# Questions


@pytest.mark.parametrize("command", [["list"], ["list", "samplers"], ["list", "presets"], ["doctor"]], ids=" ".join)
def test_questions_are_answered(command, capsys):
    assert cli.run(command) == 0
    assert len(capsys.readouterr().out.splitlines()) >= 2
    assert cli.run([*command, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)


def test_lists_hold_every_name(capsys):
    assert cli.run(["list", "--json"]) == 0
    families = json.loads(capsys.readouterr().out)
    assert set(families["samplers"]) == set(sampling.SAMPLERS)
    assert set(families["tasks"]) == set(tasks.TASKS)
    assert set(families["networks"]) == set(NETWORKS)
    assert all(line for family in ("samplers", "tasks", "networks", "datasets") for line in families[family].values())


def test_info_of_a_result_says_how_it_was_made(quick, clip, capsys):
    assert cli.run(["predict", clip, "--frames", "2", *quick]) == 0
    capsys.readouterr()
    assert cli.run(["info", "clip.predict.mp4", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["size"], told["frames"]) == ("16x16", 6)
    assert told["made by videodiff"]["settings"]["seed"] == 1
    assert cli.run(["info", "clip.predict.mp4"]) == 0


def test_info_of_a_checkpoint_says_what_it_takes(tiny, capsys):
    assert cli.run(["info", str(tiny), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert (told["frames in a window"], told["short side"], told["channels"]) == (8, 16, 3)
    assert told["parameters"] > 1000


# ---------------------------------------------------------------------------------------------------------------------
# Choices are declared once and done elsewhere: both must say the same


def test_choices_are_those_that_exist():
    def field(kind, name):
        return get_args(kind.model_fields[name].annotation)

    assert set(get_args(settings.SamplerName)) == set(sampling.SAMPLERS)
    assert set(get_args(settings.WalkName)) == set(sampling.PLANS)
    assert set(get_args(settings.MaskName)) == set(masks.MASKS)
    assert list(settings.TASKS) == list(tasks.TASKS)
    assert set(field(settings.Train, "network")) == set(NETWORKS)
    assert set(field(settings.Levels, "weight")) == set(losses.WEIGHTS)
    assert set(field(settings.Levels, "draw")) == {"lognormal", "log_snr", *noise.SCHEDULES}
    assert set(field(settings.Sampling, "conditioning")) == {"concat", *pipeline.CONDITIONINGS}
    assert set(field(settings.Restore, "method")) == set(restoration.METHODS)
    assert settings.Sampling.model_fields["sampler"].default in sampling.SAMPLERS
    assert settings.Sampling.model_fields["walk"].default == sampling.DEFAULT_PLAN
    from videodiff.questions import PROTOCOLS

    assert set(field(settings.Evaluate, "protocol")) == set(PROTOCOLS)
    for name, kind in {**settings.TASKS, **cli.REQUESTS}.items():
        assert kind.model_fields["kind"].default == name


# ---------------------------------------------------------------------------------------------------------------------
# Signals


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": ROOT, "OMP_NUM_THREADS": "1"}


LONG = {
    "predict": ["predict", "CLIP", "--frames", "5000"],
    "interpolate": ["interpolate", "CLIP", "--factor", "8", "--steps", "1000"],
    "infill": ["infill", "CLIP", "--missing", "2:5", "--steps", "1000", "--output", "pictures"],
    "loop": ["loop", "CLIP", "--frames", "1000", "--steps", "100"],
    "edit": ["edit", "CLIP", "--steps", "1000"],
    "vary": ["vary", "CLIP", "--steps", "1000"],
    "morph": ["morph", "CLIP", "--to", "CLIP", "--steps", "1000"],
    "restore": ["restore", "CLIP", "--operator", "denoise", "--steps", "1000"],
    "generate": ["generate", "--frames", "5000", "--output", "out.webm"],
    "demo": ["demo", "--steps", "1000"],
    "train": ["train", "--out", "run", "--batch", "1", "--device", "cpu"],
    "evaluate": ["evaluate", "FOLDER", "--steps", "40", "--samples", "1", "--report", "report.json"],
}


def interrupt(command: list[str], how: int, after: int = 3) -> subprocess.CompletedProcess:
    """The end of a command that gets a signal once it has told of some progress."""
    process = subprocess.Popen(
        [sys.executable, "-m", "videodiff", *command, "--json"],
        env=environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),  # ignored under nohup
    )
    watchdog = threading.Timer(120, process.kill)
    watchdog.start()
    try:
        seen = 0
        for line in process.stdout:
            seen += json.loads(line)["event"] == "progress"
            if seen == after:
                break
        process.send_signal(how)
        out, err = process.communicate()
    finally:
        watchdog.cancel()
        process.kill()
    return subprocess.CompletedProcess(command, process.returncode, out, err)


@pytest.mark.skipif(os.name != "posix", reason="sends POSIX signals")
@pytest.mark.parametrize(
    ("name", "how"),
    [*((name, signal.SIGINT) for name in LONG), ("predict", signal.SIGTERM), ("train", signal.SIGTERM)],
)
def test_a_stopped_command_leaves_nothing_partial(tiny, clip, name, how):
    Path("../clips").mkdir()
    make_clip("../clips/a.mkv", 40)
    known = {"CLIP": clip, "FOLDER": "../clips"}
    model = [] if name == "train" else ["--checkpoint", str(tiny), "--device", "cpu"]
    command = [*(known.get(word, word) for word in LONG[name]), *model]
    ended = interrupt(command, how, after=1 if name == "evaluate" else 3)
    assert ended.returncode == 130, ended.stderr
    assert ended.stderr.splitlines()[-1].startswith("videodiff: stopped")
    assert "Traceback" not in ended.stderr
    left = [path for path in files() if Path(path).is_file()]
    allowed = {"run/settings.json", "run/log.jsonl"} if name == "train" else set()
    assert set(left) <= allowed, left
    assert not [path for path in files() if path.startswith(".") or ".tmp" in path or path.endswith(".part")]


def test_a_stop_while_code_is_made_has_code_130_too():
    """Such as in the middle of an import: Python would remember it and end by a signal although it was dealt with."""
    code = "from videodiff import cli\ncli.perform = lambda *_: exec('raise KeyboardInterrupt')\ncli.main(['demo'])\n"
    Path("stopped.py").write_text(code)
    ended = subprocess.run([sys.executable, "-m", "stopped"], env=environment(), capture_output=True, text=True)
    assert ended.returncode == 130
    assert ended.stderr == "videodiff: stopped; nothing partial was left\n"
