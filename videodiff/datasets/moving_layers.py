"""Moving layers: endless made-up clips that teach how things in videos move.

A clip is a stack of layers seen by a camera: a textured background, then up to six sprites, nearest last. Sprites have
random shapes, patterns and colours and move smoothly - drift, acceleration, swing, start and stop, bounce or pass
through the frame - or hang together as a jointed figure that gestures. The camera stands still, pans, zooms, turns or
shakes. Light changes, a little blur and sensor noise come last.

Everything is a closed form of time, so that any frame can be drawn without those before it, and every random number is
drawn before the first frame, so that the same generator state is the same scene whichever frames are asked for.

Lengths are in units of half the frame's shorter side, so that the shorter side spans -1..1 and a speed of 1 pixel per
frame at 64 pixels is 1/32.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodiff.datasets.source import frame_index

PIXEL = 1 / 32  # one pixel of a 64 pixel frame
MAX_SPRITES = 6
NUM_POSES = 8  # a gesture runs through this many poses and begins again
MIDDLE = 8  # the moment, in frames, at which a scene is as it was laid out
FIGURE = (-1, 0, 1, 0, 3, 0)  # parents in a jointed figure: trunk, upper arm, forearm, upper arm, forearm, head


class Draw:
    """Random tensors with `b` rows, all from one generator and on its device."""

    def __init__(self, generator: torch.Generator, b: int):
        self.generator, self.b, self.device = generator, b, generator.device

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        noise = torch.rand(self.b, *shape, generator=self.generator, device=self.device)
        return low + (high - low) * noise

    def normal(self, std: float, *shape: int) -> Tensor:
        return std * torch.randn(self.b, *shape, generator=self.generator, device=self.device)

    def chance(self, p: float, *shape: int) -> Tensor:
        return self.uniform(0, 1, *shape) < p

    def log_uniform(self, low: float, high: float, *shape: int) -> Tensor:
        return self.uniform(math.log(low), math.log(high), *shape).exp()

    def choice(self, weights: list[float], *shape: int) -> Tensor:
        """Long: 0..len(weights)-1, each as often as its weight says."""
        edges = torch.tensor(weights, device=self.device).cumsum(0) / sum(weights)
        return torch.bucketize(self.uniform(0, 1, *shape), edges[:-1], right=True)


class MovingLayers:
    """Endless synthetic clips, 1 or 3 channels, any frame size."""

    def __init__(self, channels: int = 3, spaced: float = 0.0):
        assert channels in (1, 3), channels
        self.channels = channels
        self.spaced = spaced

    def batch(
        self, generator: torch.Generator, b: int, t: int, size: tuple[int, int], index: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Frames float32 [b t c h w] in [-1, 1] and index long [b t] (see `Source`)."""
        index = frame_index(generator, b, t, self.spaced, index)
        return render(Draw(generator, b), index, size, self.channels), index


def render(draw: Draw, index: Tensor, size: tuple[int, int], channels: int) -> Tensor:
    """Draw one scene per clip and show it at `index` [b t]: frames [b t c h w] in [-1, 1]."""
    time = index.float()
    half = torch.tensor([size[1], size[0]], device=draw.device) / min(size)  # half width and height of the frame
    screen = pixel_grid(size, draw.device)  # h w 2, (x, y)

    # -- the scene: camera, background, sprites ------------------------------------------------------------------
    camera = draw_camera(draw, time, half)
    side = max(32, min(size))
    wall = background(draw, 2 * side)  # b 3 s s
    sheets = sprite_sheets(draw, side)  # b n 4 k k
    sprites = draw_sprites(draw, time, half, camera)

    # -- back to front -------------------------------------------------------------------------------------------
    world = camera.to_world(screen)  # b t h w 2
    frames = sample(wall, world / (2 * half.max()), "reflection")  # b c t h w: the texture spans twice the frame
    for k in range(MAX_SPRITES):
        some = sprites.present[:, k].nonzero().squeeze(1)
        if len(some):
            local = sprites.to_local(screen, k, some)  # b' t h w 2, the sprite fills -1..1
            layer = sample(sheets[some, k], local, "zeros")  # b' 4 t h w, colours multiplied by alpha
            frames[some] = frames[some] * (1 - layer[:, 3:]) + layer[:, :3]

    # -- what the camera makes of it -----------------------------------------------------------------------------
    frames = light(draw, frames, time, screen)
    frames = blur(frames, draw.uniform(-0.5, 0.6))
    frames = frames + grain(draw, index, size)
    if channels == 1:
        frames = frames.mean(1, keepdim=True)
    else:
        grey = draw.chance(0.15)[:, None, None, None, None]
        frames = torch.where(grey, frames.mean(1, keepdim=True), frames)
    return rearrange(frames.clamp(0, 1), "b c t h w -> b t c h w") * 2 - 1


