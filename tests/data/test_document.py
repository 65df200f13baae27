"""docs/data.md: its files are written, its commands run, its output is what they print."""

import re
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner

from hyperloader.cli.commands import app
from hyperloader.data.readers import READERS
from hyperloader.data.schemes import TAGS
from hyperloader.data.splits import SPLIT_NAMES
from hyperloader.data.task_file import KEYS

PAGE = Path(__file__).resolve().parents[2] / "docs" / "data.md"


@pytest.fixture(scope="module")
def page():
    return PAGE.read_text(encoding="utf-8")


def test_the_examples_run_as_printed(page, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, text in re.findall(r"^```\w+ (\S+)\n(.*?)^```", page, re.DOTALL | re.MULTILINE):
        Path(name).parent.mkdir(parents=True, exist_ok=True)
        Path(name).write_text(text)
    commands = re.findall(r"^```console\n\$ hyperloader (.*?)\n(.*?)^```", page, re.DOTALL | re.MULTILINE)
    assert len(commands) == 2
    for command, printed in commands:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, result.output
        assert result.stdout == printed


def test_what_there_is_is_named(page):
    for word in (*READERS, *TAGS, *KEYS, *(name for names in SPLIT_NAMES.values() for name in names)):
        assert re.search(rf"[`, ]{re.escape(word)}[`, ]", page), word
