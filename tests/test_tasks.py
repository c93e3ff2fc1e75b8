"""A task lays frames out in time: what is given, what is wanted, in which order, and what the user is told."""

from fractions import Fraction

import numpy as np
import pytest

from videodiff import settings, tasks, video
from videodiff.errors import UnreadableInput, UserError
from videodiff.events import Note
from videodiff.planner import parse_ranges
from videodiff.tasks.infill import parse_canvas
from videodiff.tasks.layout import LUMA, Layout, Shape

COLOUR = Shape(side=16, multiple=8, channels=3, window=8)
GREY = Shape(side=16, multiple=8, channels=1, window=8)


@pytest.fixture
def clip(tmp_path):
    """Makes a lossless clip whose frame number n is of brightness 10 n."""

    def make(num_frames: int, size: tuple[int, int] = (16, 16), fps: float = 10, name: str = "clip.mkv"):
        frames = np.empty((num_frames, *size, 3), np.uint8)
        frames[:] = (10 * np.arange(num_frames) % 256)[:, None, None, None]
        video.write(tmp_path / name, frames, fps)
        return tmp_path / name

    return make


def lay_out(task: str, shape: Shape = COLOUR, **given) -> tuple[Layout, list[str]]:
    """The layout of a request, and the notes on the way."""
    request = settings.TASKS[task](**given)
    generator, notes = tasks.TASKS[task].lay_out(request, shape), []
    while True:
        try:
            note = next(generator)
            assert isinstance(note, Note)
            notes.append(note.text)
        except StopIteration as end:
            return end.value, notes


def numbers(layout: Layout) -> dict[int, int]:
    """Which frame of the clip lies at each given place."""
    return {place: round(layout.spool.get(place).mean() / 10) for place in layout.timeline.given}


def test_every_task_has_its_settings_and_its_file():
    assert list(tasks.TASKS) == list(settings.TASKS)
    for name, module in tasks.TASKS.items():
        assert module.__name__ == f"videodiff.tasks.{name}"
        assert settings.TASKS[name].model_fields["kind"].default == name
        assert module.__doc__
        assert settings.TASKS[name].__doc__


# --- predict


def test_prediction_goes_on_from_the_last_frames(clip):
    layout, notes = lay_out("predict", input=clip(10), frames=6)
    t = layout.timeline
    assert numbers(layout) == {0: 6, 1: 7, 2: 8, 3: 9}
    assert list(t.wanted) == [4, 5, 6, 7, 8, 9]
    assert list(t.shown) == list(range(10))
    assert t.fps == 10
    assert notes == []


def test_what_came_before_is_made_from_the_first_frames_backwards_in_time(clip):
    layout, _ = lay_out("predict", input=clip(10), frames=6, direction="backward")
    assert numbers(layout) == {6: 0, 7: 1, 8: 2, 9: 3}
    assert list(layout.timeline.wanted) == [5, 4, 3, 2, 1, 0]
    assert list(layout.timeline.shown) == list(range(10))


@pytest.mark.parametrize(("direction", "new"), [("forward", [3, 4, 5, 6, 7]), ("backward", [0, 1, 2, 3, 4])])
def test_only_the_new_frames_are_shown_if_so_asked(clip, direction, new):
    layout, _ = lay_out("predict", input=clip(3), frames=5, direction=direction, only_new=True)
    assert list(layout.timeline.shown) == new


@pytest.mark.parametrize(("context", "found"), [(1, 1), (3, 3), (7, 7), (8, 7), (255, 7), (None, 4)])
def test_the_context_is_as_long_as_asked_and_leaves_room_for_a_new_frame(clip, context, found):
    layout, _ = lay_out("predict", input=clip(20), frames=2, context=context)
    assert len(layout.timeline.given) == found


def test_a_single_picture_is_a_start(clip, tmp_path):
    video.write(tmp_path / "pictures", np.full((1, 16, 16, 3), 50, np.uint8), 10)
    layout, _ = lay_out("predict", input=tmp_path / "pictures" / "00000.png", frames=2)
    assert numbers(layout) == {0: 5}
    assert list(layout.timeline.shown) == [0, 1, 2]


def test_part_rate_and_stride_of_the_input_are_chosen(clip):
    source = clip(20, fps=10)
    layout, _ = lay_out("predict", input=source, start=0.5, end=1.5, frames=1)
    assert numbers(layout) == {0: 11, 1: 12, 2: 13, 3: 14}
    layout, _ = lay_out("predict", input=source, stride=3, frames=1)
    assert numbers(layout) == {0: 9, 1: 12, 2: 15, 3: 18}
    assert layout.timeline.fps == Fraction(10, 3)
    layout, _ = lay_out("predict", input=source, fps=5, frames=1)
    assert numbers(layout) == {0: 12, 1: 14, 2: 16, 3: 18}
    assert layout.timeline.fps == 5


