"""How sure a mean is: 95 % intervals by the bootstrap (Efron 1979, percentile method).

What is drawn again must be independent: clips, not windows of one clip. Average those first with `clip_means`.
With fewer than about ten clips these intervals are too narrow; with two, they are the two values.
"""

from collections.abc import Hashable, Sequence

import numpy as np


def bootstrap(values: Sequence[float] | np.ndarray, n: int = 2000, seed: int = 0) -> tuple[float, float]:
    """(low, high) of the mean of independent values, or of differences pair by pair; (nan, nan) for a single one."""
    x = np.asarray(values, dtype=np.float64)
    assert x.ndim == 1, x.shape
    if len(x) < 2:
        return float("nan"), float("nan")
    drawn = np.random.default_rng(seed).integers(len(x), size=(n, len(x)))
    low, high = np.percentile(x[drawn].mean(axis=1), (2.5, 97.5))
    return float(low), float(high)


def clip_means(values: Sequence[float] | np.ndarray, clips: Sequence[Hashable]) -> np.ndarray:
    """The mean of each clip's values, in the order in which the clips first appear."""
    assert len(values) == len(clips), (len(values), len(clips))
    groups: dict[Hashable, list[float]] = {}
    for value, clip in zip(values, clips, strict=True):
        groups.setdefault(clip, []).append(float(value))
    return np.array([np.mean(group) for group in groups.values()])
