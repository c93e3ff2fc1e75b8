"""Fixtures shared by all tests."""

import os
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder with reference vectors and real clips, or a skip with the reason."""
    root = Path(os.environ.get("VIDEODIFF_SHARED", Path(__file__).resolve().parents[2] / "shared"))
    if not (root / "vectors").is_dir():
        pytest.skip(f"reference data not found at {root}; set VIDEODIFF_SHARED to its folder")
    return root