def test_a_part_of_the_picture_is_used(tmp_path):
    frames = np.random.default_rng(0).integers(0, 256, (6, 32, 48, 3), np.uint8)
    video.write(tmp_path / "clip.mkv", frames, 10)
    layout, notes = lay_out("predict", input=tmp_path / "clip.mkv", crop="16x16+8+4", frames=1)
    for place, frame in enumerate(frames[2:, 4:20, 8:24]):
        np.testing.assert_array_equal(layout.spool.get(place), frame)
    assert notes == []
    for wrong in ("16x16", "0x16+0+0", "16x16+-1+0"):
        with pytest.raises(ValueError, match=r"WIDTHxHEIGHT\+LEFT\+TOP"):
            settings.Predict(input="clip.mkv", crop=wrong)


# --- interpolate


@pytest.mark.parametrize("factor", [2, 4, 8])
@pytest.mark.parametrize("slow", [False, True])
def test_interpolation_puts_new_frames_between_the_frames(clip, factor, slow):
    layout, _ = lay_out("interpolate", input=clip(5), factor=factor, slow=slow)
    t = layout.timeline
    assert numbers(layout) == {factor * n: n for n in range(5)}
    assert sorted([*t.given, *t.wanted]) == list(t.shown) == list(range(4 * factor + 1))
    assert t.fps == (10 if slow else 10 * factor)


def test_between_two_clips_lies_a_gap_of_new_frames(clip):
    layout, _ = lay_out("interpolate", input=clip(6), to=clip(9, name="to.mkv"), frames=5)
    t = layout.timeline
    assert numbers(layout) == {0: 4, 1: 5, 7: 0, 8: 1}
    assert list(t.wanted) == [2, 3, 4, 5, 6]
    assert list(t.shown) == list(range(9))


def test_between_two_pictures_too_of_any_size(clip, tmp_path):
    for name, size, value in (("a", (16, 16), 0), ("b", (40, 80), 250)):
        video.write(tmp_path / name, np.full((1, *size, 3), value, np.uint8), 10)
    layout, notes = lay_out("interpolate", input=tmp_path / "a", to=tmp_path / "b" / "00000.png", frames=3)
    assert numbers(layout) == {0: 0, 4: 25}
    assert len(notes) == 1
    assert "80x40; worked on at 16x16" in notes[0]


def test_one_frame_cannot_be_interpolated(clip):
    with pytest.raises(UserError, match="two are needed"):
        lay_out("interpolate", input=clip(1))


# --- infill


def test_missing_frames_are_filled(clip):
    layout, _ = lay_out("infill", input=clip(10), missing="2:5,8")
    t = layout.timeline
    assert numbers(layout) == {n: n for n in (0, 1, 5, 6, 7, 9)}
    assert list(t.wanted) == [2, 3, 4, 8]
    assert list(t.shown) == list(range(10))
    assert t.hole is None


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("10:20,31", {*range(10, 20), 31}),
        ("0", {0}),
        (" 3 : 5 , 4:7 ", {3, 4, 5, 6}),
        ("0:40", set(range(40))),
    ],
)
def test_ranges_of_frames(text, found):
    assert parse_ranges(text, 40) == found


@pytest.mark.parametrize(
    "text", ["", ",", "1,", "a", "5:3", "5:5", "40", "0:41", "-1", "1.5", "1:2:3", ":5", "5:", "9" * 20]
)
def test_ranges_that_are_none_are_refused(text):
    with pytest.raises(UserError, match="--missing"):
        parse_ranges(text, 40)


def test_all_frames_missing_leaves_nothing_to_go_by(clip):
    with pytest.raises(UserError, match="all 4 frames are missing"):
        lay_out("infill", input=clip(4), missing="0:4")


def test_a_still_mask_is_a_hole_in_every_frame(clip, tmp_path):
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, 3:7, 5:12] = 255
    video.write(tmp_path / "mask", mask, 10)
    layout, _ = lay_out("infill", input=clip(5), mask=tmp_path / "mask" / "00000.png")
    t = layout.timeline
    assert list(t.given) == []
    assert list(t.wanted) == list(t.shown) == list(range(5))
    for place in t.wanted:
        np.testing.assert_array_equal(t.hole(place), mask[0, ..., 0] > 0)