def pixel_grid(size: tuple[int, int], device: torch.device) -> Tensor:
    """Centres of the pixels, [h w 2] as (x, y)."""
    h, w = size
    x = (torch.arange(w, device=device) + 0.5 - w / 2) * 2 / min(size)
    y = (torch.arange(h, device=device) + 0.5 - h / 2) * 2 / min(size)
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), -1)


def sample(texture: Tensor, where: Tensor, beyond: str) -> Tensor:
    """Textures [b c s s], spanning -1..1, looked up at `where` [b t h w 2]: [b c t h w]."""
    t = where.shape[1]
    flat = rearrange(where, "b t h w xy -> b (t h) w xy")  # time stacked on height: no copy of the texture per frame
    out = F.grid_sample(texture, flat, mode="bilinear", padding_mode=beyond, align_corners=False)
    return rearrange(out, "b c (t h) w -> b c t h w", t=t)


def rotation(angle: Tensor) -> Tensor:
    """[... 2 2] matrices that turn (x, y) by `angle` [...]."""
    c, s = angle.cos(), angle.sin()
    return torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)


def affine(matrix: Tensor, shift: Tensor, screen: Tensor) -> Tensor:
    """Matrix [b t 2 2] times (x, y) plus shift [b t 2] for all pixels [h w 2]: [b t h w 2]."""
    x, y = screen[0, :, 0, None], screen[:, 0, 1, None]  # the grid is separable: one addition per pixel is enough
    across = x * matrix[:, :, None, None, :, 0]  # b t 1 w 2
    down = y[:, None] * matrix[:, :, None, None, :, 1] + shift[:, :, None, None]  # b t h 1 2
    return across + down


# -- motion: closed forms of time ----------------------------------------------------------------------------------


def uneven_time(draw: Draw, time: Tensor, *shape: int) -> Tensor:
    """Time [b *shape t] as a thing experiences it: steady, in fits and starts, or at rest before or after a moment."""
    now = time.view(draw.b, *[1] * len(shape), -1) - MIDDLE
    period = draw.uniform(8, 30, *shape)[..., None]
    phase = draw.uniform(0, 2 * math.pi, *shape)[..., None]
    pulse = now + period / (2 * math.pi) * ((2 * math.pi * now / period + phase).sin() - phase.sin())
    turn = draw.uniform(-6, 6, *shape)[..., None]
    start = F.softplus(2 * (now - turn)) / 2
    stop = -F.softplus(2 * (turn - now)) / 2
    kind = draw.choice([0.55, 0.2, 0.13, 0.12], *shape)[..., None]
    return torch.where(kind == 0, now, torch.where(kind == 1, pulse, torch.where(kind == 2, start, stop)))


def swing(draw: Draw, time: Tensor, size: Tensor) -> Tensor:
    """A sinusoid [b ... t] around 0 of amplitude `size` [b ...] and a period of 6..40 frames."""
    shape = size.shape[1:]
    rate = 2 * math.pi / draw.log_uniform(6, 40, *shape)
    phase = draw.uniform(0, 2 * math.pi, *shape)
    now = time.view(draw.b, *[1] * len(shape), -1)
    return size[..., None] * (rate[..., None] * now + phase[..., None]).sin()


def gesture(draw: Draw, time: Tensor, size: Tensor) -> Tensor:
    """Moves [b ... t] between random poses within +-`size` [b ...], resting in between, as limbs do."""
    shape = size.shape[1:]
    poses = draw.uniform(-1, 1, *shape, NUM_POSES)
    period, phase = draw.uniform(5, 16, *shape)[..., None], draw.uniform(0, NUM_POSES, *shape)[..., None]
    share = draw.uniform(0.5, 1, *shape)[..., None]  # of a period spent moving
    now = time.view(draw.b, *[1] * len(shape), -1) / period + phase
    step = now.floor()
    part = ((now - step) / share).clamp(max=1)
    ease = part * part * (3 - 2 * part)
    before = poses.gather(-1, step.long() % NUM_POSES)
    after = poses.gather(-1, (step.long() + 1) % NUM_POSES)
    return size[..., None] * (before + (after - before) * ease)


