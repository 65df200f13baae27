"""How a call is timed."""

import time
from collections.abc import Callable
from typing import Protocol

import torch

WALL, DEVICE = "wall", "device"  # as a user waits; the GPU's own time
_TURNS = 5


class Sampler(Protocol):
    """Seconds of one call, as the mean of ``count``."""

    def __call__(self, call: Callable[[], object], count: int) -> float: ...


def wall(device: torch.device, clock: Callable[[], float] = time.perf_counter) -> Sampler:
    """Wall clock, with the device's work finished at both ends."""

    def sample(call: Callable[[], object], count: int) -> float:
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        began = clock()
        for _ in range(count):
            call()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return (clock() - began) / count

    return sample


def events(device: torch.device) -> Sampler:
    """The GPU's time from event to event, with nothing of a call's arguments left in its second cache.

    Emptying the cache takes long enough that the host is ahead of the GPU when a short call begins: what is measured
    is the kernels, not their launches, of which Triton's take up to half a millisecond a call.
    """
    cache = torch.cuda.get_device_properties(device).L2_cache_size
    other = torch.empty(max(4 * cache, 1 << 30), dtype=torch.uint8, device=device)  # some 0.3 ms a turn

    def sample(call: Callable[[], object], count: int) -> float:
        pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(count)]
        for began, ended in pairs:
            for _ in range(_TURNS):
                other.zero_()
            began.record()
            call()
            ended.record()
        torch.cuda.synchronize(device)
        return sum(began.elapsed_time(ended) for began, ended in pairs) / (1e3 * count)

    return sample


def sampler(name: str, device: torch.device) -> Sampler:
    """The clock ``name``; on a CPU there is one alone."""
    return events(device) if name == DEVICE and device.type == "cuda" else wall(device)
