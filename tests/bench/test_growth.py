"""python -m bench.growth: what it measures, what it computes beside it, and what stands in the document."""

import json
import sys
from dataclasses import replace

import pytest
import torch

from bench import document
from bench.growth import __main__ as growth
from bench.growth import processes, report, step
from bench.scaling import FLOAT

SMALL = replace(step.BASE, sentences=6, tokens=5, tasks_of_batch=3)


def test_the_model_is_that_of_the_formulas():
    model, batch = step.made(SMALL)
    assert model.trainable_parameters() == SMALL.trained
    assert batch["input_ids"].shape == (6, 5)
    assert batch["task_ids"].unique().tolist() == [0, 21, 42]
    weights = model.eval().weights_of("task 0")
    generated = FLOAT * 3 * sum(tensor.numel() for site in weights.values() for tensor in site)
    assert step.fixed_bytes(SMALL) == (generated, 2 * generated + SMALL.gradient_bytes)


def test_every_axis_goes_through_the_first_model():
    for name, values in step.AXES.items():
        assert step.BASE in values.values(), name


def test_measured():
    threads = torch.get_num_threads()
    more = replace(SMALL, sentences=30)
    few, many = step.measure({"sentences": {6: SMALL, 30: more}}, rounds=1)
    assert torch.get_num_threads() == threads
    assert (few["axis"], few["value"], many["value"]) == ("sentences", 6, 30)
    assert many["operations"] == more.operations
    assert many["peak"] > few["peak"] > few["fixed"][0]
    assert many["median_s"] > 0


def test_computed():
    base = {"operations": step.BASE.operations, "fixed": list(step.fixed_bytes(step.BASE)), "median_s": 2.0}
    base |= {"activations": 10, "peak": step.fixed_bytes(step.BASE)[1] + 70}
    of_one = (base["peak"] - base["fixed"][0]) / 10
    wider = {"operations": 3 * step.BASE.operations, "fixed": [50, 60], "activations": 20}
    many_tasks = wider | {"fixed": [50, 10**9]}
    seconds, peaks = zip(*step.computed([base, wider, many_tasks]), strict=True)
    assert seconds == pytest.approx((2.0, 6.0, 6.0))
    assert peaks == pytest.approx((base["peak"], 50 + of_one * 20, 10**9))


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="bytes are counted in /proc")
@pytest.mark.skipif(not torch.distributed.is_available(), reason="this build has no torch.distributed")
def test_what_is_sent():
    for row in processes.measure([2]):
        assert row["sent"] == pytest.approx(row["computed"], rel=0.05), row
        assert row["median_s"] > 0


def test_the_document_holds_what_was_measured(tmp_path, monkeypatch):
    written = {}
    monkeypatch.setattr(document, "put", lambda page, name, text: written.update({page: text}))
    monkeypatch.setattr(document, "check", lambda page, name: None)
    file = tmp_path / "growth.json"
    file.write_text(growth.FILE.read_text())
    growth.main(["--report", "--file", str(file), "--document", str(report.DOCUMENT)])
    found = json.loads(file.read_text())
    figure = document.link(report.DOCUMENT, growth.FILE.with_suffix(".png"))
    assert report.render(found, figure) in report.DOCUMENT.read_text(encoding="utf-8")
    assert written[report.DOCUMENT].count("\n| ") == 1 + len(found["steps"]) + 1 + len(
        {row["processes"] for row in found["sent"]}
    )
    assert file.with_suffix(".png").stat().st_size > 10_000
