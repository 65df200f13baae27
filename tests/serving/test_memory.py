"""What a server keeps of a request that it has answered, and of the shapes that it has computed: nothing."""

import ctypes
import gc
import os
import subprocess
import sys
import time
import weakref

import pytest

from hyperloader.serving import service
from hyperloader.serving.memory import keep_few_kernels

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


# Bytes in use that 600 shapes of GELU leave behind, after 100 that filled what is filled once.
KEPT = """
import ctypes, torch
from hyperloader.serving.memory import keep_few_kernels
class Info(ctypes.Structure):
    names = "arena ordblks smblks hblks hblkhd usmblks fsmblks used free keep"
    _fields_ = [(name, ctypes.c_size_t) for name in names.split()]
{call}
mallinfo2 = ctypes.CDLL(None).mallinfo2
mallinfo2.restype = Info
def compute(shapes):
    for rows in shapes:
        torch.nn.functional.gelu(torch.ones(rows, 128))
    return mallinfo2().used
before = compute(range(100, 200))
print(compute(range(200, 800)) - before)
"""


def test_code_for_shapes_of_the_past_is_not_kept():
    if not hasattr(ctypes.CDLL(None), "mallinfo2"):
        pytest.skip("what is in use is asked of glibc 2.33 or later")
    environment = {name: value for name, value in os.environ.items() if name != "ONEDNN_PRIMITIVE_CACHE_CAPACITY"}
    kept = {}
    for call in ("", "keep_few_kernels()"):
        script = KEPT.format(call=call)
        done = subprocess.run(
            [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
        )
        kept[call] = int(done.stdout)
    if kept[""] < 1_000_000:
        pytest.skip("oneDNN compiles nothing for GELU here")
    assert kept["keep_few_kernels()"] < kept[""] / 5, kept


@pytest.mark.parametrize(("own", "then"), [(None, "64"), ("7", "7")])
def test_a_users_own_limit_stays(monkeypatch, own, then):
    monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", own or "")
    if own is None:
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
    keep_few_kernels()
    assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == then
