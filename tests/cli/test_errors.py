"""One line and an exit status for every error."""

import os
import subprocess
import sys

import pytest

from hyperloader import signals
from hyperloader.cli import errors


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (["trian"], ["trian"]),
        (["train"], ["CONFIG.yaml", "hyperloader train --help"]),
        (["train", "x.yaml", "--sead", "3"], ["--sead", "hyperloader train --help"]),
        (["train", "x.yaml", "--seed", "three"], ["--seed", "integer"]),
        (["export", "run", "out"], ["--format"]),
        (["data"], ["hyperloader data --help"]),
        (["data", "check"], ["TASKS.yaml"]),
    ],
)
def test_a_bad_command_line_is_one_line(fails, words, parts):
    line = fails(*words, status=errors.BAD_USAGE)
    for part in parts:
        assert part in line.replace("root ", "hyperloader ")


def test_debug_lets_the_error_through(call, tmp_path):
    for words in (["--debug", "data", "check", tmp_path / "none.yaml"], ["data", "check", tmp_path / "x", "--debug"]):
        result = call(*words)
        assert isinstance(result.exception, ValueError)
        assert result.exit_code != 0


def test_an_unexpected_error_is_one_line_too(fails, monkeypatch, tmp_path):
    def broken(path):
        return {}["gone"]

    monkeypatch.setattr("hyperloader.data.tasks.load_tasks", broken)
    line = fails("data", "check", tmp_path / "tasks.yaml", status=errors.UNEXPECTED)
    assert line.startswith("unexpected KeyError")
    assert "--debug" in line


def test_an_error_of_a_library_is_not_taken_for_bad_input():
    try:
        import torch

        torch.zeros(2).view(3)
    except RuntimeError as error:
        line, status = errors.describe(error)
    assert status == errors.UNEXPECTED
    assert "\n" not in line


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (FileNotFoundError(2, "No such file or directory", "a.txt"), "error: a.txt: No such file or directory"),
        (OSError("two\nlines"), "error: two lines"),
        (
            OSError(28, "No space left on device", "out.jsonl"),
            "error: out.jsonl: the disk is full (No space left on device); make room and run the command again",
        ),
        (
            ModuleNotFoundError("No module named 'seqeval.metrics'", name="seqeval.metrics"),
            "error: the package seqeval is not installed; run: pip install 'hyperloader[train]'",
        ),
        (
            ModuleNotFoundError("No module named 'peft'", name="peft"),
            "error: the package peft is not installed; run: pip install peft",
        ),
    ],
)
def test_messages_about_files_and_packages(error, line):
    assert errors.describe(error) == (line, errors.BAD_INPUT)


@pytest.mark.parametrize(
    ("interrupt", "word", "status"), [(KeyboardInterrupt, "interrupted", 130), (signals.Terminated, "terminated", 143)]
)
def test_an_interrupt_says_how_to_resume(call, monkeypatch, config_file, tmp_path, interrupt, word, status):
    def interrupted(config, **_):
        (tmp_path / "config.yaml").write_text(config.to_yaml())
        raise interrupt

    monkeypatch.setattr("hyperloader.training.run.train", interrupted)
    monkeypatch.setattr(signals._State, "said", False)
    result = call("train", config_file, "--output", tmp_path)
    assert result.exit_code == status, result.output
    assert result.stderr.strip() == f"{word}; resume with: hyperloader train {tmp_path / 'config.yaml'} --resume"


def test_version_and_help(call):
    assert call("--version").stdout.startswith("hyperloader ")
    for words in ([], ["--help"]):
        result = call(*words)
        assert result.exit_code == 0
        for command in ("train", "evaluate", "predict", "inspect", "demo", "env", "data"):
            assert command in result.stdout


BLOCKED = """
import sys
class Block:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)
sys.meta_path.insert(0, Block())
sys.argv = ["hyperloader", *{words!r}]
from hyperloader.cli import main
main()
"""


def without(blocked: list[str], words: list[str]) -> subprocess.CompletedProcess:
    """The console script where some packages are not installed."""
    code = BLOCKED.format(blocked=blocked, words=words)
    environment = {**os.environ, "HYPERLOADER_NATIVE": "none"}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize("package", ["typer", "yaml"])
def test_without_the_extra_it_says_what_installs_it(package, tmp_path):
    (tmp_path / "config.yaml").write_text("backbone: minilm\n")
    result = without([package], ["train", str(tmp_path / "config.yaml")])
    assert result.returncode == 1
    assert result.stderr == f"error: the package {package} is not installed; run: pip install 'hyperloader[train]'\n"


@pytest.mark.parametrize("installed", [[], ["typer"]])
def test_env_needs_torch_alone(installed):
    extra = ["typer", "rich", "yaml", "transformers", "datasets", "seqeval", "accelerate", "matplotlib", "tokenizers"]
    result = without([package for package in extra if package not in installed and package != "rich"], ["env"])
    assert result.returncode == 0, result.stderr
    assert "devices" in result.stdout
