"""The native network: any size and length, known frames computed once, a warp that moves by exactly what it says."""

from dataclasses import replace
from itertools import product
from typing import Literal

import pytest
import torch
from torch import Tensor

from videodiff.models.attention import Backend
from videodiff.models.unet import Config, Inputs, Norm, Output, SpaceTimeUNet, build, parts

TINY = Config(channels=2, widths=(16, 32), head_width=16, embedding=32, spatial_attention=(1,))


def network(config: Config = TINY, alive: bool = True, seed: int = 0) -> SpaceTimeUNet:
    """A network; `alive`: with its zero-initialised layers filled, so that every path matters."""
    torch.manual_seed(seed)
    net = build(config)
    if alive:
        for p in net.parameters():
            if not p.any():
                torch.nn.init.normal_(p, std=0.1)
    return net.eval()


def inputs(b: int, t: int, h: int = 16, w: int = 16, c: int = 2, seed: int = 0) -> Inputs:
    generator = torch.Generator().manual_seed(seed)
    noisy, base, near, far = (0.3 * torch.randn(b, t, c, h, w, generator=generator) for _ in range(4))
    maps = torch.rand(b, t, 4, h, w, generator=generator)
    reach = torch.rand(b, t, 2, h, w, generator=generator).mul(3).ceil()
    return Inputs(noisy, base, near, far, maps, reach)


def times(known: list[list[bool]]) -> tuple[Tensor, Tensor, Tensor]:
    """Levels (known frames clean), an uneven index, and which frames are known."""
    flags = torch.tensor(known)
    b, t = flags.shape
    level = torch.linspace(-1, 1, b * t).view(b, t).masked_fill(flags, -1.7)
    index = torch.arange(t).square().expand(b, t) + 3
    return level, index, flags


def set_bias(layer: torch.nn.Module, bias: Tensor) -> None:
    layer.load_state_dict({"bias": bias}, strict=False)


def close(one: Output, other: Output, tolerance: float = 1e-5) -> None:
    for x, y in zip(one, other, strict=True):
        torch.testing.assert_close(x, y, rtol=tolerance, atol=tolerance)


@torch.no_grad()
@pytest.mark.parametrize("patch", [1, 2, 4])
@pytest.mark.parametrize("norm", ["group", "rms"])
@pytest.mark.parametrize("widths", [(16, 16), (16, 32, 32)])
def test_any_size_that_the_strides_divide(patch: int, norm: Literal["group", "rms"], widths: tuple[int, ...]) -> None:
    config = replace(TINY, patch=patch, norm=norm, widths=widths)
    net = network(config)
    m = config.multiple
    assert m == patch * 2 ** (len(widths) - 1)
    for h, w in ((m, m), (m, 3 * m), (5 * m, 2 * m)):
        out = net(inputs(1, 2, h, w), *times([[True, False]]))
        assert out.f.shape == out.shift.shape == (1, 2, 2, h, w)
        assert out.f.isfinite().all()
        assert out.f.dtype == torch.float32


@torch.no_grad()
@pytest.mark.parametrize("t", [1, 3, 20])
def test_any_number_of_frames(t: int) -> None:
    net = network()
    for known in ([False] * t, [True] * (t - 1) + [False]):
        out = net(inputs(1, t), *times([known]))
        assert out.f.shape == (1, t, 2, 16, 16)
        assert out.f.isfinite().all()


@torch.no_grad()
@pytest.mark.parametrize("warp", [True, False])
@pytest.mark.parametrize(("down", "up"), [(1, 1), (1, 2), (2, 3)])
def test_an_untrained_network_says_nothing(warp: bool, down: int, up: int) -> None:
    net = network(replace(TINY, warp=warp, blocks_down=down, blocks_up=up), alive=False)
    x = inputs(2, 3)
    out = net(x, *times([[True, False, False]] * 2))
    assert not out.f.any()
    assert not out.doubt.any()
    same = net(x._replace(near=x.base, far=x.base), *times([[True, False, False]] * 2)).shift
    assert same.abs().max() < 1e-5, "references equal to the base leave it where it is"
    assert out.shift.any() == warp


