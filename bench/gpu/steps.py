"""What is done on a GPU, the most telling first."""

import os
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


@dataclass(frozen=True)
class Step:
    """A command and the seconds that it may take, of which it needs all to be begun."""

    name: str
    seconds: int
    command: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)


def steps(device: str, folder: Path) -> list[Step]:
    """The steps on ``device``, with results in ``folder``; on a CPU the same with tiny sizes, to try them out."""
    python, tiny = sys.executable, device == "cpu"
    found = []
    if not tiny:
        native = {"HYPERLOADER_NATIVE": "cuda", "MAX_JOBS": str(os.cpu_count() or 1)}
        found.append(Step("build", 420, (python, "setup.py", "-q", "build_ext", "--inplace"), native))
    found += [
        Step("small calls", 60, (python, "tests/helpers/small_calls.py"), _TESTS),
        _measure("kernels, measured over bound", 200, "bench.bounds.measured", "--output", str(folder / "kernels.json"),
                 "--device", device, *(("--tiny",) if tiny else ())),
    ]  # fmt: skip
    found += [_sanitizer(tool, python) for tool in ("memcheck",) if _sanitizes(device)]
    found += [
        _tests("tests marked gpu", "-m", "gpu"),
        _bench("step", device, folder, "--quick", "--dtype", "bfloat16"),
        _bench("captured", device, folder, "--dtype", "bfloat16"),
        _bench("predict", device, folder, "--quick", "--dtype", "bfloat16"),
        _tests("operators' tests", "tests/ops", "-m", "not gpu", *_ON_THE_CPU),
        _bench("adapter", device, folder, "--dtype", "bfloat16"),
        _bench("generate lora_linear overhead", device, folder, "--quick", "--dtype", "bfloat16"),
        _bench("mixed", device, folder, "--quick", "--dtype", "bfloat16"),
    ]
    found += [_sanitizer(tool, python) for tool in ("racecheck", "synccheck") if _sanitizes(device)]
    found.append(_bench("adapter generate lora_linear", device, folder, "--quick", "--dtype", "float32"))
    return found


_TESTS = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests'}"}
# of tests/ops, what is about the CPU alone
_ON_THE_CPU = ("--ignore", "tests/ops/test_cpu_loops.py", "--ignore", "tests/ops/test_native_loading.py")


def _measure(name: str, seconds: int, module: str, *arguments: str) -> Step:
    return Step(name, seconds, (sys.executable, "-m", module, *arguments))


def _bench(cases: str, device: str, folder: Path, *options: str) -> Step:
    if device == "cpu":
        options = (*options, "--quick", "--small")
    arguments = (*cases.split(), "--device", device, "--threads", "2", "--no-compile", "--output", str(folder))
    kind = "" if "float32" not in options else ", float32"
    output = str(folder / "float32") if kind else str(folder)
    seconds = 300 if cases in ("step", "captured", "predict") else 200  # models are built for every provider
    return _measure(f"bench {cases}{kind}", seconds, "bench", *arguments[:-1], output, *options)


def _tests(name: str, *arguments: str) -> Step:
    workers = min(os.cpu_count() or 1, 12)  # hundreds of kernels of Triton are compiled: that is a matter of cores
    many = ("-n", str(workers)) if find_spec("xdist") is not None else ()
    command = (sys.executable, "-m", "pytest", "-q", "-rfE", *many, *arguments)
    return Step(name, 270, command, {"OMP_NUM_THREADS": "2"})


def _sanitizes(device: str) -> bool:
    return device == "cuda" and shutil.which("compute-sanitizer") is not None


def _sanitizer(tool: str, python: str) -> Step:
    command = ("compute-sanitizer", "--target-processes", "all", "--tool", tool, "--error-exitcode", "3")
    environment = {"PYTORCH_NO_CUDA_MEMORY_CACHING": "1", **_TESTS}
    return Step(f"compute-sanitizer {tool}", 300, (*command, python, "tests/helpers/small_calls.py"), environment)
