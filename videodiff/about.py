"""What `videodiff info`, `list` and `doctor` answer: plain dicts."""

import shutil
import sys
from pathlib import Path
from typing import Any

from videodiff import __version__, checkpoint, video
from videodiff.errors import CheckpointError, UserError
from videodiff.video.codecs import codecs


def describe(path: Path) -> dict[str, Any]:
    """A checkpoint (by name or folder), or a clip with the settings it was made with."""
    try:
        folder = checkpoint.find(str(path))
    except CheckpointError:
        folder = None
    if folder is not None:
        bundle = checkpoint.load(str(path))
        return {
            "checkpoint": bundle.name,
            "network": bundle.network,
            "parameters": sum(p.numel() for p in bundle.net.parameters()),
            "channels": bundle.channels,
            "frames in a window": bundle.window.frames,
            "short side": bundle.window.side,
            "digest": bundle.digest,
            "trained": {k: v for k, v in bundle.training.items() if k != "settings"},
            "folder": str(folder),
        }
    if not path.exists():
        raise UserError(f"{path} is neither a file nor a checkpoint; checkpoints are {', '.join(checkpoint.names())}")
    facts = video.probe(path)
    answer: dict[str, Any] = {
        "file": str(path),
        "container": facts.container,
        "codec": facts.codec,
        "size": f"{facts.width}x{facts.height}",
        "fps": f"{float(facts.fps):.3f}",
        "frames": facts.num_frames if facts.num_frames is not None else "not stated",
        "seconds": "not stated" if facts.duration is None else f"{facts.duration:.2f}",
        "rotation": facts.rotation,
        "sound": facts.has_audio,
    }
    made = video.read_metadata(path)
    return {**answer, **({"made by videodiff": made} if made else {})}


def catalogue(what: str) -> dict[str, Any]:
    """Names with one line each."""
    from videodiff.datasets import DATASETS
    from videodiff.models import NETWORKS
    from videodiff.presets import PRESETS, QUALITIES
    from videodiff.sampling import SAMPLERS
    from videodiff.tasks import TASKS

    families: dict[str, dict[str, str]] = {
        "checkpoints": {name: _card_line(name) for name in checkpoint.names()},
        "tasks": {name: _first_line(module) for name, module in TASKS.items()},
        "samplers": {name: row.help for name, row in SAMPLERS.items()},
        "presets": {
            **{name: row.help for name, row in QUALITIES.items()},
            **{name: f"{row.help}; {row.time}; {row.command}" for name, row in PRESETS.items()},
        },
        "networks": {name: _first_line(module) for name, module in NETWORKS.items()},
        "datasets": {name: _first_line(made) for name, made in DATASETS.items()},
    }
    if what == "all":
        return families
    if what not in families:
        raise UserError(f"nothing to list by the name {what!r}; there are {', '.join(families)}")
    return families[what]


def doctor() -> dict[str, Any]:
    """Facts about this machine, each by a real call, with what to do where something is amiss."""
    import torch

    from videodiff.compute import fast_bfloat16, pick_device
    from videodiff.models.attention import check_xformers

    device = pick_device("auto")
    try:
        check_xformers(device.type, torch.float32)
        xformers = "works"
    except UserError as error:
        xformers = f"not used: {error}"
    free = shutil.disk_usage(Path.cwd()).free / 1e9
    answer: dict[str, Any] = {
        "videodiff": __version__,
        "python": sys.version.split()[0],
        "torch": torch.__version__,
        "device": str(device),
        "bfloat16": "fast" if fast_bfloat16(device) else "slow here, float32 is used",
        "threads": torch.get_num_threads(),
        "attention": {"sdpa": "works", "xformers": xformers},
        "video": codecs(),
        "checkpoints": ", ".join(checkpoint.names())
        or "none: clone the repository whole, or give --checkpoint a folder",
        "disk free here": f"{free:.1f} GB" if free > 2 else f"{free:.1f} GB (little: free some)",
    }
    if device.type == "cpu" and shutil.which("nvidia-smi"):
        answer["cuda"] = "an NVIDIA driver is present, but this torch is a CPU build; install torch's CUDA build"
    return answer


def _first_line(thing: Any) -> str:
    return (thing.__doc__ or "").strip().split("\n")[0]


def _card_line(name: str) -> str:
    card = checkpoint.find(name) / "README.md"
    lines = card.read_text(encoding="utf-8").splitlines() if card.is_file() else []
    return next(
        (line for line in lines if line and not line.startswith(("#", "-", "--", " ")) and ":" not in line[:12]), ""
    )
