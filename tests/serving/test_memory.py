"""What a server keeps of a request that it has answered: nothing."""

import gc
import time
import weakref

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
