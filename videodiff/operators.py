"""What a damaged clip shows of the whole one: linear operators A in y = A x + noise, with their singular frame.

    operator = space_average((t, c, h, w), factor=2)
    y = operator(x)                                     # [b t c h/2 w/2]

Every operator maps clips [b t c h w] of the size it was built for, each on its own, and can be differentiated.
Reconstruction guidance needs no more than A; PiGDM and DDRM need A = U S V', which each operator gives as maps laid out
like x, so that nothing larger than one matrix per axis ever exists:

    spectrum_of(operator(x)) = singular * to_spectrum(x)

To add one is to write a function that returns a `Separable` of one small matrix per axis, and a row in `OPERATORS`; an
operator that is not separable is a class with the methods of `Operator`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor
from torch.nn.functional import pad

from videodiff.errors import UserError

Shape = tuple[int, int, int, int]
"""(t, c, h, w) of the whole clip."""


class Operator(Protocol):
    """A linear map A of clips, with A = U S V'. All spectra are laid out like x, [b t c h w]."""

    def __call__(self, x: Tensor) -> Tensor:
        """y = A x."""

    def adjoint(self, y: Tensor) -> Tensor:
        """A' y: <A x, y> = <x, A' y>."""

    def pinv(self, y: Tensor) -> Tensor:
        """The smallest x that A maps nearest to y."""

    @property
    def singular(self) -> Tensor:
        """S, not below 0, float64, broadcasts to x; 0 where nothing is observed."""

    def to_spectrum(self, x: Tensor) -> Tensor:
        """V' x; V is orthonormal, so white noise stays white noise."""

    def from_spectrum(self, v: Tensor) -> Tensor:
        """V v, the inverse of `to_spectrum`."""

    def spectrum_of(self, y: Tensor) -> Tensor:
        """U' y, 0 where `singular` is 0."""


@dataclass(frozen=True, eq=False)
class Inpaint:
    """The known pixels, 0 elsewhere: y is laid out like x.

    known: bool [b t 1 h w] or [t 1 h w], True where the pixel is observed; any mask in time and space. Every k-th frame
    of a clip is such a mask too.
    """

    known: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return x * self.known

    adjoint = pinv = spectrum_of = __call__

    @property
    def singular(self) -> Tensor:
        return self.known.double()

    def to_spectrum(self, x: Tensor) -> Tensor:
        return x

    def from_spectrum(self, v: Tensor) -> Tensor:
        return v


AXES = {"t": -4, "c": -3, "h": -2, "w": -1}

SMALLEST = 1e-6
"""Singular values below this part of the largest count as 0: nothing of what they carry survives in float32."""


@dataclass(frozen=True, eq=False)
class Separable:
    """One matrix [observed, whole] for each axis of t, c, h, w that the operator acts on; their Kronecker product."""

    shape: Shape
    matrices: Mapping[str, Tensor]
    singular: Tensor = field(init=False)
    _frames: dict[str, tuple[Tensor, Tensor]] = field(init=False)  # per axis U' and V', both with `whole` rows

    def __post_init__(self) -> None:
        singular, frames = torch.ones(1, 1, 1, 1, dtype=torch.float64), {}
        for axis, matrix in self.matrices.items():
            observed, whole = matrix.shape
            assert whole == self.shape[AXES[axis]] >= observed > 0, (axis, matrix.shape, self.shape)
            u, values, vt = torch.linalg.svd(matrix, full_matrices=True)
            unseen = whole - observed
            frames[axis] = (pad(u.T, (0, 0, 0, unseen)), vt)
            singular = singular * pad(values, (0, unseen)).reshape(-1, *(1,) * (-AXES[axis] - 1))
        singular = torch.where(singular > SMALLEST * singular.max(), singular, 0.0)
        object.__setattr__(self, "singular", singular)
        object.__setattr__(self, "_frames", frames)

    def __call__(self, x: Tensor) -> Tensor:
        assert x.shape[-4:] == self.shape, (x.shape, self.shape)
        return _along(x, self.matrices)

    def adjoint(self, y: Tensor) -> Tensor:
        return _along(y, {axis: matrix.T for axis, matrix in self.matrices.items()})

    def pinv(self, y: Tensor) -> Tensor:
        singular = self.singular.to(y)
        return self.from_spectrum(self.spectrum_of(y) / torch.where(singular > 0, singular, 1.0))

    def to_spectrum(self, x: Tensor) -> Tensor:
        return _along(x, {axis: vt for axis, (_, vt) in self._frames.items()})

    def from_spectrum(self, v: Tensor) -> Tensor:
        return _along(v, {axis: vt.T for axis, (_, vt) in self._frames.items()})

    def spectrum_of(self, y: Tensor) -> Tensor:
        return _along(y, {axis: ut for axis, (ut, _) in self._frames.items()}) * (self.singular > 0).to(y)


