"""The table that auto reads on a GPU, filled from times or from the bounds."""

import json

import pytest

from bench import results
from bench.__main__ import main
from bench.bounds import choice
from bench.bounds.launches import MODELS
from bench.results import UsageError
from hyperloader.ops import gpu_choice

T5 = MODELS[0]


def row(backend, tokens, seconds, direction="forward", host=0.0, operator="adapter"):
    return {
        "backend": backend, "operator": f"{operator} {direction}", "model": T5.name, "tokens": tokens,
        "seconds": seconds, "host_seconds": host,
    }  # fmt: skip


def test_pieces():
    """Small: the host decides; then native by both directions together; the large by the GPU; a tie goes to native."""
    rows = [
        row("cuda", 8, 1.0, host=2.0), row("triton", 8, 1.0, host=9.0),
        row("cuda", 64, 2.0), row("triton", 64, 1.0),
        row("cuda", 64, 1.0, "backward"), row("triton", 64, 3.0, "backward"),
        row("cuda", 4096, 4.0), row("triton", 4096, 3.0),
        row("cuda", 16384, 4.0), row("triton", 16384, 3.9),
        row("cuda", 99999, 1.0),
    ]  # fmt: skip
    expected = [[None, 64, "native"], [None, 4096, "triton"], [None, None, "native"]]
    assert choice.pieces(rows, "adapter") == expected


def test_features():
    """A model after another: those that choose alike are one piece."""
    by_hidden = sorted(MODELS, key=lambda model: model.hidden)
    rows = [
        row(backend, 8, seconds) | {"model": model.name}
        for model, times in zip(by_hidden, [(2, 1), (2, 1), (1, 2), (2, 1)], strict=True)
        for backend, seconds in zip(("cuda", "triton"), times, strict=True)
    ]  # fmt: skip
    expected = [[768, None, "triton"], [2048, None, "native"], [None, None, "triton"]]
    assert choice.pieces(rows, "adapter") == expected


def test_what_a_backend_cannot_compute_is_the_others():
    failed = {key: value for key, value in row("triton", 8, 0.1).items() if "seconds" not in key} | {
        "error": "too large"
    }
    assert choice.pieces([row("cuda", 8, 1.0), failed | {"host_seconds": 0.0}], "adapter") == [[None, None, "native"]]
    assert choice.pieces([row("cuda", 8, 1.0), failed], "adapter") == [[None, None, "native"]]


def test_without_both_backends_nothing_is_chosen():
    with pytest.raises(UsageError, match="FILE must hold times of adapter with both backends, got none"):
        choice.pieces([row("cuda", 8, 1.0)], "adapter")


def test_the_table_of_the_package_is_what_its_source_says(tmp_path):
    source, measured = gpu_choice.read().source, None
    if source != choice.COMPUTED:
        (measured,) = (
            path for path in results.ROOT.glob("*/kernels.json") if source.rpartition(" on ")[2] in path.read_text()
        )
    choice.write(measured, tmp_path / "table.json")
    assert (tmp_path / "table.json").read_text() == gpu_choice.TABLE.read_text()


def test_measured_times(tmp_path):
    rows = [
        row(backend, tokens, 1.0 if backend == "triton" else 2.0, operator=operator)
        for backend in choice.BACKENDS
        for operator, tokens in (("adapter", 8), ("lora_linears", 8), ("generate", 0), ("condition", 0))
    ]
    given = tmp_path / "kernels.json"
    given.write_text(json.dumps({"hardware": {"device": "a GPU"}, "calls": rows}), encoding="utf-8")
    choice.write(given, tmp_path / "table.json")
    found = json.loads((tmp_path / "table.json").read_text(encoding="utf-8"))
    assert found["source"] == "measured on a GPU"
    assert set(map(str, found["operators"].values())) == {"[[None, None, 'triton']]"}


@pytest.mark.parametrize("content", ["{", "{}"])
def test_another_file_is_refused(content, tmp_path, capsys):
    (tmp_path / "x.json").write_text(content, encoding="utf-8")
    assert main(["choose", str(tmp_path / "x.json")]) == 2
    assert "bench: FILE must be one that `python -m bench.bounds.measured` wrote" in capsys.readouterr().err
