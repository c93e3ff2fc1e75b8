"""The part of a clip that is used, cut out by hand: a rectangle on a frame, and the first and the last frame.

static/part.js draws both and says to the input event of the component what is chosen when something comes to rest: the
first and the last frame and the rectangle, "3 11 96x64+10+20". These are the settings `start`, `end` and `crop` seen
from another side: `Part` says which frames a start and an end keep, as `video.stream` reads them, and the other way
round. Which frame is to be seen beneath is asked for by the submit event.
"""

import re
import secrets
from bisect import bisect_left
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import gradio as gr
import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff.settings import parse_crop
from videodiff.video.choose import EPSILON
from videodiff_ui.html import Html, picture, tag, word
from videodiff_ui.intake import Taken

ASPECTS = {"free": None, "own": None, "1:1": 1.0, "16:9": 16 / 9, "9:16": 9 / 16}
"""What the rectangle may be held to: width over height as seen; the clip's own is that of the whole picture."""
_CHOSEN = re.compile(r"(\d{1,6}) (\d{1,6}) (\d{1,5}x\d{1,5}\+\d{1,5}\+\d{1,5})", re.ASCII)


@dataclass(frozen=True)
class Part:
    """The frames first .. last of a whole clip, and of each a rectangle (height, width, top, left) in its pixels."""

    first: int
    last: int
    crop: tuple[int, int, int, int]

    @property
    def text(self) -> str:
        """As the browser reads and says it."""
        height, width, top, left = self.crop
        return f"{self.first} {self.last} {width}x{height}+{left}+{top}"

    def settings(self, taken: Taken) -> dict[str, Any]:
        """`start`, `end` and `crop` that leave exactly this part; None where they leave everything."""
        height, width, top, left = self.crop
        whole = self.crop == (taken.height, taken.width, 0, 0)
        return {
            "start": _time(taken.times, self.first) if self.first else None,
            "end": _time(taken.times, self.last + 1) if self.last + 1 < taken.total else None,
            "crop": None if whole else f"{width}x{height}+{left}+{top}",
        }


NOTHING = "-"
"""In the place of `Part.text` where there is no clip."""


def of(taken: Taken, choice: Mapping[str, Any] | None = None) -> Part:
    """The part of a clip that is used, or that `choice` (settings of reading) leaves, as frames and pixels.

    Of every n-th frame those between are part of it as well.
    """
    choice = dict(taken.part) if choice is None else choice
    first = bisect_left(taken.times, choice.get("start", 0.0) - EPSILON)
    stop = bisect_left(taken.times, choice["end"] - EPSILON) if "end" in choice else taken.total
    crop = parse_crop(choice["crop"]) if "crop" in choice else (taken.height, taken.width, 0, 0)
    first = min(first, taken.total - 1)  # beyond the last frame: resampled, it is still on the screen
    return Part(first, max(first, stop - 1), crop)


def parse(text: str, taken: Taken) -> Part:
    """What a browser sent, as a stranger's: UserError for anything but a part of this clip."""
    found = _CHOSEN.fullmatch(text)
    try:
        part = Part(int(found[1]), int(found[2]), parse_crop(found[3])) if found else None
    except ValueError:
        part = None
    if part is None:
        raise UserError("the part of the clip could not be read; choose it again")
    height, width, top, left = part.crop
    if not part.first <= part.last < taken.total or top + height > taken.height or left + width > taken.width:
        raise UserError(
            f"frames {part.first} to {part.last}, {found[3] if found else ''}, are no part of this clip: it has frames "
            f"0 to {taken.total - 1} of {taken.width}x{taken.height}; choose the part again"
        )
    return part


def parse_place(text: str, taken: Taken) -> int:
    """The frame a browser wants to see; UserError for one that the clip does not have."""
    if not re.fullmatch(r"[0-9]{1,6}", text) or int(text) >= taken.total:
        raise UserError(f"there is no such frame: the clip has frames 0 to {taken.total - 1}")
    return int(text)


