"""From clips to codes and back: the error falls with the order, codes lie on the flow, slerp keeps the norm."""

import math
from collections.abc import Callable

import pytest
import torch
from oracles import error, gaussian, mixture, problem, walk
from torch import Tensor

from videodiff.errors import UserError
from videodiff.noise import NoiseSource
from videodiff.sampling import FirstOrder, Heun, Multistep, Plan, Step, Stepper, log_snr
from videodiff.sampling.adaptive import RK45
from videodiff.sampling.inversion import climb, encode, slerp

# Stepper, order, evaluations a level
METHODS: dict[str, tuple[Stepper, int, int]] = {
    "ddim": (FirstOrder(), 1, 1),
    "heun": (Heun(), 2, 2),
    "eps 2": (Multistep(2), 2, 1),
    "eps 3": (Multistep(3), 3, 1),
    "x0 2": (Multistep(2, "x0"), 2, 1),
    "2m": (Multistep(2, "x0", rule="published"), 2, 1),
    "unipc": (Multistep(2, "x0", corrector=True), 3, 1),
}


def code(denoise: Callable, x0: Tensor, plan: Plan, stepper: Stepper) -> Step:
    *_, last = encode(denoise, x0, plan, stepper)
    return last


def there_and_back(data: dict, stepper: Stepper, plan: Plan, count: int = 32) -> tuple[float, int]:
    """Error of clips encoded and decoded, and what encoding cost."""
    denoise, x0 = mixture(data), torch.from_numpy(data["data"][:count])
    last = code(denoise, x0, plan, stepper)
    return error(walk(denoise, last.z, plan, stepper), x0, data["data"]), last.n


