"""What is asked of a window of a clip, and which clips: the protocols that `evaluate` measures by.

A question is a `Question` (whole frames are given, others wanted) or a `Damaged` (frames are damaged, and to be
restored). Both say which frames are `wanted`, what can be said of them without a network (`baselines`), and what a
network says (`answer`).
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import interpolate

from videodiff import baselines, video
from videodiff.datasets.moving_mnist import load_images, test_clip
from videodiff.errors import UnreadableInput, UserError
from videodiff.guess import Spread, guess
from videodiff.metrics.pixels import grey
from videodiff.noise import NoiseSource
from videodiff.pipeline import Model, fill_canvas, never, restored, to_pixels
from videodiff.planner import windows
from videodiff.restoration import Measurement, first_estimate, lifted
from videodiff.settings import Evaluate, Restore, Sampling
from videodiff.tasks.restore import damage_of
from videodiff.types import Canvas

BATCH = 16
"""Windows that go through the network at once."""


# ---------------------------------------------------------------------------------------------------------------------
# Questions


@dataclass(frozen=True)
class Question:
    """What is asked of a window: its first `length` frames, of which those at `known` are given."""

    kind: str  # a row of baselines.FOR
    length: int
    known: tuple[int, ...]
    rivals: tuple[str, ...]  # the baselines that matter most

    @property
    def wanted(self) -> tuple[int, ...]:
        return tuple(place for place in range(self.length) if place not in self.known)

    def baselines(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """The wanted frames without a network, by name, from frames [t h w c]."""
        return {name: baselines.BASELINES[name](frames, self.known, self.wanted) for name in baselines.FOR[self.kind]}

    def answer(
        self,
        model: Model,
        frames: np.ndarray,
        seeds: Sequence[int],
        settings: Evaluate,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[np.ndarray]:
        """The wanted frames, uint8 [n wanted h w c], of windows [n t h w c] with a seed for each; BATCH at a time."""
        size = model.shape(settings.window).window
        for first in range(0, len(seeds), BATCH):
            filled = frames[first : first + BATCH].copy()
            filled[:, self.wanted] = 0
            some = tuple(seeds[first : first + BATCH])
            for number, window in enumerate(windows(self.known, self.wanted, size)):
                places = sorted((*window.observed, *window.new))
                part = as_tensor(filled[:, places])
                known = torch.tensor([place in window.observed for place in places])
                canvas = Canvas(
                    part,
                    known[None, :, None, None, None].expand(len(part), -1, 1, *part.shape[3:]),
                    torch.tensor(places)[None].expand(len(part), -1) - places[0],
                )
                *_, last = fill_canvas(model, canvas, settings, NoiseSource(some, number), cancelled)
                for b, z in enumerate(last.z):
                    filled[b, window.new] = to_pixels(z)[[places.index(place) for place in window.new]]
            yield filled[:, self.wanted]


@dataclass(frozen=True)
class Damaged:
    """What is asked of a window of 16 frames: to undo the damage that a request names, done to them here.

    The damaged frames are bytes, as in a file. Their noise is keyed by the frames themselves, so that it is the same
    for all who restore them. `colorize` gives the first frame in colour; `inpaint` hides a square that moves across.
    """

    kind: str  # an operator of settings.Restore
    options: tuple[tuple[str, object], ...] = ()
    rivals: tuple[str, ...] = ("input", "no_network")
    length: int = 16

    @property
    def known(self) -> tuple[int, ...]:
        return (0,) if self.kind == "colorize" else ()

    @property
    def wanted(self) -> tuple[int, ...]:
        return tuple(range(len(self.known), self.length))

    def baselines(self, frames: np.ndarray) -> dict[str, np.ndarray]:
        """The damaged frames laid out like whole ones (bicubic, grey), and what is made of them without a network."""
        canvas, given = self.canvas(as_tensor(frames[None]))
        shown = canvas.frames
        if given is None:
            estimate = torch.where(canvas.known, shown, guess(canvas, Spread()).base)
        else:
            estimate, _ = first_estimate(given, canvas, bool(self.known))
            if given.y.shape[-2:] != shown.shape[-2:]:
                shown = interpolate(given.y[0], shown.shape[-2:], mode="bicubic")[None]
        made = {"input": shown, "no_network": estimate}
        return {name: to_pixels(x[0])[list(self.wanted)] for name, x in made.items()}

    def answer(
        self,
        model: Model,
        frames: np.ndarray,
        seeds: Sequence[int],
        settings: Evaluate,
        cancelled: Callable[[], bool] = never,
    ) -> Iterator[np.ndarray]:
        """The wanted frames restored, uint8 [n wanted h w c], of windows [n t h w c]; BATCH at a time."""
        request = self.request(settings)
        for first in range(0, len(seeds), BATCH):
            canvas, given = self.canvas(as_tensor(frames[first : first + BATCH]))
            noise = NoiseSource(tuple(seeds[first : first + BATCH]))
            if given is None:
                *_, last = fill_canvas(model, canvas, request, noise, cancelled)
            else:
                damage = damage_of(request)
                *_, last = restored(model, canvas, damage, request, noise, bool(self.known), cancelled)
            yield np.stack([to_pixels(z) for z in last.z])[:, list(self.wanted)]

    def request(self, settings: Evaluate | None = None) -> Restore:
        """What a user would ask for; the sampler is that of the command's defaults where the method has its own."""
        values = {} if settings is None else {name: getattr(settings, name) for name in Sampling.model_fields}
        if self.kind != "inpaint":
            values.pop("sampler", None)
        extra = {"inpaint": {"mask": "mask.png"}, "colorize": {"reference": "first.png"}}.get(self.kind, {})
        return Restore.model_validate(
            {"input": "clip.mp4", "operator": self.kind, **values, **extra, **dict(self.options)}
        )

    def canvas(self, truth: Tensor) -> tuple[Canvas, Measurement | None]:
        """The canvas of damaged frames [b t c h w] (the damage is done here), and the measurement they are."""
        b, t, _, h, w = truth.shape
        known = torch.zeros(b, t, 1, h, w, dtype=torch.bool)
        index = torch.arange(t).expand(b, -1)
        if self.kind == "inpaint":
            known[:] = torch.from_numpy(~moving_square(t, h, w))[:, None]
            return Canvas(truth * known, known, index), None
        known[:, self.known] = True
        damage = damage_of(self.request())
        operator = damage.operator((t, truth.shape[2], h, w))
        y = operator(truth)
        noise = torch.stack([noise_like(*pair) for pair in zip(y, truth, strict=True)])
        y = rounded_to_bytes(y + damage.sigma * noise)
        frames = torch.where(known, truth, lifted(operator, y, truth) if damage.reduced else y)
        return Canvas(frames, known, index), Measurement(operator, y, damage.sigma)


