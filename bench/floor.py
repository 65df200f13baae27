"""What the machine can do at best, measured in the run that it is compared with."""

from collections.abc import Callable

import torch

from bench.clock import DEVICE, sampler

_SIDE = 1536
_COPY_BYTES = {"cpu": 256 << 20, "cuda": 1 << 30}  # beyond any cache


def measure_floor(device: torch.device, dtype: torch.dtype, repeats: int = 7) -> dict[str, float]:
    """Rate of a 1536³ product in ``dtype`` and bandwidth of a copy (bytes read and written), medians of ``repeats``."""
    left, right = (torch.randn(_SIDE, _SIDE, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    product = _median(lambda: torch.mm(left, right, out=out), device, repeats)
    source = torch.zeros(_COPY_BYTES[device.type], dtype=torch.uint8, device=device)
    target = torch.zeros_like(source)
    copy = _median(lambda: target.copy_(source), device, repeats)
    return {"flop_per_s": 2 * _SIDE**3 / product, "bytes_per_s": 2 * source.numel() / copy}


def _median(call: Callable[[], object], device: torch.device, repeats: int) -> float:
    """Median seconds of ``call``."""
    sample = sampler(DEVICE, device)
    seconds = [sample(call, 1) for _ in range(repeats + 2)]
    return sorted(seconds[2:])[repeats // 2]
