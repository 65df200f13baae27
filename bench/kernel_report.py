"""Compile every Triton kernel ahead of time, and say what it takes of a GPU: registers, shared memory, spills.

    python -m bench.kernel_report [--targets sm_90 ...] [--models t5-base ...] [--dtypes bfloat16 ...] [--output FILE]

No GPU is needed. The operators are called as a model calls them, on the CPU; their launches are compiled instead of run.
"""

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor

DEFAULT_OUTPUT = Path(__file__).parent / "results" / "kernels" / "triton.json"


class Model(NamedTuple):
    """Sizes of a backbone's sites: the bottleneck is ``hidden`` / 32, the rank 8."""

    hidden: int
    feed_forward: int


MODELS = {
    "t5-small": Model(512, 2048),
    "t5-base": Model(768, 3072),
    "t5-large": Model(1024, 4096),
    "MiniLM": Model(384, 1536),
}
TARGETS = {  # name → what Triton calls it, processors
    "sm_80": (("cuda", 80, 32), 108),
    "sm_90": (("cuda", 90, 32), 132),
    "gfx942": (("hip", "gfx942", 64), 304),
}
DTYPES = ("bfloat16", "float32")
RANK, GROUPS, SENTENCES, TOKENS, CONDITION = 8, 3, 4, 40, 64


class Usage(NamedTuple):
    """What one compiled kernel takes: per thread, and ``shared`` per program, in bytes."""

    kernel: str
    case: str
    registers: int
    spilled: int  # bytes on NVIDIA, registers on AMD
    shared: int
    warps: int


class _Driver:
    """Stands for a GPU that is not there."""

    def __init__(self, name: str):
        from triton.backends.compiler import GPUTarget

        self._index = list(TARGETS).index(name)
        self._target = GPUTarget(*TARGETS[name][0])

    def get_current_target(self):
        return self._target

    def get_current_device(self) -> int:
        return self._index  # Triton keeps what it compiled by device

    def get_current_stream(self, device) -> int:
        return 0


@contextlib.contextmanager
def compiling(target: str) -> Iterator[list]:
    """Compile for ``target`` whatever the kernels launch; the list gets (kernel's name, compiled kernel)."""
    import triton
    from hyperloader.kernels import _launch

    compiled, launch, architecture = [], _launch.launch, _launch.architecture
    vendor, processors = TARGETS[target][0][0], TARGETS[target][1]

    def compile_only(kernel, grid, *arguments, **constants):
        compiled.append((kernel.__name__, kernel.warmup(*arguments, grid=grid, **constants)))

    _launch.launch = compile_only
    _launch.architecture = lambda device: _launch.Architecture(vendor, processors)
    triton.runtime.driver.set_active(_Driver(target))
    try:
        yield compiled
    finally:
        _launch.launch, _launch.architecture = launch, architecture
        triton.runtime.driver.reset_active()


def cases(model: Model, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Calls of every operator, forward and backward, at the sizes of ``model``."""
    from hyperloader.kernels import adapter

    hidden, bottleneck = model.hidden, model.hidden // 32

    def empty(*shape, dtype=dtype):
        return torch.zeros(shape, dtype=dtype)

    def run_adapter(norm: str, grouped: bool):
        stack = (GROUPS,) if grouped else ()
        x, group = empty(SENTENCES, TOKENS, hidden), torch.zeros(SENTENCES, dtype=torch.long) if grouped else None
        weights = [empty(*stack, bottleneck, hidden), empty(*stack, bottleneck), empty(*stack, hidden, bottleneck)]
        weights.append(empty(*stack, hidden))
        pairs = {"post": 1, "pre": 1, "both": 2, "none": 0}[norm]
        norms = [empty(*stack, hidden) if i < 2 * pairs else None for i in range(4)]
        rest = (*weights, *norms, group, norm, "gelu_new", 1e-5)
        _, pre = adapter.forward(x, *rest)
        adapter.backward(x, x, pre, *rest)

    return {
        **{f"adapter, {norm}": lambda norm=norm: run_adapter(norm, False) for norm in ("post", "pre", "both", "none")},
        "adapter, post, groups": lambda: run_adapter("post", True),
    }


def usage_of(name: str, case: str, compiled) -> Usage:
    """Registers and spills of a compiled kernel, as its binary states them."""
    shared, warps = compiled.metadata.shared, compiled.metadata.num_warps
    if "cubin" in compiled.asm:
        import triton

        tool = Path(triton.__file__).parent / "backends" / "nvidia" / "bin" / "cuobjdump"
        with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
            file.write(compiled.asm["cubin"])
            file.flush()
            shown = subprocess.run([tool, "-res-usage", file.name], capture_output=True, text=True, check=True).stdout
        registers, stack = (int(re.search(rf"{word}:(\d+)", shown)[1]) for word in ("REG", "STACK"))
        return Usage(name, case, registers, stack, shared, warps)
    text = compiled.asm["amdgcn"]
    count = {word: int(number) for word, number in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    registers, spilled = count["vgpr_count"], count["vgpr_spill_count"] + count["sgpr_spill_count"]
    return Usage(name, case, registers, spilled, shared, warps)


def report(targets=tuple(TARGETS), models=tuple(MODELS), dtypes=DTYPES, only: str = "") -> list[dict]:
    """Compile and measure; one row for every different compiled kernel."""
    rows, seen = [], set()
    for target in targets:
        for model in models:
            for dtype in dtypes:
                for case, call in cases(MODELS[model], getattr(torch, dtype)).items():
                    if only not in case:
                        continue
                    with compiling(target) as compiled:
                        call()
                    for name, kernel in compiled:
                        if (target, kernel.hash) not in seen:
                            seen.add((target, kernel.hash))
                            usage = usage_of(name, case, kernel)
                            rows.append({"target": target, "model": model, "dtype": dtype, **usage._asdict()})
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_report", description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=DTYPES, default=list(DTYPES))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--output", type=Path, help=f"JSON file to write, e.g. {DEFAULT_OUTPUT}")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    rows = report(options.targets, options.models, options.dtypes, options.only)
    for row in rows:
        print("  ".join(str(value).ljust(10) for value in row.values()))
    if options.output:
        import triton

        result = {"versions": {"torch": torch.__version__, "triton": triton.__version__}, "kernels": rows}
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
