"""PSNR in dB: 10 log10(1 / mean squared error), pixels in [0, 1]. Call `compute`."""

import numpy as np

from videodiff.metrics.pixels import unit

FLOOR = 1 / (12 * 255**2)
"""The mean squared error of rounding to 8 bits. No error counts as less, so no figure exceeds 58.9 dB: a frame that
happens to be equal must not outweigh all others."""


def compute(truth: np.ndarray, result: np.ndarray) -> dict[str, float]:
    """How close the pixels are, in dB.

    `psnr` is the mean of the frames' values, `psnr_1` ... are those values, and `psnr_clip` is taken of the mean
    squared error over all frames, as MCVD reports it. Frames [t h w c], uint8 or float in [0, 1].
    """
    assert truth.shape == result.shape, (truth.shape, result.shape)
    errors = np.square(unit(truth) - unit(result)).mean(axis=(1, 2, 3))
    frames = decibels(errors)
    named = {f"psnr_{i}": float(value) for i, value in enumerate(frames, 1)}
    return {"psnr": float(frames.mean()), "psnr_clip": float(decibels(errors.mean())), **named}


def decibels(error: np.ndarray) -> np.ndarray:
    """PSNR of mean squared errors."""
    return -10 * np.log10(np.maximum(error, FLOOR))
