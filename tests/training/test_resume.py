"""A run that is killed at any moment and resumed ends with the same weights, bit for bit."""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest
from helpers.disk import flushed

from hyperloader.checkpoints.atomic import CheckpointError
from hyperloader.processes import process_count
from hyperloader.training.progress import check_processes, size_of_a_step
from hyperloader.training.run import train

# Imports once, then trains once per scenario in a fork that kills itself with SIGKILL in the given place.
KILLER = textwrap.dedent(
    """
    import json, os, shutil, signal, sys
    from pathlib import Path

    import torch

    torch.set_num_threads(1)
    from hyperloader.training import run, trainer
    from hyperloader.training.trainer import MultiTaskTrainer


    def die(*_, **__):
        os.kill(os.getpid(), signal.SIGKILL)


    def at_step(self, *arguments, **options):
        if self.state.global_step == 6:
            die()
        return original_step(self, *arguments, **options)


    def while_saving(self, folder):
        if self.state.global_step == 8:
            die()
        return original_save(self, folder)


    def at_rename(name):
        original = Path.rename

        def rename(self, target):
            if self.name == name:
                die()
            return original(self, target)

        Path.rename = rename


    def at_removal(folder, **options):
        if folder.name == "checkpoint-4.tmp" and folder.exists():
            (folder / "optimizer.pt").unlink()
            die()
        return original_removal(folder, **options)


    original_removal = shutil.rmtree
    original_step, original_save = MultiTaskTrainer.training_step, MultiTaskTrainer._save_rng_state
    for scenario, config in json.loads(sys.stdin.read()).items():
        child = os.fork()
        if child:
            _, status = os.waitpid(child, 0)
            print(scenario, os.WTERMSIG(status), flush=True)
            continue
        if scenario == "before the first checkpoint":
            MultiTaskTrainer._save_checkpoint = die
        elif scenario == "in a step":
            MultiTaskTrainer.training_step = at_step
        elif scenario == "while a checkpoint is written":
            MultiTaskTrainer._save_rng_state = while_saving
        elif scenario == "before a checkpoint gets its name":
            at_rename("checkpoint-8.tmp")
        elif scenario == "before the best gets its name":
            at_rename("best.tmp")
        elif scenario == "while an old checkpoint is removed":
            shutil.rmtree = at_removal
        elif scenario == "between the last checkpoint and the removal of the one before":
            trainer.prune = lambda folder, keep: (folder / "checkpoint-10").is_dir() and die()
        elif scenario == "while a text is written":
            run.write_text = lambda path, text: (path.with_name(f".{path.name}.1.tmp").write_text("{"), die())
        elif scenario == "before the metrics":
            run._metrics = die
        run.train(run.RunConfig.from_dict(config), progress=False)
        os._exit(1)
    """
)
SCENARIOS = [
    "before the first checkpoint",
    "in a step",
    "while a checkpoint is written",
    "before a checkpoint gets its name",
    "before the best gets its name",
    "while an old checkpoint is removed",
    "between the last checkpoint and the removal of the one before",
    "while a text is written",
    "before the metrics",
]
TRAINING = {"steps": 10, "eval_steps": 2, "save_steps": 4, "gradient_accumulation": 2, "learning_rate": 3e-3}
MEASURED = ("seconds_per_step", "peak_memory_bytes", "config", "encoding")