@torch.no_grad()
def test_a_batch_of_four_is_four_batches_of_one() -> None:
    net = network()
    x = inputs(4, 3)
    level, index, known = times([[True, False, False], [False, False, True], [False] * 3, [True, True, False]])
    index = index + torch.arange(4)[:, None] * torch.arange(3)
    whole = net(x, level, index, known)
    for i in range(4):
        one = slice(i, i + 1)
        alone = net(Inputs(*(y[one] for y in x)), level[one], index[one], known[one])
        close(alone, Output(*(y[one] for y in whole)))


@torch.no_grad()
@pytest.mark.parametrize("known", [[True, False, False], [False, True, True], [True, False, True]])
def test_nothing_about_a_known_frame_depends_on_noise_or_on_wanted_frames(known: list[bool]) -> None:
    net = network()
    level, index, flags = times([known])
    x, other = inputs(1, 3), inputs(1, 3, seed=1)
    keep = flags[0]
    mixed = Inputs(*(torch.where(keep[None, :, None, None, None], a, b) for a, b in zip(x, other, strict=True)))
    one, two = net(x, level, index, flags), net(mixed, torch.where(flags, level, level + 1), index, flags)
    for before, after in zip(one, two, strict=True):
        assert torch.equal(before[:, keep], after[:, keep])
        assert not torch.equal(before[:, ~keep], after[:, ~keep])


@torch.no_grad()
def test_wanted_frames_see_each_other_and_the_known_ones() -> None:
    net = network()
    level, index, known = times([[True, False, False]])
    x = inputs(1, 3)
    out = net(x, level, index, known).f
    for changed, seen_by in ((0, [0, 1, 2]), (1, [1, 2]), (2, [1, 2])):
        noisy = x.noisy.clone()
        noisy[:, changed] += 1
        differs = (net(x._replace(noisy=noisy), level, index, known).f != out).flatten(2).any(2)[0]
        assert differs.nonzero()[:, 0].tolist() == seen_by


@torch.no_grad()
@pytest.mark.parametrize("known", [[1, 0, 0, 0], [0, 0, 1, 1], [1, 0, 1, 0], [0, 1, 1, 0], [1, 1, 1, 0]])
def test_known_frames_remembered_are_the_full_forward(known: list[int]) -> None:
    net = network()
    level, index, flags = times([[bool(x) for x in known]] * 2)
    x = inputs(2, 4)
    given, wanted = flags[0].nonzero()[:, 0], (~flags[0]).nonzero()[:, 0]
    full = net(x, level, index, flags)
    memory = net.remember(x.frames(given), level[:, given], index[:, given])
    for _ in range(2):  # a memory can be used again
        part = net(x.frames(wanted), level[:, wanted], index[:, wanted], flags[:, wanted], memory=memory)
        close(part, Output(*(y[:, wanted] for y in full)))


@torch.no_grad()
def test_remembering_agrees_to_the_last_digits_in_float64() -> None:
    # The output is rounded to float32 at the end, so the network must not have lost a digit before.
    net = network(replace(TINY, warp=False)).double()
    level, index, flags = times([[True, False, True, False]])
    x = Inputs(*(y.double() for y in inputs(1, 4)))
    given, wanted = flags[0].nonzero()[:, 0], (~flags[0]).nonzero()[:, 0]
    seen: list[Tensor] = []
    net.out.register_forward_hook(lambda _, __, out: seen.append(out))
    net(x, level.double(), index, flags)
    memory = net.remember(x.frames(given), level[:, given].double(), index[:, given])
    net(x.frames(wanted), level[:, wanted].double(), index[:, wanted], flags[:, wanted], memory=memory)
    torch.testing.assert_close(seen[1], seen[0][wanted], rtol=1e-10, atol=1e-10)


@torch.no_grad()
def test_only_differences_of_the_index_matter() -> None:
    net = network()
    x, (level, index, known) = inputs(1, 4), times([[True, False, False, True]])
    out = net(x, level, index, known)
    close(net(x, level, index + 1000, known), out, 0)
    assert (net(x, level, index * 2, known).f - out.f).abs().max() > 1e-4
    assert (net(x, level, index.flip(1), known).f - out.f).abs().max() > 1e-4, "before is not after"


