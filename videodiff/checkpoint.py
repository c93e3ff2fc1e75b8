"""Checkpoint folders: `config.json`, `model.safetensors` (in shards), `README.md` (the card).

A folder is everything: the same config rebuilds the network, and no file in it can run code. This is the only file
that knows safetensors; `shelf.py` finds folders and reads what they say. Sizes are checked against the config before
anything is allocated.
"""

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from videodiff.errors import CheckpointError, OutOfResources
from videodiff.guess import Spread
from videodiff.models import NETWORKS
from videodiff.models.unet import SpaceTimeUNet
from videodiff.settings import validate
from videodiff.shelf import MAX_HEADER_BYTES, digest, find, former, names, read_config

SHARD_BYTES = 10_000_000
DTYPES = ("BF16", "F16", "F32")
MAX_PARAMETERS = 2_000_000_000


__all__ = ["Bundle", "Levels", "Replacing", "Window", "digest", "export", "find", "load", "names", "save"]


@dataclass(frozen=True)
class Levels:
    """The range of s a network was trained for: `min`, and `max` as a multiple of the largest spread of the guess."""

    min: float = 0.02
    max_ratio: float = 20.0


@dataclass(frozen=True)
class Window:
    """What a network is used to: frames in a window, and the short side in pixels."""

    frames: int = 16
    side: int = 64


@dataclass(frozen=True)
class Bundle:
    """A loaded checkpoint: the network on CPU in float32, and what is known of it."""

    name: str
    net: SpaceTimeUNet  # or a network with its interface
    network: str
    model: Any  # the Config of videodiff.models.<network>
    spread: Spread
    levels: Levels
    window: Window
    training: dict[str, Any]
    digest: str

    @property
    def channels(self) -> int:
        """1 for grey, 3 for colour."""
        return self.model.channels


def load(name: str) -> Bundle:
    """The checkpoint `name` (a shipped one, or a folder), rebuilt and checked."""
    folder = find(name)
    config = _read_config(folder)
    model = validate(NETWORKS[config["network"]].Config, config["model"], CheckpointError, f"{folder}/config.json")
    spread = validate(Spread, config["spread"], CheckpointError, f"{folder}/config.json")
    levels = validate(Levels, config["levels"], CheckpointError, f"{folder}/config.json")
    window = validate(Window, config["window"], CheckpointError, f"{folder}/config.json")
    try:
        with torch.device("meta"):
            # Weights that modules share have one name here, and are stored once.
            expected = dict(NETWORKS[config["network"]].build(model).named_parameters())
    except (ValueError, RuntimeError, ArithmeticError, IndexError, AssertionError, TypeError) as error:
        raise CheckpointError(f"{folder}/config.json does not describe a network: {error}") from error
    size = sum(x.numel() for x in expected.values())
    if size > MAX_PARAMETERS:
        raise CheckpointError(f"{folder}/config.json asks for {size:.1e} parameters; at most {MAX_PARAMETERS:.0e}")
    tensors = load_tensors(folder, "model", {name: x.shape for name, x in expected.items()})
    net = NETWORKS[config["network"]].build(model)
    net.load_state_dict({name: x.float() for name, x in tensors.items()}, strict=False)  # the names were checked
    net.eval().requires_grad_(False)
    return Bundle(
        folder.name, net, config["network"], model, spread, levels, window, config.get("training", {}), digest(folder)
    )


def export(state: Path, folder: Path) -> None:
    """Copy the checkpoint within a saved training state - config and EMA weights alone - to a folder to share."""
    with Replacing(folder) as part:
        if (card := folder / "README.md").is_file():
            shutil.copyfile(card, part / "README.md")
        for file in [state / "config.json", *state.glob("model*.safetensors")]:
            shutil.copyfile(file, part / file.name)


def save(
    folder: Path,
    network: str,
    model: Any,
    tensors: Mapping[str, Tensor],
    spread: Spread,
    levels: Levels,
    window: Window,
    training: dict[str, Any],
) -> None:
    """Write a checkpoint folder; it appears complete or not at all. A card already in it is kept."""
    with Replacing(folder) as part:
        if (card := folder / "README.md").is_file():
            shutil.copyfile(card, part / "README.md")
        write_bundle(part, network, model, tensors, spread, levels, window, training)


def write_bundle(
    folder: Path,
    network: str,
    model: Any,
    tensors: Mapping[str, Tensor],
    spread: Spread,
    levels: Levels,
    window: Window,
    training: dict[str, Any],
) -> None:
    """Write `config.json` and the weights, as bf16, into an existing folder."""
    config = {
        "format": 1,
        "network": network,
        "model": asdict(model),
        "spread": asdict(spread),
        "levels": asdict(levels),
        "window": asdict(window),
        "training": training,
    }
    (folder / "config.json").write_text(json.dumps(config, indent=1) + "\n")
    save_tensors(folder, "model", {name: x.detach().bfloat16() for name, x in tensors.items()})


