"""One server of two runs: a request may ask both, and each answers as it does alone."""

import json
import shutil

import pytest
from helpers import small_run
from helpers.answers import alike

from hyperloader import Tagger
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    """A run of one task, which the run of ``folder`` has not."""
    here = tmp_path_factory.mktemp("other")
    values = small_run.write(here) | {"tasks": [{"name": "calendar", "path": str(here / "data" / "calendar")}]}
    train(RunConfig.from_dict({**values, "output": str(here / "run")}), progress=False)
    return small_run.with_random_heads(here / "run")


def test_a_request_of_both(start, folder, other, tmp_path):
    texts = ["play some jazz", "remind me of lunch on monday", "add this song"]
    inputs = [{"text": text, "task": task, "id": task} for text in texts for task in ("music", "calendar", "intents")]
    alone = {task: Tagger.from_pretrained(run) for task, run in
             (("music", folder), ("intents", folder), ("calendar", other))}  # fmt: skip
    expected = [alone[one["task"]](one["text"], task=one["task"]) for one in inputs]
    shutil.copytree(other, tmp_path / "second")
    with start({"first": folder, "second": tmp_path / "second"}) as server:
        assert {one["task"]: one["run"] for one in server.call("GET", "/v1/tasks").json["tasks"]}.items() >= {
            "music": "first", "intents": "first", "calendar": "second"}.items()  # fmt: skip
        found = server.call("POST", "/v1/predict", {"inputs": inputs}).json["answers"]
        assert [one["task"] for one in found] == [one["task"] for one in inputs]
        assert alike(_without(found), _without(json.loads(json.dumps(expected))))
        everything = server.call("POST", "/v1/predict", {"inputs": [{"text": texts[0]}], "tasks": "all"}).json
        assert {"music", "calendar"} <= {one["task"] for one in everything["answers"]}
        assert server.call("POST", "/v1/reload", {"run": "second"}).status == 200
        shutil.rmtree(tmp_path / "second")
        assert server.call("POST", "/v1/reload", {"run": "second"}).status == 409
        again = server.call("POST", "/v1/predict", {"inputs": inputs}).json["answers"]
        assert alike(again, found)


def _without(answers):
    """What does not depend on where an input stood."""
    return [{key: value for key, value in one.items() if key not in ("line", "id")} for one in answers]
