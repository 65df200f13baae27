"""The preset ``published``, fact by fact, on a tiny T5."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from hyperloader.backbones import cross_attention_bias as bias
from hyperloader.data.formulation import Answer
from hyperloader.training.run import train
from hyperloader.training.saved_run import evaluate, load_run, predict
from hyperloader.training.trainer import MultiTaskTrainer

TRAINING = {"steps": 8, "warmup": 2, "save_steps": 2, "max_length": 24, "gradient_accumulation": 3}


@pytest.fixture
def published(settings, t5):
    """Builds the RunConfig of a short training with the preset."""

    def build(training=None, **changes):
        values = {"backbone": str(t5), "head": "text-to-text", "preset": "published", "model": {"reduction_factor": 4}}
        return settings(**values | changes, training=TRAINING | (training or {}))

    return build


@pytest.fixture
def seen(monkeypatch):
    """What every batch of a training held and in which mode the backbone was: ``(update, tasks, sentences, mode)``."""
    found, original = [], MultiTaskTrainer.training_step

    def step(self, model, inputs, num_items_in_batch=None):
        loss = original(self, model, inputs, num_items_in_batch)
        rows = {tuple(row) for row in inputs["input_ids"].tolist()}
        training = self.multi_task_model.backbone.training
        found.append((self.state.global_step, set(inputs["task_ids"].tolist()), rows, training))
        return loss

    monkeypatch.setattr(MultiTaskTrainer, "training_step", step)
    return found


def test_every_update_holds_one_task_in_all_its_batches(published, seen):
    train(published({"steps": 12}), progress=False, test=False)
    tasks = [set().union(*(tasks for step, tasks, *_ in seen if step == update)) for update in range(12)]
    assert len(seen) == 36
    assert all(len(update) == 1 for update in tasks)
    assert {0} in tasks and {1} in tasks


def test_the_frozen_backbone_trains_with_its_dropout(published, seen):
    train(published({"steps": 1}), progress=False, test=False)
    assert all(training for *_, training in seen)


def test_nothing_is_scored_during_training_and_the_last_weights_are_kept(published, monkeypatch):
    """Though the first evaluation would have been the best."""
    steps, original = [], MultiTaskTrainer._validated

    def validated(self):
        steps.append(self.state.global_step)
        return original(self) | {"mean_f1": 1 / self.state.global_step}

    monkeypatch.setattr(MultiTaskTrainer, "_validated", validated)
    config = published({"eval_steps": 2})
    metrics = train(config, progress=False)
    assert steps == [8]
    assert metrics["steps"] == metrics["best_step"] == 8
    assert [point["step"] for point in metrics["learning_curve"]] == [8]
    best, last = (Path(config.output) / name / "model.safetensors" for name in ("best", "checkpoint-8"))
    assert best.read_bytes() == last.read_bytes()


@pytest.mark.parametrize("eval_steps", [5, 100])
def test_the_last_step_is_scored_whatever_eval_steps_is(settings, eval_steps):
    metrics = train(settings(training={"steps": 8, "eval_steps": eval_steps}), progress=False)
    assert metrics["learning_curve"][-1]["step"] == metrics["steps"] == 8


def test_an_interrupted_run_ends_with_the_same_bits(published, monkeypatch, tmp_path):
    whole = published(output=str(tmp_path / "whole"))
    train(whole, progress=False)
    original = MultiTaskTrainer.training_step

    def interrupted(self, *arguments, **options):
        if self.state.global_step == 5:
            raise KeyboardInterrupt
        return original(self, *arguments, **options)

    monkeypatch.setattr(MultiTaskTrainer, "training_step", interrupted)
    config = published(output=str(tmp_path / "parts"))
    with pytest.raises(KeyboardInterrupt):
        train(config, progress=False)
    monkeypatch.undo()
    train(config, resume=True, progress=False)
    for name in ("best/model.safetensors", "checkpoint-8/model.safetensors", "checkpoint-8/optimizer.pt"):
        assert (tmp_path / "parts" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    scores = [json.loads((tmp_path / one / "metrics.json").read_text())["test"] for one in ("whole", "parts")]
    assert scores[0] == scores[1]


def test_a_run_of_another_optimizer_is_not_resumed(published, monkeypatch):
    """As an earlier version began it, under the same preset."""
    monkeypatch.setattr(
        "hyperloader.training.optimizer.TransformersAdamW", lambda groups, lr: torch.optim.AdamW(groups, lr=lr)
    )
    config = published()
    train(config, progress=False)
    monkeypatch.undo()
    folder = Path(config.output)
    (folder / "metrics.json").unlink()
    progress = folder / "checkpoint-8" / "progress.json"
    progress.write_text(json.dumps(json.loads(progress.read_text()) | {"finished": False}))
    with pytest.raises(
        ValueError, match="got one of torch.optim.AdamW; an earlier version of hyperloader began this run"
    ):
        train(config, resume=True, progress=False)


def test_scores_and_predictions_by_position_and_by_sentinel(published, monkeypatch):
    """The model leaves out the first tag of every sentence and writes all others right."""
    from hyperloader.training import evaluation, tagging

    config = published()
    train(config, progress=False, test=False)

    def broken(model, formulation, examples, batch_size, **_):
        answers = []
        for example in examples:
            first, second = (list(example.labels).index(formulation.sentinels[number]) for number in (0, 1))
            answers.append(Answer([*example.labels[: first + 1], *example.labels[second:]], None))
        return answers

    monkeypatch.setattr(evaluation, "answer_examples", broken)
    by_position = evaluate(config.output)
    assert by_position == evaluate(config.output, decoding="position")
    by_sentinel = evaluate(config.output, decoding="sentinel")
    assert by_sentinel["mean_f1"] == 1.0  # every sentence begins with a word outside of all spans
    assert by_position["mean_f1"] == 0.0

    written = "<extra_id_0> <extra_id_1> colour <extra_id_2> O"
    monkeypatch.setattr(
        tagging,
        "answer_examples",
        lambda model, formulation, *_, **__: [Answer(formulation.tokenizer(written).input_ids, None)],
    )
    for decoding, expected in (
        (None, ["B-colour", "O", "O"]),
        ("position", ["B-colour", "O", "O"]),
        ("sentinel", ["O", "B-colour", "O"]),
    ):
        found = list(predict(load_run(config.output, decoding), [["show", "red", "shirts"]], "colours"))
        assert found == [expected]


def test_a_label_prior_needs_labels(settings, t5):
    with pytest.raises(ValueError, match="label_prior must only be given for the head token-class"):
        settings(backbone=str(t5), head="text-to-text", training={"label_prior": True})


def test_a_decoding_needs_generated_text(settings, published):
    with pytest.raises(ValueError, match="decoding must only be given for the head text-to-text, got it for token-cl"):
        settings(training={"decoding": "position"})
    config = settings(method="adapter", preset="published", training=TRAINING)  # the preset's own is of no use there
    train(config, progress=False, test=False)
    with pytest.raises(ValueError, match="decoding must only be given for the head text-to-text, got it for token-cl"):
        evaluate(config.output, decoding="position")
    other = published(output=f"{config.output}-2")
    train(other, progress=False, test=False)
    with pytest.raises(ValueError, match="^decoding must be one of sentinel, position, got 'words'"):
        evaluate(other.output, decoding="words")


@pytest.mark.slow
def test_two_processes_train_like_one_with_twice_the_batch(published, t5, tmp_path):
    """Every update holds the same one task on both, or the losses would differ. Clipping makes the updates equal."""
    backbone = tmp_path / "t5"
    shutil.copytree(t5, backbone)
    sizes = json.loads((backbone / "config.json").read_text())
    (backbone / "config.json").write_text(json.dumps(sizes | {"dropout_rate": 0.0}))
    script = tmp_path / "main.py"
    script.write_text(
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from hyperloader.training.run import RunConfig, train\n"
        "train(RunConfig.from_dict(json.loads(sys.argv[1])), progress=False, test=False)"
    )
    root = Path(__file__).parents[2]
    environment = os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1"}
    weights, losses = [], []
    for processes in (1, 2):
        config = published(
            {"batch_size": 8 // processes}, backbone=str(backbone), output=str(tmp_path / str(processes))
        )
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={processes}"]
        command = [sys.executable, *launch, str(script), json.dumps(config.to_dict())]
        ran = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300)
        assert ran.returncode == 0, ran.stderr
        metrics = json.loads((Path(config.output) / "metrics.json").read_text())
        losses.append(metrics["learning_curve"][-1]["train_loss"])
        weights.append(list(load_run(config.output).model.parameters()))
    assert losses[0] == pytest.approx(2 * losses[1], rel=1e-4)  # the sum over a batch: each process has half of one
    for one, other in zip(*weights, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-5)


@pytest.fixture
def old_t5(t5, tmp_path):
    """Builds a T5 whose files hold the bias of the cross-attention, in one file or in two."""

    def build(parts):
        folder = tmp_path / "old"
        shutil.copytree(t5, folder)
        tensors = load_file(folder / "model.safetensors")
        heads = tensors["decoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"].shape[1]
        added = {bias.NAME: torch.randn(32, heads)}
        if parts == 1:
            save_file(tensors | added, folder / "model.safetensors", {"format": "pt"})
            return folder, added[bias.NAME]
        (folder / "model.safetensors").unlink()
        names = {}
        for number, part in enumerate((tensors, added)):
            file = f"model-0000{number + 1}-of-00002.safetensors"
            save_file(part, folder / file, {"format": "pt"})
            names |= dict.fromkeys(part, file)
        (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": names}))
        return folder, added[bias.NAME]

    return build


@pytest.mark.parametrize("parts", [1, 2])
def test_the_bias_of_the_cross_attention_is_that_of_the_files(published, old_t5, parts):
    folder, wanted = old_t5(parts)
    config = published({"steps": 1}, backbone=str(folder))
    train(config, progress=False, test=False)
    model = load_run(config.output).model
    assert torch.equal(bias.cross_attention_bias(model.backbone), wanted)
    assert not bias.cross_attention_bias(model.backbone).requires_grad


def test_a_run_that_was_trained_without_the_bias(published, old_t5, monkeypatch):
    folder, _ = old_t5(1)
    config = published({"steps": 1}, backbone=str(folder))
    with monkeypatch.context() as earlier:
        earlier.setattr("hyperloader.training.saved_run.restore_cross_attention_bias", lambda *_: None)
        train(config, progress=False, test=False)
    assert bias.cross_attention_bias(load_run(config.output).model.backbone) is None


def test_the_default_preset_trains_without_the_bias(published, old_t5):
    folder, _ = old_t5(1)
    config = published({"steps": 1}, backbone=str(folder), preset="default")
    train(config, progress=False, test=False)
    assert bias.cross_attention_bias(load_run(config.output).model.backbone) is None
