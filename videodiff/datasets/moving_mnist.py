"""Stochastic Moving MNIST: handwritten digits that drift over black and leave every wall in a new direction.

The rule is that of SVG (Denton & Fergus 2018, arXiv 1802.07687), which MCVD (arXiv 2205.09853) trains and tests on:
two digits of 32 px on 64 px, speeds of -4..4 whole pixels per axis; at a wall the component across it is redrawn
pointing inward (1..4 px) and the other one redrawn from -4..4; digits add and are clipped at white. Call `load_images`
once, then `MovingMNIST(images)` to train and `test_clip(images, i, t)` for clip i of the evaluation protocol.
"""

import gzip
import hashlib
import os
import struct
import urllib.request
import zlib
from pathlib import Path

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodiff.datasets.source import frame_index
from videodiff.errors import UnreadableInput, UserError

SIDE, DIGIT, MAX_SPEED, NUM_DIGITS = 64, 32, 4, 2  # pixels, pixels, pixels per frame, digits (SVG)

FILES = {  # the two image files of MNIST and the md5 of each
    "train": ("train-images-idx3-ubyte.gz", "f68b3c2dcbeaaa9fbdd348bbdeb94873"),
    "test": ("t10k-images-idx3-ubyte.gz", "9fb629c4189551a2d022fa330f9573f3"),
}
MIRROR = "https://ossci-datasets.s3.amazonaws.com/mnist/"


