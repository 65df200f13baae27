"""Dispatched operators, allocated bytes and launches do not grow. To record anew: python -m bench gate --record."""

import copy

import pytest

from bench import gate, instructions
from bench.cases import CASES


@pytest.fixture(scope="module")
def recorded():
    found = gate.read()
    if not gate.comparable(found):
        pytest.skip(f"recorded with torch {found['torch']}, whose operators may differ from this one's")
    return found


@pytest.fixture(scope="module")
def measured():
    return gate.measure(CASES)


def test_nothing_grew(recorded, measured):
    assert not gate.grown(recorded, measured)


def test_every_operator_and_the_whole_model_are_in_it(recorded):
    assert recorded["cases"].keys() == {"generate", "adapter", "lora_linear", "step", "mixed"}


@pytest.mark.parametrize("what", ["operators", "allocated_bytes"])
def test_growth_is_noticed(measured, what):
    """The recorded value of one count is lowered, as if the code had grown."""
    case, name = "adapter", next(iter(measured["cases"]["adapter"]))
    lower = copy.deepcopy(measured)
    value = measured["cases"][case][name][what]
    lower["cases"][case][name][what] = value // 2
    (line,) = gate.grown(lower, measured)
    assert case in line and name in line and f"grew from {value // 2:,} to {value:,}" in line


def test_launches_are_counted(measured, recorded):
    """Of every call and of whole steps, with both kinds of kernels."""
    for backend, counts in measured["launches"].items():
        assert counts.keys() == recorded["launches"][backend].keys()
        assert {"adapter forward, 8 tokens", "adapter forward, 4096 tokens", "generate backward"} <= counts.keys()
        one_layer = counts["adapter forward, 4096 tokens"] + counts["adapter backward, 4096 tokens"]
        assert counts["training step, tiny encoder"] > 2 * one_layer


def test_a_launch_more_is_noticed(measured):
    lower = copy.deepcopy(measured)
    lower["launches"]["cuda"]["decoding step, tiny T5"] -= 1
    value = measured["launches"]["cuda"]["decoding step, tiny T5"]
    assert gate.grown(lower, measured) == [f"launches (cuda, decoding step, tiny T5): grew from {value - 1} to {value}"]
    del lower["launches"]
    assert all("nothing recorded" in line for line in gate.grown(lower, measured))


def test_less_is_no_growth(measured):
    higher = copy.deepcopy(measured)
    for counts in higher["cases"].values():
        for values in counts.values():
            values["operators"] += 1
    assert gate.grown(higher, measured) == []


def test_a_case_without_a_record_is_named(measured):
    lines = gate.grown({"cases": {}}, measured)
    assert any(line.startswith("adapter (") and "nothing recorded" in line for line in lines)


@pytest.mark.slow
def test_no_call_has_more_instructions(recorded):
    counted = recorded["instructions"]
    if reason := instructions.missing() or instructions.comparable(counted):
        pytest.skip(reason)
    measured = instructions.measure()
    assert {name: measured[name] for name in instructions.BELONG_TO} == {
        name: counted[name] for name in instructions.BELONG_TO
    }
    assert gate.slower(counted, measured) == []
    assert measured["counts"].keys() == counted["counts"].keys()


def test_an_instruction_in_twenty_is_noticed(recorded):
    counted = recorded["instructions"]
    (what, value), *_ = counted["counts"].items()
    more = {"counts": {**counted["counts"], what: value * 105 // 100, "another": 1}}
    assert gate.slower(counted, more) == [
        f"{what}: instructions grew from {value:,} to {value * 105 // 100:,}",
        "another: nothing recorded; run `python -m bench gate --record`",
    ]
    assert {name.partition(":")[0] for name in counted["counts"]} == set(instructions.POINTS)


def test_what_is_not_comparable_is_said(recorded):
    other = {**recorded["instructions"], "compiler": "gcc 1.0", "instruction_set": "sse"}
    assert instructions.comparable(other).startswith("recorded with compiler gcc 1.0, not ")
