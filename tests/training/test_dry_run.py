"""The first steps of a training, of which nothing is kept."""

import dataclasses
from pathlib import Path

import pytest
import torch

from hyperloader.training import dry_run as module
from hyperloader.training.dry_run import SECONDS_PER_OPERATOR, Work, dry_run
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.run import RunConfig, train

RECIPES = Path(__file__).resolve().parents[2] / "recipes"


@pytest.mark.parametrize("method", ["hyperloader", "full"])
def test_they_are_the_first_steps_of_the_training(settings, method):
    config = settings(method=method, training={"eval_steps": 1, "eval_batch_size": 16})
    found = dry_run(config, 4)
    assert not Path(config.output).exists()
    metrics = train(config, progress=False)
    losses = [point["train_loss"] for point in metrics["learning_curve"]]
    assert found.losses[0] == pytest.approx(losses[0], rel=1e-3)  # the log has four digits
    assert found.losses[-1] == pytest.approx(losses[4], rel=1e-2, abs=1e-3)  # of the step whose work is counted
    assert found.trained == metrics["trainable_parameters"]
    assert found.batches == (2 * 20 + 6 * 2 * 12) / 16  # six evaluations on the way
    assert 0 < found.step.seconds < 60 and 0 < found.scoring.seconds < 60
    assert found.step.operators > found.scoring.operators > 100
    assert found.memory > 1e6


def test_sentences_that_are_not_scored_cost_nothing(settings):
    options = {"eval_steps": 1, "eval_batch_size": 16, "eval_sentences": 4}
    assert dry_run(settings(training=options), 1).batches == (2 * 4 + 6 * 2 * 4) / 16


def test_more_steps_than_the_training_has(settings):
    found = dry_run(settings(training={"steps": 2, "save_steps": 1, "patience": 1}), 3)
    assert all(loss > 0 for loss in found.losses)


def test_text_is_generated(settings, t5):
    found = dry_run(settings(head="text-to-text", backbone=str(t5), preset="published"), 1)
    assert found.scoring.operators > 1000
    assert found.step.flops > 4 * 1e6  # four batches


def test_work_is_counted_to_the_product():
    layer, x = torch.nn.Linear(8, 4), torch.ones(3, 8)
    with module._counting() as counted:
        layer(x).view(-1).relu().sum().backward()
        assert counted()[0] > 0
    flops, operators = counted()
    assert flops == 2 * 3 * 8 * 4 * 2  # forward, and the gradient of the weight: x wants none
    layer(x)
    assert counted() == (flops, operators)
    assert 5 <= operators <= 20


def test_a_gpu_waits_for_operators_or_for_products():
    assert Work(1.0, 10, 100).on_gpu(half=True) == 100 * SECONDS_PER_OPERATOR
    assert Work(1.0, 2 * 10**14, 100).on_gpu(half=True) == 2
    assert Work(1.0, 2 * 10**14, 100).on_gpu(half=False) == 5


@pytest.mark.parametrize(
    ("steps", "select", "times"), [(500, "best", 2), (501, "best", 3), (5, "best", 1), (5, "last", 1)]
)
def test_how_often_validation_is_scored(steps, select, times):
    options = TrainingOptions(steps=steps, eval_steps=250, select=select)
    assert module._validations(options) == times
    assert module._validations(dataclasses.replace(options, bf16=True)) == times + 1


def test_the_published_recipe_is_complete():
    config = RunConfig.from_yaml(RECIPES / "seven-tasks-t5.yaml")
    options, minilm = config.options, RunConfig.from_yaml(RECIPES / "seven-tasks-minilm.yaml")
    assert config.task_entries() == minilm.task_entries()
    assert (config.backbone, config.head, config.method) == ("google-t5/t5-base", "text-to-text", "hyperloader")
    assert (options.steps, options.batch_size, options.gradient_accumulation) == (65_536, 32, 4)
    assert (options.optimizer, options.learning_rate, options.warmup_steps) == ("adamw_hf", 3e-4, 500)
    assert config.model_options == {"init": "published", "norm": "post", "reduction_factor": 32}
