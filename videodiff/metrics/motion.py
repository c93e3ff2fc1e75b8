"""Motion energy: the mean absolute difference of neighbouring frames. Call `compute`.

A model that is sure of nothing answers with a still, blurred mean and has a good PSNR; its motion energy gives it away.
"""

import numpy as np

from videodiff.metrics.pixels import unit


def compute(truth: np.ndarray, result: np.ndarray) -> dict[str, float]:
    """How much moves compared with the truth: 1 = as much, 0 = frozen.

    `motion` is `motion_result` over `motion_truth`, both in grey levels of 255 a frame; nan if nothing moves in the
    truth. Frames [t h w c], uint8 or float in [0, 1], beginning with the last known one, so that a jump away from it
    counts. Of several clips take the ratio of the means, as one still clip makes a mean of ratios meaningless.
    """
    assert truth.shape == result.shape, (truth.shape, result.shape)
    moved, should = energy(result), energy(truth)
    return {"motion": moved / should if should else float("nan"), "motion_result": moved, "motion_truth": should}


def energy(frames: np.ndarray) -> float:
    """Mean absolute difference of neighbouring frames, in grey levels of 255."""
    return float(255 * np.abs(np.diff(unit(frames), axis=0)).mean())
