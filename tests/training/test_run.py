import dataclasses
import itertools
import json
import math
import os
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch

from hyperloader.training.finite import NonFiniteLossError
from hyperloader.training.methods import METHODS
from hyperloader.training.metrics import load_counts
from hyperloader.training.run import RunConfig, train
from hyperloader.training.saved_run import evaluate, evaluate_sentences, load_run, predict
from hyperloader.training.trainer import MultiTaskTrainer


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains_and_scores_the_same_when_it_is_loaded(settings, method):
    config = settings(method=method)
    metrics = train(config, progress=False)
    names = {path.name for path in Path(config.output).iterdir()}
    assert names == {
        "config.yaml",
        "labels.json",
        "words.json",
        "metrics.json",
        "test.counts.npz",
        "README.md",
        "best",
        "checkpoint-6",
    }
    assert json.loads((Path(config.output) / "metrics.json").read_text()) == metrics
    assert evaluate(config.output, "test") == metrics["test"]
    assert evaluate(config.output, "validation") == metrics["validation"]
    parameters = list(load_run(config.output).model.parameters())
    assert metrics["trainable_parameters"] == sum(one.numel() for one in parameters if one.requires_grad)
    assert metrics["parameters"] == sum(one.numel() for one in parameters)
    assert [point["step"] for point in metrics["learning_curve"]] == [3, 6]
    assert metrics["steps"] == 6
    assert metrics["seconds_per_step"] > 0
    assert metrics["peak_memory_bytes"] > 1e6
    assert metrics["versions"]["torch"] == torch.__version__


def test_a_run_keeps_what_its_scores_are_made_of(finished, settings, tmp_path):
    counts, metrics = load_counts(Path(finished.output) / "test.counts.npz"), train(finished, resume=True)
    scores, again = evaluate_sentences(finished.output, "test")
    assert scores == metrics["test"] and list(again) == list(scores["tasks"]) == list(counts)
    for task, found in scores["tasks"].items():
        assert (counts[task] == again[task]).all()
        right, predicted, there = counts[task].sum(0)
        assert found["f1"] == pytest.approx(2 * right / (predicted + there), abs=1e-15)
        assert (len(counts[task]), predicted, there) == tuple(found[key] for key in ("sentences", "predicted", "spans"))
    untested = settings(training={"steps": 1}, output=str(tmp_path / "untested"))
    train(untested, progress=False, test=False)
    assert not (tmp_path / "untested" / "test.counts.npz").exists()


@pytest.mark.parametrize("method", ["hyperloader", "lora"])
def test_text_to_text_trains_and_generates(settings, t5, method):
    config = settings(backbone=str(t5), head="text-to-text", method=method, training={"max_length": 24})
    metrics = train(config, progress=False)
    run = load_run(config.output)
    assert evaluate(config.output, "test") == metrics["test"]
    (tags,) = predict(run, [["show", "red", "to", "rome"]], "places")
    assert len(tags) == 4


@pytest.mark.parametrize("method", METHODS)
def test_a_new_model_predicts_the_labels_as_often_as_they_are(settings, method):
    """Whatever the method: the loss of the first step is no more than that of who knows their shares alone."""
    losses = {}
    for prior in (True, False):
        training = {"steps": 1, "eval_steps": 1, "learning_rate": 1e-9, "warmup": 0, "label_prior": prior}
        config = settings(method=method, training=training)
        config = dataclasses.replace(config, output=f"{config.output}-{prior}")
        losses[prior] = train(config, progress=False)["learning_curve"][0]["train_loss"]
    run = load_run(config.output)
    tags = Counter(tag for task in config.load_tasks() for sentence in task.train for tag in sentence.tags)
    shares = [count / tags.total() for count in tags.values()]
    constant = -sum(share * math.log(share) for share in shares)
    assert run.heads is not None and losses[True] < constant + 0.06 < losses[False]


def test_learns_two_tasks_that_label_the_same_words_differently(settings):
    config = settings(method="full", training={"steps": 60, "eval_steps": 30, "learning_rate": 5e-3})
    metrics = train(config, progress=False)
    assert metrics["test"]["mean_f1"] > 0.95
    run = load_run(config.output)
    words = ["show", "dark", "red", "to", "new", "york"]
    assert list(predict(run, [words], "colours")) == [["O", "B-colour", "I-colour", "O", "O", "O"]]
    assert list(predict(run, [words], "places")) == [["O", "O", "O", "O", "B-place", "I-place"]]


def test_predictions_stream(finished):
    taken = 0

    def endless():
        nonlocal taken
        for length in itertools.cycle([3, 1, 2]):
            taken += 1
            yield ["red"] * length

    found = predict(load_run(finished.output), endless(), "colours", batch_size=4)
    assert taken == 0
    assert [len(tags) for tags in itertools.islice(found, 5)] == [3, 1, 2, 3, 1]
    assert taken == 8


