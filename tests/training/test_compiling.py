"""Runs with ``training: {compile: true}``: the same names, checkpoints and scores, and how often they are compiled."""

import functools
from pathlib import Path

import pytest
import torch
from helpers import kinds_run, text_run
from torch import nn
from torch._dynamo.utils import counters
from transformers import BertConfig

from hyperloader.checkpoints.tensors import read_tensors
from hyperloader.cli.commands import app
from hyperloader.training.compile_time import seconds_compiling
from hyperloader.training.compiling import check_compiler, compile_model, with_wide_labels
from hyperloader.training.dry_run import dry_run
from hyperloader.training.run import train
from hyperloader.training.run_config import RunConfig
from hyperloader.training.run_folder import check_output, stated
from hyperloader.training.trainer import MultiTaskTrainer

SIZES = {"steps": 6, "eval_steps": 3, "eval_batch_size": 23}  # of 24 validation sentences: one is left


@pytest.fixture
def graphs():
    """How many graphs have been compiled."""
    torch._dynamo.reset()
    counters.clear()
    return lambda: counters["stats"]["unique_graphs"]


@pytest.fixture
def without_inductor(monkeypatch):
    """Graphs are run as they are, which takes no minutes to compile."""
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))


def both(settings, tmp_path, **training):
    """Metrics and best weights of a run without and with compile."""
    found = []
    for compiled in (False, True):
        output = tmp_path / f"compiled-{compiled}"
        config = settings(output=str(output), training=SIZES | training | {"compile": compiled})
        metrics = train(config, progress=False)
        (file,) = (output / "best").glob("*.safetensors")
        found.append((metrics, read_tensors(file), config))
    return found


def test_the_same_run(settings, tmp_path, without_inductor, graphs):
    (eager, tensors, _), (compiled, found, _) = both(settings, tmp_path)
    assert graphs() == 2  # training, and validation: the sentence that is left is not compiled
    assert found.keys() == tensors.keys()
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-5)
    assert compiled["test"] == eager["test"]
    assert compiled["seconds_compiling"] > 10 * compiled["seconds_per_step"] > 0  # of 6 steps two are compiled
    assert "seconds_compiling" not in eager


@pytest.mark.slow
def test_graphs_with_bf16(settings, without_inductor, graphs):
    train(settings(training=SIZES | {"bf16": True, "compile": True}), progress=False)
    assert graphs() == 2  # none for the last scores, which are of float32


@pytest.mark.slow
@pytest.mark.parametrize("rest", [0, 2])
def test_graphs_of_tasks_of_whole_sentences(rest, tmp_path, without_inductor, graphs):
    """Some batches hold pairs of texts or numbers, some do not; one may hold fewer sentences than there are tasks."""
    values = kinds_run.write(tmp_path)
    files = [tmp_path / task["path"] / "validation.jsonl" for task in values["tasks"]]
    sentences = sum(len(path.read_text().splitlines()) for path in files)
    training = values["training"] | {"compile": True, "eval_batch_size": sentences - rest}
    for task in values["tasks"]:
        task["path"] = str(tmp_path / task["path"])
    train(RunConfig.from_dict({**values, "training": training, "output": str(tmp_path / "run")}), progress=False)
    assert graphs() == (3 if rest else 2)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("t5", 1), ("bart", 1), ("llama", 2)])  # of a decoder the perplexities too
def test_graphs_of_models_that_write_text(name, count, tmp_path, without_inductor, graphs):
    """In some batches of an encoder-decoder no text is longer than its end and one token."""
    values = text_run.write(tmp_path, name)
    for task in values["tasks"]:
        task["path"] = str(tmp_path / task["path"])
    values |= {"backbone": str(tmp_path / name), "output": str(tmp_path / "run")}
    values["training"] |= {"compile": True, "batch_size": 2}
    train(RunConfig.from_dict(values), progress=False)
    assert graphs() == count


@pytest.mark.slow
def test_graphs_of_tagging_by_sentinels(data, t5, tmp_path, without_inductor, graphs):
    training = SIZES | {"compile": True, "report_to": "none"}
    values = {"backbone": str(t5), "head": "text-to-text", "tasks": str(data / "tasks.yaml"), "training": training}
    train(RunConfig.from_dict({**values, "output": str(tmp_path / "run")}), progress=False)
    assert graphs() == 1


@pytest.mark.slow
@pytest.mark.parametrize("method", ["hyperformer++", "adapter", "lora", "full"])
def test_graphs_of_other_methods(method, settings, without_inductor, graphs):
    if method == "lora":
        pytest.importorskip("peft", reason="PEFT is not installed")
    train(settings(method=method, training=SIZES | {"compile": True}), progress=False)
    assert graphs() == 2


@pytest.mark.slow
def test_graphs_with_sparse_gradients(settings, without_inductor, graphs):
    train(settings(model={"sparse_gradients": True}, training=SIZES | {"compile": True}), progress=False)
    assert graphs() == 2


@pytest.mark.slow
def test_graphs_of_a_quantised_backbone(settings, without_inductor, graphs):
    pytest.importorskip("torchao", reason="torchao is not installed")
    train(settings(backbone_quantization="torchao-int8", training=SIZES | {"compile": True}), progress=False)
    assert graphs() == 2


@pytest.mark.slow
def test_graphs_of_described_tasks(tmp_path, without_inductor, graphs):
    values = kinds_run.write(tmp_path)
    values["tasks"] = [
        {**task, "path": str(tmp_path / task["path"]), "description": "words"} for task in values["tasks"][:2]
    ]
    values |= {"model": {"task_condition": "description"}, "output": str(tmp_path / "run")}
    values["training"] |= {"compile": True}
    train(RunConfig.from_dict(values), progress=False)
    assert graphs() == 2


