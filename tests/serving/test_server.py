"""The server's answers, over HTTP."""

import json
import socket
import threading
import time

import pytest
from helpers.answers import alike

import hyperloader

HEAD = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"
ODD = "to/pics <b>🎵"
TEXTS = ["play silver river by carlos", "wake me up at six", "", 'add <b>garden</b> & "more" to 𝒎y list', "play " * 300]


@pytest.fixture(scope="module")
def tagger(folder):
    return hyperloader.Tagger.from_pretrained(folder)


@pytest.fixture
def gate(server, monkeypatch):
    """While it is held, nothing is computed; ``asked`` counts what has been, ``begun`` the batches that it holds or
    held."""
    (version,) = server.service.registry.runs.values()
    held, asked, ask = threading.Event(), [], version.predictor.ask
    held.set()
    held.begun = 0

    def gated(examples):
        held.begun += 1
        held.wait(60)
        asked.append(len(examples))
        return ask(examples)

    monkeypatch.setattr(version.predictor, "ask", gated)
    held.asked = asked
    yield held
    held.set()


def test_answers_are_those_of_the_tagger_in_order(server, tagger):
    inputs = [
        {"text": text, "task": task, "id": [task]} for text in TEXTS for task in ("music", "intents", ODD, "length")
    ]
    inputs += [{"text": "a", "text_pair": "b", "task": "pairs"}, {"tokens": ["play", "it"], "task": "music"}]
    found = server.call("POST", "/v1/predict", {"inputs": inputs})
    assert found.status == 200
    expected = tagger(inputs)
    assert alike(found.json["answers"], json.loads(json.dumps(expected)))
    assert [one.get("id") for one in found.json["answers"]] == [one.get("id") for one in inputs]


def test_all_tasks_are_those_that_take_the_input(server):
    inputs = [{"text": TEXTS[0]}, {"text": "a", "text_pair": "b"}]
    found = server.call("POST", "/v1/predict", {"inputs": inputs, "tasks": "all"}).json["answers"]
    assert [(one["line"], one["task"]) for one in found] == [
        (1, "music"), (1, "intents"), (1, ODD), (1, "length"), (2, "pairs")
    ]  # fmt: skip
    some = server.call("POST", "/v1/predict", {"inputs": inputs[:1], "tasks": ["length", "music"]}).json["answers"]
    assert [one["task"] for one in some] == ["length", "music"]


def test_what_can_be_asked_is_listed(server):
    tasks = {one["task"]: one for one in server.call("GET", "/v1/tasks").json["tasks"]}
    assert (tasks["music"]["kind"], tasks["music"]["run"], tasks["pairs"]["pair"]) == ("tagging", "run", True)
    assert tasks["intents"]["labels"] == ["calendar", "music"]
    assert tasks["length"]["kind"] == "regression"
    document = server.call("GET", "/openapi.json").json
    assert {"/v1/predict", "/v1/tasks", "/v1/reload", "/healthz", "/readyz", "/metrics"} == set(document["paths"])
    schema = document["paths"]["/v1/predict"]["post"]["requestBody"]["content"]["application/json"]["schema"]
    assert "text_pair" in schema["properties"]["inputs"]["items"]["properties"]
    assert server.call("GET", "/healthz").status == server.call("GET", "/readyz").status == 200


def test_requests_are_computed_together(server, gate):
    gate.clear()
    texts = [f"play river number {number}" for number in range(12)]
    found = {}

    def ask(number):
        task = ("music", "intents", "length")[number % 3]
        body = {"inputs": [{"text": texts[number], "task": task}]}
        found[number] = server.call("POST", "/v1/predict", body).json["answers"]

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(12)]
    for thread in threads:
        thread.start()
    wait(lambda: server.service.waiting == 12)
    gate.set()
    for thread in threads:
        thread.join()
    assert sum(gate.asked) == 12 and len(gate.asked) <= 4
    assert all(found[number][0]["text"] == texts[number] for number in range(12))


def wait(until):
    for _ in range(2000):
        if until():
            return
        time.sleep(0.005)
    raise AssertionError("it did not come to that")


def test_a_client_that_leaves_costs_nothing(server, gate):
    gate.clear()
    first = threading.Thread(
        target=server.call, args=("POST", "/v1/predict", {"inputs": [{"text": "a", "task": "music"}]})
    )
    first.start()
    wait(lambda: gate.begun == 1)  # it is being computed
    body = json.dumps({"inputs": [{"text": "play river", "task": "music"}] * 50}).encode()
    with socket.create_connection(("127.0.0.1", server.port)) as connection:
        connection.sendall(f"{HEAD}Content-Length: {len(body)}\r\n\r\n".encode() + body)
        wait(lambda: server.service.waiting == 51)
    wait(lambda: server.service.waiting == 1)
    gate.set()
    first.join()
    assert server.call("POST", "/v1/predict", {"inputs": [{"text": "b", "task": "music"}]}).status == 200
    assert sum(gate.asked) == 2