def fold(x: Tensor, reach: Tensor) -> Tensor:
    """x thrown back at walls at +-reach: a triangle wave of slope 1."""
    return ((x - reach).remainder(4 * reach) - 2 * reach).abs() - reach


def wrap(x: Tensor, reach: Tensor) -> Tensor:
    """x that leaves at +reach and comes back at -reach."""
    return (x + reach).remainder(2 * reach) - reach


# -- camera --------------------------------------------------------------------------------------------------------


@dataclass
class Camera:
    """centre [b t 2], angle [b t] and zoom [b t] of the view; zooming flows from the `anchor` [b 1 2]."""

    centre: Tensor
    angle: Tensor
    zoom: Tensor
    anchor: Tensor

    def to_world(self, screen: Tensor) -> Tensor:
        """World places [b t h w 2] seen at `screen` [h w 2]."""
        turn = rotation(self.angle) / self.zoom[..., None, None]  # b t 2 2
        shift = self.anchor + self.centre - torch.einsum("btij,bsj->bti", turn, self.anchor)
        return affine(turn, shift, screen)

    def to_screen(self, world: Tensor) -> Tensor:
        """Screen places [b n t 2] of world places [b n t 2]."""
        turn = rotation(-self.angle) * self.zoom[..., None, None]
        return (
            torch.einsum("btij,bntj->bnti", turn, world - (self.centre + self.anchor)[:, None]) + self.anchor[:, None]
        )


def draw_camera(draw: Draw, time: Tensor, half: Tensor) -> Camera:
    """Two clips in five are filmed from a tripod; the others pan, zoom, turn, or shake, often several at once."""
    moving = ~draw.chance(0.4)
    kind = draw.choice([0.35, 0.3, 0.1, 0.1, 0.15])  # pan, zoom, turn, shake, all of it
    everything = kind == 4
    own = uneven_time(draw, time)  # b t

    pans, zooms, turns, shakes = (moving & ((kind == k) | everything) for k in range(4))
    heading, speed = draw.uniform(0, 2 * math.pi), draw.normal(1.2).abs().clamp(max=4) * PIXEL * pans
    way = torch.stack([heading.cos(), 0.5 * heading.sin()], -1)[:, None]  # b 1 2: pans are mostly sideways
    # Panned sideways for ever, a camera would look at the reflected texture: turn back inside it instead.
    centre = fold((speed[:, None] * own)[..., None] * way, half * 0.95)
    shake = draw.uniform(0.2, 1.2, 2) * PIXEL * shakes[:, None]
    centre = centre + (swing(draw, time, shake) + swing(draw, time * 2.3, shake * 0.5)).movedim(1, 2)

    rate = draw.normal(0.02).clamp(-0.06, 0.06) * zooms
    zoom = fold(rate[:, None] * own, torch.full_like(own, 0.45)).exp() * draw.uniform(0.95, 1.3)[:, None]
    angle = swing(draw, time, draw.uniform(0.02, 0.3) * turns)
    angle = angle + draw.normal(0.01)[:, None] * own * turns[:, None]
    anchor = draw.uniform(-0.4, 0.4, 1, 2) * zooms[:, None, None]
    return Camera(centre, angle, zoom, anchor)


# -- sprites -------------------------------------------------------------------------------------------------------


@dataclass
class Sprites:
    """Poses over time of the sprites: place [b n t 2], angle [b n t], extent [b n t 2] (half length and width)."""

    present: Tensor
    place: Tensor
    angle: Tensor
    extent: Tensor

    def to_local(self, screen: Tensor, k: int, some: Tensor) -> Tensor:
        """Screen places [h w 2] in the frame of sprite k of clips `some`: [b' t h w 2], -1..1 inside it."""
        turn = rotation(-self.angle[some, k]) / self.extent[some, k][..., None]  # b' t 2 2
        shift = torch.einsum("btij,btj->bti", turn, self.place[some, k])
        return affine(turn, -shift, screen)


