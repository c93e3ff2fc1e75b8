"""The cheap guess is what a careful person would write, and is as wide as that person would be wrong."""

from collections.abc import Callable, Sequence
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from test_flow import inside, moved
from torch import Tensor

from videodiff.guess import NEAR, REACH, Guess, Spread, guess
from videodiff.masks import MASKS
from videodiff.types import Canvas

NAMES = [f.name for f in fields(Guess)]
STILL = Spread(motion=False)


def canvas(known: Tensor | list[int], index: list[int] | None = None, b: int = 1, seed: int = 0) -> Canvas:
    """Random frames 16 x 16; `known`: which frames are given, or a mask [t 1 h w]."""
    if isinstance(known, list):
        known = torch.tensor(known, dtype=torch.bool)[:, None, None, None].expand(-1, 1, 16, 16)
    t, _, h, w = known.shape
    frames = torch.rand(b, t, 2, h, w, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    places = torch.tensor(index if index else range(t))
    return Canvas(frames, known.expand(b, -1, -1, -1, -1).clone(), places.expand(b, -1).clone())


def together(*clips: Canvas) -> Canvas:
    """Several canvases as one batch."""
    return Canvas(*(torch.cat([getattr(c, name) for c in clips]) for name in ("frames", "known", "index")))


def same(one: Guess, other: Guess) -> bool:
    return all(torch.equal(getattr(one, name), getattr(other, name)) for name in NAMES)


# ---------------------------------------------------------------------------------------------------------------------
# Any mask, any spread


@pytest.mark.parametrize("spread", [Spread(), STILL, Spread(blend=False)], ids=["motion", "still", "constant"])
@pytest.mark.parametrize("name", sorted(MASKS))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.integers(1, 9))
def test_a_known_pixel_is_its_own_guess(name: str, spread: Spread, seed: int, t: int) -> None:
    c = canvas(MASKS[name](torch.Generator().manual_seed(seed), t, 16, 16), seed=seed)
    g = guess(c, spread)
    for x in (g.base, g.near, g.far):
        assert torch.equal(x[c.known.expand_as(x)], c.frames[c.known.expand_as(x)])
    assert (g.sd[c.known] == 0).all()
    assert (g.sd[~c.known] > 0).all()
    assert not g.reach[c.known.expand_as(g.reach)].any()


@pytest.mark.parametrize("spread", [Spread(), STILL], ids=["motion", "still"])
@pytest.mark.parametrize("name", sorted(MASKS))
@settings(max_examples=8, deadline=None)
@given(seed=st.integers(0, 10**6), t=st.integers(1, 9))
def test_the_guess_does_not_look_at_what_is_wanted(name: str, spread: Spread, seed: int, t: int) -> None:
    c = canvas(MASKS[name](torch.Generator().manual_seed(seed), t, 16, 16), seed=seed)
    hidden = replace(c, frames=torch.where(c.known, c.frames, torch.full_like(c.frames, 99.0)))
    assert same(guess(c, spread), guess(hidden, spread))


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_any_clip_and_mask_gives_a_finite_guess_within_its_bounds(data: st.DataObject) -> None:
    t, h, w = (data.draw(st.integers(low, high)) for low, high in ((1, 7), (8, 24), (8, 24)))
    generator = torch.Generator().manual_seed(data.draw(st.integers(0, 10**6)))
    name = data.draw(st.sampled_from([*sorted(MASKS), "any frames"]))
    if name == "any frames":
        flags = data.draw(st.lists(st.booleans(), min_size=t, max_size=t))
        known = torch.tensor(flags)[:, None, None, None].expand(-1, 1, h, w)
    else:
        known = MASKS[name](generator, t, h, w)
    steps = data.draw(st.lists(st.sampled_from([1, 2, 5, 1000]), min_size=t, max_size=t))
    c = canvas(known, torch.tensor(steps).cumsum(0).tolist(), b=2, seed=generator.initial_seed())
    g = guess(c, Spread(unknown=0.5))
    assert all(getattr(g, name).isfinite().all() for name in NAMES)
    assert all(getattr(g, name).abs().max() <= 1 + 1e-5 for name in ("base", "near", "far")), "nothing new is made"
    assert g.sd.max() <= 0.5
    assert torch.equal(g.maps[:, :, :1].bool(), c.known)
    assert torch.equal(g.maps[:, :, 1:2], g.sd)


