"""A small run of every kind of task, with heads that answer everything, and servers of it in this process."""

import contextlib
import http.client
import json
import threading
import time
from types import SimpleNamespace

import pytest

ODD = "to/pics <b>🎵"  # a name that would be two parts of a path, and HTML


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """The output folder of a short training on ``helpers.kinds_run``; its heads are random, so that spans are found."""
    from helpers import kinds_run, small_run

    from hyperloader.training.run import train
    from hyperloader.training.run_config import RunConfig

    here = tmp_path_factory.mktemp("serving")
    values = kinds_run.write(here)
    for entry in values["tasks"]:
        entry["path"] = str(here / entry["path"])
        entry["name"] = {"topics": ODD}.get(entry["name"], entry["name"])
    train(RunConfig.from_dict({**values, "output": str(here / "run")}), progress=False)
    return small_run.with_random_heads(here / "run")


@pytest.fixture(scope="session")
def start():
    """``start(folders, **settings)``: around a server in a thread, with ``call(method, path, body)``, which returns
    status, headers and JSON; ``service``; ``port``."""
    pytest.importorskip("fastapi")
    pytest.importorskip("prometheus_client")
    uvicorn = pytest.importorskip("uvicorn")
    from hyperloader.serving.app import make_app
    from hyperloader.serving.registry import Registry
    from hyperloader.serving.server import config, listen
    from hyperloader.serving.service import Service
    from hyperloader.serving.settings import Settings

    @contextlib.contextmanager
    def start(folders, **settings):
        settings = Settings(**{"port": 0, **settings})
        service = Service(Registry(folders), settings)
        server = uvicorn.Server(config(make_app(service), settings))
        with listen(settings) as listener:
            port = listener.getsockname()[1]
            thread = threading.Thread(target=lambda: server.run(sockets=[listener]), daemon=True)
            thread.start()
            while not server.started:
                assert thread.is_alive()
                time.sleep(0.01)

            def call(method, path, body=None, headers=None):
                connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
                sent = body if isinstance(body, bytes | None) else json.dumps(body).encode()
                kind = {"Content-Type": "application/json"} if method == "POST" else {}
                connection.request(method, path, sent, kind | (headers or {}))
                reply = connection.getresponse()
                text = reply.read()
                connection.close()
                is_json = "json" in reply.headers.get("Content-Type", "")
                return SimpleNamespace(status=reply.status, headers=reply.headers, text=text,
                                       json=json.loads(text) if is_json and text else None)  # fmt: skip

            yield SimpleNamespace(call=call, service=service, port=port)
            server.should_exit = True
            thread.join(60)
            assert not thread.is_alive()

    return start


@pytest.fixture(scope="module")
def server(start, folder):
    with start({"run": folder}) as server:
        yield server
