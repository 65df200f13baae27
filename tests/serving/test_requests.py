"""The body of a request: read in one pass, and what is wrong with it."""

import json
import time

import pytest

pytest.importorskip("pydantic")
from hyperloader.serving import requests
from hyperloader.serving.refusals import Refusal
from hyperloader.serving.requests import PredictRequest, parsed

GOOD = {"inputs": [{"text": "play björk", "task": "music", "id": 7}] * 64, "tasks": None}


def test_a_good_body_is_read_once(monkeypatch):
    read = []
    loads = json.loads
    monkeypatch.setattr(requests.json, "loads", lambda *given, **how: read.append(1) or loads(*given, **how))
    for again in ("from_json", "_refusal"):
        monkeypatch.setattr(requests, again, lambda *given: pytest.fail("read again"))
    monkeypatch.setattr(PredictRequest, "model_validate_json", lambda *given: pytest.fail("read again"))
    found = parsed(PredictRequest, json.dumps(GOOD, ensure_ascii=False).encode())
    assert (read, found.model_dump()) == ([1], GOOD)


def nested(depth):
    return b'{"inputs": [{"text": "a", "x": ' + b"[" * depth + b"]" * depth + b"}]}"


@pytest.mark.parametrize("body", [nested(190), b'{"inputs": [{"text": "\\ud83c\\udfb5", "x": "\\\\ud800"}]}'], ids=len)
def test_what_looks_wrong_and_is_right(body):
    assert parsed(PredictRequest, body).model_dump()["inputs"] == json.loads(body)["inputs"]


@pytest.mark.parametrize(
    ("body", "field", "message"),
    [
        (nested(250), "body", "Invalid JSON: recursion limit exceeded at line 1 column 230"),
        (nested(100_000), "body", "Invalid JSON: recursion limit exceeded at line 1 column 230"),
        (b'{"inputs": [{"text": "a", "prompt": "\\uDC00"}]}', "body", "Invalid JSON: lone leading surrogate in hex"),
        (b'{"inputs": [{"text": "a", "\\ud800": 1}]}', "body", "Invalid JSON: unexpected end of hex escape at"),
        (b'{"inputs": [{"text": "a", "x": ' + b"1" * 5000 + b"}]}", "body", "Invalid JSON: number out of range at"),
        (b'\xef\xbb\xbf{"inputs": []}', "body", "Invalid JSON: expected value at line 1 column 1"),
        ('{"inputs": []}'.encode("utf-16"), "body", "Invalid JSON: expected value at line 1 column 1"),
        (b'{"inputs": []} x', "body", "Invalid JSON: trailing characters at line 1 column 16"),
        (b'{"inputs": "a"}', "inputs", "Input should be a valid array"),
        (b'{"inputs": [3]}', "inputs[0]", "Input should be an object"),
        (b'{"inputs": [{"x": {"a": 1, "a": 1}}]}', "body", "the key 'a' must stand once, got it 2 times"),
    ],
    ids=lambda one: str(one)[:30],
)
def test_what_is_wrong_in_the_words_of_json(body, field, message):
    with pytest.raises(Refusal) as refusal:
        parsed(PredictRequest, body)
    found = refusal.value.body
    assert (refusal.value.status, found["field"]) == (422, field)
    assert found["message"].startswith(message)


def test_many_repeated_keys_take_no_time():
    keys = b", ".join(b'"k%d": 1' % (number % 40_000) for number in range(80_000))
    start = time.perf_counter()
    with pytest.raises(Refusal) as refusal:
        parsed(PredictRequest, b'{"inputs": [{"text": "a", ' + keys + b"}]}")
    assert refusal.value.body["message"] == "the key 'k0' must stand once, got it 2 times"
    assert time.perf_counter() - start < 2
