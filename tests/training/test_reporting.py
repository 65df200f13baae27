"""What a training says while it runs."""

import pytest

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
