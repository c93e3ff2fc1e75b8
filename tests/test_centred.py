"""Around the cheap guess the network only says how it is wrong: EDM moved to the guess, known pixels as given."""

import math
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from test_guess import canvas, together
from torch import Tensor

from videodiff.centred import KNOWN_LEVEL, CentredDenoiser, c_noise, whole_frames
from videodiff.guess import Spread, guess
from videodiff.models.unet import Config, Inputs, Memory, Output, SpaceTimeUNet, build
from videodiff.sampling import Evaluate


class Says(SpaceTimeUNet):
    """A network that answers F, shift and doubt as told, and keeps what it was asked."""

    def __init__(self, f: Tensor | float = 0.0, shift: Tensor | float = 0.0, doubt: float | None = None) -> None:
        super().__init__(Config(channels=2, widths=(16, 16)))
        self.f, self.moves, self.doubt = f, shift, doubt

    def forward(self, x: Inputs, level: Tensor, index: Tensor, known: Tensor, **_: object) -> Output:
        self.asked, self.level, self.known = x, level, known
        zero = torch.zeros_like(x.base)
        doubt = None if self.doubt is None else zero[:, :, :1] + self.doubt
        return Output(zero + self.f, zero + self.moves, doubt)


def network(seed: int = 0) -> SpaceTimeUNet:
    torch.manual_seed(seed)
    net = build(Config(channels=2, widths=(16, 32), head_width=16, embedding=32, spatial_attention=(1,)))
    for p in net.parameters():
        if not p.any():
            torch.nn.init.normal_(p, std=0.05)
    return net.eval()


MASKED = {
    "past": [1, 1, 0, 0],
    "both ends": [1, 0, 0, 1],
    "middle": [0, 1, 1, 0],
    "all but one": [1, 1, 0, 1],
    "nothing": [0, 0, 0, 0],
}


def partial() -> Tensor:
    """Two whole frames, one with a hole, one unknown."""
    known = torch.tensor([1, 1, 1, 0], dtype=torch.bool)[:, None, None, None].repeat(1, 1, 16, 16)
    known[2, :, 4:9, 3:12] = False
    return known


@torch.no_grad()
@pytest.mark.parametrize("known", [*MASKED.values(), partial()], ids=[*MASKED, "partial"])
@pytest.mark.parametrize("s", [0.01, 1.0, 50.0])
def test_known_pixels_come_back_bit_for_bit(known: Tensor | list[int], s: float) -> None:
    c = canvas(known, b=2)
    denoiser = CentredDenoiser(network(), Spread())
    z, levels = 5 * torch.randn_like(c.frames), torch.full((2,), s)
    g = guess(c, Spread())
    d, moved = denoiser.parts(z, levels, c, g)
    for x in (d, moved, denoiser.bind(c, g)(z, levels)):
        assert torch.equal(x[c.known.expand_as(x)], c.frames[c.known.expand_as(x)])


