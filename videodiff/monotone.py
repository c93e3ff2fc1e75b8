"""A noise schedule that is learned (Kingma et al. 2021, appendix H).

The continuous-time bound depends on a schedule through its two ends alone. What lies between decides how far the loss
varies from one t to another, so it is trained to make that variance small:

    learned = Monotone(lam_max=5.0, lam_min=-5.0)
    spread_of_loss(learned, error, t).backward()            # again and again, with an optimizer on learned.parameters()
    schedule = learned.schedule()                           # as any other: for walks, for training, for the bound
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from videodiff.noise import Schedule, through


class Monotone(nn.Module):
    """lam at times t in [0, 1]: from lam_max at 0 down to lam_min at 1, falling whatever the weights.

    A straight line plus sigmoids with weights that cannot be negative, scaled to the ends. `learn_ends` makes the ends
    parameters as well; they matter to the bound and not to its variance.
    """

    def __init__(self, lam_max: float, lam_min: float, hidden: int = 64, learn_ends: bool = False) -> None:
        super().__init__()
        assert lam_max > lam_min, (lam_max, lam_min)
        ends = torch.tensor([lam_min, math.log(math.expm1(lam_max - lam_min))], dtype=torch.float64)
        self.ends = nn.Parameter(ends, requires_grad=learn_ends)  # the lower end, and the distance before softplus
        # Before softplus, so that any number is legal. It starts near the straight line, bends evenly spread over t.
        self.height = nn.Parameter(torch.full((hidden,), -4.0, dtype=torch.float64))
        self.slope = nn.Parameter(torch.full((hidden,), 30.0, dtype=torch.float64))
        self.place = nn.Parameter(torch.linspace(0, 1, hidden, dtype=torch.float64))

    def forward(self, t: Tensor) -> Tensor:
        """lam like t, in float64."""
        low, distance = self.ends[0], F.softplus(self.ends[1])
        first, last = self._risen(t.new_tensor([0.0, 1.0]))
        return low + distance * (last - self._risen(t)) / (last - first)

    def _risen(self, t: Tensor) -> Tensor:
        bends = torch.sigmoid(F.softplus(self.slope) * (t.double()[..., None] - self.place))
        return t.double() + (F.softplus(self.height) * bends).sum(-1)

    @torch.no_grad()
    def schedule(self, knots: int = 1001, family: str = "vp") -> Schedule:
        """What has been learned so far, as a schedule that is straight between so many knots; exact at both ends."""
        t = torch.linspace(0, 1, knots, dtype=torch.float64)
        return through(t, self(t), "learned", family)


def spread_of_loss(learned: Monotone, error: Callable[[Tensor], Tensor], t: Tensor) -> Tensor:
    """The mean square of the likelihood loss at times t, to be minimised: its mean does not depend on the schedule.

    error: the |x0 - D|^2 / s^2 of some clips at lam [n], as [n]; differentiable in lam.
    """
    t = t.detach().requires_grad_()
    lam = learned(t)
    (slope,) = torch.autograd.grad(lam.sum(), t, create_graph=True)
    return (slope * error(lam)).square().mean()
