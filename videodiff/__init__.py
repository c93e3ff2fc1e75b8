"""videodiff: continue, interpolate, infill, edit, restore and generate video clips with a space-time diffusion model.

    import videodiff
    bundle = videodiff.load("motion")
    for event in videodiff.run(videodiff.Predict(input="clip.mp4")):
        print(event)

Names are imported when first used, so that the command answers at once.
"""

import importlib
from typing import Any

__version__ = "0.1.0"

_HOMES = {
    "load": "videodiff.checkpoint",
    "run": "videodiff.service",
    "Predict": "videodiff.settings",
    "Interpolate": "videodiff.settings",
    "Infill": "videodiff.settings",
    "Loop": "videodiff.settings",
    "Edit": "videodiff.settings",
    "Vary": "videodiff.settings",
    "Morph": "videodiff.settings",
    "Restore": "videodiff.settings",
    "Generate": "videodiff.settings",
    "Evaluate": "videodiff.settings",
    "Train": "videodiff.settings",
    "UserError": "videodiff.errors",
    "Cancelled": "videodiff.denoiser",
    "Canvas": "videodiff.types",
    "fit": "videodiff.train",
    "SAMPLERS": "videodiff.sampling",
}
__all__ = [*_HOMES]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'videodiff' has no attribute {name!r}")
