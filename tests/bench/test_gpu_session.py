"""The day with a GPU: what is done is not done again, what fails stops nothing, and the next call goes on."""

import json
import os
import subprocess
import sys
import tarfile
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

from bench.bounds import measured, report
from bench.gpu import session as sessions
from bench.gpu.session import Session
from bench.gpu.steps import Step, steps

ROOT = Path(__file__).resolve().parents[2]


class Clock:
    """Time passes only when a step is begun."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def step(name, code="", seconds=60):
    return Step(name, seconds, (sys.executable, "-S", "-c", code))


def counting(name, log):
    """A step that writes its name to the file ``log``."""
    return step(name, f"open({str(log)!r}, 'a').write({name!r})")


def test_what_fails_stops_nothing_and_is_tried_again_only_when_asked(tmp_path):
    log = tmp_path / "log"
    failing = step("failing", f"open({str(log)!r}, 'a').write('x'); raise SystemExit(3)")
    some = [counting("a", log), failing, counting("b", log)]
    lines = Session(tmp_path / "work").run(some)
    assert log.read_text() == "axb"
    assert [line.split()[0] for line in lines] == ["done", "failed", "done"] and "exit status 3" in lines[1]
    lines = Session(tmp_path / "work").run(some)
    assert log.read_text() == "axb" and lines[1] == "failed   before: failing"
    Session(tmp_path / "work").run(some, again=True)
    assert log.read_text() == "axbx"


def test_a_step_waits_for_a_call_with_all_of_its_time(tmp_path, monkeypatch):
    log, clock = tmp_path / "log", Clock()
    run = subprocess.run
    monkeypatch.setattr(subprocess, "run", lambda *a, **k: (setattr(clock, "now", clock.now + 100), run(*a, **k))[1])
    some = [counting(name, log) for name in "abcde"]
    lines = Session(tmp_path / "work", seconds=240, clock=clock).run(some)
    assert log.read_text() == "ab" and [line.split()[0] for line in lines] == ["done", "done", "open", "open", "open"]
    Session(tmp_path / "work", seconds=240, clock=clock).run(some)
    assert log.read_text() == "abcd"


def test_a_step_that_takes_too_long_has_failed(tmp_path):
    (line,) = Session(tmp_path / "work").run([step("slow", "import time; time.sleep(60)", seconds=1)])
    assert line.startswith("failed   slow")


def test_a_call_that_was_cut_off_is_told(tmp_path, monkeypatch):
    def cut(*arguments, **options):
        raise KeyboardInterrupt

    monkeypatch.setattr(subprocess, "run", cut)
    with pytest.raises(KeyboardInterrupt):
        Session(tmp_path / "work").run([step("long")])
    monkeypatch.undo()
    assert Session(tmp_path / "work").run([step("long")]) == ["begun    before: long"]
    assert Session(tmp_path / "work").run([step("long")], again=True)[0].startswith("done")


def test_another_machine_goes_on_from_the_archive(tmp_path):
    log = tmp_path / "log"
    some = [counting("a", log), counting("b", log)]
    Session(tmp_path / "one" / "h100", archive=tmp_path / "h100.tar.gz").run(some[:1])
    with tarfile.open(tmp_path / "h100.tar.gz") as archive:
        archive.extraction_filter = getattr(tarfile, "data_filter", None)  # not before Python 3.11.4
        archive.extractall(tmp_path / "results")
    Session(tmp_path / "other" / "h100", saved=tmp_path / "results" / "h100").run(some)
    assert log.read_text() == "ab"
    assert json.loads((tmp_path / "results" / "h100" / "state.json").read_text())["b"]["status"] == "done"


def test_building_is_done_again_for_other_sources(tmp_path, monkeypatch):
    log, there = tmp_path / "log", tmp_path / "hyperloader"
    monkeypatch.setattr(sessions, "ROOT", tmp_path)
    there.mkdir()
    (there / "_C.so").touch()
    (tmp_path / "setup.py").touch()
    some = [counting("build", log)]
    for _ in range(2):
        Session(tmp_path / "work").run(some)
    assert log.read_text() == "build"
    (tmp_path / "setup.py").write_text("other")
    Session(tmp_path / "work").run(some)
    assert log.read_text() == "build" * 2
    (there / "_C.so").unlink()
    Session(tmp_path / "work").run(some)
    assert log.read_text() == "build" * 3


def test_forgetting(tmp_path):
    log = tmp_path / "log"
    Session(tmp_path / "work").run([counting("a", log)])
    Session(tmp_path / "work").forget()
    Session(tmp_path / "work").run([counting("a", log)])
    assert log.read_text() == "aa"


@pytest.mark.parametrize("device", ["cpu", "cuda"])
def test_steps(device, tmp_path):
    """Every step has a name of its own, fits into a call, and names files and modules that are there."""
    found = steps(device, tmp_path)
    assert len({one.name for one in found}) == len(found)
    assert [one.name for one in found][:1] == (["build"] if device == "cuda" else ["small calls"])
    for one in found:
        assert one.seconds <= 540
        files = [part for part in one.command[1:] if part.startswith("tests") or part.endswith("setup.py")]
        assert all((ROOT / part).exists() for part in files), one
        if "-m" in one.command[:2]:
            assert find_spec(one.command[2]) is not None


def test_the_script_lists_what_is_open():
    environment = os.environ | {"DEVICE": "cpu", "PYTHON": sys.executable}
    done = subprocess.run(
        ["bash", "bench/gpu.sh", "--list", "kernels", "step"], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    assert [line.partition(" ")[2].strip() for line in done.stdout.splitlines()] == [
        "kernels, measured over bound", "bench step",
    ]  # fmt: skip


def test_measured_over_bound():
    row = {"backend": "cuda", "operator": "adapter forward", "model": "t5-base", "tokens": 8}
    name = "void hyperloader::cuda::(anonymous namespace)::adapter_kernel<c10::BFloat16, true>(Forward<float>)"
    assert measured.kernel_name(name) == measured.kernel_name("adapter_kernel<BFloat16>") == "adapter_kernel"
    assert measured.kernel_name("adapter_forward.forward_kernel") == measured.kernel_name("forward_kernel")
    kernels = [{"kernel": "adapter_kernel<BFloat16>", "bound_s": 2e-6}, {"kernel": "lay_out_kernel", "bound_s": 1e-6}]
    lines = measured.table(
        [row | {"bound_s": 4e-6, "kernels": kernels}],
        [
            row | {"seconds": 6e-6, "kernels": {"adapter_kernel": 3e-6}},
            row | {"tokens": 9, "seconds": 1, "kernels": {}},
        ],
    ).splitlines()
    assert [line.split() for line in lines[1:]] == [
        ["cuda,", "adapter", "forward,", "t5-base", "8", "6.00", "4.00", "1.50"],
        ["adapter_kernel", "3.00", "2.00", "1.50"],
        ["lay_out_kernel:", "has", "a", "bound,", "did", "not", "run"],
    ]


def test_what_is_measured_is_what_there_are_bounds_for():
    """Every call runs, and has the name of a bound."""
    (model,), device = measured.TINY, torch.device("cpu")
    found = {}
    for tokens in (8, 0):
        found |= measured.calls("hyperloader_reference", model, tokens, device)
    for call in found.values():
        call()
    assert set(found) == {row["operator"] for row in report.read(report.NOW)}
