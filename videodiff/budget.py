"""What filling a window takes, known before anything is opened: the app shows it, the pipeline refuses by it."""

MAX_WINDOW_PIXELS = 16_000_000
"""About 13 GB with the shipped networks."""
BYTES_A_PIXEL = 820
"""Memory of one evaluation for each pixel of a window, in float32 (docs/log.md)."""
GRADIENT_BYTES_A_PIXEL = 4500
"""The same where it is followed by a pass backward (measured: 4470 at 128x128)."""


def window_pixels(width: int, height: int, frames: int, average: int = 1) -> int:
    """Pixels of a window of `frames` frames, `average` of which are filled at once; at most MAX_WINDOW_PIXELS."""
    return width * height * frames * average


def window_bytes(width: int, height: int, frames: int, average: int = 1, backward: bool = False) -> int:
    """Bytes of memory that filling such a window needs beside the network's own; see `goes_backward`."""
    return window_pixels(width, height, frames, average) * (GRADIENT_BYTES_A_PIXEL if backward else BYTES_A_PIXEL)


def goes_backward(conditioning: str, method: str = "ddrm") -> bool:
    """Whether a request with these settings runs the network backward as well; `method` is that of `restore`."""
    return conditioning == "reconstruction" or method != "ddrm"
