"""The native network: a factorised space-time UNet (Video Diffusion Models, arXiv 2204.03458) that knows which frames
are given.

2-D convolutions run over (b t); attention over space at low resolution; attention over time at every level, with
positions that are relative, log-scaled and read from `index`, so any spacing and any number of frames is legal (as in
Flexible Diffusion Modeling, arXiv 2205.11495).

Known frames enter clean and attend only to known frames, wanted frames to all. Nothing about a known frame then depends
on the noise level or on the wanted frames, so `remember` computes them once for a window and every denoising step
runs the wanted frames alone.

The decoder also says how sure it is of the guess, pixel by pixel (`Output.doubt`), which clears noise from what stays
still without having to copy it; and it estimates, for every wanted frame, where its pixels were in two reference
frames, and moves the cheap guess there (`Output.shift`): a convolution cannot carry a texture over ten pixels, a warp
can. What the warp cannot explain is left to the ordinary output F.
"""

from dataclasses import dataclass
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from videodiff.flow import warp
from videodiff.models.attention import Backend, attention

MAX_WIDTH = 65_536


def check(sizes: dict[str, tuple[int, int, int]]) -> None:
    """Raise ValueError for the first (value, low, high) that is out of its range."""
    for name, (value, low, high) in sizes.items():
        if not low <= value <= high:
            raise ValueError(f"{name} must be from {low} to {high}, not {value}")


@dataclass(frozen=True)
class Config:
    """What rebuilds the network from `config.json`."""

    channels: int = 3
    patch: int = 2
    widths: tuple[int, ...] = (32, 64, 128)
    blocks_down: int = 1
    blocks_up: int = 2
    spatial_attention: tuple[int, ...] = (2,)
    head_width: int = 32
    embedding: int = 128
    vector: int = 0
    warp: bool = True
    norm: Literal["group", "rms"] = "group"

    def __post_init__(self) -> None:
        # A config comes from a file that anyone can write: what it asks for must be cheap to describe.
        sizes = {
            "channels": (self.channels, 1, 64),
            "patch": (self.patch, 1, 16),
            "number of widths": (len(self.widths), 2 if self.warp else 1, 8),
            "widths": (min(self.widths, default=0), 1, MAX_WIDTH),
            "largest width": (max(self.widths, default=0), 1, MAX_WIDTH),
            "blocks_down": (self.blocks_down, 1, 16),
            "blocks_up": (self.blocks_up, self.blocks_down, 16),  # each block down hands one a skip
            "head_width": (self.head_width, 1, MAX_WIDTH),
            "embedding": (self.embedding, 1, MAX_WIDTH),
            "vector": (self.vector, 0, MAX_WIDTH),
        }
        check(sizes)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return self.patch * 2 ** (len(self.widths) - 1)


class Inputs(NamedTuple):
    """What the network sees of each frame; all [b t . h w]. Known pixels carry no noise: there `noisy` is 0."""

    noisy: Tensor  # c channels: c_in (z - base), 0 where known
    base: Tensor  # c: the cheap guess
    near: Tensor  # c: the nearest known frame
    far: Tensor  # c: the nearest on the other side, or the second nearest
    maps: Tensor  # 4: known, spread of the guess, signed log distance to `near`, the same to `far`
    reach: Tensor  # 2: distances to `near` and `far` in frames, unsigned

    def frames(self, keep: Tensor) -> "Inputs":
        """The frames with these positions in time."""
        return Inputs(*(x[:, keep] for x in self))


class Output(NamedTuple):
    """F of the preconditioner [b t c h w]; the move of its base [b t c h w]; the log of a factor on its spread
    [b t 1 h w], None to leave it.
    """

    f: Tensor
    shift: Tensor
    doubt: Tensor | None = None


MAX_DOUBT = 3.0
"""The spread of a pixel is changed at most 20-fold either way (chosen, not tuned)."""


class Memory(NamedTuple):
    """The known frames of a window as the temporal attentions see them: keys and values in order, and their index."""

    kv: list[tuple[Tensor, Tensor]]
    index: Tensor  # type: ignore[assignment]  # hides tuple.index, which nobody calls


