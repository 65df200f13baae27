"""The computed bounds: what a launch takes at least, what is held against what, and that nobody calls it measured."""

import json
import re

import pytest

from bench import document
from bench.__main__ import main
from bench.bounds import measured, report
from bench.bounds.device import A100, H100, blocks_at_once
from bench.bounds.launches import MODELS, Launch, copy, frozen, frozen_backward, total
from hyperloader.ops import _triton

needs_triton = pytest.mark.skipif(not _triton.installed(), reason=f"Triton {_triton.LEAST} or newer is not installed")


@pytest.mark.parametrize(
    ("threads", "registers", "shared", "expected"),
    [(256, 32, 0, 8), (256, 128, 0, 2), (256, 122, 19 << 10, 2), (128, 40, 60 << 10, 3), (32, 16, 0, 32)],
)
def test_blocks_at_once(threads, registers, shared, expected):
    """By threads, by registers, by shared memory, by their number."""
    assert blocks_at_once(H100, threads, registers, shared) == expected


def test_an_older_gpu_has_less_shared_memory():
    assert blocks_at_once(A100, 128, 40, 60 << 10) == 2


@pytest.mark.parametrize(
    ("launch", "expected"),
    [
        (Launch("k", 1320, 256, memory=3.35e9, cache=3.35e9), 1e-3),
        (Launch("k", 1320, 256, memory=3.35e6, cache=5.5e9), 1e-3),
        (Launch("k", 1320, 256, tensor=990e9), 1e-3),
        (Launch("k", 1, 256, tensor=990e9), 132e-3),  # one multiprocessor
        (Launch("k", 133, 256, tensor=990e9), 2 / 133 * 132 * 1e-3),  # one of them takes two blocks
        (Launch("k", 132, 256, tensor=990e9, tiles=264), 1e-3),  # every block two tiles
    ],
)
def test_the_scarcest_resource_counts(launch, expected):
    assert total((launch,), H100) == pytest.approx(expected + H100.launch)


def test_what_was_there_comes_from_memory_only_if_it_does_not_fit():
    first = Launch("first", 1320, 256, memory=40 << 20)
    again = Launch("again", 1320, 256, again=1 << 30)
    large = Launch("first", 1320, 256, memory=60 << 20)
    assert total((first, again), H100) == pytest.approx(2 * H100.launch + (40 << 20) / H100.memory)
    assert total((large, again), H100) == pytest.approx(2 * H100.launch + ((60 << 20) + (1 << 30)) / H100.memory)


def test_floors():
    """A copy of 16384 × 768 takes its bytes' time and a launch; the frozen products as many operations as they have."""
    model = MODELS[0]
    assert total(copy(2 * 2 * 16384 * 768), H100) == pytest.approx(H100.launch + 50331648 / 3.35e12)
    for products in (frozen(model, 4096), frozen_backward(model, 4096)):
        assert [one.tensor for one in products] == [2.0 * 4096 * 768 * 768] * 2
    assert [one.memory for one in frozen(model, 4096)] == [2 * (4096 * 768 * 2 + 768 * 768), 2 * (4096 + 768) * 768]


def find(path, backend, operator, model, tokens):
    return next(
        row for row in report.read(path)
        if (row["backend"], row["operator"], row["model"], row["tokens"]) == (backend, operator, model, tokens)
    )  # fmt: skip


def test_the_adapter_that_read_its_weights_for_every_16_tokens():
    """147 KB of weights beside 49 KB of tokens, which are read once more for the residual: under 40 % of a copy."""
    row = find(report.BEFORE, "cuda", "adapter forward", "t5-base", 16384)
    tile = row["cache_bytes"] / 1024
    assert 3 * 2 * 32 * 768 + 3 * 2 * 16 * 768 < tile < 1.1 * (3 * 2 * 32 * 768 + 3 * 2 * 16 * 768)
    assert 33 < report.value(row)[0] < 40


@pytest.mark.parametrize("path", [report.BEFORE, report.NOW], ids=lambda path: path.name)
def test_nothing_computed_is_called_measured(path):
    content = json.loads(path.read_text(encoding="utf-8"))
    assert content["note"] == report.NOTE == "computed from the sources, never measured"
    for row in content["calls"]:
        assert row["bound_s"] > row["launches"] * H100.launch and row["bound_s"] >= row["floor_s"]


