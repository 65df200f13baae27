"""One run of the benchmark: all chosen cases, with every dtype and number of threads."""

import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from bench import machine, plot, results
from bench.case import Case, Point, Setting
from bench.clock import WALL
from bench.floor import measure_floor
from bench.providers import missing_backends
from bench.runner import WrongResultError, measure_point
from bench.table import pass_table

_SECONDS_AT_HEADLINE, _SECONDS_IN_SWEEP = 0.8, 0.15  # for each provider


@dataclass(frozen=True)
class Options:
    """What the command line chose."""

    device: torch.device
    threads: Sequence[int]
    dtypes: Sequence[torch.dtype]
    quick: bool = False
    compile: bool = True
    small: bool = False
    add: bool = False

    @property
    def folder_name(self) -> str:
        """Name of the results' folder if none is given; a quick run does not replace a full one, but may add to it."""
        part = self.small or (self.quick and not self.add)
        return machine.slug(self.device) + ("-quick" if part else "")

    def to_dict(self) -> dict:
        """Plain JSON types."""
        dtypes = [_name(dtype) for dtype in self.dtypes]
        return {
            "device": self.device.type, "threads": list(self.threads), "dtypes": dtypes, "quick": self.quick,
            "compile": self.compile,
        }  # fmt: skip


def run_cases(cases: Sequence[Case], options: Options, folder: Path) -> int:
    """Measure ``cases``, write their JSON and charts to ``folder``; returns the exit status."""
    kept, threads_before = machine.keep_freed_memory(), torch.get_num_threads()
    commit = machine.commit()  # before results are written into the checkout
    failures = []
    hardware = machine.hardware(options.device)
    added_to = {case.name: results.to_add_to(folder, case.name, hardware) for case in cases if options.add}
    try:
        for case in cases:
            before = added_to.get(case.name)
            if not any(_chosen(case, options, threads) for threads in options.threads):
                print(f"{case.name}: nothing of it is for {options.device.type}\n")
                continue
            began = time.perf_counter()
            try:
                result = {**run_case(case, options), "commit": commit, "freed_memory_kept": kept}
            except WrongResultError as error:
                print(f"bench: {error}; case {case.name} is not measured", file=sys.stderr)
                failures.append(case.name)
                continue
            result = results.joined(before, result) if before else result
            path = results.write(folder, result)
            chart = plot.draw(result, folder)
            print(f"{case.name}: {time.perf_counter() - began:.0f} s; {path}; {chart}\n", flush=True)
    finally:
        torch.set_num_threads(threads_before)
    if failures:
        print(f"bench: wrong results in {', '.join(failures)}", file=sys.stderr)
    return 1 if failures else 0


def run_case(case: Case, options: Options) -> dict:
    """Measure one case with every number of threads and dtype; returns what its JSON file holds."""
    runs = []
    for threads in options.threads:
        torch.set_num_threads(threads)
        for dtype in options.dtypes:
            setting = Setting(options.device, dtype, options.compile)
            floor = measure_floor(options.device, dtype)
            print(
                f"{case.title}: {threads} thread{'s' if threads > 1 else ''}, {_name(dtype)}, "
                f"{floor['flop_per_s'] / 1e9:.0f} GFLOP/s, {floor['bytes_per_s'] / 1e9:.1f} GB/s"
            )
            points = [_measure(case, point, setting, floor) for point in _chosen(case, options, threads)]
            runs.append({"threads": threads, "dtype": _name(dtype), "floor": floor, "points": points})
    return {
        "format": results.FORMAT, "case": case.name, "title": case.title,
        "date": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        "versions": machine.versions(), "hardware": machine.hardware(options.device), "options": options.to_dict(),
        "clock": case.clock if options.device.type == "cuda" else WALL,
        "missing_backends": missing_backends(), "runs": runs,
    }  # fmt: skip


def _chosen(case: Case, options: Options, threads: int) -> list[Point]:
    """The points for one number of threads: sweeps take the most of the time, and run with the most threads alone."""
    here = [point for point in case.points if point.device in ("", options.device.type)]
    if options.small:
        return [case.gate] if case.gate is not None else here[:1]
    sweeps = not options.quick and threads == max(options.threads)
    return [point for point in here if point.headline or sweeps]


def _measure(case: Case, point: Point, setting: Setting, floor: dict[str, float]) -> dict:
    passes = measure_point(case, point, setting, _SECONDS_AT_HEADLINE if point.headline else _SECONDS_IN_SWEEP)
    for one in passes:
        print(f" {case.name}, {point.name}, {one['pass']}\n{pass_table(one, floor)}", flush=True)
    return {
        "point": point.name, "sizes": point.sizes, "sweep": point.sweep, "headline": point.headline, "passes": passes,
    }  # fmt: skip


def _name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")
