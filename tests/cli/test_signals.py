"""Ctrl-C and SIGTERM at any moment: one line, an exit status, no traceback."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
ENDS = [(signal.SIGINT, "interrupted", 130), (signal.SIGTERM, "terminated", 143)]

# The command, whose work is: say that it is there, and wait for signals; `slow_end` is what the first one interrupts.
COMMAND = """
import os, signal, sys, time
sys.argv = ["hyperloader", "env"]
MOMENT = {moment!r}
class Torch:
    def find_spec(self, name, path=None, target=None):
        if name == "torch" and MOMENT == "import of torch":
            print("ready", flush=True)
            time.sleep(600)
        if name == "typer" and MOMENT == "import of typer":
            print("ready", flush=True)
            time.sleep(600)
sys.meta_path.insert(0, Torch())
from hyperloader import signals
from hyperloader.cli import main
def work():
    signals.hint(lambda: "resume with: this")
    try:
        print("ready", flush=True)
        time.sleep(600)
    finally:
        if MOMENT == "end":
            print("ending", flush=True)
            time.sleep(600)
if MOMENT in ("work", "end"):
    import hyperloader.cli.env
    hyperloader.cli.env.report = work
if MOMENT == "command line":
    from hyperloader.cli.errors import OneLineErrors
    OneLineErrors.parse_args = lambda *_: (print("ready", flush=True), time.sleep(600))
if MOMENT == "exit":
    import atexit
    atexit.register(lambda: (print("ready", flush=True), time.sleep(600)))
main()
"""


@pytest.fixture(autouse=True)
def _signals_are_not_ignored():
    """A child inherits signals that are ignored, as they are under `nohup` and in the background of a shell."""
    before = {
        number: signal.signal(number, handler)
        for number, handler in ((signal.SIGINT, signal.default_int_handler), (signal.SIGTERM, signal.SIG_DFL))
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def run(moment: str, *numbers: int) -> tuple[int, str]:
    """Exit status and standard error of the command, which gets the signals at that moment."""
    environment = {**os.environ, "HYPERLOADER_NATIVE": "none", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", COMMAND.format(moment=moment)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        try:
            for number, word in zip(numbers, ("ready", "ending"), strict=False):
                while (line := process.stdout.readline()) and line.strip() != word:
                    pass
                process.send_signal(number)
            _, error = process.communicate(timeout=120)
        finally:
            process.kill()
    return process.returncode, error


@pytest.mark.parametrize("moment", ["import of torch", "import of typer", "command line", "work"])
@pytest.mark.parametrize(("number", "word", "status"), ENDS)
def test_one_line_and_the_status(moment, number, word, status):
    returned, error = run(moment, number)
    assert (returned, error.strip()) == (status, word)


def test_a_second_signal_ends_at_once_and_keeps_the_hint():
    assert run("end", signal.SIGINT, signal.SIGINT) == (130, "\ninterrupted; resume with: this\n")


def test_after_its_work_the_command_ends_at_once():
    returned, error = run("exit", signal.SIGINT)
    assert returned == 130
    assert "Traceback" not in error


def test_a_program_that_imports_the_package_keeps_its_signals():
    code = (
        "import signal, hyperloader, hyperloader.cli\n"
        "assert signal.getsignal(signal.SIGINT) is signal.default_int_handler\n"
        "assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL"
    )
    environment = {**os.environ, "HYPERLOADER_NATIVE": "none", "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


@pytest.mark.slow
@pytest.mark.parametrize(("number", "word", "status"), ENDS)
def test_a_training_ends_with_the_command_that_resumes_it(config_file, tmp_path, number, word, status):
    command = [sys.executable, "-m", "hyperloader.cli", "train", str(config_file)]
    command += ["--output", str(tmp_path / "run"), "--set", "training.steps=100000"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    pipe = subprocess.PIPE
    with subprocess.Popen(command, stdout=pipe, stderr=pipe, env=environment, text=True) as process:
        try:
            while not process.stdout.readline().startswith("step "):
                assert process.poll() is None, process.stderr.read()
            second = subprocess.run(command, capture_output=True, text=True, env=environment)
            assert second.returncode == 1
            assert f"another run trains there now (process {process.pid} on " in second.stderr
            process.send_signal(number)
            _, error = process.communicate(timeout=120)
        finally:
            process.kill()
    assert process.returncode == status
    saved = tmp_path / "run" / "config.yaml"
    assert error.splitlines()[-1] == f"{word}; resume with: hyperloader train {saved} --resume"
    assert "Traceback" not in error
    assert not (tmp_path / "run" / ".lock").exists()
