"""Dense optical flow by pyramidal Lucas-Kanade, batched in torch, and warping by it.

Where a network has not learnt to follow motion yet, sixty lines of 1981 do well: content moves on as it moved between
two known frames (`guess.py`). The spatial gradients are those of the mean of both frames, coarse to fine.
"""

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import forward_ad

WINDOW = 7
"""Pixels of the window over which motion is taken as constant (chosen by measurement, docs/log.md)."""
ITERATIONS = 3
STIFFNESS = 1e-3
"""Added to the structure tensor: where a window shows no texture, its motion is left as the coarser level found it."""
COARSEST = 8
"""Short side in pixels at which the pyramid ends."""


def flow(a: Tensor, b: Tensor) -> Tensor:
    """Displacements [n 2 h w] (x, y in pixels) with a(p) = b(p + displacement(p)), for frames a, b [n c h w]."""
    pyramid = [(a, b)]
    while min(pyramid[-1][0].shape[-2:]) >= 2 * COARSEST:
        pyramid.append(tuple(F.avg_pool2d(x, 2, ceil_mode=True) for x in pyramid[-1]))  # type: ignore[arg-type]
    d = a.new_zeros(a.shape[0], 2, *pyramid[-1][0].shape[-2:])
    for a, b in reversed(pyramid):
        if d.shape[-2:] != a.shape[-2:]:
            d = 2 * F.interpolate(d, a.shape[-2:], mode="bilinear", align_corners=False)
        for _ in range(ITERATIONS):
            d = d + _step(a, warp(b, d))
        d = smooth(d, 3)
    return d


def _step(a: Tensor, b: Tensor) -> Tensor:
    """One Gauss-Newton step: the motion of each window that best explains a - b by the gradient of both."""
    mean = F.pad((a + b) / 2, (1, 1, 1, 1), mode="replicate")
    gx = (mean[..., 1:-1, 2:] - mean[..., 1:-1, :-2]) / 2
    gy = (mean[..., 2:, 1:-1] - mean[..., :-2, 1:-1]) / 2
    gt = a - b
    products = torch.stack([gx * gx, gx * gy, gy * gy, gx * gt, gy * gt], 1).sum(2)  # over channels
    xx, xy, yy, xt, yt = smooth(products, WINDOW).unbind(1)
    xx, yy = xx + STIFFNESS, yy + STIFFNESS
    determinant = xx * yy - xy * xy
    step = torch.stack([yy * xt - xy * yt, xx * yt - xy * xt], 1) / determinant[:, None]
    return step.clamp(-1, 1)  # a window that asks for more than a pixel at its level is guessing


def smooth(x: Tensor, window: int = WINDOW) -> Tensor:
    """Average over a round window: a box twice, the border repeated outwards."""
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, (window // 2,) * 4, mode="replicate"), window, 1)
    return x


def warp(x: Tensor, displacement: Tensor) -> Tensor:
    """x(p + displacement(p)) [n c h w], bilinear, the border repeated outwards; displacement [n 2 h w] in pixels."""
    h, w = x.shape[-2:]
    ys = torch.linspace(-1 + 1 / h, 1 - 1 / h, h, device=x.device, dtype=x.dtype)
    xs = torch.linspace(-1 + 1 / w, 1 - 1 / w, w, device=x.device, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(xs, ys, indexing="xy"), -1)
    place = grid + displacement.movedim(1, -1) * torch.tensor([2 / w, 2 / h], device=x.device, dtype=x.dtype)
    place, slope = forward_ad.unpack_dual(place.nan_to_num())  # grid_sample reads beyond its memory where it is nan
    x, change = forward_ad.unpack_dual(x)
    out, tangents = _bilinear(x, place), []
    if slope is not None:
        tangents.append(_along(x, place, slope))
    if change is not None:
        tangents.append(_bilinear(change, place))  # a warp is linear in what is warped
    return forward_ad.make_dual(out, sum(tangents)) if tangents else out


def _bilinear(x: Tensor, place: Tensor) -> Tensor:
    return F.grid_sample(x, place, padding_mode="border", align_corners=False)


def _along(x: Tensor, place: Tensor, slope: Tensor) -> Tensor:
    """The derivative of `_bilinear` when place [n h w 2] moves by slope; torch's has none in forward mode.

    Between two pixels it is the difference of the values at both, in each axis.
    """
    size = torch.tensor([x.shape[-1], x.shape[-2]], device=x.device, dtype=x.dtype)
    pixel = ((place + 1) * size - 1) / 2
    slope = slope * size / 2 * ((pixel > 0) & (pixel < size - 1))  # beyond the border nothing changes
    total = torch.zeros_like(x)
    for axis in (0, 1):
        before, after = pixel.clone(), pixel.clone()
        before[..., axis] = pixel[..., axis].floor()
        after[..., axis] = before[..., axis] + 1
        change = _bilinear(x, (2 * after + 1) / size - 1) - _bilinear(x, (2 * before + 1) / size - 1)
        total = total + change * slope[..., axis][:, None]
    return total