def test_a_full_queue_is_429_and_no_answer_in_time_504(start, folder, monkeypatch):
    with start({"run": folder}, max_queue=4, max_inputs=4, timeout_s=0.5, body_timeout_s=0.5) as server:
        (version,) = server.service.registry.runs.values()
        held, ask = threading.Event(), version.predictor.ask
        monkeypatch.setattr(version.predictor, "ask", lambda examples: held.wait(60) and ask(examples))
        body = {"inputs": [{"text": "a", "task": "music"}] * 3}
        found = []
        first = threading.Thread(target=lambda: found.append(server.call("POST", "/v1/predict", body)))
        first.start()
        wait(lambda: server.service.waiting == 3)
        full = server.call("POST", "/v1/predict", body)
        assert full.status == 429 and 1 <= int(full.headers["Retry-After"]) <= 60
        first.join()
        assert found[0].status == 504
        assert server.service.waiting == 0
        held.set()
        long = {"inputs": [{"text": "a " * 2000, "task": "music"}]}  # more than the queue holds, which is empty
        assert server.call("POST", "/v1/predict", long).status in (200, 504)
        with socket.create_connection(("127.0.0.1", server.port)) as connection:
            connection.sendall(f"{HEAD}Content-Length: 100\r\n\r\n{{".encode())  # and no more
            assert connection.recv(100).startswith(b"HTTP/1.1 408 ")


def test_an_error_inside_is_answered_without_details_and_others_are_answered(server, monkeypatch):
    (version,) = server.service.registry.runs.values()
    ask = version.predictor.ask

    def failing(examples):
        if any(len(example.input_ids) == 7 for example in examples):
            raise RuntimeError("/secret/path of SECRET text")
        return ask(examples)

    monkeypatch.setattr(version.predictor, "ask", failing)
    bodies = [{"inputs": [{"text": text, "task": "music"}]} for text in ("a b c", "a b c d e", "a")]
    found = {}

    def call(number):
        found[number] = server.call("POST", "/v1/predict", bodies[number])

    threads = [threading.Thread(target=call, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [found[number].status for number in range(3)] == [200, 500, 200]
    assert found[1].json["error"]["code"] == "internal"
    assert b"secret" not in found[1].text.lower()


def test_one_that_is_to_end_is_not_ready_and_still_answers(server, monkeypatch):
    monkeypatch.setattr(server.service, "draining", True)
    found = server.call("GET", "/readyz")
    assert (found.status, found.json["error"]["code"]) == (503, "draining")
    assert server.call("GET", "/healthz").status == 200
    assert server.call("POST", "/v1/predict", {"inputs": [{"text": "a", "task": "music"}]}).status == 200


def test_a_client_that_does_not_read_cannot_stop_the_end(start, folder, monkeypatch):
    from starlette.responses import Response

    from hyperloader.serving import server as module

    async def long_answer(request):
        return Response(bytes(50_000_000))

    monkeypatch.setattr(module, "_READ_S", 0.1)
    with socket.socket() as client:
        with start({"run": folder}, timeout_s=0.1, body_timeout_s=0.1) as server:
            monkeypatch.setattr(server.service, "predict", long_answer)
            client.connect(("127.0.0.1", server.port))
            client.sendall(f"{HEAD}Content-Length: 2\r\n\r\n{{}}".encode())
            assert client.recv(1)
        assert client.fileno() >= 0  # it is still there, and the server has ended


def test_a_process_that_does_not_work_says_so(server, monkeypatch):
    from hyperloader.serving import refusals as module

    monkeypatch.setattr(type(server.service.pipeline), "alive", False)
    for _ in range(2):
        found = server.call("GET", "/healthz")
        assert (found.status, found.json["error"]["code"]) == (500, "internal")
    assert module.internal() is not module.internal()


def test_metrics(server):
    assert server.call("POST", "/v1/predict", {"inputs": [{"text": "a", "task": "music"}]}).status == 200
    before = server.call("GET", "/metrics").text.decode()
    assert 'hyperloader_inputs_total{task="music"}' in before
    assert "hyperloader_batch_tasks_bucket" in before and "hyperloader_queue_inputs 0.0" in before
    assert 'hyperloader_requests_total{route="/v1/predict",status="200"}' in before


def test_an_api_key_is_asked_for(start, folder):
    with start({"run": folder}, api_key="k3y-ü") as server:
        key = {"Authorization": "Bearer k3y-ü".encode()}
        body = {"inputs": [{"text": "a", "task": "music"}]}
        for wrong in ({}, {"Authorization": "Bearer k3y"}, {"Authorization": "Basic k3y"}):
            for method, path in (
                ("POST", "/v1/predict"),
                ("POST", "/v1/reload"),
                ("GET", "/v1/tasks"),
                ("GET", "/metrics"),
            ):
                found = server.call(method, path, body if method == "POST" else None, wrong)
                assert (found.status, found.json["error"]["code"]) == (401, "unauthorized")
        assert server.call("POST", "/v1/predict", body, key).status == 200
        assert server.call("GET", "/healthz").status == server.call("GET", "/").status == 200
