"""The strip of frames on which frames are marked as given or wanted, and the request that marks amount to.

Marks say what is wanted of a clip of n frames: some of its own frames, frames before it, after it, between its frames,
or after it back to its beginning. `request_of` is the only translation; what no task can do in one go is refused with
the next step. static/timeline.js marks cells and says `Marks.as_json` to the
input event of the component.
"""

import itertools
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import gradio as gr

from videodiff.errors import UserError
from videodiff.planner import parse_ranges
from videodiff_ui.html import Html, join, picture, tag, word

MOST_CELLS = 120
"""Thumbnails shown at most; in longer clips a cell stands for several frames."""
MOST_SLOTS = 12
"""Empty cells drawn at most on either side; their number is written on the last one."""
PRESETS = ("continue", "before", "between", "hole", "loop", "slow")


@dataclass(frozen=True)
class Marks:
    """What is wanted of a clip of `frames` frames.

    wanted: places of its own frames. before, after: new frames on either side. loop: those after lead back to the
    first frame. factor: new frames between, so that there are `factor` times as many; slow: at the same frame rate.
    """

    frames: int
    wanted: tuple[int, ...] = ()
    before: int = 0
    after: int = 0
    factor: int = 1
    slow: bool = False
    loop: bool = False

    def as_json(self) -> str:
        """For the browser, which sends it back changed."""
        return json.dumps(asdict(self))


def parse(text: str, frames: int) -> Marks:
    """The marks a browser sent, as a stranger's: places outside the clip and unknown names are refused."""
    try:
        found = json.loads(text)
        marks = Marks(
            frames,
            tuple(sorted({int(place) for place in found["wanted"]})),
            before=min(max(0, int(found["before"])), 100_000),
            after=min(max(0, int(found["after"])), 100_000),
            factor=int(found["factor"]),
            slow=found["slow"] is True,
            loop=found["loop"] is True,
        )
    except (ValueError, TypeError, KeyError) as error:
        raise UserError("the marks of the timeline could not be read; choose one of its presets again") from error
    if marks.wanted and not 0 <= marks.wanted[0] <= marks.wanted[-1] < frames:
        raise UserError(f"a frame is marked that the clip does not have: it has frames 0 to {frames - 1}")
    return marks


