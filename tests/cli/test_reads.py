"""A command reads its data once."""

from collections import Counter

import pytest

from hyperloader.data import tasks

SPLITS = ("train.jsonl", "validation.jsonl", "test.jsonl")


@pytest.fixture
def read(monkeypatch):
    """How often every file of sentences has been read."""
    counted, original = Counter(), tasks.read_file

    def counting(path, **options):
        counted[f"{path.parent.name}/{path.name}"] += 1
        return original(path, **options)

    monkeypatch.setattr(tasks, "read_file", counting)
    return counted


ONCE = {f"{task}/{split}": 1 for task in ("music", "calendar") for split in SPLITS}
MUSIC = {place: 1 for place in ONCE if place.startswith("music/")}


def test_train(call, config_file, tmp_path, read):
    words = ["train", config_file, "--output", tmp_path / "run", "--set", "training.steps=2"]
    result = call(*words)
    assert result.exit_code == 0, result.output
    assert read == ONCE
    assert call(*words).exit_code == 1  # holds a run already
    assert call(*words, "--resume").exit_code == 0  # is finished
    assert read == ONCE


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["evaluate", "RUN"], ONCE),
        (["evaluate", "RUN", "--task", "music", "--split", "validation"], MUSIC),
        (["inspect", "RUN"], ONCE),
        (["data", "check", "CONFIG"], ONCE),
        (["data", "check", "CONFIG", "--backbone", "BERT"], ONCE),
        (["predict", "RUN", "--task", "music", "--tokenize", "words"], {}),
    ],
    ids=lambda one: " ".join(one) if isinstance(one, list) else "",
)
def test_other_commands(call, config_file, run_folder, tmp_path, read, words, expected):
    places = {"RUN": run_folder, "CONFIG": config_file, "BERT": config_file.parent / "bert"}
    result = call(*(places.get(word, word) for word in words), input="play it\n")
    assert result.exit_code == 0, result.output
    assert read == expected