def draw_sprites(draw: Draw, time: Tensor, half: Tensor, camera: Camera) -> Sprites:
    """Who is in the scene and how everyone moves, as seen by the camera."""
    n = MAX_SPRITES
    figure = draw.chance(0.35)[:, None]  # b 1: one jointed figure instead of a crowd
    count = 1 + draw.choice([0.25, 0.25, 0.2, 0.15, 0.1, 0.05])[:, None]
    order = torch.arange(n, device=draw.device)
    present = torch.where(figure, order < 6, order < count)

    # -- a crowd: each for itself, some swarming at one scale
    scale = draw.log_uniform(0.05, 0.5, 1).expand(-1, n)
    radius = torch.where(draw.chance(0.5, 1), scale, draw.log_uniform(0.05, 0.5, n))
    aspect = draw.log_uniform(0.6, 1.6, n)
    extent = torch.stack([radius * aspect, radius / aspect], -1)  # b n 2
    own = uneven_time(draw, time, n)[..., None]  # b n t 1
    start = draw.uniform(-0.9, 0.9, n, 2) * half
    heading = draw.uniform(0, 2 * math.pi, n)
    speed = (draw.normal(1.6, n).abs().clamp(max=6) * PIXEL) * ~draw.chance(0.12, n)
    velocity = torch.stack([heading.cos(), heading.sin() * draw.uniform(0.2, 1, n)], -1) * speed[..., None]
    pull = draw.normal(0.06 * PIXEL, n, 2) * draw.chance(0.3, n, 1)
    fall = pull[:, :, None] * own.clamp(-12, 12) ** 2 / 2
    sway = swing(draw, time, draw.normal(2.5 * PIXEL, n, 2) * draw.chance(0.35, n, 1)).movedim(2, 3)
    straight = start[:, :, None] + velocity[:, :, None] * own + fall + sway
    inside = (half - 0.7 * radius[..., None]).clamp(min=0.1)[:, :, None]
    outside = (half + 1.3 * radius[..., None])[:, :, None]
    place = torch.where(draw.chance(0.5, n)[..., None, None], fold(straight, inside), wrap(straight, outside))
    spin = draw.normal(0.06, n) * draw.chance(0.5, n)
    angle = draw.uniform(0, 2 * math.pi, n)[..., None] + spin[..., None] * own[..., 0]
    angle = angle + swing(draw, time, draw.normal(0.3, n) * draw.chance(0.3, n))
    grow = swing(draw, time, draw.normal(0.15, n) * draw.chance(0.4, n)).exp()
    breath = swing(draw, time, draw.normal(0.1, n) * draw.chance(0.2, n)).exp()  # squash and stretch

    # -- a figure: trunk, two arms of two parts, head, turning about joints
    size = draw.log_uniform(0.3, 0.75, 1)  # b 1
    trunk = torch.stack([size * draw.uniform(0.5, 0.8, 1), size * draw.uniform(0.9, 1.2, 1)], -1)  # b 1 2
    arm = torch.stack([size * draw.uniform(0.4, 0.6, 1), size * draw.uniform(0.12, 0.2, 1)], -1)
    head = torch.stack([size * draw.uniform(0.28, 0.36, 1), size * draw.uniform(0.35, 0.45, 1)], -1)
    arms = arm.expand(-1, 2, -1) * torch.tensor([[1.0], [0.9]], device=draw.device)
    body = torch.cat([trunk, arms, arms, head], 1)  # b 6 2
    at = draw.uniform(-0.35, 0.35, 1, 2) * half + torch.tensor([0.0, 0.35], device=draw.device)
    walk = (draw.normal(0.8, 1, 2) * PIXEL * draw.chance(0.4, 1, 1))[:, :, None] * own[:, :1]
    lean = swing(draw, time, draw.normal(0.06, 1))  # b 1 t
    moves = gesture(draw, time, draw.uniform(0.3, 1.3, n))
    rest = torch.tensor([0.0, 2.0, 0.4, 1.1, -0.4, 0.0], device=draw.device)  # arms hang down and outwards
    rest = rest[:, None] + draw.normal(0.3, n, 1)
    turn = torch.where(order[:, None] % 5 == 0, lean, rest + moves)  # trunk and head lean, limbs gesture
    stance = fold(at[:, :, None] + walk, (half * 0.8).expand(1, 1, 1, 2))
    body_place, body_angle = joints(draw, stance[:, 0], turn, body)

    pick = figure[..., None]  # b 1 1
    place = torch.where(pick[..., None], body_place, place)
    angle = torch.where(pick, body_angle, angle)
    extent = torch.where(pick, body, extent)[:, :, None] * torch.where(pick, torch.ones_like(grow), grow)[..., None]
    stretch = torch.where(pick, torch.ones_like(breath), breath)
    extent = extent * torch.stack([stretch, 1 / stretch], -1)

    # -- seen by the camera: some things are carried by it (a person filming himself), most stand in the world
    zoom, tilt = camera.zoom[:, None], camera.angle[:, None]
    return Sprites(present, camera.to_screen(place), angle - tilt, (extent * zoom[..., None]).clamp(min=0.03))


