"""Requests that the server refuses, over HTTP: status, field and reason; and what costs nothing."""

import socket
import time

import pytest

HEAD = "POST /v1/predict HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\n"


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
    assert "not permitted" in server.call("POST", "/v1/reload", {"tasks": 1}).json["error"]["message"]


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
