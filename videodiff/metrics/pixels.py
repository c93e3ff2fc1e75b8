"""Frames as the metrics want them: in [0, 1], or grey bytes."""

import numpy as np

LUMA = np.array([0.299, 0.587, 0.114])
"""Rec. 601 weights of red, green and blue in grey."""


def unit(frames: np.ndarray) -> np.ndarray:
    """Frames in float64 with pixels in [0, 1], from uint8 or float in [0, 1]."""
    return frames / 255 if frames.dtype == np.uint8 else frames.astype(np.float64)


def grey(frames: np.ndarray) -> np.ndarray:
    """uint8 [... h w] of frames [... h w c]."""
    if frames.dtype != np.uint8:
        frames = np.round(frames.clip(0, 1) * 255).astype(np.uint8)
    return frames[..., 0] if frames.shape[-1] == 1 else np.round(frames @ LUMA).astype(np.uint8)
