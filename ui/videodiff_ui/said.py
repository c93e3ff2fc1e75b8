"""What the pages for making clips say: of a clip, of marks and masks, of a run."""

from collections.abc import Mapping
from typing import Any

from videodiff.errors import UserError
from videodiff.jobs import DONE, RUNNING, WAITING, Job
from videodiff_ui import intake, timeline
from videodiff_ui.cards import lasting
from videodiff_ui.html import Html, join, message, tag, word

OTHERS = ("to", "guide", "reference", "mask")
"""The files of a request beside its input."""


def nothing_yet() -> Html:
    return tag("div", word("make.no_result"), class_="vd-empty")


def clip_facts(taken: intake.Taken) -> Html:
    seconds = taken.frames / float(taken.fps)
    line = f"{taken.path.name} · {taken.width}x{taken.height} · {float(taken.fps):g} fps · {taken.frames} "
    rows = [tag("p", line, word("make.frames"), f" · {seconds:.2f} s", class_="vd-source")]
    rows += [tag("p", message(note), class_="vd-hint") for note in taken.notes]
    if taken.former is not None:
        made = taken.former
        # A path in a file that came from anywhere is not read, only named.
        for name in OTHERS:
            if (path := getattr(made, name, None)) is not None:
                file = tag("bdi", path.name)
                rows.append(
                    tag("p", word(f"field.{name}"), ": ", file, " · ", word("make.give_again"), class_="vd-hint")
                )
        rows.append(
            tag(
                "details",
                tag("summary", word("make.made_with", kind=made.kind, seed=str(made.seed))),
                tag("pre", made.model_dump_json(indent=1, exclude_defaults=True)),
                class_="vd-former",
            )
        )
    return join(*rows)


def asked(marks: timeline.Marks) -> Html:
    """What the marks on the strip ask for, or why they cannot be asked for."""
    try:
        kind, settings = timeline.request_of(marks)
    except UserError as error:
        return tag("p", message(str(error)), class_="vd-hint")
    key = f"make.asks_{kind}" + ("_backward" if settings.get("direction") == "backward" else "")
    values = {name: str(settings[name]) for name in ("frames", "factor", "missing") if name in settings}
    return tag("p", word(key, **values), class_="vd-hint")


def mask_facts(keyframes: Mapping[int, Any]) -> Html:
    """Which frames have a mask of their own."""
    places = ", ".join(map(str, sorted(keyframes)))
    said = word("make.mask_frames", frames=places) if keyframes else word("make.mask_none")
    return tag("p", said, class_="vd-hint", data_keys=places)


def progress(jobs: list[Job], queue: list[Job], paused: str) -> Html:
    """How far the run is: a bar, words, what is ahead of it; or how it ended."""
    rows = []
    for job in jobs:
        if job.state == RUNNING:
            left = word("make.left", time=lasting(job.eta)) if job.eta is not None else None
            bar = tag("progress", max=max(job.total, 1), value=job.done if job.total else None)
            what = message(job.what) if job.what else word("make.starting")
            rows.append(tag("div", bar, tag("span", what, " ", left), class_="vd-line"))
        elif job.state == WAITING:
            ahead = [one.id for one in queue].index(job.id) if job.id in {one.id for one in queue} else 0
            why = message(paused) if paused else None
            rows.append(tag("p", word("make.waiting", ahead=ahead), " ", why, class_="vd-hint"))
        elif job.error:
            rows.append(tag("p", message(job.error), class_="vd-problem", role="alert"))
        elif job.state == DONE:
            took = (job.finished or 0) - (job.started or 0)
            rows.append(tag("p", word("make.done", time=lasting(took)), class_="vd-hint"))
            rows += [tag("p", message(note), class_="vd-hint") for note in job.notes]
        else:
            rows.append(tag("p", word(f"library.state_{job.state}"), class_="vd-hint"))
    return tag("div", *rows, aria_live="polite")


def variants(films: list[str]) -> Html:
    """Finished variants side by side, by the addresses of their films, numbered as they are chosen below."""
    cells = [
        tag(
            "figure",
            tag("video", src=film, muted=True, loop=True, playsinline=True, preload="auto"),
            tag("figcaption", str(number)),
            class_="vd-variant",
            data_key=film,
        )
        for number, film in enumerate(films, 1)
    ]
    return tag("div", *cells, class_="vd-variants")
