"""Asking the network: what the loop hands to steppers as `evaluate`.

node = evaluate(z, s)                    one evaluation
node, deps_ds = evaluate.slope(z, s)     and how eps changes along the flow; counts as two
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.nn.attention import SDPBackend, sdpa_kernel

from videodiff.errors import UserError
from videodiff.noise import spread
from videodiff.types import Denoise

Before = Callable[[Tensor, Tensor, Callable[[], Tensor]], Tensor]
"""`z = before(z, s, draw)`: changes the state right before each evaluation, at the level s [b] of that evaluation."""


def leaf(z: Tensor) -> Tensor:
    """z as the leaf of a gradient, for denoisers that answer with one.

    A leaf has no past, so the forward derivative of `Evaluate.slope` would be lost here without a word: it is refused.
    """
    if forward_ad.unpack_dual(z).tangent is not None:
        raise UserError("guidance by a gradient has no derivative of its own; take another sampler than 'genie'")
    return z.detach().requires_grad_()


class Node(NamedTuple):
    """One network evaluation: the level, the state that was shown, and the clean clip it answered.

    s: a number, or [b] where a stepper gives each clip a level of its own.
    u: with a network that learned its variance, where that lies between the smallest (0) and the largest (1); like z.
    """

    s: float | Tensor
    z: Tensor
    x0: Tensor
    u: Tensor | None = None

    @property
    def eps(self) -> Tensor:
        """The noise in z, which is also the slope of the probability flow: dz/ds = (z - D) / s."""
        return (self.z - self.x0) / (spread(self.s, self.z) if isinstance(self.s, Tensor) else self.s)


@dataclass
class Evaluate:
    """Calls the denoiser for a stepper: levels as tensors, the `before` hook, a finite answer, the count n.

    fraction: tells u of the evaluation just made (`denoiser.LearnedVariance`).
    draw:     the noise `before` may draw; the loop sets it for each move.
    """

    denoise: Denoise
    before: Before | None = None
    fraction: Callable[[], Tensor] | None = None
    draw: Callable[[], Tensor] = field(init=False)
    n: int = 0

    def __call__(self, z: Tensor, s: float | Tensor) -> Node:
        """The answer at state z [b ...] and level s, a number or [b]. The node's z is what the network saw."""
        level = self._level(z, s)
        if self.before is not None:
            z = self.before(z, level, self.draw)
        x0 = self._check(self.denoise(z, level), s)
        return Node(s, z, x0, None if self.fraction is None else self.fraction())

    def slope(self, z: Tensor, s: float | Tensor) -> tuple[Node, Tensor]:
        """The answer and d eps / ds, the total derivative along the flow, exact by forward differentiation.

        With dz/ds = eps it is -(dD/ds) / s. Dockhorn et al. 2022 (GENIE), equation 12. The second pass carries the
        tangent (eps, 1) beside the values and counts as one more evaluation.
        """
        node = self(z, s)
        level = self._level(z, s)
        try:
            # Fused attention kernels have no forward derivative; the plain one has.
            with forward_ad.dual_level(), sdpa_kernel(SDPBackend.MATH):
                z_dual = forward_ad.make_dual(node.z, node.eps.to(node.z.dtype))
                x0_dual = self.denoise(z_dual, forward_ad.make_dual(level, torch.ones_like(level)))
                dx0 = forward_ad.unpack_dual(x0_dual).tangent
        except NotImplementedError as error:  # torch's, for a kernel that lacks it
            raise UserError(f"this network has no forward derivative ({error}); choose another sampler") from error
        if dx0 is None:
            raise UserError("this denoiser has no derivative (it detaches its input); choose another sampler")
        return node, -self._check(dx0, s) / spread(level, dx0)

    def _level(self, z: Tensor, s: float | Tensor) -> Tensor:
        dtype = torch.promote_types(z.dtype, torch.float32)
        return s.to(z.device, dtype) if isinstance(s, Tensor) else z.new_full(z.shape[:1], s, dtype=dtype)

    def _check(self, answer: Tensor, s: float | Tensor) -> Tensor:
        self.n += 1
        if not torch.isfinite(answer).all():
            level = float(s.max() if isinstance(s, Tensor) else s)
            raise UserError(f"the network's answer at noise level {level:.4g} is not finite; try --precision float32")
        return answer
