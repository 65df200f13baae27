"""An update's loss is of all its sentences, whatever processes they are parted among."""

import json
from pathlib import Path

import pytest
import torch
import yaml
from helpers import kinds_run, launched, text_run

from hyperloader.training.saved_run import load_run


def of_every_kind(folder: Path) -> dict:
    values = kinds_run.write(folder)
    for entry in values["tasks"]:
        entry["path"] = str(folder / entry["path"])
    sizes = folder / "bert" / "config.json"
    without = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}
    sizes.write_text(json.dumps(json.loads(sizes.read_text()) | without))
    return values


def write(folder: Path, values: dict, **training) -> Path:
    file = folder / "run.yaml"
    file.write_text(yaml.safe_dump(values | {"training": values["training"] | training, "output": "run"}))
    return file


@pytest.mark.slow
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed")
@pytest.mark.parametrize("kind", ["sentences", "texts"])
def test_processes_of_an_update(tmp_path, kind):
    values = of_every_kind(tmp_path) if kind == "sentences" else text_run.write(tmp_path)
    config = write(tmp_path, values, steps=6, batch_size=8, eval_steps=6, save_steps=6)
    launched.run(0, "train", config, "--output", tmp_path / "one")
    launched.run(2, "train", config, "--output", tmp_path / "two", "--set", "training.batch_size=4")
    one, two = (load_run(tmp_path / name).model.trainable_state() for name in ("one", "two"))
    for name, found in two.items():
        torch.testing.assert_close(found, one[name], rtol=0, atol=2e-5, msg=name)
