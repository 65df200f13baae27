"""What a command of the bench says of an error: one line where its user has to change something."""

import argparse
import runpy
import subprocess
import sys
from pathlib import Path

import pytest

from bench import command
from bench.__main__ import main
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


def test_a_command_of_the_bench_that_gets_no_run(tmp_path, capsys):
    missing = tmp_path / "none"
    assert main(["serve", str(missing), "--output", str(tmp_path)]) == 2
    assert (
        capsys.readouterr().err
        == f"bench: {missing}: no such folder; name the output of a run, or owner/name on the Hub\n"
    )


@pytest.mark.parametrize(
    ("module", "words", "line"),
    [
        ("bench.serve", [], "RUN_FOLDER must be given, such as that of recipes/serve-eight-tasks.yaml"),
        ("bench.gpu", ["--list"], "DEVICE must be cpu or cuda, got 'tpu'"),
        ("bench.bounds.measured", ["--device", "tpu", "--output", "x"], "--device must be cpu or cuda, got 'tpu'"),
    ],
)
@pytest.mark.filterwarnings("ignore:.*found in sys.modules:RuntimeWarning")
def test_every_command_says_it_so(module, words, line, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", [module, *words])
    monkeypatch.setenv("DEVICE", "tpu")
    with pytest.raises(SystemExit) as ended:
        runpy.run_module(module, run_name="__main__")
    assert (ended.value.code, capsys.readouterr().err) == (2, f"bench: {line}\n")


def test_where_it_is_written_is_looked_at_first(tmp_path):
    file, page = tmp_path / "new" / "found.json", tmp_path / "page.md"

    def parsed(*words):
        return command.parsed(argparse.ArgumentParser(), words, "mine", file, page)

    with pytest.raises(UsageError, match=r"page\.md: no such file; it must be a document with the marks <!-- mine: be"):
        parsed()
    assert not file.parent.exists()
    page.write_text("<!-- mine: begin --><!-- mine: end -->")
    assert parsed("--report").report and not file.parent.exists()
    assert (parsed().file, file.parent.is_dir()) == (file, True)