def component(elem_id: str) -> gr.HTML:
    """The place of the widget. Its input event brings `event.part`, its submit event `event.place`."""
    heard = (
        "element.addEventListener('vd-parted', (event) => trigger('input', {part: event.detail}));"
        "element.addEventListener('vd-look', (event) => trigger('submit', {place: event.detail}));"
    )
    return gr.HTML(Html(""), elem_id=elem_id, js_on_load=heard, padding=False, apply_default_css=False)


def look(frame: np.ndarray) -> Html:
    """A frame uint8 [h w 3] that is to be seen beneath the rectangle from now on; part.js takes it from here."""
    return picture(video.jpeg(frame, quality=85), "", class_="vd-look", data_drawn=secrets.token_hex(4))


def draw(frame: np.ndarray, taken: Taken, part: Part) -> Html:
    """The widget: a frame uint8 [h w 3] of the whole clip, the part that is used marked on it and below it."""
    height, width, top, left = part.crop
    aspect = taken.width * float(taken.pixel_aspect) / taken.height
    return tag(
        "div",
        tag(
            "div",
            picture(video.jpeg(frame, quality=85), "", draggable="false"),
            tag("div", *_corners(), class_="vd-crop", tabindex=0, role="group", data_title="part.crop"),
            class_="vd-sheet",
            style=f"--vd-aspect: {aspect:.6f}",
        ),
        tag(
            "div",
            tag(
                "div",
                *(_aspect(name, taken) for name in ASPECTS),
                class_="vd-aspects",
                role="group",
                data_title="part.aspect",
            ),
            tag("button", word("part.whole_picture"), type="button", class_="vd-whole-picture"),
            tag("output", f"{width}x{height}+{left}+{top}", class_="vd-rectangle", data_title="part.rectangle"),
            class_="vd-tools",
        ),
        _span(taken) if taken.total > 1 else None,
        class_="vd-part",
        data_part=part.text,
        data_size=f"{taken.width}x{taken.height}",
        data_times=",".join(f"{1000 * time:.0f}" for time in (*taken.times, _end(taken))),
        data_drawn=secrets.token_hex(4),  # a drawing that is equal to the last one still takes back what was chosen
    )


def _span(taken: Taken) -> Html:
    """Two handles over the length of the clip, and what they say."""
    most = taken.total - 1

    def handle(name: str) -> Html:
        return tag("input", type="range", min=0, max=most, step=1, class_=f"vd-{name}", data_title=f"part.{name}")

    says: dict[str, str | int] = {
        "first": 0,
        "last": most,
        "total": taken.total,
        "start": "0",
        "end": f"{_end(taken):.2f}",
    }
    return tag(
        "div",
        tag("div", tag("i"), handle("first"), handle("last"), class_="vd-span"),
        tag(
            "div",
            tag("output", word("part.span", **says), class_="vd-says"),
            tag("button", word("part.whole_clip"), type="button", class_="vd-whole-clip"),
            class_="vd-tools",
        ),
    )


def _aspect(name: str, taken: Taken) -> Html:
    """A button that holds the rectangle to a ratio of its sides, told to the browser in pixels of the clip."""
    seen = ASPECTS[name]
    ratio = taken.width / taken.height if name == "own" else (seen or 0) / float(taken.pixel_aspect)
    label = name if ":" in name else word(f"part.{name}")
    pressed = "true" if name == "free" else "false"
    return tag(
        "button", label, type="button", class_="vd-aspect", data_aspect=name, data_ratio=ratio, aria_pressed=pressed
    )


def _corners() -> list[Html]:
    return [tag("i", aria_hidden="true") for _ in range(4)]


def _time(times: Sequence[float], place: int) -> float:
    """The time of a frame, as near as a start or an end must be to mean it, in few digits."""
    return round(times[place], 6)


def _end(taken: Taken) -> float:
    """When the clip is over: its last frame stays as long as the one before it."""
    times = taken.times
    return times[-1] + (times[-1] - times[-2] if len(times) > 1 else float(1 / taken.fps))