def test_a_moving_mask_leaves_frames_it_does_not_touch_whole(clip, tmp_path):
    mask = np.zeros((5, 16, 16, 3), np.uint8)
    for n in (1, 2, 4):
        mask[n, n : n + 3, 2 * n : 2 * n + 2] = 255
    video.write(tmp_path / "mask.mkv", mask, 10)
    layout, _ = lay_out("infill", input=clip(5), mask=tmp_path / "mask.mkv", missing="3")
    t = layout.timeline
    assert numbers(layout) == {0: 0}
    assert list(t.wanted) == [1, 2, 3, 4]
    for place in (1, 2, 4):
        np.testing.assert_array_equal(t.hole(place), mask[place, ..., 0] > 0)
    assert t.hole(3).all(), "of a missing frame all pixels are wanted"


def test_a_mask_that_is_black_or_too_short_is_refused(clip, tmp_path):
    source = clip(4)
    video.write(tmp_path / "black.mkv", np.zeros((1, 16, 16, 3), np.uint8), 10)
    with pytest.raises(UserError, match="black everywhere"):
        lay_out("infill", input=source, mask=tmp_path / "black.mkv")
    video.write(tmp_path / "short.mkv", np.full((3, 16, 16, 3), 255, np.uint8), 10)
    with pytest.raises(UserError, match="a mask for every frame"):
        lay_out("infill", input=source, mask=tmp_path / "short.mkv")


def test_a_canvas_holds_the_picture_in_its_middle(clip):
    layout, notes = lay_out("infill", input=clip(3), canvas="32x24")
    assert layout.spool.shape == (24, 32, 3)
    inside = np.zeros((24, 32), bool)
    inside[4:20, 8:24] = True
    for place in range(3):
        np.testing.assert_array_equal(layout.timeline.hole(place), ~inside)
        assert (layout.spool.get(place)[inside] == 10 * place).all()
    assert notes == []


def test_a_mask_and_a_canvas_add_up(clip, tmp_path):
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, :4, :5] = 255
    video.write(tmp_path / "mask.mkv", mask, 10)
    layout, _ = lay_out("infill", input=clip(2), canvas="24x16", mask=tmp_path / "mask.mkv")
    wanted = np.ones((16, 24), bool)
    wanted[:, 4:20] = mask[0, ..., 0] > 0
    np.testing.assert_array_equal(layout.timeline.hole(1), wanted)


def test_a_canvas_the_network_cannot_do_is_rounded_up_and_said_so(clip):
    layout, notes = lay_out("infill", input=clip(1), canvas="30x17")
    assert layout.spool.shape == (24, 32, 3)
    assert len(notes) == 1
    assert "32x24" in notes[0]


@pytest.mark.parametrize("text", ["", "32", "32x", "x32", "32*32", "8x32", "32x8", "4000x32", "-32x32", "1e3x32"])
def test_a_canvas_that_is_none_is_refused(text):
    with pytest.raises(UserError, match="--canvas"):
        parse_canvas(text, (16, 16), 8)


def test_a_canvas_no_larger_than_the_picture_leaves_nothing_to_fill(clip):
    with pytest.raises(UserError, match="canvas"):
        lay_out("infill", input=clip(2), canvas="16x16")


# --- generate


def test_generation_wants_all_frames():
    layout, notes = lay_out("generate", frames=9, fps=12.5, width=64, height=32)
    t = layout.timeline
    assert list(t.given) == []
    assert list(t.wanted) == list(t.shown) == list(range(9))
    assert t.fps == Fraction(25, 2)
    assert layout.spool.shape == (32, 64, 3)
    assert notes == []


def test_generation_says_when_it_rounds_the_size():
    layout, notes = lay_out("generate", width=37, height=20)
    assert layout.spool.shape == (16, 40, 3)
    assert len(notes) == 1
    assert "37x20 is rounded to 40x16" in notes[0]


# --- loop


def test_a_loop_sees_its_beginning_again_behind_its_end(clip):
    layout, _ = lay_out("loop", input=clip(12), frames=5)
    t = layout.timeline
    assert numbers(layout) == {**{n: n for n in range(12)}, **{17 + n: n for n in range(8)}}
    assert list(t.wanted) == list(range(12, 17))
    assert list(t.shown) == list(range(17))


# --- edits: all frames are a guide


