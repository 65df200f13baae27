"""What a command of the bench says of an error: one line where its user has to change something."""

import subprocess
import sys
from pathlib import Path

import pytest

from bench import command
from bench.results import UsageError

ROOT = Path(__file__).resolve().parents[2]


def fails(error):
    def main():
        raise error

    return main


def test_a_line_and_a_status(capsys, tmp_path):
    assert command.run(lambda: None) == 0
    assert command.run(lambda: 3) == 3
    assert command.run(fails(UsageError("--steps must be at least 1, got 0"))) == 2
    missing = tmp_path / "none"
    assert command.run(lambda: missing.read_text()) == 2
    assert capsys.readouterr().err.splitlines() == [
        "bench: --steps must be at least 1, got 0", f"bench: {missing}: No such file or directory"]  # fmt: skip
    with pytest.raises(ZeroDivisionError):  # a bug keeps its traceback
        command.run(lambda: 1 / 0)


def test_a_folder_that_is_no_run(tmp_path):
    words = [sys.executable, "-m", "bench.int8", str(tmp_path)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1)
    assert done.stderr.startswith(f"bench: {tmp_path}")