@pytest.mark.parametrize("spread", [Spread(), STILL], ids=["motion", "still"])
def test_clips_of_a_batch_have_their_own_index_and_mask(spread: Spread) -> None:
    hole = torch.ones(5, 1, 16, 16, dtype=torch.bool)
    hole[3:, :, 2:9, 4:7] = False
    frames = [[1, 0, 0, 1, 0], [1, 1, 1, 0, 0], [0, 1, 0, 0, 0], [0, 0, 0, 0, 0], [0, 0, 1, 1, 1], [1, 1, 0, 0, 0]]
    index = [[0, 1, 2, 3, 4], [0, 5, 6, 9, 10], [3, 4, 6, 8, 20], [0, 2, 4, 6, 8], [0, 1, 2, 4, 7]]
    masks: list[Tensor | list[int]] = [*frames, hole]
    clips = [canvas(known, index[i % 5], seed=i) for i, known in enumerate(masks)]
    g, parts = guess(together(*clips), spread), [guess(c, spread) for c in clips]
    for name in NAMES:
        alone = torch.cat([getattr(part, name) for part in parts])
        torch.testing.assert_close(getattr(g, name), alone, rtol=0, atol=1e-5)


# ---------------------------------------------------------------------------------------------------------------------
# Without motion: by each pixel's own known values


@pytest.mark.parametrize("index", [[0, 1, 2, 3], [0, 3, 4, 10], [5, 6, 20, 21]])
def test_between_two_known_frames_it_is_their_blend_by_time(index: list[int]) -> None:
    c = canvas([1, 0, 0, 1], index)
    g = guess(c, Spread(motion=False, unknown=9, active=0, still=0.2, still_growth=0.5))
    first, last = c.frames[0, 0], c.frames[0, 3]
    for i in (1, 2):
        before, after = index[i] - index[0], index[3] - index[i]
        share = before / (before + after)
        torch.testing.assert_close(g.base[0, i], first + share * (last - first))
        # A Brownian bridge has variance d1 d2 / (d1 + d2).
        assert g.sd[0, i].unique().item() == pytest.approx(0.2 * (before * after / (before + after)) ** 0.5)
        assert g.reach[0, i, :, 0, 0].tolist() == sorted([before, after])


@pytest.mark.parametrize("known", [[1, 1, 0, 0, 0], [0, 0, 0, 1, 1]])
def test_on_one_side_only_it_is_the_nearest_frame(known: list[int]) -> None:
    index = [0, 2, 3, 5, 9]
    c = canvas(known, index)
    g = guess(c, Spread(motion=False, unknown=9, active=0, still=0.1, still_growth=0.5))
    past = bool(known[0])
    nearest, second = (1, 0) if past else (3, 4)
    for i in (i for i in range(5) if not known[i]):
        d = abs(index[i] - index[nearest])
        assert torch.equal(g.base[0, i], c.frames[0, nearest])
        assert torch.equal(g.near[0, i], c.frames[0, nearest])
        assert torch.equal(g.far[0, i], c.frames[0, second]), "with no other side, the second nearest"
        assert g.sd[0, i].unique().item() == pytest.approx(0.1 * d**0.5)
        assert g.reach[0, i, :, 0, 0].tolist() == [d, abs(index[i] - index[second])]


def test_the_spread_is_capped_by_that_of_knowing_nothing() -> None:
    c = canvas([1, 0, 0], [0, 1, 10**6])
    spread = Spread(motion=False, unknown=0.5, active=0, still=0.1, still_growth=0.5)
    assert guess(c, spread).sd[0, :, 0, 0, 0].tolist() == pytest.approx([0, 0.1, 0.5])


