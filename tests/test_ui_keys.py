"""The keyboard after ordinary clicks: a control keeps the keys it needs itself, and the app hears the others."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("gradio")
pytest.importorskip("playwright")

from browser import until
from test_ui_make import LONG, fill, played, put_in, run

from videodiff import video
from videodiff.jobs import CANCELLED, DONE, RUNNING


def test_keys_reach_the_player_and_the_stop_after_a_click(app: Any, page: Any, tmp_path: Path) -> None:
    video.write(tmp_path / "clip.mkv", np.zeros((12, 24, 32, 3), np.uint8), 10)
    put_in(page, tmp_path / "clip.mkv")
    fill(page, frames=12, steps=2)
    app.job(run(page, app), DONE)
    played(page)
    place = page.locator(".vd-place")

    def plays() -> bool:
        return not page.locator("#vd-result .vd-after").evaluate("(film) => film.paused")

    # A slider is moved by its arrows alone; the space bar is the player's.
    seek = page.locator(".vd-seek")
    seek.click()
    until(lambda: not plays(), what="a still picture after a click on the bar")
    seek.press("Space")
    until(plays, what="play by the space bar")
    seek.press("Space")
    until(lambda: not plays(), what="a pause by the space bar")
    seek.evaluate("(bar) => { bar.value = 3; bar.dispatchEvent(new Event('input')); }")
    until(lambda: place.inner_text().startswith("4 / 16"), what="frame 4")
    seek.press("ArrowRight")
    until(lambda: place.inner_text().startswith("5 / 16"), what="one frame on by the bar itself")

    # A button has no use for arrows.
    page.click(".vd-forward")
    until(lambda: place.inner_text().startswith("6 / 16"), what="one frame on by the button")
    page.keyboard.press("ArrowLeft")
    until(lambda: place.inner_text().startswith("5 / 16"), what="one frame back by the keyboard")

    # A choice keeps its space bar and its arrows.
    choice = page.locator("#vd-field-direction input[value=backward]")
    choice.press("Space")
    until(choice.is_checked, what="the choice by the space bar")
    choice.press("ArrowRight")
    assert place.inner_text().startswith("5 / 16")
    assert not plays()

    # Esc stops a run from a choice and from a slider, but in a box it only leaves the box.
    for name, amount in LONG.items():
        page.locator(f"#vd-field-{name} input").last.fill(str(amount))
    page.keyboard.press("Tab")
    for control in (choice, page.locator("#page-make input[type=range]").locator("visible=true").first):
        number = run(page, app)
        app.job(number, RUNNING)
        page.wait_for_selector("#vd-stop:not([disabled])")
        page.locator("#vd-field-frames input").last.press("Escape")
        control.press("Escape")
        app.job(number, CANCELLED, seconds=30)
        page.wait_for_selector("#vd-stop[disabled]")
