import math
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from torch import nn
from transformers.integrations import integration_utils
from transformers.modeling_outputs import BaseModelOutput, TokenClassifierOutput

from hyperloader.nn.classify import classify
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.loss import sequence_loss
from hyperloader.training.presets import TRACKERS, TrainingOptions
from hyperloader.training.trainer import MultiTaskTrainer


class Tagger(nn.Module):
    """The smallest model that the trainer takes."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, 8)
        self.head = nn.Linear(8, 4)

    def forward(self, input_ids, attention_mask=None, labels=None, task_ids=None):
        logits = self.head(self.embedding(input_ids))
        return TokenClassifierOutput(loss=sequence_loss(logits, labels), logits=logits)

    def save_pretrained(self, folder):
        (Path(folder) / "empty").write_text("")


def collate(examples):
    """Rows of another number of labels each."""
    ids = torch.tensor([[number % 10, number % 7, number % 3] for number in examples])
    labels = torch.tensor([[number % 4, -100 if number % 2 else 1, -100] for number in examples])
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids), "labels": labels, "task_ids": ids[:, 0] * 0}


@pytest.fixture
def build(tmp_path):
    def trainer(model=None, collate=collate, **options):
        defaults = {"steps": 1, "batch_size": 4, "warmup": 0, "schedule": "constant", "max_grad_norm": 0}
        return MultiTaskTrainer(
            model or Tagger(),
            TrainingOptions(**defaults | {"report_to": "none", "bucket": 1} | options),
            tmp_path / "run",
            [list(range(20)), list(range(100, 130))],
            collate,
            lambda model: {"tasks": {}, "mean_f1": 0.5},
            progress=False,
        )

    return trainer


def first_gradients(trainer) -> tuple[dict, list]:
    """The gradients at the first update, and its batches."""
    found, batches, original = {}, [], trainer.training_step

    def step(model, inputs, num_items_in_batch=None):
        batches.append(inputs)
        return original(model, inputs, num_items_in_batch)

    def keep(*_, **__):
        found.update({name: one.grad.clone() for name, one in trainer.multi_task_model.named_parameters()})

    trainer.training_step = step
    trainer.create_optimizer().register_step_pre_hook(keep)
    trainer.train()
    return found, batches


def expected_gradients(batches, reduce) -> dict:
    model = Tagger()
    reduce(model, batches).backward()
    return {name: one.grad for name, one in model.named_parameters()}


@pytest.mark.parametrize("accumulation", [1, 3])
def test_mean_is_over_all_labels_of_an_update(build, accumulation):
    found, batches = first_gradients(build(gradient_accumulation=accumulation))
    assert len(batches) == accumulation

    def mean(model, batches):
        whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
        return model(**whole).loss

    torch.testing.assert_close(found, expected_gradients(batches, mean), rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("label_smoothing", [0.0, 0.1])
def test_sum_is_over_the_labels_of_a_batch_and_a_mean_over_batches(build, label_smoothing):
    trainer = build(gradient_accumulation=3, loss="sum", label_smoothing=label_smoothing)
    found, batches = first_gradients(trainer)

    def summed(model, batches):
        losses = [sequence_loss(model(**one).logits, one["labels"], "sum", label_smoothing) for one in batches]
        return sum(losses) / 3

    torch.testing.assert_close(found, expected_gradients(batches, summed), rtol=1e-5, atol=1e-6)


def test_gradients_are_clipped(build):
    found, _ = first_gradients(build(loss="sum", max_grad_norm=0.01))
    assert math.sqrt(sum(float(one.square().sum()) for one in found.values())) == pytest.approx(0.01, rel=1e-3)


def test_single_batches_hold_one_task_and_mixed_ones_several(build):
    def kinds(mode):
        batches = build(sampling=mode, steps=40).get_train_dataloader().batches()
        return [len({task for task, _ in batch}) for batch in batches]

    assert set(kinds("single")) == {1}
    assert 2 in kinds("mixed")


def test_warmup_then_linear_decay_to_zero(build):
    trainer = build(steps=10, warmup=4, schedule="linear", learning_rate=1.0)
    trainer.create_optimizer_and_scheduler(10)
    rates = []
    for _ in range(11):
        rates.append(trainer.lr_scheduler.get_last_lr()[0])
        trainer.optimizer.step()
        trainer.lr_scheduler.step()
    assert rates == pytest.approx([0, 0.25, 0.5, 0.75, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6, 0])


def test_vectors_do_not_decay(build):
    groups = build(weight_decay=0.1).create_optimizer().param_groups
    assert [(group["weight_decay"], len(group["params"])) for group in groups] == [(0.1, 2), (0.0, 1)]


def test_frozen_parameters_are_not_given_to_the_optimizer(build):
    model = Tagger()
    model.embedding.requires_grad_(False)
    assert sum(len(group["params"]) for group in build(model).create_optimizer().param_groups) == 2


def test_trackers_are_those_that_transformers_knows():
    from transformers.integrations.integration_utils import INTEGRATION_TO_CALLBACK

    assert INTEGRATION_TO_CALLBACK.keys() <= TRACKERS.keys()


def test_a_tracker_by_its_name(build, monkeypatch):
    from transformers import TrainerCallback

    logged = []

    class Recorder(TrainerCallback):
        def on_log(self, args, state, control, logs=None, **_):
            logged.append((args.run_name, logs))

    monkeypatch.setitem(integration_utils.INTEGRATION_TO_CALLBACK, "mlflow", Recorder)
    with pytest.raises(
        ImportError, match="report_to: mlflow needs mlflow, which is not installed; run: pip install ml"
    ):
        build(report_to="mlflow")
    monkeypatch.setattr("hyperloader.training.arguments.get_available_reporting_integrations", lambda: ["mlflow"])
    trainer = build(report_to="mlflow")
    trainer.log({"loss": 1.5})
    ((name, logs),) = logged
    assert name == Path(trainer.args.output_dir).name
    assert logs["loss"] == 1.5


def test_tensorboard_that_is_asked_for_and_missing_is_an_error(build, monkeypatch):
    monkeypatch.setattr("hyperloader.training.arguments.is_tensorboard_available", lambda: False)
    build(report_to="auto")
    with pytest.raises(ImportError, match="run: pip install tensorboard"):
        build(report_to="tensorboard")


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(settings, tmp_path):
    import json

    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from hyperloader.training.run import RunConfig, train\n"
        "train(RunConfig.from_dict(json.loads(sys.argv[1])), progress=False)"
    )
    (tmp_path / "main.py").write_text(script)
    dry = {"learning_rate": 1e-3}
    one = settings(method="adapter", output=str(tmp_path / "one"), training=dry | {"batch_size": 8})
    two = settings(method="adapter", output=str(tmp_path / "two"), training=dry | {"batch_size": 4})
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    for config, processes in ((one, 1), (two, 2)):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(tmp_path / "main.py"), json.dumps(config.to_dict())]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert ran.returncode == 0, ran.stderr
    losses = []
    for config in (one, two):
        metrics = json.loads((Path(config.output) / "metrics.json").read_text())
        losses.append([point["train_loss"] for point in metrics["learning_curve"]])
        assert metrics["test"]["tasks"]["colours"]["sentences"] == 20
    assert losses[0] == pytest.approx(losses[1], rel=0.05)  # dropout differs


class Mixed(nn.Module):
    """A tagger and a regression."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.embedding = nn.Embedding(10, 8)
        self.heads = TaskHeads(8, {"tags": ["O", "B-x"], "value": ["value"]}, kinds={"value": "regression"})

    def forward(self, input_ids, attention_mask, task_ids, labels=None, targets=None):
        outputs = BaseModelOutput(last_hidden_state=self.embedding(input_ids))
        return classify(self.heads, outputs, labels, task_ids, False, attention_mask, targets)

    save_pretrained = Tagger.save_pretrained


