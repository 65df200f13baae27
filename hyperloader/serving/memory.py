"""Memory that a process has freed, given back to the operating system."""

import asyncio
import ctypes
import functools
from collections.abc import Callable

INTERVAL_S = 30.0


@functools.cache
def _trim() -> Callable[[int], int] | None:
    """glibc's ``malloc_trim``; other C libraries have none."""
    return getattr(ctypes.CDLL(None), "malloc_trim", None)


async def give_back_freed_memory(interval_s: float = INTERVAL_S) -> None:
    """Until it is cancelled, every ``interval_s`` seconds.

    Batches differ in size, so that glibc's heap goes to pieces: it keeps what lies between two pieces in use, which
    grows for hours. Giving it back takes tens of milliseconds, in a thread that does not hold the interpreter.
    """
    trim = _trim()
    while trim is not None:
        await asyncio.sleep(interval_s)
        await asyncio.to_thread(trim, 0)
