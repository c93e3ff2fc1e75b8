"""Training sources: the same state is the same clips, time is consistent, and packing survives anything."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from videodiff import video
from videodiff.datasets import DATASETS, Mixture, MovingLayers, MovingMNIST, Packed, moving_mnist
from videodiff.datasets.draw import Draw
from videodiff.datasets.folder import pack, stride_for
from videodiff.datasets.motion import fold, gesture, swing, uneven_time, wrap
from videodiff.datasets.source import MAX_GAP, Source, frame_index
from videodiff.errors import UnreadableInput, UserError
from videodiff.events import Event, Note, Saved
from videodiff.video.folders import find_clips, survey


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """Frames this small are drawn faster by one thread than by several that wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def glyphs() -> Tensor:
    """Ten pictures that stand in for digits: each a bright square of its own size, touching all four sides or not."""
    images = torch.zeros(10, 28, 28, dtype=torch.uint8)
    for k in range(10):
        images[k, k : 28 - k, k : 28 - k] = 255 - 10 * k
    return images


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small cache: eight clips of different lengths and sizes, every pixel telling its clip and frame."""
    out = tmp_path_factory.mktemp("cache")
    clips, offset = [], 0
    with open(out / "frames.u8", "wb") as file:
        for k, (t, h, w, c) in enumerate([(5, 16, 20, 3), (30, 16, 16, 3), (40, 16, 24, 1), (12, 24, 16, 3)] * 2):
            frames = np.zeros((t, h, w, c), np.uint8) + np.arange(t, dtype=np.uint8)[:, None, None, None] * 6
            frames[:, :, : w // 2] += 10
            file.write(frames.tobytes())
            clips.append(
                {"file": f"{k}.mp4", "offset": offset, "t": t, "h": h, "w": w, "c": c, "fps": 25.0, "stride": 2}
            )
            offset += frames.nbytes
    (out / "index.json").write_text(json.dumps({"clips": clips}))
    return out


@pytest.fixture
def sources(glyphs: Tensor, cache: Path) -> dict[str, Source]:
    layers, grey = MovingLayers(), MovingLayers(channels=1)
    return {
        "moving_layers": layers,
        "moving_layers_grey": grey,
        "moving_mnist": MovingMNIST(glyphs),
        "packed": Packed(cache),
        "packed_grey": Packed(cache, channels=1),
        "mixture": Mixture([(0.5, grey), (0.3, MovingMNIST(glyphs)), (0.2, Packed(cache, channels=1))]),
    }


NAMES = ("moving_layers", "moving_layers_grey", "moving_mnist", "packed", "packed_grey", "mixture")


def test_every_dataset_is_tested() -> None:
    assert set(DATASETS) <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
class TestEverySource:
    def test_the_same_state_gives_the_same_batch_and_another_another(self, sources: dict, name: str) -> None:
        first, again, other = (sources[name].batch(seeded(s), 3, 8, (32, 32))[0] for s in (1, 1, 2))
        assert torch.equal(first, again)
        assert not torch.equal(first, other)

    def test_a_stopped_run_sees_the_batches_it_would_have_seen(self, sources: dict, name: str) -> None:
        generator = seeded(3)
        sources[name].batch(generator, 2, 5, (16, 16))
        state = generator.get_state()
        expected = sources[name].batch(generator, 2, 5, (16, 16))[0]
        resumed = torch.Generator()
        resumed.set_state(state)
        assert torch.equal(sources[name].batch(resumed, 2, 5, (16, 16))[0], expected)

    @pytest.mark.parametrize(
        ("b", "t", "size"), [(1, 1, (16, 16)), (2, 3, (37, 51)), (3, 2, (16, 48)), (1, 12, (33, 16))]
    )
    def test_shapes_and_ranges(self, sources: dict, name: str, b: int, t: int, size: tuple[int, int]) -> None:
        source = sources[name]
        frames, index = source.batch(seeded(), b, t, size)
        assert frames.shape == (b, t, source.channels, *size)
        assert frames.dtype == torch.float32
        assert index.dtype == torch.long
        assert torch.equal(index, torch.arange(t).expand(b, t))
        assert -1 <= frames.min() <= frames.max() <= 1

    def test_a_given_index_comes_back(self, sources: dict, name: str) -> None:
        index = torch.tensor([[0, 3, 4], [2, 5, 9]])
        frames, shown = sources[name].batch(seeded(), 2, 3, (24, 24), index)
        assert torch.equal(shown, index)
        assert frames.shape[:2] == (2, 3)


@pytest.mark.parametrize("name", ["moving_layers", "moving_layers_grey", "moving_mnist"])
def test_moments_do_not_depend_on_which_others_are_asked_for(sources: dict, name: str) -> None:
    # Sixteen seeds: figures, roads, cameras and all kinds of motion take part.
    for seed in range(16):
        whole = sources[name].batch(seeded(seed), 4, 8, (32, 40))[0]
        some = sources[name].batch(seeded(seed), 4, 3, (32, 40), torch.tensor([[0, 2, 6]] * 4))[0]
        assert torch.allclose(whole[:, [0, 2, 6]], some, atol=1e-6)


def test_clips_of_a_mixture_do_not_depend_on_how_much_its_other_sources_draw(glyphs: Tensor) -> None:
    mixture = Mixture([(1, MovingMNIST(glyphs)), (1, MovingLayers(channels=1))])
    whole = mixture.batch(seeded(), 8, 8, (32, 32))[0]
    some = mixture.batch(seeded(), 8, 2, (32, 32), torch.tensor([[0, 4]] * 8))[0]
    assert torch.allclose(whole[:, [0, 4]], some, atol=1e-6)


class TestIndex:
    def test_spaced_sets_rise_from_zero_by_bounded_gaps(self) -> None:
        gaps = frame_index(seeded(), 200, 6, spaced=1.0).diff(dim=1)
        assert set(gaps.unique().tolist()) == set(range(1, MAX_GAP + 1))

    def test_the_share_of_spaced_clips_is_kept(self) -> None:
        index = frame_index(seeded(), 2000, 6, spaced=0.3)
        assert (index[:, 0] == 0).all()
        assert 0.25 < (index != torch.arange(6)).any(1).float().mean() < 0.35

    def test_it_uses_the_generator_alike_in_every_case(self) -> None:
        states = []
        for t, spaced, index in [(4, 0.0, None), (9, 1.0, None), (2, 0.0, torch.tensor([[0, 5]] * 3))]:
            generator = seeded()
            frame_index(generator, 3, t, spaced, index)
            states.append(generator.get_state())
        assert all(torch.equal(state, states[0]) for state in states)


class TestMotion:
    def test_walls_hold(self) -> None:
        x = torch.linspace(-20, 20, 4001)
        for reach in (torch.tensor(1.0), torch.tensor(0.3)):
            assert fold(x, reach).abs().max() <= reach + 1e-5
            assert wrap(x, reach).abs().max() <= reach + 1e-5
            inside = x[x.abs() < reach]
            assert torch.allclose(fold(inside, reach), inside, atol=1e-5)
            assert torch.allclose(wrap(inside, reach), inside, atol=1e-5)
        assert torch.allclose(fold(x, torch.tensor(1.0)).diff().abs(), torch.full((4000,), 0.01), atol=2e-5)

    def test_everything_moves_smoothly(self) -> None:
        time = torch.arange(0, 60, 0.25).expand(50, -1)
        assert uneven_time(Draw(seeded(), 50), time, 3).diff().abs().max() <= 0.5 + 1e-3  # at most twice as fast
        assert uneven_time(Draw(seeded(), 50), time, 3).diff().min() >= -1e-3  # and never backwards
        assert swing(Draw(seeded(), 50), time, torch.ones(50, 3)).abs().max() <= 1
        turns = gesture(Draw(seeded(), 50), time, torch.ones(50, 3))
        assert turns.abs().max() <= 1
        assert turns.diff().abs().max() < 0.31  # 2 in half of 5 frames, smoothstep's top speed 1.5: 0.3 a quarter frame


class TestMovingLayers:
    def test_things_move_about_as_much_as_in_real_clips(self) -> None:
        frames, _ = MovingLayers().batch(seeded(), 48, 8, (64, 64))
        change = frames.diff(dim=1).abs().mean((1, 2, 3, 4))
        assert 0.005 < change.median() < 0.06  # real clips at 64 pixels: means of 0.005 to 0.03 (eight sets)
        assert change.max() < 0.25
        assert (change > 0.001).float().mean() > 0.9  # hardly any clip stands still

    def test_pictures_have_the_contrast_of_real_ones(self) -> None:
        frames, _ = MovingLayers().batch(seeded(1), 48, 1, (64, 64))
        assert 0.15 < frames.std((1, 2, 3, 4)).mean() < 0.45
        assert abs(frames.mean()) < 0.3

    def test_motion_is_the_same_fraction_of_a_larger_frame(self) -> None:
        small, large = (MovingLayers().batch(seeded(2), 48, 4, (s, s))[0] for s in (32, 96))
        change = [x.diff(dim=1).abs().mean() for x in (small, large)]
        assert 0.5 < change[0] / change[1] < 2

    def test_some_clips_are_grey_and_most_are_not(self) -> None:
        frames, _ = MovingLayers().batch(seeded(), 200, 1, (16, 16))
        grey = (frames.std(2) < 1e-6).all(-1).all(-1).all(-1)
        assert 0.05 < grey.float().mean() < 0.3

    def test_tiny_sprites_do_not_flicker(self) -> None:
        """Drawn from too fine a picture, a sprite would change in brightness with every fraction of a pixel."""
        frames, _ = MovingLayers().batch(seeded(4), 64, 16, (64, 64))
        level = frames.mean((2, 3, 4))  # b t
        wobble = (level[:, 2:] - 2 * level[:, 1:-1] + level[:, :-2]).abs()
        assert wobble.median() < 0.002


class TestMovingMNIST:
    @pytest.mark.parametrize("deterministic", [False, True])
    def test_digits_stay_inside_and_keep_the_speed_limit(self, deterministic: bool) -> None:
        room = torch.tensor([32, 32])
        path = moving_mnist.wander(seeded(), 300, 2, 60, room, deterministic)
        assert path.min() == 0
        assert path.max() == 31  # SVG: a digit of 32 on 64 never touches the last row
        assert path.diff(dim=1).abs().max() == moving_mnist.MAX_SPEED

    def test_speed_changes_at_walls_only(self) -> None:
        path = moving_mnist.wander(seeded(1), 500, 2, 40, torch.tensor([32, 32]))
        step = path.diff(dim=1)
        turned = (step[:, 1:] != step[:, :-1]).any(-1)  # b t n: between two neighbouring steps
        at_wall = ((path[:, 1:-1] == 0) | (path[:, 1:-1] == 31)).any(-1)
        clipped = ((path[:, 2:] == 0) | (path[:, 2:] == 31)).any(-1)  # a step cut short by the wall it ran into
        assert not (turned & ~at_wall & ~clipped).any()

    def test_deterministic_walls_mirror(self) -> None:
        path = moving_mnist.wander(seeded(), 200, 2, 60, torch.tensor([32, 32]), deterministic=True)
        speed = path.diff(dim=1).abs().amax(1, keepdim=True)
        assert ((path.diff(dim=1).abs() == speed).float().mean()) > 0.8  # all but the steps cut short

    def test_steps_follow_the_rule_of_svg(self) -> None:
        """Against a plain transcription of the rule for one digit, fed with the same draws."""
        t, room = 50, 32
        for seed in range(20):
            path = moving_mnist.wander(seeded(seed), 1, 1, t, torch.tensor([room, room]))[0, :, 0]
            draws = seeded(seed)
            y, x = (torch.rand(1, 1, 2, generator=draws) * room).long().flatten().tolist()
            dy, dx = torch.randint(-4, 5, (1, 1, 2), generator=draws).flatten().tolist()
            for k in range(t):
                inward_y, inward_x = torch.randint(1, 5, (1, 1, 2), generator=draws).flatten().tolist()
                other_y, other_x = torch.randint(-4, 5, (1, 1, 2), generator=draws).flatten().tolist()
                if y < 0:
                    y, dy, dx = 0, inward_y, other_x
                elif y >= room:
                    y, dy, dx = room - 1, -inward_y, other_x
                if x < 0:
                    x, dx, dy = 0, inward_x, other_y
                elif x >= room:
                    x, dx, dy = room - 1, -inward_x, other_y
                assert path[k].tolist() == [y, x]
                y, x = y + dy, x + dx

    def test_digits_add_up_and_are_clipped(self, glyphs: Tensor) -> None:
        frames = moving_mnist.place(torch.ones(1, 2, 4, 4), torch.tensor([[[[0, 0], [2, 2]]]]), (8, 8))
        assert frames[0, 0, 2:4, 2:4].eq(2).all()
        assert frames.sum() == 32
        shown, _ = MovingMNIST(glyphs, num_digits=5).batch(seeded(), 4, 3, (64, 64))
        assert shown.max() == 1

    def test_a_test_clip_is_one_and_the_same_in_any_order_and_length(self, glyphs: Tensor) -> None:
        clips = [moving_mnist.test_clip(glyphs, i, 15) for i in (3, 7, 3)]
        assert clips[0].shape == (15, 1, 64, 64)
        assert torch.equal(clips[0], clips[2])
        assert not torch.equal(clips[0], clips[1])
        torch.randn(5)  # nor does it hang on the global state
        assert torch.equal(moving_mnist.test_clip(glyphs, 3, 30)[:15], clips[0])

    def test_real_digits(self, shared: Path) -> None:
        train, test = (moving_mnist.load_images(shared / "data" / "mnist", split) for split in ("train", "test"))
        assert train.shape == (60000, 28, 28)
        assert test.shape == (10000, 28, 28)
        assert 0.12 < train.float().mean() / 255 < 0.14  # MNIST's mean is 0.1307
        frames, _ = MovingMNIST(train).batch(seeded(), 16, 4, (64, 64))
        assert 0.03 < (frames + 1).mean() / 2 < 0.1


class TestIdx:
    def test_what_is_missing_says_where_to_get_it(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="https://"):
            moving_mnist.load_images(tmp_path)

    def test_a_wrong_file_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / moving_mnist.FILES["test"][0]).write_bytes(b"not MNIST")
        with pytest.raises(UnreadableInput, match="md5"):
            moving_mnist.load_images(tmp_path, "test")

    @pytest.mark.parametrize(
        "data", [b"", b"\0\0", b"\x1f\x8bgarbage", b"\0\0\x08\x01\0\0\0\x05abc", b"\0\0\x0d\x01\0\0\0\x01abcd"]
    )
    def test_damage_is_a_typed_error(self, tmp_path: Path, data: bytes) -> None:
        path = tmp_path / "images"
        path.write_bytes(data)
        with pytest.raises(UnreadableInput):
            moving_mnist.load_idx(path)

    def test_a_plain_file_is_read(self, tmp_path: Path) -> None:
        path = tmp_path / "images"
        path.write_bytes(b"\0\0\x08\x02\0\0\0\x02\0\0\0\x03abcdef")
        assert moving_mnist.load_idx(path).tolist() == [[97, 98, 99], [100, 101, 102]]


class TestPacked:
    def test_windows_are_evenly_spaced_pieces_of_one_clip(self, cache: Path) -> None:
        frames, _ = Packed(cache, strides=(1, 2, 3)).batch(seeded(), 200, 6, (16, 16))
        level = ((frames + 1) * 127.5).round().amin((2, 3, 4))  # the darker half tells the frame: 6 times its number
        steps = level.diff(dim=1) / 6
        assert (steps == steps[:, :1]).all()
        assert set(steps.unique().tolist()) == {1, 2, 3}

    def test_the_stride_the_packer_suggests_is_used_on_request(self, cache: Path) -> None:
        frames, _ = Packed(cache, strides=None).batch(seeded(), 50, 6, (16, 16))
        assert set((((frames + 1) * 127.5).round().amin((2, 3, 4)).diff(dim=1) / 6).unique().tolist()) == {2}

    def test_a_stride_too_long_for_the_clip_is_shortened_and_short_clips_are_left_out(self, cache: Path) -> None:
        packed = Packed(cache, strides=(7,))
        assert packed.too_short(6) == 2
        which, stride, start, _ = packed.draw(seeded(), torch.full((500,), 5))
        length = packed.lengths[which]
        assert set(which) == {1, 2, 3, 5, 6, 7}
        assert (start + stride * 5 < length).all()
        assert (stride == ((length - 1) // 5).clamp(max=7)).all()

    def test_no_clip_long_enough_is_said_so(self, cache: Path) -> None:
        with pytest.raises(UserError, match="longest has 40"):
            Packed(cache).batch(seeded(), 1, 41, (16, 16))

    def test_longer_clips_come_more_often(self, cache: Path) -> None:
        which, *_ = Packed(cache).draw(seeded(), torch.zeros(4000, dtype=torch.long))
        share = np.bincount(which, minlength=8) / 4000
        assert np.allclose(share, np.array([5, 30, 40, 12] * 2) / 174, atol=0.03)

    def test_half_of_the_clips_are_mirrored(self, cache: Path) -> None:
        frames, _ = Packed(cache).batch(seeded(), 400, 1, (16, 20))
        mirrored = frames[..., 0].mean((1, 2, 3)) < frames[..., -1].mean((1, 2, 3))
        assert 0.4 < mirrored.float().mean() < 0.6
        straight, _ = Packed(cache, flip=False).batch(seeded(), 100, 1, (16, 20))
        assert (straight[..., 0].mean((1, 2, 3)) >= straight[..., -1].mean((1, 2, 3))).all()

    def test_grey_and_colour_are_converted(self, cache: Path) -> None:
        colour, _ = Packed(cache).batch(seeded(), 20, 2, (16, 16))
        grey, _ = Packed(cache, channels=1).batch(seeded(), 20, 2, (16, 16))
        assert torch.allclose(colour.mean(2, keepdim=True), grey, atol=1e-6)  # the clips here are all grey

    def test_what_is_no_cache_is_refused(self, tmp_path: Path, cache: Path) -> None:
        with pytest.raises(UserError, match="no packed clips"):
            Packed(tmp_path)
        (tmp_path / "index.json").write_text((cache / "index.json").read_text())
        (tmp_path / "frames.u8").write_bytes(b"short")
        with pytest.raises(UnreadableInput, match="5 bytes"):
            Packed(tmp_path)
        (tmp_path / "index.json").write_text("{")
        with pytest.raises(UnreadableInput, match="damaged"):
            Packed(tmp_path)

    def test_it_needs_no_video_library(self, cache: Path) -> None:
        code = (
            "import sys; sys.modules['av'] = sys.modules['PIL'] = sys.modules['imageio'] = None\n"
            "import torch; from videodiff.datasets import Packed\n"
            f"Packed({str(cache)!r}).batch(torch.Generator(), 1, 2, (16, 16))\n"
            "assert 'videodiff.video' not in sys.modules"
        )
        subprocess.run([sys.executable, "-c", code], check=True)


def test_the_weights_of_a_mixture_are_kept(glyphs: Tensor) -> None:
    mixture = Mixture([(3, MovingMNIST(glyphs)), (0, MovingLayers(1)), (1, MovingLayers(1))])
    frames, _ = mixture.batch(seeded(), 200, 1, (16, 16))
    black = (frames == -1).float().mean((1, 2, 3, 4)) > 0.2
    assert 0.65 < black.float().mean() < 0.85


# -- folders of clips --------------------------------------------------------------------------------------------------


def film(path: Path, num_frames: int = 6, size: tuple[int, int] = (48, 64), fps: int = 25, shade: int = 0) -> None:
    """A small clip: a bright bar that moves over a shaded ground."""
    frames = np.full((num_frames, *size, 3), shade, np.uint8)
    for k in range(num_frames):
        frames[k, :, 4 * k : 4 * k + 8] = (250, 200, 120)
    path.parent.mkdir(parents=True, exist_ok=True)
    video.write(path, frames, fps)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Clips in several formats at several depths, and things that are none."""
    root = tmp_path / "clips"
    film(root / "one.mp4", 6)
    film(root / "deep" / "er" / "two.gif", 5, fps=10)
    film(root / "deep" / "three.webm", 8, (64, 36), fps=30, shade=90)
    film(root / "test" / "four.mp4", 7)
    film(root / "pictures.mp4", 4)
    (root / "notes.txt").write_text("not a clip")
    (root / ".hidden.mp4").write_bytes(b"not looked at")
    return root


