"""The computed bounds as JSON, and their tables in docs/cuda.md."""

import json
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from bench import document, results
from bench.bounds import cuda, measured, triton
from bench.bounds.device import A100, H100, blocks_at_once
from bench.bounds.launches import MODELS, TOKENS, Call, Launch, Model, missed, total
from bench.budget import Goal
from hyperloader.checkpoints.atomic import write_text

KERNELS = results.ROOT / "kernels"
BEFORE, NOW = KERNELS / "bounds-before.json", KERNELS / "bounds.json"
MARK, MEASURED = "bounds", "measured"
NOTE = "computed from the sources, never measured"
BACKENDS = {"cuda": "CUDA C++", "triton": "Triton"}
GOALS = {  # of an operator: at which numbers of tokens, and what
    "adapter forward": ((16384,), Goal(80, True, "%")),
    "adapter backward": ((16384,), Goal(70, True, "%")),
    "lora_linears forward": ((16384, 4096), Goal(1.1)),
    "lora_linears backward": ((16384, 4096), Goal(1.1)),
    "generate forward": ((0,), Goal(1.5)),
    "generate backward": ((0,), Goal(1.5)),
}
_OF_OTHERS = (16384, 8, 0)  # tokens that are shown of the other models


def write(output: Path = NOW, page: Path = document.CUDA) -> None:
    """Compute every bound, write the JSON and put the tables between the marks of ``page``."""
    document.check(page, MARK)
    document.check(page, MEASURED)
    rows = computed()
    lines = ",\n".join(f"  {json.dumps(row)}" for row in rows)  # one call a line, so that changes can be read
    text = f'{{"note": "{NOTE}", "gpu": {json.dumps(asdict(H100))}, "calls": [\n{lines}\n]}}\n'
    write_text(output, text)
    put(page)
    put_measured(page)


def computed() -> list[dict[str, Any]]:
    """Every call's bound and what it is made of."""
    return [_row(call) for call in every_call()]


def put(page: Path = document.CUDA) -> None:
    """Put the tables of both JSON files between the marks of ``page``."""
    document.put(page, MARK, tables(read(BEFORE), read(NOW)))


def put_measured(page: Path = document.CUDA) -> None:
    """Put what every GPU in bench/results has measured between the marks of ``page``."""
    floors = {
        (call.backend, call.operator, call.model, call.tokens): sum(launch.memory for launch in call.floor)
        for call in every_call()
    }
    found = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(results.ROOT.glob("*/kernels.json"))]
    document.put(page, MEASURED, "\n\n".join(measured.page(content, read(NOW), floors) for content in found))


def read(path: Path) -> list[dict[str, Any]]:
    """The calls of a JSON file."""
    return json.loads(path.read_text(encoding="utf-8"))["calls"]


def every_call(models: tuple[Model, ...] = MODELS) -> Iterator[Call]:
    """Of both backends, every model and number of tokens."""
    for backend in (cuda, triton):
        for model in models:
            for tokens in TOKENS:
                yield from backend.calls(model, tokens)
            yield from backend.calls_without_tokens(model)


def _row(call: Call) -> dict[str, Any]:
    several = zip(call.launches, missed(call.launches, H100), strict=True)
    own = [(launch, bytes_missed) for launch, bytes_missed in several if launch.kernel != "cuBLAS"]
    return {
        "backend": call.backend, "operator": call.operator, "model": call.model, "tokens": call.tokens,
        "launches": len(own), "memory_bytes": round(sum(launch.memory for launch, _ in own)),
        "cache_bytes": round(sum(launch.cache for launch, _ in own)),
        "operations": round(sum(launch.tensor + launch.lanes for launch, _ in own)),
        "bound_s": _rounded(call.seconds(H100)), "floor_s": _rounded(total(call.floor, H100)),
        "kernels": [_kernel(call, *one) for one in own],
    }  # fmt: skip


def _kernel(call: Call, launch: Launch, bytes_missed: float) -> dict[str, Any]:
    by, seconds = max(launch.seconds(H100, bytes_missed).items(), key=lambda item: item[1])
    found = {"kernel": launch.kernel, "blocks": launch.blocks, "limited_by": by, "bound_s": _rounded(seconds)}
    for gpu in (A100, H100):
        used = _resources(call, launch, gpu.architecture)
        if used is not None:
            registers, shared = used
            at_once = blocks_at_once(gpu, launch.threads, registers, shared)
            found[f"sm_{gpu.architecture}"] = {
                "registers": registers, "shared": shared, "blocks_at_once": at_once,
                "occupancy": round(at_once * launch.threads / gpu.threads, 3),
            }  # fmt: skip
    return found


