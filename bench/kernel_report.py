"""Compile every Triton kernel ahead of time, and say what it takes of a GPU: registers, shared memory, spills.

    python -m bench.kernel_report [--targets sm_90 ...] [--models t5-base ...] [--dtypes bfloat16 ...] [--output FILE]

No GPU is needed: the operators are called as a model calls them, on the CPU, and what they launch is compiled instead.
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
TARGETS = {  # name → what Triton calls it, processors, bytes of shared memory that a program may have
    "sm_80": (("cuda", 80, 32), 108, 163 << 10),
    "sm_90": (("cuda", 90, 32), 132, 227 << 10),
    "gfx942": (("hip", "gfx942", 64), 304, 64 << 10),
}
DTYPES = ("bfloat16", "float32")
RANK, GROUPS, SENTENCES, TOKENS, CONDITION = 8, 3, 4, 40, 64


class Usage(NamedTuple):
    """What one compiled kernel takes: per thread, and ``shared`` per program, in bytes."""

    kernel: str
    case: str
    registers: int
    spilled: int  # bytes on NVIDIA, vector registers on AMD
    scalars_spilled: int  # on AMD: registers of a warp, kept in lanes of a vector register
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
    (vendor, *_), *rest = TARGETS[target]

    def compile_only(kernel, grid, *arguments, **constants):
        compiled.append(
            (
                f"{kernel.__module__.rpartition('.')[2].lstrip('_')}.{kernel.__name__}",
                kernel.warmup(*arguments, grid=grid, **constants),
            )
        )

    _launch.launch = compile_only
    _launch.architecture = lambda device: _launch.Architecture(vendor, *rest)
    triton.runtime.driver.set_active(_Driver(target))
    try:
        yield compiled
    finally:
        _launch.launch, _launch.architecture = launch, architecture


def cases(model: Model, dtype: torch.dtype) -> dict[str, Callable[[], None]]:
    """Calls of every operator, forward and backward, at the sizes of ``model``."""
    return {
        **{
            f"adapter, {norm}": lambda norm=norm: _adapter(model, dtype, norm)
            for norm in ("post", "pre", "both", "none")
        },
        "adapter, post, groups": lambda: _adapter(model, dtype, "post", GROUPS),
        "adapter, post, float32 weights": lambda: _adapter(model, dtype, "post", of_weights=torch.float32),
        "lora": lambda: _lora(model, dtype, 1),
        "lora of two, groups": lambda: _lora(model, dtype, 2, GROUPS),
        "generate": lambda: _generate(model, dtype),
        "condition": lambda: _condition(dtype),
    }


def _group(groups: int | None) -> Tensor | None:
    return None if groups is None else torch.zeros(SENTENCES, dtype=torch.long)


def _adapter(
    model: Model, dtype: torch.dtype, norm: str, groups: int | None = None, of_weights: torch.dtype | None = None
) -> None:
    from hyperloader.kernels import adapter
    from hyperloader.reference.groups import AdapterWeights

    hidden, bottleneck, stack = model.hidden, model.hidden // 32, () if groups is None else (groups,)
    shapes = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,)]
    given = {"post": 2, "pre": 2, "both": 4, "none": 0}[norm]
    weights = [torch.zeros(*stack, *shape, dtype=of_weights or dtype) for shape in shapes]
    norms = [torch.zeros(*stack, hidden, dtype=of_weights or dtype) if i < given else None for i in range(4)]
    x = torch.zeros(SENTENCES, TOKENS, hidden, dtype=dtype)
    rest = (AdapterWeights(*weights, *norms), _group(groups), norm, "gelu_new", 1e-5)
    _, pre = adapter.forward(x, *rest)
    adapter.backward(x, x, pre, *rest)


def _lora(model: Model, dtype: torch.dtype, count: int, groups: int | None = None) -> None:
    from hyperloader.kernels import lora_linear
    from hyperloader.reference.groups import LoraNeeded

    hidden, stack = model.hidden, () if groups is None else (groups,)
    x = torch.zeros(SENTENCES, TOKENS, hidden, dtype=dtype)
    weights = [torch.zeros(hidden, hidden, dtype=dtype)] * count
    low_rank = (
        [torch.zeros(*stack, RANK, hidden, dtype=dtype)] * count,
        [torch.zeros(*stack, hidden, RANK, dtype=dtype)] * count,
    )
    needed = LoraNeeded(x=True, weights=False, biases=False, lora_A=True, lora_B=True)
    lora_linear.forward(x, weights, [], *low_rank, _group(groups), 1.0)
    lora_linear.backward([x] * count, x, weights, *low_rank, _group(groups), 1.0, needed)


def _generate(model: Model, dtype: torch.dtype) -> None:
    from hyperloader.kernels import generate

    hidden, bottleneck = model.hidden, model.hidden // 32
    sizes = (hidden * bottleneck, bottleneck, hidden * bottleneck, hidden, hidden, hidden, RANK * hidden, hidden * RANK)
    has_bias = [size != RANK * hidden for size in sizes]
    weights = [torch.zeros(size, CONDITION) for size in sizes]  # parameters are float32, what they generate is dtype
    rows = torch.zeros(24, CONDITION)
    biases = [torch.zeros(size) if has else None for size, has in zip(sizes, has_bias, strict=True)]
    outs = generate.forward(rows, weights, biases, dtype)
    generate.backward(outs, rows, weights, has_bias)


def _condition(dtype: torch.dtype) -> None:
    from hyperloader.kernels import condition
    from hyperloader.reference.groups import ConditionWeights

    size, hidden = 64, 128
    shapes = [(hidden, 3 * size), (hidden,), (CONDITION, hidden), (CONDITION,), (CONDITION,), (CONDITION,)]
    embeddings = [torch.zeros(rows, size, dtype=dtype) for rows in (3, 12, 5)]
    parameters = [torch.zeros(shape, dtype=dtype) for shape in shapes]
    weights = ConditionWeights(*embeddings, torch.arange(12), torch.arange(2), *parameters)
    arguments = (weights, (1.0, 1.0, 1.0), 1e-6)
    out = condition.forward(*arguments)
    condition.backward(out, *arguments)


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
        return Usage(name, case, registers, stack, 0, shared, warps)
    text = compiled.asm["amdgcn"]
    count = {word: int(number) for word, number in re.findall(r"\.(\w+_count):\s+(\d+)", text)}
    spilled, scalars = count["vgpr_spill_count"], count["sgpr_spill_count"]
    return Usage(name, case, count["vgpr_count"], spilled, scalars, shared, warps)


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
                            print("  ".join(str(value).ljust(10) for value in rows[-1].values()), flush=True)
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.kernel_report", description=__doc__.splitlines()[0])
    parser.add_argument("--targets", nargs="+", choices=TARGETS, default=list(TARGETS))
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--dtypes", nargs="+", choices=(*DTYPES, "float16"), default=list(DTYPES))
    parser.add_argument("--only", default="", help="cases whose name contains this")
    parser.add_argument("--output", type=Path, help=f"JSON file to write, e.g. {DEFAULT_OUTPUT}")
    options = parser.parse_args()
    if os.environ.get("TRITON_INTERPRET") == "1":
        sys.exit("TRITON_INTERPRET is set: interpreted kernels cannot be compiled")
    rows = report(options.targets, options.models, options.dtypes, options.only)
    if options.output:
        import triton

        from hyperloader.checkpoints.atomic import write_text

        versions = {"torch": torch.__version__, "triton": triton.__version__}
        lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)  # one kernel a line, so that changes can be read
        options.output.parent.mkdir(parents=True, exist_ok=True)
        write_text(options.output, f'{{"versions": {json.dumps(versions)}, "kernels": [\n{lines}\n]}}\n')


if __name__ == "__main__":
    main()