@pytest.mark.parametrize("name", METHODS)
def test_encoding_and_decoding_returns_the_clip_with_the_order_of_the_method(ode: Callable, name: str) -> None:
    stepper, order, cost = METHODS[name]
    errors = []
    for n in (20, 100, 400):
        off, spent = there_and_back(ode("gmm16"), stepper, log_snr(80, 0.002, n // cost))
        assert n - cost <= spent <= n
        errors.append(off)
    assert math.log(errors[1] / errors[2]) / math.log(4) > order - 0.25, errors
    assert errors[0] > errors[1] > errors[2]


@pytest.mark.slow
@pytest.mark.parametrize("file", ["gmm2", "gmm16", "gmm_video"])
def test_a_thousand_steps_return_the_clip(ode: Callable, file: str) -> None:
    for name, limit in (("ddim", 5e-3), ("heun", 1e-4), ("eps 3", 5e-7)):
        stepper, _, cost = METHODS[name]
        assert there_and_back(ode(file), stepper, log_snr(80, 0.002, 1000 // cost))[0] < limit


def test_higher_order_returns_more_at_equal_evaluations(ode: Callable) -> None:
    for file in ("gmm2", "gmm16", "gmm_video"):
        for n in (20, 100):
            plan = log_snr(80, 0.002, n)
            first, second, third = (
                there_and_back(ode(file), METHODS[name][0], plan)[0] for name in ("ddim", "eps 2", "eps 3")
            )
            assert first > 3 * second > 6 * third, (file, n)


def test_codes_are_the_states_that_flow_to_the_clips(ode: Callable) -> None:
    data = ode("gmm16")
    start, clean, levels = problem(data, "linear")
    for stepper in (Multistep(3), RK45(1e-6, 1e-6)):
        last = code(mixture(data), clean, log_snr(levels[0], 1e-5, 300), stepper)
        assert last.s == pytest.approx(levels[0], rel=1e-12)
        assert error(last.z, start, data["data"]) < 2e-5 * levels[0]


def test_an_easy_flow_is_climbed_exactly() -> None:
    x0 = NoiseSource((1, 2)).draw((5,)).double()
    steps = list(encode(gaussian, x0, log_snr(80, 1e-4, 50), Multistep(3)))
    assert [step.i for step in steps] == list(range(50))
    assert [step.n for step in steps] == list(range(1, 51))
    exact = 0.3 + (x0 - 0.3) * math.sqrt((0.25 + 80**2) / 0.25)
    torch.testing.assert_close(steps[-1].z, exact, rtol=5e-4, atol=0)
    assert all(torch.allclose(step.x0, x0, atol=0.2) for step in steps[:25])  # a preview is the clip, nearly


def test_one_level_is_enough_for_a_code() -> None:
    x0 = torch.ones(1, 3)
    steps = list(encode(gaussian, x0, Plan((0.1, 0.0)), FirstOrder()))
    assert len(steps) == 1
    torch.testing.assert_close(steps[0].z, 2 * x0 - gaussian(x0, torch.full((1,), 0.1)))


def test_a_network_that_breaks_is_named_with_its_level() -> None:
    for breaks, level in ((lambda s: s > 1, "4"), (lambda s: s < 1, "0.5")):

        def denoise(z: Tensor, s: Tensor, breaks: Callable = breaks) -> Tensor:
            return z / 0 if breaks(float(s)) else z

        with pytest.raises(UserError, match=f"noise level {level} is not finite"):
            code(denoise, torch.ones(1, 2), Plan((8.0, 4.0, 0.5, 0.0)), FirstOrder())


def test_noise_and_jumps_are_refused() -> None:
    x0 = torch.ones(1, 3)
    with pytest.raises(UserError, match="sampler without noise"):
        code(gaussian, x0, log_snr(10, 0.1, 5), FirstOrder(1.0))
    with pytest.raises(UserError, match="jumps back up"):
        code(gaussian, x0, Plan((4.0, 2.0, 3.0, 1.0, 0.0)), FirstOrder())
    with pytest.raises(UserError, match="jumps back up"):
        list(climb(gaussian, x0, (1.0, 1.0), FirstOrder()))


# --- Between codes ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("w", [0.0, 0.25, 0.5, 0.9, 1.0])
def test_slerp_turns_and_grows_evenly(w: float) -> None:
    a, b = NoiseSource((1, 2)).draw((4, 3, 8, 8)).double(), 2 * NoiseSource((3, 4)).draw((4, 3, 8, 8)).double()
    z = slerp(a, b, w)

    def angle(x: Tensor, y: Tensor) -> Tensor:
        x, y = x.flatten(1), y.flatten(1)
        return torch.acos(((x * y).sum(1) / (x.norm(dim=1) * y.norm(dim=1))).clamp(-1, 1))

    whole = angle(a, b)
    torch.testing.assert_close(angle(a, z), w * whole, atol=1e-7, rtol=0)
    torch.testing.assert_close(angle(z, b), (1 - w) * whole, atol=1e-7, rtol=0)
    sizes = (1 - w) * a.flatten(1).norm(dim=1) + w * b.flatten(1).norm(dim=1)
    torch.testing.assert_close(z.flatten(1).norm(dim=1), sizes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_slerp_ends_in_its_ends_bit_for_bit(dtype: torch.dtype) -> None:
    a, b = NoiseSource((1, 2)).draw((40,)).to(dtype), NoiseSource((3, 4)).draw((40,)).to(dtype)
    assert torch.equal(slerp(a, b, 0.0), a)
    assert torch.equal(slerp(a, b, 1.0), b)
    mixed = slerp(a, b, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed, torch.stack([a[0], b[1]]))
    torch.testing.assert_close(slerp(a, 3 * a, 0.5), 2 * a)  # parallel: no angle to divide by


def test_codes_without_a_way_between_are_refused() -> None:
    a = NoiseSource((1,)).draw((40,))
    with pytest.raises(UserError, match="opposite"):
        slerp(a, -a, 0.5)
    with pytest.raises(UserError, match="no direction"):
        slerp(a, 0 * a, 0.5)


def test_a_code_between_two_has_the_spread_of_noise() -> None:
    a, b = NoiseSource((1, 2)).draw((4, 3, 16, 16))
    assert slerp(a[None], b[None], 0.5).std().item() == pytest.approx(1, abs=0.05)
    assert ((a + b) / 2).std().item() == pytest.approx(math.sqrt(0.5), abs=0.05)  # what a straight line would give