def environment() -> dict:
    root = Path(__file__).parents[2]
    return os.environ | {"PYTHONPATH": str(root), "OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}


def outcome(output: Path) -> dict:
    """Everything that an interruption must not change."""
    metrics = json.loads((output / "metrics.json").read_text())
    for name in MEASURED:
        del metrics[name]
    return {
        "metrics": metrics,
        "names": sorted(path.name for path in output.iterdir()),
        "card": (output / "README.md").read_bytes(),
        "last": (output / "checkpoint-10" / "model.safetensors").read_bytes(),
        "best": (output / "best" / "model.safetensors").read_bytes(),
        "optimizer": (output / "checkpoint-10" / "optimizer.pt").read_bytes(),
    }


@pytest.fixture
def uninterrupted(settings, tmp_path):
    config = settings(training=TRAINING, output=str(tmp_path / "uninterrupted"))
    train(config, progress=False)
    return outcome(Path(config.output))


@pytest.mark.forks
def test_killed_anywhere_and_resumed(settings, tmp_path, uninterrupted):
    configs = {name: settings(training=TRAINING, output=str(tmp_path / name)) for name in SCENARIOS}
    ran = subprocess.run(
        [sys.executable, "-c", KILLER],
        input=json.dumps({name: config.to_dict() for name, config in configs.items()}),
        capture_output=True,
        text=True,
        env=environment(),
        timeout=300,
    )
    assert ran.stdout.splitlines() == [f"{name} {signal.SIGKILL.value}" for name in SCENARIOS], ran.stderr
    for name, config in configs.items():
        train(config, resume=True, progress=False)
        found = outcome(Path(config.output))
        for what, expected in uninterrupted.items():
            assert found[what] == expected, f"{what}, killed {name}"


@pytest.mark.slow
@pytest.mark.forks
def test_killed_again_and_again_at_random_moments(settings, tmp_path, uninterrupted):
    config = settings(training=TRAINING, output=str(tmp_path / "again"))
    script = (
        "import json, sys, torch; torch.set_num_threads(1)\n"
        "from hyperloader.training.run import RunConfig, train\n"
        "config = RunConfig.from_dict(json.loads(sys.argv[1])); print('go', flush=True)\n"
        "train(config, resume=True, progress=False)"
    )
    draw, killed = random.Random(0), 0
    for _ in range(60):
        command = [sys.executable, "-c", script, json.dumps(config.to_dict())]
        with subprocess.Popen(command, stdout=subprocess.PIPE, env=environment()) as process:
            process.stdout.readline()
            time.sleep(draw.uniform(0.1, 2.5))
            process.kill()
        killed += process.returncode == -signal.SIGKILL
        if process.returncode == 0:
            break
    assert killed > 0
    train(config, resume=True, progress=False)
    assert outcome(Path(config.output)) == uninterrupted


def test_a_full_disk_stops_with_the_old_checkpoint_intact(settings, monkeypatch, tmp_path, uninterrupted):
    from hyperloader.training.trainer import MultiTaskTrainer

    config = settings(training=TRAINING)
    original = MultiTaskTrainer._save_optimizer_and_scheduler

    def full(self, folder):
        original(self, folder)
        if self.state.global_step == 8:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr(MultiTaskTrainer, "_save_optimizer_and_scheduler", full)
    with pytest.raises(CheckpointError, match=r"checkpoint-8: cannot be written \(.*No space left on device\)"):
        train(config, progress=False)
    names = {path.name for path in Path(config.output).glob("checkpoint*")}
    assert names == {"checkpoint-4"}
    monkeypatch.undo()
    train(config, resume=True, progress=False)
    assert outcome(Path(config.output)) == uninterrupted


def test_every_file_of_a_run_is_flushed_once(settings, monkeypatch):
    """And the name of every folder: no more is needed, and no less."""
    paths = flushed(monkeypatch)
    config = settings(training={"steps": 4, "save_steps": 2, "eval_steps": 4, "keep_checkpoints": 2})
    train(config, progress=False)
    output = Path(config.output)
    own = ("config.yaml", "words.json", "labels.json", "test.counts.npz", "metrics.json", "README.md")
    names = {f".{name}.{os.getpid()}.tmp": name for name in own}
    found = [names.get(path.name, str(path.relative_to(output)).replace(".tmp/", "/")) for path in paths]
    files = [str(path.relative_to(output)) for path in output.rglob("*") if path.is_file()]
    assert sorted(found) == sorted([*files, *["."] * len([path for path in output.iterdir() if path.is_dir()])])


def test_a_damaged_checkpoint_is_named(settings, monkeypatch):
    from hyperloader.training import run

    config = settings(method="full")
    monkeypatch.setattr(run, "_metrics", lambda *_: {})
    train(config, progress=False)
    (Path(config.output) / "metrics.json").unlink()
    progress = Path(config.output) / "checkpoint-6" / "progress.json"
    progress.write_text("{")
    with pytest.raises(ValueError, match=r"checkpoint-6/progress\.json: cannot be read .*remove this checkpoint"):
        train(config, resume=True, progress=False)


def test_another_number_of_processes_is_refused_with_the_numbers(settings, monkeypatch):
    config = settings(training={"steps": 4, "save_steps": 2, "eval_steps": 2, "batch_size": 4})
    train(config, progress=False)
    output = Path(config.output)
    (output / "metrics.json").unlink()
    last = max(output.glob("checkpoint-*"))
    path = last / "progress.json"
    progress = json.loads(path.read_text())
    assert progress["processes"] == 1
    path.write_text(json.dumps(progress | {"processes": 2, "finished": False}))
    monkeypatch.setattr(type(config), "load_tasks", lambda self: pytest.fail("the data were read first"))
    message = r"checkpoint-4: its run has 8 sentences a step \(batches of 4, 2 processes\), got 4 sentences a step "
    with pytest.raises(ValueError, match=message + r".*resume it with 2 processes and .*size 4, or with .*size 8$"):
        train(config, resume=True, progress=False)
    monkeypatch.setenv("WORLD_SIZE", "3")
    with pytest.raises(ValueError, match=r"got 12 sentences a step .* or with a number of processes that divides 8$"):
        check_processes(last, config.options, config.options)
    monkeypatch.setenv("WORLD_SIZE", "4")
    half = dataclasses.replace(config.options, batch_size=2)
    check_processes(last, half, config.options)
    with pytest.raises(ValueError, match=r"got 16 sentences a step \(batches of 2, 2 batches a step, 4 processes\)"):
        check_processes(last, dataclasses.replace(half, gradient_accumulation=2), config.options)
    monkeypatch.undo()
    path.write_text(json.dumps({key: value for key, value in progress.items() if key != "processes"}))
    train(config, resume=True, progress=False)  # an earlier version did not write it


def test_a_run_says_how_many_sentences_a_step_has(settings, monkeypatch):
    options = settings(training={"batch_size": 4, "gradient_accumulation": 3}).options
    monkeypatch.setenv("WORLD_SIZE", "2")
    size = size_of_a_step(options, process_count())
    assert size == "24 sentences a step (batches of 4, 3 batches a step, 2 processes)"
