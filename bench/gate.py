"""A gate that needs no quiet machine: operators, allocated bytes, instructions and launches do not grow beyond records.

Operators and bytes are counted with one thread in float32 on the CPU, at one small point of every case that has one,
for our native and reference backends; instructions by ``bench.instructions``; the launches on a GPU as
``bench.launches`` does.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch

from bench import instructions, launches
from bench.case import Case, Setting
from bench.measure import count_memory, count_operators
from bench.providers import ours_name
from hyperloader.checkpoints.atomic import write_text

RECORDED = Path(__file__).with_name("gate.json")
COUNTED = (ours_name("native"), ours_name("reference"))
_SLACK = {"operators": 1.0, "allocated_bytes": 1.02, "instructions": 1.03}  # some bytes more are no growth


def measure(cases: Mapping[str, Case]) -> dict:
    """Counts by case, pass and provider, the release of torch that they were made with, and launches by backend."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        counts = {case.name: _of_case(case) for case in cases.values() if case.gate is not None}
    finally:
        torch.set_num_threads(threads)
    return {"torch": _release(), "cases": counts, "launches": launches.measure()}


def slower(recorded: dict, measured: dict) -> list[str]:
    """One line for every call with more instructions than recorded, or that nothing is recorded for."""
    lines = []
    for what, value in measured["counts"].items():
        before = recorded["counts"].get(what)
        if before is None:
            lines.append(f"{what}: nothing recorded; run `python -m bench gate --record`")
        elif value > before * _SLACK["instructions"]:
            lines.append(f"{what}: instructions grew from {before:,} to {value:,}")
    return lines


def _of_case(case: Case) -> dict[str, dict[str, int]]:
    setting, found = Setting(compile=False), {}
    for one in case.passes(case.gate, setting):
        for provider in one.providers:
            if provider.name in COUNTED:
                run = provider.make().run
                with provider.around():
                    for _ in range(2):  # what is made once, as an optimizer's state, is made now
                        run()
                    counts = {
                        "operators": count_operators(run),
                        "allocated_bytes": count_memory(run, setting.device).allocated,
                    }
                found[f"{case.gate.name}, {one.name}, {provider.name}"] = counts
    return found


def grown(recorded: dict, measured: dict) -> list[str]:
    """One line for every count that is larger than recorded, or that nothing is recorded for."""
    lines = []
    for case, counts in measured["cases"].items():
        for what, values in counts.items():
            before = recorded["cases"].get(case, {}).get(what)
            if before is None:
                lines.append(f"{case} ({what}): nothing recorded; run `python -m bench gate --record`")
                continue
            lines += [
                f"{case} ({what}): {name.replace('_', ' ')} grew from {before[name]:,} to {value:,}"
                for name, value in values.items()
                if value > before[name] * _SLACK[name]
            ]
    for backend, values in measured["launches"].items():
        for what, value in values.items():
            most = recorded.get("launches", {}).get(backend, {}).get(what)
            if most is None:
                lines.append(f"launches ({backend}, {what}): nothing recorded; run `python -m bench gate --record`")
            elif value > most:
                lines.append(f"launches ({backend}, {what}): grew from {most} to {value}")
    return lines


def comparable(recorded: dict) -> bool:
    """Whether the counts were recorded with this release of torch: another one dispatches differently."""
    return recorded["torch"] == _release()


def read() -> dict:
    """The recorded counts."""
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def record(cases: Mapping[str, Case]) -> None:
    """Measure and write the counts; raises ``UsageError`` where instructions cannot be counted."""
    counted = instructions.measure()
    write_text(RECORDED, json.dumps(measure(cases) | {"instructions": counted}, indent=1, ensure_ascii=False) + "\n")


def _release() -> str:
    return ".".join(torch.__version__.split(".")[:2])
