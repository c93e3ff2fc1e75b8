"""Pieces of markup that several pages share: buttons that speak with Python, tables, bars, jobs in a row.

A `panel` is a `gr.HTML` whose buttons (`button`) reach the handler of its `click` event with what is to be done and to
what: `event.act`, `event.key`. What only the browser can do, it does itself: `copy` puts a text on the clipboard.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime

import gradio as gr

from videodiff.jobs import Job
from videodiff_ui.html import Html, join, message, picture, tag, word

ACTIONS = """
element.addEventListener('click', (event) => {
  const button = event.target.closest('[data-act]');
  if (!button || button.disabled || button.getAttribute('aria-disabled') === 'true') return;
  if (button.dataset.act === 'copy') {
    navigator.clipboard.writeText(button.dataset.key);
    button.classList.add('vd-done');
    setTimeout(() => button.classList.remove('vd-done'), 1500);
  } else trigger('click', {act: button.dataset.act, key: button.dataset.key || ''});
});
"""


def panel(elem_id: str, value: Html | None = None) -> gr.HTML:
    """A place for markup whose buttons are heard."""
    return gr.HTML(
        value or Html(""), elem_id=elem_id, js_on_load=ACTIONS, apply_default_css=False, elem_classes="vd-panel"
    )


def button(act: str, key: object, label: Html, about: str = "", **attributes: str | bool | None) -> Html:
    """A button that says `act` and `key` to the panel's handler; `about`, unseen, tells apart buttons of one label."""
    unseen = tag("span", " ", about, class_="vd-unseen") if about else None
    attributes = {"class_": "vd-act", **attributes}
    return tag("button", label, unseen, type="button", data_act=act, data_key=str(key), **attributes)


def notice(*children: Html | str, kind: str = "note") -> Html:
    """A line the reader should see, its strings messages of the library; kinds are note and error."""
    said = [child if isinstance(child, Html) else message(child) for child in children]
    return tag("div", *said, class_=f"vd-notice vd-notice-{kind}", role="alert" if kind == "error" else "status")


def table(head: Sequence[Html | str], rows: Iterable[Sequence[Html | str]], caption: Html | str | None = None) -> Html:
    """A table in a box that scrolls sideways by itself where the screen is narrow; the first column names the row."""
    body = [
        tag("tr", *(tag("td" if i else "th", cell, scope=None if i else "row") for i, cell in enumerate(row)))
        for row in rows
    ]
    top = tag("thead", tag("tr", *(tag("th", cell, scope="col") for cell in head))) if head else None
    said = tag("caption", caption) if caption else None
    return tag("div", tag("table", said, top, tag("tbody", *body)), class_="vd-table", tabindex="0", role="group")


def facts(rows: Iterable[tuple[Html | str, Html | str]]) -> Html:
    """Names and values beneath each other."""
    return tag("dl", *(join(tag("dt", name), tag("dd", value)) for name, value in rows), class_="vd-facts")


def bar(done: int, total: int) -> Html:
    """How far something is."""
    return (
        tag("progress", value=done, max=max(total, 1), class_="vd-bar") if total else tag("progress", class_="vd-bar")
    )


def state(job: Job) -> Html:
    """The state of a job as a small label."""
    return tag("span", word(f"library.state_{job.state}"), class_=f"vd-state vd-state-{job.state}")


def thumbnail(job: Job, live: bytes | None = None) -> Html:
    """The picture of a job: the last preview of a running one, that of its result, or an empty place."""
    jpeg = live or (job.thumbnail.read_bytes() if job.thumbnail else None)
    return (
        picture(jpeg, "", class_="vd-thumb", loading="lazy")
        if jpeg
        else tag("span", word(f"kind.{job.kind}"), class_="vd-thumb")
    )


def when(seconds: float | None) -> Html:
    """A moment, to the minute, by the clock of this machine."""
    if seconds is None:
        return Html("")
    moment = datetime.fromtimestamp(seconds)
    return tag("time", moment.strftime("%Y-%m-%d %H:%M"), datetime=moment.isoformat(timespec="seconds"))


def size(count: int) -> str:
    """Bytes in the unit that fits."""
    for unit, one in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if count >= one:
            return f"{count / one:.1f} {unit}"
    return f"{count} B"


def lasting(seconds: float) -> str:
    """A length of time: 42 s, 3:05 min, 2:07 h."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    return f"{whole // 60}:{whole % 60:02d} min" if whole < 3600 else f"{whole // 3600}:{whole % 3600 // 60:02d} h"
