"""`hyperloader serve`, as a command."""

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest

from hyperloader.cli.missing import missing_package

pytest.importorskip("fastapi")
pytest.importorskip("uvicorn")
pytest.importorskip("prometheus_client")


def test_what_cannot_be_served_is_one_line(fails, run_folder, tmp_path, monkeypatch):
    monkeypatch.delenv("HYPERLOADER_API_KEY", raising=False)
    line = fails("serve", run_folder, "--host", "0.0.0.0")
    assert line.startswith("error: host must be this machine's own, as 127.0.0.1, unless HYPERLOADER_API_KEY is set")
    assert line.endswith("or --insecure is given, got 0.0.0.0")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        line = fails("serve", run_folder, "--port", port)
    assert line == f"error: port must be free, got {port}, where another process listens; choose one with --port"
    assert f"{tmp_path}: holds no run (no config.yaml)" in fails("serve", tmp_path)
    assert "holds no run" in fails("serve", f"name={tmp_path / 'nowhere'}")
    assert "run must have a name of its own, got 'run' twice; write NAME=FOLDER" in fails(
        "serve", run_folder, run_folder
    )
    assert f"run must have a name, got '={run_folder}'; write NAME=FOLDER" in fails("serve", f"={run_folder}")
    monkeypatch.setenv("HYPERLOADER_API_KEY", "k\n")
    line = fails("serve", run_folder, "--port", 0)
    assert line == (
        "error: HYPERLOADER_API_KEY must be text that a header can bring: printable, without white space around it"
    )
    monkeypatch.delenv("HYPERLOADER_API_KEY")
    assert "tasks must each be of one run, got 'music' in 'run' and 'b'" in fails(
        "serve", run_folder, f"b={run_folder}", "--port", 0
    )
    assert "port must be at most 65535, got 70000" in fails("serve", run_folder, "--port", 70000)
    assert "host must be an address of this machine, got 192.0.2.1" in fails(
        "serve", run_folder, "--host", "192.0.2.1", "--insecure"
    )
    assert "max_inputs must be at most max_queue, 5, got 1024" in fails("serve", run_folder, "--max-queue", 5)


def test_a_command_that_answers_keeps_few_kernels(fails, run_folder, tmp_path, monkeypatch):
    for words, line in (
        (["serve", run_folder, f"b={run_folder}", "--port", 0], "tasks must each be of one run"),
        (["predict", tmp_path, "--task", "music"], "must be the output of a run"),
    ):
        monkeypatch.setenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY", "")  # so that what was there comes back
        monkeypatch.delenv("ONEDNN_PRIMITIVE_CACHE_CAPACITY")
        assert line in fails(*words)
        assert os.environ["ONEDNN_PRIMITIVE_CACHE_CAPACITY"] == "64"


def test_a_missing_package_is_named_with_the_extra():
    line = missing_package(ModuleNotFoundError("No module named 'uvicorn'", name="uvicorn"))
    assert line == "error: the package uvicorn is not installed; run: pip install 'hyperloader[serve]'"


@contextlib.contextmanager
def serving(run_folder, *options):
    """A process that serves at ``port``, and the lines that it has ``logged``."""
    words = [sys.executable, "-m", "hyperloader.cli", "serve", str(run_folder), "--port", "0", *options]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    with subprocess.Popen(words, stderr=subprocess.PIPE, text=True, env=environment) as process:
        try:
            line = next(one for one in process.stderr if one.startswith('{"time"'))
            port = int(json.loads(line)["url"].rpartition(":")[2])
            logged = []
            reader = threading.Thread(target=lambda: logged.extend(process.stderr), daemon=True)
            reader.start()
            yield process, port, logged
            assert process.wait(60) == 0
            reader.join(60)
        finally:
            process.kill()


@pytest.mark.slow
def test_connections_are_taken_while_it_is_not_ready_and_a_second_signal_ends_it(run_folder):
    def status(method, path):
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        body = json.dumps({"inputs": [{"text": "play", "task": "music"}]}) if method == "POST" else None
        connection.request(method, path, body, {"Content-Type": "application/json"})
        return connection.getresponse().status

    with serving(run_folder, "--drain-s", "300") as (process, port, logged):
        assert status("GET", "/readyz") == 200
        process.send_signal(signal.SIGTERM)
        while not any('"draining"' in one for one in logged):
            time.sleep(0.05)
            assert process.poll() is None
        assert status("GET", "/readyz") == 503
        assert status("POST", "/v1/predict") == status("GET", "/healthz") == 200
        process.send_signal(signal.SIGTERM)
    with serving(run_folder, "--drain-s", "0.3") as (process, port, logged):
        process.send_signal(signal.SIGTERM)


@pytest.mark.slow
def test_signals_reload_and_drain_and_logs_hold_no_text(run_folder):
    with serving(run_folder, "--max-wait-ms", "1500") as (process, port, logged):
        found = []

        def ask():
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
            body = json.dumps({"inputs": [{"text": "play SECRETSONG", "task": "music"}]})
            connection.request("POST", "/v1/predict", body, {"Content-Type": "application/json"})
            found.append(json.loads(connection.getresponse().read()))

        process.send_signal(signal.SIGHUP)
        while not any('"reloaded"' in one for one in logged):
            time.sleep(0.05)
            assert process.poll() is None
        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        time.sleep(0.7)  # they wait for others to join their batch
        process.send_signal(signal.SIGTERM)
        for thread in threads:
            thread.join(60)
    assert [one["answers"][0]["text"] for one in found] == ["play SECRETSONG"] * 5
    events = [json.loads(one) for one in logged]
    assert [one["event"] for one in events if one["event"] != "request"] == ["reloaded", "draining", "ended"]
    assert next(one["waiting"] for one in events if one["event"] == "draining") == 5
    assert "SECRETSONG" not in "".join(logged)
