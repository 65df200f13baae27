"""Instructions of one call of every operator, counted by valgrind's callgrind: the same on a busy machine.

The processor that valgrind shows has no AVX-512, so that kernels for AVX2 are counted; with one thread. What is counted
contains Python and PyTorch's dispatcher, at two sizes: one of the gate's, where these are most of it, and one where the
kernel is. A count belongs to a release of torch, a compiler and an instruction set: others are not comparable.
"""

import ctypes
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import torch

from bench.case import Case, Point, Setting
from bench.cases import CASES, adapter, generate, lora_linear, mixed
from bench.providers import ours_name
from bench.results import UsageError
from hyperloader.ops import native

POINTS: dict[str, list[Point | None]] = {
    "generate": [generate.CASE.gate, generate.point(12, 256, 1)],
    "adapter": [adapter.CASE.gate, adapter.point(512, 768)],
    "lora_linear": [lora_linear.CASE.gate, lora_linear.point(512, 256)],
    "mixed": [mixed.CASE.gate, mixed.point("adapter", 16, 32, 256)],
}
BELONG_TO = ("torch", "compiler", "instruction_set")
_TOGGLE = """
#include <valgrind/callgrind.h>
void start(void) { CALLGRIND_START_INSTRUMENTATION; CALLGRIND_ZERO_STATS; }
void stop(const char* name) { CALLGRIND_DUMP_STATS_AT(name); CALLGRIND_STOP_INSTRUMENTATION; }
"""


def missing() -> str:
    """What this machine lacks to count, in words; empty where it lacks nothing."""
    for program in ("valgrind", "cc"):
        if shutil.which(program) is None:
            return f"{program} is missing (on Debian and Ubuntu: apt install {'gcc' if program == 'cc' else program})"
    return native.reason


def comparable(recorded: dict) -> str:
    """Why what is counted here cannot be compared with what was recorded; empty where it can."""
    here = {**native.build_info(), "instruction_set": _shown()}
    others = [f"{name} {recorded[name]}, not {here[name]}" for name in BELONG_TO if recorded[name] != here[name]]
    return f"recorded with {', '.join(others)}" if others else ""


def _shown() -> str:
    """The instruction set that valgrind's processor has here."""
    return min(native.build_info()["instruction_set"], "avx2", key=list(native.build_info()["instruction_sets"]).index)


def measure() -> dict:
    """The counts, ``{"case: point, pass": instructions}``, and what they belong to."""
    if lacking := missing():
        raise UsageError(f"instructions cannot be counted: {lacking}")
    with TemporaryDirectory() as folder:
        here = Path(folder)
        (here / "toggle.c").write_text(_TOGGLE, encoding="utf-8")
        subprocess.run(["cc", "-shared", "-fPIC", "-O1", "-o", "toggle.so", "toggle.c"], cwd=here, check=True)
        tool = ["valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={here / 'out'}", "--quiet"]
        environment = {**os.environ, "PYTHONHASHSEED": "0", "OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
        done = subprocess.run(
            [*tool, sys.executable, "-m", "bench.instructions", folder],
            cwd=Path(__file__).resolve().parents[1], env=environment, capture_output=True, text=True, check=False,
        )  # fmt: skip
        if done.returncode:
            raise UsageError(f"valgrind ended with {done.returncode}: {done.stderr.strip()[-500:]}")
        counts = dict(_counts(here))
        return json.loads(done.stdout.splitlines()[-1]) | {"counts": counts}


def _counts(folder: Path) -> Iterator[tuple[str, int]]:
    """Of the files that callgrind wrote, one a call: what it was named, and its instructions."""
    for file in folder.glob("out.*"):
        text = file.read_text(encoding="utf-8", errors="replace")
        named = re.search(r"^desc: Trigger: Client Request: (.+)$", text, re.MULTILINE)
        total = re.search(r"^(?:summary|totals): (\d+)", text, re.MULTILINE)
        if named and total and int(total[1]):
            yield named[1], int(total[1])


def _child(folder: Path) -> None:
    """Call every operator; runs under valgrind."""
    torch.set_num_threads(1)
    toggle = ctypes.CDLL(str(folder / "toggle.so"))
    for name, points in POINTS.items():
        for point in points:
            _of_point(CASES[name], point, toggle)
    built = native.build_info()
    print(json.dumps({name: built[name] for name in BELONG_TO}))


def _of_point(case: Case, point: Point, toggle: ctypes.CDLL) -> None:
    for one in case.passes(point, Setting(compile=False)):
        for provider in one.providers:
            if provider.name == ours_name("native"):
                run = provider.make().run
                with provider.around():
                    run()
                    run()
                    toggle.start()
                    run()
                    toggle.stop(f"{case.name}: {point.name}, {one.name}".encode())


if __name__ == "__main__":
    _child(Path(sys.argv[1]))
