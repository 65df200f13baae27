"""Measures one point of a case: every provider is checked against the reference, then all are timed in turn."""

import gc
import math
import statistics
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import torch
from torch import Tensor

from bench.case import Calls, Case, Pass, Point, Provider, Setting, Unavailable
from bench.clock import Sampler, sampler, wall
from bench.measure import count_memory, count_operators

# Largest error that still counts as right, ‖result - reference‖ / ‖reference‖: of every tensor that a provider returns;
# in half precision, where the sums of a deep model's backward have few digits left, of all of them together.
TOLERANCE = {torch.float64: 1e-9, torch.float32: 2e-4, torch.float16: 2e-2, torch.bfloat16: 1e-1}
_TOGETHER = (torch.float16, torch.bfloat16)
_WARM_UP, _LEAST_REPEATS, _MOST_REPEATS = 2, 5, 200
_SHORTEST_SAMPLE = 1e-3  # seconds; quicker calls are repeated within a sample


class WrongResultError(Exception):
    """A provider whose result is not the reference's: nothing of its case is reported."""


@dataclass(frozen=True)
class Timing:
    """Seconds of one call: median and 10th and 90th percentile over ``repeats`` samples of ``calls`` calls."""

    median: float
    p10: float
    p90: float
    repeats: int
    calls: int


def measure_point(case: Case, point: Point, setting: Setting, seconds: float) -> list[dict]:
    """One dict for every pass at ``point``; ``seconds`` is the time for each provider.

    Raises:
        WrongResultError: a provider computes something else than the reference.
    """
    found = []
    for one in case.passes(point, setting):
        where = f"{case.name}, {point.name}, {one.name}"
        rows = measure_pass(one, setting, seconds, where, sampler(case.clock, setting.device))
        sizes = {"flop": one.flop, "bytes": one.bytes, "units": one.units, "unit": one.unit}
        found.append({"pass": one.name, **sizes, "providers": rows})
        release(setting)
    return found


def measure_pass(one: Pass, setting: Setting, seconds: float, where: str, sample: Sampler | None = None) -> list[dict]:
    """One dict for every provider: what was measured, or under ``error`` why nothing was."""
    expected = [tensor.detach().double() for tensor in one.expected()]
    rows, ready = {}, {}
    for provider in one.providers:
        rows[provider.name] = {"provider": provider.name}
        calls, outcome = _prepare(provider, expected, setting.dtype, one.forgiven, where)
        rows[provider.name] |= outcome
        if calls is not None:
            ready[provider] = calls.run
    timings = time_in_turn(ready, setting.device, seconds, sample=sample)
    for provider, run in ready.items():
        timing = timings[provider]
        with provider.around():
            memory = count_memory(run, setting.device)
            operators = None if provider.compiled else count_operators(run)
        rows[provider.name] |= {
            "median_s": timing.median, "p10_s": timing.p10, "p90_s": timing.p90, "repeats": timing.repeats,
            "calls_per_repeat": timing.calls, "peak_bytes": memory.peak, "allocated_bytes": memory.allocated,
            "operators": operators,
        }  # fmt: skip
    return list(rows.values())


def _prepare(
    provider: Provider, expected: list[Tensor], dtype: torch.dtype, forgiven: float, where: str
) -> tuple[Calls | None, dict[str, object]]:
    """The provider's calls and its error, or None and why it cannot run."""
    try:
        calls = provider.make()
        with provider.around():
            error = None
            if provider.compared:
                error = relative_error(calls.results(), expected, together=dtype in _TOGETHER)
            if provider.compiled:
                calls.run()  # which may be more to compile than its results
    except Unavailable as reason:
        return None, {"error": str(reason)}
    except Exception as reason:
        if not provider.compiled:  # the compiler's failure is a result of this benchmark, anyone else's is a bug
            raise
        return None, {"error": f"{type(reason).__name__}: {str(reason).strip().splitlines()[0]}"}
    tolerance = forgiven * TOLERANCE[dtype]
    if error is not None and not error <= tolerance:
        raise WrongResultError(
            f"{where}: {provider.name} is wrong by {error:.1e} of the float64 reference, allowed is {tolerance:.0e}"
        )
    return calls, {"relative_error": error}


def relative_error(results: Iterable[Tensor], expected: list[Tensor], together: bool = False) -> float:
    """Largest ‖result - expected‖ / ‖expected‖ over the tensors; inf where their number or a shape differs.

    ``together`` takes all tensors as one.
    """
    results = [result.detach().double() for result in results]
    if [result.shape for result in results] != [tensor.shape for tensor in expected]:
        return math.inf
    if together:
        results, expected = ([torch.cat([tensor.flatten() for tensor in one])] for one in (results, expected))
    errors = [0.0]
    for result, tensor in zip(results, expected, strict=True):
        distance, length = (result - tensor).norm().item(), tensor.norm().item()
        errors.append(distance / length if length else (0.0 if distance == 0 else math.inf))
    return math.nan if any(math.isnan(error) for error in errors) else max(errors)


def time_in_turn(
    calls: dict[Provider, Callable[[], object]],
    device: torch.device,
    seconds: float,
    clock: Callable[[], float] = time.perf_counter,
    sample: Sampler | None = None,
) -> dict[Provider, Timing]:
    """Time every provider once per repeat, so that clocks and neighbours disturb all of them alike.

    ``sample`` takes a sample; the wall ``clock`` does if it is None.

    A call that is not timed comes before each sample, so that every provider finds the caches and the allocator as it
    left them itself. Each repeat begins with another provider. There are as many as fit into ``seconds`` for each
    provider, at least five and at most 200.
    """
    if not calls:
        return {}
    sample = sample or wall(device, clock)
    once = {}
    for provider, call in calls.items():
        with provider.around():
            once[provider] = min(sample(call, 1) for _ in range(_WARM_UP))
    inner = {provider: max(1, math.ceil(_SHORTEST_SAMPLE / max(once[provider], 1e-7))) for provider in calls}
    one_round = sum(once[provider] * inner[provider] for provider in calls)
    repeats = min(max(int(seconds * len(calls) / max(one_round, 1e-9)), _LEAST_REPEATS), _MOST_REPEATS)
    samples: dict[Provider, list[float]] = {provider: [] for provider in calls}
    order = list(calls)
    gc.collect()
    gc.disable()
    try:
        for _ in range(repeats):
            for provider in order:
                with provider.around():
                    calls[provider]()
                    samples[provider].append(sample(calls[provider], inner[provider]))
            order = order[1:] + order[:1]
    finally:
        gc.enable()
    return {provider: _summary(samples[provider], inner[provider]) for provider in calls}


def _summary(samples: list[float], calls: int) -> Timing:
    tenths = statistics.quantiles(samples, n=10, method="inclusive")
    return Timing(statistics.median(samples), tenths[0], tenths[-1], len(samples), calls)


def release(setting: Setting) -> None:
    """Give back what a point held: models, compiled functions, cached device memory."""
    if setting.compile:
        torch.compiler.reset()
    gc.collect()
    if setting.device.type == "cuda":
        torch.cuda.empty_cache()
