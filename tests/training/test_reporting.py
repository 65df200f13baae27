"""What a training says while it runs."""

import math

import pytest
import torch

from hyperloader.training.loss import loss_of_shares
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.reporting import EvaluationLines, duration
from hyperloader.training.run import train


def test_a_line_an_evaluation(settings, capsys):
    train(settings(method="full"), progress=False, lines=True)
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(":")[0] for line in lines] == ["step 3 of 6", "step 6 of 6"]
    for line in lines:
        assert "loss " in line
        assert "mean F1 " in line
    assert lines[0].endswith(" left")
    assert "left" not in lines[1]


def test_a_library_call_writes_no_lines(settings, capsys):
    train(settings(method="full", training={"steps": 1, "eval_steps": 1}), progress=False)
    assert capsys.readouterr().out == ""


def test_of_several_processes_one_reports(settings, capsys, monkeypatch):
    monkeypatch.setattr("hyperloader.training.trainer.MultiTaskTrainer.is_world_process_zero", lambda self: False)
    train(settings(method="full", training={"steps": 1, "eval_steps": 1}), progress=False, lines=True)
    captured = capsys.readouterr()
    assert captured.out == ""
    assert "no span" not in captured.err


def scores(**predicted):
    return {"tasks": {task: {"spans": 9, "predicted": count} for task, count in predicted.items()}, "mean_f1": 0.0}


@pytest.fixture
def said(settings, capsys):
    def said(found: dict) -> str:
        options = settings(training={"steps": 400, "learning_rate": 0.01, "warmup": 20}).options
        EvaluationLines(options, lines=False).evaluated(200, 0.5, found)
        captured = capsys.readouterr()
        assert captured.out == ""
        return captured.err

    return said


def test_a_model_that_finds_nothing_is_told_what_to_try(said):
    line = said(scores(music=0, calendar=0))
    assert len(line.splitlines()) == 1
    for part in ("step 200", "no span", "any task", "now 400", "now 0.01", "now 20 steps"):
        assert part in line


@pytest.mark.parametrize("prior", [True, False])
def test_a_loss_above_that_of_the_shares_says_so(settings, capsys, prior):
    """With equal shares at the start not at the first evaluation, which has them in it."""
    options = settings(training={"learning_rate": 0.01, "warmup": 20, "steps": 400, "label_prior": prior}).options
    lines = EvaluationLines(options, lines=False, constant_loss=0.3)
    found = []
    for step, loss in ((100, 0.9), (200, 0.9), (300, 0.31), (400, None)):
        lines.evaluated(step, loss, scores(music=1))
        found.append(capsys.readouterr().err)
    assert bool(found[0]) == prior and found[2:] == ["", ""]
    assert len(found[1].splitlines()) == 1
    for part in ("step 200", "0.9", "0.3", "now 0.01", "now 20 steps"):
        assert part in found[1]


def test_the_loss_of_shares():
    """Of tasks as often as they are drawn, each by its labelled tokens."""
    counts = [torch.tensor([30, 10]), torch.tensor([8, 0, 8])]
    options = TrainingOptions(temperature=2.0)
    quarter = -0.75 * math.log(0.75) - 0.25 * math.log(0.25)
    tokens = [40 / 16 * 4, 16 / 4 * 2]  # a sentence's, times the root of how many there are
    expected = (tokens[0] * quarter + tokens[1] * math.log(2)) / sum(tokens)
    assert loss_of_shares(counts, [16, 4], options) == pytest.approx(expected, abs=1e-6)
    assert loss_of_shares(counts, [16, 4], TrainingOptions(loss="sum")) is None
    assert loss_of_shares([torch.zeros(3, dtype=torch.long)], [0], options) is None


def test_tasks_without_a_span_are_named(said):
    line = said(scores(music=0, calendar=3))
    assert "music" in line
    assert "calendar" not in line
    assert said(scores(music=1, calendar=3)) == ""
    assert "and 3 more" in said(scores(**{f"t{number}": 0 for number in range(8)}, last=1))


def test_a_training_that_finds_nothing_says_so(settings, capsys, monkeypatch):
    monkeypatch.setattr(
        "hyperloader.training.evaluation.Scorer.predict",
        lambda self, model: {task: [["O"] * len(tags) for tags in some] for task, some in self.gold.items()},
    )
    train(settings(method="full", training={"steps": 1, "eval_steps": 1}), progress=False)
    assert "finds no span" in capsys.readouterr().err


def test_durations():
    assert [duration(one) for one in (0.2, 59.4, 130, 11100)] == ["0 s", "59 s", "2 min 10 s", "3 h 05 min"]
