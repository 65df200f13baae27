"""python -m bench.int8: every form of a run's ONNX file is scored, and stands in its document."""

import json

import pytest
from helpers import small_run

from bench import int8
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig

for package in ("onnx", "onnxruntime", "onnxscript"):
    pytest.importorskip(package)


@pytest.mark.slow
def test_a_small_run(tmp_path):
    values = small_run.write(tmp_path) | {"output": str(tmp_path / "run")}
    config = RunConfig.from_dict(values, folder=tmp_path)
    train(config, progress=False)
    page, file = tmp_path / "page.md", tmp_path / "new" / "int8.json"
    page.write_text("<!-- int8: begin --><!-- int8: end -->")
    int8.main([config.output, "--limit", "3", "--file", str(file), "--document", str(page)])
    found = json.loads(file.read_text())
    assert list(found["scores"]) == list(found["bytes"]) == list(int8.FORMS)
    assert found["bytes"][int8.TENSOR] < found["bytes"][int8.FLOAT32]
    assert {one["sentences"] for one in found["scores"][int8.COLUMN]["tasks"].values()} == {3}


def test_the_table():
    tasks = {"a": {"f1": 0.5, "precision": 0.1}, "b c": {"accuracy": 0.25}}
    scores = {form: {"tasks": tasks, "mean_score": 0.375 - number / 10} for number, form in enumerate(int8.FORMS)}
    lines = int8.render(
        {
            "scores": scores,
            "bytes": {form: 2**20 * (3 - number) for number, form in enumerate(int8.FORMS)},
            "hardware": {"device": "a CPU"},
            "versions": {"onnxruntime": "1.0"},
            "limit": 3000,
        }
    ).splitlines()
    assert lines[2:6] == [
        "| a, span F1 | 50.0 | 50.0 | 50.0 |",
        "| b c, accuracy | 25.0 | 25.0 | 25.0 |",
        "| mean | 37.5 | 27.5 | 17.5 |",
        "| file | 3 MiB | 2 MiB | 1 MiB |",
    ]
    assert lines[-1].startswith("At most 3,000 test sentences a task, one run, a CPU, onnxruntime 1.0")
