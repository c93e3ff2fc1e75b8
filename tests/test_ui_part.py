"""The part of a clip that is cut out by hand is exactly the part that is used, and the other way round."""

from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")

from browser import until

from videodiff import video
from videodiff.errors import UserError
from videodiff.jobs import DONE
from videodiff.settings import Reading, parse_crop
from videodiff_ui import intake
from videodiff_ui.part import Part, draw, of, parse, parse_place


def taken_of(times: tuple[float, ...], width: int = 33, height: int = 24, **settings: Any) -> intake.Taken:
    """A clip of which only its times and its size are known."""
    chosen = tuple(settings.items())
    return intake.Taken(
        Path("a.mp4"), len(times), len(times), Fraction(10), width, height, True, (), times, part=chosen
    )


TENTHS = taken_of(tuple(k / 10 for k in range(12)))
WHOLE = (24, 33, 0, 0)


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Twelve frames of 64x48 without loss, each and each pixel different."""
    y, x = np.mgrid[:48, :64]
    frames = np.stack([np.stack([4 * x, 5 * y, np.full_like(x, 20 * t)], -1) for t in range(12)]).astype(np.uint8)
    path = tmp_path_factory.mktemp("clips") / "shades.mkv"
    video.write(path, frames, 10)
    return path


# ---------------------------------------------------------------------------------------------------------------------
# Frames and settings


def test_all_of_a_clip_needs_no_settings() -> None:
    assert Part(0, 11, WHOLE).settings(TENTHS) == {"start": None, "end": None, "crop": None}
    assert of(TENTHS) == Part(0, 11, WHOLE)


def test_a_part_is_its_settings_and_back() -> None:
    for first in range(12):
        for last in range(first, 12):
            chosen = Part(first, last, (7, 5, 3, 28))
            settings = {name: value for name, value in chosen.settings(TENTHS).items() if value is not None}
            Reading(**settings)
            assert of(taken_of(TENTHS.times, **settings)) == chosen


def test_typed_times_between_frames_keep_what_the_reader_keeps() -> None:
    assert of(taken_of(TENTHS.times, start=0.25, end=0.61)) == Part(3, 6, WHOLE)
    assert of(taken_of(TENTHS.times, end=0.3)) == Part(0, 2, WHOLE)
    assert of(taken_of(TENTHS.times, start=5.0)) == Part(11, 11, WHOLE)


@pytest.mark.parametrize("name", ["derived_vfr.mp4", "animated_200x150.gif", "derived_h264_odd_175x143_yuv444.mp4"])
def test_exactly_the_chosen_frames_are_read(shared: Path, name: str) -> None:
    """Also of clips with uneven times and odd sizes."""
    path = shared / "data/clips" / name
    taken = intake.take(path, {})
    everything = video.read(path, size=(24, 32)).frames
    for first, last in ((0, 0), (1, 4), (taken.total // 2, taken.total - 2), (taken.total - 1, taken.total - 1)):
        settings = Part(first, last, (taken.height, taken.width, 0, 0)).settings(taken)
        found = video.read(path, start=settings["start"], end=settings["end"], size=(24, 32)).frames
        np.testing.assert_array_equal(found, everything[first : last + 1])
        again = intake.take(path, settings, taken)
        assert (again.frames, again.times) == (last + 1 - first, taken.times)
        assert (of(again).first, of(again).last) == (first, last)


def test_the_rectangle_is_one_of_the_upright_picture(shared: Path) -> None:
    path = shared / "data/clips/rotate_90.mov"
    taken = intake.take(path, {})
    assert (taken.width, taken.height) == (320, 568)
    assert intake.look(taken, 2).shape == (568, 320, 3)
    chosen = parse("0 1 31x57+289+511", taken)
    settings = chosen.settings(taken)
    found = video.read(path, end=settings["end"], crop=parse_crop(settings["crop"])).frames
    np.testing.assert_array_equal(found, video.read(path).frames[:2, 511:, 289:])


def test_a_frame_is_looked_at_as_large_as_it_is_but_not_larger(shared: Path, clip: Path) -> None:
    np.testing.assert_array_equal(intake.look(intake.take(clip, {}), 7), video.read(clip).frames[7])
    large = intake.take(shared / "data/clips/h264_full_range_bt709.mp4", {})
    assert intake.look(large, 3).shape == (405, 720, 3)


def test_pictures_of_a_folder_have_the_times_of_their_frame_rate(tmp_path: Path) -> None:
    frames = np.arange(6, dtype=np.uint8)[:, None, None, None] * np.full((6, 16, 16, 3), 40, np.uint8)
    video.write(tmp_path / "frames", frames, 10)
    taken = intake.take(tmp_path / "frames", {"fps": 20, "start": 0.1})
    assert taken.times == pytest.approx([k / 20 for k in range(6)])
    assert (of(taken).first, of(taken).last, taken.frames) == (2, 5, 4)
    assert intake.look(taken, 4)[0, 0, 0] == 160


# ---------------------------------------------------------------------------------------------------------------------
# What is drawn, and what comes back


def test_what_is_drawn_is_read_back() -> None:
    chosen = Part(3, 8, (7, 5, 3, 28))
    made = draw(np.zeros((24, 33, 3), np.uint8), TENTHS, chosen)
    assert 'data-part="3 8 5x7+28+3"' in made
    assert parse("3 8 5x7+28+3", TENTHS) == chosen
    assert 'data-times="0,100,200,300,400,500,600,700,800,900,1000,1100,1200"' in made
    assert made.count('type="range"') == 2
    assert 'data-aspect="own" data-ratio="1.375"' in made


def test_a_picture_has_no_handles_in_time() -> None:
    assert 'type="range"' not in draw(np.zeros((24, 33, 3), np.uint8), taken_of((0.0,)), Part(0, 0, WHOLE))


@pytest.mark.parametrize(
    "text",
    [
        "", "1", "1 2", "1 2 5x5", "5 4 33x24+0+0", "0 12 33x24+0+0", "0 11 34x24+0+0", "0 11 33x24+1+0",
        "0 11 33x24+0+1", "0 11 0x24+0+0", "0 11 33x0+0+0", "-1 3 5x5+0+0", "0 11 33x24+0+-1", "0 11 33x24+0+0 ",
        " 0 11 33x24+0+0", "0 11 33x24+0+0\n", "\u0660 3 5x5+0+0", "0 1e3 5x5+0+0", "0 11 999999x1+0+0", "<b>" * 99,
    ],
)  # fmt: skip
def test_what_is_no_part_of_the_clip_is_refused(text: str) -> None:
    with pytest.raises(UserError, match="choose"):
        parse(text, TENTHS)


@pytest.mark.parametrize("text", ["", "12", "-1", "1.0", "1 ", "x", "٣", "9" * 30])
def test_a_frame_that_is_not_there_cannot_be_seen(text: str) -> None:
    assert parse_place("11", TENTHS) == 11
    with pytest.raises(UserError, match="frames 0 to 11"):
        parse_place(text, TENTHS)


# ---------------------------------------------------------------------------------------------------------------------
# In a browser


def put_in(page: Any, path: Path) -> None:
    """Upload a clip and wait for its strip."""
    page.set_input_files("#vd-input input[type=file]", str(path))
    page.wait_for_selector("#vd-timeline .vd-cell")


def drag(page: Any, left: float, top: float, right: float, bottom: float) -> None:
    """Draw with the mouse on the picture, in shares of its box."""
    sheet = page.locator("#vd-part .vd-sheet")
    sheet.scroll_into_view_if_needed()
    box = sheet.bounding_box()
    page.mouse.move(box["x"] + left * box["width"], box["y"] + top * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + right * box["width"], box["y"] + bottom * box["height"], steps=5)
    page.mouse.up()


def value(page: Any, name: str) -> str:
    """What a control shows."""
    return page.locator(f"#vd-field-{name} :is(input, textarea)").last.input_value()


def test_a_part_chosen_by_hand_is_what_is_used(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    page.click("#vd-preset-loop")
    page.locator("#vd-more button").first.click()
    page.locator("#vd-field-checkpoint input").click()
    page.locator("ul[role=listbox] li:has-text('tiny')").click()
    for name, typed in (("frames", 3), ("steps", 2)):
        box = page.locator(f"#vd-field-{name} :is(input, textarea)").last
        box.fill(str(typed))
        box.press("Tab")
    page.locator("#vd-more button").first.click()
    assert page.locator("#vd-part .vd-part").count() == 0  # nothing is drawn before it is asked for
    page.locator("#vd-part button").first.click()
    page.wait_for_selector("#vd-part .vd-sheet img")
    page.locator("#vd-part .vd-first").focus()
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    page.locator("#vd-part .vd-last").focus()
    page.keyboard.press("Shift+ArrowLeft")  # not past the first one
    page.keyboard.press("ArrowRight")
    page.keyboard.press("ArrowRight")
    until(lambda: page.locator("#vd-timeline .vd-cell").count() == 3, what="three frames on the strip")
    page.wait_for_selector("#vd-part .vd-says:has-text('Frames 2 to 4 of 12 · 0.20 to 0.50 s')")
    # Drawn, then moved by keys; the run that is started at once has it all.
    drag(page, 0.25, 0.25, 0.5, 0.75)
    page.keyboard.press("Shift+ArrowRight")
    page.keyboard.press("ArrowUp")
    page.keyboard.press("Alt+ArrowRight")
    before = {job.id for job in app.store.list()}
    page.keyboard.press("Control+Enter")
    number = max(until(lambda: {job.id for job in app.store.list()} - before, 30, "a job"))
    job = app.job(number, DONE)
    assert (job.settings["start"], job.settings["end"]) == (0.2, 0.5)
    assert job.settings["crop"] == "17x24+26+11"
    result = video.read(job.output, trusted=True)
    assert len(result.frames) == 3 + 3
    assert result.frames.shape[1:3] == (24, 16)  # of a clip that is wider than high


def test_the_fields_and_the_fold_show_one_part(app: Any, page: Any, clip: Path) -> None:
    put_in(page, clip)
    page.locator("#vd-part button").first.click()
    page.wait_for_selector("#vd-part .vd-sheet img")
    page.locator("#vd-more button").first.click()
    for name, typed in (("start", "0.35"), ("crop", "20x10+4+30")):
        box = page.locator(f"#vd-field-{name} :is(input, textarea)").last
        box.fill(typed)
        box.press("Tab")
    page.wait_for_selector("#vd-part .vd-says:has-text('Frames 4 to 11')")
    until(lambda: page.locator("#vd-part .vd-rectangle").inner_text() == "20x10+4+30", what="the rectangle typed")
    page.click("#vd-part .vd-aspect[data-aspect='1:1']")
    until(lambda: value(page, "crop") == "14x14+7+28", what="a square of the same area")
    assert value(page, "start") == "0.35"  # what was not changed by hand stays as it was typed
    page.click("#vd-part .vd-whole-picture")
    until(lambda: value(page, "crop") == "", what="no crop")
    # Another task keeps the part, another clip does not.
    page.click("#vd-preset-loop")
    page.wait_for_selector("#vd-asked:has-text('back to the beginning')")
    assert value(page, "start") == "0.35"
    page.click("#vd-example")
    page.wait_for_selector("#vd-facts:has-text('example.mp4')")
    until(lambda: value(page, "start") == "", what="all of another clip")
    page.wait_for_selector("#vd-part .vd-says:has-text('Frames 0 to')")
