"""What clips a folder holds: which files and folders of pictures they are, of which split, and which can be used.

`find_clips(folder)` lists the clips of a split by their names; `survey(folder)` opens each as well, and says what
would be left out of training, and why. No torch is needed to look.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from videodiff.errors import LimitExceeded, UnreadableInput, UserError
from videodiff.video.reader import probe, read
from videodiff.video.shapes import ClipInfo

SPLITS = ("train", "test", "val", "valid", "validation")
MOVING = {".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp", ".ts", ".ogv", ".flv"}
MOVING |= {".gif", ".webp", ".apng"}
STILL = {".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff"}


def find_clips(folder: Path | str, split: str = "train", names: Path | str | None = None) -> list[Path]:
    """The clips of one split, sorted, as paths below `folder`.

    names: a text file with one path below `folder` a line decides alone; `<split>.txt` in the folder is taken as one.
    Otherwise a clip belongs to the split that a folder on its way is named after (train, test, val, ...), and what has
    no such name is training material.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise UserError(f"no folder at {folder}; give one that has clips in it")
    listed = Path(names) if names else folder / f"{split}.txt"
    if names or listed.is_file():
        clips = read_names(folder, listed)
    else:
        clips = [path for path in walk(folder) if split_of(path.relative_to(folder)) == split]
        others = {clip for other in SPLITS if other != split for clip in read_names(folder, folder / f"{other}.txt")}
        clips = [path for path in clips if path not in others]
    if not clips:
        raise UserError(
            f"no clips for '{split}' in {folder}; put videos there or in {folder}/{split}, or list them in {split}.txt"
        )
    return clips


def walk(folder: Path) -> list[Path]:
    """Every clip below `folder`, sorted; a folder with two pictures or more counts as one clip."""
    found: list[Path] = []
    for here, folders, files in os.walk(folder):
        folders[:] = [name for name in folders if not name.startswith(".")]
        seen = [Path(here, name) for name in files if not name.startswith(".")]
        found += [path for path in seen if path.suffix.lower() in MOVING]
        if sum(path.suffix.lower() in STILL for path in seen) > 1:
            found.append(Path(here))
    return sorted(found)


def split_of(path: Path) -> str:
    """The split a relative path belongs to by the names of its folders."""
    return next((part.lower() for part in path.parts if part.lower() in SPLITS), "train")


def read_names(folder: Path, listed: Path) -> list[Path]:
    """The clips a list names; a list that is not there names none."""
    if not listed.is_file():
        return []
    return sorted(folder / line.strip() for line in listed.read_text().splitlines() if line.strip())


@dataclass(frozen=True)
class Found:
    """A clip of a folder: what it says of itself, or why it cannot be used (`problem`)."""

    path: Path
    info: ClipInfo | None = None
    problem: str = ""


def survey(folder: Path | str, split: str = "train") -> Iterator[Found]:
    """Each clip of a split, opened and its first two frames decoded. Damage further on shows when it is packed."""
    for path in find_clips(folder, split):
        try:
            if not path.exists():
                raise UnreadableInput("listed, but not there")
            info = probe(path)
            frames = len(read(path, num_frames=2, short_side=16).frames)
            if frames < 2:
                raise UnreadableInput(f"a clip needs two frames, it has {frames}")
        except (UnreadableInput, LimitExceeded) as error:
            yield Found(path, problem=str(error))
        else:
            yield Found(path, info)
