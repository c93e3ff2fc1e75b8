"""Checkpoint folders as they lie on disk, without torch: where they are, what they say of themselves, their digest.

A folder holds `config.json`, `model.safetensors` (in shards) and `README.md`, the card. `describe` reads the config and
the headers of the weights, never the weights; whether they make a network, `checkpoint.load` finds out.
"""

import contextlib
import hashlib
import json
import math
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from videodiff.errors import CheckpointError, OutOfResources

MAX_CONFIG_BYTES = 1_000_000
MAX_HEADER_BYTES = 10_000_000
MAX_CARD_BYTES = 200_000
MEASURED = "measured.json"
"""The file in a state of a training run that says how good it is."""
KEYS = ("network", "model", "spread", "levels", "window")
SHIPPED = (Path(__file__).resolve().parents[1] / "checkpoints", Path(__file__).resolve().parent / "_checkpoints")


@dataclass(frozen=True)
class Description:
    """What a checkpoint folder says of itself; nothing of it has been tried.

    parameters: numbers in the weights; bytes: size of config, weights and card; frames, side: the window it was trained
    on, frames and pixels of the short side; channels: 1 grey, 3 colour; licence: "" if the card names none.
    """

    folder: Path
    name: str
    network: str
    channels: int
    frames: int
    side: int
    parameters: int
    bytes: int
    digest: str
    licence: str
    card: str
    training: dict[str, Any]


def names() -> list[str]:
    """The shipped checkpoints."""
    return sorted({f.parent.name for root in SHIPPED if root.is_dir() for f in root.glob("*/config.json")})


def find(name: str) -> Path:
    """The folder of a checkpoint given by name or path; of a training run, the best state, or else the newest."""
    given = Path(name).expanduser()
    with contextlib.suppress(OSError):  # a name longer than the system allows is no checkpoint either
        for folder in (*(root / name for root in SHIPPED), given, *filter(None, [best(given)]), *states(given)):
            for place in (folder, former(folder)):
                if (place / "config.json").is_file():
                    return place
    raise CheckpointError(
        f"no checkpoint {name!r}; shipped are {', '.join(names()) or 'none'}, "
        "or give a folder that holds config.json and model.safetensors"
    )


def states(run: Path) -> list[Path]:
    """The saved states of a training run, the newest first."""
    return sorted(run.glob("step-*"), reverse=True)


def best(run: Path) -> Path | None:
    """The state of a training run whose measured loss is least; None where no state says what was measured of it.

    Figures are compared with those taken on the same examples as the last one: a run may go on with other clips.
    """
    found = [(*figure, state) for state in states(run) if (figure := measured(state)) is not None]
    return min((row for row in found if row[1] == found[0][1]), key=lambda row: row[0])[2] if found else None


def measured(state: Path) -> tuple[float, str] | None:
    """What a training run measured of its state: the loss, and which examples and loss that was; None if nothing."""
    file = state / MEASURED
    try:
        if not file.is_file() or file.stat().st_size > MAX_CONFIG_BYTES:
            return None
        told = json.loads(file.read_text(encoding="utf-8"))
        loss, on = float(told["loss"]), str(told["on"])
    except (OSError, ValueError, RecursionError, TypeError, KeyError, OverflowError):
        return None  # what cannot be read says nothing; the state itself lies in other files
    return (loss, on) if math.isfinite(loss) else None


def former(folder: Path) -> Path:
    """Where a folder lies while another takes its place: all there is if the process is killed between two renames."""
    folder = folder.absolute()
    return folder.with_name(f".{folder.name}.old") if folder.name else folder


def digest(folder: Path) -> str:
    """The first 16 hex digits of the SHA-256 over config and weights: what a result says it was made with."""
    total = hashlib.sha256()
    for file in [folder / "config.json", *sorted(folder.glob("model*.safetensors"))]:
        with open(file, "rb") as f:
            while block := f.read(2**20):
                total.update(block)
    return total.hexdigest()[:16]


def describe(folder: Path) -> Description:
    """What lies in `folder`, by its config, card and the headers of its weights; CheckpointError if it is not ours."""
    config = read_config(folder)
    weights = sorted(folder.glob("model*.safetensors"))
    if not weights:
        raise CheckpointError(f"{folder} lacks model.safetensors, which holds the weights; fetch the folder again")
    window, model = config["window"], config["model"]
    try:
        channels, frames, side = (int(x) for x in (model.get("channels", 3), window["frames"], window["side"]))
        training = dict(config.get("training") or {})
    except (AttributeError, KeyError, TypeError, ValueError, OverflowError) as error:
        raise CheckpointError(f"{folder}/config.json does not say which clips the network takes: {error}") from error
    card = read_card(folder)
    licence = re.match(r"---\n(?:.*\n)*?license:[ \t]*(\S.*?)[ \t]*\n", card)
    files = [folder / "config.json", *weights, *folder.glob("README.md")]
    return Description(
        folder, folder.name, str(config["network"])[:60], channels, frames, side,
        sum(map(parameters, weights)), sum(file.stat().st_size for file in files), digest(folder),
        licence.group(1)[:60] if licence else "", card, training,
    )  # fmt: skip


