"""Scaled dot-product attention behind one function, and the only place that knows xformers.

`attention(q, k, v, bias, backend)` computes softmax(q k^T / sqrt(d) + bias) v. Which kernel does it is a choice of
speed alone; all back ends agree (tests/test_attention.py).

auto      plain matmuls for short sequences in bfloat16 on CPU, scaled_dot_product_attention for everything else
sdpa      torch.nn.functional.scaled_dot_product_attention (flash, memory-efficient or cuDNN inside)
xformers  xformers.ops.memory_efficient_attention, after a real call has passed on this device and dtype
math      plain matmuls
"""

import functools
from collections.abc import Callable
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from videodiff.errors import MissingExtra, UserError

Backend = Literal["auto", "sdpa", "xformers", "math"]

SHORT_SEQUENCE = 64
"""Up to this many keys SDPA in bfloat16 on CPU is 1.5 times (forward) to 12 times (with backward) slower than plain
matmuls; in float32 it is the faster one (docs/log.md, benchmarks/kernels.py)."""


def attention(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None = None, backend: Backend = "auto") -> Tensor:
    """softmax(q k^T / sqrt(d) + bias) v.

    q [n heads tq d], k and v [n heads tk d], bias broadcastable to [n heads tq tk] (-inf forbids). Result like q.
    """
    if backend == "auto":
        short = q.device.type == "cpu" and q.dtype == torch.bfloat16 and k.shape[-2] <= SHORT_SEQUENCE
        backend = "math" if short else "sdpa"
    return BACKENDS[backend](q, k, v, bias)


def _math(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    logits = (q * q.shape[-1] ** -0.5) @ k.transpose(-1, -2)
    if bias is not None:
        logits = logits + bias
    return logits.softmax(-1, dtype=torch.promote_types(logits.dtype, torch.float32)).to(v.dtype) @ v


def _sdpa(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    # On strided views it leaves its fast kernel: 100 times the memory, 5 times the time (docs/log.md).
    q, k, v = (x.contiguous() for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bias is None else bias.to(q.dtype))


def _xformers(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    check_xformers(q.device.type, q.dtype)
    return _xformers_unchecked(q, k, v, bias)


def _xformers_unchecked(q: Tensor, k: Tensor, v: Tensor, bias: Tensor | None) -> Tensor:
    from xformers.ops import memory_efficient_attention

    n, heads, tq, _ = q.shape
    if bias is not None:
        # Its kernels want a contiguous bias of the full shape whose last stride is a multiple of 8.
        tk = k.shape[-2]
        room = -(-tk // 8) * 8
        bias = F.pad(bias.to(q.dtype).expand(n, heads, tq, tk), (0, room - tk)).contiguous()[..., :tk]
    q, k, v = (x.transpose(1, 2).contiguous() for x in (q, k, v))  # n t heads d
    return memory_efficient_attention(q, k, v, attn_bias=bias).transpose(1, 2)


@functools.cache
def check_xformers(device: str, dtype: torch.dtype) -> None:
    """Pass silently if xformers attends correctly here, by a real call; else MissingExtra or UserError says why not.

    xformers imports with a warning on machines where its kernels do not load, so only a call tells.
    """
    try:
        import xformers.ops  # noqa: F401
    except Exception as error:  # a mismatched build raises OSError or RuntimeError, not only ImportError
        raise MissingExtra(
            f"xformers cannot be imported ({type(error).__name__}: {error}); "
            "pip install 'videodiff[xformers]', or choose attention 'auto'"
        ) from error
    q, k, v = (torch.randn(2, 4, 16, 32, device=device, dtype=dtype) for _ in range(3))
    bias = torch.randn(1, 4, 16, 16, device=device, dtype=dtype)
    try:
        worst = (_xformers_unchecked(q, k, v, bias) - _math(q, k, v, bias)).abs().max().item()
    except Exception as error:  # NotImplementedError where no operator fits, CUDA errors for foreign builds
        raise UserError(
            f"xformers has no working attention for {dtype} on {device}; choose attention 'auto' or 'sdpa'"
        ) from error
    if not worst <= (1e-4 if dtype == torch.float32 else 3e-2):  # nan is not right either
        raise UserError(f"xformers' attention is off by {worst:.1e} on {device}; choose attention 'auto' or 'sdpa'")


BACKENDS: dict[str, Callable[[Tensor, Tensor, Tensor, Tensor | None], Tensor]] = {
    "sdpa": _sdpa,
    "xformers": _xformers,
    "math": _math,
}
