"""lucidrains' Unet3D (package video-diffusion-pytorch) behind the interface of the native network.

It sees what the native network sees, as input channels; the level becomes its time; positions in time are its own
(relative, one frame apart), so `index` and `known` do not reach it. It cannot remember known frames. Extra:
`lucidrains`.
"""

from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor, nn

from videodiff.errors import MissingExtra
from videodiff.models.attention import Backend
from videodiff.models.unet import Inputs, Memory, Output, check


@dataclass(frozen=True)
class Config:
    """What rebuilds the network from `config.json`."""

    channels: int = 3
    dim: int = 32
    dim_mults: tuple[int, ...] = (1, 2, 4)
    heads: int = 4

    def __post_init__(self) -> None:
        sizes = {
            "channels": (self.channels, 1, 64),
            "dim": (self.dim, 8, 1024),
            "number of dim_mults": (len(self.dim_mults), 1, 8),
            "dim_mults": (min(self.dim_mults, default=0), 1, 64),
            "largest of dim_mults": (max(self.dim_mults, default=0), 1, 64),
            "heads": (self.heads, 1, 64),
        }
        check(sizes)

    @property
    def multiple(self) -> int:
        """Height and width must be multiples of this."""
        return 2 ** (len(self.dim_mults) - 1)


class LucidNet(nn.Module):
    """Unet3D with the inputs of the native network as channels."""

    def __init__(self, config: Config) -> None:
        super().__init__()
        try:
            from video_diffusion_pytorch import Unet3D
        except Exception as error:  # it imports torchvision, whose mismatched builds raise RuntimeError
            raise MissingExtra(
                f"the network 'lucid' needs video-diffusion-pytorch, which cannot be imported ({error}); "
                "pip install 'videodiff[lucidrains]' with a torchvision that fits your torch"
            ) from error
        self.config = config
        self.net = Unet3D(
            dim=config.dim,
            dim_mults=config.dim_mults,
            channels=4 * config.channels + 4,
            out_dim=config.channels,
            attn_heads=config.heads,
        )
        self.recompute = False

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
        """F for all frames; the base stays where it is."""
        assert vector is None, "this network takes no class or text vector"
        assert memory is None, "this network does not remember"
        wanted = torch.where(known, torch.full_like(level, -torch.inf), level).amax(1)  # known frames are at s near 0
        # c_noise = log(s) / 4 -> s / (1 + s), on its scale of 0..1000.
        time = 1000 * torch.sigmoid(4 * wanted.clamp(min=-2))
        h = rearrange(torch.cat([x.noisy, x.base, x.near, x.far, x.maps], 2), "b t c h w -> b c t h w")
        f = rearrange(self.net(h, time), "b c t h w -> b t c h w").float()
        return Output(f, torch.zeros_like(f))


def build(config: Config) -> LucidNet:
    """The network of a config, randomly initialised."""
    return LucidNet(config)