def test_the_spread_grows_with_what_moved_near_by() -> None:
    c = canvas([1, 1, 0])
    frames = c.frames.clone()
    frames[:, :2] = 0.25
    frames[:, 0, :, 8, 8], frames[:, 1, :, 8, 8] = -0.5, 0.7  # one pixel moved, by a standard deviation of 0.6
    spread = Spread(motion=False, unknown=9, active=0.5, active_growth=0, still=0.02, still_growth=0)
    sd = guess(replace(c, frames=frames), spread).sd[0, 2, 0]
    assert sd[8, 8].item() == pytest.approx(0.5 * 0.6 + 0.02)
    assert (sd[8 - REACH : 8 + REACH + 1, 8 - REACH : 8 + REACH + 1] == sd[8, 8]).all()
    assert sd[8, 8 + REACH + 1].item() == pytest.approx(0.02), "where nothing moved, little will"


def test_what_was_seen_once_has_the_activity_of_the_unseen() -> None:
    spread = Spread(motion=False, unknown=9, active=0.5, active_growth=0.3, still=0, unseen=0.4)
    sd = guess(canvas([1, 0, 0]), spread).sd[0, :, 0, 0, 0].tolist()
    assert sd == pytest.approx([0, 0.2, 0.2 * 2**0.3])


@pytest.mark.parametrize("blend", [True, False])
def test_where_nothing_is_known_it_is_the_constant(blend: bool) -> None:
    g = guess(canvas([0, 0, 0]), Spread(unknown=0.6, base=-1.0, blend=blend))
    assert (g.base == -1).all()
    assert (g.near == -1).all()
    assert (g.far == -1).all()
    assert (g.sd == 0.6).all()
    assert not g.reach.any()


def test_without_blending_it_is_plain_edm_about_a_constant() -> None:
    c = canvas([1, 0, 0, 1])
    g = guess(c, Spread(unknown=0.6, base=-1.0, blend=False))
    assert (g.base[:, 1:3] == -1).all()
    assert (g.sd[:, 1:3] == 0.6).all()
    assert torch.equal(g.near[0, 1], c.frames[0, 0]), "the references are still shown"


def test_near_is_the_closer_side_and_far_the_other() -> None:
    index = [0, 1, 4, 5]
    c = canvas([1, 0, 0, 1], index)
    g = guess(c, Spread(motion=False))
    assert torch.equal(g.near[0, 1], c.frames[0, 0])
    assert torch.equal(g.far[0, 1], c.frames[0, 3])
    assert torch.equal(g.near[0, 2], c.frames[0, 3])
    assert torch.equal(g.far[0, 2], c.frames[0, 0])
    # Signed: what lies before is at a negative distance.
    signed = g.maps[0, :, 2:, 0, 0]
    distances = signed.sign() * signed.abs().expm1()
    torch.testing.assert_close(distances, torch.tensor([[0.0, 0], [-1, 4], [1, -4], [0, 0]]))
    assert torch.equal(g.maps[0, :, 0, 0, 0], torch.tensor([1.0, 0, 0, 1]))
    assert torch.equal(g.maps[:, :, 1:2], g.sd)


def test_one_known_frame_is_both_references() -> None:
    c = canvas([0, 1, 0])
    g = guess(c, Spread(motion=False))
    assert torch.equal(g.near, g.far)
    assert g.maps[0, :, 2, 0, 0].sign().tolist() == [1, 0, -1]


def test_each_pixel_has_its_own_neighbours_in_time() -> None:
    known = torch.zeros(3, 1, 16, 16, dtype=torch.bool)
    known[0, :, :, :8] = True  # the left half is known before, the right half after
    known[2, :, :, 8:] = True
    c = canvas(known)
    g = guess(c, Spread(motion=False))
    assert torch.equal(g.base[0, 1, :, :, :8], c.frames[0, 0, :, :, :8])
    assert torch.equal(g.base[0, 1, :, :, 8:], c.frames[0, 2, :, :, 8:])