class Sum(nn.Module):
    """Is one graph for any shape."""

    def forward(self, input_ids):
        return input_ids.sum(0) + input_ids.sum(1, keepdim=True)


def test_one_graph_for_every_shape(without_inductor, graphs):
    """Also where the first batch has as many tokens as sentences."""
    model = Sum()
    compile_model(model)
    for shape in ((5, 5), (5, 7), (8, 6)):
        assert model(input_ids=torch.ones(shape)).shape == shape
    assert graphs() == 1
    with torch.no_grad():
        model(input_ids=torch.ones(1, 6))
    assert graphs() == 1  # the sentence that is left of a validation set


def test_labels_are_never_so_few_that_they_need_another_graph():
    def collate(examples):
        return {"labels": torch.tensor(examples), "task_ids": torch.zeros(len(examples))}

    wide = with_wide_labels(collate)
    assert wide([[5], [6]])["labels"].tolist() == [[5, -100, -100], [6, -100, -100]]
    assert wide([[5, 6, 7, 8]])["labels"].tolist() == [[5, 6, 7, 8]]
    assert wide([[5]]).keys() == {"labels", "task_ids"}


@pytest.mark.slow
def test_resumed(settings, tmp_path, without_inductor, graphs, monkeypatch):
    whole = settings(output=str(tmp_path / "whole"), training=SIZES | {"compile": True})
    train(whole, progress=False)
    stopped = settings(output=str(tmp_path / "stopped"), training=SIZES | {"compile": True})
    evaluate = MultiTaskTrainer.evaluate

    def stop(self, *arguments, **options):
        if self.state.global_step == 6:
            raise KeyboardInterrupt
        return evaluate(self, *arguments, **options)

    monkeypatch.setattr(MultiTaskTrainer, "evaluate", stop)
    with pytest.raises(KeyboardInterrupt):
        train(stopped, progress=False)
    monkeypatch.setattr(MultiTaskTrainer, "evaluate", evaluate)
    train(stopped, resume=True, progress=False)
    first, second = (read_tensors(tmp_path / name / "best" / "model.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(second[name], tensor) for name, tensor in first.items())


@pytest.mark.slow
def test_the_same_run_by_inductor(settings, tmp_path, graphs, bert):
    config = BertConfig.from_pretrained(bert)
    config.hidden_dropout_prob = config.attention_probs_dropout_prob = 0.0  # inductor draws other numbers
    without = tmp_path / "without-dropout"
    without.mkdir()
    for path in bert.iterdir():
        (without / path.name).write_bytes(path.read_bytes())
    config.save_pretrained(without)
    settings = functools.partial(settings, backbone=str(without))
    (eager, tensors, _), (compiled, found, _) = both(settings, tmp_path)
    assert graphs() == 2
    for name, tensor in tensors.items():
        torch.testing.assert_close(found[name], tensor, rtol=1e-3, atol=1e-4)
    assert compiled["learning_curve"][-1]["train_loss"] == pytest.approx(
        eager["learning_curve"][-1]["train_loss"], 1e-4
    )


@pytest.mark.slow
def test_a_dry_run(settings, without_inductor, graphs):
    before = seconds_compiling()
    found = dry_run(settings(training=SIZES | {"compile": True}), 2)
    assert found.step.operators > 100
    assert 5 * (found.step.seconds + found.scoring.seconds) < seconds_compiling() - before
    assert graphs() == 2


def test_a_run_goes_on_with_and_without(settings):
    config = settings(training=SIZES)
    output = Path(config.output)
    output.mkdir(parents=True)
    (output / "config.yaml").write_text(stated(config).to_yaml())
    for compiled in (True, False):
        check_output(settings(training=SIZES | {"compile": compiled}), resume=True)
    with pytest.raises(ValueError, match=r"differs in training.steps \(6 there, 7 here\); choose"):
        check_output(settings(training=SIZES | {"compile": True, "steps": 7}), resume=True)


class Broken(nn.Module):
    """Cannot be one graph."""

    def forward(self, x):
        torch._dynamo.graph_break()
        return 2 * x


def test_a_compile_that_falls_back_says_so_once(graphs, capsys):
    model = Broken()
    compile_model(model)
    for _ in range(3):
        assert torch.equal(model(torch.ones(2)), torch.full((2,), 2.0))
    assert model._compiled_call_impl is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("compile: Broken goes on without it: Call to `torch._dynamo.graph_break()`")


def test_what_the_model_raises_itself_is_raised(graphs):
    class Wrong(nn.Module):
        def forward(self, x):
            raise ValueError("x must be another")

    model = Wrong()
    compile_model(model)
    with pytest.raises(ValueError, match="x must be another"):
        model(torch.ones(2))


def test_what_cannot_be_compiled_is_refused(settings):
    with pytest.raises(ValueError, match=r"training: compile must be false with gradient_checkpointing: true"):
        settings(training={"compile": True, "gradient_checkpointing": True})
    with pytest.raises(ValueError, match=r"training: compile must be true or false, got 'yes'"):
        settings(training={"compile": "yes"})


@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU's kernels are made by Triton")
def test_without_a_compiler(settings, tmp_path, capsys):
    from torch._inductor import config

    check_compiler()
    run, path = settings(training={"compile": True}), tmp_path / "run.yaml"
    path.write_text(run.to_yaml())
    with config.patch({"cpp.cxx": ("no-such-compiler",)}):
        with pytest.raises(ImportError, match=r"compile: true needs a C\+\+ compiler; install g\+\+"):
            train(run, progress=False)
        with pytest.raises(SystemExit) as left:
            app(["data", "check", str(path)])
    assert left.value.code == 1
    assert "compile: true needs a C++ compiler" in capsys.readouterr().err
