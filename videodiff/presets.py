"""Presets: rows of settings under a name. What is given beside a preset overrides it.

videodiff predict clip.mp4 --preset likely          # QUALITIES: how a clip is sampled
videodiff train --preset digits --out runs/digits   # PRESETS: what is trained, on what
"""

from typing import Any, NamedTuple


class Quality(NamedTuple):
    """Sampling settings that differ from the defaults."""

    help: str
    settings: dict[str, Any]


QUALITIES: dict[str, Quality] = {
    "draft": Quality("a quick look: 2 steps", {"steps": 2}),
    "fine": Quality("livelier: 16 steps of UniPC", {"steps": 16, "sampler": "unipc_3"}),
    "likely": Quality(
        "closest to the truth on average, less lively: the mean of 8 samples, of first order",
        {"average": 8, "sampler": "ddim"},
    ),
}


class Preset(NamedTuple):
    """Settings that differ from the defaults, the command that runs them, and what they cost and give."""

    help: str
    command: str
    time: str
    result: str
    settings: dict[str, Any]


PRESETS: dict[str, Preset] = {
    "digits": Preset(
        help="stochastic Moving MNIST, 64x64 grey; needs the MNIST files: --data moving_mnist:FOLDER",
        command="videodiff train --preset digits --data moving_mnist:MNIST --out runs/digits --steps 2558 --decay 380",
        time="1.5 hours of one core of a 2-core CPU",
        result="not measured alone; the shipped run changed under way, see checkpoints/digits/README.md",
        settings={
            "data": [{"source": "moving_mnist"}],
            "model": {"channels": 1, "widths": [32, 64, 128]},
            # The background is -1. A digit that turns at a wall comes where nothing was: no place is still.
            "spread": {"base": -1.0, "still": 0.25, "still_growth": 0.25},
            "masks": {
                "third": 0.45,
                "half": 0.15,
                "past": 0.1,
                "future": 0.06,
                "both_ends": 0.06,
                "spaced_set": 0.08,
                "random_set": 0.03,
                "boxes": 0.02,
                "nothing": 0.05,
            },
            "batch": 4,
            "rate": 1e-3,
        },
    ),
    "motion": Preset(
        help="64x64 colour for clips of anything: moving layers and clips of one's own (--data FOLDER)",
        command="videodiff train --preset motion --data moving_layers FOLDER --out runs/motion "
        "--steps 1613 --decay 320",
        time="1.3 hours of one core of a 2-core CPU",
        result="not measured alone; the shipped run changed under way, see checkpoints/motion/README.md",
        settings={
            "data": [{"source": "moving_layers", "spaced": 0.1}],
            "model": {"channels": 3, "widths": [32, 64, 128]},
            "sizes": [[64, 64]] * 6 + [[64, 96], [96, 64]],
            "batch": 4,
            "rate": 1e-3,
        },
    ),
}
