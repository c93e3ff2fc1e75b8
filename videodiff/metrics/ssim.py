"""SSIM of grey 8-bit frames by scikit-image, with the settings of MCVD. Call `compute`; `check` says if it can run.

Wang et al. 2004: Gaussian window of 1.5 pixels (11 x 11), population covariance, data range 255.
"""

from typing import Any

import numpy as np

from videodiff.errors import MissingExtra
from videodiff.metrics.pixels import grey


def compute(truth: np.ndarray, result: np.ndarray, binary: bool = False) -> dict[str, float]:
    """How alike structures are, 1 = the same.

    `ssim` is the mean of the frames' values, `ssim_1` ... are those values. Frames [t h w c], uint8 or float in [0, 1],
    at least 11 pixels on each side. `binary` rounds pixels to black and white first, as MCVD does on Moving MNIST.
    """
    similarity = check()
    assert truth.shape == result.shape, (truth.shape, result.shape)
    a, b = grey(truth), grey(result)
    if binary:
        a, b = (np.where(x > 127, np.uint8(255), np.uint8(0)) for x in (a, b))
    how = {"data_range": 255, "gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False}
    frames = [similarity(*pair, **how) for pair in zip(a, b, strict=True)]
    named = {f"ssim_{i}": float(value) for i, value in enumerate(frames, 1)}
    return {"ssim": float(np.mean(frames)), **named}


def check() -> Any:
    """scikit-image's function, or the error that says how to get it."""
    try:
        from skimage.metrics import structural_similarity
    except ImportError as error:
        raise MissingExtra("SSIM needs scikit-image: pip install 'videodiff[metrics]'") from error
    return structural_similarity