def test_a_hole_known_at_no_time_takes_its_spread_from_knowing_nothing() -> None:
    known = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    known[..., 6:10, 6:10] = False
    assert (guess(canvas(known), Spread(motion=False, unknown=0.6)).sd[~known[None]] == 0.6).all()


@pytest.mark.parametrize("colour", [0.7, -0.4])
def test_a_hole_known_at_no_time_is_filled_from_the_same_frame(colour: float) -> None:
    known = torch.ones(2, 1, 16, 16, dtype=torch.bool)
    known[..., 6:10, 6:10] = False
    c = canvas(known)
    c = replace(c, frames=torch.full_like(c.frames, colour))
    torch.testing.assert_close(guess(c, Spread(motion=False)).base, c.frames)


# ---------------------------------------------------------------------------------------------------------------------
# With motion: where frames are known whole

SPEEDS = [(1.0, 0.5), (-2.0, 0.3), (1.5, -1.0)]


def moving(
    known: list[int], v: tuple[float, float], at: Sequence[float] | None = None, index: list[int] | None = None
) -> Canvas:
    """A texture 32 x 40 at `v` pixels a frame; `at`: where on its way it is in each frame, else by the index."""
    index = index or list(range(len(known)))
    way = index if at is None else at
    frames = torch.cat([moved((v[0] * s, v[1] * s), 32, 40, 2) for s in way])[None]
    flags = torch.tensor(known, dtype=torch.bool)[None, :, None, None, None].expand(1, -1, 1, 32, 40).clone()
    return Canvas(frames, flags, torch.tensor(index)[None])


def constant(values: list[float], known: list[int], index: list[int] | None = None) -> Canvas:
    """Frames of one grey each: no texture, so nothing moves, but the light changes."""
    c = canvas(known, index)
    return replace(c, frames=torch.tensor(values)[None, :, None, None, None].expand_as(c.frames).clone())


def off(x: Tensor, truth: Tensor) -> float:
    """Root mean square error away from the border."""
    return inside(x - truth).square().mean().sqrt().item()


def trust(g: Guess, wanted: int, last: Tensor) -> float:
    """How much of the forecast is in the guess: base = trust * forecast + (1 - trust) * last."""
    forecast = g.far[0, wanted] - last
    return float(((g.base[0, wanted] - last) * forecast).sum() / forecast.square().sum())


@pytest.mark.parametrize("v", SPEEDS)
@pytest.mark.parametrize(
    ("known", "index"),
    [
        ([1, 1, 1, 0, 0], None),
        ([1, 1, 1, 1, 1, 0, 0], None),
        ([0, 0, 1, 1, 1, 1], None),
        ([1, 1, 1, 1, 0, 0], [0, 1, 3, 4, 6, 7]),
        ([0, 1, 1, 1, 1, 0], [0, 2, 3, 5, 6, 8]),
    ],
    ids=["three", "five", "backwards", "uneven", "both ways"],
)
def test_what_moves_at_constant_speed_is_foretold(
    known: list[int], index: list[int] | None, v: tuple[float, float]
) -> None:
    c = moving(known, v, index=index)
    g, still = guess(c, Spread()), guess(c, STILL)
    for i in (i for i, k in enumerate(known) if not k):
        truth = c.frames[0, i]
        assert off(g.base[0, i], truth) < off(still.base[0, i], truth) / 5
        assert off(g.far[0, i], truth) < off(still.base[0, i], truth) / 8, "the forecast itself is closer still"
        assert inside(g.sd[0, i]).mean() < inside(still.sd[0, i]).mean() / 2, "and it is known to be good"


