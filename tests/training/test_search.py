"""Searches that train: killed in a trial and between two, they end as if they had not been."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

pytest.importorskip("optuna", reason="Optuna is not installed")

from hyperloader.data.sentence import DataError
from hyperloader.training import search as module
from hyperloader.training.run_folder import RunFolderError, own_folder
from hyperloader.training.search import search
from hyperloader.training.search_space import search_space

OVER = {"training.learning_rate": [1e-3, 1e-2, 3e-2], "model.rank": [4, 8]}

# Imports once, then searches twice, each time in a fork that kills itself: in a step of the first trial, and when the
# second one is trained and not yet in the journal.
KILLER = textwrap.dedent(
    """
    import json, os, signal, sys

    import torch

    torch.set_num_threads(1)
    from hyperloader.training.run_config import RunConfig
    from hyperloader.training.search import search
    from hyperloader.training.search_space import search_space
    from hyperloader.training.trainer import MultiTaskTrainer
    from hyperloader.training.trials import Journal


    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)


    def at_step(self, *arguments, **options):
        return die() if self.state.global_step == 3 else original_step(self, *arguments, **options)


    def at_second(self, trial, space):
        return die() if len(self.trials()) == 1 else original_add(self, trial, space)


    original_step, original_add = MultiTaskTrainer.training_step, Journal.add
    config, over, output = json.loads(sys.stdin.read())
    for scenario in ("in a trial", "between two"):
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            print(scenario, os.WTERMSIG(status), flush=True)
            continue
        if scenario == "in a trial":
            MultiTaskTrainer.training_step = at_step
        else:
            Journal.add = at_second
        search(search_space(RunConfig.from_dict(config), over), output, 2, progress=False)
        os._exit(1)
    """
)


@pytest.fixture
def small(settings):
    """A run of four steps with a checkpoint every two."""
    return settings(training={"steps": 4, "eval_steps": 2, "save_steps": 2})


def outcome(found, output: Path) -> list:
    """Everything that an interruption must not change."""
    weights = [(output / trial.name / "best" / "model.safetensors").read_bytes() for trial in found]
    return [(trial.values, trial.score, trial.best_step, trial.validation) for trial in found] + weights


@pytest.mark.slow
@pytest.mark.forks
def test_killed_in_a_trial_and_between_two_and_gone_on_with(small, tmp_path):
    space, outputs = search_space(small, OVER), [tmp_path / name for name in ("uninterrupted", "killed")]
    expected = outcome(search(space, outputs[0], 2, progress=False), outputs[0])
    ran = subprocess.run(
        [sys.executable, "-c", KILLER],
        input=json.dumps([small.to_dict(), OVER, str(outputs[1])]),
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"},
        timeout=300,
    )
    killed = signal.SIGKILL.value
    assert ran.stdout.splitlines() == [f"in a trial {killed}", f"between two {killed}"], ran.stderr
    started = []
    found = search(space, outputs[1], 2, progress=False, on_start=lambda name, number, _: started.append(number))
    assert outcome(found, outputs[1]) == expected
    assert started == [2]
    folders = sorted(path.name for path in outputs[1].iterdir() if path.is_dir())
    assert (
        folders == sorted(trial.name for trial in found) == sorted(p.name for p in outputs[0].iterdir() if p.is_dir())
    )
    report = json.loads((outputs[1] / "search.json").read_text())
    assert report["best"] == found[0].name
    assert [one["values"] for one in report["trials"]] == [trial.values for trial in found]
    assert found[0].score == max(trial.score for trial in found)


@pytest.fixture
def trained(monkeypatch):
    """Instead of training: scores by the learning rate; returns the folders that were trained."""
    folders = []

    def train(config, resume, test, on_data, **_):
        on_data([])
        assert (resume, test) == (True, False)
        folders.append(Path(config.output).name)
        rate = config.options.learning_rate
        if rate == 5:
            raise ValueError("data.jsonl:3: a prompt is too long")
        if rate > 1:
            raise torch.OutOfMemoryError("out of memory: tried\nto allocate")
        score = float("nan") if rate == 1 else 10 * rate
        scores = {"tasks": {}, "mean_f1": score}
        return {"validation": scores, "test": None, "best_step": 2, "steps": 4, "seconds_per_step": 0.5}

    monkeypatch.setattr(module, "train", train)
    return folders


def test_what_is_refused_is_one_trials_fault_whether_others_were_trained_before_it_or_not(small, tmp_path, trained):
    reason, ended = "data.jsonl:3: a prompt is too long", []
    for number, rates in enumerate(([1e-2, 5.0], [5.0, 1e-2])):
        output = tmp_path / str(number)
        space = search_space(small, {"training.learning_rate": rates})
        found = search(space, output, on_end=ended.append)
        assert [(trial.score, trial.reason) for trial in found] == [(0.1, None), (None, reason)]
        assert search(space, output) == found  # neither is trained again
    assert len(trained) == len(ended) == 4


def test_where_all_are_refused_all_are_tried_again(small, tmp_path, trained):
    """When the data, whose fault it may have been, are mended."""
    space = search_space(small, {"training.learning_rate": [5.0], "seed": [1, 2]})
    for _ in range(2):
        found = search(space, tmp_path / "search")
        assert [trial.reason for trial in found] == ["data.jsonl:3: a prompt is too long"] * 2
        assert len(json.loads((tmp_path / "search" / "search.json").read_text())["trials"]) == 2
    assert len(trained) == 4


def test_a_fault_of_the_data_ends_the_search(small, tmp_path, trained, monkeypatch):
    before, fake = [1e-2], module.train

    def train(config, **options):
        if config.options.learning_rate in before:
            return fake(config, **options)
        raise DataError("data.jsonl:3: no JSON")

    monkeypatch.setattr(module, "train", train)
    space = search_space(small, {"training.learning_rate": [1e-2, 1e-3]})
    with pytest.raises(DataError, match=r"^learning_rate=0.001: data.jsonl:3: no JSON"):
        search(space, tmp_path / "search")
    before.append(1e-3)
    assert [trial.score for trial in search(space, tmp_path / "search")] == [0.1, 0.01]


def test_values_that_do_not_go_together_are_a_failed_trial(small, tmp_path, trained, monkeypatch):
    """What is refused before the data are read, when another has been scored."""
    fake = module.train

    def train(config, **options):
        if config.options.learning_rate == 1e-3:
            raise ValueError("method must be another")
        return fake(config, **options)

    monkeypatch.setattr(module, "train", train)
    space = search_space(small, {"training.learning_rate": [1e-2, 1e-3, 1e-4]})
    found = search(space, tmp_path / "search")
    assert [trial.score is None for trial in found] == [False, False, True]
    assert found[-1].reason == "method must be another"
    first = search_space(small, {"training.learning_rate": [1e-3, 1e-2]})
    with pytest.raises(ValueError, match=r"^learning_rate=0.001: method must be another"):
        search(first, tmp_path / "first")


def test_each_trial_has_a_run_of_its_own_at_wandb(small, tmp_path, trained, monkeypatch):
    finished = []
    monkeypatch.setitem(sys.modules, "wandb", SimpleNamespace(run="open", finish=lambda: finished.append(len(trained))))
    search(search_space(small, {"training.learning_rate": [1e-3, 1e-2]}), tmp_path / "search")
    assert finished == [1, 2]


def test_a_key_that_a_run_leaves_out_where_it_is_null(small):
    space = search_space(small, {"backbone_quantization": [None, "torchao-int8"]})
    assert "backbone_quantization" not in module._recipe(space)


def test_a_trial_that_fails_is_one_and_the_search_goes_on(small, tmp_path, trained):
    space = search_space(small, {"training.learning_rate": [9.0, 1.0, 1e-3, 1e-2]})
    ended = []
    found = search(space, tmp_path / "search", on_end=ended.append)
    assert [(trial.score, trial.seconds) for trial in found] == [(0.1, 2), (0.01, 2), (None, None), (None, None)]
    assert [trial.reason for trial in found[2:]] == [
        "out of memory: tried to allocate",
        "the score on validation must be finite, got nan",
    ]
    assert len(trained) == len(ended) == 4
    assert search(space, tmp_path / "search") == found
    more = search_space(small, {"training.learning_rate": [2e-2, 1e-3]})
    assert [trial.score for trial in search(more, tmp_path / "search")][:3] == [0.2, 0.1, 0.01]
    assert len(trained) == 5


def test_an_output_that_holds_something_else(small, settings, tmp_path, trained, finished, monkeypatch):
    space, output = search_space(small, {"seed": [1, 2]}), tmp_path / "search"
    with pytest.raises(ValueError, match="holds a run, and a search needs a folder of its own"):
        search(space, finished.output)
    (tmp_path / "file").write_text("")
    with pytest.raises(ValueError, match=r"output must be a folder, got the file .*/file"):
        search(space, tmp_path / "file")
    with pytest.raises(ValueError, match=r"holds file, and no search; choose another output"):
        search(space, tmp_path)
    search(space, output)
    for other, over, part in (
        (
            settings(training={"steps": 5, "eval_steps": 2, "save_steps": 2}),
            {"seed": [1]},
            r"training\.steps \(4 there",
        ),
        (settings(training=small.training, fraction=0.5), {"seed": [1]}, r"fraction \(1\.0 there, 0\.5 here"),
        (small, {"model.rank": [4]}, r"over seed, got model\.rank"),
    ):
        with pytest.raises(ValueError, match=rf"search: holds .*{part}.*choose another output"):
            search(search_space(other, over), output)
    with own_folder(output), pytest.raises(RunFolderError):
        search(space, output)
    assert len(trained) == 2
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(ValueError, match="a search must run in one process, got 2"):
        search(space, output)
    with pytest.raises(ValueError, match="trials must be at least 1, got 0"):
        search(space, output, 0)


def test_a_value_whose_training_cannot_begin_is_said_before_anything_is_trained(small, tmp_path, trained):
    (tmp_path / "empty").mkdir()
    with pytest.raises((ValueError, OSError), match=r"/empty"):
        search(search_space(small, {"backbone": [small.backbone, str(tmp_path / "empty")]}), tmp_path / "search")
    assert trained == []
    assert not (tmp_path / "search").exists()
