"""Where training clips come from: one file per source, all with the one method of `Source`."""

from videodiff.datasets.mixture import Mixture
from videodiff.datasets.moving_layers import MovingLayers
from videodiff.datasets.moving_mnist import MovingMNIST
from videodiff.datasets.packed import Packed
from videodiff.datasets.source import Source

DATASETS = {
    "moving_layers": MovingLayers,
    "moving_mnist": MovingMNIST,
    "packed": Packed,
    "mixture": Mixture,
}

__all__ = ["DATASETS", "Mixture", "MovingLayers", "MovingMNIST", "Packed", "Source"]
