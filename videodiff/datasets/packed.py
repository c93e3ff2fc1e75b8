"""Clips from a packed cache, the fast way to train on a folder of videos: no decoding, no video library.

The cache (made by `videodiff.datasets.folder.pack`) is a folder of two files: `frames.u8`, the bytes of all frames one
after the other, and `index.json`, which says where each clip lies: file, offset (bytes), t, h, w, c, fps, stride.
"""

import copy
import hashlib
import json
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodiff.datasets.source import frame_index
from videodiff.errors import UnreadableInput, UserError

STRIDES = (1, 2, 3)
LUMA = (0.299, 0.587, 0.114)  # Rec. 601
ONE_IN = 10  # clips of which one is kept out of training (chosen, not tuned)


class Packed:
    """Random windows of packed clips: clips drawn by length, then stride, start, crop and mirror image.

    strides: steps in cache frames of which each clip draws one, or None for the one the packer suggests by its frame
    rate. A clip too short for the step drawn takes the largest one that fits; clips too short for the window at step 1
    are left out (`too_short` counts them). Windows are shown forwards only. A clip smaller than the frame is enlarged
    to cover it; of a larger one a random piece is cut. `spaced` as in `frame_index`.

    Unlike in made-up sources the window has to fit into the clip, so batches from one generator state show the same
    moments only where their indices span the same time.
    """

    def __init__(
        self,
        path: Path | str,
        channels: int = 3,
        strides: tuple[int, ...] | None = STRIDES,
        flip: bool = True,
        spaced: float = 0.0,
    ):
        assert channels in (1, 3), channels
        self.path, self.channels, self.flip, self.spaced = Path(path), channels, flip, spaced
        self.clips = read_index(self.path)
        self.bytes = np.memmap(self.path / "frames.u8", dtype=np.uint8, mode="r")
        self.lengths = torch.tensor([clip["t"] for clip in self.clips])
        choices = [list(strides) if strides else [clip["stride"]] for clip in self.clips]
        self.strides = torch.tensor(choices)  # n s

    def too_short(self, span: int) -> int:
        """How many clips have fewer than `span` frames and are left out of windows that long."""
        return int((self.lengths < span).sum())

    def split(self, span: int) -> tuple["Packed", "Packed"]:
        """A set to train on and one to measure on: a tenth of the clips, or all in both where there are fewer than ten.

        Only clips of `span` frames or more count and are kept out; they are shown with even gaps. The longest one is
        trained on, as the widest of uneven gaps may fit no other. Which ones go is the order of their names after a
        hash: it does not change with how a folder is listed, little with clips that are added, and takes no notice of
        how names are numbered.
        """
        order = sorted(range(len(self.clips)), key=lambda k: hashlib.blake2b(self.clips[k]["file"].encode()).digest())
        long = [k for k in order if self.clips[k]["t"] >= span]
        if len(long) < ONE_IN:
            return self, self
        long.remove(max(long, key=lambda k: self.clips[k]["t"]))
        out = set(long[: (len(long) + 1) // ONE_IN])
        unseen = self._only(sorted(out))
        unseen.spaced = 0.0
        return self._only([k for k in range(len(self.clips)) if k not in out]), unseen

    def _only(self, some: list[int]) -> "Packed":
        """The set with these clips alone."""
        part = copy.copy(self)
        part.clips = [self.clips[k] for k in some]
        part.lengths, part.strides = self.lengths[some], self.strides[some]
        return part

    def batch(
        self, generator: torch.Generator, b: int, t: int, size: tuple[int, int], index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames float32 [b t c h w] in [-1, 1] and index long [b t] (see `Source`)."""
        index = frame_index(generator, b, t, self.spaced, index)
        shift = (index - index[:, :1]).cpu()  # b t, from the first frame of the window
        which, stride, start, luck = self.draw(generator, shift[:, -1])
        out = np.empty((b, t, *size, self.channels), np.uint8)
        for k in range(b):
            places = (start[k] + stride[k] * shift[k]).numpy()
            out[k] = recolour(cut(self.frames(which[k])[places], size, luck[k]), self.channels)
        frames = torch.from_numpy(out).to(generator.device)
        frames = rearrange(frames, "b t h w c -> b t c h w").float() / 127.5 - 1
        if self.flip:
            mirrored = torch.tensor([x[2] < 0.5 for x in luck], device=generator.device)
            frames = torch.where(mirrored[:, None, None, None, None], frames.flip(-1), frames)
        return frames.contiguous(), index

    def frames(self, k: int) -> np.ndarray:
        """All frames of clip k, uint8 [t h w c], a view of the file."""
        clip = self.clips[k]
        shape = clip["t"], clip["h"], clip["w"], clip["c"]
        return self.bytes[clip["offset"] :][: int(np.prod(shape))].reshape(shape)

    def draw(self, generator: torch.Generator, reach: Tensor) -> tuple[list[int], Tensor, Tensor, list[list[float]]]:
        """Clip, stride [b], start [b] and three numbers in 0..1 for windows `reach` [b] frames from first to last."""
        b = len(reach)
        chances = torch.rand(b, 6, generator=generator, device=generator.device, dtype=torch.float64).cpu()
        weights = self.lengths * (self.lengths > reach[:, None])  # b n
        if not bool(weights.any(1).all()):
            raise UserError(
                f"no clip in {self.path} is long enough for {int(reach.max()) + 1} frames (the longest has "
                f"{int(self.lengths.max())}); add longer clips or train on fewer frames"
            )
        # Inverse of the cumulative weights; the product stays below the last edge, so a clip of weight 0 is never hit.
        edges = weights.cumsum(1)
        which = torch.searchsorted(edges, (chances[:, :1] * edges[:, -1:]).long(), right=True).squeeze(1)
        length = self.lengths[which]
        drawn = (chances[:, 1] * self.strides.shape[1]).long()
        stride = torch.minimum(self.strides[which, drawn], (length - 1) // reach.clamp(min=1)).clamp(min=1)
        start = (chances[:, 2] * (length - stride * reach)).long()
        return which.tolist(), stride, start, chances[:, 3:].tolist()


def cut(frames: np.ndarray, size: tuple[int, int], luck: list[float]) -> np.ndarray:
    """A piece [t *size c] of frames [t h w c] at the place `luck` (two numbers in 0..1), enlarged if too small."""
    scale = max(size[0] / frames.shape[1], size[1] / frames.shape[2])
    if scale > 1:
        grown = [max(side, round(scale * have)) for side, have in zip(size, frames.shape[1:3], strict=True)]
        pixels = torch.from_numpy(frames).movedim(-1, 1).float()
        pixels = F.interpolate(pixels, grown, mode="bilinear", align_corners=False)
        frames = pixels.round().byte().movedim(1, -1).numpy()
    y = int(luck[0] * (frames.shape[1] - size[0] + 1))
    x = int(luck[1] * (frames.shape[2] - size[1] + 1))
    return frames[:, y : y + size[0], x : x + size[1]]


def recolour(frames: np.ndarray, channels: int) -> np.ndarray:
    """Frames [t h w c] with the `channels` asked for; numpy's broadcasting repeats grey into three."""
    if channels < frames.shape[-1]:
        return (frames @ np.array(LUMA)).round().astype(np.uint8)[..., None]
    return frames


def read_index(path: Path) -> list[dict]:
    """The clips of the cache at `path`, checked against the size of its data."""
    try:
        index = json.loads((path / "index.json").read_text())
        size = (path / "frames.u8").stat().st_size
    except FileNotFoundError as error:
        raise UserError(
            f"no packed clips at {path} ({error.filename} is missing); pack a folder of clips first"
        ) from error
    except ValueError as error:
        raise UnreadableInput(f"{path / 'index.json'} is damaged ({error}); pack the folder again") from error
    clips = index.get("clips", [])
    if not clips:
        raise UserError(f"the cache at {path} holds no clips; pack a folder that has some")
    needed = max(clip["offset"] + clip["t"] * clip["h"] * clip["w"] * clip["c"] for clip in clips)
    if size != needed:
        raise UnreadableInput(f"{path / 'frames.u8'} has {size} bytes where its index says {needed}; pack again")
    return clips
