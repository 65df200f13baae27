"""`python -m bench --add`: points measured later beside those that a file has."""

import json

import pytest
import torch

from bench import machine, report, session
from bench.__main__ import main
from bench.case import FORWARD, Calls, Case, Pass, Point, Provider
from bench.cases import CASES
from bench.providers import PLAIN
from bench.results import Run

FIRST, SECOND = "4096 × 768, bottleneck 24", "another"


def case(*names):
    """The case ``adapter`` with points of these names, that take no time."""

    def passes(point, setting):
        yield Pass(FORWARD, [Provider(PLAIN, lambda: Calls.of(lambda: [torch.ones(3)]))], lambda: [torch.ones(3)])

    return Case("adapter", "Made up", [Point(name, {"tokens": 4}, headline=True) for name in names], passes)


@pytest.fixture
def run(monkeypatch, tmp_path):
    """Measures points of these names with a floor, and returns the file's runs by their threads."""

    def measured(names, floor, *options):
        rates = {"flop_per_s": floor, "bytes_per_s": floor}
        monkeypatch.setattr(session, "measure_floor", lambda device, dtype: rates)
        monkeypatch.setattr(machine, "commit", lambda: f"commit {floor}")
        monkeypatch.setitem(CASES, "adapter", case(*names))
        status = main(["adapter", "--no-compile", "--output", str(tmp_path), *options])
        result = json.loads((tmp_path / "adapter.json").read_text(encoding="utf-8"))
        return status, result, {(one["threads"], one["dtype"]): one for one in result["runs"]}

    return measured


def test_points_are_added_and_replaced(run):
    run([FIRST], 1.0, "--threads", "1", "2")
    status, result, runs = run([FIRST, SECOND], 2.0, "--threads", "2", "--add")
    assert (status, result["commit"]) == (0, "commit 1.0")
    assert [[point["point"] for point in one["points"]] for one in runs.values()] == [[FIRST], [FIRST, SECOND]]
    assert "commit" not in runs[1, "float32"]["points"][0]
    assert [point["commit"] for point in runs[2, "float32"]["points"]] == ["commit 2.0"] * 2
    of_two = Run("cpu", 2, "float32", "AVX2", {"adapter": runs[2, "float32"]})
    assert of_two.floor("adapter", SECOND)["flop_per_s"] == 2.0
    of_one = Run("cpu", 1, "float32", "AVX2", {"adapter": runs[1, "float32"]})
    assert of_one.floor("adapter", FIRST)["flop_per_s"] == 1.0


def test_the_tables_say_when_and_with_what(run, monkeypatch, tmp_path):
    versions = machine.versions()
    monkeypatch.setattr(session, "missing_backends", lambda: {"native": "not built"})
    run([FIRST, SECOND], 1.0, "--threads", "1", "2")

    def said():
        return report.render([tmp_path], CASES, tmp_path / "page.md")

    assert said().count("Measured 20") == 1 and "commit commit 1.0. No native: not built." in said()
    monkeypatch.setattr(machine, "versions", lambda: versions | {"torch": "9.9"})
    monkeypatch.setattr(session, "missing_backends", dict)
    run([FIRST, SECOND], 2.0, "--threads", "1", "--add")
    _, result, runs = run([SECOND], 3.0, "--threads", "2", "--add")
    assert [point["date"][:2] for point in runs[2, "float32"]["points"] if "date" in point] == ["20"]
    assert [one.get("versions", versions)["torch"] for one in runs[2, "float32"]["points"]] == [
        versions["torch"],
        "9.9",
    ]
    assert f"torch 9.9 and {versions['torch']}" in said()
    assert " No native" not in said()
    day = result["date"][:10]
    *_, line = (one for one in said().splitlines() if one.startswith("Measured "))
    assert line == (
        f"Measured {day}, commit commit 2.0, torch 9.9 (1 thread, float32); "
        f"{day}, commit commit 1.0, torch {versions['torch']}, no native (2 threads, float32: {FIRST}); "
        f"{day}, commit commit 3.0, torch 9.9 (2 threads, float32: {SECOND})."
    )


def test_another_dtype_is_a_run_of_its_own(run):
    run([FIRST], 1.0, "--threads", "1")
    _, _, runs = run([FIRST], 2.0, "--threads", "1", "--dtype", "bfloat16", "--add")
    assert list(runs) == [(1, "bfloat16"), (1, "float32")]
    _, _, runs = run([FIRST], 3.0, "--threads", "1")
    assert list(runs) == [(1, "float32")], "without --add they are replaced"


def test_sizes_for_which_nothing_is_said_are_not_added(monkeypatch):
    options = session.Options(torch.device("cpu"), [1], [torch.float32], small=True, add=True)
    assert options.folder_name.endswith("-quick")


def test_another_machine_is_refused_before_anything_is_measured(run, monkeypatch, tmp_path, capsys):
    run([FIRST], 1.0, "--threads", "1")
    monkeypatch.setattr(machine, "hardware", lambda device: {"device": "other"})
    monkeypatch.setattr(session, "run_case", lambda *arguments: pytest.fail("measured"))
    assert run([FIRST], 2.0, "--threads", "1", "--add")[0] == 2
    error = capsys.readouterr().err
    assert error.startswith("bench: --add must be to results of this machine, {'device': 'other'}; ")
    assert f"{tmp_path / 'adapter'}.json" in error
