"""How frames become bytes on a disk: one encoder of FFmpeg for each kind of film, and folders of PNG pictures.

Both take frames uint8 [h w 3] by `add`, are completed by `finish` and let go by `abandon`, which always comes last.
FFmpeg writes through a Python file object, so that a full disk is an exception here and can be rehearsed.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from videodiff.video.metadata import readable

Opener = Callable[..., BinaryIO]
BT709, LIMITED = 1, 1
"""FFmpeg's numbers for the matrix, primaries and transfer of BT.709, and for the range 16-235."""


@dataclass(frozen=True)
class Encoding:
    """Container, encoder and pixel format in FFmpeg's words; options of the encoder, flags of the container."""

    container: str
    codec: str
    pixels: str
    options: dict[str, str]
    flags: dict[str, str] = field(default_factory=dict)


INDEX_IN_FRONT = {"movflags": "use_metadata_tags+faststart"}
NO_RANDOM_NAME = {"fflags": "+bitexact"}
"""Matroska draws a name for each file; without it the same frames make the same file."""
H264 = {"crf": "12", "g": "48", "mbtree": "0"}
"""x264's macroblock tree reads memory nobody wrote where there are B-frames: without it the same frames make the same
file, of the same quality at 18 % more bytes."""
VP9 = {"crf": "16", "b": "0", "deadline": "good", "cpu-used": "4", "row-mt": "1"}
ENCODINGS = {
    ".mp4": Encoding("mp4", "libx264", "yuv420p", H264, INDEX_IN_FRONT),
    ".webm": Encoding("webm", "libvpx-vp9", "yuv420p", VP9, NO_RANDOM_NAME),
    ".gif": Encoding("gif", "gif", "pal8", {}),
    ".mkv": Encoding("matroska", "ffv1", "bgr0", {"level": "3"}, NO_RANDOM_NAME),  # lossless: RGB kept bit by bit
}


