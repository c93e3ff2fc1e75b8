"""What passes between the parts of the reader: clips, facts about them, limits, requests. No codec is imported here."""

from dataclasses import asdict, dataclass, field
from fractions import Fraction
from typing import Any

import numpy as np

VIDEO = (".mp4", ".mov", ".m4v", ".mkv", ".webm", ".avi", ".mpg", ".mpeg", ".3gp", ".ts", ".ogv", ".flv")
PICTURES = (".gif", ".webp", ".apng", ".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff")
DEFAULT_FPS = Fraction(10)
"""The rate of pictures that carry no times: a folder, a single picture (chosen, not tuned)."""

INTERLACED = "interlaced: the fields were joined into whole frames"
"""A note, and a sign to `Index` that a frame depends on its neighbours."""


@dataclass(frozen=True)
class Limits:
    """How much a file may ask for. Checked against its header before decoding, and counted while decoding.

    max_side: pixels; max_pixels: pixels of one frame; max_frames: frames decoded; max_seconds: seconds of clip decoded;
    max_bytes: bytes of all frames kept, after resizing; max_wall_seconds: time on the clock spent decoding.
    """

    max_side: int = 8192
    max_pixels: int = 2**25
    max_frames: int = 36_000
    max_seconds: float = 600.0
    max_bytes: int = 2 * 2**30
    max_wall_seconds: float = 120.0


@dataclass(frozen=True)
class ClipInfo:
    """What a file says of itself. Width and height are those of the upright picture, after its rotation.

    rotation: degrees counter-clockwise by which the stored picture is turned for display; pixel_aspect: width of a
    pixel over its height; fps: average rate; num_frames and duration (seconds): None where the file does not tell.
    """

    container: str
    codec: str
    pix_fmt: str
    width: int
    height: int
    fps: Fraction
    num_frames: int | None = None
    duration: float | None = None
    rotation: int = 0
    pixel_aspect: Fraction = Fraction(1)
    has_audio: bool = False
    has_alpha: bool = False


@dataclass(frozen=True)
class Clip:
    """Frames uint8 [t h w 3] RGB, their times in seconds from the beginning of the file, and how they came about.

    fps: the rate of `frames`, after `fps` and `stride`; notes: what the user should know, such as damage.
    """

    frames: np.ndarray
    fps: Fraction
    times: tuple[float, ...]
    info: ClipInfo
    notes: tuple[str, ...] = ()
    source: str = ""


@dataclass(frozen=True)
class Frame:
    """One picture, uint8 [h w 3] RGB, shown at `time` seconds."""

    pixels: np.ndarray
    time: float


@dataclass(frozen=True)
class Table:
    """When each frame of a file is shown, in order of showing, and where decoding can begin.

    pts: time stamps in units of `time_base` seconds; keys: time stamps of key frames, ascending. Empty keys: the file
    can only be decoded from its beginning.
    """

    pts: tuple[int, ...]
    keys: tuple[int, ...]
    time_base: Fraction


@dataclass(frozen=True)
class Request:
    """What to decode: one job for the decoder, plain enough to be sent to the child process as JSON.

    what: 'probe', 'frames', 'table' or 'metadata'. The other fields are those of `videodiff.video.read`; `span` is
    (time stamp to seek to or None, wanted time stamps or None for places, first, count), made by `Index`.
    """

    path: str
    what: str = "frames"
    start: float | None = None
    end: float | None = None
    fps: Fraction | None = None
    stride: int = 1
    num_frames: int | None = None
    last: int | None = None
    crop: tuple[int, int, int, int] | None = None
    size: tuple[int, int] | None = None
    short_side: int | None = None
    multiple: int = 1
    fit: str = "fit"
    span: tuple[int | None, tuple[int, ...] | None, int, int] | None = None
    keep: bool = True
    limits: Limits = field(default_factory=Limits)


_SHAPES: dict[str, Any] = {"Limits": Limits, "ClipInfo": ClipInfo, "Table": Table, "Request": Request}


def to_plain(value: Any) -> dict[str, Any]:
    """A shape as JSON-ready values; `from_plain` turns it back."""
    plain = {k: str(v) if isinstance(v, Fraction) else v for k, v in asdict(value).items()}
    return {"shape": type(value).__name__, **plain}


def from_plain(plain: dict[str, Any]) -> Any:
    """The shape that `to_plain` made; fields are converted to their types, so a wrong type raises ValueError."""
    shape = _SHAPES[plain["shape"]]
    values = {k: v for k, v in plain.items() if k != "shape"}
    if shape is Request:
        values["limits"] = Limits(**values["limits"])
        values["crop"] = values["crop"] and tuple(values["crop"])
        values["size"] = values["size"] and tuple(values["size"])
        if values["span"]:
            seek, pts, first, count = values["span"]
            values["span"] = (seek, pts and tuple(pts), first, count)
    if shape is Table:
        values["pts"], values["keys"] = (tuple(int(n) for n in values[k]) for k in ("pts", "keys"))
    for name in ("fps", "pixel_aspect", "time_base"):
        if values.get(name) is not None:
            values[name] = Fraction(values[name])
    return shape(**values)