def test_an_unknown_task_or_split_names_the_nearest(finished):
    with pytest.raises(ValueError, match="task must be one of colours, places, got 'colors'; did you mean 'colours'"):
        predict(load_run(finished.output), [["red"]], "colors")
    with pytest.raises(ValueError, match="split must be one of .*, test, got 'tests'; did you mean 'test'"):
        evaluate(finished.output, "tests")


def test_the_fraction_takes_train_and_validation_and_leaves_test(settings):
    metrics = train(settings(method="full", fraction=0.5), progress=False)
    assert metrics["validation"]["tasks"]["colours"]["sentences"] == 6
    assert metrics["test"]["tasks"]["colours"]["sentences"] == 20
    assert metrics["encoding"]["places"]["sentences"] == 20 + 6 + 20


def test_a_label_that_training_never_shows_counts_as_an_error(settings, data, tmp_path):
    folder = tmp_path / "places"
    folder.mkdir()
    for split in ("train", "validation", "test"):
        (folder / f"{split}.jsonl").write_text((data / "places" / f"{split}.jsonl").read_text())
    with (folder / "test.jsonl").open("a") as file:
        file.write('{"tokens": ["show"], "tags": ["B-unseen"]}\n')
    metrics = train(settings(method="full", tasks=[{"name": "places", "path": str(folder)}]), progress=False)
    assert metrics["test"]["tasks"]["places"]["spans"] == 21


def test_a_finished_run_is_given_back_and_not_trained_again(finished, monkeypatch, tmp_path):
    monkeypatch.setattr("hyperloader.training.run.MultiTaskTrainer", None)
    metrics = json.loads((Path(finished.output) / "metrics.json").read_text())
    assert train(finished, resume=True, progress=False) == metrics
    config = dataclasses.replace(finished, output=shutil.copytree(finished.output, str(tmp_path / "copy")))
    (Path(config.output) / "metrics.json").write_text("{")
    with pytest.raises(ValueError, match=r"metrics\.json: not the metrics of a run"):
        train(config, resume=True, progress=False)


def test_output_with_a_run_is_neither_overwritten_nor_resumed_as_another(finished):
    with pytest.raises(ValueError, match="holds a run already; resume it"):
        train(finished, progress=False)
    with pytest.raises(ValueError, match=r"holds another run, which differs in seed \(0 there, 1 here\)"):
        train(dataclasses.replace(finished, seed=1), resume=True, progress=False)
    message = r"training\.steps \(6 there, 77 here\), training\.patience \(nothing there, 3 here\); choose another"
    training = {**finished.training, "steps": 77, "patience": 3}
    with pytest.raises(ValueError, match=message):
        train(dataclasses.replace(finished, training=training), resume=True, progress=False)


def test_output_must_be_a_folder_of_its_own(settings, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match="output must be a folder, got the file"):
        train(settings(output=str(tmp_path / "file")), progress=False)
    (tmp_path / "foreign" / "checkpoint-5").mkdir(parents=True)
    with pytest.raises(ValueError, match=r"holds checkpoints but no config\.yaml"):
        train(settings(output=str(tmp_path / "foreign")), resume=True, progress=False)


def test_load_run_says_what_is_missing_or_damaged(finished, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"config\.yaml: no such file or folder.*must be the output of a run"):
        load_run(tmp_path)
    folder = Path(shutil.copytree(finished.output, tmp_path / "copy"))
    weights = folder / "best" / "trained.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    with pytest.raises(ValueError, match=r"trained\.safetensors: truncated or no safetensors file"):
        load_run(folder)
    weights.unlink()
    with pytest.raises(FileNotFoundError, match=r"trained\.safetensors: no such file"):
        load_run(folder)


def test_weights_of_another_method_are_refused(finished, settings):
    lora = settings(method="lora")
    train(lora, progress=False)
    foreign = Path(finished.output) / "best" / "trained.safetensors"
    (Path(lora.output) / "best" / "trained.safetensors").write_bytes(foreign.read_bytes())
    with pytest.raises(
        ValueError,
        match=r"tensors missing: 8 names such as backbone\.base_model.*; extra: 37 names such as backbone\.emb",
    ):
        load_run(lora.output)


def test_a_loss_that_is_not_finite_stops_and_keeps_the_last_good_checkpoint(settings, monkeypatch):
    from hyperloader.training import trainer

    original, calls = trainer.SummedLoss.forward, []

    def poisoned(self, **inputs):
        calls.append(1)
        return original(self, **inputs) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(trainer.SummedLoss, "forward", poisoned)
    config = settings(method="full", training={"save_steps": 2, "eval_steps": 2})
    with pytest.raises(NonFiniteLossError, match=r"got NaN or infinity at step 5; .*checkpoint is .*checkpoint-4"):
        train(config, progress=False)
    assert (Path(config.output) / "checkpoint-4" / "trained.safetensors").is_file()
    monkeypatch.undo()
    assert train(config, resume=True, progress=False)["steps"] == 6


