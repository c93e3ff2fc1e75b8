"""The map in docs/architecture.md stays true: imports point down, and each third-party library has one door."""

import ast
import sys
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "videodiff"

# From the bottom up. A module may import what lies in lower layers, and a package its own helpers.
LAYERS: list[set[str]] = [
    {"errors", "events", "types"},
    {
        "settings",
        "presets",
        "shelf",
        "noise",
        "operators",
        "masks",
        "compute",
        "spool",
        "planner",
        "parallel",
        "video",
        "flow",
        "files",
        "budget",
        "table",
    },
    {
        "models",
        "sampling",
        "datasets",
        "metrics",
        "tasks",
        "losses",
        "variational",
        "monotone",
        "guess",
        "smoothing",
        "job",
        "room",
    },
    {"centred", "denoiser", "conditioning", "guidance", "likelihood", "baselines"},
    {"checkpoint", "restoration", "jobs"},
    {"pipeline", "train"},
    {"questions", "bpd"},
    {"evaluate"},
    {"service", "about"},
    {"worker", "supervisor"},
    {"cli"},
    {"__main__", "__init__"},
]
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}

# Family members are found by name in a folder and do not know each other; these are what they share.
FAMILIES = {
    "tasks": {"layout"},
    "metrics": {"interval", "pixels"},
    "datasets": {"source", "draw", "motion", "textures"},
    "models": {"attention", "unet"},  # unet also holds the network interface (Inputs, Output, Memory)
}

DOORS = {
    "av": {"video"},
    "PIL": {"video"},
    "imageio": {"video"},
    "xformers": {"models/attention"},
    "safetensors": {"checkpoint"},
    "pydantic": {"settings", "cli"},
    "accelerate": {"parallel"},
    "cyclopts": {"cli"},
    "rich": {"cli"},
    "sqlite3": {"table"},
    "platformdirs": {"jobs"},
    "video_diffusion_pytorch": {"models/lucid"},
    "skimage": {"metrics/ssim"},
    "cv2": {"baselines"},
    "gradio": set(),
    "videodiff_ui": {"cli"},
}


@cache
def modules() -> list[tuple[str, ast.Module]]:
    """(dotted path below the package, syntax tree) of every file."""
    found = []
    for file in sorted(PACKAGE.rglob("*.py")):
        parts = file.relative_to(PACKAGE).with_suffix("").parts
        found.append(("/".join(parts), ast.parse(file.read_text(encoding="utf-8"))))
    return found


@cache
def imports(tree: ast.Module) -> set[str]:
    """Dotted names of all imports, lazy ones included."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            assert node.level == 0, "imports are absolute"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize(("path", "tree"), modules(), ids=[path for path, _ in modules()])
def test_imports_point_down(path: str, tree: ast.Module) -> None:
    """A module imports only what lies below it."""
    own = path.split("/")[0]
    for name in imports(tree):
        parts = name.split(".")
        if parts[0] != "videodiff" or len(parts) == 1 or parts[1] == "__version__":
            continue
        assert parts[1] in LEVEL, f"{path} imports {name}, which has no layer"
        assert parts[1] == own or LEVEL[parts[1]] < LEVEL[own], f"{path} imports {name} from its own layer or above"


@pytest.mark.parametrize("family", FAMILIES)
def test_family_members_do_not_know_each_other(family: str) -> None:
    """Adding a member touches no other member."""
    for path, tree in modules():
        folder, _, member = path.partition("/")
        if folder != family or member in ("__init__", *FAMILIES[family]):
            continue
        for name in imports(tree):
            parts = name.split(".")
            if parts[:2] == ["videodiff", family] and len(parts) > 2:
                allowed = {member, *FAMILIES[family]}
                if family == "datasets" and member == "folder":
                    allowed.add("packed")  # it writes what `packed` reads
                assert parts[2] in allowed, f"{path} imports {name}"


@pytest.mark.parametrize("library", DOORS)
def test_each_library_has_one_door(library: str) -> None:
    """Replacing a library is a change in one place."""
    for path, tree in modules():
        used = {name.split(".")[0] for name in imports(tree)}
        if library in used:
            inside = any(path == door or path.startswith(door + "/") for door in DOORS[library])
            assert inside, f"{path} imports {library}; its door is {DOORS[library] or 'the app'}"


def test_every_third_party_import_is_declared() -> None:
    """What the package imports, pyproject.toml names."""
    declared = (ROOT / "pyproject.toml").read_text(encoding="utf-8").replace("-", "_").lower()
    aliases = {"PIL": "pillow", "cv2": "opencv_python_headless", "skimage": "scikit_image"}
    for path, tree in modules():
        for name in imports(tree):
            top = name.split(".")[0]
            if top != "videodiff" and top not in sys.stdlib_module_names:
                assert aliases.get(top, top).lower() in declared, f"{path} imports {top}, which is not declared"
