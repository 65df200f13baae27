"""What a server keeps of a request that it has answered, and of the memory that it has freed: nothing."""

import ctypes
import gc
import subprocess
import sys
import time
import weakref

import pytest

from hyperloader.serving import service

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


BLOCKS = """
import ctypes, os
from pathlib import Path
from hyperloader.serving import server

class Begun(Exception):
    pass

def begin():
    raise Begun

def resident():
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")

def given_back(size):
    blocks = [libc.malloc(size) for _ in range(50)]
    for block in blocks:
        ctypes.memset(block, 1, size)
    before = resident()
    for block in blocks[::2]:
        libc.free(block)
    return (before - resident()) // size

libc = ctypes.CDLL(None)
libc.malloc.restype, libc.free.argtypes = ctypes.c_void_p, [ctypes.c_void_p]
libc.free(libc.malloc(8 << 20))  # from now on glibc takes such blocks from its heap
print(given_back(4 << 20))
server.log_to_stderr = begin
try:
    server.serve(None, None, None)
except Begun:
    print(given_back(6 << 20))  # larger than what lies free in the heap
"""


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library is not glibc")
def test_a_server_gives_back_what_is_freed_between_blocks_in_use():
    done = subprocess.run([sys.executable, "-c", BLOCKS], capture_output=True, text=True, check=True)
    by_itself, serving = map(int, done.stdout.split())
    assert by_itself < 3 and serving >= 20, done.stdout