def test_weights_that_are_not_finite_are_never_saved(settings, monkeypatch):
    original = MultiTaskTrainer.training_step

    def overflowing(self, model, *arguments):
        loss = original(self, model, *arguments)
        if self.state.global_step == 2:
            next(model.parameters()).data.fill_(float("inf"))
        return loss

    monkeypatch.setattr(MultiTaskTrainer, "training_step", overflowing)
    config = settings(method="full", training={"save_steps": 1, "eval_steps": 6})
    with pytest.raises(NonFiniteLossError, match=r"the weights must be finite, got NaN or infinity in .* at step 3"):
        train(config, progress=False)
    assert [folder.name for folder in Path(config.output).glob("checkpoint-*")] == ["checkpoint-2"]


def test_training_ends_when_patience_does(settings):
    training = {"steps": 40, "eval_steps": 2, "save_steps": 10, "patience": 2, "learning_rate": 1e-12}
    config = settings(method="full", training=training)
    metrics = train(config, progress=False)
    assert metrics["steps"] == 6
    assert metrics["best_step"] == 2
    assert (Path(config.output) / "checkpoint-6").is_dir()
    (Path(config.output) / "metrics.json").unlink()
    again = train(config, resume=True, progress=False)
    assert again["steps"] == 6
    assert again["test"] == metrics["test"]


def test_best_is_the_best_and_not_the_last(settings, monkeypatch):
    from hyperloader.training import trainer

    scores = iter([0.1, 0.9, 0.2])
    monkeypatch.setattr(trainer.MultiTaskTrainer, "_validated", lambda self: {"tasks": {}, "mean_f1": next(scores)})
    config = settings(method="full", training={"eval_steps": 2, "save_steps": 2, "keep_checkpoints": 3})
    metrics = train(config, progress=False)
    assert metrics["best_step"] == 4
    weights = [Path(config.output) / name / "trained.safetensors" for name in ("best", "checkpoint-4", "checkpoint-6")]
    best, fourth, last = (path.read_bytes() for path in weights)
    assert best == fourth != last


def test_tensorboard_logs_are_written_where_it_is_installed(settings):
    pytest.importorskip("tensorboard")
    config = settings(training={"report_to": "tensorboard"})
    train(config, progress=False)
    assert list((Path(config.output) / "tensorboard").glob("events.out.tfevents.*"))


@pytest.mark.parametrize("option", ["bf16", "gradient_checkpointing"])
@pytest.mark.parametrize("method", ["hyperloader", "lora", "full"])
def test_options_that_change_only_the_arithmetic(settings, tmp_path, method, option):
    training = {"learning_rate": 1e-3}
    plain = train(settings(method=method, training=training), progress=False)
    changed = settings(method=method, output=str(tmp_path / "changed"), training=training | {option: True})
    losses = [point["train_loss"] for point in plain["learning_curve"]]
    found = [point["train_loss"] for point in train(changed, progress=False)["learning_curve"]]
    assert found == pytest.approx(losses, rel=0.05 if option == "bf16" else 1e-6)


def test_a_run_is_the_same_twice(settings, tmp_path):
    runs = [settings(output=str(tmp_path / name)) for name in ("one", "two")]
    for config in runs:
        train(config, progress=False)
    weights = [(Path(config.output) / "checkpoint-6" / "model.safetensors").read_bytes() for config in runs]
    assert weights[0] == weights[1]


def test_output_holds_a_config_that_can_be_read(finished):
    of_head = {"valid_tags": True, "head_base_width": 960.0}
    stated = dataclasses.replace(finished, training={**finished.training, **of_head})
    assert RunConfig.from_yaml(Path(finished.output) / "config.yaml") == stated


def test_a_run_holds_wherever_it_is_moved(settings, data, bert, monkeypatch, tmp_path):
    (tmp_path / "first").mkdir()
    monkeypatch.chdir(tmp_path / "first")
    paths = {"backbone": os.path.relpath(bert), "tasks": os.path.relpath(data / "tasks.yaml"), "output": "run"}
    config = dataclasses.replace(settings(method="full"), **paths)
    metrics = train(config, progress=False)
    (tmp_path / "first" / "run").rename(tmp_path / "moved")
    monkeypatch.chdir("/")
    assert evaluate(tmp_path / "moved") == metrics["test"]
    (tmp_path / "moved" / "metrics.json").unlink()
    resumed = RunConfig.from_yaml(tmp_path / "moved" / "config.yaml")
    assert train(resumed, resume=True, progress=False)["test"] == metrics["test"]
    assert not (tmp_path / "first" / "run").exists()
