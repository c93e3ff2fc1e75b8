"""A frame with a mask over it that is painted by hand, and the mask a browser sends back.

static/painter.js paints on a bitmap of the mask's own pixels. After every stroke it says to the input event of the
component which frame the mask is for, its size, and its pixels: "12 24x32 AAf/...", with eight pixels a byte, row by
row, in base64.
"""

import re
import secrets
from base64 import b64decode, b64encode

import gradio as gr
import numpy as np

from videodiff import video
from videodiff.errors import UserError
from videodiff_ui.html import Html, picture, tag, word

_PAINTED = re.compile(r"(\d{1,9}) (\d{1,6})x(\d{1,6}) ([A-Za-z0-9+/]+={0,2})", re.ASCII)


def component(elem_id: str) -> gr.HTML:
    """The place of a painter; its input event brings `event.painted`."""
    heard = "element.addEventListener('vd-painted', (event) => trigger('input', {painted: event.detail}));"
    return gr.HTML(Html(""), elem_id=elem_id, js_on_load=heard, padding=False, apply_default_css=False)


def parse(text: str, frames: int, size: tuple[int, int]) -> tuple[int, np.ndarray]:
    """(frame, bool [h w]) of what a browser sent, for a clip of so many frames and masks of this size (h, w).

    It is read as a stranger's: UserError for anything but a mask of exactly this size.
    """
    packed = -(-size[0] * size[1] // 8)
    found = _PAINTED.fullmatch(text) if len(text) <= 32 + 4 * -(-packed // 3) else None
    if found is None or len(found[4]) != 4 * -(-packed // 3):
        raise UserError("what was painted does not fit this clip; choose the frame again, then paint")
    place, given = int(found[1]), (int(found[2]), int(found[3]))
    bits = b64decode(found[4])
    if not place < frames or given != size or len(bits) != packed:
        raise UserError(
            f"a mask of {given[1]}x{given[0]} was painted on frame {place}, but the clip has {frames} frames, "
            f"with masks of {size[1]}x{size[0]}; choose the frame again, then paint"
        )
    pixels = np.unpackbits(np.frombuffer(bits, np.uint8), count=size[0] * size[1])
    return place, pixels.reshape(size).astype(bool)


def pack(mask: np.ndarray) -> str:
    """The pixels of a mask bool [h w] as the browser reads and writes them."""
    return b64encode(np.packbits(mask).tobytes()).decode()


def draw(frame: np.ndarray, mask: np.ndarray, place: int) -> Html:
    """The painter on a frame uint8 [h w 3] of a clip, with its mask bool [h w] over it."""
    height, width = mask.shape
    most = max(4, min(height, width) // 2)
    value = max(2, most // 6)
    brush = tag("input", type="range", min=1, max=most, value=value, class_="vd-brush", data_title="make.brush_size")
    return tag(
        "figure",
        tag("figcaption", word("make.paint"), class_="vd-hint"),
        tag(
            "div",
            picture(video.jpeg(frame, quality=90), "", draggable="false"),
            tag("canvas", width=width, height=height, tabindex=0, role="img", data_title="make.paint"),
            class_="vd-paper",
            style=f"--vd-aspect: {width / height:.6f}",
        ),
        tag(
            "div",
            tag("label", word("make.brush"), brush, tag("output")),
            tag(
                "button",
                word("make.eraser"),
                type="button",
                class_="vd-eraser",
                aria_pressed="false",
                data_title="make.eraser_key",
            ),
            tag("button", word("make.clear"), type="button", class_="vd-clear"),
            class_="vd-tools",
        ),
        class_="vd-painter",
        data_place=place,
        data_mask=pack(mask),
        data_drawn=secrets.token_hex(4),  # a drawing that is equal to the last one still takes back what was painted
    )
