"""What the documents show runs as shown."""

import re
import shlex
import subprocess
import tomllib
from pathlib import Path

import numpy as np
import pytest

from videodiff import checkpoint, cli, video
from videodiff.models import unet

ROOT = Path(__file__).resolve().parents[1]


def blocks(document: str, language: str) -> list[str]:
    """The fenced blocks of a document in one language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(encoding="utf-8"), re.DOTALL)


@pytest.fixture
def desk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the files the README speaks of."""
    y, x = np.mgrid[:64, :64]
    frames = np.stack([np.stack([(x * 3 + 4 * t) % 256, (y * 4) % 256, 0 * x + 90], -1) for t in range(12)]).astype(
        np.uint8
    )
    video.write(tmp_path / "clip.mp4", frames, fps=8)
    (tmp_path / "clips").mkdir()
    video.write(tmp_path / "clips" / "one.mp4", np.concatenate([frames, frames]), fps=8)
    for name, frame in (("first", frames[0]), ("last", frames[-1]), ("mask", 255 * (abs(frames[0] - 128.0) < 40))):
        folder = tmp_path / f"{name}-frames"
        video.write(folder, [frame.astype(np.uint8)], fps=8)
        next(folder.glob("*.png")).rename(tmp_path / f"{name}.png")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_readme_commands_run(desk: Path) -> None:
    """Every command of the README ends well with the files it speaks of."""
    for block in blocks("README.md", "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["videodiff"] and words[1] not in ("evaluate", "ui"):
                assert cli.run(words[1:]) == 0, line
    for block in blocks("README.md", "python"):
        exec(compile(block, "README.md", "exec"), {})
    assert (desk / "next.mp4").is_file()


def test_readme_options_exist() -> None:
    """Every command of the README is understood, without running it."""
    app = cli.build()
    for block in blocks("README.md", "bash"):
        for line in block.splitlines():
            words = shlex.split(line, comments=True)
            if words[:1] == ["videodiff"]:
                app.parse_args(words[1:], exit_on_error=False, print_error=False)


@pytest.mark.parametrize("block", blocks("docs/extending.md", "python"))
def test_extending_examples_run(block: str) -> None:
    """The worked examples of docs/extending.md work."""
    from videodiff import masks, sampling

    before = (dict(masks.MASKS), dict(sampling.SAMPLERS))
    try:
        exec(compile(block, "docs/extending.md", "exec"), {})
        assert len(masks.MASKS) + len(sampling.SAMPLERS) == len(before[0]) + len(before[1]) + 1
    finally:
        for family, kept in zip((masks.MASKS, sampling.SAMPLERS), before, strict=True):
            family.clear()
            family.update(kept)


def test_paths_in_the_readme_exist() -> None:
    """Every file the README names is there."""
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    linked = re.findall(r"\]\(([^)#:]+)\)", text)
    table = re.findall(r"^\| (`.*?`) \|", text, re.MULTILINE)
    named = [n for row in table for n in re.findall(r"`([^`]+)`", row)]
    for name in linked:
        assert (ROOT / name).exists(), name
    for name in named:
        assert any((root / name).exists() for root in (ROOT, ROOT / "videodiff")), name


def test_space_header_is_valid() -> None:
    """The front matter has what a Gradio Space needs, and its file list agrees with the project."""
    header = (ROOT / "README.md").read_text(encoding="utf-8").split("---")[1]
    fields = dict(re.findall(r"^(\w+): (.+)$", header, re.MULTILINE))
    assert fields["sdk"] == "gradio"
    assert re.fullmatch(r"6\.\d+\.\d+", fields["sdk_version"])
    assert fields["license"] == "apache-2.0"
    assert len(fields["short_description"]) <= 60
    assert {"title", "emoji", "colorFrom", "colorTo", "app_file"} <= set(fields)


def test_requirements_equal_the_dependencies() -> None:
    """A Space reads requirements.txt, everyone else pyproject.toml; a Space needs the app as well."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    listed = (ROOT / "requirements.txt").read_text(encoding="utf-8").split("\n")[:-1]
    assert listed == project["dependencies"] + project["optional-dependencies"]["ui"]


@pytest.mark.parametrize("name", checkpoint.names())
def test_shipped_checkpoints_load_and_state_their_origin(name: str) -> None:
    """A card names data, licence, command, time and scores; the weights fit the config."""
    bundle = checkpoint.load(name)
    assert isinstance(bundle.model, unet.Config)
    card = (checkpoint.find(name) / "README.md").read_text(encoding="utf-8")
    for part in ("## Data", "## Training", "## Scores", "licen"):
        assert part in card, part


def test_all_shipped_models_are_small() -> None:
    """At most 40 MB together, no file over 10 MB."""
    files = [f for f in (ROOT / "checkpoints").rglob("*") if f.is_file()]
    assert sum(f.stat().st_size for f in files) <= 40e6
    assert all(f.stat().st_size <= 11e6 for f in files)


def test_the_project_speaks_only_of_itself() -> None:
    """No absolute paths of a developer's machine in any text file."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True)
    if listed.returncode:
        pytest.skip("not a git checkout")
    for file in map(ROOT.joinpath, listed.stdout.splitlines()):
        parts = file.relative_to(ROOT).parts
        if any(p.startswith(".") and p != ".ci" for p in parts) or file.suffix not in (
            ".py",
            ".md",
            ".toml",
            ".json",
            ".txt",
        ):
            continue
        text = file.read_text(encoding="utf-8")
        for stray in ("/wor" + "k/", "/roo" + "t/", "/hom" + "e/"):
            assert stray not in text, f"{file} names {stray}"
