"""lucidrains' network behind our interface, and a clear word where it is not installed."""

import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from test_train import Make, clips, last, losses, make, run
from torch import Tensor, nn

from videodiff import checkpoint
from videodiff.centred import CentredDenoiser
from videodiff.checkpoint import Levels, Window
from videodiff.errors import CheckpointError, MissingExtra, UserError
from videodiff.guess import Spread, guess
from videodiff.models import lucid
from videodiff.types import Canvas

__all__ = ["clips", "make"]  # fixtures

TINY = lucid.Config(channels=2, dim=8, dim_mults=(1, 2), heads=2)


class StandIn(nn.Module):
    """The signature of video_diffusion_pytorch.Unet3D: clips [b c t h w] and times [b] in, clips out."""

    def __init__(self, dim: int, dim_mults: tuple[int, ...], channels: int, out_dim: int, attn_heads: int) -> None:
        super().__init__()
        assert len(dim_mults) >= 1
        assert attn_heads >= 1
        self.mix = nn.Conv3d(channels, out_dim, 3, padding=1)
        self.shared = nn.ModuleList([nn.Linear(1, 1)] * 2)  # as the real one shares its rotary embedding
        self.times: list[Tensor] = []

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        assert time.shape == x.shape[:1]
        self.times.append(time.detach())
        return self.mix(x) + self.shared[1](time[:, None] / 1000)[:, :, None, None, None]


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    package = ModuleType("video_diffusion_pytorch")
    package.Unet3D = StandIn  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "video_diffusion_pytorch", package)


def canvas(known: list[int], b: int = 2) -> Canvas:
    flags = torch.tensor(known, dtype=torch.bool)[:, None, None, None].expand(b, -1, 1, 16, 16).clone()
    frames = torch.rand(b, len(known), 2, 16, 16) * 2 - 1
    return Canvas(frames, flags, torch.arange(len(known)).expand(b, -1).clone())


def test_without_the_package_the_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "video_diffusion_pytorch", None)
    with pytest.raises(MissingExtra, match=r"videodiff\[lucidrains\]") as caught:
        lucid.build(TINY)
    assert caught.value.exit_code == 7


def test_a_checkpoint_of_it_names_the_extra_too(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "video_diffusion_pytorch", None)
    checkpoint.save(tmp_path / "net", "lucid", TINY, {}, Spread(), Levels(), Window(), {})
    with pytest.raises(MissingExtra, match=r"videodiff\[lucidrains\]"):
        checkpoint.load(str(tmp_path / "net"))


@torch.no_grad()
@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("known", [[1, 0, 0], [0, 0, 0], [1, 0, 1], [1, 1, 1]])
def test_it_denoises_a_canvas_like_any_network(known: list[int]) -> None:
    c = canvas(known)
    denoiser = CentredDenoiser(lucid.build(TINY), Spread())  # type: ignore[arg-type]
    z, s = torch.randn_like(c.frames), torch.tensor([0.3, 5.0])
    g = guess(c, Spread())
    d = denoiser.bind(c, g)(z, s)
    assert torch.equal(d, denoiser(z, s, c, g))
    assert d.shape == z.shape
    assert d.isfinite().all()
    assert torch.equal(d[c.known.expand_as(d)], c.frames[c.known.expand_as(d)])


@torch.no_grad()
@pytest.mark.usefixtures("installed")
def test_its_time_is_the_level_of_the_wanted_frames() -> None:
    net = lucid.build(TINY)
    c = canvas([1, 0, 0], b=3)
    CentredDenoiser(net, Spread())(c.frames, torch.tensor([0.25, 1.0, 4.0]), c, guess(c, Spread()))  # type: ignore[arg-type]
    # s / (1 + s) on the scale of 0..1000 that its sinusoidal embedding is made for.
    assert net.net.times[0].tolist() == pytest.approx([200, 500, 800], rel=1e-4)


@pytest.mark.usefixtures("installed")
def test_it_trains_and_comes_back(make: Make) -> None:
    settings = make(network="lucid", model={"channels": 1, "dim": 8, "dim_mults": [1, 2]}, steps=2, sample_minutes=1e-9)
    assert len(losses(run(settings))) == 2
    bundle = checkpoint.load(str(settings.out))
    assert bundle.network == "lucid"
    ema = checkpoint.load_tensors(last(settings), "ema")
    for name, x in bundle.net.named_parameters():
        assert torch.equal(x, ema[name].bfloat16().float()), name
    assert bundle.model.multiple == 2


@pytest.mark.usefixtures("installed")
@pytest.mark.parametrize("change", [{"dim": 10**9}, {"dim_mults": [1] * 1000}, {"dim_mults": []}, {"heads": 0}])
def test_a_config_that_describes_no_network_is_refused(change: dict, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="must be from"):
        checkpoint.validate(lucid.Config, change, CheckpointError)
