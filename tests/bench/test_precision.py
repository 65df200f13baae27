"""python -m bench.precision: every precision is measured, and stands in its document."""

import json

import pytest
import torch
import yaml
from helpers import small_run

from bench import precision
from hyperloader.training.run_config import RunConfig


@pytest.fixture
def recipe(tmp_path):
    file = tmp_path / "run.yaml"
    values = small_run.write(tmp_path) | {"model": {"bottleneck": 8}, "output": "run"}
    file.write_text(yaml.safe_dump(values))
    return file


@pytest.mark.slow
def test_a_small_run(recipe, tmp_path, capsys):
    page, file = tmp_path / "page.md", tmp_path / "new" / "precision.json"
    page.write_text("<!-- precision: begin --><!-- precision: end -->")
    options = ["--steps", "2", "--fraction", "0.5", "--seeds", "3", "--file", str(file), "--document", str(page)]
    precision.main([str(recipe), *options])
    found = json.loads(file.read_text())
    assert {name: len(scores) for name, scores in found["scores"].items()} == dict.fromkeys(precision.TRAINED, 1)
    assert list(found["gradients"]) == ["scaled, new", "scaled, trained", "published, new", "published, trained"]
    assert all(
        0 < found["gradients"][one][name]["gradient"] < 0.05 for one in found["gradients"] for name in precision.HALF
    )
    assert page.read_text().count("\n| ") == 5


def test_the_gradient_of_all_that_is_trained(recipe):
    run, trainer, _ = precision.prepare(
        RunConfig.from_yaml(recipe), RunConfig.from_yaml(recipe).load_tasks(), progress=False
    )
    batch = next(iter(trainer.get_train_dataloader()))
    loss, gradient = precision.loss_and_gradient(run.model, batch)
    assert {one.dtype for one in gradient.values()} == {torch.float64}
    assert loss > 0
    assert set(gradient) == {name for name, one in run.model.named_parameters() if one.requires_grad}