def read_config(folder: Path) -> dict[str, Any]:
    """The object in `config.json`, with all the keys of a checkpoint of ours."""
    file = folder / "config.json"
    try:
        if file.stat().st_size > MAX_CONFIG_BYTES:
            raise CheckpointError(f"{file} is larger than {MAX_CONFIG_BYTES} bytes; that is no config of ours")
        config = json.loads(file.read_text(encoding="utf-8"))
    except (ValueError, RecursionError, OSError) as error:
        raise CheckpointError(f"{file} is not JSON: {error}; fetch the folder again") from error
    missing = set(KEYS) - set(config if isinstance(config, dict) else ())
    if missing:
        raise CheckpointError(f"{file} is not a videodiff checkpoint (lacks {', '.join(sorted(missing))})")
    return config


def read_card(folder: Path) -> str:
    """The text of the card, at most MAX_CARD_BYTES of it; "" if there is none."""
    card = folder / "README.md"
    if not card.is_file():
        return ""
    with open(card, "rb") as f:
        return f.read(MAX_CARD_BYTES).decode("utf-8", "replace").replace("\r\n", "\n")


def parameters(file: Path) -> int:
    """How many numbers a safetensors file holds, by its header; CheckpointError if that does not fit the file."""
    broken = f"{file} cannot be read as safetensors"
    try:
        with open(file, "rb") as f:
            size = int.from_bytes(f.read(8), "little")
            if size > MAX_HEADER_BYTES:
                raise CheckpointError(f"{file}: a header of {size:.1e} bytes; a checkpoint of ours has less than 1e7")
            header = json.loads(f.read(size))
        tensors = [row for key, row in header.items() if key != "__metadata__"]
        end = max((int(row["data_offsets"][1]) for row in tensors), default=0)
        total = sum(math.prod(int(n) for n in row["shape"]) for row in tensors)
    except (ValueError, RecursionError, OSError, AttributeError, KeyError, TypeError, IndexError) as error:
        raise CheckpointError(f"{broken}: {error}; fetch the folder again") from error
    if end != file.stat().st_size - 8 - size:
        raise CheckpointError(f"{broken}: it ends too early or too late; fetch the folder again")
    if total > end:  # a number takes two bytes or four
        raise CheckpointError(f"{broken}: its shapes ask for {total:.1e} numbers, it has {end:.1e} bytes")
    return total


# ---------------------------------------------------------------------------------------------------------------------
# Adding

PICKLES = (".pt", ".pth", ".ckpt", ".bin", ".pkl", ".pickle")
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,59}")
RESERVED = re.compile(r"(?i)(con|prn|aux|nul|com\d|lpt\d)(\..*)?|.*\.(old|part)")


def add(files: Iterable[Path], home: Path, name: str, verify: Callable[[Path], None]) -> Path:
    """Copy the files of a checkpoint to `home/name`, which appears at once or not at all; returns that folder.

    Only config, weights and card are taken, whatever else lies there. `verify` looks at the copy and raises
    CheckpointError; so does this, for files that are not ours by their names or headers.
    """
    if not NAME.fullmatch(name) or RESERVED.fullmatch(name):
        raise CheckpointError(
            f"{name[:80]!r} cannot name a checkpoint; use letters, digits, dots and hyphens, such as my-net"
        )
    if (home / name).exists():
        raise CheckpointError(f"there is a checkpoint {name!r} already; choose another name, or remove that one first")
    given = list(files)
    taken = [f for f in given if f.name in ("config.json", "README.md") or f.match("model*.safetensors")]
    pickles = [f.name for f in given if f.suffix.lower() in PICKLES]
    if pickles and not any(f.suffix == ".safetensors" for f in taken):
        raise CheckpointError(
            f"{pickles[0]} is a pickle, which can run any code when it is opened, so it never is; "
            "convert it to safetensors where you trust it, and add config.json and model.safetensors"
        )
    if not any(f.name == "config.json" for f in taken):
        raise CheckpointError(
            "config.json is missing; a checkpoint is config.json, model.safetensors and perhaps README.md"
        )
    part = home / f".{name}.part"
    shutil.rmtree(part, ignore_errors=True)
    try:
        part.mkdir(parents=True)
        for file in taken:
            shutil.copyfile(file, part / file.name)
        describe(part)
        verify(part)
        part.rename(home / name)
    except CheckpointError as error:  # who added it knows nothing of the copy
        raise CheckpointError(str(error).replace(str(part), name).replace(part.name, name)) from error
    except OSError as error:
        raise OutOfResources(f"{name} could not be copied: {error.strerror}; make room, then add it again") from error
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return home / name
