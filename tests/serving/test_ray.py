"""The examples for more than one machine, on this one."""

import ast
import asyncio
import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import pytest

import hyperloader

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["play silver river by carlos", "wake me up at six", "add midnight garden"]


def run(name, *arguments):
    pytest.importorskip("ray", reason="Ray is not installed")
    environment = os.environ | {
        "PYTHONPATH": str(ROOT),
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, str(ROOT / "examples" / name), *map(str, arguments)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.slow
def test_a_replica_answers_as_the_tagger(folder):
    lines = run("ray_serve.py", folder, "music", TEXTS[0]).splitlines()  # Ray prints among them
    (found,) = ast.literal_eval(next(line for line in lines if line.startswith("[{")))
    assert found["tags"] == hyperloader.Tagger.from_pretrained(folder)(TEXTS[0], task="music")["tags"]


@pytest.mark.slow
def test_a_folder_of_files_is_answered(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{number}.jsonl").write_text(json.dumps({"text": text, "id": number}) + "\n")
    run("ray_data_predict.py", folder, "music", tmp_path / "in", tmp_path / "out", 1)
    lines = [json.loads(line) for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    expected = hyperloader.Tagger.from_pretrained(folder)(TEXTS, task="music")
    found = {line["id"]: json.loads(line["answer"])["tags"] for line in lines}
    assert found == {number: one["tags"] for number, one in enumerate(expected)}


def test_a_line_without_a_text_gets_its_message(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace())
    answers = runpy.run_path(str(ROOT / "examples" / "ray_data_predict.py"))["Answers"](str(folder), "music")
    written = answers({"id": [1, 2, 3], "text": [TEXTS[0], None, TEXTS[2]]})
    first, wrong, last = map(json.loads, written["answer"])
    assert wrong == {"error": "text must be text, got None"}
    expected = hyperloader.Tagger.from_pretrained(folder)([TEXTS[0], TEXTS[2]], task="music")
    assert [first["tags"], last["tags"]] == [one["tags"] for one in expected]
    assert written["id"] == [1, 2, 3]


@pytest.fixture
def replica(folder, monkeypatch):
    """A replica of `ray_serve.py` without Ray: `ask(bodies)` has them answered in one batch."""
    responses = pytest.importorskip("starlette.responses")

    def batch(**_):
        def joined(answer):
            async def waits(self, inputs):
                self.batch.append(inputs)
                await asyncio.sleep(0)  # until all have come
                if not self.answers:
                    self.answers = await answer(self, self.batch)
                return self.answers[next(number for number, one in enumerate(self.batch) if one is inputs)]

            return waits

        return joined

    serve = SimpleNamespace(batch=batch, deployment=lambda **_: lambda kind: kind, Application=None)
    monkeypatch.setitem(sys.modules, "ray", SimpleNamespace(serve=serve))
    monkeypatch.delenv("RUN_FOLDER", raising=False)
    replica = runpy.run_path(str(ROOT / "examples" / "ray_serve.py"))["Replica"](folder)

    def ask(bodies):
        replica.batch, replica.answers = [], None

        async def call(body):
            async def read():
                return json.loads(body)

            return await replica(SimpleNamespace(json=read))

        async def call_all():
            return await asyncio.gather(*map(call, bodies))

        found = asyncio.run(call_all())
        assert all(isinstance(one, responses.JSONResponse) for one in found)
        return [(one.status_code, json.loads(one.body)) for one in found], replica.batch

    return ask


def test_a_wrong_input_fails_alone(folder, replica):
    good = [
        json.dumps({"inputs": [{"text": text, "task": "music"}] * (1 + number)}) for number, text in enumerate(TEXTS)
    ]
    wrong = {
        json.dumps(
            {"inputs": [{"text": "a", "task": "music"}, {"text": "a", "task": "musik"}]}
        ): "did you mean 'music'",
        json.dumps({"inputs": [{"text": "a", "task": "pairs"}]}): "input:1: the object has no 'text_pair'",
        json.dumps({"inputs": [3]}): "input:1: an input must be a text",
    }
    not_joined = {"{": "Expecting property name", "[]": "the body must be", '{"inputs": "music"}': "the body must be"}
    found, batch = replica([good[0], *wrong, good[1], *not_joined, good[2]])
    assert len(batch) == 6
    expected = hyperloader.Tagger.from_pretrained(folder)(TEXTS, task="music")
    for number, place in enumerate((0, 4, 8)):
        status, body = found[place]
        assert (status, len(body["answers"])) == (200, 1 + number)
        assert all(one["tags"] == expected[number]["tags"] for one in body["answers"])
    for (status, body), part in zip(found[1:4] + found[5:8], [*wrong.values(), *not_joined.values()], strict=True):
        assert status == 422 and part in body["error"], body
