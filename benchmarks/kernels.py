"""Which kernels the network should use on this CPU: prints process CPU seconds with one thread, alternated, medians.

python benchmarks/kernels.py
"""

import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F

from videodiff.models.attention import attention


def compare(title: str, ways: dict[str, Callable[[], object]], rounds: int = 5) -> None:
    """Print the median CPU seconds of each way and its ratio to the first."""
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    for way in ways.values():
        way()  # first calls build primitives
    for _ in range(rounds):
        for name, way in ways.items():
            began = time.process_time()
            way()
            seconds[name].append(time.process_time() - began)
    first = statistics.median(seconds[next(iter(ways))])
    print(title)
    for name, values in seconds.items():
        middle = statistics.median(values)
        print(f"  {name:<28} {middle:8.4f} s   {middle / first:6.2f}x   ({min(values):.4f} to {max(values):.4f})")


def attention_step(backend: str, dtype: torch.dtype, backward: bool) -> Callable[[], object]:
    """Attention over 16 frames at 32x32 places of 8 clips, as the widest temporal attention of the native network."""
    q, k, v = (torch.randn(8192, 1, 16, 32, dtype=dtype, requires_grad=backward) for _ in range(3))
    bias = torch.randn(8192, 1, 16, 16, dtype=dtype)

    def run() -> object:
        out = attention(q, k, v, bias, backend)  # type: ignore[arg-type]
        if backward:
            out.float().sum().backward()
        return out

    return run


def group_norm(layout: torch.memory_format, dtype: torch.dtype, copy: bool = False) -> Callable[[], object]:
    """Group norm on 128 maps of 8x8 and 128 channels."""
    x = torch.randn(128, 128, 8, 8, dtype=dtype).contiguous(memory_format=layout)
    weight = torch.ones(128, dtype=dtype)

    def run() -> object:
        return [F.group_norm(x.contiguous() if copy else x, 8, weight, weight) for _ in range(5)]

    return run


def main() -> None:
    """All comparisons."""
    torch.set_num_threads(1)
    for backward in (False, True):
        way = "forward and backward" if backward else "forward"
        compare(
            f"attention, 8192 sequences of 16, {way}",
            {
                f"{backend} {str(dtype).removeprefix('torch.')}": attention_step(backend, dtype, backward)
                for dtype in (torch.float32, torch.bfloat16)
                for backend in ("math", "sdpa")
            },
        )
    compare(
        "group norm, 5 x 128 maps of 8x8x128",
        {
            "float32 contiguous": group_norm(torch.contiguous_format, torch.float32),
            "float32 channels_last": group_norm(torch.channels_last, torch.float32),
            "bfloat16 contiguous": group_norm(torch.contiguous_format, torch.bfloat16),
            "bfloat16 channels_last": group_norm(torch.channels_last, torch.bfloat16),
            "bfloat16 channels_last, copied": group_norm(torch.channels_last, torch.bfloat16, copy=True),
        },
    )


if __name__ == "__main__":
    main()
