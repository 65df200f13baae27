"""The commands as a user calls them, and a small run that they can work on."""

from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def call():
    """Call `hyperloader WORDS...` in this process; the result has exit_code, stdout and stderr."""
    from typer.testing import CliRunner

    from hyperloader.cli.commands import app

    def call(*words, input=None):
        return CliRunner().invoke(app, [str(word) for word in words], input=input)

    return call


@pytest.fixture
def fails(call):
    """Call a command that must fail with one line on stderr, and with nothing of a traceback; returns that line."""

    def fails(*words, input=None, status=1) -> str:
        result = call(*words, input=input)
        assert result.exit_code == status, result.output
        lines = result.stderr.strip().splitlines()
        assert len(lines) == 1, result.stderr
        assert "Traceback" not in result.output
        return lines[0]

    return fails


@pytest.fixture(scope="session")
def config_file(tmp_path_factory) -> Path:
    """A YAML file of a short training: a random BERT of width 32 on two of the grammars' tasks."""
    import yaml
    from helpers import small_run

    folder = tmp_path_factory.mktemp("cli")
    values = {**small_run.write(folder), "output": str(folder / "run")}
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session")
def trained(call, config_file):
    """The result of `hyperloader train` with that file."""
    result = call("train", config_file)
    assert result.exit_code == 0, result.output
    return result


@pytest.fixture(scope="session")
def run_folder(config_file, trained) -> Path:
    """The output folder of that training."""
    return config_file.parent / "run"