class SpaceTimeUNet(nn.Module):
    """F and base shift for frames [b t c h w] at levels [b t]."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        self.config = config
        c, p, widths = config.channels, config.patch, config.widths
        self.level_frequencies: Tensor
        self.register_buffer("level_frequencies", 2.0 ** torch.linspace(0, 5, 16), persistent=False)
        self.embed = nn.Sequential(
            nn.Linear(32 + 4 + config.vector, config.embedding),
            nn.SiLU(),
            nn.Linear(config.embedding, config.embedding),
        )
        self.no_vector = nn.Parameter(torch.zeros(config.vector))
        self.stem = nn.Conv2d((4 * c + 4) * p * p, widths[0], 3, padding=1)

        def level(width_in: int, i: int) -> "Block":
            return Block(width_in, widths[i], config, space=i in config.spatial_attention)

        self.down = nn.ModuleList()
        self.shrink = nn.ModuleList()
        width, skips = widths[0], []
        for i in range(len(widths)):
            blocks = nn.ModuleList()
            for _ in range(config.blocks_down):
                blocks.append(level(width, i))
                width = widths[i]
                skips.append(width)
            self.down.append(blocks)
            if i + 1 < len(widths):
                self.shrink.append(nn.Conv2d(width, width, 3, stride=2, padding=1))
        self.middle = level(width, len(widths) - 1)
        self.up = nn.ModuleList()
        self.grow = nn.ModuleList()
        for i in reversed(range(len(widths))):
            blocks = nn.ModuleList()
            for j in range(config.blocks_up):
                blocks.append(level(width + (skips.pop() if j < config.blocks_down else 0), i))
                width = widths[i]
            self.up.append(blocks)
            if i > 0:
                self.grow.append(nn.Conv2d(width, widths[i - 1], 3, padding=1))
                width = widths[i - 1]
        if config.warp:
            self.velocity = zero(nn.Conv2d(widths[1], 4, 3, padding=1))
            self.read_warped = nn.Conv2d(2 * c * p * p, widths[0], 3, padding=1)
        self.out_norm = Norm(widths[0], config.norm)
        self.out = zero(nn.Conv2d(widths[0], (c + 4) * p * p, 3, padding=1))
        self.recompute = False
        """Trade time for memory: recompute each block's activations in the backward pass."""

    def forward(
        self,
        x: Inputs,
        level: Tensor,
        index: Tensor,
        known: Tensor,
        *,
        vector: Tensor | None = None,
        memory: Memory | None = None,
        backend: Backend = "auto",
    ) -> Output:
        """Output for all frames of `x`.

        level: c_noise [b t]; index: long [b t]; known: bool [b t], frames given whole. With `memory` (from `remember`)
        x holds the wanted frames alone.
        """
        return self._run(x, level, index, known, vector, backend, memory, None)

    def remember(
        self, x: Inputs, level: Tensor, index: Tensor, *, vector: Tensor | None = None, backend: Backend = "auto"
    ) -> Memory:
        """The known frames of a window, computed once; `x`, `level` and `index` hold these frames alone."""
        kept: list[tuple[Tensor, Tensor]] = []
        self._run(x, level, index, torch.ones_like(index, dtype=torch.bool), vector, backend, None, kept)
        return Memory(kept, index)

    def _run(
        self,
        x: Inputs,
        level: Tensor,
        index: Tensor,
        known: Tensor,
        vector: Tensor | None,
        backend: Backend,
        memory: Memory | None,
        kept: list[tuple[Tensor, Tensor]] | None,
    ) -> Output:
        p, t = self.config.patch, index.shape[1]
        time = Time.of(index, known, memory, kept, backend)
        e = self._embedding(x, level, vector)
        h = torch.cat([x.noisy, x.base, x.near, x.far, x.maps], 2)
        h = self.stem(rearrange(h, "b t c (h p) (w q) -> (b t) (c p q) h w", p=p, q=p))

        def run(block: nn.Module, h: Tensor) -> Tensor:
            if self.recompute and torch.is_grad_enabled():
                return checkpoint(block, h, e, time, use_reentrant=False)
            return block(h, e, time)

        skips: list[Tensor] = []
        for i, blocks in enumerate(self.down):
            assert isinstance(blocks, nn.ModuleList)
            for block in blocks:
                h = run(block, h)
                skips.append(h)
            if i < len(self.shrink):
                h = self.shrink[i](h)
        h = run(self.middle, h)
        warped = None
        for i, blocks in enumerate(self.up):
            assert isinstance(blocks, nn.ModuleList)
            if i == len(self.up) - 1 and self.config.warp:
                h = h + self.read_warped(rearrange(warped, "b t c (h p) (w q) -> (b t) (c p q) h w", p=p, q=p))
            for j, block in enumerate(blocks):
                h = run(block, torch.cat([h, skips.pop()], 1) if j < self.config.blocks_down else h)
            if i == len(self.up) - 2 and self.config.warp:
                near, far = self._warp(h, x)
                warped = torch.cat([near - x.base, far - x.base], 2).to(h.dtype)
            if i < len(self.grow):
                h = self.grow[i](F.interpolate(h, scale_factor=2.0, mode="nearest"))
        if kept is not None:
            return Output(x.base, x.base)  # the heads have no temporal attention: nothing more to remember
        h = self.out(F.silu(self.out_norm(h)))
        h = rearrange(h, "(b t) (c p q) h w -> b t c (h p) (w q)", t=t, p=p, q=p).float()
        f, choice, doubt = h.split([self.config.channels, 3, 1], 2)
        doubt = MAX_DOUBT * (doubt / MAX_DOUBT).tanh()
        if not self.config.warp:
            return Output(f, torch.zeros_like(f), doubt)
        p_near, p_far, _ = choice.softmax(2).split(1, 2)  # the third choice keeps the base where it is
        return Output(f, p_near * (near - x.base) + p_far * (far - x.base), doubt)

    def _embedding(self, x: Inputs, level: Tensor, vector: Tensor | None) -> Tensor:
        """[b t e] from the level, the means of the maps, and the class or text vector.

        A row of nan is a condition that was dropped; it gets the learned vector of no condition, as all rows do
        without `vector`.
        """
        phase = level[..., None] * self.level_frequencies
        parts = [phase.sin(), phase.cos(), x.maps.mean((-1, -2))]
        if self.config.vector:
            b, t = level.shape
            v = self.no_vector.expand(b, -1)
            v = v if vector is None else torch.where(vector.isnan(), v, vector)
            parts.append(v[:, None].expand(b, t, -1))
        return F.silu(self.embed(torch.cat(parts, -1).to(self.no_vector.dtype)))

    def _warp(self, h: Tensor, x: Inputs) -> tuple[Tensor, Tensor]:
        """The two reference frames, moved by velocities (pixels a frame) read from h times the distance in frames."""
        b, t, _, height, width = x.base.shape
        v = F.interpolate(self.velocity(h).float(), (height, width), mode="bilinear", align_corners=False)
        v = rearrange(v, "(b t) (r xy) h w -> r (b t) xy h w", t=t, r=2)
        moved = []
        for velocity, frame, distance in zip(v, (x.near, x.far), x.reach.unbind(2), strict=True):
            d = rearrange(distance, "b t h w -> (b t) 1 h w")
            moved.append(warp(frame.flatten(0, 1).float(), velocity * d).unflatten(0, (b, t)))
        return moved[0], moved[1]