def noise_like(y: Tensor, key: Tensor) -> Tensor:
    """Standard normal noise like y, keyed by what is in `key`."""
    seed = int.from_bytes(hashlib.blake2b(key.numpy().tobytes(), digest_size=7).digest(), "big")
    return NoiseSource((seed,)).draw(y.shape)[0]


def rounded_to_bytes(y: Tensor) -> Tensor:
    """Values in [-1, 1] as bytes hold them."""
    return ((y.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def moving_square(t: int, h: int, w: int) -> np.ndarray:
    """bool [t h w]: a square of 3/8 of the short side that moves from the upper left to the lower right."""
    side = 3 * min(h, w) // 8
    hole = np.zeros((t, h, w), bool)
    for i in range(t):
        top, left = (round((n - side) * (0.25 + 0.5 * i / max(1, t - 1))) for n in (h, w))
        hole[i, top : top + side, left : left + side] = True
    return hole


def as_tensor(frames: np.ndarray) -> Tensor:
    """uint8 [b t h w c] as float32 [b t c h w] in [-1, 1]."""
    return torch.from_numpy(frames).permute(0, 1, 4, 2, 3).float() / 127.5 - 1


# ---------------------------------------------------------------------------------------------------------------------
# Clips


Clips = dict[str, Callable[[Model], list[np.ndarray]]]
"""By name, what reads the windows of a clip, uint8 [t h w c] each, at the size and in the colours of a network."""

WINDOW, PER_CLIP = 16, 4  # frames; windows
SIDE, MULTIPLE = 64, 8  # pixels
FAST = 24  # frames a second: from here on neighbours differ so little that every 2nd frame is taken
DIGIT_CLIPS = 256


def real_clips(settings: Evaluate) -> dict[str, Clips]:
    """Sets of film: each folder of clips, its `test` folder if it has one, or all sets with one in a folder."""
    sets: dict[str, Clips] = {}
    for given in settings.data:
        if not given.is_dir():
            raise UserError(f"{given} is not a folder; give folders of clips, or of sets that have a test folder")
        folders = [given] if films(given) else [f / "test" for f in (given, *sorted(given.iterdir()))]
        found = {folder: films(folder) for folder in folders if folder.is_dir()}
        if not any(found.values()):
            raise UserError(f"no clips in {given}, in {given / 'test'}, or in the test folders of the sets in it")
        for folder, files in found.items():
            if files:
                path = folder.resolve()
                name = path.parent.name if path.name == "test" else path.name
                if name in sets:
                    raise UserError(f"two sets are named {name!r}; evaluate them one by one")
                sets[name] = {file.name: partial(film_windows, file) for file in files[: settings.clips]}
    return sets


def films(folder: Path) -> list[Path]:
    """The clips that lie in a folder, by name."""
    kinds = (*video.VIDEO, ".gif", ".webp")
    return sorted(f for f in folder.iterdir() if f.suffix.lower() in kinds and f.is_file())


def film_windows(file: Path, model: Model) -> list[np.ndarray]:
    """Evenly spaced windows of a film, its short side 64 pixels, every 2nd frame of fast ones."""
    stride = 2 if video.probe(file).fps >= FAST else 1
    multiple = math.lcm(MULTIPLE, model.bundle.model.multiple)
    frames = video.read(file, short_side=SIDE, multiple=multiple, fit="crop", stride=stride).frames
    starts = window_starts(len(frames), WINDOW, PER_CLIP)
    if not starts:
        raise UnreadableInput(f"{file.name} has {len(frames)} frames (every {stride}. taken); {WINDOW} are needed")
    return [in_channels(frames[start : start + WINDOW], model.bundle.channels) for start in starts]


def window_starts(num_frames: int, length: int, count: int) -> list[int]:
    """Where `count` evenly spaced windows begin, the first at the start and the last at the end; fewer if they meet."""
    if num_frames < length:
        return []
    return sorted({round(start) for start in np.linspace(0, num_frames - length, count)})


def digit_clips(settings: Evaluate) -> dict[str, Clips]:
    """The test clips of stochastic Moving MNIST, which are the same everywhere."""
    if len(settings.data) != 1:
        raise UserError("mcvd-digits takes one folder, that of the MNIST files")
    images = load_images(settings.data[0], "test")

    def read(i: int, model: Model) -> list[np.ndarray]:
        return [in_channels(to_pixels(test_clip(images, i, 15)), model.bundle.channels)]

    return {"digits": {str(i): partial(read, i) for i in range(min(settings.clips or DIGIT_CLIPS, DIGIT_CLIPS))}}


def in_channels(frames: np.ndarray, channels: int) -> np.ndarray:
    """uint8 [t h w c] with as many channels as a network takes."""
    if frames.shape[3] == channels:
        return frames
    return np.repeat(grey(frames)[..., None], channels, axis=3)


# ---------------------------------------------------------------------------------------------------------------------
# Protocols


@dataclass(frozen=True)
class Protocol:
    """Which clips, what is asked of each window, and how it is judged."""

    clips: Callable[[Evaluate], dict[str, Clips]]  # by set
    questions: Mapping[str, Question | Damaged]
    psnr: str  # the figure of metrics.psnr that counts
    binary: bool = False  # SSIM of black and white frames


PAST, BLEND = ("last_frame", "mean_of_past"), ("linear_blend",)

PROTOCOLS = {
    "real-v1": Protocol(
        real_clips,
        {
            "prediction": Question("prediction", 16, tuple(range(8)), PAST),
            "interpolation_2x": Question("interpolation", 15, tuple(range(0, 15, 2)), BLEND),
            "interpolation_4x": Question("interpolation", 13, tuple(range(0, 13, 4)), BLEND),
        },
        psnr="psnr",
    ),
    # Voleti et al. 2022 (MCVD): 5 -> 10, 10 samples of each clip (--samples 10), the best by each metric.
    "mcvd-digits": Protocol(
        digit_clips, {"prediction": Question("prediction", 15, tuple(range(5)), PAST)}, psnr="psnr_clip", binary=True
    ),
    # Noise of 12.75 and 25.5 of 255; a blur of 1.2 pixels with noise 2.55; see docs/method.md.
    "restore-v1": Protocol(
        real_clips,
        {
            "denoise_13": Damaged("denoise", (("noise", 12.75),)),
            "denoise_26": Damaged("denoise", (("noise", 25.5),)),
            "deblur": Damaged("deblur", (("noise", 2.55),)),
            "upscale_2x": Damaged("upscale"),
            "upscale_4x": Damaged("upscale", (("factor", 4),)),
            "colorize": Damaged("colorize"),
            "inpaint": Damaged("inpaint"),
            "slowmo_2x": Question("interpolation", 15, tuple(range(0, 15, 2)), ("nearest", "linear_blend")),
        },
        psnr="psnr",
    ),
}
