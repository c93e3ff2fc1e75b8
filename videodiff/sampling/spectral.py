"""DDRM: sampling that sees a damaged clip y = A x + noise, in the coordinates in which A is diagonal.

Kawar et al. 2022, equations 7 and 8. It costs no gradient: the network is asked for x0, and each coordinate of
A = U S V' follows y until the state is as clear as y shows it (the level sigma_y / S), then the network. With noise in
y it finds a point near the posterior's mean with some spread around it, not a fair sample of the posterior; 20 steps
are its default, because it uses y again in every step and with many trusts it too much (docs/method.md). Noise is drawn
for pixels and turned: where singular values are equal, as most are, any basis will do, and which one was found must not
change the result.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.operators import Operator
from videodiff.sampling.evaluate import Evaluate, Node
from videodiff.sampling.plans import Plan
from videodiff.sampling.steppers import Draw


@dataclass(frozen=True, eq=False)
class Spectral:
    """The stepper of one measurement; begin from `start`.

    operator, y: what was done to the clips and what was seen, y = operator(x) + sigma_y n. In units of z.
    sigma_y:     the noise of y, 0 for none.
    eta:         noise in the coordinates that y says little about, 0 to 1; the paper's 0.85.
    eta_b:       how far the others follow y, 0 to 1; the paper's 1.
    """

    operator: Operator
    y: Tensor
    sigma_y: float = 0.0
    eta: float = 0.85
    eta_b: float = 1.0

    def __post_init__(self) -> None:
        for name, value in (("eta", self.eta), ("eta_b", self.eta_b)):
            if not 0 <= value <= 1:
                raise UserError(f"{name} is between 0 and 1, not {value}")
        if self.sigma_y < 0:
            raise UserError(f"the noise of the measurement is not below 0, as {self.sigma_y} is")

    def start(self, noise: Tensor, s_max: float) -> Tensor:
        """The state at the first level from standard normal noise [b t c h w]: around y where y is seen."""
        target, sd = self._observed()
        clear = sd <= s_max
        variance = torch.where(clear, (s_max**2 - sd**2).clamp(min=0), s_max**2)  # equal levels: rounding goes below 0
        n = self.operator.to_spectrum(noise)
        return self.operator.from_spectrum(torch.where(clear, target, 0.0) + variance.sqrt() * n)

    def step(
        self, evaluate: Evaluate, z: Tensor, s: float, s_next: float, history: list[Node], draw: Draw
    ) -> tuple[Tensor, Tensor]:
        node = evaluate(z, s)
        target, sd = self._observed()
        x0, here = self.operator.to_spectrum(node.x0), self.operator.to_spectrum(node.z)
        # Coordinates that y shows more clearly than s_next follow y; the others follow x0 and keep a part of a noise,
        # that of y where it shows them at all, else that of the state.
        clear = sd <= s_next
        unseen = torch.isinf(sd)
        eps = torch.where(unseen, (here - x0) / s, (target - x0) / torch.where(sd > 0, sd, 1.0))
        mean = torch.where(clear, torch.lerp(x0, target, self.eta_b), x0 + math.sqrt(1 - self.eta**2) * s_next * eps)
        missing = (s_next**2 - (self.eta_b * sd) ** 2).clamp(min=0)  # equal levels: rounding goes below 0
        variance = torch.where(clear, missing, (self.eta * s_next) ** 2)
        if s_next > 0:
            mean = mean + variance.sqrt() * self.operator.to_spectrum(draw())
        return self.operator.from_spectrum(mean), node.x0

    def evaluations(self, plan: Plan) -> int:
        return len(plan.down_moves())

    def _observed(self) -> tuple[Tensor, Tensor]:
        """(V' x as y shows it, the standard deviation of that), like the spectrum; inf where y shows nothing."""
        singular = self.operator.singular.to(self.y)
        # What rounding in y would drown is left to the network; it would come back divided by `singular`.
        seen = singular > math.sqrt(torch.finfo(self.y.dtype).eps) * singular.max()
        divisor = torch.where(seen, singular, 1.0)
        target = torch.where(seen, self.operator.spectrum_of(self.y) / divisor, 0.0)
        return target, torch.where(seen, self.sigma_y / divisor, math.inf)
