"""DDRM: the noise of its state is that of the level, exact measurements are met, clips do not meet."""

from collections.abc import Callable

import numpy as np
import pytest
import torch
from oracles import gaussian_video
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import NoiseSource, spread
from videodiff.operators import LUMA, Operator, average, deblur, denoise, grey, inpaint, space_average, time_average
from videodiff.sampling import FirstOrder, Plan, karras, sample
from videodiff.sampling.spectral import Spectral

SHAPE = (6, 3, 8, 8)
OPERATORS: dict[str, Operator] = {
    "inpaint": inpaint(torch.rand(6, 1, 8, 8, generator=torch.Generator().manual_seed(0)) < 0.5),
    "denoise": denoise(SHAPE),
    "space": space_average(SHAPE, 4),
    "time": time_average(SHAPE),
    "both": average(SHAPE, space=2, time=3),
    "grey": grey(SHAPE, LUMA),
    "deblur": deblur(SHAPE),
}


def noise(b: int) -> NoiseSource:
    return NoiseSource(tuple(range(b)))


def gaussian(z: Tensor, s: Tensor) -> Tensor:
    """The exact denoiser of N(0.1, 0.25)."""
    return 0.1 + 0.25 / (0.25 + spread(s, z) ** 2) * (z - 0.1)


def truth(b: int, dtype: torch.dtype = torch.float32) -> Tensor:
    return 0.5 * torch.randn(b, *SHAPE, generator=torch.Generator().manual_seed(1)).to(dtype)


@pytest.mark.parametrize("eta_b", [1.0, 0.6])
@pytest.mark.parametrize("sigma_y", [0.0, 0.3])
@pytest.mark.parametrize("name", OPERATORS)
def test_the_state_has_the_noise_of_its_level(name: str, sigma_y: float, eta_b: float) -> None:
    # With a network that knows the truth, every coordinate of z - x0 is N(0, s^2), whatever y showed of it: the
    # marginals of Kawar et al. 2022, proposition 3.1.
    b, operator, x = 128, OPERATORS[name], truth(1)
    clean = operator(x)
    y = clean + sigma_y * torch.randn(b, *clean.shape[1:], generator=torch.Generator().manual_seed(2))
    stepper = Spectral(operator, y, sigma_y, eta_b=eta_b)
    plan = Plan((5.0, 2.0, 0.5, 0.2, 0.05, 0.0))

    def knows(z: Tensor, s: Tensor) -> Tensor:
        ratio = operator.to_spectrum(z - x).var(0) / s[0] ** 2  # of each coordinate
        assert ratio.mean() == pytest.approx(1, abs=0.02)
        assert ratio.min() > 0.5  # 4 standard errors, of a thousand skew ones
        assert ratio.max() < 1.7
        return x.expand_as(z)

    z = stepper.start(noise(b).draw(SHAPE), plan.levels[0])
    *_, last = sample(knows, z, plan, stepper, noise(b))
    assert last.n == stepper.evaluations(plan) == 5


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_an_exact_measurement_is_met_exactly(name: str, dtype: torch.dtype) -> None:
    operator, x = OPERATORS[name], truth(2, dtype)
    y = operator(x)
    stepper, plan = Spectral(operator, y), karras(80, 0.01, 20)
    z = stepper.start(noise(2).draw(SHAPE).to(dtype), plan.levels[0])
    *_, last = sample(gaussian, z, plan, stepper, noise(2))
    assert last.z.dtype == dtype
    # Blurred so far that float32 does not carry them, some coordinates are the network's.
    atol = (2e-3 if name == "deblur" else 1e-5) if dtype == torch.float32 else 1e-6
    assert (operator(last.z) - y).abs().max() < atol


def test_what_a_mask_hides_moves_like_ddim() -> None:
    operator = inpaint(torch.arange(6)[:, None, None].expand(6, 8, 8) < 3)
    stepper, plan = Spectral(operator, operator(truth(2)), eta=0.0), karras(80, 0.01, 10)
    z = stepper.start(noise(2).draw(SHAPE), plan.levels[0])
    *_, last = sample(gaussian, z, plan, stepper, noise(2))
    *_, ddim = sample(gaussian, z, plan, FirstOrder(0.0), noise(2))  # whose pixels are independent too
    torch.testing.assert_close(last.z[:, 3:], ddim.z[:, 3:], rtol=0, atol=1e-5)
    assert torch.equal(last.z[:, :3], truth(2)[:, :3])


@pytest.mark.parametrize("sigma_y", [0.0, 0.1])
def test_a_clip_is_restored_the_same_alone_and_in_a_batch(
    ode: Callable[[str], dict[str, np.ndarray]], sigma_y: float
) -> None:
    network, operator = gaussian_video(ode("gauss_video")), deblur(SHAPE)
    y, plan = operator(truth(2)), karras(80, 0.01, 10)

    def run(which: slice) -> Tensor:
        source = NoiseSource(noise(2).seeds[which])
        stepper = Spectral(operator, y[which], sigma_y)
        *_, last = sample(network, stepper.start(source.draw(SHAPE), 80.0), plan, stepper, source)
        return last.z

    torch.testing.assert_close(run(slice(0, 2)), torch.cat([run(slice(0, 1)), run(slice(1, 2))]), rtol=0, atol=1e-6)


def test_a_start_below_the_noise_of_the_measurement_is_plain_noise() -> None:
    operator = denoise(SHAPE)
    stepper, n = Spectral(operator, truth(2), sigma_y=3.0), noise(2).draw(SHAPE)
    torch.testing.assert_close(stepper.start(n, 1.0), n)
    torch.testing.assert_close(stepper.start(n, 5.0), truth(2) + 4 * n)  # y carries 3 of the 5 already


@pytest.mark.parametrize("level", [0.05, 0.1, 0.2, 0.3, 0.7])
def test_levels_as_high_as_the_noise_of_the_measurement_are_finite(level: float) -> None:
    stepper, plan = Spectral(denoise(SHAPE), truth(2), sigma_y=level), Plan((level, level / 2, 0.0))
    z = stepper.start(noise(2).draw(SHAPE), level)
    torch.testing.assert_close(z, truth(2), rtol=0, atol=1e-3)  # y itself has all the noise there is to be
    higher = Plan((2 * level, level, 0.0))
    for walk, start in ((plan, z), (higher, stepper.start(noise(2).draw(SHAPE), 2 * level))):
        *_, last = sample(gaussian, start, walk, stepper, noise(2))
        assert torch.isfinite(last.z).all()


@pytest.mark.parametrize("bad", [{"eta": 1.5}, {"eta_b": -0.1}, {"sigma_y": -1.0}])
def test_settings_out_of_range_are_refused(bad: dict[str, float]) -> None:
    with pytest.raises(UserError, match=next(iter(bad)) if "sigma_y" not in bad else "noise of the measurement"):
        Spectral(denoise(SHAPE), truth(1), **bad)
