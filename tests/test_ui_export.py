"""Results in another form: what is exported is what was made, once, and a full disk leaves nothing behind."""

import io
import signal
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from PIL import Image

from videodiff import service, video
from videodiff.errors import OutOfResources, UserError
from videodiff.settings import Generate
from videodiff_ui.export import FORMS, export

resource = pytest.importorskip("resource")  # the limits of a process, where the system has them


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Path:
    """A lossless result of five frames."""
    output = tmp_path_factory.mktemp("made") / "made.generate.mkv"  # as a queue names it
    settings: dict[str, Any] = {"checkpoint": str(tiny), "seed": 1, "steps": 2, "width": 16, "height": 16}
    for _ in service.run(Generate(output=output, frames=5, device="cpu", precision="float32", **settings)):
        pass
    return output


@contextmanager
def no_file_beyond(size: int) -> Iterator[None]:
    """The system itself refuses to write more than `size` bytes into one file."""
    before, told = resource.getrlimit(resource.RLIMIT_FSIZE), signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, told)


@pytest.mark.parametrize("form", FORMS)
def test_an_export_has_every_frame_and_is_written_once(result: Path, tmp_path: Path, form: str) -> None:
    frames = np.asarray(video.read(result, trusted=True).frames)
    made = export(result, form, tmp_path)
    assert made.is_relative_to(tmp_path / "gradio")
    assert export(result, form, tmp_path) == made
    if form == "sheet":
        assert Image.open(made).size[0] > 5 * frames.shape[2]
    elif form == "frames":
        with zipfile.ZipFile(made) as archive:
            names = sorted(name for name in archive.namelist() if name.endswith(".png"))
            pictures = [np.asarray(Image.open(io.BytesIO(archive.read(name))).convert("RGB")) for name in names]
        assert np.array_equal(pictures, frames)
    else:
        again = np.asarray(video.read(made, trusted=True).frames)
        assert again.shape == frames.shape
        if form == "lossless":
            assert np.array_equal(again, frames)
    result.touch()
    assert export(result, form, tmp_path) != made  # it may be another clip by now


@pytest.mark.parametrize("form", FORMS)
def test_a_full_disk_is_told_and_nothing_half_is_left(result: Path, tmp_path: Path, form: str) -> None:
    with no_file_beyond(100), pytest.raises(OutOfResources, match="disk is full"):
        export(result, form, tmp_path)
    assert not list((tmp_path / "gradio").iterdir())
    assert export(result, form, tmp_path).is_file()


def test_what_cannot_be_exported_is_told(result: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="choose one of mp4"):
        export(result, "avi", tmp_path)
