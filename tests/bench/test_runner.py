"""The runner: providers with wrong results are not timed, the others in turn; medians and percentiles."""

from dataclasses import replace

import pytest
import torch

from bench.case import Calls, Case, Pass, Point, Provider, Setting, Unavailable
from bench.runner import WrongResultError, measure_pass, measure_point, relative_error, time_in_turn

CPU = torch.device("cpu")


class Clock:
    """Time passes only when a call says so."""

    def __init__(self):
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def call(self, name, seconds, log):
        """A call that takes the next of ``seconds``, the last of them for ever."""
        left = list(seconds)

        def run():
            log.append(name)
            self.now += left.pop(0) if len(left) > 1 else left[0]

        return run


def provider(name, make=None, **options):
    return Provider(name, make or (lambda: Calls.of(lambda: [torch.ones(3)])), **options)


def one_pass(*providers, **options):
    return Pass("forward", providers, lambda: [torch.ones(3)], **options)


def rows_of(*providers, **options):
    rows = measure_pass(one_pass(*providers, **options), Setting(), 0.0, "case, point, forward")
    return {row["provider"]: row for row in rows}


def test_providers_take_turns():
    clock, log = Clock(), []
    first, second = provider("first"), provider("second")
    calls = {first: clock.call("first", [1.0], log), second: clock.call("second", [1.0], log)}
    timings = time_in_turn(calls, CPU, 0.0, clock)
    turns = [["first", "second"], ["second", "first"]] * 2 + [["first", "second"]]
    expected = [name for turn in turns for name in turn for _ in range(2)]  # one that is not timed, one that is
    assert log == ["first"] * 2 + ["second"] * 2 + expected
    assert [timing.repeats for timing in timings.values()] == [5, 5]


def test_medians_and_percentiles():
    clock = Clock()
    one = provider("one")
    timed = [1.0, 5.0, 2.0, 4.0, 3.0]
    seconds = [9.0, 9.0, *(second for one_time in timed for second in (9.0, one_time))]  # 9: not timed
    timing = time_in_turn({one: clock.call("one", seconds, [])}, CPU, 0.0, clock)[one]
    assert (timing.median, timing.repeats, timing.calls) == (3.0, 5, 1)
    assert (timing.p10, timing.p90) == pytest.approx((1.4, 4.6))


def test_more_time_gives_more_repeats():
    clock = Clock()
    one = provider("one")
    assert time_in_turn({one: clock.call("one", [0.125], [])}, CPU, 2.0, clock)[one].repeats == 16


def test_quick_calls_are_repeated_within_a_sample():
    clock, log = Clock(), []
    one = provider("one")
    timing = time_in_turn({one: clock.call("one", [2.0**-12], log)}, CPU, 0.0, clock)[one]
    assert timing.calls == 5 and timing.median == 2.0**-12
    assert len(log) == 2 + (1 + timing.calls) * timing.repeats


def test_wrong_result_stops_the_case():
    wrong = provider("wrong", lambda: Calls.of(lambda: [torch.ones(3) + 0.1]))
    case = Case("made up", "Made up", [], lambda point, setting: [one_pass(provider("right"), wrong)])
    with pytest.raises(WrongResultError, match="made up, small, forward: wrong is wrong by 1.0e-01"):
        measure_point(case, Point("small", {}), Setting(), 0.0)


def test_a_pass_may_allow_larger_errors():
    off = provider("off", lambda: Calls.of(lambda: [torch.ones(3) + 1e-3]))
    with pytest.raises(WrongResultError, match="off is wrong by 1.0e-03 .*, allowed is 2e-04"):
        rows_of(off)
    with pytest.raises(WrongResultError, match="off is wrong by 1.0e-03 .*, allowed is 8e-04"):
        rows_of(off, forgiven=4)
    assert "median_s" in rows_of(off, forgiven=6)["off"]


@pytest.mark.parametrize("result", [[torch.full((3,), torch.nan)], [torch.ones(2)], [], [torch.ones(3)] * 2])
def test_nan_and_other_shapes_are_wrong(result):
    with pytest.raises(WrongResultError):
        rows_of(provider("wrong", lambda: Calls.of(lambda: result)))


def test_what_computes_less_is_not_compared():
    rows = rows_of(provider("part", lambda: Calls.of(lambda: [torch.zeros(3)]), compared=False))
    assert rows["part"]["relative_error"] is None and rows["part"]["median_s"] > 0


def test_missing_provider_is_shown():
    def make():
        raise Unavailable("not installed")

    rows = rows_of(provider("right"), provider("missing", make))
    assert rows["missing"] == {"provider": "missing", "error": "not installed"}
    assert "median_s" in rows["right"]


def test_failed_compilation_is_shown_and_other_failures_are_not_hidden():
    def make():
        raise RuntimeError("no compiler\nand a long trace")

    failing = provider("failing", make, compiled=True)
    assert rows_of(failing)["failing"]["error"] == "RuntimeError: no compiler"
    with pytest.raises(RuntimeError, match="no compiler"):
        rows_of(replace(failing, compiled=False))


def test_relative_error():
    expected = [torch.tensor([3.0, 4.0], dtype=torch.float64), torch.zeros(2, dtype=torch.float64)]
    assert relative_error([torch.tensor([3.0, 4.5]), torch.zeros(2)], expected) == pytest.approx(0.1)
    assert relative_error([torch.tensor([3.0, 4.0]), torch.ones(2)], expected) == float("inf")
    assert relative_error([torch.tensor([3.0, 4.0]), torch.ones(2)], expected, together=True) == pytest.approx(
        0.08**0.5
    )


def test_every_row_says_what_it_cost():
    row = rows_of(provider("right"))["right"]
    assert row["operators"] == 1 and row["allocated_bytes"] == row["peak_bytes"] == 12
    assert row["p10_s"] <= row["median_s"] <= row["p90_s"] and row["repeats"] >= 5
    assert row["relative_error"] == 0