@pytest.mark.parametrize(
    ("task", "more", "starts", "coded"),
    [("edit", {"strength": 0.4}, 0.4, False), ("vary", {"amount": 0.2}, 0.2, True)],
)
def test_an_edit_wants_all_frames_and_keeps_them_as_a_guide(clip, task, more, starts, coded):
    layout, _ = lay_out(task, input=clip(9), **more)
    t, edit = layout.timeline, layout.edit
    assert list(t.given) == []
    assert list(t.wanted) == list(t.shown) == list(range(9))
    assert [round(layout.spool.get(place).mean() / 10) for place in t.wanted] == list(range(9))
    assert {edit.start(place) for place in t.wanted} == {starts}
    assert edit.share(t.wanted) == starts
    assert (edit.coded, edit.other) == (coded, None)


def test_the_brightness_of_a_mask_is_the_share_of_the_strength(clip, tmp_path):
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, :4], mask[:, 4:8] = 255, 51
    video.write(tmp_path / "mask", mask, 10)
    layout, _ = lay_out("edit", input=clip(3), strength=0.5, mask=tmp_path / "mask" / "00000.png")
    start = layout.edit.start(1)
    np.testing.assert_allclose(start[:4], 0.5)
    np.testing.assert_allclose(start[4:8], 0.1, rtol=1e-6)
    assert not start[8:].any()


def test_a_mask_that_is_black_or_a_guide_that_is_short_is_refused(clip, tmp_path):
    source = clip(4)
    video.write(tmp_path / "black.mkv", np.zeros((1, 16, 16, 3), np.uint8), 10)
    with pytest.raises(UserError, match="black everywhere"):
        lay_out("edit", input=source, mask=tmp_path / "black.mkv")
    video.write(tmp_path / "white.mkv", np.full((1, 16, 16, 3), 255, np.uint8), 10)
    with pytest.raises(UserError, match="3 frames and the clip 4"):
        lay_out("edit", input=source, mask=tmp_path / "white.mkv", guide=clip(3, name="guide.mkv"))


def test_a_morph_goes_from_the_first_frame_of_one_to_the_last_of_the_other(clip):
    layout, _ = lay_out("morph", input=clip(9), to=clip(7, name="to.mkv"))
    t, edit = layout.timeline, layout.edit
    assert list(t.wanted) == list(t.shown) == list(range(7))
    assert [edit.start(place) for place in t.wanted] == [*(n / 6 for n in range(6)), 0.0]
    assert [round(layout.spool.get(place).mean() / 10) for place in t.wanted] == [0, 1, 2, 3, 4, 5, 6]
    assert [round(layout.spool.get(edit.other(place)).mean() / 10) for place in t.wanted] == list(range(7))


@pytest.mark.parametrize(("frames", "length"), [(None, 16), (5, 5)])
def test_two_pictures_are_held_while_they_morph(clip, frames, length):
    layout, _ = lay_out("morph", input=clip(1), to=clip(1, name="to.mkv"), frames=frames)
    assert list(layout.timeline.shown) == list(range(length))


@pytest.mark.parametrize(("first", "second", "frames"), [(2, 9, None), (9, 2, None), (5, 9, 6)])
def test_a_morph_needs_frames_to_go_by(clip, first, second, frames):
    with pytest.raises(UserError, match="frames"):
        lay_out("morph", input=clip(first), to=clip(second, name="to.mkv"), frames=frames)


# --- restore


@pytest.mark.parametrize("operator", ["denoise", "deblur"])
def test_of_a_damaged_clip_all_frames_are_wanted_and_there(clip, operator):
    layout, notes = lay_out("restore", input=clip(6), operator=operator, noise=5)
    t, damage = layout.timeline, layout.damage
    assert (list(t.given), list(t.wanted)) == ([], list(range(6)))
    assert damage.sigma == pytest.approx(5 / 127.5)
    assert not damage.reduced
    assert notes == []


def test_noise_that_is_not_told_is_estimated_and_said_so(clip):
    layout, notes = lay_out("restore", input=clip(4), operator="denoise")
    assert layout.damage.sigma == pytest.approx(12**-0.5 / 127.5), "a clip without noise has that of bytes"
    assert "--noise" in notes[0]


@pytest.mark.parametrize("factor", [2, 4])
def test_a_clip_to_be_enlarged_is_worked_on_at_its_own_size_or_the_network_s(clip, factor):
    for size, own in ((8, 8), (40, 16)):
        layout, _ = lay_out(
            "restore", input=clip(3, size=(size, size), name=f"{size}.mkv"), operator="upscale", factor=factor
        )
        assert layout.spool.shape == (own * factor, own * factor, 3)
        assert layout.damage.reduced
        assert layout.damage.sigma == 0
        frame = layout.spool.get(2)
        np.testing.assert_array_equal(frame, frame[::factor, ::factor].repeat(factor, 0).repeat(factor, 1))