def _along(x: Tensor, matrices: Mapping[str, Tensor]) -> Tensor:
    """Each matrix applied along its axis."""
    for axis, matrix in matrices.items():
        x = (x.movedim(AXES[axis], -1) @ matrix.T.to(x)).movedim(-1, AXES[axis])
    return x


# ---------------------------------------------------------------------------------------------------------------------
# The operators


def inpaint(known: Tensor) -> Inpaint:
    """Some pixels are missing: `known` bool [b t 1 h w], [t 1 h w] or [t h w], True where they are given."""
    assert known.dtype == torch.bool, known.dtype
    return Inpaint(known[:, None] if known.ndim == 3 else known)


def denoise(shape: Shape) -> Separable:
    """All pixels are seen, through noise alone."""
    return Separable(shape, {})


def average(shape: Shape, space: int = 1, time: int = 1) -> Separable:
    """Means over blocks of space x space pixels and `time` frames. A remainder row, column or frame is dropped."""
    factors = {"t": time, "h": space, "w": space}
    return Separable(
        shape, {axis: _block_means(shape[AXES[axis]], factor) for axis, factor in factors.items() if factor > 1}
    )


def space_average(shape: Shape, factor: int = 2) -> Separable:
    """A smaller picture: means over factor x factor pixels."""
    return average(shape, space=factor)


def time_average(shape: Shape, factor: int = 2) -> Separable:
    """A lower frame rate with the blur of a long exposure: means over `factor` frames."""
    return average(shape, time=factor)


LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue in the brightness most software computes (ITU-R BT.601)."""


def grey(shape: Shape, weights: Sequence[float] | None = None) -> Separable:
    """A picture without colour: the mean over channels, or the given `weights` of them, such as `LUMA`."""
    row = [1 / shape[1]] * shape[1] if weights is None else list(weights)
    if len(row) != shape[1]:
        raise UserError(f"{len(row)} weights for {shape[1]} channels; give one a channel")
    return Separable(shape, {"c": torch.tensor([row], dtype=torch.float64)})


def deblur(shape: Shape, width: float = 1.2) -> Separable:
    """A picture out of focus: a Gaussian of standard deviation `width` pixels, normalised anew at the border."""
    if not width > 0:
        raise UserError(f"the width of the blur is above 0 pixels, not {width}")
    return Separable(shape, {axis: _gaussian_rows(shape[AXES[axis]], width) for axis in "hw"})


def _block_means(n: int, factor: int) -> Tensor:
    if not 1 <= factor <= n:
        raise UserError(f"blocks of {factor} do not fit an axis of {n}; choose a factor from 1 to {n}")
    means = torch.eye(n // factor, dtype=torch.float64).repeat_interleave(factor, 1) / factor
    return pad(means, (0, n % factor))


def _gaussian_rows(n: int, width: float) -> Tensor:
    place = torch.arange(n, dtype=torch.float64)
    rows = torch.exp(-0.5 * ((place[:, None] - place) / width) ** 2)
    return rows / rows.sum(1, keepdim=True)


OPERATORS: dict[str, Callable[..., Operator]] = {
    "inpaint": inpaint,
    "denoise": denoise,
    "space_average": space_average,
    "time_average": time_average,
    "grey": grey,
    "deblur": deblur,
}
