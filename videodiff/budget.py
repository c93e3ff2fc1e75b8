"""What filling a window takes, known before anything is opened: the app shows it, the pipeline refuses by it."""

from videodiff.errors import LimitExceeded, OutOfResources

MAX_WINDOW_PIXELS = 16_000_000
"""About 13 GB with the shipped networks."""
BYTES_A_PIXEL = 820
"""Memory of one evaluation for each pixel of a window, in float32 (docs/log.md)."""
GRADIENT_BYTES_A_PIXEL = 4500
"""The same where it is followed by a pass backward (measured: 4470 at 128x128)."""


def window_bytes(width: int, height: int, frames: int, average: int = 1, backward: bool = False) -> int:
    """Bytes of memory that filling such a window needs beside the network's own; see `goes_backward`.

    `average` samples of the window are filled at once.
    """
    return width * height * frames * average * (GRADIENT_BYTES_A_PIXEL if backward else BYTES_A_PIXEL)


def goes_backward(conditioning: str, method: str = "ddrm") -> bool:
    """Whether a request with these settings runs the network backward as well; `method` is that of `restore`."""
    return conditioning == "reconstruction" or method != "ddrm"


def check_window(width: int, height: int, frames: int, average: int, backward: bool, free: int | None) -> None:
    """Refuse a window that is too large for any machine, or for the `free` bytes of this one (None: nobody knows)."""
    what = f"a window of {width}x{height} with {frames} frames and --average {average}"
    pixels = width * height * frames * average
    if pixels > MAX_WINDOW_PIXELS:
        raise LimitExceeded(
            f"{what} is {pixels / 1e6:.0f} million pixels, the limit is {MAX_WINDOW_PIXELS / 1e6:.0f}; "
            "lower --size, --window or --average"
        )
    needed = window_bytes(width, height, frames, average, backward)
    if free is not None and needed > free:
        raise OutOfResources(
            f"{what} needs about {needed / 1e9:.1f} GB and {free / 1e9:.1f} GB are free; "
            "lower --size, --window or --average"
        )
