"""What is marked on the strip is what is asked for."""

import itertools

import pytest

pytest.importorskip("gradio")

from videodiff.errors import UserError
from videodiff.planner import parse_ranges
from videodiff.settings import TASKS
from videodiff_ui.timeline import PRESETS, Marks, cells, draw, marks_of, parse, preset, ranges, request_of

EXPECTED = {
    "continue": ("predict", {"frames": 16, "direction": "forward"}),
    "before": ("predict", {"frames": 16, "direction": "backward"}),
    "between": ("interpolate", {"factor": 2, "slow": False}),
    "hole": ("infill", {"missing": "4:8"}),
    "loop": ("loop", {"frames": 8}),
    "slow": ("interpolate", {"factor": 4, "slow": True}),
}


@pytest.mark.parametrize("name", PRESETS)
def test_each_preset_is_a_request_and_the_request_shows_as_the_preset(name: str) -> None:
    marks = preset(name, 12)
    kind, settings = request_of(marks)
    assert (kind, settings) == EXPECTED[name]
    assert TASKS[kind](input="a.mp4", **settings)
    assert marks_of(kind, settings, 12) == marks


def test_marked_frames_are_the_missing_ones_for_every_set() -> None:
    for number in range(1, 6):
        for wanted in itertools.combinations(range(6), number):
            kind, settings = request_of(Marks(6, wanted))
            assert kind == "infill"
            assert parse_ranges(settings["missing"], 6) == set(wanted)
            assert marks_of(kind, settings, 6) == Marks(6, wanted)


@pytest.mark.parametrize(
    ("marks", "reason"),
    [
        (Marks(6), "nothing is wanted yet"),
        (Marks(6, tuple(range(6))), "leave at least one as given"),
        (Marks(6, before=2, after=2), "frames before and frames after cannot be made in one go"),
        (Marks(6, (2,), factor=2), "marked frames and frames between cannot"),
        (Marks(6, factor=3), "2, 4 or 8 times"),
    ],
)
def test_what_cannot_be_asked_says_so(marks: Marks, reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        request_of(marks)


def test_marks_come_back_from_the_browser_and_a_stranger_s_are_refused() -> None:
    marks = Marks(6, (1, 2), loop=True, after=3)
    assert parse(marks.as_json(), 6) == marks
    for wrong in ("", "[]", "{}", '{"wanted": ["<b>"]}', Marks(9, (8,)).as_json(), Marks(6, (-1,)).as_json()):
        with pytest.raises(UserError):
            parse(wrong, 6)


@pytest.mark.parametrize("frames", [1, 7, 120, 121, 1000])
def test_cells_stand_for_all_frames_once(frames: int) -> None:
    spans = cells(frames)
    assert [place for first, stop in spans for place in range(first, stop)] == list(range(frames))
    assert len(spans) <= 120
    assert max((stop - first for first, stop in spans), default=1) <= -(-frames // 120)


def test_ranges_are_written_short() -> None:
    assert ranges([9, 3, 4, 5]) == "3:6,9"
    assert ranges([]) == ""


def test_the_strip_says_which_frames_are_wanted() -> None:
    strip = draw([b"x"] * 4, Marks(4, (1, 2)))
    assert strip.count('aria-pressed="true"') == 2
    assert strip.count("vd-cell") == 4
    assert draw([b"x"] * 4, Marks(4, after=30)).count("vd-slot") == 12
    assert "+30" in draw([b"x"] * 4, Marks(4, after=30))
