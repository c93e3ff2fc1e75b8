"""What made-up scenes look like: textures, scenery, outlines of things, and what light and lens do to the picture.

Colours are 0..1 here; a texture spans -1..1 in both directions.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.datasets.draw import Draw
from videodiff.datasets.motion import swing


def pixel_grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """Centres of the pixels, [h w 2] as (x, y)."""
    h, w = size
    x = (torch.arange(w, device=device) + 0.5 - w / 2) * 2 / min(size)
    y = (torch.arange(h, device=device) + 0.5 - h / 2) * 2 / min(size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def clouds(draw: Draw, channels: int, side: int, coarsest: int, slope: Tensor) -> Tensor:
    """Noise [b c side side] of about unit spread: octaves from `coarsest` cells on, each `slope` [b] times the last."""
    slope = slope[:, None, None, None]
    total, weight = draw.normal(1.0, channels, coarsest, coarsest), slope
    while total.shape[-1] * 4 <= side:  # each octave is drawn small and grows with those above it
        total = F.interpolate(total, scale_factor=2, mode="bilinear", align_corners=False)
        total = total + weight * draw.normal(1.0, *total.shape[1:])
        weight = weight * slope
    total = F.interpolate(total, (side, side), mode="bilinear", align_corners=False)
    return total * (1 - slope**2).sqrt() / 0.6  # bilinear interpolation leaves about 0.6 of the spread


def colours(draw: Draw, *shape: int) -> Tensor:
    """Colours [b ... 3] in 0..1 as scenes have them: mostly dull, brightness spread wide, now and then vivid."""
    grey = draw.uniform(0.02, 0.95, *shape, 1)
    tint = draw.normal(1.0, *shape, 3)
    vivid = torch.where(draw.chance(0.15, *shape, 1), 0.22, 0.06)
    return (grey + vivid * (tint - tint.mean(-1, keepdim=True))).clamp(0.02, 0.98)


def pattern(draw: Draw, side: int, cells: Tensor) -> Tensor:
    """A grey pattern [b side side] in about -1..1: stripes, checks, dots or an edge, of `cells` [b] periods a side."""
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    turn = draw.uniform(0, math.pi)[:, None, None]
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()  # b side side
    rate = math.pi * cells[:, None, None]
    sharp = draw.uniform(1, 4)[:, None, None]
    stripes, across = (rate * u).sin(), (rate * v).sin()
    edge = 6 * sharp * (u + draw.uniform(-0.6, 0.6)[:, None, None])
    kind = draw.choice([0.35, 0.25, 0.2, 0.2])[:, None, None]
    wave = torch.where(kind == 0, stripes, torch.where(kind == 1, stripes * across, stripes + across - 0.5))
    return torch.tanh(torch.where(kind == 3, edge, sharp * wave))


def texture(draw: Draw, side: int, cells: Tensor, coarsest: int = 2) -> Tensor:
    """Colour pictures [b 3 side side] in 0..1: two colours mixed by a gradient, a pattern and noise."""
    base, other = colours(draw)[..., None, None], colours(draw)[..., None, None]  # b 3 1 1
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    gradient = draw.normal(0.4, 1, 1) * x + draw.normal(0.4, 1, 1) * y  # b side side
    drawn = pattern(draw, side, cells) * draw.uniform(0.1, 0.6, 1, 1) * draw.chance(0.4, 1, 1)
    noise = clouds(draw, 2, side, coarsest, draw.uniform(0.45, 0.9))  # b 2 side side
    rough = draw.uniform(0.05, 0.5, 1, 1) * ~draw.chance(0.2, 1, 1)
    mix = (0.5 + gradient + drawn + rough * noise[:, 0])[:, None].clamp(0, 1)
    shade = draw.uniform(0, 0.1, 1, 1, 1) * noise[:, 1:]
    return (base + (other - base) * mix + shade).clamp(0, 1)


def scenery(draw: Draw, side: int) -> Tensor:
    """Still scenery [b 3 side side] in 0..1: a wall with a few blocks on it (furniture, doors, roads, houses)."""
    scene = texture(draw, side, draw.log_uniform(3, 30))
    noise = clouds(draw, 1, side, 4, draw.uniform(0.6, 1.0))  # b 1 side side
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    for _ in range(4):
        centre, reach = draw.uniform(-0.8, 0.8, 2, 1, 1), draw.log_uniform(0.05, 1.0, 2, 1, 1)
        turn = draw.normal(0.15, 1, 1)
        dx, dy = x - centre[:, 0], y - centre[:, 1]
        box = torch.maximum((dx + turn * dy).abs() / reach[:, 0], (dy - turn * dx).abs() / reach[:, 1])
        soft = side * reach.amin(1) / 2  # edges about two texels wide
        alpha = torch.sigmoid((1 - box) * soft) * draw.chance(0.5, 1, 1)
        stuff = colours(draw)[..., None, None] + draw.normal(0.07, 1, 1, 1) * noise
        scene = torch.lerp(scene, stuff, alpha[:, None])
    plain = draw.uniform(0, 1, 1, 1, 1) ** 2  # contrast: many walls are nearly plain
    mean = scene.mean((2, 3), keepdim=True)
    return (mean + (scene - mean) * (1 - 0.9 * plain)).clamp(0, 1)


def outline(draw: Draw, side: int, smooth: Tensor) -> Tensor:
    """Alpha [b side side] of ellipses, rounded boxes, blobs and polygons that reach 0.85 of the square.

    Only the first two where `smooth` [b].
    """
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    radius, angle = (x * x + y * y).sqrt(), torch.atan2(y, x)
    power = draw.choice([0.5, 0.25, 0.25])[:, None, None]
    power = torch.where(power == 0, 2.0, torch.where(power == 1, 4.0, 8.0))
    box = ((x.abs() ** power + y.abs() ** power) + 1e-6) ** (1 / power)  # 2: ellipse, larger: rounded box
    lobes = torch.arange(2, 7, device=draw.device)
    size, phase = draw.normal(0.22, 5) / lobes.sqrt(), draw.uniform(0, 2 * math.pi, 5)
    wave = torch.einsum("bk,bkhw->bhw", size, (lobes[:, None, None] * angle + phase[..., None, None]).sin())
    blob = radius * (wave.amax((1, 2), keepdim=True) - wave).clamp(max=1.2).exp()  # the longest lobe as far as a circle
    corners = draw.choice([1, 1, 1, 1])[:, None, None] + 3  # 3..6
    sector = (angle + draw.uniform(0, 6, 1, 1)).remainder(2 * math.pi / corners) - math.pi / corners
    polygon = radius * sector.cos() / (math.pi / corners).cos()
    kind = torch.where(smooth, 0, draw.choice([0.5, 0.35, 0.15]))[:, None, None]
    level = torch.where(kind == 0, box, torch.where(kind == 1, blob, polygon))
    soft = draw.log_uniform(0.04, 0.15)[:, None, None]
    return torch.sigmoid((0.85 - level) / soft * 3).clamp(0, 1) * (radius < 1.3)


# -- light and lens ------------------------------------------------------------------------------------------------


def light(draw: Draw, frames: Tensor, time: Tensor, screen: Tensor) -> Tensor:
    """Frames [b c t h w] under light that comes from a side, and in one clip of four changes."""
    changing = draw.chance(0.25)
    level = swing(draw, time, draw.uniform(0.03, 0.25) * changing)[:, None, :, None, None]
    tilt = torch.einsum("hwi,bi->bhw", screen, draw.normal(0.1, 2))[:, None, None]
    contrast = draw.uniform(0.75, 1.3)[:, None, None, None, None]
    return (0.5 + (frames - 0.5) * contrast) * (1 + level + tilt)


def blur(frames: Tensor, amount: Tensor) -> Tensor:
    """Frames [b c t h w] mixed with their 3 x 3 means by `amount` [b], nothing where that is negative."""
    some = (amount > 0).nonzero().squeeze(1)
    sharp = frames[some].flatten(1, 2)
    padded = F.pad(sharp, (1, 1, 1, 1), mode="replicate")
    rows = padded[..., :-2] + padded[..., 1:-1] + padded[..., 2:]
    soft = (rows[..., :-2, :] + rows[..., 1:-1, :] + rows[..., 2:, :]) / 9
    frames[some] = torch.lerp(sharp, soft, amount[some, None, None, None]).view_as(frames[some])
    return frames


def grain(draw: Draw, index: Tensor, size: tuple[int, int]) -> Tensor:
    """Sensor noise [b 3 t h w]: one sheet of noise per clip, seen through a window that jumps from frame to frame."""
    (h, w), (b, t) = size, index.shape
    sheet = draw.normal(1.0, 3, 4 * h * w) * (0.008 * draw.uniform(-1, 1).clamp(min=0))[:, None, None]
    # Noise drawn frame by frame would depend on how many frames are asked for; jumps by a hash of the time do not.
    down, along = (index * 7919 + 13) % (h + 1), (index * 104729 + 7) % (w + 1)  # b t
    rows = down[..., None] + torch.arange(h, device=index.device)
    columns = along[..., None] + torch.arange(w, device=index.device)
    where = (rows[..., None] * 2 * w + columns[:, :, None]).view(b, 1, -1)
    return sheet.gather(2, where.expand(b, 3, -1)).view(b, 3, t, h, w)