@torch.no_grad()
def test_each_frame_has_its_own_level() -> None:
    net = network()
    x, (level, index, known) = inputs(1, 3), times([[True, False, False]])
    out = net(x, level, index, known).f
    changed = level.clone()
    changed[0, 2] += 0.5
    difference = (net(x, changed, index, known).f - out).abs().flatten(2).amax(2)[0]
    assert difference[0] == 0
    assert difference[2] > 1e-3


@torch.no_grad()
@pytest.mark.parametrize("backends", [("math", "sdpa"), ("auto", "sdpa")])
def test_the_attention_back_end_does_not_matter(backends: tuple[Backend, Backend]) -> None:
    net = network()
    one, two = (net(inputs(1, 3), *times([[True, False, False]]), backend=backend) for backend in backends)
    close(one, two)


def test_recomputing_gives_the_same_gradients() -> None:
    net = network()
    net.train()
    gradients = []
    for net.recompute in (False, True):
        net.zero_grad()
        out = net(inputs(1, 3), *times([[True, False, False]]))
        sum(y.square().mean() for y in out).backward()
        gradients.append({name: p.grad for name, p in net.named_parameters() if p.grad is not None})
    assert len(gradients[0]) > 50
    assert gradients[0].keys() == gradients[1].keys()
    for name in gradients[0]:
        assert torch.equal(gradients[0][name], gradients[1][name]), name


def test_every_weight_is_used() -> None:
    net = network(replace(TINY, vector=3))
    out = net(inputs(2, 3), *times([[True, False, False]] * 2))
    sum(y.square().mean() for y in out).backward()
    dead = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    # The softmax of attention does not see what all keys share: the bias of k's part, and of the positions.
    assert [name for name in dead if "position.2.bias" not in name] == []


@torch.no_grad()
def test_a_vector_conditions_and_none_is_its_own_vector() -> None:
    net = network(replace(TINY, vector=3))
    x, time = inputs(1, 2), times([[True, False]])
    with_a, with_b = (net(x, *time, vector=torch.tensor([v])).f for v in ([1.0, 0, 0], [0, 1.0, 0]))
    assert (with_a - with_b).abs().max() > 1e-3
    close(net(x, *time), net(x, *time, vector=net.no_vector[None]), 1e-6)
    given, wanted = torch.tensor([0]), torch.tensor([1])
    level, index, known = time
    vector = torch.tensor([[1.0, 0, 0]])
    memory = net.remember(x.frames(given), level[:, given], index[:, given], vector=vector)
    part = net(x.frames(wanted), level[:, wanted], index[:, wanted], known[:, wanted], vector=vector, memory=memory)
    torch.testing.assert_close(part.f, with_a[:, wanted], rtol=1e-5, atol=1e-5)


