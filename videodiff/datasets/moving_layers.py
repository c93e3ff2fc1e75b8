"""Moving layers: endless made-up clips that teach how things in videos move.

A clip is a stack of layers seen by a camera: scenery, then up to eight sprites, nearest last. Sprites have random
shapes, patterns and colours. They go their own ways (drift, acceleration, swing, start and stop, bounce, pass through),
or make up a jointed figure that gestures, or stand by a road on which the camera drives. Otherwise the camera stands
still, pans, zooms, turns or shakes. Light changes, a little blur and sensor noise come last.

Everything is a closed form of time, and every random number is drawn before the first frame: the same generator state
is the same scene, whichever of its frames are asked for.

Lengths are in units of half the frame's shorter side, which so spans -1..1; x points right, y down.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from videodiff.datasets.draw import Draw
from videodiff.datasets.motion import fold, gesture, swing, uneven_time, wrap
from videodiff.datasets.source import frame_index
from videodiff.datasets.textures import blur, grain, light, outline, pixel_grid, scenery, texture

# Shares, sizes and speeds in this file are chosen by looking at contact sheets beside real clips, not tuned.
PIXEL = 1 / 32  # one pixel of a 64 pixel frame
NUM_SPRITES = 8
FIGURE, ROAD = 0.3, 0.08  # shares of clips that show a jointed figure and a drive; the rest show a crowd
SHEET = 0.75  # side of a sprite's picture over the shorter side of the frame

PARTS = (  # of a figure: the part it hangs on, the joint in that part's square -1..1, the joint in its own
    (None, (0.0, 0.0), (0.0, 0.0)),  # trunk
    (0, (0.0, -0.9), (0.0, 0.75)),  # head
    (0, (0.7, -0.65), (-0.75, 0.0)),  # upper arm
    (2, (0.7, 0.0), (-0.7, 0.0)),  # forearm
    (3, (0.75, 0.0), (-0.4, 0.0)),  # hand
    (0, (-0.7, -0.65), (-0.75, 0.0)),
    (5, (0.7, 0.0), (-0.7, 0.0)),
    (6, (0.75, 0.0), (-0.4, 0.0)),
)
CLOTHED, BARE = (0, 1, 0, 0, 1, 0, 0, 1), (0, 1, 0, 1, 1, 0, 1, 1)  # which sheet a part is made of
REST = (0.0, 0.0, 1.3, 0.9, 0.0, 1.85, -0.9, 0.0)  # angle against the part it hangs on: arms hang, elbows bend inwards
REACH = (0.0, 0.1, 0.6, 1.1, 0.5, 0.6, 1.1, 0.5)  # and how far it gestures from there


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
    time, side = index.float(), max(32, min(size))
    half = torch.tensor([size[1], size[0]], device=draw.device) / min(size)  # half width and height of the frame
    span = max(2.0, max(size) / min(size) + 0.7)  # the scenery reaches from -span to span, so a camera has room to pan
    screen = pixel_grid(size, draw.device)  # h w 2, (x, y)

    # -- the scene -----------------------------------------------------------------------------------------------------
    kind = draw.choice([FIGURE, ROAD, 1 - FIGURE - ROAD])
    figure, road = kind == 0, kind == 1
    camera = draw_camera(draw, time, span - half, road)
    drive = draw_drive(draw, time)
    sprites = choose(figure, draw_figure(draw, time, half, camera), draw_crowd(draw, time, half, camera))
    sprites = choose(road, draw_roadside(draw, drive), sprites)
    # Pictures come after all motion, because how much they draw depends on the size of the frame.
    wall, ground = scenery(draw, 2 * side), texture(draw, side, draw.log_uniform(2, 8))  # b 3 s s
    sheets = draw_sheets(draw, int(SHEET * side), figure, sprites.size)  # b n 4 k k

    # -- back to front -------------------------------------------------------------------------------------------------
    frames = sample(wall, camera.to_world(screen) / span, "reflection")  # b c t h w
    some = road.nonzero().squeeze(1)
    if len(some):
        frames[some] = pave(frames[some], ground[some], drive, screen, some)
    for k in range(NUM_SPRITES):
        some = sprites.present[:, k].nonzero().squeeze(1)
        if len(some):
            local = sprites.to_local(screen, k, some)  # b' t h w 2, the sprite fills -1..1
            layer = sample(sheets[some, k], local, "zeros")  # b' 4 t h w, colours multiplied by alpha
            frames[some] = frames[some].mul_(1 - layer[:, 3:]).add_(layer[:, :3])

    # -- what light and lens make of it --------------------------------------------------------------------------------
    frames = light(draw, frames, time, screen)
    frames = blur(frames, draw.uniform(-0.5, 0.6))
    frames = frames + grain(draw, index, size)
    grey = draw.chance(0.15) | (channels == 1)
    frames = torch.where(grey[:, None, None, None, None], frames.mean(1, keepdim=True), frames)[:, :channels]
    return rearrange(frames.clamp(0, 1), "b c t h w -> b t c h w") * 2 - 1


def sample(pictures: Tensor, where: Tensor, beyond: str) -> Tensor:
    """Pictures [b c s s], spanning -1..1, looked up at `where` [b t h w 2]: [b c t h w]."""
    t = where.shape[1]
    flat = rearrange(where, "b t h w xy -> b (t h) w xy")  # time stacked on height: no copy of the picture per frame
    out = F.grid_sample(pictures, flat, mode="bilinear", padding_mode=beyond, align_corners=False)
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


# -- camera ------------------------------------------------------------------------------------------------------------


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


def draw_camera(draw: Draw, time: Tensor, room: Tensor, steady: Tensor) -> Camera:
    """Half of the clips are filmed from a tripod, and those `steady` [b] too; the others pan, zoom, turn or shake."""
    moving = ~draw.chance(0.5) & ~steady
    kind = draw.choice([0.35, 0.3, 0.1, 0.1, 0.15])  # pan, zoom, turn, shake, all of it
    pans, zooms, turns, shakes = (moving & ((kind == k) | (kind == 4)) for k in range(4))
    own = uneven_time(draw, time)  # b t

    heading, speed = draw.uniform(0, 2 * math.pi), draw.normal(0.9).abs().clamp(max=4) * PIXEL * pans
    way = torch.stack([heading.cos(), 0.5 * heading.sin()], -1)[:, None]  # b 1 2: pans are mostly sideways
    centre = fold((speed[:, None] * own)[..., None] * way, room * 0.95)  # the scenery ends: turn back before that
    shake = draw.uniform(0.2, 1.2, 2) * PIXEL * shakes[:, None]
    centre = centre + (swing(draw, time, shake) + swing(draw, time * 2.3, shake * 0.5)).movedim(1, 2)

    rate = draw.normal(0.018).clamp(-0.06, 0.06) * zooms
    zoom = fold(rate[:, None] * own, torch.tensor(0.45, device=draw.device)).exp() * draw.uniform(0.95, 1.3)[:, None]
    angle = swing(draw, time, draw.uniform(0.02, 0.3) * turns) + (draw.normal(0.01) * turns)[:, None] * own
    return Camera(centre, angle, zoom, draw.uniform(-0.4, 0.4, 1, 2) * zooms[:, None, None])


# -- sprites -----------------------------------------------------------------------------------------------------------


@dataclass
class Sprites:
    """On the screen: place [b n t 2], angle [b n t], extent [b n t 2] (half length and half width).

    present [b n]: who is there at all; size [b n]: about how large, at any time.
    """

    present: Tensor
    place: Tensor
    angle: Tensor
    extent: Tensor
    size: Tensor

    def to_local(self, screen: Tensor, k: int, some: Tensor) -> Tensor:
        """Screen places [h w 2] in the square of sprite k of the clips `some`: [b' t h w 2], -1..1 inside it."""
        turn = rotation(-self.angle[some, k]) / self.extent[some, k][..., None]  # b' t 2 2
        return affine(turn, -torch.einsum("btij,btj->bti", turn, self.place[some, k]), screen)


def choose(which: Tensor, these: Sprites, those: Sprites) -> Sprites:
    """`these` in the clips where `which` [b] is True, `those` in the others."""

    def pick(this: Tensor, that: Tensor) -> Tensor:
        return torch.where(which.view(-1, *[1] * (this.ndim - 1)), this, that)

    return Sprites(*(pick(getattr(these, name), getattr(those, name)) for name in Sprites.__dataclass_fields__))


def draw_crowd(draw: Draw, time: Tensor, half: Tensor, camera: Camera) -> Sprites:
    """One to six things that go their own ways: ahead in fits and starts, falling, swaying, spinning, growing."""
    n = NUM_SPRITES
    count = 1 + draw.choice([0.25, 0.25, 0.2, 0.15, 0.1, 0.05], 1)
    present = torch.arange(n, device=draw.device) < count
    radius = torch.where(draw.chance(0.5, 1), draw.log_uniform(0.05, 0.5, 1), draw.log_uniform(0.05, 0.5, n))
    aspect = draw.log_uniform(0.6, 1.6, n)
    extent = torch.stack([radius * aspect, radius / aspect], -1)  # b n 2

    own = uneven_time(draw, time, n)  # b n t
    start = draw.uniform(-0.9, 0.9, n, 2) * half
    heading, speed = draw.uniform(0, 2 * math.pi, n), draw.normal(1.5, n).abs().clamp(max=6) * PIXEL
    way = torch.stack([heading.cos(), heading.sin() * draw.uniform(0.2, 1, n)], -1)
    velocity = way * (speed * ~draw.chance(0.12, n))[..., None]  # b n 2
    pull = draw.normal(0.06 * PIXEL, n, 2) * draw.chance(0.3, n, 1)
    sway = swing(draw, time, draw.normal(2.5 * PIXEL, n, 2) * draw.chance(0.35, n, 1)).movedim(2, 3)
    world = start[:, :, None] + velocity[:, :, None] * own[..., None] + sway
    world = world + pull[:, :, None] * own[..., None].clamp(-12, 12) ** 2 / 2

    # Half of them bounce off the walls of their world; the others leave the screen and come back on its other side.
    inside = (half - 0.7 * radius[..., None]).clamp(min=0.1)[:, :, None]
    outside = (half + 2 * extent.amax(-1, keepdim=True))[:, :, None]
    bounce = draw.chance(0.5, n)[..., None, None]
    place = torch.where(bounce, camera.to_screen(fold(world, inside)), wrap(camera.to_screen(world), outside))
    spin = draw.normal(0.06, n) * draw.chance(0.5, n)
    angle = draw.uniform(0, 2 * math.pi, n)[..., None] + spin[..., None] * own - camera.angle[:, None]
    angle = angle + swing(draw, time, draw.normal(0.3, n) * draw.chance(0.3, n))
    grow = swing(draw, time, draw.normal(0.15, n) * draw.chance(0.4, n)).exp() * camera.zoom[:, None]
    breath = swing(draw, time, draw.normal(0.1, n) * draw.chance(0.2, n)).exp()
    extent = extent[:, :, None] * torch.stack([grow * breath, grow / breath], -1)
    return Sprites(present, place, angle, extent, radius)


def draw_figure(draw: Draw, time: Tensor, half: Tensor, camera: Camera) -> Sprites:
    """A trunk with head and two arms that gesture; large ones stand at the lower edge, small ones walk."""
    # -- build
    large = draw.chance(0.65, 1)  # b 1
    size = torch.where(large, draw.log_uniform(0.4, 0.9, 1), draw.log_uniform(0.12, 0.4, 1))
    trunk = torch.stack([size * draw.uniform(0.5, 0.8, 1), size * draw.uniform(0.9, 1.2, 1)], -1)  # b 1 2
    head = size[..., None] * draw.uniform(0.28, 0.4, 1, 1) * torch.tensor([0.85, 1.1], device=draw.device)
    upper = torch.stack([size * draw.uniform(0.38, 0.55, 1), size * draw.uniform(0.14, 0.22, 1)], -1)
    hand = size[..., None] * draw.uniform(0.13, 0.2, 1, 2)
    arm = [upper, upper * 0.9, hand]
    body = torch.cat([trunk, head, *arm, *arm], 1)  # b n 2

    # -- moves
    calm = draw.chance(0.15, NUM_SPRITES)  # this part keeps still
    amount = torch.tensor(REACH, device=draw.device) * draw.uniform(0.3, 1.2, 1) * ~calm
    turn = gesture(draw, time, amount) + swing(draw, time, draw.normal(0.03, NUM_SPRITES))  # b n t
    turn = turn + torch.tensor(REST, device=draw.device)[:, None] + draw.normal(0.2, NUM_SPRITES, 1) * ~calm[..., None]
    walk = draw.normal(1.0, 2) * PIXEL * torch.where(large, draw.chance(0.2, 1) * 0.5, draw.chance(0.8, 1) * 1.0)
    stand = draw.uniform(-0.4, 0.4, 2) * half + torch.where(large, torch.tensor([0.0, 0.45], device=draw.device), 0)
    path = fold(stand[:, None] + walk[:, None] * uneven_time(draw, time)[..., None], half * 0.8)  # b t 2

    # -- joints, from the trunk outwards
    places, angles = [path], [turn[:, 0]]
    for k, (parent, joint, pivot) in list(enumerate(PARTS))[1:]:
        assert parent is not None
        angle = angles[parent] + turn[:, k]
        joint_there, joint_here = (torch.tensor(at, device=draw.device) for at in (joint, pivot))
        hinge = places[parent] + turned(angles[parent], joint_there * body[:, parent])
        places.append(hinge - turned(angle, joint_here * body[:, k]))
        angles.append(angle)
    place, angle = torch.stack(places, 1), torch.stack(angles, 1)
    extent = body[:, :, None] * camera.zoom[:, None, :, None]
    present = torch.ones(draw.b, NUM_SPRITES, dtype=torch.bool, device=draw.device)
    return Sprites(present, camera.to_screen(place), angle - camera.angle[:, None], extent, body.prod(-1).sqrt())


def turned(angle: Tensor, arm: Tensor) -> Tensor:
    """The vectors `arm` [b 2] turned by `angle` [b t]: [b t 2]."""
    return torch.einsum("btij,bj->bti", rotation(angle), arm)


def draw_sheets(draw: Draw, side: int, figure: Tensor, size: Tensor) -> Tensor:
    """Sprite pictures [b n 4 side side]: colours multiplied by their alpha, and the alpha, as sharp as they show."""
    n = NUM_SPRITES
    many = Draw(draw.generator, draw.b * n)
    skin = rearrange(texture(many, side, many.log_uniform(1, 6)), "(b n) c h w -> b n c h w", n=n)
    clothed, bare, each = (torch.tensor(sheet, device=draw.device) for sheet in (CLOTHED, BARE, range(n)))
    made_of = torch.where(figure[:, None], torch.where(draw.chance(0.4, 1), bare, clothed), each)  # b n
    skin = skin[torch.arange(draw.b, device=draw.device)[:, None], made_of]
    limb = figure.repeat_interleave(n)  # parts of a figure are smooth and full
    alpha = rearrange(outline(many, side, smooth=limb), "(b n) h w -> b n 1 h w", n=n)
    sheets = torch.cat([skin * alpha, alpha], 2)

    # A sprite shown smaller than its picture would flicker, so its picture is averaged over the texels of a pixel, by
    # the nearest of three halvings.
    level = (SHEET / size).log2().round().clamp(0, 3)
    for halvings in (1, 2, 3):
        few = level == halvings
        coarse = F.avg_pool2d(sheets[few], 2**halvings)
        sheets[few] = F.interpolate(coarse, (side, side), mode="bilinear", align_corners=False)
    return sheets


# -- a drive -----------------------------------------------------------------------------------------------------------

NEAR, FAR = 0.4, 6.0  # distances between which things by the road come up, in heights of the camera above it


@dataclass
class Drive:
    """horizon [b 2]: the point the road leads to; way [b t]: how far the camera has come, in its heights."""

    horizon: Tensor
    way: Tensor


def draw_drive(draw: Draw, time: Tensor) -> Drive:
    """A camera that drives ahead, steadily or not, turning its head a little."""
    horizon = torch.stack([draw.uniform(-0.4, 0.4), draw.uniform(-0.5, 0.1)], -1)
    return Drive(horizon, draw.log_uniform(0.02, 0.16)[:, None] * uneven_time(draw, time))


def draw_roadside(draw: Draw, drive: Drive) -> Sprites:
    """Things that stand by the road and come up: at distance z a thing of height 1 looks 1 / z high."""
    n = NUM_SPRITES
    first = (torch.arange(n, 0, -1, device=draw.device) + draw.uniform(-0.4, 0.4, n)) * (FAR / n)  # the far ones first
    z = NEAR + (first[..., None] - drive.way[:, None]).remainder(FAR)  # b n t
    size = draw.log_uniform(0.15, 0.6, n, 2)
    side = torch.where(draw.chance(0.5, n), 1.0, -1.0) * draw.uniform(0.6, 2.5, n)
    foot = torch.stack([side, 1 - 0.85 * size[..., 1]], -1)  # b n 2
    place = drive.horizon[:, None, None] + foot[:, :, None] / z[..., None]
    extent, tilt = size[:, :, None] / z[..., None], draw.normal(0.05, n, 1).expand_as(z)
    return Sprites(draw.chance(0.7, n), place, tilt, extent, size.prod(-1).sqrt() / NEAR)


def pave(frames: Tensor, ground: Tensor, drive: Drive, screen: Tensor, some: Tensor) -> Tensor:
    """Frames [b' c t h w] of the clips `some` with a plane below the horizon that runs towards the camera."""
    x, y = (screen - drive.horizon[some, None, None]).unbind(-1)  # b' h w
    depth = 1 / y.clamp(min=0.1)
    across, along = (x * depth)[:, None], depth[:, None] + drive.way[some][..., None, None]  # b' 1 h w, b' t h w
    where = 0.4 * torch.stack([across.expand_as(along), along], -1)
    road = sample(ground, where, "reflection")
    mean = ground.mean((2, 3))[..., None, None, None]
    clear = ((y - 0.15) / 0.35).clamp(0, 1)[:, None, None]  # far away the texture is finer than a pixel: fade it
    road = mean + (road - mean) * clear
    return torch.lerp(frames, road, (y / PIXEL + 0.5).clamp(0, 1)[:, None, None])
