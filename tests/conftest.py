"""Fixtures shared by all tests."""

import os
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest

LONG = {"test_worker", "test_ui_make", "test_cli", "test_ui_server", "test_docs", "test_pipeline", "test_ui_models"}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files that take about a minute or more begin first, so that no process is left with one at the end."""
    items.sort(key=lambda item: item.path.stem not in LONG)


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


@pytest.fixture
def serve(tmp_path: Path, tiny: Path) -> Iterator[Callable[..., Any]]:
    """`serve(*options, data=folder)` starts an app (`browser.Served`) with the checkpoint `tiny`, and stops it."""
    import browser

    started = []

    def start(*options: str, data: Path | None = None, **more: Any) -> Any:
        folder = data or tmp_path / f"data{len(started)}"
        browser.add_checkpoint(folder, tiny)
        started.append(browser.start(folder, *options, **more))
        return started[-1]

    yield start
    for app in started:
        app.stop()


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory, tiny: Path) -> Iterator[Any]:
    """One running app (`browser.Served`) for all tests of a file, with the checkpoint `tiny` in its data folder."""
    import browser

    folder = tmp_path_factory.mktemp("data")
    browser.add_checkpoint(folder, tiny)
    running = browser.start(folder)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """The installed Chromium, headless, by Playwright."""
    import browser

    program = browser.require()
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        running = playwright.chromium.launch(executable_path=program, args=list(browser.FLAGS))
        yield running
        running.close()


@pytest.fixture
def page(app: Any, chromium: Any) -> Iterator[Any]:
    """A page of `app` in a profile of its own; the test fails if it had errors or asked another host for anything."""
    import browser

    with browser.opened(chromium, app.url) as opened:
        yield opened
        opened.watched.quiet()


@pytest.fixture
def quick(tiny: Path) -> dict[str, Any]:
    """The settings of a quick run."""
    return {"checkpoint": str(tiny), "seed": 1, "steps": 2, "device": "cpu", "precision": "float32"}


@pytest.fixture(autouse=True)
def _one_thread() -> None:
    """Tests share the machine's cores."""
    import torch

    torch.set_num_threads(1)
