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


@pytest.mark.parametrize(
    ("body", "field", "part"),
    [
        (b"", "inputs", "required"),
        (b"{", "body", "JSON"),
        (b"[" * 100_000, "body", "JSON"),
        (b"[]", "body", "object"),
        (b"\xff\xfe", "body", "JSON"),
        ({"inputs": []}, "inputs", "at least 1"),
        ({"inputs": [{"text": "a", "task": "music"}], "taks": "all"}, "taks", "not permitted"),
        ({"inputs": [{"text": 3, "task": "music"}]}, "inputs[0].text", "string"),
        ({"inputs": [{"text": "a", "task": "music"}, {"text": "a"}]}, "inputs[1].task", "must be named"),
        ({"inputs": [{"text": "a", "task": "musik"}]}, "inputs[0].task", "did you mean 'music'"),
        ({"inputs": [{"text": "a"}], "tasks": ["/etc/passwd"]}, "tasks", "must be one of"),
        ({"inputs": [{"text": "a"}], "tasks": []}, "tasks", "at least one name"),
        ({"inputs": [{"text": "a"}], "tasks": 5}, "tasks", 'must be "all" or a list'),
        ({"inputs": [{"text": "a"}], "tasks": ["music", 5]}, "tasks", 'must be "all" or a list'),
        (b'{"inputs": [{"text": "a", "text": "b", "task": "music"}]}', "body", "the key 'text' must stand once"),
        (b'{"inputs": [{"text": "a", "task": "music"}], "inputs": []}', "inputs", "at least 1"),
        ({"inputs": [{"task": "music", "tokens": ["a", 5]}]}, "inputs[0].tokens[1]", "valid string"),
        (
            {"inputs": [{"task": "music", "text": "ab", "tokens": [{"start": False, "end": True}]}]},
            "inputs[0]",
            "tokens[0]",
        ),
        ({"inputs": [{"task": "music", "text": "a", "text_pair": "b"}]}, "inputs[0]", "single texts"),
        ({"inputs": [{"text": "a", "task": "music"}], "tasks": "all"}, "inputs[0].task", "named once"),
        ({"inputs": [{"task": "music"}]}, "inputs[0]", "no 'tokens' and no 'text'"),
        ({"inputs": [{"task": "music", "tokens": ["a b"]}]}, "inputs[0]", "white space"),
        ({"inputs": [{"task": "music", "tokens": ["a", {"b": 1}]}]}, "inputs[0]", "list of text"),
        ({"inputs": [{"task": "pairs", "text": "a"}]}, "inputs[0]", "has no 'text_pair'"),
        ({"inputs": [{"task": "length", "text": "a", "text_pair": "b"}]}, "inputs[0]", "single texts"),
        (b'{"inputs": [{"text": "\\ud800", "task": "music"}]}', "body", "hex escape"),
        (b'{"inputs": [{"text": "a", "task": "music", "x": NaN}]}', "inputs", "NaN"),
        (b'{"inputs": [{"text": "a", "task": "music", "x": 1e999}]}', "inputs", "NaN"),
    ],
    ids=lambda one: str(one)[:40],
)
def test_malformed_input_is_422_and_names_the_field(server, body, field, part):
    found = server.call("POST", "/v1/predict", body)
    assert (found.status, found.json["error"]["field"]) == (422, field), found.text
    assert part in found.json["error"]["message"]
    assert b"Traceback" not in found.text and b"site-packages" not in found.text


def test_too_much_is_413(server):
    assert server.call("POST", "/v1/predict", b" " * (1 << 20) + b"{").status == 413
    many = {"inputs": [{"text": "a", "task": "music"}] * 10_000}
    found = server.call("POST", "/v1/predict", many)
    assert (found.status, found.json["error"]["field"]) == (413, "inputs")
    with socket.create_connection(("127.0.0.1", server.port)) as connection:  # without a length
        connection.sendall(f"{HEAD}Transfer-Encoding: chunked\r\n\r\n".encode())
        part = b"10000\r\n" + b" " * 0x10000 + b"\r\n"
        for _ in range(17):
            connection.sendall(part)
        assert connection.recv(100).startswith(b"HTTP/1.1 413 ")


def test_other_requests_are_refused_in_the_same_form(server):
    assert server.call("GET", "/nothing/../etc").status == 404
    assert server.call("GET", "/v1/predict").json["error"]["code"] == "http"
    assert server.call("POST", "/v1/predict", b"{}", {"Content-Type": "text/plain"}).status == 415
    assert server.call("POST", "/v1/predict", b"{}", {"Content-Encoding": "gzip"}).status == 415
    assert server.call("GET", "/v1/tasks", headers={"Host": "evil.example"}).status == 403
    assert server.call("POST", "/v1/reload", {"run": "other"}).json["error"]["field"] == "run"


def test_head_is_get_without_a_body(server):
    for path in ("/", "/healthz", "/readyz", "/metrics", "/v1/tasks", "/openapi.json", "/nothing", "/v1/predict"):
        got, head = (server.call(method, path) for method in ("GET", "HEAD"))
        assert (head.status, head.text) == (got.status, b""), path
        kept = [name for name in got.headers if name not in ("date", "x-request-id")]
        assert path == "/metrics" or all(head.headers[name] == got.headers[name] for name in kept), path


def test_names_that_come_again_cost_nothing(server):
    """A list of tasks is looked at once, not for every input."""
    body = {"inputs": [{"text": "a"}] * 1000, "tasks": ["music"] * 60_000}
    start = time.perf_counter()
    found = server.call("POST", "/v1/predict", body)
    assert (found.status, len(found.json["answers"])) == (200, 1000)
    assert time.perf_counter() - start < 8


def test_a_key_that_comes_again_among_many_is_found_at_once(server):
    keys = ", ".join(f'"k{number}": 1' for number in range(60_000))
    start = time.perf_counter()
    found = server.call("POST", "/v1/predict", f'{{"inputs": [{{"text": "a", {keys}, "k59999": 2}}]}}'.encode())
    assert (found.status, found.json["error"]["message"]) == (422, "the key 'k59999' must stand once, got it 2 times")
    assert time.perf_counter() - start < 5


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