@pytest.mark.parametrize("v", SPEEDS)
@pytest.mark.parametrize(
    ("known", "index"), [([1, 0, 1], [0, 1, 2]), ([1, 0, 0, 1], [0, 1, 2, 3]), ([1, 0, 1], [2, 4, 5])]
)
def test_between_two_frames_what_moves_is_put_in_between(
    known: list[int], index: list[int], v: tuple[float, float]
) -> None:
    c = moving(known, v, index=index)
    g, still = guess(c, Spread()), guess(c, STILL)
    for i in (i for i, k in enumerate(known) if not k):
        truth = c.frames[0, i]
        blended = off(still.base[0, i], truth)
        assert off(g.base[0, i], truth) < blended / 3
        for reference in (g.near, g.far):
            assert off(reference[0, i], truth) < blended / 2, "both references are moved to the time in between"
        assert torch.equal(g.reach[0, i], still.reach[0, i])
        assert torch.equal(g.maps[0, i, 2:], still.maps[0, i, 2:])


def test_beyond_the_known_frames_near_is_the_last_one_and_far_the_same_moved_on() -> None:
    c = moving([1, 1, 1, 0, 0], (1.0, 0.5))
    g = guess(c, Spread())
    for i, d in ((3, 1), (4, 2)):
        assert torch.equal(g.near[0, i], c.frames[0, 2])
        assert (g.reach[0, i] == d).all(), "both come from the same frame"
        assert torch.equal(g.maps[0, i, 2], g.maps[0, i, 3])
        assert (g.maps[0, i, 2] < 0).all()


def test_with_two_known_frames_motion_is_trusted_by_half() -> None:
    c = moving([1, 1, 0, 0], (1.0, 0.5))
    g = guess(c, Spread())
    for i in (2, 3):
        torch.testing.assert_close(g.base[0, i], (c.frames[0, 1] + g.far[0, i]) / 2)
    more = moving([1, 1, 1, 0], (1.0, 0.5))
    assert trust(guess(more, Spread()), 3, more.frames[0, 2]) > 0.8, "a third has shown that it moves on"


@pytest.mark.parametrize("v", SPEEDS)
@pytest.mark.parametrize(
    ("at", "most"),
    [
        ([0, 1, 2, 2.2], 0.75),  # has just stopped: that the motion of 0 to 1 went on is still half true
        ([0, 1, 1.1, 1.3], 0.3),  # stopped a while ago
        ([0, 1, 2, 0], 0.3),  # turned back
    ],
)
def test_what_did_not_move_on_before_is_trusted_less(at: list[float], most: float, v: tuple[float, float]) -> None:
    def seen(at: list[float]) -> tuple[float, Tensor, Tensor, Guess]:
        c = moving([1, 1, 1, 1, 0], v, [*at, 0])
        g = guess(c, Spread())
        return trust(g, 4, c.frames[0, 3]), c.frames[0, 3], g.base[0, 4], g

    trusted, last, base, g = seen(at)
    steadily, *_, steady = seen([0, 1, 2, 3])
    assert trusted < most < 0.8 < steadily
    assert off(base, last) < off(g.far[0, 4], last) * (most + 0.1), "the guess stays nearer to the last frame"
    if at[-1] != 1.3:  # there, standing still foretold it well
        assert inside(g.sd[0, 4]).mean() > 1.5 * inside(steady.sd[0, 4]).mean()


@pytest.mark.parametrize("known", [[1, 1, 1, 0, 0], [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 1, 0, 0]])
def test_a_still_clip_stays_exactly_as_it_is(known: list[int]) -> None:
    index = [0, 1, 3, 4, 7, 9, 10][: len(known)]
    c = moving(known, (0.0, 0.0), index=index)
    g = guess(c, Spread(unknown=9, still=0.02, still_growth=0.4))
    places = [i for i, k in zip(index, known, strict=True) if k]
    for i in (i for i, k in enumerate(known) if not k):
        d = min(abs(index[i] - place) for place in places)
        assert torch.equal(g.base[0, i], c.frames[0, i])
        torch.testing.assert_close(g.sd[0, i], torch.full_like(g.sd[0, i], 0.02 * d**0.4))