def _resources(call: Call, launch: Launch, architecture: str) -> tuple[int, int] | None:
    """Registers of a thread and bytes of shared memory of a block as compiled; None where no report has the kernel."""
    if call.backend == "cuda":
        for row in _compiled("cuda"):
            if row["name"] == launch.kernel and row["architecture"] == architecture:
                return row["registers"], row["static_shared"] + launch.dynamic_shared
        return None
    for row in _compiled("triton"):
        same = row["target"] == f"sm_{architecture}" and row["dtype"] == "bfloat16" and "groups" not in row["case"]
        if same and row["model"] == call.model and row["kernel"] == launch.kernel:
            return row["registers"], row["shared"]
    return None


def _compiled(backend: str) -> list[dict[str, Any]]:
    return json.loads((KERNELS / f"{backend}.json").read_text(encoding="utf-8"))["kernels"]


def _rounded(seconds: float) -> float:
    return float(f"{seconds:.4g}")


def value(row: dict[str, Any]) -> tuple[float, str]:
    """What the goals are about, and its unit: an adapter's share of a copy's bandwidth, else time over the floor's."""
    if row["operator"].startswith("adapter"):
        return 100 * row["floor_s"] / row["bound_s"], "%"
    return row["bound_s"] / row["floor_s"], "×"


def tables(before: list[dict[str, Any]], now: list[dict[str, Any]]) -> str:
    """Markdown: t5-base for each backend, then everything else to unfold, then what is compiled."""
    parts = []
    for backend, name in BACKENDS.items():
        pairs = [(_same(before, row), row) for row in now if row["backend"] == backend]
        first = [pair for pair in pairs if pair[1]["model"] == MODELS[0].name]
        parts += [f"**{name}, {MODELS[0].name}, {NOTE}**", _table(first, of_model=False)]
        rest = [pair for pair in pairs if pair[1]["model"] != MODELS[0].name and pair[1]["tokens"] in _OF_OTHERS]
        title = f"<details><summary>{name}, other models, {NOTE}</summary>"
        parts += [title, _table(rest, of_model=True), "</details>"]
    parts += ["<details><summary>Registers, shared memory and blocks at once, compiled</summary>", _compiled_table(now)]
    return "\n\n".join([*parts, "</details>"])


def _same(rows: list[dict[str, Any]], wanted: dict[str, Any]) -> dict[str, Any]:
    keys = ("backend", "operator", "model", "tokens")
    return next(row for row in rows if all(row[key] == wanted[key] for key in keys))


def _table(pairs: list[tuple[dict[str, Any], dict[str, Any]]], of_model: bool) -> str:
    lines = [
        f"| operator |{' model |' if of_model else ''} tokens | launches | second cache, MB | bound, µs | "
        "of a copy, or over the floor | goal |",
        f"|---|{'---|' if of_model else ''}---:|---:|---:|---:|---:|---:|",
    ]
    for before, now in pairs:
        at: tuple[int, ...]
        at, goal = GOALS.get(now["operator"], ((), None))
        cells = [now["operator"], *([now["model"]] if of_model else []), f"{now['tokens'] or ''}"]
        cells += [
            _change(before, now, lambda row: str(row["launches"])),
            _change(before, now, lambda row: _three_digits(row["cache_bytes"] / 1e6)),
            _change(before, now, lambda row: _three_digits(row["bound_s"] * 1e6)),
            _change(before, now, _shown),
            _verdict(goal, now) if goal is not None and now["tokens"] in at else "",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _change(before: dict[str, Any], now: dict[str, Any], show: Any) -> str:
    old, new = show(before), show(now)
    return new if old == new else f"{old} → {new}"


def _three_digits(number: float) -> str:
    return f"{number:.0f}" if number >= 100 else f"{number:.3g}"


def _shown(row: dict[str, Any]) -> str:
    number, unit = value(row)
    return f"{number:.0f} %" if unit == "%" else f"{number:.2f}×"


def _verdict(goal: Goal, row: dict[str, Any]) -> str:
    return f"{goal}{'' if goal.met(value(row)[0]) else ' **not reached**'}"


def _compiled_table(rows: list[dict[str, Any]]) -> str:
    lines = [
        "| kernel at t5-base, 16384 tokens | registers, sm_80 / sm_90 | shared bytes of a block | "
        "blocks at once, sm_80 / sm_90 |",
        "|---|---:|---:|---:|",
    ]
    seen = set()
    for row in rows:
        for kernel in row["kernels"] if row["model"] == MODELS[0].name and row["tokens"] in (0, TOKENS[0]) else []:
            key = (row["backend"], kernel["kernel"], kernel.get("sm_90", {}).get("shared"))
            if "sm_80" not in kernel or "sm_90" not in kernel or key in seen:
                continue
            seen.add(key)
            old, new = kernel["sm_80"], kernel["sm_90"]
            shared = str(new["shared"]) if old["shared"] == new["shared"] else f"{old['shared']} / {new['shared']}"
            lines.append(f"| `{kernel['kernel']}` | {old['registers']} / {new['registers']} | {shared} | "
                         f"{old['blocks_at_once']} / {new['blocks_at_once']} |")  # fmt: skip
    return "\n".join(lines)
