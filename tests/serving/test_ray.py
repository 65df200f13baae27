"""The examples for more than one machine, on this one."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import hyperloader

ROOT = Path(__file__).resolve().parents[2]
TEXTS = ["play silver river by carlos", "wake me up at six", "add midnight garden"]

pytestmark = pytest.mark.slow


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


def test_a_replica_answers_as_the_tagger(folder):
    lines = run("ray_serve.py", folder, "music", TEXTS[0]).splitlines()  # Ray prints among them
    (found,) = ast.literal_eval(next(line for line in lines if line.startswith("[{")))
    assert found["tags"] == hyperloader.Tagger.from_pretrained(folder)(TEXTS[0], task="music")["tags"]


def test_a_folder_of_files_is_answered(folder, tmp_path):
    (tmp_path / "in").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "in" / f"{number}.jsonl").write_text(json.dumps({"text": text, "id": number}) + "\n")
    run("ray_data_predict.py", folder, "music", tmp_path / "in", tmp_path / "out", 1)
    lines = [json.loads(line) for path in (tmp_path / "out").iterdir() for line in path.read_text().splitlines()]
    expected = hyperloader.Tagger.from_pretrained(folder)(TEXTS, task="music")
    found = {line["id"]: json.loads(line["answer"])["tags"] for line in lines}
    assert found == {number: one["tags"] for number, one in enumerate(expected)}