class Film:
    """Writes one video file; `notes` says what did not fit the format."""

    def __init__(
        self, path: Path, encoding: Encoding, height: int, width: int, fps: Fraction, text: str | None, opener: Opener
    ):
        import av

        self.notes: list[str] = []
        if encoding.container == "gif" and fps > 50:
            self.notes.append(f"GIF shows at most 50 frames a second; at {float(fps):g} it plays slower than it should")
            fps = Fraction(50)
        self.encoding, self.text, self.place, self.time_base = encoding, text, 0, 1 / fps
        self.odd = (height % 2, width % 2) if encoding.pixels == "yuv420p" else (0, 0)
        if any(self.odd):
            self.notes.append(f"{width}x{height} has an odd side: the last row or column was repeated to make it even")

        self.file = Watched(opener(path, "w+b", buffering=0))
        self.output = av.open(
            self.file,
            "w",
            format=encoding.container,
            options=encoding.flags,
            io_open=lambda url, flags, options: opener(path, "rb"),  # to put the index in front it reads what it wrote
        )
        if text is not None:
            self.output.metadata.update(videodiff=text, comment=readable(text))
        stream: Any = self.output.add_stream(encoding.codec, rate=fps, options=encoding.options)
        stream.height, stream.width, stream.pix_fmt = height + self.odd[0], width + self.odd[1], encoding.pixels
        if encoding.pixels == "yuv420p":  # say what the colours mean, so that every player agrees
            context = stream.codec_context
            context.colorspace = context.color_primaries = context.color_trc = BT709
            context.color_range = LIMITED
        self.stream = stream

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 [h w 3]."""
        if any(self.odd):
            frame = np.pad(frame, ((0, self.odd[0]), (0, self.odd[1]), (0, 0)), mode="edge")
        picture = _converted(frame, self.encoding.pixels)
        picture.pts, picture.time_base = self.place, self.time_base
        self.place += 1
        self._mux(picture)

    def _mux(self, picture: Any) -> None:
        try:
            for packet in self.stream.encode(picture):
                self.output.mux(packet)
        finally:  # the disk's error is the reason of whatever FFmpeg makes of it
            self.file.check()

    def finish(self) -> None:
        """Completes the file and waits until the disk has it."""
        self._mux(None)
        try:
            self.output.close()
        finally:
            self.file.check()
        if self.encoding.container == "gif" and self.text is not None:
            self._comment(b"videodiff " + self.text.encode())
        self.file.check()
        os.fsync(self.file.file.fileno())

    def _comment(self, text: bytes) -> None:
        """FFmpeg writes no comments into GIF: a comment takes the place of the trailer, which comes again after it."""
        blocks = b"".join(bytes([len(b)]) + b for b in (text[i : i + 255] for i in range(0, len(text), 255)))
        self.file.seek(-1, os.SEEK_END)
        self.file.write(b"\x21\xfe" + blocks + b"\0;")

    def abandon(self) -> None:
        """Lets go of the file."""
        self.file.deaf = True  # FFmpeg may write a trailer while it closes; nobody wants it
        with suppress(OSError):  # what was wrong was raised before
            self.output.close()
        self.file.file.close()


def _converted(frame: np.ndarray, pixels: str) -> Any:
    """The frame in the pixel format of the encoder; a GIF frame gets the 256 colours that suit it best."""
    import av
    from av.video.reformatter import Interpolation
    from PIL import Image

    if pixels == "pal8":
        picture = Image.fromarray(frame).quantize(256, method=Image.Quantize.MEDIANCUT, dither=Image.Dither.NONE)
        colours = np.asarray(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
        palette = np.full((256, 4), 255, np.uint8)  # alpha first
        palette[: len(colours), 1:] = colours
        pair: Any = np.asarray(picture), palette
        return av.VideoFrame.from_ndarray(pair, "pal8")
    film = av.VideoFrame.from_ndarray(frame, "rgb24")
    if pixels == "bgr0":
        return film.reformat(format=pixels, threads=1)
    exact = Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP
    return film.reformat(format=pixels, dst_colorspace=BT709, dst_color_range=LIMITED, interpolation=exact, threads=1)


class Folder:
    """Writes PNG pictures 00000.png, 00001.png, ...; the metadata is a text chunk of the first."""

    def __init__(self, path: Path, text: str | None, opener: Opener):
        self.path, self.text, self.opener, self.place = path, text, opener, 0
        path.mkdir()

    def add(self, frame: np.ndarray) -> None:
        """Appends a frame, uint8 [h w 3]."""
        import imageio.v3 as iio
        from PIL.PngImagePlugin import PngInfo  # how imageio takes text

        chunks = PngInfo()
        if self.place == 0 and self.text is not None:
            chunks.add_itxt("videodiff", self.text)
        data = iio.imwrite("<bytes>", frame, extension=".png", plugin="pillow", pnginfo=chunks)
        with self.opener(self.path / f"{self.place:05d}.png", "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        self.place += 1

    def finish(self) -> None:
        """Every picture is complete already."""

    def abandon(self) -> None:
        """Nothing is open between pictures."""


class Watched:
    """The file under FFmpeg. It keeps the first error of the disk, which would get lost on its way through C."""

    def __init__(self, file: BinaryIO):
        self.file, self.deaf = file, False
        self.error: OSError | None = None

    def write(self, data: bytes) -> int:
        """All of the data, or none once something went wrong."""
        view = memoryview(data)
        try:
            while len(view) and not self.deaf and not self.error:
                view = view[self.file.write(view) :]  # an unbuffered file may take less than it is given
        except OSError as error:
            self.error = error
        return len(data)

    def seek(self, offset: int, whence: int = 0) -> int:
        return self.file.seek(offset, whence)

    def tell(self) -> int:
        return self.file.tell()

    def check(self) -> None:
        """Raises the error that the disk gave, if any."""
        if self.error:
            raise self.error
