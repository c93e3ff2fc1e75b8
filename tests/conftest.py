"""Fixtures shared by all tests."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference vectors and real clips, or a skip with the reason."""
    root = Path(os.environ.get("VIDEODIFF_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "vectors").is_dir():
        pytest.skip(f"reference data not found at {root}; set VIDEODIFF_SHARED to its folder")
    return root


@pytest.fixture(scope="session")
def ode(shared: Path) -> Callable[[str], dict[str, np.ndarray]]:
    """`ode(name)`: the arrays of a file of exact answers, read once; see `oracles.py`."""
    return cache(lambda name: dict(np.load(shared / f"vectors/ode/{name}.npz")))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint folder of a few kilobytes: the native network, colour, untrained but not silent."""
    import torch

    from videodiff import checkpoint
    from videodiff.checkpoint import Levels, Window
    from videodiff.guess import Spread
    from videodiff.models.unet import Config, build

    torch.manual_seed(0)
    config = Config(widths=(16, 16), spatial_attention=(1,), head_width=16, embedding=16)
    net = build(config)
    for p in net.parameters():
        if not p.any():  # zero-initialised outputs would hide a wrong path
            torch.nn.init.normal_(p, std=0.02)
    folder = tmp_path_factory.mktemp("checkpoints") / "tiny"
    checkpoint.save(folder, "unet", config, net.state_dict(), Spread(), Levels(), Window(frames=8, side=16), {})
    return folder


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests share the machine's cores."""
    import torch

    torch.set_num_threads(1)