def events_of(*args, **kwargs) -> list[Event]:
    return list(pack(*args, **kwargs))


def names_of(out: Path) -> list[str]:
    return [clip["file"] for clip in json.loads((out / "index.json").read_text())["clips"]]


class TestFolder:
    def test_clips_are_found_at_any_depth_but_not_those_of_another_split(self, folder: Path) -> None:
        found = [str(path.relative_to(folder)) for path in find_clips(folder)]
        assert found == ["deep/er/two.gif", "deep/three.webm", "one.mp4", "pictures.mp4"]
        assert find_clips(folder, "test") == [folder / "test" / "four.mp4"]

    def test_a_list_of_names_decides(self, folder: Path) -> None:
        (folder / "test.txt").write_text("one.mp4\n\ndeep/three.webm\n")
        assert find_clips(folder, "test") == [folder / "deep" / "three.webm", folder / "one.mp4"]
        assert folder / "one.mp4" not in find_clips(folder)  # what is listed for testing is not for training
        (folder / "some.list").write_text("pictures.mp4\n")
        assert find_clips(folder, names=folder / "some.list") == [folder / "pictures.mp4"]

    def test_a_folder_of_pictures_is_a_clip(self, folder: Path, tmp_path: Path) -> None:
        clip = video.read(folder / "one.mp4")
        pictures = folder / "stills"
        video.write(pictures, clip.frames, 10)
        assert pictures in find_clips(folder)
        events_of(folder, tmp_path / "out", short_side=48)
        packed = Packed(tmp_path / "out")
        assert np.array_equal(packed.frames(names_of(tmp_path / "out").index("stills")), clip.frames)

    def test_an_empty_folder_says_what_to_do(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="put videos there"):
            find_clips(tmp_path)
        with pytest.raises(UserError, match="no folder"):
            find_clips(tmp_path / "nowhere")

    def test_a_survey_says_before_the_packing_what_it_would_leave_out(self, folder: Path, tmp_path: Path) -> None:
        (folder / "torn.mp4").write_bytes((folder / "one.mp4").read_bytes()[:300])
        video.write(folder / "still.mp4", video.read(folder / "one.mp4").frames[:1], 10)
        found = {str(clip.path.relative_to(folder)): clip for clip in survey(folder)}
        events_of(folder, tmp_path / "out")
        left_out = json.loads((tmp_path / "out" / "index.json").read_text())["left_out"]
        assert {name: clip.problem for name, clip in found.items() if clip.problem} == left_out
        assert set(left_out) >= {"torn.mp4", "still.mp4"}
        assert all((clip.info is None) == bool(clip.problem) for clip in found.values())

    def test_every_second_frame_is_suggested_at_usual_rates(self) -> None:
        assert [stride_for(fps) for fps in (5, 10, 15, 24, 25, 30, 50, 60)] == [1, 1, 1, 2, 2, 2, 4, 5]


