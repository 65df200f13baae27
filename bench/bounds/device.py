"""A GPU as the bounds see it: rates from its data sheet, and what a kernel's resources allow at once."""

import math
from dataclasses import dataclass


@dataclass(frozen=True)
class Gpu:
    """Rates a second of the whole device, and what a multiprocessor holds."""

    name: str
    architecture: str
    processors: int
    memory: float = 0.0  # bytes from and to memory
    cache: float = 0.0  # bytes from and to the second cache
    cache_of_processor: float = 0.0  # the same, of one multiprocessor: 64 bytes a cycle
    cache_bytes: int = 0
    tensor: float = 0.0  # operations of the tensor cores in half precision
    lanes: float = 0.0  # instructions of the float32 units, where a multiply-add is one
    shared: float = 0.0  # bytes from and to shared memory: 128 a cycle and multiprocessor
    launch: float = 0.0  # seconds from the end of a kernel to the next one's first work, in a stream
    shared_bytes: int = 0  # of a multiprocessor
    shared_of_block: int = 0  # at most
    registers: int = 65536
    threads: int = 2048
    blocks: int = 32


H100 = Gpu(
    "H100", "90", 132, memory=3.35e12, cache=5.5e12, cache_of_processor=64 * 1.755e9, cache_bytes=50 << 20,
    tensor=990e12, lanes=67e12 / 2, shared=132 * 128 * 1.755e9, launch=2e-6, shared_bytes=228 << 10,
    shared_of_block=227 << 10,
)  # fmt: skip
A100 = Gpu("A100", "80", 108, shared_bytes=164 << 10, shared_of_block=163 << 10)
_RESERVED = 1 << 10  # bytes of shared memory that the system takes of every block


def blocks_at_once(gpu: Gpu, threads: int, registers: int, shared: int) -> int:
    """Blocks of a kernel that a multiprocessor runs at once; registers are handed out to warps by 256."""
    warps = math.ceil(threads / 32)
    of_warp = math.ceil(32 * registers / 256) * 256
    by_shared = gpu.shared_bytes // (shared + _RESERVED)
    return min(gpu.blocks, gpu.threads // (32 * warps), gpu.registers // (of_warp * warps), by_shared)
