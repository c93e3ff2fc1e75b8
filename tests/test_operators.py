"""Operators against their definitions: adjoint, singular frame, pseudo-inverse, dense matrices, stored measurements."""

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videodiff.errors import UserError
from videodiff.operators import (
    LUMA,
    OPERATORS,
    Operator,
    Shape,
    average,
    deblur,
    denoise,
    grey,
    inpaint,
    space_average,
    time_average,
)

FULL: Shape = (16, 3, 64, 64)
SMALL: Shape = (3, 3, 5, 4)


def masks(shape: Shape, seed: int = 0) -> Tensor:
    t, _, h, w = shape
    return torch.rand(2, t, 1, h, w, generator=torch.Generator().manual_seed(seed)) < 0.3


def every_other_frame(shape: Shape) -> Tensor:
    return (torch.arange(shape[0]) % 2 == 0)[:, None, None].expand(shape[0], *shape[2:])


# Sizes of SMALL do not divide by the factors, so that remainders are dropped.
MADE: dict[str, Callable[[Shape], Operator]] = {
    "inpaint": lambda shape: inpaint(masks(shape)),
    "every second frame": lambda shape: inpaint(every_other_frame(shape)),
    "denoise": denoise,
    "space_average": space_average,
    "space_average 4": lambda shape: space_average(shape, 4),
    "time_average": time_average,
    "space and time": lambda shape: average(shape, space=2, time=3),
    "grey": grey,
    "luma": lambda shape: grey(shape, LUMA),
    "deblur": deblur,
    "deblur wide": lambda shape: deblur(shape, 3.0),
}


