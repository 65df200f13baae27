"""What a call costs besides time: dispatched operators and allocated bytes."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch.profiler import ProfilerActivity, profile
from torch.utils._python_dispatch import TorchDispatchMode


class Memory(NamedTuple):
    """Bytes that a call needs beyond what was there before it."""

    peak: int
    allocated: int


class _Counter(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        self.count += 1
        return function(*args, **(kwargs or {}))


def count_operators(call: Callable[[], object]) -> int:
    """Operators that PyTorch dispatches in ``call``, its backward included.

    An operator of ours counts once, whatever it calls inside.
    """
    with _Counter() as counter:
        call()
    return counter.count


def count_memory(call: Callable[[], object], device: torch.device) -> Memory:
    """Peak and total of the bytes that PyTorch's allocator hands out during ``call``.

    What a library allocates past it (workspaces of MKL) and, on the CPU, what other threads than the calling one
    allocate is not seen.
    """
    if device.type == "cuda":
        return _on_cuda(call, device)
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as recording:
        call()
    events = [event for event in recording.profiler.kineto_results.events() if event.name() == "[memory]"]
    running = peak = allocated = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        running += event.nbytes()
        peak = max(peak, running)
        allocated += max(event.nbytes(), 0)
    return Memory(peak, allocated)


def _on_cuda(call: Callable[[], object], device: torch.device) -> Memory:
    torch.cuda.synchronize(device)
    torch.cuda.reset_peak_memory_stats(device)
    before = torch.cuda.memory_allocated(device)
    total = torch.cuda.memory_stats(device)["allocated_bytes.all.allocated"]
    call()
    torch.cuda.synchronize(device)
    total = torch.cuda.memory_stats(device)["allocated_bytes.all.allocated"] - total
    return Memory(torch.cuda.max_memory_allocated(device) - before, total)