def joints(draw: Draw, trunk: Tensor, turn: Tensor, body: Tensor) -> tuple[Tensor, Tensor]:
    """Place [b n t 2] and angle [b n t] of the parts of a figure whose trunk is at `trunk` [b t 2].

    turn [b n t]: angle of each part against the one it hangs on; body [b n 2]: half length and half width.
    """
    side = {1: 1.0, 3: -1.0}
    places, angles = [trunk], [turn[:, 0]]
    for k, parent in list(enumerate(FIGURE))[1:]:
        if parent == 0 and k in side:  # a shoulder: at the upper corner of the trunk
            joint = body[:, 0] * torch.tensor([0.75 * side[k], -0.7], device=draw.device)
        elif parent == 0:  # the neck: on top of the trunk
            joint = body[:, 0] * torch.tensor([0.0, -0.9], device=draw.device)
        else:  # an elbow: at the far end of the upper arm
            joint = body[:, parent] * torch.tensor([0.85, 0.0], device=draw.device)
        angle = angles[parent] + turn[:, k]
        hinge = places[parent] + torch.einsum("btij,bj->bti", rotation(angles[parent]), joint)
        reach = body[:, k] * torch.tensor([0.0, -0.9] if k == 5 else [0.85, 0.0], device=draw.device)
        places.append(hinge + torch.einsum("btij,bj->bti", rotation(angle), reach))
        angles.append(angle)
    return torch.stack(places, 1), torch.stack(angles, 1)


# -- textures ------------------------------------------------------------------------------------------------------


def clouds(draw: Draw, channels: int, side: int, coarsest: int, slope: Tensor) -> Tensor:
    """Noise [b c side side] of about unit spread: octaves from `coarsest` cells on, each `slope` [b] times the last."""
    total = torch.zeros(draw.b, channels, side, side, device=draw.device)
    norm, weight = torch.zeros_like(slope), torch.ones_like(slope)
    cells = coarsest
    while cells <= side // 2:
        octave = F.interpolate(draw.normal(1.0, channels, cells, cells), (side, side), mode="bilinear")
        total += octave * weight[:, None, None, None]
        norm, weight, cells = norm + weight**2, weight * slope, cells * 2
    return total / (0.6 * norm.sqrt()[:, None, None, None])  # bilinear interpolation leaves about .6 of the spread


def colours(draw: Draw, *shape: int) -> Tensor:
    """Colours [b ... 3] in 0..1 as scenes have them: mostly dull, brightness spread wide, now and then vivid."""
    grey = draw.uniform(0.08, 0.9, *shape, 1)
    tint = draw.normal(1.0, *shape, 3)
    vivid = torch.where(draw.chance(0.25, *shape, 1), 0.25, 0.07)
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


def background(draw: Draw, side: int) -> Tensor:
    """Still scenery [b 3 side side] in 0..1: a wall, sometimes with a floor and a few blocks of other stuff on it."""
    scene = texture(draw, side, draw.log_uniform(3, 30))
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    for _ in range(3):  # blocks: furniture, doors, roads, houses
        stuff = texture(draw, side, draw.log_uniform(3, 30), coarsest=4)
        centre, reach = draw.uniform(-0.8, 0.8, 2, 1, 1), draw.log_uniform(0.06, 1.2, 2, 1, 1)
        turn = draw.normal(0.15, 1, 1)
        dx, dy = x - centre[:, 0], y - centre[:, 1]
        box = torch.maximum((dx + turn * dy).abs() / reach[:, 0], (dy - turn * dx).abs() / reach[:, 1])
        soft = side * reach.amin(1) / 3  # edges about three texels wide
        alpha = torch.sigmoid((1 - box) * soft) * draw.chance(0.45, 1, 1)
        scene = scene + (stuff - scene) * alpha[:, None]
    plain = draw.uniform(0, 1, 1, 1, 1) ** 2  # contrast: many walls are nearly plain
    mean = scene.mean((2, 3), keepdim=True)
    return mean + (scene - mean) * (0.1 + 0.9 * (1 - plain))