def test_between_two_equal_frames_nothing_changes() -> None:
    c = moving([1, 0, 0, 0, 1], (0.0, 0.0))
    g = guess(c, Spread(still=0.02, still_growth=0.4))
    torch.testing.assert_close(g.base, c.frames, rtol=0, atol=1e-5)
    for i, d in ((1, 3 / 4), (2, 1), (3, 3 / 4)):
        assert g.sd[0, i].mean().item() == pytest.approx(0.02 * d**0.4, rel=1e-3)


# The light changes where nothing moves, so the error of the backtest is known in closed form.
LIT = Spread(unknown=9, error=0.6, error_growth=0.7, still=0.01, still_growth=0.5)


@pytest.mark.parametrize(
    ("values", "places", "error", "h"),
    [
        ([0.0, 0.3], [0, 1], 0.3, 1),  # two: the last is foretold by the one before
        ([0.0, 0.3], [0, 4], 0.3, 4),
        ([0.9, 0.0, 0.2], [0, 1, 2], 0.2, 1),  # three: one frame ahead, moved as the two before it moved
        ([0.9, 0.0, 0.1, 0.4], [0, 1, 2, 3], 0.4, 2),  # four: two ahead
        ([0.9, 0.0, 0.3, 0.1, 0.5], [0, 1, 2, 3, 4], 0.5, 3),  # five: three ahead
        ([0.9, -0.9, 0.0, 0.3, 0.1, 0.5], [0, 1, 2, 3, 4, 5], 0.5, 3),  # and no more
        ([0.9, 0.0, 0.1, 0.4], [0, 3, 4, 8], 0.4, 5),  # in frames of the clip, not of the list
    ],
)
@pytest.mark.parametrize("forward", [True, False], ids=["after", "before"])
def test_the_spread_is_the_error_of_the_backtest_grown_by_distance(
    values: list[float], places: list[int], error: float, h: int, forward: bool
) -> None:
    index = [*places, places[-1] + 1, places[-1] + 3]
    values, known = [*values, 0.0, 0.0], [1] * len(places) + [0, 0]
    c = constant(values, known, index)
    if not forward:
        c = Canvas(c.frames.flip(1), c.known.flip(1), index[-1] - c.index.flip(1))
    g = guess(c, LIT)
    for i, d in ((-2, 1), (-1, 3)):
        sd = g.sd[0, i if forward else -1 - i].unique()
        expected = 0.6 * error * (d / h) ** 0.7 + 0.01 * d**0.5
        torch.testing.assert_close(sd, torch.full_like(sd, expected), rtol=1e-4, atol=0)


def test_between_two_frames_the_spread_is_their_difference_bridged() -> None:
    g = guess(constant([0.2, 0, 0, 0.6], [1, 0, 0, 1], [0, 1, 3, 4]), LIT)
    # d1 d2 / (d1 + d2) = 3 / 4 on either side, of a gap of 4.
    expected = 0.6 * 0.4 * (3 / 16) ** 0.7 + 0.01 * (3 / 4) ** 0.5
    torch.testing.assert_close(g.sd[0, 1:3], torch.full_like(g.sd[0, 1:3], expected), rtol=1e-4, atol=0)
    torch.testing.assert_close(g.base[0, 1:3, 0, 0, 0], torch.tensor([0.3, 0.5]), rtol=0, atol=1e-4)


def test_the_spread_is_never_over_that_of_knowing_nothing() -> None:
    g = guess(moving([1, 1, 1, 0, 0], (1.0, 0.5), at=[0, 1, 2, 3, 3], index=[0, 1, 2, 3, 10**6]), Spread(unknown=0.4))
    assert g.sd.max() == pytest.approx(0.4)
    assert all(getattr(g, name).isfinite().all() for name in NAMES)


def test_the_spread_is_larger_where_the_backtest_failed() -> None:
    """Left, a texture goes on steadily; right, every frame is another."""
    c = moving([1, 1, 1, 1, 0], (1.0, 0.5))
    frames = c.frames.clone()
    for i in range(5):
        frames[0, i, ..., 20:] = moved((0, 0), 32, 40, 2, seed=9 + i)[0, ..., 20:]
    g = guess(replace(c, frames=frames), Spread())
    sd, wrong = g.sd[0, 4, 0, 8:-8], (g.base - frames)[0, 4, :, 8:-8].square().mean(0).sqrt()
    left, right = slice(4, 10), slice(26, 36)
    assert sd[:, right].mean() > 4 * sd[:, left].mean()
    assert wrong[:, right].mean() > 4 * wrong[:, left].mean()
    assert 1 / 3 < wrong[:, right].mean() / sd[:, right].mean() < 3, "it is about as large as the error"


