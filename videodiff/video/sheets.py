"""Pictures of clips: contact sheets and preview strips, and the one way arrays are resized."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from videodiff.errors import UserError
from videodiff.video.geometry import place


def resize(frames: np.ndarray, size: tuple[int, int], fit: str = "crop") -> np.ndarray:
    """Frames uint8 [t h w 3] at size (h, w), the aspect ratio kept: 'crop', 'pad', or 'fit' (then maybe smaller)."""
    from videodiff.video.pictures import scaled

    assert frames.dtype == np.uint8, frames.dtype
    placement = place(frames.shape[1], frames.shape[2], size, fit=fit)
    return np.stack([placement.apply(scaled(frame, *placement.scaled)) for frame in frames])


def contact_sheet(frames: np.ndarray, columns: int, labels: Sequence[str] | None = None, path: Any = None) -> bytes:
    """A PNG of frames uint8 [t h w c] in rows of `columns`, a label under each if given; also written to `path`."""
    from PIL import Image, ImageDraw

    if columns < 1 or not len(frames):
        raise UserError(f"a sheet of {len(frames)} frames in {columns} columns is empty; give at least one of each")
    t, h, w = frames.shape[:3]
    gap, text = 2, 12 if labels else 0
    columns = min(columns, t)
    rows = -(-t // columns)
    sheet = Image.new("RGB", (columns * (w + gap) + gap, rows * (h + text + gap) + gap), "white")
    draw = ImageDraw.Draw(sheet)
    for number, frame in enumerate(frames):
        x, y = gap + number % columns * (w + gap), gap + number // columns * (h + text + gap)
        sheet.paste(Image.fromarray(_rgb(frame)), (x, y))
        if labels and number < len(labels):
            draw.text((x, y + h), labels[number], fill="black")
    data = _encoded(np.asarray(sheet), ".png")
    if path is not None:
        with open(path, "wb") as file:
            file.write(data)
    return data


def jpeg(frames: np.ndarray, quality: int = 80, max_frames: int = 8) -> bytes:
    """A JPEG strip of at most `max_frames` evenly spaced frames uint8 [t h w c], or of one frame [h w c]: a preview."""
    frames = frames[None] if frames.ndim == 3 else frames
    shown = frames[np.linspace(0, len(frames) - 1, min(len(frames), max_frames)).round().astype(int)]
    return _encoded(_rgb(np.concatenate(list(shown), axis=1)), ".jpg", quality=quality)


def _rgb(frame: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(np.broadcast_to(frame, (*frame.shape[:2], 3)))


def _encoded(pixels: np.ndarray, extension: str, **options: Any) -> bytes:
    import imageio.v3 as iio

    return iio.imwrite("<bytes>", pixels, extension=extension, plugin="pillow", **options)