def sprite_sheets(draw: Draw, side: int) -> Tensor:
    """Sprites [b n 4 side side]: colours multiplied by their alpha, and the alpha, of random soft-edged shapes."""
    many = Draw(draw.generator, draw.b * MAX_SPRITES)
    skin = texture(many, side, many.log_uniform(1, 6))
    alpha = outline(many, side)[:, None]
    return rearrange(torch.cat([skin * alpha, alpha], 1), "(b n) c h w -> b n c h w", b=draw.b)


def outline(draw: Draw, side: int) -> Tensor:
    """Alpha [b side side] of ellipses, rounded boxes, polygons and wavy blobs that reach 0.85 of the square."""
    x, y = pixel_grid((side, side), draw.device).unbind(-1)
    radius, angle = (x * x + y * y).sqrt(), torch.atan2(y, x)
    power = draw.choice([0.5, 0.25, 0.25])[:, None, None]
    power = torch.where(power == 0, 2.0, torch.where(power == 1, 4.0, 8.0))
    box = ((x.abs() ** power + y.abs() ** power) + 1e-6) ** (1 / power)  # 2: ellipse, larger: rounded box
    lobes = torch.arange(2, 7, device=draw.device)
    size, phase = draw.normal(0.22, 5) / lobes.sqrt(), draw.uniform(0, 2 * math.pi, 5)
    wave = torch.einsum("bk,bkhw->bhw", size, (lobes[:, None, None] * angle + phase[..., None, None]).sin())
    blob = radius * (1 + wave.clamp(-0.6, 0.6).abs())
    corners = draw.choice([1, 1, 1, 1])[:, None, None] + 3  # 3..6
    sector = (angle + draw.uniform(0, 6, 1, 1)).remainder(2 * math.pi / corners) - math.pi / corners
    polygon = radius * sector.cos() / (math.pi / corners).cos()
    kind = draw.choice([0.5, 0.35, 0.15])[:, None, None]
    level = torch.where(kind == 0, box, torch.where(kind == 1, blob, polygon))
    soft = draw.log_uniform(0.06, 0.15)[:, None, None]
    return torch.sigmoid((0.85 - level) / soft * 3).clamp(0, 1) * (radius < 1.3)


# -- light and lens ------------------------------------------------------------------------------------------------


def light(draw: Draw, frames: Tensor, time: Tensor, screen: Tensor) -> Tensor:
    """Frames [b c t h w] under light that comes from a side, and in one clip of four changes."""
    changing = draw.chance(0.25)
    level = swing(draw, time, draw.uniform(0.03, 0.25) * changing)[:, None, :, None, None]
    tilt = torch.einsum("hwi,bi->bhw", screen, draw.normal(0.1, 2))[:, None, None]
    contrast = draw.uniform(0.6, 1.1)[:, None, None, None, None]
    return (0.5 + (frames - 0.5) * contrast) * (1 + level + tilt)


def blur(frames: Tensor, amount: Tensor) -> Tensor:
    """Frames [b c t h w] mixed with their 3 x 3 means by `amount` [b], nothing where that is negative."""
    b, c, t, h, w = frames.shape
    flat = F.pad(frames.reshape(b, c * t, h, w), (1, 1, 1, 1), mode="replicate")
    soft = F.avg_pool2d(flat, 3, stride=1).view(b, c, t, h, w)
    return torch.lerp(frames, soft, amount.clamp(min=0)[:, None, None, None, None])


def grain(draw: Draw, index: Tensor, size: tuple[int, int]) -> Tensor:
    """Sensor noise [b 3 t h w]: one sheet of noise per clip, seen through a window that jumps from frame to frame."""
    (h, w), b = size, len(index)
    sheet = draw.normal(1.0, 3, 2 * h, 2 * w) * (0.02 * draw.uniform(-0.5, 1).clamp(min=0))[:, None, None, None]
    # Noise drawn frame by frame would depend on how many frames are asked for; jumps by a hash of the time do not.
    jump = torch.stack([index * 7919 + 13, index * 104729 + 7], -1) % torch.tensor([h + 1, w + 1], device=index.device)
    rows = jump[..., 0, None] + torch.arange(h, device=index.device)  # b t h
    columns = jump[..., 1, None] + torch.arange(w, device=index.device)
    clip = torch.arange(b, device=index.device)[:, None, None, None]
    return sheet.movedim(1, -1)[clip, rows[..., None], columns[:, :, None]].movedim(-1, 1)