class TestPack:
    def test_what_is_packed_is_what_is_decoded(self, folder: Path, tmp_path: Path) -> None:
        events = events_of(folder, tmp_path / "out", short_side=32)
        assert events[-1] == Saved(str(tmp_path / "out"), "cache")
        packed = Packed(tmp_path / "out")
        for k, name in enumerate(names_of(tmp_path / "out")):
            clip = video.read(folder / name, short_side=32)
            assert np.array_equal(packed.frames(k), clip.frames)
            assert packed.clips[k]["fps"] == pytest.approx(float(clip.fps))
            assert min(clip.frames.shape[1:3]) == 32
        packed.batch(seeded(), 4, 4, (32, 32))

    def test_strides_and_grey(self, folder: Path, tmp_path: Path) -> None:
        events_of(folder, tmp_path / "out", short_side=32, stride=None, channels=1)
        packed = Packed(tmp_path / "out", channels=1)
        for k, (name, step) in enumerate(zip(names_of(tmp_path / "out"), (1, 2, 2, 2), strict=True)):
            clip = video.read(folder / name, short_side=32)
            grey = np.round(clip.frames[::step] @ np.array([0.299, 0.587, 0.114]))[..., None]
            assert np.array_equal(packed.frames(k), grey)
            assert packed.clips[k]["stride"] == 1

    def test_bad_files_are_reported_and_left_out(self, folder: Path, tmp_path: Path) -> None:
        (folder / "empty.mp4").write_bytes(b"")
        (folder / "noise.avi").write_bytes(bytes(range(256)) * 20)
        film(folder / "still.mp4", 1)
        (folder / "cut.mp4").write_bytes((folder / "one.mp4").read_bytes()[:300])
        events = events_of(folder, tmp_path / "out", short_side=32)
        told = {event.data["file"] for event in events if isinstance(event, Note) and event.text.startswith("left out")}
        assert told == {"empty.mp4", "noise.avi", "still.mp4", "cut.mp4"}
        assert names_of(tmp_path / "out") == ["deep/er/two.gif", "deep/three.webm", "one.mp4", "pictures.mp4"]
        index = json.loads((tmp_path / "out" / "index.json").read_text())
        assert set(index["left_out"]) == told
        Packed(tmp_path / "out")  # whose size check would find bytes of those that failed

    def test_nothing_usable_is_an_error(self, tmp_path: Path) -> None:
        (tmp_path / "bad.mp4").write_bytes(b"bad")
        with pytest.raises(UnreadableInput, match="none of the 1 clips"):
            events_of(tmp_path, tmp_path / "out")
        assert not (tmp_path / "out" / "index.json").exists()

    def test_a_second_packing_decodes_nothing_and_a_changed_folder_only_what_changed(
        self, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        out = tmp_path / "out"
        events_of(folder, out, short_side=32)
        before = (out / "frames.u8").read_bytes()
        monkeypatch.setattr(video, "stream", None)
        events = events_of(folder, out, short_side=32)
        assert [type(event) for event in events] == [Note, Saved]
        assert (out / "frames.u8").read_bytes() == before
        monkeypatch.undo()
        film(folder / "new.mp4", 9)
        events_of(folder, out, short_side=32)
        assert "new.mp4" in names_of(out)

    def test_a_stopped_packing_goes_on_where_it_was(self, folder: Path, tmp_path: Path) -> None:
        events_of(folder, tmp_path / "whole", short_side=32)
        for stop_after in range(1, 5):
            out = tmp_path / f"stopped{stop_after}"
            packing = pack(folder, out, short_side=32)
            for _ in range(stop_after):
                next(packing)
            packing.close()
            with pytest.raises(UserError, match="no packed clips"):
                Packed(out)
            decoded = spy_on(folder, out)
            assert len(decoded) == 4 - (stop_after - 1)
            assert_same(out, tmp_path / "whole")

    def test_it_survives_an_end_at_any_step(self, folder: Path, tmp_path: Path) -> None:
        """Ended at one after the other of its file operations, packing leaves no cache or a whole one, and goes on."""
        events_of(folder, tmp_path / "whole", short_side=32)
        for step in range(40):
            out = tmp_path / f"ended{step}"
            with pytest.MonkeyPatch.context() as patch:
                steps = iter(range(step))
                for place, name in OPERATIONS:
                    patch.setattr(place, name, counted(getattr(place, name), steps))
                try:
                    events_of(folder, out, short_side=32)
                    break
                except End:
                    pass
            if (out / "index.json").exists():
                assert_same(out, tmp_path / "whole")
            events_of(folder, out, short_side=32)
            assert_same(out, tmp_path / "whole")
        assert 10 < step < 40

    @pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="this system has no SIGKILL")
    @pytest.mark.parametrize("step", [5, 10])  # between clips; between the renames at the end
    def test_it_survives_a_kill(self, folder: Path, tmp_path: Path, step: int) -> None:
        code = (
            "import os, sys; sys.path.insert(0, sys.argv[1]); import test_datasets as t\n"
            "steps = iter(range(int(sys.argv[4])))\n"
            "t.End = lambda: os.kill(os.getpid(), t.signal.SIGKILL)\n"
            "for place, name in t.OPERATIONS: setattr(place, name, t.counted(getattr(place, name), steps))\n"
            "t.events_of(sys.argv[2], sys.argv[3], short_side=32)\n"
        )
        arguments = [str(Path(__file__).parent), str(folder), str(tmp_path / "out"), str(step)]
        assert subprocess.run([sys.executable, "-c", code, *arguments], check=False).returncode == -signal.SIGKILL
        assert not (tmp_path / "out" / "index.json").exists()
        events_of(folder, tmp_path / "out", short_side=32)
        events_of(folder, tmp_path / "whole", short_side=32)
        assert_same(tmp_path / "out", tmp_path / "whole")

    def test_a_torn_line_in_the_journal_costs_one_clip(self, folder: Path, tmp_path: Path) -> None:
        events_of(folder, tmp_path / "whole", short_side=32)
        out = tmp_path / "out"
        packing = pack(folder, out, short_side=32)
        for _ in range(4):
            next(packing)
        packing.close()
        journal = (out / "journal.jsonl").read_text()
        (out / "journal.jsonl").write_text(journal[:-20])
        assert len(spy_on(folder, out)) == 2
        assert_same(out, tmp_path / "whole")

    def test_real_clips(self, shared: Path, tmp_path: Path) -> None:
        events = events_of(shared / "data" / "flies", tmp_path / "out", split="test")
        assert isinstance(events[-1], Saved)
        packed = Packed(tmp_path / "out", strides=(1, 2))
        assert [(c["t"], c["h"], c["w"], c["fps"]) for c in packed.clips] == [(100, 64, 64, 15.0)]
        frames, _ = packed.batch(seeded(), 4, 16, (64, 64))
        assert 0.001 < frames.diff(dim=1).abs().mean() < 0.1


