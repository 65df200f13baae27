"""Every case is right at a small point, with all its providers."""

import pytest
import torch

from bench.case import BOTH, FORWARD, Point, Setting
from bench.cases import CASES, adapter, captured, generate, lora_linear, mixed, overhead, predict, step
from bench.providers import PEFT, PLAIN, PUBLISHED, ours_name
from bench.runner import TOLERANCE, measure_point, relative_error

SMALL = {
    "generate": [generate.point(2, 64, 2)],
    "adapter": [adapter.point(40, 64)],
    "lora_linear": [lora_linear.point(40, 64), lora_linear.point(40, 64, layers=2)],
    "overhead": [overhead.point(operator) for operator in ("adapter", "lora_linear", "generate")],
    "step": [step.point(name, 2, 5, 2) for name in ("tiny encoder", "tiny T5", "tiny decoder")],
    "predict": [
        *(predict.point(name, 2, 5, new_tokens=2) for name in ("tiny encoder", "tiny T5", "tiny decoder")),
        predict.point("tiny T5", 4, 5, new_tokens=2, tasks=2),
    ],
    "captured": [
        captured.point("tiny encoder", 2, 5),
        captured.point("tiny T5", 2, 5),
        captured.point("tiny T5", 2, 5, captured.DECODING),
        captured.point("tiny decoder", 2, 5),
        captured.point("tiny decoder", 2, 5, captured.DECODING),
    ],
    "mixed": [mixed.point(what, 3, 5, 64, sentences=4) for what in ("adapter", "lora_linear", "tiny encoder")],
}
EXPECTED = {
    "generate": {PLAIN, PUBLISHED},
    "adapter": {PLAIN, PUBLISHED},
    "lora_linear": {PLAIN, PEFT, lora_linear.FROZEN},
    "overhead": {PLAIN},
    "step": {PLAIN, PUBLISHED, PEFT, step.FROZEN},
    "predict": {PLAIN, PUBLISHED, PEFT, predict.FROZEN},
    "captured": {step.FROZEN},
    "mixed": {PLAIN},
}


def test_every_case_is_tried():
    assert SMALL.keys() == CASES.keys()


@pytest.mark.parametrize(("name", "point"), [(name, point) for name, points in SMALL.items() for point in points])
def test_case(name: str, point: Point):
    for one in measure_point(CASES[name], point, Setting(compile=False), 0.0):
        rows = {row["provider"]: row for row in one["providers"]}
        assert next(iter(rows)) == PLAIN or name == "captured"
        of_one_task = {PUBLISHED, PEFT} if name == "predict" and point.sizes["tasks"] > 1 else set()
        assert EXPECTED[name] - of_one_task | {ours_name("reference")} <= rows.keys()
        for row in rows.values():
            assert "median_s" in row or "not installed" in row["error"]


def test_the_drop_in_is_measured_where_it_generates():
    (point,) = SMALL["generate"]
    passes = measure_point(CASES["generate"], point, Setting(compile=False), 0.0)
    drop_in = ours_name("reference") + generate.DROP_IN
    found = {one["pass"]: any(row["provider"] == drop_in for row in one["providers"]) for one in passes}
    assert found == {FORWARD: False, BOTH: True}


@pytest.mark.parametrize("backbone", ["tiny encoder", "tiny T5", "tiny decoder"])
def test_whole_models_in_half_precision(backbone):
    """What we train stays float32 beside a backbone of half precision; the others are cast as a whole."""
    setting = Setting(dtype=torch.bfloat16, compile=False)
    (one,) = measure_point(CASES["step"], step.point(backbone, 2, 5, 2), setting, 0.0)
    assert all("median_s" in row or "not installed" in row["error"] for row in one["providers"])


def test_half_precision():
    for one in measure_point(CASES["adapter"], adapter.point(40, 64), Setting(dtype=torch.bfloat16, compile=False), 0):
        assert all(row["relative_error"] > 1e-4 for row in one["providers"])


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_points(case):
    names = [point.name for point in case.points]
    assert len(set(names)) == len(names)
    assert any(point.headline for point in case.points)


@pytest.mark.slow
def test_compiled_provider():
    (one, _) = measure_point(CASES["adapter"], Point("small", adapter.point(40, 64).sizes, "", True), Setting(), 0.0)
    assert any(row["provider"] == "torch.compile" and "median_s" in row for row in one["providers"])


@pytest.mark.slow
@pytest.mark.parametrize("name", ["step", "predict"])
def test_our_compiled_provider_is_right(name, monkeypatch):
    if name == "step":
        at = step.point("tiny encoder", 4, 8, 2)
        monkeypatch.setattr(step, "_COMPILED", at)
    else:
        at = predict.point("tiny encoder", 4, 8, headline=True)
    (one,) = CASES[name].passes(at, Setting())
    (provider,) = [provider for provider in one.providers if provider.name.endswith(", compiled")]
    expected = [tensor.detach().double() for tensor in one.expected()]
    with provider.around():
        assert relative_error(provider.make().results(), expected) <= TOLERANCE[torch.float32]
