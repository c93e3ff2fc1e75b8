"""`videodiff bpd`: figures that say what they are, add up, and are the same however they are asked for."""

import json
import math
from pathlib import Path

import numpy as np
import pytest

from videodiff import cli, video
from videodiff.bpd import bpd
from videodiff.denoiser import Cancelled
from videodiff.errors import UserError
from videodiff.events import Event, Metric, Note, Progress
from videodiff.settings import Bpd


@pytest.fixture(scope="module")
def clips(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two short lossless clips and a file that is none."""
    folder = tmp_path_factory.mktemp("clips")
    rng = np.random.default_rng(0)
    smooth = np.linspace(60, 180, 16)[None, :, None, None] + 5 * np.arange(10)[:, None, None, None]
    video.write(folder / "smooth.mkv", np.broadcast_to(smooth, (10, 16, 16, 3)).astype(np.uint8), fps=8)
    video.write(folder / "wild.mkv", rng.integers(0, 256, (10, 16, 16, 3), dtype=np.uint8), fps=8)
    return folder


def events(tiny: Path, paths: list[Path], **changes: object) -> list[Event]:
    settings = Bpd(input=tuple(paths), checkpoint=str(tiny), **{"steps": 4, "device": "cpu", **changes})  # type: ignore[arg-type]
    return list(bpd(settings, paths))


def figures(found: list[Event]) -> dict[str, dict[str, float]]:
    return {event.name: event.values for event in found if isinstance(event, Metric)}


def test_the_parts_of_the_bound_add_up(tiny: Path, clips: Path) -> None:
    rows = figures(events(tiny, [clips / "smooth.mkv", clips / "wild.mkv"]))
    assert list(rows) == ["smooth.mkv", "wild.mkv", "mean"]
    for name in ("smooth.mkv", "wild.mkv"):
        row = rows[name]
        assert row["vlb_bpd"] == pytest.approx(row["prior"] + row["reconstruction"] + row["diffusion"], rel=1e-12)
        assert row["ode_bpd"] == pytest.approx(-row["ode_nats_per_dim"] / math.log(2) + math.log2(127.5), rel=1e-12)
        assert (row["frames"], row["height"], row["width"]) == (8, 16, 16)
        assert all(math.isfinite(value) for value in row.values())
    for key in ("ode_bpd", "vlb_bpd"):
        assert rows["mean"][key] == pytest.approx((rows["smooth.mkv"][key] + rows["wild.mkv"][key]) / 2)


def test_the_notes_state_formula_scale_and_ends(tiny: Path, clips: Path) -> None:
    found = events(tiny, [clips / "smooth.mkv"])
    text = "\n".join(event.text for event in found if isinstance(event, Note))
    for part in ("log2(256 / 2.0078)", "6.994", "p / 127.5 - 1", "truncated at s = 0.02", "s 10 to 0.02", "prior +"):
        assert part in text, part
    least = math.log2(127.5 * 0.02 * math.sqrt(2 * math.pi))
    assert f"{least:.2f} bits" in text
    assert [(e.done, e.total) for e in found if isinstance(e, Progress)] == [(1, 3), (2, 3), (3, 3)]


def test_one_method_is_computed_if_one_is_asked_for(tiny: Path, clips: Path) -> None:
    both = figures(events(tiny, [clips / "wild.mkv"], probes=3))["wild.mkv"]
    assert both["ode_error"] > 0
    for method, other in (("ode", "vlb"), ("vlb", "ode")):
        row = figures(events(tiny, [clips / "wild.mkv"], method=method, probes=3))["wild.mkv"]
        assert not [key for key in row if key.startswith(other)]
        assert row.items() <= both.items()  # and it is the same figure


def test_a_folder_is_all_of_its_clips_and_what_is_no_clip_is_skipped(
    tiny: Path, clips: Path, tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    for clip in clips.iterdir():
        (tmp_path / clip.name).write_bytes(clip.read_bytes())
    (tmp_path / "broken.mp4").write_bytes(b"no film")
    quick = ["--checkpoint", str(tiny), "--steps", "3", "--method", "vlb", "--device", "cpu"]
    assert cli.run(["bpd", str(tmp_path), *quick, "--json"]) == 0
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["name"] for line in lines if line["event"] == "metric"] == ["smooth.mkv", "wild.mkv", "mean"]
    assert any("skipped broken.mp4" in line["text"] for line in lines if line["event"] == "note")
    assert cli.run(["bpd", str(tmp_path / "broken.mp4"), *quick]) == 3
    assert cli.run(["bpd", str(clips / "wild.mkv"), str(clips / "smooth.mkv"), *quick, "--dry-run"]) == 0
    assert "bits of 2 clips" in capsys.readouterr().err


def test_frames_and_size_are_as_asked(tiny: Path, clips: Path) -> None:
    row = figures(events(tiny, [clips / "smooth.mkv"], frames=3, size=32, method="vlb"))["smooth.mkv"]
    assert (row["frames"], row["height"], row["width"]) == (3, 32, 32)
    found = events(tiny, [clips / "smooth.mkv"], frames=20, method="vlb")
    assert figures(found)["smooth.mkv"]["frames"] == 10
    assert any("has 10 frames, not 20" in event.text for event in found if isinstance(event, Note))


def test_it_can_be_stopped_at_the_next_evaluation(tiny: Path, clips: Path) -> None:
    asked = iter(range(100))
    settings = Bpd(input=(clips / "wild.mkv",), checkpoint=str(tiny), steps=8, device="cpu")
    with pytest.raises(Cancelled):
        list(bpd(settings, [clips / "wild.mkv"], lambda: next(asked) == 3))
    assert next(asked) == 4


def test_no_clip_at_all_is_refused(tiny: Path, tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        (tmp_path / name).write_bytes(b"no film")
    with pytest.raises(UserError, match="none of the 2 clips"):
        events(tiny, [tmp_path / "a.mp4", tmp_path / "b.mp4"])