def preset(name: str, frames: int, new: int = 16) -> Marks:
    """The marks of a preset for a clip of so many frames."""
    third = max(1, frames // 3)
    return {
        "continue": Marks(frames, after=new),
        "before": Marks(frames, before=new),
        "between": Marks(frames, factor=2),
        "hole": Marks(frames, wanted=tuple(range(third, min(frames - 1, 2 * third)))),
        "loop": Marks(frames, after=8, loop=True),
        "slow": Marks(frames, factor=4, slow=True),
    }[name]


def request_of(marks: Marks) -> tuple[str, dict[str, Any]]:
    """(task, settings) that the marks ask for. UserError where they ask for nothing, or for more than one task does."""
    asked = [bool(marks.wanted), bool(marks.before), bool(marks.after), marks.factor > 1]
    if not any(asked):
        raise UserError("nothing is wanted yet: mark frames to be made anew, or choose a preset such as Continue")
    if len(marks.wanted) == marks.frames:
        raise UserError("all frames are marked as wanted; leave at least one as given, or use the task Generate")
    if sum(asked) > 1:
        names = ("marked frames", "frames before", "frames after", "frames between")
        words = itertools.compress(names, asked)
        raise UserError(
            f"{' and '.join(words)} cannot be made in one go; make one of them, then use the result for the other"
        )
    if marks.loop:
        return "loop", {"frames": marks.after}
    if marks.after:
        return "predict", {"frames": marks.after, "direction": "forward"}
    if marks.before:
        return "predict", {"frames": marks.before, "direction": "backward"}
    if marks.factor > 1:
        if marks.factor not in (2, 4, 8):
            raise UserError(f"frames between can make 2, 4 or 8 times as many, not {marks.factor}")
        return "interpolate", {"factor": marks.factor, "slow": marks.slow}
    return "infill", {"missing": ranges(marks.wanted)}


def marks_of(kind: str, settings: dict[str, Any], frames: int) -> Marks:
    """The marks that show a request, as far as the strip can: the inverse of `request_of`."""
    if kind == "predict":
        number, backward = int(settings.get("frames") or 16), settings.get("direction") == "backward"
        return Marks(frames, before=number) if backward else Marks(frames, after=number)
    if kind == "loop":
        return Marks(frames, after=int(settings.get("frames") or 8), loop=True)
    if kind == "interpolate":
        return Marks(frames, factor=int(settings.get("factor") or 2), slow=bool(settings.get("slow")))
    if kind == "infill" and settings.get("missing"):
        return Marks(frames, wanted=tuple(sorted(parse_ranges(settings["missing"], frames))))
    return Marks(frames)


def ranges(places: Iterable[int]) -> str:
    """Places as `--missing` takes them: 3, 4, 5, 9 is "3:6,9"."""
    runs: list[list[int]] = []
    for place in sorted(places):
        if runs and place == runs[-1][1]:
            runs[-1][1] += 1
        else:
            runs.append([place, place + 1])
    return ",".join(f"{first}:{stop}" if stop > first + 1 else f"{first}" for first, stop in runs)


def cells(frames: int, most: int = MOST_CELLS) -> list[tuple[int, int]]:
    """(first, stop) of the frames each cell stands for: all frames, in at most `most` cells of nearly equal size."""
    number = min(frames, most)
    edges = [k * frames // number for k in range(number + 1)] if number else []
    return list(itertools.pairwise(edges))


def component(elem_id: str) -> gr.HTML:
    """The place of a strip; its input event brings `event.marks`."""
    heard = "element.addEventListener('vd-marked', (event) => trigger('input', {marks: event.detail}));"
    return gr.HTML(Html(""), elem_id=elem_id, js_on_load=heard, padding=False, apply_default_css=False)


def draw(
    thumbnails: Sequence[bytes],
    marks: Marks,
    locked: bool = False,
    label: Callable[[int], str] = str,
) -> Html:
    """The strip. thumbnails: a JPEG for each of `cells(marks.frames)`; locked: nothing can be marked."""
    wanted, spans = set(marks.wanted), cells(marks.frames)
    shown = []
    for number, ((first, stop), jpeg) in enumerate(zip(spans, thumbnails, strict=True)):
        new = any(place in wanted for place in range(first, stop))
        if number and marks.factor > 1 and len(spans) == marks.frames:
            shown.append(tag("span", marks.factor - 1, class_="vd-between", aria_hidden="true"))
        shown.append(
            tag(
                "button",
                picture(jpeg, "", draggable="false"),
                tag("span", label(first), class_="vd-number"),
                type="button",
                class_="vd-cell vd-wanted" if new else "vd-cell",
                data_first=first,
                data_stop=stop,
                aria_pressed="true" if new else "false",
                aria_label=f"{first}" if stop == first + 1 else f"{first} - {stop - 1}",
                tabindex=0 if number == 0 else -1,
            )
        )
    back = tag("span", "↻", class_="vd-slot vd-loop", aria_hidden="true") if marks.loop else None
    return tag(
        "div",
        tag("div", join(*_slots(marks.before), *shown, *_slots(marks.after), back), class_="vd-strip", role="group"),
        class_="vd-timeline" + (" vd-locked" if locked else ""),
        data_marks=marks.as_json(),
    )


def empty() -> Html:
    """What stands in the strip's place before there is a clip."""
    return tag("p", word("make.no_clip"), class_="vd-hint")


def _slots(number: int) -> list[Html]:
    """Empty cells for new frames, the last one with how many there are."""
    drawn = min(number, MOST_SLOTS)
    return [
        tag("span", f"+{number}" if k == drawn - 1 else None, class_="vd-slot", aria_hidden="true")
        for k in range(drawn)
    ]