def clip(shape: Shape, seed: int = 1, b: int = 2, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(b, *shape, dtype=dtype, generator=torch.Generator().manual_seed(seed))


def test_every_operator_is_tested() -> None:
    assert set(OPERATORS) <= set(MADE)


@pytest.mark.parametrize("name", MADE)
@pytest.mark.parametrize("shape", [FULL, SMALL], ids=["16x3x64x64", "with remainders"])
def test_adjoint_singular_frame_and_pseudo_inverse(name: str, shape: Shape) -> None:
    operator = MADE[name](shape)
    x, other = clip(shape), clip(shape, seed=2)
    y = operator(x)
    assert y.shape[0] == 2
    weights = torch.randn(y.shape, dtype=y.dtype, generator=torch.Generator().manual_seed(3))

    def close(a: Tensor, b: Tensor) -> None:
        assert (a - b).abs().max() < 1e-6

    scale = x.norm() * weights.norm()
    close((y * weights).sum() / scale, (x * operator.adjoint(weights)).sum() / scale)
    close(operator.from_spectrum(operator.to_spectrum(x)), x)
    close((operator.to_spectrum(x) * operator.to_spectrum(other)).mean(), (x * other).mean())
    assert (operator.singular >= 0).all()
    close(operator.spectrum_of(y), operator.singular * operator.to_spectrum(x))
    close(operator.adjoint(weights), operator.from_spectrum(operator.singular * operator.spectrum_of(weights)))
    close(operator(operator.pinv(y)), y)
    assert not (operator.spectrum_of(weights) * (operator.singular == 0)).any()


@pytest.mark.parametrize("name", MADE)
def test_the_maps_are_those_of_the_dense_matrix(name: str) -> None:
    operator = MADE[name](SMALL)
    d = int(np.prod(SMALL))
    units = torch.eye(d, dtype=torch.float64).reshape(d, 1, *SMALL)

    def dense(f: Callable[[Tensor], Tensor], of: Tensor) -> Tensor:  # columns are the images of unit vectors
        return torch.stack([f(unit)[0].flatten() for unit in of], dim=1)

    a, v = dense(operator, units), dense(operator.from_spectrum, units)
    m = a.shape[0]
    outputs = torch.eye(m, dtype=torch.float64).reshape(m, 1, *operator(units[0]).shape[1:])
    ut = dense(operator.spectrum_of, outputs)
    singular = operator.singular.expand(2, *SMALL)[0].flatten()
    eye = torch.eye(d, dtype=torch.float64)

    def close(x: Tensor, y: Tensor, atol: float = 1e-6) -> None:
        torch.testing.assert_close(x, y, rtol=0, atol=atol)

    close(v.T @ v, eye, 1e-12)
    close(dense(operator.to_spectrum, units), v.T, 1e-12)
    close(dense(operator.adjoint, outputs), a.T, 1e-12)
    close(ut @ ut.T, torch.diag((singular > 0).double()), 1e-12)  # U orthonormal on what is observed
    close(ut.T @ torch.diag(singular) @ v.T, a)
    close(singular.sort().values[-m:], torch.linalg.svdvals(a).sort().values[-d:])
    close(a @ dense(operator.pinv, outputs) @ a, a)


def test_a_remainder_row_column_or_frame_is_dropped() -> None:
    x = clip((5, 3, 7, 9))
    both = average((5, 3, 7, 9), space=2, time=2)(x)
    assert both.shape == (2, 2, 3, 3, 4)
    torch.testing.assert_close(both[:, 1, :, 2, 3], x[:, 2:4, :, 4:6, 6:8].mean((1, 3, 4)))
    torch.testing.assert_close(space_average((5, 3, 7, 9), 4)(x)[..., 0, 1], x[..., :4, 4:8].mean((-1, -2)))
    with pytest.raises(UserError, match="do not fit"):
        time_average((1, 3, 8, 8))


def test_grey_weighs_channels_and_deblur_blurs_rows_that_add_to_one() -> None:
    x = clip(SMALL)
    torch.testing.assert_close(grey(SMALL)(x), x.mean(2, keepdim=True))
    expected = 0.299 * x[:, :, :1] + 0.587 * x[:, :, 1:2] + 0.114 * x[:, :, 2:]
    torch.testing.assert_close(grey(SMALL, LUMA)(x), expected)
    torch.testing.assert_close(deblur(SMALL)(torch.ones_like(x)), torch.ones_like(x))
    with pytest.raises(UserError, match="2 weights for 3 channels"):
        grey(SMALL, (0.5, 0.5))
    with pytest.raises(UserError, match="width"):
        deblur(SMALL, 0.0)


@pytest.mark.parametrize("name", MADE)
def test_clips_do_not_meet_and_gradients_are_the_adjoint(name: str) -> None:
    operator = MADE[name](SMALL)
    x = clip(SMALL, dtype=torch.float32).requires_grad_()
    y = operator(x)
    weights = torch.randn_like(y)
    (gradient,) = torch.autograd.grad((y * weights).sum(), x)
    torch.testing.assert_close(gradient, operator.adjoint(weights))
    assert y.dtype == operator.pinv(y).dtype == operator.spectrum_of(y).dtype == torch.float32
    if name != "inpaint":  # whose mask is of these two clips
        torch.testing.assert_close(operator(x[1:]), y[1:])


# --- Stored measurements ----------------------------------------------------------------------------------------------

STORED: dict[str, Operator] = {
    "denoise_0.05": denoise((6, 3, 8, 8)),
    "denoise_0.2": denoise((6, 3, 8, 8)),
    "sr_space2": space_average((6, 3, 8, 8)),
    "sr_time2": time_average((6, 3, 8, 8)),
    "grey": grey((6, 3, 8, 8)),
    "deblur": deblur((6, 3, 8, 8)),
}


@pytest.fixture(scope="module")
def stored(shared: Path) -> Callable[[str], Tensor]:
    data = np.load(shared / "vectors/ode/gauss_video_conditional.npz")
    return cache(lambda key: torch.from_numpy(data[key]))


@pytest.mark.parametrize("name", STORED)
def test_stored_measurements_are_the_operators_of_the_truth(stored: Callable[[str], Tensor], name: str) -> None:
    y, sigma_y = stored(f"op_{name}/y"), float(stored(f"op_{name}/sigma_y"))
    noise = (y - STORED[name](stored("truth")[None])[0]) / sigma_y
    n = noise.numel()
    assert abs(noise.mean()) < 4 / n**0.5
    assert abs(noise.var() - 1) < 4 * (2 / n) ** 0.5
    correlation = (noise.flatten()[1:] * noise.flatten()[:-1]).mean()
    assert abs(correlation) < 4 / n**0.5
