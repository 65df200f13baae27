"""What a server keeps of a request that it has answered, and of the memory that it has freed: nothing."""

import asyncio
import ctypes
import gc
import os
import time
import weakref
from pathlib import Path

import pytest

from hyperloader.serving import memory, service

TEXTS = ["play silver river by carlos", "wake me up at six"]


def test_an_answered_request_is_freed_at_once(server, monkeypatch):
    """Without a collection of cycles, which comes late in a process that holds a model."""
    made = []

    class Job(service.Job):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            made.append(weakref.ref(self))

    monkeypatch.setattr(service, "Job", Job)
    gc.collect()
    gc.disable()
    try:
        for _ in range(3):
            for tasks in ("all", ["music"]):
                body = {"inputs": [{"text": text} for text in TEXTS], "tasks": tasks}
                assert server.call("POST", "/v1/predict", body).status == 200
            assert server.call("POST", "/v1/predict", {"inputs": [{"text": "x" * 9, "task": "music"}]}).status == 200
        end = time.monotonic() + 10
        while (alive := sum(job() is not None for job in made)) > 0 and time.monotonic() < end:
            time.sleep(0.01)
        assert (len(made), alive) == (9, 0)
    finally:
        gc.enable()


def test_what_is_freed_between_pieces_in_use_is_given_back():
    """Blocks of 64 KiB, of which every second one is freed: glibc keeps them until it is told."""
    libc = ctypes.CDLL(None)
    if not hasattr(libc, "malloc_trim"):
        pytest.skip("the C library is not glibc")
    libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
    size = 64 << 10
    blocks = [libc.malloc(size) for _ in range(4000)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    for block in blocks[::2]:
        libc.free(block)
    before = _resident()

    async def some_time():
        task = asyncio.create_task(memory.give_back_freed_memory(interval_s=0.01))
        end = time.monotonic() + 10
        while _resident() > before - (100 << 20) and time.monotonic() < end:
            await asyncio.sleep(0.01)
        task.cancel()

    asyncio.run(some_time())
    after = _resident()
    for block in blocks[1::2]:
        libc.free(block)
    assert after < before - (100 << 20)


def test_a_server_gives_back_until_it_ends(start, folder, monkeypatch):
    said = []

    async def give_back():
        said.append("begun")
        try:
            await asyncio.sleep(60)
        finally:
            said.append("ended")

    monkeypatch.setattr("hyperloader.serving.app.give_back_freed_memory", give_back)
    with start({"run": folder}):
        assert said == ["begun"]
    assert said == ["begun", "ended"]


def _resident():
    """Bytes."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
