"""Time the calls that there are bounds for on a GPU, whole and by kernel, and put the times beside the bounds.

    python -m bench.bounds.measured --output FILE [--device cuda] [--tiny]

``--tiny`` takes sizes for which nothing is said, to see that everything runs, also on a CPU.
"""

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

from bench import command, machine
from bench.bounds.launches import CONDITION, EMBEDDING, MODELS, NETWORK, TOKENS, Model
from bench.clock import DEVICE, sampler
from bench.floor import measure_floor
from hyperloader.checkpoints.atomic import write_text
from hyperloader.ops import native, use_backend, why_missing

TINY = (Model("tiny", 32, 2, 2, (32, 16)),)
NAMESPACES = {"cuda": ("native", "hyperloader"), "triton": ("triton", "hyperloader_triton")}
_REPEATS, _PROFILED = 15, 3


def calls(namespace: str, model: Model, tokens: int, device: torch.device) -> dict[str, Callable[[], object]]:
    """The operators of ``namespace`` as the bounds have them: forward and backward apart, bfloat16, one set of weights.

    ``tokens`` of 0 stands for those that read none.
    """
    operators = getattr(torch.ops, namespace)
    return _of_tokens(operators, model, tokens, device) if tokens else _without_tokens(operators, model, device)


def _of_tokens(operators: Any, model: Model, tokens: int, device: torch.device) -> dict[str, Callable[[], object]]:
    def random(*shape: int) -> Tensor:
        return torch.randn(*shape, device=device, dtype=torch.bfloat16) / shape[-1] ** 0.5

    hidden, bottleneck = model.hidden, model.bottleneck
    x, grad = random(tokens, hidden), random(tokens, hidden)
    shapes = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,), (hidden,), (hidden,)]
    weights = [random(*shape) for shape in shapes]
    rest = (*weights, None, None, None, "post", "gelu_new", 1e-5)
    pre = operators.adapter(x, *rest)[1]
    frozen = [random(out, hidden) for out in model.outs]
    factors = [random(model.rank, hidden) for _ in model.outs], [random(out, model.rank) for out in model.outs]
    grads, needed = [random(tokens, out) for out in model.outs], [True, False, False, True, True]
    return {
        "adapter forward": lambda: operators.adapter(x, *rest),
        "adapter backward": lambda: operators.adapter_backward(grad, x, pre, *rest),
        "lora_linears forward": lambda: operators.lora_linears(x, frozen, [], *factors, None, 1.0),
        "lora_linears backward": lambda: operators.lora_linears_backward(
            grads, x, frozen, *factors, None, 1.0, needed
        ),
    }  # fmt: skip


def _without_tokens(operators: Any, model: Model, device: torch.device) -> dict[str, Callable[[], object]]:
    def random(*shape: int, dtype: torch.dtype = torch.float32) -> Tensor:
        return (torch.randn(*shape, device=device) / shape[-1] ** 0.5).to(dtype)

    weights, biases = [random(head, CONDITION) for head in model.heads], [random(head) for head in model.heads]
    rows, has = random(model.rows, CONDITION), [True] * len(weights)
    grads = [random(model.rows, head, dtype=torch.bfloat16) for head in model.heads]
    kinds = 2 * model.rows // model.layers  # of sites: adapters and LoRA
    embeddings = [random(count, EMBEDDING) for count in (1, model.layers, kinds)]
    indices = [torch.arange(count, device=device) for count in (model.layers, kinds)]
    shapes = [(NETWORK, 3 * EMBEDDING), (NETWORK,), (CONDITION, NETWORK), (CONDITION,), (CONDITION,), (CONDITION,)]
    network = (*embeddings, *indices, *(random(*shape) for shape in shapes), [1.0, 1.0, 1.0], 1e-6)
    grad = random(kinds, model.layers, 1, CONDITION)
    return {
        "generate forward": lambda: operators.generate(rows, weights, biases, has, torch.bfloat16),
        "generate backward": lambda: operators.generate_backward(grads, rows, weights, has),
        "condition forward": lambda: operators.condition(*network),
        "condition backward": lambda: operators.condition_backward(grad, *network),
    }