class MovingMNIST:
    """Endless clips of drifting digits, one channel; any frame size that holds a digit, which scales with it."""

    channels = 1

    def __init__(self, images: Tensor, num_digits: int = NUM_DIGITS, deterministic: bool = False, spaced: float = 0.0):
        assert images.ndim == 3, images.shape
        assert images.dtype == torch.uint8, images.dtype
        self.images = images
        self.num_digits = num_digits
        self.deterministic = deterministic  # walls mirror the velocity instead of redrawing it
        self.spaced = spaced

    def batch(
        self,
        generator: torch.Generator,
        b: int,
        t: int,
        size: tuple[int, int] = (SIDE, SIDE),
        index: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Frames float32 [b t 1 h w] in [-1, 1] and index long [b t] (see `Source`)."""
        index = frame_index(generator, b, t, self.spaced, index)
        self.images = self.images.to(generator.device)
        frames = digits_clip(self.images, generator, index, size, self.num_digits, self.deterministic)
        return frames, index


def test_clip(images: Tensor, i: int, t: int) -> Tensor:
    """Clip i of the evaluation protocol, float32 [t 1 64 64] in [-1, 1]: the same on every machine and in any order."""
    generator = torch.Generator().manual_seed(i)
    index = torch.arange(t)[None]
    return digits_clip(images.cpu(), generator, index, (SIDE, SIDE))[0]


def digits_clip(
    images: Tensor,
    generator: torch.Generator,
    index: Tensor,
    size: tuple[int, int],
    num_digits: int = NUM_DIGITS,
    deterministic: bool = False,
) -> Tensor:
    """Frames [b t 1 h w] in [-1, 1] of `num_digits` random digits at the places `index` [b t]."""
    b = len(index)
    digit = min(size) * DIGIT // SIDE
    chosen = torch.randint(len(images), (b, num_digits), generator=generator, device=generator.device)
    glyphs = images[chosen].float() / 255  # b n 28 28
    glyphs = F.interpolate(glyphs, (digit, digit), mode="bilinear", align_corners=False)
    room = torch.tensor([size[0] - digit, size[1] - digit], device=generator.device)
    path = wander(generator, b, num_digits, int(index.max()) + 1, room, deterministic)  # b time n 2
    corner = path.gather(1, index[:, :, None, None].expand(-1, -1, num_digits, 2))  # b t n 2
    light = place(glyphs, corner, size).clamp(max=1)  # b t h w
    return rearrange(light, "b t h w -> b t 1 h w") * 2 - 1


def wander(generator: torch.Generator, b: int, n: int, t: int, room: Tensor, deterministic: bool = False) -> Tensor:
    """Top left corners [b t n 2] (y, x) of digits with `room` [2] pixels to move in, each in [0, room).

    The draws of one moment never depend on how many moments follow, so a longer path begins like a shorter one.
    """

    def draw(low: int, high: int) -> Tensor:
        return torch.randint(low, high + 1, (b, n, 2), generator=generator, device=generator.device)

    last = (room - 1).clamp(min=0)
    position = (torch.rand(b, n, 2, generator=generator, device=generator.device) * room).long().clamp(max=last)
    velocity = draw(-MAX_SPEED, MAX_SPEED)
    path = []
    for _ in range(t):
        low, high = position < 0, position > last  # b n 2
        position = position.clamp(min=torch.zeros_like(last), max=last)
        if deterministic:
            velocity = torch.where(low | high, -velocity, velocity)
        else:
            # The vertical wall test comes first, so in a corner the horizontal one has the last word, as in SVG.
            inward, sideways = draw(1, MAX_SPEED), draw(-MAX_SPEED, MAX_SPEED)
            inward = torch.where(high, -inward, inward)
            for axis in (0, 1):
                hit = (low | high)[..., axis]
                velocity[..., axis] = torch.where(hit, inward[..., axis], velocity[..., axis])
                velocity[..., 1 - axis] = torch.where(hit, sideways[..., 1 - axis], velocity[..., 1 - axis])
        path.append(position)
        position = position + velocity
    return torch.stack(path, 1)


def place(glyphs: Tensor, corner: Tensor, size: tuple[int, int]) -> Tensor:
    """Sum [b t h w] of the pictures `glyphs` [b n k k], each with its top left at `corner` [b t n 2] (y, x)."""
    b, n, k, _ = glyphs.shape
    t = corner.shape[1]
    (h, w), span = size, torch.arange(k, device=glyphs.device)
    rows = corner[..., 0, None] + span  # b t n k
    columns = corner[..., 1, None] + span
    where = rearrange(rows, "b t n k -> b t n k 1") * w + rearrange(columns, "b t n k -> b t n 1 k")
    value = rearrange(glyphs, "b n i j -> b 1 n i j").expand(b, t, n, k, k)
    frames = torch.zeros(b, t, h * w, device=glyphs.device)
    for layer in range(n):  # one digit at a time: within a digit no pixel is written twice, so the sum is exact
        frames.scatter_add_(2, where[:, :, layer].flatten(2), value[:, :, layer].flatten(2))
    return frames.view(b, t, h, w)


def load_images(folder: Path | str, split: str = "train") -> Tensor:
    """The digits of MNIST, uint8 [n 28 28], from the folder that holds its idx files."""
    name, md5 = FILES[split]
    path = Path(folder) / name
    if not path.is_file():
        raise UserError(f"no MNIST images at {path}; put {MIRROR}{name} there (CC BY-SA 3.0, 10 MB)")
    if hashlib.md5(path.read_bytes()).hexdigest() != md5:
        raise UnreadableInput(f"{path} is not the MNIST file (md5 differs from {md5}); fetch {MIRROR}{name} again")
    return load_idx(path)


def fetch_images(folder: Path | str, mirror: str = MIRROR) -> None:
    """Fetch what is missing of MNIST's two image files into a folder, checked against their md5."""
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    for name, md5 in FILES.values():
        if (folder / name).is_file():
            continue
        try:
            with urllib.request.urlopen(mirror + name, timeout=60) as answer:
                data = answer.read()
        except OSError as error:
            raise UserError(
                f"{mirror}{name} cannot be fetched ({error}); put the file into {folder} yourself"
            ) from error
        if hashlib.md5(data).hexdigest() != md5:
            raise UnreadableInput(
                f"what {mirror}{name} gives is not the MNIST file; put the file into {folder} yourself"
            )
        part = folder / f".{name}.part"
        part.write_bytes(data)
        os.replace(part, folder / name)


def load_idx(path: Path | str) -> Tensor:
    """The array in an idx file, plain or gzipped: uint8, shape as its header says ([n 28 28] for MNIST images)."""
    path = Path(path)
    if not path.is_file():
        raise UserError(f"no idx file at {path}; MNIST's are at {MIRROR}")
    try:
        raw = path.read_bytes()
        raw = gzip.decompress(raw) if raw[:2] == b"\x1f\x8b" else raw
        zero, kind, ndim = struct.unpack(">HBB", raw[:4])
        shape = struct.unpack(f">{ndim}I", raw[4 : 4 + 4 * ndim])
    except (OSError, EOFError, struct.error, zlib.error) as error:
        raise UnreadableInput(f"{path} is damaged ({error}); fetch it again from {MIRROR}") from error
    data = torch.frombuffer(bytearray(raw), dtype=torch.uint8)[4 + 4 * ndim :]
    if zero != 0 or kind != 8 or data.numel() != torch.Size(shape).numel():
        raise UnreadableInput(f"{path} is not an idx file of bytes, or is cut short; fetch it again from {MIRROR}")
    return data.view(shape).clone()