@torch.no_grad()
@pytest.mark.parametrize("known", [*MASKED.values(), partial()], ids=[*MASKED, "partial"])
def test_binding_a_canvas_changes_nothing(known: Tensor | list[int]) -> None:
    c = canvas(known, [2, 3, 7, 8], b=2)
    denoiser = CentredDenoiser(network(), Spread())
    g = guess(c, Spread())
    denoise = denoiser.bind(c, g)
    for s in (torch.tensor([0.05, 0.05]), torch.tensor([0.3, 9.0]), torch.rand(2, 4) + 0.1):
        z = c.frames + s.reshape(2, -1, 1, 1, 1) * torch.randn_like(c.frames)
        torch.testing.assert_close(denoise(z, s), denoiser(z, s, c, g), rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_clips_with_different_known_frames_share_a_batch() -> None:
    one, two = canvas([1, 0, 0, 1]), canvas([0, 0, 1, 1], seed=1)
    both = together(one, two)
    denoiser = CentredDenoiser(network(), Spread())
    z, s = torch.randn_like(both.frames), torch.tensor([0.4, 3.0])
    whole = denoiser.bind(both, guess(both, Spread()))(z, s)
    for i, c in enumerate((one, two)):
        alone = denoiser.bind(c, guess(c, Spread()))(z[i : i + 1], s[i : i + 1])
        torch.testing.assert_close(alone[0], whole[i], rtol=1e-5, atol=1e-5)


@torch.no_grad()
def test_known_frames_are_computed_once() -> None:
    net = network()
    calls: list[int] = []
    net.stem.register_forward_hook(lambda _, given, __: calls.append(len(given[0])))
    c = canvas([1, 1, 0, 0])
    denoise = CentredDenoiser(net, Spread()).bind(c, guess(c, Spread()))
    for _ in range(3):
        denoise(c.frames, torch.tensor([1.0]))
    assert calls == [2, 2, 2, 2], "two known frames once, two wanted ones at every evaluation"


@torch.no_grad()
def test_a_network_without_a_memory_is_run_in_full() -> None:
    class Forgetful(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.inner = network()

        def forward(self, *args: Tensor, memory: Memory | None = None, **kwargs: Tensor) -> Output:
            assert memory is None
            return self.inner(*args, **kwargs)

    c = canvas([1, 1, 0, 0])
    z, s = torch.randn_like(c.frames), torch.tensor([0.7])
    g = guess(c, Spread())
    forgetful = CentredDenoiser(Forgetful(), Spread()).bind(c, g)(z, s)  # type: ignore[arg-type]
    torch.testing.assert_close(forgetful, CentredDenoiser(network(), Spread()).bind(c, g)(z, s), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("known", [*MASKED.values(), partial()], ids=[*MASKED, "partial"])
@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_the_ideal_network_gives_x0(known: Tensor | list[int], shift: float) -> None:
    c = canvas(known)
    g = guess(c, Spread())
    s = torch.tensor([0.8])
    z = c.frames + 0.8 * torch.randn_like(c.frames)
    total = (0.8**2 + g.sd**2).sqrt()
    c_skip, c_out = g.sd**2 / total**2, 0.8 * g.sd / total
    base = g.base + shift
    ideal = ((c.frames - base - c_skip * (z - base)) / c_out).masked_fill(c.known, 0)
    d = CentredDenoiser(Says(ideal, shift), Spread())(z, s, c, g)
    torch.testing.assert_close(d, c.frames, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sd", [0.5, 1.0])
def test_about_zero_it_is_edm(shared: Path, sd: float) -> None:
    stored = np.load(shared / "vectors/ode/schedules.npz")
    levels = torch.from_numpy(stored["edm_precond/s"])
    keep = levels >= KNOWN_LEVEL
    c = canvas([0, 0])
    spread = Spread(unknown=sd)
    z = torch.randn_like(c.frames)
    for s, c_skip, c_out, c_in, noise in zip(
        levels[keep].float(), *torch.from_numpy(stored[f"edm_precond_sd{sd}"])[:4, keep].float(), strict=True
    ):
        g, nothing, one = guess(c, spread), Says(), Says(f=1.0)
        plain, more = (CentredDenoiser(net, spread)(z, s[None], c, g) for net in (nothing, one))
        torch.testing.assert_close(plain, c_skip * z, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(more - plain, c_out.expand_as(z), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(nothing.asked.noisy, c_in * z, rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(nothing.level, noise.expand(1, 2), rtol=1e-5, atol=1e-6)


def test_about_a_guess_it_is_edm_moved_there() -> None:
    c = canvas([1, 0, 0])
    g = guess(c, Spread())
    z, s = torch.randn_like(c.frames), torch.tensor([0.3])
    d = CentredDenoiser(Says(), Spread())(z, s, c, g)
    expected = g.base + g.sd**2 / (g.sd**2 + 0.3**2) * (z - g.base)
    torch.testing.assert_close(d[:, 1:], expected[:, 1:])


@pytest.mark.parametrize("doubt", [-2.0, 0.0, 1.5])
def test_doubt_is_a_factor_on_the_spread(doubt: float) -> None:
    c, net = canvas([1, 0, 0]), Says(f=0.7, doubt=doubt)
    g = guess(c, Spread())
    wider = replace(g, sd=g.sd * math.exp(doubt))
    z, s = torch.randn_like(c.frames), torch.tensor([0.3])
    d = CentredDenoiser(net, Spread())(z, s, c, g)
    torch.testing.assert_close(d, CentredDenoiser(Says(f=0.7), Spread())(z, s, c, wider), rtol=1e-5, atol=1e-6)
    # What the network is shown does not depend on its answer.
    torch.testing.assert_close(net.asked.noisy[:, 1:], ((z - g.base) * (0.09 + g.sd**2).rsqrt())[:, 1:])


def test_a_clean_clip_comes_back_as_it_is() -> None:
    c = canvas([0, 0])
    z = torch.rand_like(c.frames)
    d = CentredDenoiser(Says(f=1.0), Spread(unknown=0.5))(z, torch.zeros(1), c, guess(c, Spread(unknown=0.5)))
    # The level is not taken below KNOWN_LEVEL; c_out is that level there.
    torch.testing.assert_close(d, z, rtol=1e-4, atol=1.1 * KNOWN_LEVEL)


def test_known_frames_are_shown_clean_and_without_noise() -> None:
    c = canvas([1, 0, 0, 1])
    net = Says()
    CentredDenoiser(net, Spread())(torch.randn_like(c.frames), torch.tensor([7.0]), c, guess(c, Spread()))
    low, high = c_noise(torch.tensor([KNOWN_LEVEL, 7.0])).tolist()
    assert net.level[0].tolist() == pytest.approx([low, high, high, low])
    assert not net.asked.noisy[:, [0, 3]].any()
    assert net.known.tolist() == [[True, False, False, True]]
    assert torch.equal(net.asked.base[:, [0, 3]], c.frames[:, [0, 3]])


@torch.no_grad()
def test_levels_may_differ_from_frame_to_frame() -> None:
    c = canvas([1, 0, 0, 0], b=2)
    denoiser = CentredDenoiser(network(), Spread())
    g, z = guess(c, Spread()), torch.randn_like(c.frames)
    s = torch.tensor([0.4, 3.0])
    assert torch.equal(denoiser(z, s, c, g), denoiser(z, s[:, None].expand(2, 4), c, g))
    per_frame = torch.tensor([[9.0, 0.1, 1.0, 5.0]] * 2)
    net = Says()
    CentredDenoiser(net, Spread())(z, per_frame, c, g)
    torch.testing.assert_close(net.level[:, 1:], c_noise(per_frame[:, 1:]))


@torch.no_grad()
def test_low_precision_stays_inside_the_network() -> None:
    c = canvas([1, 0, 0, 0])
    g = guess(c, Spread())
    exact = CentredDenoiser(network(), Spread()).bind(c, g)(c.frames, torch.tensor([0.5]))
    rough = CentredDenoiser(network().bfloat16(), Spread()).bind(c, g)(c.frames, torch.tensor([0.5]))
    assert rough.dtype == torch.float32
    assert torch.equal(rough[:, 0], c.frames[:, 0])
    assert (rough - exact).abs().max() < 0.1


def test_a_frame_counts_as_known_only_when_it_is_whole() -> None:
    assert whole_frames(partial()[None]).tolist() == [[True, True, False, False]]


@pytest.mark.parametrize("known", [MASKED["past"], MASKED["nothing"]], ids=["past", "nothing"])
def test_the_derivative_along_the_flow_is_that_of_differences(known: list[int]) -> None:
    c = canvas(known)
    with torch.no_grad():
        denoise = CentredDenoiser(network(), Spread()).bind(c, guess(c, Spread()))
        node, slope = Evaluate(denoise).slope(torch.randn_like(c.frames), 1.0)
        h = 1e-3
        above, below = (denoise(node.z + d * node.eps, torch.tensor([1 + d])) for d in (h, -h))
    difference = (below - above) / (2 * h)  # d eps / ds = -(dD/ds) / s
    assert (slope - difference).norm() < 0.05 * difference.norm()  # of single precision, over kinks of the warp