@dataclass(frozen=True)
class Time:
    """What temporal attention needs to know of the frames it joins."""

    offset: Tensor  # [b tq tk] features' source: index of the key minus index of the query, float
    forbid: Tensor  # [b 1 tq tk] 0 or -inf
    num_frames: int
    memory: "list[tuple[Tensor, Tensor]] | None"
    kept: "list[tuple[Tensor, Tensor]] | None"
    backend: Backend

    @staticmethod
    def of(
        index: Tensor,
        known: Tensor,
        memory: Memory | None,
        kept: list[tuple[Tensor, Tensor]] | None,
        backend: Backend,
    ) -> "Time":
        keys, known_keys = index, known
        if memory is not None:
            keys = torch.cat([memory.index, index], 1)
            known_keys = torch.cat([torch.ones_like(memory.index, dtype=torch.bool), known], 1)
        offset = (keys[:, None, :] - index[:, :, None]).float()
        allowed = known_keys[:, None, :] | ~known[:, :, None]  # known frames see known frames, wanted frames see all
        forbid = torch.zeros_like(offset).masked_fill(~allowed, float("-inf"))[:, None]
        rest = None if memory is None else list(memory.kv)
        return Time(offset, forbid, index.shape[1], rest, kept, backend)


class Block(nn.Module):
    """Residual block, then attention over space where the level has it, then attention over time."""

    def __init__(self, width_in: int, width: int, config: Config, space: bool) -> None:
        super().__init__()
        self.norm1 = Norm(width_in, config.norm)
        self.conv1 = nn.Conv2d(width_in, width, 3, padding=1)
        self.film = nn.Linear(config.embedding, 2 * width)
        self.norm2 = Norm(width, config.norm)
        self.conv2 = zero(nn.Conv2d(width, width, 3, padding=1))
        self.skip = nn.Identity() if width_in == width else nn.Conv2d(width_in, width, 1)
        self.space = SpaceAttention(width, config) if space else None
        self.time = TimeAttention(width, config)

    def forward(self, x: Tensor, e: Tensor, time: Time) -> Tensor:
        h = self.conv1(F.silu(self.norm1(x)))
        scale, shift = rearrange(self.film(e), "b t c -> (b t) c 1 1").chunk(2, 1)
        h = self.conv2(F.silu(self.norm2(h) * (1 + scale) + shift))
        h = self.skip(x) + h
        if self.space is not None:
            h = h + self.space(h, time.backend)
        return h + self.time(h, time)