def test_an_error_spreads_to_what_is_near() -> None:
    c = constant([0.0, 0.0, 0.0, 0.0], [1, 1, 1, 0])
    c.frames[0, 2, 0, 8, 8] = 0.5
    sd = guess(c, LIT).sd[0, 3, 0]
    # Averaged over two windows of 7, then the largest within NEAR: nothing beyond 6 + NEAR pixels.
    assert sd[8, 8] == sd.max()
    assert sd[8, 8] > 2 * sd[0, 0]
    assert (sd[8 - NEAR : 9 + NEAR, 8 - NEAR : 9 + NEAR] == sd.max()).all()


@pytest.mark.parametrize("known", [[1, 1, 1, 1, 0, 0], [1, 0, 0, 1, 0, 1]])
def test_only_the_proportions_of_time_matter(known: list[int]) -> None:
    """The same frames three times as far apart move at a third of the speed over three times the time."""
    spread = Spread(still=0)
    at = [0, 1, 3, 4, 5, 7]
    one, other = (guess(moving(known, (1.0, 0.5), at, [k * i for i in at]), spread) for k in (1, 3))
    torch.testing.assert_close(one.base, other.base, rtol=0, atol=1e-6)
    torch.testing.assert_close(one.sd, other.sd, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("known", [[1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 1, 0]])
def test_before_the_known_frames_it_is_the_clip_run_backwards(known: list[int]) -> None:
    c = moving(known, (1.0, -0.5), index=[0, 1, 3, 4, 6, 8])
    back = Canvas(c.frames.flip(1), c.known.flip(1), 8 - c.index.flip(1))
    one, other = guess(c, Spread()), guess(back, Spread())
    for name in ("base", "sd", "near", "far", "reach"):
        torch.testing.assert_close(getattr(one, name), getattr(other, name).flip(1), rtol=0, atol=1e-6)


def _partial(c: Canvas) -> Canvas:
    known = c.known.clone()
    known[:, 1, :, 3:6, 4:9] = False
    return replace(c, known=known)


FALLBACK: dict[str, Callable[[], Canvas]] = {
    "a partial frame": lambda: _partial(moving([1, 1, 1, 0, 0], (1.0, 0.5))),
    "a partial frame at the end": lambda: _partial(moving([1, 1, 0, 0, 1], (1.0, 0.5))),
    "one known frame": lambda: moving([0, 1, 0, 0, 0], (1.0, 0.5)),
    "no known frame": lambda: moving([0, 0, 0, 0, 0], (1.0, 0.5)),
    "no wanted frame": lambda: moving([1, 1, 1, 1, 1], (1.0, 0.5)),
}


@pytest.mark.parametrize("case", FALLBACK)
def test_where_motion_cannot_be_told_nothing_is_moved(case: str) -> None:
    c = FALLBACK[case]()
    assert same(guess(c, Spread()), guess(c, STILL))
    # Beside a clip that moves, too.
    g, alone = guess(together(moving([1, 1, 1, 0, 0], (1.0, 0.5)), c), Spread()), guess(c, STILL)
    for name in NAMES:
        torch.testing.assert_close(getattr(g, name)[1:], getattr(alone, name), rtol=0, atol=1e-6)


def test_without_motion_a_moving_clip_is_its_last_frame() -> None:
    c = moving([1, 1, 1, 0, 0], (1.0, 0.5))
    assert torch.equal(guess(c, STILL).base[:, 3], c.frames[:, 2])
    assert not torch.equal(guess(c, Spread()).base[:, 3], c.frames[:, 2])