def test_a_clip_to_be_coloured_is_grey_after_its_reference(tmp_path):
    colours = np.zeros((5, 16, 16, 3), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 90
    video.write(tmp_path / "clip.mkv", colours, 10)
    video.write(tmp_path / "first", colours[:1], 10)
    layout, _ = lay_out("restore", input=tmp_path / "clip.mkv", operator="colorize", reference=tmp_path / "first")
    t = layout.timeline
    assert (list(t.given), list(t.wanted), list(t.shown)) == ([0], [1, 2, 3, 4], [0, 1, 2, 3, 4])
    np.testing.assert_array_equal(layout.spool.get(0), colours[0])
    assert (layout.spool.get(1) == round(200 * LUMA[0] + 90 * LUMA[2])).all()


def test_one_picture_cannot_be_restored_by_its_neighbours(clip):
    with pytest.raises(UserError, match="two are needed"):
        lay_out("restore", input=clip(1), operator="denoise")


def test_slow_motion_and_holes_are_interpolation_and_infilling(clip, tmp_path):
    source = clip(5)
    slow, _ = lay_out("restore", input=source, operator="slowmo", factor=4)
    same, _ = lay_out("interpolate", input=source, factor=4, slow=True)
    assert slow.timeline == same.timeline
    mask = np.zeros((1, 16, 16, 3), np.uint8)
    mask[:, :5, :5] = 255
    video.write(tmp_path / "mask", mask, 10)
    layouts = [
        lay_out("restore", input=source, operator="inpaint", mask=tmp_path / "mask")[0],
        lay_out("infill", input=source, mask=tmp_path / "mask")[0],
    ]
    assert len({(*layout.timeline.given, -1, *layout.timeline.wanted) for layout in layouts}) == 1
    np.testing.assert_array_equal(layouts[0].timeline.hole(3), layouts[1].timeline.hole(3))


# --- all that read


READING = [
    ("predict", {}),
    ("interpolate", {}),
    ("interpolate", {"to": "itself"}),
    ("infill", {"missing": "0"}),
    ("infill", {"canvas": "64x64"}),
    ("loop", {}),
    ("edit", {}),
    ("vary", {}),
    ("morph", {"to": "itself"}),
    ("restore", {"operator": "deblur"}),
    ("restore", {"operator": "slowmo"}),
]


def test_every_task_that_reads_is_among_these():
    assert {task for task, _ in READING} == set(settings.TASKS) - {"generate"}


@pytest.mark.parametrize(("task", "more"), READING)
def test_the_size_is_fitted_to_the_network_and_said_so(clip, task, more):
    source = clip(4, size=(30, 50))
    more = {**more, **({"to": source} if "to" in more else {})}
    layout, notes = lay_out(task, input=source, **more)
    assert layout.spool.shape[:2] == ((64, 64) if "canvas" in more else (16, 24))
    assert all("50x30; worked on at 24x16" in note for note in notes)
    assert len(notes) == (2 if "to" in more else 1)
    layout, notes = lay_out(task, input=source, size=32, **more)
    assert layout.spool.shape[:2] == ((64, 64) if "canvas" in more else (32, 56))


@pytest.mark.parametrize(("task", "more"), READING)
def test_a_part_without_frames_is_an_unreadable_input(clip, task, more):
    source = clip(4)
    more = {**more, **({"to": source} if "to" in more else {})}
    with pytest.raises(UnreadableInput, match="no frame"):
        lay_out(task, input=source, start=30.0, **more)


def test_a_grey_network_gets_grey_frames_and_the_user_is_told(tmp_path):
    colours = np.zeros((2, 16, 16, 3), np.uint8)
    colours[..., 0], colours[..., 2] = 200, 90
    video.write(tmp_path / "clip.mkv", colours, 10)
    layout, notes = lay_out("predict", GREY, input=tmp_path / "clip.mkv", frames=1)
    assert layout.spool.shape == (16, 16, 1)
    assert (layout.spool.get(0) == round(200 * LUMA[0] + 90 * LUMA[2])).all()
    assert len(notes) == 1
    assert "grey" in notes[0]


def test_sound_that_is_left_out_is_noted(shared):
    _, notes = lay_out("predict", input=shared / "data" / "clips" / "h264_aac_320x240.mp4", frames=1)
    assert any("sound" in note for note in notes)


def test_a_damaged_clip_is_used_as_far_as_it_goes_and_said_so(shared):
    path = shared / "data" / "clips" / "corrupt_stream.mp4"
    layout, notes = lay_out("predict", input=path, frames=1)
    assert 1 <= len(layout.timeline.given) <= 4
    assert any("damaged" in note for note in notes), notes
