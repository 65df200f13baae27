"""A step of data-parallel processes: bytes that it sends, measured and computed, and seconds."""

import json
import statistics
import tempfile
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch
import torch.distributed as dist
from torch.nn.parallel import DistributedDataParallel

from bench.growth.step import BASE, made
from bench.results import UsageError
from bench.scaling import Scale

STEPS = 7
_DEVICES = Path("/proc/net/dev")  # of Linux: a line a device, what it received first


def measure(counts: Sequence[int]) -> list[dict]:
    """A row for each number of processes, a thread each, and kind of gradients: bytes that a process sends a step by
    gloo over loopback, and median seconds of a step's forward, backward and exchange."""
    if not _DEVICES.is_file():
        raise UsageError(f"--processes must be without a number here: {_DEVICES}, which counts bytes, is missing")
    rows = []
    for sparse in (True, False):
        for count in counts:
            scale = replace(BASE, processes=count, sparse=sparse, tasks=1_000)
            scale = replace(scale, config=replace(scale.config, sparse_gradients=sparse))
            with tempfile.TemporaryDirectory() as folder:
                torch.multiprocessing.spawn(_work, (scale, folder), nprocs=count)
                found = json.loads((Path(folder) / "found.json").read_text(encoding="utf-8"))
            rows.append({"processes": count, "sparse": sparse, **found, "computed": scale.network_bytes})
    return rows


def _work(rank: int, scale: Scale, folder: str) -> None:
    torch.set_num_threads(1)
    meeting = f"file://{folder}/meeting"
    dist.init_process_group("gloo", init_method=meeting, rank=rank, world_size=scale.processes)
    model, batch = made(scale)
    parallel = DistributedDataParallel(model) if scale.processes > 1 else model

    def steps(many: int) -> list[float]:
        seconds = []
        for _ in range(many):
            began = time.perf_counter()
            model.zero_grad()
            parallel(**batch).loss.backward()
            seconds.append(time.perf_counter() - began)
        dist.barrier()
        return seconds

    steps(2)  # the second one has DDP's final buckets
    before = _loopback_bytes()
    dist.barrier()
    seconds = steps(STEPS)
    if rank == 0:
        found = {"sent": (_loopback_bytes() - before) / STEPS / scale.processes, "median_s": statistics.median(seconds)}
        (Path(folder) / "found.json").write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


def _loopback_bytes() -> int:
    """That the loopback device has received, and so sent, since the machine began."""
    lines = (line.partition(":") for line in _DEVICES.read_text().splitlines())
    return int(next(counted for name, _, counted in lines if name.strip() == "lo").split()[0])
