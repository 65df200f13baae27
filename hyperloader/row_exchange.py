"""Sparse gradients of data-parallel processes, for process groups that sum none."""

from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.algorithms.ddp_comm_hooks.default_hooks import allreduce_hook


def exchange_rows(group: Any, bucket: dist.GradBucket) -> torch.futures.Future[Tensor]:
    """A hook for ``DistributedDataParallel.register_comm_hook(None, exchange_rows)``: sparse gradients, which NCCL does
    not sum, are gathered as rows, dense ones summed as always. ``group`` is the process group, None for the default.

    A process then sends its own rows, ``rows · (4 · size + 8)`` bytes of float32 rows, and waits for the device once.
    """
    if not bucket.buffer().is_sparse:
        return allreduce_hook(group, bucket)
    own = bucket.buffer().coalesce()
    rows, values = own.indices()[0], own.values()
    processes = dist.get_world_size(group)
    counts = [rows.new_empty(1) for _ in range(processes)]
    dist.all_gather(counts, rows.new_tensor([len(rows)]), group=group)
    sizes = torch.cat(counts).tolist()
    parts = [_gathered(tensor, sizes, group) for tensor in (rows, values)]
    mean = torch.sparse_coo_tensor(parts[0][None], parts[1] / processes, own.shape, check_invariants=False)
    future: torch.futures.Future[Tensor] = torch.futures.Future(devices=[own.device] if own.is_cuda else None)
    future.set_result(mean.coalesce())
    return future


def _gathered(tensor: Tensor, sizes: list[int], group: Any) -> Tensor:
    """The ``sizes`` rows of all processes below each other, each padded to the most meanwhile."""
    padded = tensor.new_zeros(max(sizes), *tensor.shape[1:])
    padded[: len(tensor)] = tensor
    found = [torch.empty_like(padded) for _ in sizes]
    dist.all_gather(found, padded, group=group)
    return torch.cat([part[:size] for part, size in zip(found, sizes, strict=True)])