def collate_kinds(examples):
    """Tags for the numbers below 100, a value for the others."""
    batch = collate(examples)
    of_value = torch.tensor([number >= 100 for number in examples])
    values = torch.tensor([float(number) for number in examples]) / 50
    batch["labels"] = (batch["labels"] % 2).masked_fill(of_value[:, None] | (batch["labels"] < 0), -100)
    batch |= {"task_ids": of_value.long(), "targets": values.masked_fill(~of_value, math.nan)[:, None]}
    return batch


@pytest.mark.parametrize(
    ("loss", "label_smoothing", "dtype"),
    [
        ("mean", 0.0, torch.float32), ("sum", 0.0, torch.float32), ("mean", 0.1, torch.float32),
        ("mean", 0.0, torch.float64),
    ],
)  # fmt: skip
def test_tasks_of_several_kinds_count_by_their_sentences(build, loss, label_smoothing, dtype):
    options = {"gradient_accumulation": 3, "loss": loss, "label_smoothing": label_smoothing, "batch_size": 6}
    trainer = build(Mixed().to(dtype), collate_kinds, **options)
    found, batches = first_gradients(trainer)
    assert {len(batch["task_ids"].unique()) for batch in batches} == {2}
    whole = {name: torch.cat([batch[name] for batch in batches]) for name in batches[0]}
    model, total = Mixed().to(dtype), 0
    for batch in [whole] if loss == "mean" else batches:
        tags = batch["task_ids"] == 0
        logits = model(**batch).logits
        of_tags = sequence_loss(logits[tags], batch["labels"][tags], "mean", label_smoothing)
        of_values = (logits[~tags, 0, 0] - batch["targets"][~tags, 0]).square().mean()
        total += of_tags * tags.sum() + of_values * (~tags).sum()
    (total / (18 if loss == "mean" else 3)).backward()
    expected = {name: one.grad for name, one in model.named_parameters()}
    tolerance = {"rtol": 1e-5, "atol": 1e-6} if dtype == torch.float32 else {"rtol": 1e-12, "atol": 1e-14}
    torch.testing.assert_close(found, expected, **tolerance)