def measure(models: tuple[Model, ...], all_tokens: tuple[int, ...], device: torch.device) -> Iterator[dict[str, Any]]:
    """Time every call: the median from event to event with an empty second cache, of the host until it returns.

    A call that raises has its error in place of times. The kernels' own times come in a second turn, which gives every
    row once more: from its first use on PyTorch's profiler delays every launch.
    """
    sample = sampler(DEVICE, device)
    measured = []
    for key, call in _all(models, all_tokens, device):
        try:
            times = sorted(sample(call, 1) for _ in range(_REPEATS + 2))
            row = key | {"seconds": times[_REPEATS // 2], "host_seconds": _host_seconds(call, device), "kernels": {}}
        except Exception as error:  # whatever a kernel that does not fit raises
            row = key | {"error": f"{type(error).__name__}: {error}"}
        measured.append(row)
        yield row
    for row, (_, call) in zip(measured, _all(models, all_tokens, device), strict=True):
        if "error" not in row:
            yield row | {"kernels": _kernels(call, device)}


def _all(
    models: tuple[Model, ...], all_tokens: tuple[int, ...], device: torch.device
) -> Iterator[tuple[dict[str, Any], Callable[[], object]]]:
    """What identifies a call, and the call; its tensors last until the next size."""
    for backend, (name, namespace) in NAMESPACES.items():
        if _missing(name, device):
            continue
        for model in models:
            for tokens in (*all_tokens, 0):
                with torch.no_grad(), use_backend(name):
                    for operator, call in calls(namespace, model, tokens, device).items():
                        yield {"backend": backend, "operator": operator, "model": model.name, "tokens": tokens}, call


def _missing(backend: str, device: torch.device) -> bool:
    cuda = native.available and native.extension().build_info()["cuda"]
    return why_missing(backend) is not None or (backend == "native" and device.type == "cuda" and not cuda)


def _host_seconds(call: Callable[[], object], device: torch.device) -> float:
    """Seconds until a call returns, which on a GPU is before its work is done."""
    wait = torch.cuda.synchronize if device.type == "cuda" else lambda: None
    times = []
    for _ in range(_REPEATS):
        wait()
        began = time.perf_counter()
        call()
        times.append(time.perf_counter() - began)
    wait()
    return sorted(times)[_REPEATS // 2]


def _kernels(call: Callable[[], object], device: torch.device) -> dict[str, float]:
    """Seconds of every kernel of ours in a call, by its name without template arguments; none on a CPU."""
    if device.type != "cuda":
        return {}
    with profile(activities=[ProfilerActivity.CUDA]) as recording:
        for _ in range(_PROFILED):
            call()
        torch.cuda.synchronize(device)
    found: dict[str, float] = {}
    for event in recording.events():
        if event.device_type == torch.autograd.DeviceType.CUDA:
            name = kernel_name(event.name)
            found[name] = found.get(name, 0.0) + event.time_range.elapsed_us() * 1e-6 / _PROFILED
    return found


def kernel_name(name: str) -> str:
    """The function's own name: ``adapter_kernel`` of ``void a::(anonymous namespace)::adapter_kernel<float>(A<B>)``."""
    own = re.split(r"[<(]", name.replace("(anonymous namespace)", ""))[0]
    return re.split(r"::|[. ]", own)[-1]


def table(bounds: list[dict[str, Any]], measured: list[dict[str, Any]]) -> str:
    """Text: every call that was measured over its bound, and below it its kernels over theirs."""
    lines = [f"{'measured over computed bound':44} {'tokens':>7} {'µs':>10} {'bound':>10} {'over':>6}"]
    for row in measured:
        bound = next((one for one in bounds if all(one[key] == row[key] for key in _KEYS)), None)
        if bound is None or "error" in row:
            continue
        title = f"{row['backend']}, {row['operator']}, {row['model']}"
        lines.append(_line(title, row["seconds"], bound["bound_s"], f"{row['tokens'] or ''}"))
        least: dict[str, float] = {}
        for kernel in bound["kernels"]:
            name = kernel_name(kernel["kernel"])
            least[name] = least.get(name, 0.0) + kernel["bound_s"]
        for name, seconds in row["kernels"].items():
            lines.append(_line(f"    {name}", seconds, least.get(name), ""))
        if row["kernels"]:
            lines += [f"    {name}: has a bound, did not run" for name in least if name not in row["kernels"]]
    return "\n".join(lines)


_KEYS = ("backend", "operator", "model", "tokens")
_NAMES = {"cuda": "CUDA C++", "triton": "Triton"}
_FROZEN = "nvjet"  # cuBLAS's kernels of frozen products begin so


def page(content: dict[str, Any], bounds: list[dict[str, Any]], floors: dict[tuple, float]) -> str:
    """Markdown: every call of the first model, beside its bound and beside what cannot be avoided on this GPU.

    That is a copy of the ``floors`` bytes of a call, by its keys, at the rate measured in the same run; for LoRA the
    frozen products' own kernels.
    """
    rate, device = content["floor"]["bytes_per_s"], content["hardware"]["device"]
    lines = [
        f"**{device}, bfloat16, {MODELS[0].name}, one set of weights; copies at {rate / 1e12:.2f} TB/s**\n",
        "| backend | operator | tokens | µs | over its bound | of a copy, or over the frozen products | host, µs | "
        "kernels alone, µs |",
        "|---|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in content["calls"]:
        key = tuple(row[one] for one in _KEYS)
        bound = next((one for one in bounds if all(one[name] == row[name] for name in _KEYS)), None)
        if row["model"] != MODELS[0].name or bound is None or "error" in row:
            continue
        frozen = sum(seconds for name, seconds in row["kernels"].items() if name.startswith(_FROZEN))
        beside = f"{row['seconds'] / frozen:.2f}×" if frozen else f"{100 * floors[key] / rate / row['seconds']:.0f} %"
        over = row["seconds"] / bound["bound_s"]
        lines.append(
            f"| {_NAMES[row['backend']]} | {row['operator']} | {row['tokens'] or ''} | {row['seconds'] * 1e6:.1f} | "
            f"{over:.1f}× | {beside} | {row['host_seconds'] * 1e6:.0f} | "
            f"{sum(row['kernels'].values()) * 1e6:.1f} |"
        )
    return "\n".join(lines)


def _line(title: str, seconds: float, bound: float | None, tokens: str) -> str:
    of_bound = f"{bound * 1e6:10.2f} {seconds / bound:6.2f}" if bound else f"{'':>17}"
    return f"{title[:44]:44} {tokens:>7} {seconds * 1e6:10.2f} {of_bound}".rstrip()


def main() -> int:
    """Measure and write, after every call again, so that a run that is cut short leaves what it has."""
    parser = argparse.ArgumentParser(prog="python -m bench.bounds.measured", description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda", help="cpu or cuda (the default)")
    parser.add_argument("--output", type=Path, required=True)
    parser.add_argument("--tiny", action="store_true")
    given = parser.parse_args()
    device = command.device("--device", given.device)
    rows: list[dict[str, Any]] = []
    head = {
        "hardware": machine.hardware(device), "versions": machine.versions(), "commit": machine.commit(),
        "floor": measure_floor(device, torch.bfloat16),
    }  # fmt: skip
    for row in measure(TINY if given.tiny else MODELS, (8,) if given.tiny else TOKENS, device):
        same = next((i for i, one in enumerate(rows) if all(one[key] == row[key] for key in _KEYS)), len(rows))
        known = same < len(rows)
        rows[same : same + 1] = [row]
        write_text(given.output, json.dumps({**head, "calls": rows}, indent=1) + "\n")
        if known:
            continue
        found = f"{row['seconds'] * 1e6:10.2f} µs" if "error" not in row else row["error"]
        print(f"{row['backend']:8} {row['operator']:22} {row['model']:12} {row['tokens']:6} {found}", flush=True)
    return 0 if rows and not any("error" in row for row in rows) else 1


if __name__ == "__main__":
    sys.exit(command.run(main))