def save_tensors(folder: Path, name: str, tensors: Mapping[str, Tensor], shard_bytes: int = SHARD_BYTES) -> None:
    """`name.safetensors`, or `name-00001-of-0000N.safetensors` with at most `shard_bytes` in each (or one tensor)."""
    shards: list[dict[str, Tensor]] = [{}]
    room = shard_bytes
    for key in sorted(tensors):
        x = tensors[key].detach().contiguous().cpu()
        if shards[-1] and x.nbytes > room:
            shards.append({})
            room = shard_bytes
        shards[-1][key] = x
        room -= x.nbytes
    for i, shard in enumerate(shards):
        file = _shard(name, i, len(shards))
        try:
            save_file(shard, folder / file)
        except (OSError, SafetensorError) as error:
            raise OutOfResources(f"could not write {folder / file}: {error}; free some disk space") from error


def _shard(name: str, i: int, count: int) -> str:
    return f"{name}.safetensors" if count == 1 else f"{name}-{i + 1:05d}-of-{count:05d}.safetensors"


def load_tensors(folder: Path, name: str, shapes: Mapping[str, torch.Size] | None = None) -> dict[str, Tensor]:
    """All tensors of `name`; with `shapes`, exactly these names and shapes, checked before any is read."""
    single, parts = folder / f"{name}.safetensors", sorted(folder.glob(f"{name}-*-of-*.safetensors"))
    files = [single] if single.is_file() else parts
    if [file.name for file in files] != [_shard(name, i, len(files)) for i in range(max(1, len(files)))]:
        raise CheckpointError(f"{folder} lacks {name}.safetensors, or some of its parts; fetch the folder again")
    tensors: dict[str, Tensor] = {}
    try:
        found: dict[str, tuple[int, ...]] = {}
        for file in files:
            with open(file, "rb") as raw:
                header = int.from_bytes(raw.read(8), "little")
            if header > MAX_HEADER_BYTES:
                raise CheckpointError(f"{file}: a header of {header:.1e} bytes; a checkpoint of ours has less than 1e7")
            with safe_open(file, "pt") as f:
                for key in f.keys():  # noqa: SIM118
                    tensor = f.get_slice(key)
                    found[key] = tuple(tensor.get_shape())
                    if (dtype := tensor.get_dtype()) not in DTYPES:
                        raise CheckpointError(f"{file}: {key[:60]!r} is {dtype}, not one of {', '.join(DTYPES)}")
        if shapes is not None:
            wrong = [k for k in shapes if k not in found or found[k] != tuple(shapes[k])]
            wrong += [k for k in found if k not in shapes]
            if wrong:
                raise CheckpointError(
                    f"{folder}: the weights do not fit config.json ({len(wrong)} tensors differ, first {wrong[0]!r}); "
                    "the folder is damaged or mixed from two checkpoints"
                )
        for file in files:
            with safe_open(file, "pt") as f:
                tensors.update({key: f.get_tensor(key) for key in f.keys()})  # noqa: SIM118
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{files[0]} cannot be read as safetensors: {error}; fetch the folder again") from error
    return tensors


def _read_config(folder: Path) -> dict[str, Any]:
    config = read_config(folder)
    if config["network"] not in list(NETWORKS):  # a list, because JSON holds things that cannot be hashed
        raise CheckpointError(
            f"{folder}/config.json is not a videodiff checkpoint (network {config['network']!r} is unknown); "
            f"networks are {', '.join(NETWORKS)}"
        )
    return config


class Replacing:
    """`with Replacing(folder) as part`: fill `part`; at the end it becomes `folder` at once, or never if killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.part = folder.with_name(f".{folder.name}.part")

    def __enter__(self) -> Path:
        old = former(self.folder)
        if old.exists() and not self.folder.exists():
            old.rename(self.folder)
        shutil.rmtree(self.part, ignore_errors=True)
        self.part.mkdir(parents=True)
        return self.part

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if kind is not None:
            shutil.rmtree(self.part, ignore_errors=True)
            if isinstance(error, OSError):
                raise OutOfResources(f"could not write {self.folder}: {error}; free some disk space") from error
            return
        for file in self.part.iterdir():
            with open(file, "rb") as f:
                os.fsync(f.fileno())
        old = former(self.folder)
        shutil.rmtree(old, ignore_errors=True)
        if self.folder.exists():
            self.folder.rename(old)
        self.part.rename(self.folder)
        shutil.rmtree(old, ignore_errors=True)