@torch.no_grad()
@pytest.mark.parametrize(("dx", "dy", "distance"), [(1, 0, 1), (0, 2, 1), (-1, 1, 3), (0.5, 0, 2), (0.25, 0, 2)])
@pytest.mark.parametrize("reference", ["near", "far"])
def test_the_warp_moves_by_exactly_velocity_times_distance(dx: float, dy: float, distance: int, reference: str) -> None:
    config = replace(TINY, channels=1, patch=2)
    net = network(config, alive=False)
    which = ("near", "far").index(reference)
    set_bias(net.velocity, torch.tensor([dx, dy, 0, 0]).roll(2 * which))
    set_bias(net.out, torch.tensor([0, 40, 0, 0, 0]).roll(which).repeat_interleave(4))  # F, near, far, stay, doubt
    frame = torch.randn(1, 1, 1, 24, 32)
    x = inputs(1, 1, 24, 32, c=1)._replace(reach=torch.full((1, 1, 2, 24, 32), float(distance)), **{reference: frame})
    out = net(x, *times([[False]]))
    moved = (x.base + out.shift)[0, 0, 0]
    # D(y, x) = frame(y + vy d, x + vx d), linear between pixels.
    mx, my = dx * distance, dy * distance
    low = int(mx // 1)
    left, right = (frame[0, 0, 0].roll((-int(my), -shift), (0, 1)) for shift in (low, low + 1))
    expected = left * (1 - (mx - low)) + right * (mx - low)
    inside = slice(6, -6), slice(6, -6)
    torch.testing.assert_close(moved[inside], expected[inside], rtol=1e-4, atol=1e-4)
    assert moved.isfinite().all()


@torch.no_grad()
def test_a_warp_over_the_edge_repeats_the_edge() -> None:
    net = network(replace(TINY, channels=1), alive=False)
    set_bias(net.velocity, torch.tensor([100.0, 0, 0, 0]))
    set_bias(net.out, torch.tensor([0, 40, 0, 0, 0]).repeat_interleave(4))
    x = inputs(1, 1, c=1)._replace(reach=torch.ones(1, 1, 2, 16, 16))
    moved = x.base + net(x, *times([[False]])).shift
    torch.testing.assert_close(moved, x.near[..., -1:].expand_as(moved), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf"), 1e30])
def test_a_network_that_ran_away_answers_and_does_not_crash(value: float) -> None:
    net = network()
    with torch.no_grad():
        next(net.middle.parameters()).fill_(value)
        set_bias(net.velocity, torch.full((4,), value))
    for _ in range(3):
        out = net(inputs(2, 3), *times([[True, False, False]] * 2))
        assert not out.f.isfinite().all() or value == 1e30
        sum(y.sum() for y in out).backward()


@torch.no_grad()
def test_bfloat16_is_near_float32() -> None:
    net = network()
    x, time = inputs(1, 3), times([[True, False, False]])
    exact = net(x, *time)
    low = Inputs(*(y.bfloat16() for y in x))._replace(reach=x.reach)
    rough = net.bfloat16()(low, *time)
    assert rough.f.dtype == torch.float32
    assert (rough.f - exact.f).square().mean() < 0.05**2 * exact.f.square().mean()


@torch.no_grad()
@pytest.mark.parametrize(("width", "head_width"), [(48, 32), (112, 32), (80, 16), (16, 64), (50, 7)])
def test_widths_that_the_head_width_does_not_divide_work_too(width: int, head_width: int) -> None:
    net = network(replace(TINY, widths=(16, width), head_width=head_width))
    assert net(inputs(1, 2), *times([[True, False]])).f.isfinite().all()
    assert width % parts(width, head_width) == 0


@torch.no_grad()
@pytest.mark.parametrize("kind", ["group", "rms"])
def test_norms_do_not_mix_frames(kind: str) -> None:
    norm = Norm(32, kind)
    x = torch.randn(3, 32, 4, 4)
    close_to = torch.cat([norm(frame[None]) for frame in x])
    torch.testing.assert_close(norm(x), close_to)
    torch.testing.assert_close(norm(x * 100), norm(x), rtol=1e-3, atol=1e-3)


BAD = [
    {"widths": ()},
    {"widths": (16,)},
    {"widths": (16, 0)},
    {"widths": (16, 10**9)},
    {"widths": (1,) * 100},
    {"blocks_down": 0},
    {"blocks_down": 10**9},
    {"blocks_up": 10**9},
    {"blocks_down": 3, "blocks_up": 2},
    {"patch": 0},
    {"patch": 10**6},
    {"channels": 0},
    {"head_width": 0},
    {"embedding": 10**12},
    {"vector": -1},
]


@pytest.mark.parametrize("change", BAD, ids=str)
def test_a_config_that_describes_no_network_is_refused(change: dict) -> None:
    with pytest.raises(ValueError, match="must be from"):
        replace(TINY, **change)


def test_one_level_is_a_network_where_there_is_no_warp() -> None:
    net = network(replace(TINY, widths=(16,), warp=False))
    assert net(inputs(1, 2), *times([[True, False]])).f.shape == (1, 2, 2, 16, 16)


@torch.no_grad()
@pytest.mark.parametrize(("seed", "warp"), list(product(range(3), [True, False])))
def test_the_same_seed_builds_the_same_network(seed: int, warp: bool) -> None:
    one, two = (network(replace(TINY, warp=warp), seed=seed).state_dict() for _ in "ab")
    assert all(torch.equal(one[name], two[name]) for name in one)
