"""Which device and which precision the network runs in."""

import contextlib
from pathlib import Path

import torch

from videodiff.errors import UserError


def pick_device(name: str) -> torch.device:
    """`auto`: the first CUDA device, then MPS, then the CPU. A named device must exist."""
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    kind = name.split(":")[0]
    if kind == "cuda" and not torch.cuda.is_available():
        raise UserError(f"device {name!r} is not available: this torch sees no CUDA device; use --device cpu")
    if kind == "mps" and not torch.backends.mps.is_available():
        raise UserError("device 'mps' is not available here; use --device cpu")
    device = torch.device(name)
    if kind == "cuda" and device.index is not None and device.index >= torch.cuda.device_count():
        raise UserError(f"device {name!r} is not available: there are {torch.cuda.device_count()} CUDA devices")
    return device


def pick_precision(name: str, device: torch.device) -> torch.dtype:
    """The network's dtype: `auto` is bfloat16 where the device computes it natively, else float32."""
    if name == "auto":
        return torch.bfloat16 if fast_bfloat16(device) else torch.float32
    if name == "float16" and device.type == "cpu":
        # A matmul of 256 took 22 times as long as in float32, larger ones more (docs/log.md).
        raise UserError("float16 is unusably slow on the CPU; use --precision bfloat16 or float32")
    return getattr(torch, name)


def fast_bfloat16(device: torch.device) -> bool:
    """Whether the device has bfloat16 arithmetic."""
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= (8, 0)
    if device.type == "cpu":
        return bool(torch.cpu._is_avx512_bf16_supported()) or bool(torch.cpu._is_amx_tile_supported())
    return False


def free_memory(device: torch.device) -> int | None:
    """Bytes that can still be taken on the device; None where the system does not say."""
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    table = Path("/proc/meminfo")  # Linux
    if device.type != "cpu" or not table.is_file():
        return None
    line = next(line for line in table.read_text().splitlines() if line.startswith("MemAvailable:"))
    return int(line.split()[1]) * 1024


def device_lost(error: Exception) -> bool:
    """Whether an error leaves the device unusable for this process: after a fault CUDA answers with faults alone."""
    return isinstance(error, torch.AcceleratorError)


def autocast(device: torch.device, precision: torch.dtype) -> contextlib.AbstractContextManager:
    """Autocast for training; nothing in float32."""
    if precision == torch.float32:
        return contextlib.nullcontext()
    return torch.autocast(device.type, precision)