class SpaceAttention(nn.Module):
    """Attention among the pixels of each frame."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.heads = parts(width, config.head_width)
        self.norm = Norm(width, config.norm)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.out = zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, backend: Backend) -> Tensor:
        height = x.shape[-2]
        q, k, v = rearrange(self.qkv(self.norm(x)), "n (r m d) h w -> r n m (h w) d", r=3, m=self.heads)
        h = attention(q, k, v, backend=backend)
        return self.out(rearrange(h, "n m (h w) d -> n (m d) h w", h=height))


class TimeAttention(nn.Module):
    """Attention of each pixel through time, biased by a small network of the log distance between frames."""

    def __init__(self, width: int, config: Config) -> None:
        super().__init__()
        self.heads = parts(width, config.head_width)
        self.norm = Norm(width, config.norm)
        self.qkv = nn.Conv2d(width, 3 * width, 1)
        self.position = nn.Sequential(nn.Linear(3, 32), nn.SiLU(), nn.Linear(32, self.heads))
        self.out = zero(nn.Conv2d(width, width, 1))

    def forward(self, x: Tensor, time: Time) -> Tensor:
        t, height, width = time.num_frames, x.shape[-2], x.shape[-1]
        qkv = self.qkv(self.norm(x))
        q, k, v = rearrange(qkv, "(b t) (r m d) h w -> r (b h w) m t d", t=t, r=3, m=self.heads)
        if time.kept is not None:
            time.kept.append((k, v))
        if time.memory is not None:
            k_known, v_known = time.memory.pop(0)
            k, v = torch.cat([k_known, k], 2), torch.cat([v_known, v], 2)
        d = time.offset
        features = torch.stack([d.clamp(min=0).log1p(), (-d).clamp(min=0).log1p(), (d == 0).float()], -1)
        bias = rearrange(self.position(features.to(q.dtype)), "b q k m -> b m q k") + time.forbid.to(q.dtype)
        bias = bias.repeat_interleave(height * width, 0)
        h = attention(q, k, v, bias, time.backend)
        return self.out(rearrange(h, "(b h w) m t d -> (b t) (m d) h w", h=height, w=width))


class Norm(nn.Module):
    """Group norm over groups of 16 channels, or RMS norm over all channels of a pixel; per frame either way."""

    def __init__(self, width: int, kind: str) -> None:
        super().__init__()
        self.kind = kind
        self.groups = parts(width, 16)
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        if self.kind == "rms":
            scale = x.float().square().mean(1, keepdim=True).add(1e-6).rsqrt().to(x.dtype)
            return x * scale * self.weight.to(x.dtype)[:, None, None] + self.bias.to(x.dtype)[:, None, None]
        return F.group_norm(x, self.groups, self.weight.to(x.dtype), self.bias.to(x.dtype), eps=1e-5)


def parts(width: int, size: int) -> int:
    """Into how many equal parts of about `size` channels a width is cut."""
    count = max(1, width // size)
    while width % count:
        count -= 1
    return count


def zero(layer: nn.Conv2d) -> nn.Conv2d:
    """The layer with weights and bias at zero, so that a residual branch starts as nothing."""
    nn.init.zeros_(layer.weight)
    assert layer.bias is not None
    nn.init.zeros_(layer.bias)
    return layer


def build(config: Config) -> SpaceTimeUNet:
    """The network of a config, randomly initialised."""
    return SpaceTimeUNet(config)