def test_table_names_both_columns_and_what_is_not_reached():
    before = report.read(report.BEFORE)
    now = [row | {"bound_s": row["floor_s"] * 1.05} for row in before]
    text = report.tables(before, now)
    assert "| adapter forward | 16384 | 2 | 241 | 48 → 17.9 | 35 % → 95 % | ≥ 80 % |" in text
    assert "**not reached**" in report.tables(before, before) and "**not reached**" not in text
    assert text.count(report.NOTE) == 4


@needs_triton
def test_the_committed_bounds_are_those_of_today():
    """Of the formulas and of what Triton launches; registers and occupancy are of the last compilation."""

    def plain(row):
        kernels = [{key: one[key] for key in ("kernel", "blocks", "limited_by", "bound_s")} for one in row["kernels"]]
        return row | {"kernels": kernels}

    for now, committed in zip(report.computed(), report.read(report.NOW), strict=True):
        assert plain(now) == plain(committed), "to compute anew: python -m bench bounds"


@needs_triton
def test_command(tmp_path, monkeypatch):
    page = tmp_path / "cuda.md"
    marks = [f"<!-- {name}: {end} -->" for name in (report.MARK, report.MEASURED) for end in ("begin", "end")]
    page.write_text("\n".join(marks), encoding="utf-8")
    monkeypatch.setattr(report.write, "__defaults__", (report.NOW, page))
    output = tmp_path / "bounds.json"
    assert main(["bounds", "--output", str(output)]) == 0
    rows = report.read(output)
    assert len(rows) == len(report.BACKENDS) * len(MODELS) * (4 * 4 + 4)
    assert {row["backend"] for row in rows} == set(report.BACKENDS)


def test_measured_times_stand_beside_bounds_and_copies():
    key = {"backend": "cuda", "model": "t5-base", "tokens": 8}
    rows = [
        key | {"operator": "adapter forward", "seconds": 20e-6, "host_seconds": 9e-6, "kernels": {"ours": 15e-6}},
        key | {"operator": "lora_linears forward", "seconds": 30e-6, "host_seconds": 8e-6,
               "kernels": {"ours": 5e-6, "nvjet_a": 8e-6, "nvjet_b": 2e-6}},
        key | {"operator": "adapter backward", "error": "it does not fit"},
    ]  # fmt: skip
    bounds = [key | {"operator": row["operator"], "bound_s": 10e-6} for row in rows]
    floors = {("cuda", "adapter forward", "t5-base", 8): 1e7, ("cuda", "lora_linears forward", "t5-base", 8): 1e7}
    content = {"calls": rows, "floor": {"bytes_per_s": 1e12}, "hardware": {"device": "a GPU"}}
    lines = measured.page(content, bounds, floors).splitlines()[4:]
    assert lines == [
        "| CUDA C++ | adapter forward | 8 | 20.0 | 2.0× | 50 % | 9 | 15.0 |",
        "| CUDA C++ | lora_linears forward | 8 | 30.0 | 3.0× | 3.00× | 8 | 15.0 |",
    ]


def test_a_page_without_marks_is_left_alone(tmp_path, monkeypatch, capsys):
    page = tmp_path / "cuda.md"
    page.write_text("nothing", encoding="utf-8")
    monkeypatch.setattr(document, "CUDA", page)
    monkeypatch.setattr(report.write, "__defaults__", (report.NOW, page))
    assert main(["bounds", "--output", str(tmp_path / "x.json")]) == 2
    assert "must hold the marks <!-- bounds: begin -->" in capsys.readouterr().err
    assert not (tmp_path / "x.json").exists()


def test_what_the_page_names_is_in_the_sources():
    """Constants, kernels and headers of docs/cuda.md."""
    page = document.CUDA.read_text(encoding="utf-8").partition("<!-- bounds: begin -->")
    text = page[0] + page[2].partition("<!-- bounds: end -->")[2]
    folder = document.ROOT / "csrc" / "cuda"
    triton = (document.ROOT / "kernels").glob("*.py")
    sources = "\n".join(path.read_text(encoding="utf-8") for path in (*folder.iterdir(), *triton))
    names = set(re.findall(r"`(k[A-Z]\w+|\w+_kernel)`", text))
    assert len(names) > 6
    assert [name for name in sorted(names) if name not in sources] == []
    files = set(re.findall(r"`(\w+\.(?:cuh|cu|h))`", text))
    assert files and [name for name in sorted(files) if not (folder / name).exists()] == []
