"""Filling keeps what is known, gives the same for the same seed whatever is beside it, and says what it is doing."""

import io
import itertools
import math
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import torch
from oracles import mixture
from PIL import Image

from videodiff import pipeline
from videodiff.denoiser import Cancelled
from videodiff.errors import LimitExceeded, OutOfResources, UserError
from videodiff.events import Progress
from videodiff.noise import NoiseSource
from videodiff.pipeline import (
    Model,
    check_memory,
    code,
    fill,
    fill_canvas,
    make_levels,
    open_model,
    to_pixels,
    to_tensor,
    window_canvas,
)
from videodiff.planner import Timeline, Window
from videodiff.sampling import SAMPLERS, Plan, as_planned
from videodiff.settings import Sampling
from videodiff.spool import Spool
from videodiff.tasks.layout import Edit, Layout
from videodiff.types import Canvas

SEEDS = (3, 1, 4, 159)


@pytest.fixture(scope="module")
def model(tiny) -> Model:
    return open_model(request(tiny))


def request(tiny, **given) -> Sampling:
    plain = {"checkpoint": str(tiny), "seed": 3, "steps": 4, "device": "cpu", "precision": "float32"}
    return Sampling(**{**plain, **given})


def some_canvas(known: torch.Tensor | None = None, batch: int = 4, frames: int = 8) -> Canvas:
    """Clips as unlike as can be: black, still, drifting, noise; the first half is known if nothing else is said."""
    generator = torch.Generator().manual_seed(0)
    pixels = torch.zeros(4, frames, 3, 16, 16)
    pixels[0] = -1
    pixels[1] = torch.rand(3, 16, 16, generator=generator) * 2 - 1
    pixels[2] = torch.sin(torch.arange(16) / 2 + torch.arange(frames)[:, None, None, None] * 0.7)
    pixels[3] = torch.rand(frames, 3, 16, 16, generator=generator) * 2 - 1
    if known is None:
        known = torch.zeros(4, frames, 1, 16, 16, dtype=torch.bool)
        known[:, : frames // 2] = True
    return Canvas(pixels[:batch], known[:batch], torch.arange(frames).expand(batch, -1).contiguous())


def one_of(canvas: Canvas, i: int) -> Canvas:
    return Canvas(canvas.frames[i : i + 1], canvas.known[i : i + 1], canvas.index[i : i + 1])


def answer(model: Model, canvas: Canvas, settings: Sampling, seeds) -> torch.Tensor:
    *_, last = fill_canvas(model, canvas, settings, NoiseSource(tuple(seeds)))
    return last.z


def holes() -> torch.Tensor:
    """A different mask for each of four clips: the past, nothing, both ends, all but a square."""
    known = torch.zeros(4, 8, 1, 16, 16, dtype=torch.bool)
    known[0, :3] = True
    known[2, [0, 1, 6, 7]] = True
    known[3] = True
    known[3, 1:, :, 4:10, 5:9] = False
    return known


# --- what is known stays


@pytest.mark.parametrize("conditioning", ["concat", "replace", "clamp"])
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_known_pixels_come_back_bit_for_bit(tiny, model, conditioning, sampler):
    canvas = some_canvas(holes())
    settings = request(tiny, conditioning=conditioning, sampler=sampler, steps=2)
    z = answer(model, canvas, settings, SEEDS)
    known = canvas.known.expand_as(z)
    assert torch.equal(z[known], canvas.frames[known])
    assert z.isfinite().all()
    assert (z[~known] - canvas.frames[~known]).abs().mean() > 1e-3, "and the others are made"


def test_bytes_survive_the_way_to_the_network_and_back():
    frame = np.arange(256, dtype=np.uint8).reshape(16, 16, 1).repeat(3, 2)
    np.testing.assert_array_equal(to_pixels(to_tensor(frame)[None])[0], frame)


def test_what_leaves_the_range_is_cut_off():
    assert to_pixels(torch.tensor([-7.0, 7.0]).reshape(1, 1, 1, 2)).tolist() == [[[[0], [255]]]]


# --- the same seed, the same clip


def test_the_noise_of_a_clip_is_the_same_bit_for_bit_alone_and_in_a_batch():
    batch = NoiseSource(SEEDS, 2).draw((8, 3, 16, 16))
    for i, seed in enumerate(SEEDS):
        assert torch.equal(batch[i], NoiseSource((seed,), 2).draw((8, 3, 16, 16))[0])
    assert not torch.equal(batch[0], NoiseSource(SEEDS, 3).draw((8, 3, 16, 16))[0]), "another window, other noise"


@pytest.mark.parametrize("masks", ["alike", "unlike"])
@pytest.mark.parametrize(
    "given",
    [
        {},
        {"sampler": "heun"},
        {"sampler": "ddpm"},
        {"sampler": "sde_dpmpp_2m"},
        {"guidance": 2.5},
        {"conditioning": "replace"},
        {"conditioning": "clamp"},
    ],
    ids=str,
)
def test_a_clip_is_the_same_within_1e_5_alone_and_beside_others(tiny, model, given, masks):
    canvas, settings = some_canvas(holes() if masks == "unlike" else None), request(tiny, **given)
    together = answer(model, canvas, settings, SEEDS)
    for i, seed in enumerate(SEEDS):
        alone = answer(model, one_of(canvas, i), settings, (seed,))
        assert (together[i] - alone[0]).abs().max() < 1e-5


def test_in_bfloat16_a_clip_is_nearly_the_same_alone_and_beside_others(tiny, record_property):
    """Its rounding depends on how a product is cut into pieces, so a level of brightness may differ, not a shape."""
    settings = request(tiny, precision="bfloat16")
    model, canvas = open_model(settings), some_canvas()
    together = answer(model, canvas, settings, SEEDS)
    off = max(
        float((together[i] - answer(model, one_of(canvas, i), settings, (seed,))[0]).abs().max())
        for i, seed in enumerate(SEEDS)
    )
    record_property("largest difference", off)
    print(f"bfloat16, alone and in a batch of four: largest difference {off:.2e}")
    assert off < 0.05


def test_a_clip_does_not_depend_on_its_neighbours(tiny, model):
    canvas, settings = some_canvas(), request(tiny)
    first = answer(model, canvas, settings, SEEDS)
    others = replace(canvas, frames=torch.cat([canvas.frames[:1], canvas.frames[1:].flip(0) * 0.5]))
    again = answer(model, others, settings, (SEEDS[0], 8, 9, 10))
    assert (first[0] - again[0]).abs().max() < 1e-5
    assert (first[1] - again[1]).abs().max() > 1e-2


def test_the_same_request_gives_the_same_bits_and_another_seed_another_clip(tiny, model):
    canvas, settings = some_canvas(), request(tiny)
    first = answer(model, canvas, settings, SEEDS)
    assert torch.equal(first, answer(model, canvas, settings, SEEDS))
    assert (first - answer(model, canvas, settings, (5, 6, 7, 8)))[:, 4:].abs().amax((1, 2, 3, 4)).min() > 1e-3


def test_what_lies_in_the_wanted_places_is_not_looked_at(tiny, model):
    canvas, settings = some_canvas(), request(tiny)
    other = replace(canvas, frames=torch.where(canvas.known, canvas.frames, 0.7))
    assert torch.equal(answer(model, canvas, settings, SEEDS), answer(model, other, settings, SEEDS))


# --- guidance


def test_guidance_1_asks_the_network_once_a_step_and_others_twice(tiny, model, monkeypatch):
    calls = []
    net = model.denoiser.net
    handle = net.register_forward_hook(lambda *_: calls.append(1))
    try:
        plain = answer(model, some_canvas(), request(tiny), SEEDS)
        assert len(calls) == 4
        calls.clear()
        assert torch.equal(plain, answer(model, some_canvas(), request(tiny, guidance=1.0), SEEDS))
        assert len(calls) == 4
        calls.clear()
        guided = answer(model, some_canvas(), request(tiny, guidance=3.0), SEEDS)
        assert len(calls) == 8
        assert (plain - guided).abs().max() > 1e-3
    finally:
        handle.remove()


def test_guidance_0_makes_the_same_whatever_is_known(tiny, model):
    """But for the guess the walk begins about, which is small beside the first level of noise."""
    canvas = some_canvas()
    other = replace(canvas, frames=canvas.frames.flip(0).contiguous())

    def change(guidance: float) -> float:
        settings = request(tiny, guidance=guidance)
        made, made_other = answer(model, canvas, settings, SEEDS), answer(model, other, settings, SEEDS)
        return float((made - made_other)[:, 4:].square().mean().sqrt())

    assert change(0.0) < 0.1 < 0.3 < change(1.0)


# --- errors and limits


def test_a_network_that_answers_nonsense_is_told_plainly(tiny):
    model = open_model(request(tiny))
    with torch.no_grad():
        for p in model.denoiser.net.parameters():
            p.fill_(float("nan"))
    with pytest.raises(UserError, match="not finite; try --precision float32"):
        answer(model, some_canvas(), request(tiny), SEEDS)


def test_a_window_beyond_all_memory_is_refused(tiny, model):
    with Spool((1024, 1024, 3)) as spool:
        layout = Layout(spool, Timeline((), range(8), range(8), Fraction(10)))
        check_memory(model, layout, request(tiny))
        with pytest.raises(LimitExceeded, match="--size, --window or --average"):
            check_memory(model, layout, request(tiny, average=16))
        with pytest.raises(LimitExceeded, match="64 frames"):
            check_memory(model, layout, request(tiny, window=64))


def test_a_pass_backward_asks_for_more_memory(tiny, model, monkeypatch):
    monkeypatch.setattr(pipeline, "free_memory", lambda device: 300_000_000)
    with Spool((128, 128, 3)) as spool:
        layout = Layout(spool, Timeline((), range(8), range(8), Fraction(10)))
        check_memory(model, layout, request(tiny))
        with pytest.raises(OutOfResources, match=r"about 0\.6 GB"):
            check_memory(model, layout, request(tiny, conditioning="reconstruction"))


# --- any length, through the spool


def layout_of(frames: dict[int, np.ndarray], wanted, total: int, hole=None) -> Layout:
    spool = Spool((16, 16, 3))
    for place, frame in frames.items():
        spool.put(place, frame)
    given = [place for place in frames if place not in set(wanted)]
    return Layout(spool, Timeline(given, wanted, range(total), Fraction(10), hole))


def edited(frames: dict[int, np.ndarray], length: int, kind: str, amount=0.7) -> Layout:
    """An edit of the first `length` frames by adding noise, or by turning their code to noise or to later frames."""
    spool = Spool((16, 16, 3))
    for place, frame in frames.items():
        spool.put(place, frame)
    start = amount if callable(amount) else lambda _: amount
    other = (lambda place: length + place) if kind == "other" else None
    timeline = Timeline((), range(length), range(length), Fraction(10), context=4)
    return Layout(spool, timeline, Edit(start, kind != "start", other))


def pictures(num_frames: int) -> dict[int, np.ndarray]:
    rng = np.random.default_rng(0)
    return {i: rng.integers(0, 256, (16, 16, 3), np.uint8) for i in range(num_frames)}


class Counted:
    """How often the network is asked, while it is in use."""

    def __init__(self, model: Model) -> None:
        self.n = 0
        self.handle = model.denoiser.net.register_forward_pre_hook(self.count)

    def count(self, *_) -> None:
        self.n += 1

    def __enter__(self) -> "Counted":
        return self

    def __exit__(self, *_) -> None:
        self.handle.remove()


@pytest.mark.parametrize(
    ("sampler", "edit"),
    [
        *((sampler, None) for sampler in SAMPLERS),
        *((sampler, edit) for sampler in ("dpm3", "heun", "pndm", "rk45") for edit in ("start", "coded", "other")),
    ],
)
def test_progress_counts_every_evaluation_of_every_window(tiny, model, sampler, edit):
    if edit is None:
        layout = layout_of(pictures(4), range(4, 10), 10)  # windows of 4 and 2 new frames
    else:
        layout = edited(pictures(20), 10, edit)
    with Counted(model) as asked:
        events = list(fill(model, layout, request(tiny, sampler=sampler, steps=3)))
    assert all(isinstance(event, Progress) for event in events)
    done = [event.done for event in events]
    assert all(n <= m for n, m in itertools.pairwise(done)), "a move up asks nothing"
    assert {event.total for event in events} == {done[-1]}
    if SAMPLERS[sampler].stepper.evaluations(Plan((1.0, 0.0))) is not None and sampler != "genie":
        assert done[-1] == asked.n
    assert {event.what for event in events} == {"sampling"}
    assert {event.preview for event in events} == {None}
    assert all(place in layout.spool for place in range(10))


def test_repaint_counts_the_steps_it_takes_again(tiny, model):
    with Counted(model) as asked:
        settings = request(tiny, conditioning="repaint", repaint_times=3)
        *_, last = fill(model, layout_of(pictures(4), range(4, 8), 8), settings)
    assert last.done == last.total == asked.n == 4 + 3 * 2  # three moves above 0, twice more each


def test_given_frames_stay_the_bytes_they_were(tiny, model):
    given = pictures(4)
    layout = layout_of(given, range(4, 10), 10)
    list(fill(model, layout, request(tiny)))
    for place, frame in given.items():
        np.testing.assert_array_equal(layout.spool.get(place), frame)


def test_pixels_outside_a_hole_stay_the_bytes_they_were(tiny, model):
    given = pictures(12)
    hole = np.zeros((16, 16), bool)
    hole[4:9, 2:7] = True
    layout = layout_of(given, range(12), 12, lambda place: np.roll(hole, place, 1))
    list(fill(model, layout, request(tiny)))
    for place, frame in given.items():
        wanted = np.roll(hole, place, 1)
        made = layout.spool.get(place)
        np.testing.assert_array_equal(made[~wanted], frame[~wanted])
        assert (made[wanted] != frame[wanted]).any()


def test_previews_are_jpeg_pictures_of_the_window(tiny, model, monkeypatch):
    monkeypatch.setattr(pipeline, "PREVIEW_SECONDS", -1)
    for event in fill(model, layout_of(pictures(4), range(4, 6), 6), request(tiny), previews=True):
        assert event.preview is not None
        picture = Image.open(io.BytesIO(event.preview))
        assert picture.format == "JPEG"
        assert min(picture.size) >= 16


def test_previews_are_seldom_enough_to_cost_nothing(tiny, model, monkeypatch):
    monkeypatch.setattr(pipeline, "PREVIEW_SECONDS", 1000)
    layout = layout_of(pictures(4), range(4, 6), 6)
    assert {event.preview for event in fill(model, layout, request(tiny), previews=True)} == {None}


def test_average_2_is_the_mean_of_the_two_samples(tiny, model):
    canvas = one_of(some_canvas(), 2)
    samples = torch.cat([answer(model, canvas, request(tiny), (seed,)) for seed in (3, 4)])
    layout = layout_of({i: to_pixels(canvas.frames[0])[i] for i in range(4)}, range(4, 8), 8)
    # the samples above saw the frames before they were rounded to bytes; give them the same
    exact = window_canvas(layout, Window((0, 1, 2, 3), (4, 5, 6, 7)))
    samples = torch.cat([answer(model, exact, request(tiny), (seed,)) for seed in (3, 4)])
    list(fill(model, layout, request(tiny, average=2)))
    expected = to_pixels(samples.mean(0))
    for place in range(4, 8):
        assert np.abs(layout.spool.get(place).astype(int) - expected[place]).max() <= 1
    assert (samples[0] - samples[1]).abs().max() > 0.01


def test_a_window_shows_the_network_what_is_known_and_nothing_else(tiny):
    given = pictures(9)
    layout = layout_of(given, [5, 7], 9)
    canvas = window_canvas(layout, Window((2, 4, 6), (5, 7)))
    assert canvas.index.tolist() == [[0, 2, 3, 4, 5]]
    assert canvas.known[0, :, 0, 0, 0].tolist() == [True, True, False, True, False]
    assert not canvas.frames[0, [2, 4]].any(), "what lay in the missing places is gone"
    for i, place in ((0, 2), (1, 4), (3, 6)):
        assert torch.equal(canvas.frames[0, i], to_tensor(given[place]))


def test_what_a_window_made_the_next_one_sees(tiny, model):
    """Prediction in two calls of one window each equals prediction of both windows at once."""
    given = pictures(4)
    once = layout_of(given, range(4, 12), 12)
    list(fill(model, once, request(tiny)))
    noise = NoiseSource((3,), 1)
    canvas = window_canvas(once, Window((4, 5, 6, 7), (8, 9, 10, 11)))
    *_, last = fill_canvas(model, canvas, request(tiny), noise)
    np.testing.assert_array_equal(to_pixels(last.z[0])[4:], np.stack([once.spool.get(place) for place in range(8, 12)]))


# --- edits: frames as a guide


GUIDE = torch.sin(torch.arange(16) / 3 + torch.arange(8)[:, None, None, None] * 0.4).expand(1, 8, 3, 16, 16)


def guided(start: torch.Tensor | float, guide: torch.Tensor = GUIDE) -> Canvas:
    known = torch.zeros(len(guide), 8, 1, 16, 16, dtype=torch.bool)
    return Canvas(guide, known, torch.arange(8).expand(len(guide), -1), start=torch.ones(known.shape) * start)


@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_where_nothing_is_to_change_nothing_does(tiny, model, sampler):
    start = torch.zeros(1, 8, 1, 16, 16)
    start[:, 2:, :, 4:9] = 0.8
    start[:, 2:, :, 9:12] = 0.3
    z = answer(model, guided(start), request(tiny, sampler=sampler), (1,))
    assert torch.equal(z[:, :, :, :4], GUIDE[:, :, :, :4])
    assert torch.equal(z[:, :2], GUIDE[:, :2])
    assert (z - GUIDE)[:, 2:, :, 4:9].abs().mean() > 1e-3
    assert (z - GUIDE)[:, 2:, :, 9:12].abs().mean() > 1e-3
    assert z.isfinite().all()


def test_a_start_of_0_is_the_guide_and_of_1_ignores_it(tiny, model):
    settings = request(tiny)
    assert torch.equal(answer(model, guided(0.0), settings, (1,)), GUIDE)
    made = answer(model, guided(1.0), settings, (1,))
    assert torch.equal(made, answer(model, guided(1.0, -GUIDE), settings, (1,)))


@pytest.mark.parametrize("walk", ["log_snr", "karras", "uniform_t", "quadratic_t"])
def test_a_stronger_edit_begins_at_a_higher_level_and_ends_farther_away(tiny, model, walk):
    settings, shares = request(tiny, walk=walk, steps=6), (1e-6, 0.05, 0.2, 0.4, 0.6, 0.8, 0.95, 1.0)
    first = [make_levels(model, settings, share).levels[0] for share in shares]
    assert first == sorted(first)
    assert first[0] == pytest.approx(model.bundle.levels.min / model.bundle.spread.unknown, rel=1e-4)
    assert first[-1] == pytest.approx(model.bundle.levels.max_ratio)
    assert first[3] * first[4] == pytest.approx(first[0] * first[-1], rel=1e-4), "a straight line in log s"
    away = [float((answer(model, guided(share), settings, (1,)) - GUIDE).square().mean()) for share in shares]
    assert away == sorted(away)


def test_parts_of_the_same_strength_are_edited_as_the_whole(tiny, model):
    """A start for every pixel is the start for all, if all are alike; and a pixel waits for its level.

    With a method that looks only at the present: a multistep one remembers the levels at which a pixel was held.
    """
    settings = request(tiny, steps=5, sampler="ddim")
    levels = make_levels(model, settings).levels
    half = math.log(levels[2] / levels[-2]) / math.log(levels[0] / levels[-2])  # the share of the third level
    start = torch.full((1, 8, 1, 16, 16), half)
    start[:, 0, 0, 0, 0] = 1.0  # one pixel makes the walk begin at its top
    z = answer(model, guided(start), settings, (1,))
    part = answer(model, guided(half), request(tiny, steps=3, sampler="ddim"), (1,))
    assert (z - part)[:, 1:].abs().mean() < 0.05 < (part - GUIDE).abs().mean()


class Exact:
    """Stands where the network stands, and answers what an exact one would: the mixture of two numbers a pixel."""

    def __init__(self, denoise) -> None:
        self.denoise = denoise

    def __call__(self, z, s, canvas: Canvas, g) -> torch.Tensor:
        return self.denoise(z.flatten(1), s).view_as(z)


def test_with_an_exact_network_stronger_edits_are_likelier_and_farther_from_the_guide(tiny, shared):
    """Meng et al. 2022, figure 3, on the 16 numbers of a mixture: realism and faithfulness trade places."""
    data = dict(np.load(shared / "vectors" / "ode" / "gmm16.npz"))
    model = replace(open_model(request(tiny)), denoiser=Exact(mixture(data)))
    settings = request(tiny, steps=20, sampler="dpm3")
    density = log_density(data)
    n = 256
    rng = torch.Generator().manual_seed(0)
    guide = torch.from_numpy(data["data"][:n]).float() + 0.5 * torch.randn(n, 16, generator=rng)
    canvas = Canvas(
        guide.reshape(n, 1, 1, 4, 4), torch.zeros(n, 1, 1, 4, 4, dtype=torch.bool), torch.zeros(n, 1).long()
    )
    likely, away = [], []
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        z = answer(model, replace(canvas, start=torch.full((n, 1, 1, 4, 4), share)), settings, range(n)).flatten(1)
        likely.append(float(density(z.double()).mean()))
        away.append(float((z - guide).square().mean().sqrt()))
    assert likely[:4] == sorted(likely[:4])
    assert min(likely[3:]) > np.mean(data["data_logp"]) - 1, "as likely as the data themselves"
    assert away == sorted(away)
    assert away[0] == 0


def log_density(data):
    """log p of the mixture's own data, [n d] -> [n]."""
    weights, means, covs = (torch.from_numpy(data[key]) for key in ("weights", "means", "covs"))
    parts = torch.distributions.MultivariateNormal(means, covs)
    return lambda x: (parts.log_prob(x[:, None]) + weights.log()).logsumexp(1)


@pytest.mark.parametrize("kind", ["start", "coded", "other"])
def test_an_edit_of_a_clip_leaves_what_it_is_told_to_leave(tiny, model, kind):
    given = pictures(28)
    layout = edited(given, 14, kind, lambda place: 0.0 if place in (0, 5, 13) else 0.6)
    list(fill(model, layout, request(tiny)))
    for place in range(14):
        same = np.array_equal(layout.spool.get(place), given[place])
        assert same == (place in (0, 5, 13)), place


def test_an_edit_of_strength_0_asks_nothing_and_changes_nothing(tiny, model):
    given = pictures(14)
    for kind in ("start", "coded"):
        layout = edited(given, 14, kind, 0.0)
        with Counted(model) as asked:
            assert all(event.total == 0 for event in fill(model, layout, request(tiny)))
        assert asked.n == 0
        for place, frame in given.items():
            np.testing.assert_array_equal(layout.spool.get(place), frame)


@pytest.mark.parametrize("sampler", ["ddim", "dpm3", "heun"])
def test_the_code_of_a_clip_gives_the_clip_back(tiny, model, sampler):
    errors = []
    for steps in (6, 24):
        settings = request(tiny, sampler=sampler, steps=steps)
        canvas = replace(guided(1.0), start=None)
        *_, last = code(model, canvas, GUIDE, settings)
        again = answer(model, replace(canvas, noise=last.z), settings, (1,))
        errors.append(float((again - GUIDE).square().mean().sqrt()))
    assert errors[1] < 0.6 * errors[0]
    assert errors[1] < 0.2


def test_a_turned_code_goes_from_one_clip_to_the_other(tiny, model):
    """At weight 1 the result is the other clip, as nearly as steps allow; in between it is neither."""
    smooth = {i: to_pixels(GUIDE[:, i % 8])[0] for i in range(8)}
    smooth |= {8 + i: 255 - frame for i, frame in smooth.items()}
    made = {}
    for amount in (0.02, 0.5, 1.0):
        layout = edited(smooth, 8, "other", amount)
        list(fill(model, layout, request(tiny, steps=16, sampler="dpm3")))
        made[amount] = np.stack([layout.spool.get(i) for i in range(8)]).astype(float)
    first, second = (np.stack([smooth[i + k] for i in range(8)]) for k in (0, 8))
    assert np.abs(made[0.02] - first).mean() < 8
    assert np.abs(made[1.0] - second).mean() < 8
    assert min(np.abs(made[0.5] - clip).mean() for clip in (first, second)) > 8


# --- stopping


class Asked:
    """A denoiser that counts how often any answer of it is begun."""

    def __init__(self, denoiser) -> None:
        self.denoiser, self.n = denoiser, 0

    def __call__(self, z, s, canvas: Canvas, g):
        self.n += 1
        return self.denoiser(z, s, canvas, g)

    def bind(self, canvas: Canvas, g):
        denoise = self.denoiser.bind(canvas, g)

        def counting(z, s):
            self.n += 1
            return denoise(z, s)

        return counting


CONDITIONED = [{}, {"guidance": 2.0}, {"conditioning": "repaint"}, {"conditioning": "reconstruction"}]


@pytest.mark.parametrize("more", CONDITIONED, ids=str)
@pytest.mark.parametrize("sampler", list(SAMPLERS))
def test_once_cancelled_the_network_is_not_asked_again(tiny, model, sampler, more):
    """The flag rises while the network works: that answer is the last."""
    canvas, settings = one_of(some_canvas(), 1), request(tiny, sampler=sampler, **more)
    refused = None
    if more == {"conditioning": "repaint"} and SAMPLERS[sampler].replan is not as_planned:
        refused = "jumps by itself"
    if (sampler, more) == ("genie", {"conditioning": "reconstruction"}):
        refused = "guidance by a gradient"
    if refused:
        with pytest.raises(UserError, match=refused):
            list(fill_canvas(model, canvas, settings, NoiseSource((1,))))
        return
    for after in (1, 2, 3):
        asked = Asked(model.denoiser)
        run = fill_canvas(replace(model, denoiser=asked), canvas, settings, NoiseSource((1,)), lambda: asked.n >= after)  # noqa: B023
        with pytest.raises(Cancelled):
            list(run)
        assert asked.n == after


@pytest.mark.parametrize("kind", [None, "start", "coded", "other"])
def test_every_way_of_filling_a_clip_can_be_cancelled(tiny, model, kind):
    for after in (1, 4, 6, 9, 11):
        layout = layout_of(pictures(4), range(4, 24), 24) if kind is None else edited(pictures(28), 14, kind)
        asked = Asked(model.denoiser)
        with pytest.raises(Cancelled):
            list(fill(replace(model, denoiser=asked), layout, request(tiny), cancelled=lambda: asked.n >= after))  # noqa: B023
        assert asked.n == after


def test_closing_stops_between_steps(tiny, model):
    calls = []
    handle = model.denoiser.net.register_forward_hook(lambda *_: calls.append(1))
    try:
        events = fill(model, layout_of(pictures(4), range(4, 40), 40), request(tiny))
        next(events)
        next(events)
        events.close()
        assert len(calls) == 2
    finally:
        handle.remove()
