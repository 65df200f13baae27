"""What a training says while it runs."""

import pytest

from hyperloader.training.reporting import EvaluationLines, duration
from hyperloader.training.run import train
from hyperloader.training.sentence_metrics import sentence_scores


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
    for part in ("step 200", "no span", "all tasks", "now 400", "now 0.01", "now 20 steps"):
        assert part in line


def test_a_loss_above_that_of_the_shares_says_so(settings, capsys):
    """But not at the first evaluation, which has the start in it."""
    lines = EvaluationLines(settings(training={"learning_rate": 0.01, "warmup": 20, "steps": 400}).options, lines=False)
    found = []
    for step, loss, shares in ((100, 0.9, 0.3), (200, 0.9, 0.3), (300, 0.31, 0.3), (400, None, 0.3), (500, 0.9, None)):
        lines.evaluated(step, loss, scores(music=1), shares)
        found.append(capsys.readouterr().err)
    assert found[0] == found[2] == found[3] == found[4] == ""
    assert len(found[1].splitlines()) == 1
    for part in ("step 200", "0.9", "0.3", "now 0.01", "now 20 steps"):
        assert part in found[1]


@pytest.mark.parametrize(
    "sampling", [{"sampling": "mixed"}, {"sampling": "single"}, {"gradient_accumulation": 2}], ids=str
)
def test_the_loss_of_the_shares_is_that_of_the_batches(settings, monkeypatch, sampling):
    """Of a model that knows the shares and learns nothing it is the training's loss, however batches are drawn."""
    found = []
    monkeypatch.setattr(
        EvaluationLines, "evaluated", lambda self, step, loss, scores, shares: found.append((loss, shares))
    )
    training = {"steps": 4, "eval_steps": 2, "learning_rate": 1e-9, **sampling}
    train(settings(method="full", training=training), progress=False)
    assert len(found) == 2
    for loss, shares in found:
        assert loss == pytest.approx(shares, rel=0.05)
    assert found[0][1] != found[1][1]


def test_tasks_without_a_span_are_named(said):
    line = said(scores(music=0, calendar=3))
    assert "music" in line
    assert "calendar" not in line
    assert said(scores(music=1, calendar=3)) == ""
    assert "and 3 more" in said(scores(**{f"t{number}": 0 for number in range(8)}, last=1))


def test_answers_no_better_than_chance_are_told(said):
    golds = {"intents": ("classification", ["a", "b", "a"]), "topics": ("multi-label", [("x",), ("y",), ()])}
    golds["similar"] = ("regression", [1.0, 2.0, 4.0])
    alike = {"intents": ["a"] * 3, "topics": [()] * 3, "similar": [0.5] * 3}

    def found(predicted: dict) -> dict:
        scores = {task: sentence_scores(kind, gold, predicted[task]) for task, (kind, gold) in golds.items()}
        return {"tasks": scores, "mean_score": 0.0}

    lines = said(found(alike)).splitlines()
    assert len(lines) == 2
    assert "is no better than chance on the validation sentences of intents, similar;" in lines[0]
    assert "finds no right label in the validation sentences of topics;" in lines[1]
    assert all("now 400" in line for line in lines)
    assert said(found({task: gold for task, (_, gold) in golds.items()})) == ""
    golds |= {"intents": ("classification", ["a"] * 3), "topics": ("multi-label", [()] * 3)}  # nothing else to answer
    assert "similar;" in said(found(alike))
    golds["similar"] = ("regression", [1.0])
    assert said(found(alike | {"similar": [0.5]})) == ""


def test_a_training_that_finds_nothing_says_so(settings, capsys, monkeypatch):
    monkeypatch.setattr(
        "hyperloader.training.evaluation.Scorer.predict",
        lambda self, model: {task: [["O"] * len(tags) for tags in some] for task, some in self.gold.items()},
    )
    train(settings(method="full", training={"steps": 1, "eval_steps": 1}), progress=False)
    assert "finds no span" in capsys.readouterr().err


def test_durations():
    assert [duration(one) for one in (0.2, 59.4, 130, 11100)] == ["0 s", "59 s", "2 min 10 s", "3 h 05 min"]
