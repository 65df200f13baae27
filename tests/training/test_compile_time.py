"""Compiling is no part of a step's time, nor of the time that is left."""

import types

import pytest
import torch
from transformers import TrainerControl, TrainerState

from hyperloader.cli.training_report import conclusion
from hyperloader.training import compile_time
from hyperloader.training.callbacks import Bar, StepTimes
from hyperloader.training.compile_time import count_compiling, seconds_compiling
from hyperloader.training.reporting import EvaluationLines


@pytest.fixture
def passes(monkeypatch):
    """Lets seconds pass, in which something is compiled or not."""
    now, spent = [0.0], compile_time._Spent()
    monkeypatch.setattr(compile_time, "time", types.SimpleNamespace(perf_counter=lambda: now[0]))
    monkeypatch.setattr(compile_time, "_SPENT", spent)

    def passes(seconds, compiling=False):
        if compiling:
            spent.begin()
        now[0] += seconds
        if compiling:
            spent.end()

    return passes


def test_times_of_steps(passes):
    times = StepTimes(cuda=False)
    times.on_train_begin()
    for compiling in (600, 0, 30):
        passes(compiling, compiling=True)
        passes(2)
        times.on_step_end()
    assert times.times == [2, 2, 2]


def test_the_time_that_is_left(passes, settings, capsys):
    lines = EvaluationLines(settings(training={"steps": 40}).options, lines=True)
    lines.on_train_begin(None, TrainerState(global_step=0))
    passes(600, compiling=True)
    passes(20)
    lines.evaluated(10, 0.5, {"tasks": {}, "mean_f1": 0.0})
    assert capsys.readouterr().out.endswith(", 1 min 00 s left\n")


def test_the_progress_bar(passes):
    bar, state = Bar(), TrainerState(max_steps=40, is_world_process_zero=True)
    passes(60, compiling=True)  # before the training
    bar.on_train_begin(None, state, TrainerControl())
    bar.training_bar._time = lambda: 1000.0
    bar.training_bar.last_print_t = bar.training_bar.start_t = 390.0
    state.global_step = 1
    passes(600, compiling=True)
    bar.on_step_end(None, state, TrainerControl())
    assert bar.training_bar.format_dict["rate"] == pytest.approx(1 / 10)
    bar.training_bar.close()


def test_what_torch_compiles_is_counted():
    count_compiling()
    count_compiling()  # once
    before = seconds_compiling()
    torch._dynamo.reset()
    count_compiling()
    torch.compile(lambda x: x + 1, backend="eager")(torch.ones(2))
    assert seconds_compiling() > before
    assert torch._dynamo.callback.callback_handler.start_callbacks.count(compile_time._SPENT.begin) == 1


def test_it_is_reported_apart(tmp_path):
    metrics = {
        "test": {
            "tasks": {"music": {"f1": 0.5, "precision": 0.5, "recall": 0.5, "spans": 2, "sentences": 2}},
            "mean_f1": 0.5,
        },
        "steps": 6,
        "best_step": 6,
        "seconds_per_step": 0.25,
        "trainable_parameters": 1000,
        "encoding": {},
        "config": {"training": {"max_length": 64}},
    }
    line = "trained  1,000 parameters in 6 steps of 0.25 s"
    assert f"{line}\n" in conclusion(metrics, tmp_path, [], "Test")
    assert f"{line}, and 1 min 15 s of compiling\n" in conclusion(metrics | {"seconds_compiling": 75}, tmp_path, [], "")