class End(BaseException):
    """Stands for the end of the process: nothing may catch it."""


OPERATIONS = [(Path, name) for name in ("replace", "rename", "unlink", "write_text")]
OPERATIONS += [(json, "dumps"), (os, "fsync")]


def counted(operation: Callable, steps: Iterator[int]) -> Callable:
    """The operation, until the steps are used up; then the end."""

    def act(*args, **kwargs):
        if next(steps, None) is None:
            raise End()
        return operation(*args, **kwargs)

    return act


def assert_same(out: Path, whole: Path) -> None:
    """Both caches hold the same clips, each with the same frames."""
    one, other = Packed(out), Packed(whole)
    assert [clip["file"] for clip in one.clips] == [clip["file"] for clip in other.clips]
    assert all(np.array_equal(one.frames(k), other.frames(k)) for k in range(len(one.clips)))


def spy_on(folder: Path, out: Path) -> list[str]:
    """Finish a packing and tell which files it decoded."""
    decoded: list[str] = []
    stream: Callable = video.stream
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(video, "stream", lambda path, **wanted: decoded.append(str(path)) or stream(path, **wanted))
        events_of(folder, out, short_side=32)
    return decoded


def test_mnist_is_fetched_whole_or_not_at_all(shared, tmp_path):
    """From a folder that stands for the mirror: what is there is fetched and checked, what is not MNIST is refused."""
    moving_mnist.fetch_images(tmp_path / "good", (shared / "data" / "mnist").as_uri() + "/")
    assert moving_mnist.load_images(tmp_path / "good", "test").shape == (10_000, 28, 28)
    (tmp_path / "mirror").mkdir()
    for name, _ in moving_mnist.FILES.values():
        (tmp_path / "mirror" / name).write_bytes(b"something else")
    with pytest.raises(UnreadableInput, match="not the MNIST file"):
        moving_mnist.fetch_images(tmp_path / "bad", (tmp_path / "mirror").as_uri() + "/")
    with pytest.raises(UserError, match="cannot be fetched"):
        moving_mnist.fetch_images(tmp_path / "bad", (tmp_path / "nowhere").as_uri() + "/")
    assert not list((tmp_path / "bad").iterdir())
