"""How close a result is to the truth: one file a metric, each `compute(truth, result) -> {name: value}`.

Frames are [t h w c], uint8 or float in [0, 1]. The first line of a metric's docstring is its help. To add one, write a
file and a row here. `interval.py` says how sure the mean of a metric is.
"""

from collections.abc import Callable

import numpy as np

from videodiff.metrics import motion, psnr, ssim

METRICS: dict[str, Callable[[np.ndarray, np.ndarray], dict[str, float]]] = {
    "psnr": psnr.compute,
    "ssim": ssim.compute,
    "motion": motion.compute,
}
