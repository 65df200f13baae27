"""What ``auto`` takes on a GPU, filled into the package's table: from measured times, or from the bounds until then."""

import json
import math
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from bench.bounds import report
from bench.bounds.launches import CONDITION, MODELS
from bench.results import UsageError
from hyperloader.checkpoints.atomic import write_text
from hyperloader.ops import gpu_choice

COMPUTED = "computed, not measured"
BACKENDS = {"cuda": "native", "triton": "triton"}
OPERATORS = {"condition": "condition", "generate": "generate", "adapter": "adapter", "lora_linear": "lora_linears",
             "lora_linears": "lora_linears"}  # fmt: skip
# Seconds of the host for one call, forward or backward, where they were not measured: Python's autograd and launcher
# take several times as long as those in C++. The GPU waits for the host where it has less to do.
HOST = {"cuda": 10e-6, "triton": 50e-6}
_AHEAD = 0.95  # of the extension's time: where Triton's is below, it is chosen


def write(measured: Path | None = None, table: Path = gpu_choice.TABLE) -> None:
    """Fill ``table`` from the file ``measured`` of ``bench.bounds.measured``, or from the bounds."""
    if measured is None:
        source, rows = COMPUTED, report.read(report.NOW)
    else:
        try:
            found = json.loads(measured.read_text(encoding="utf-8"))
            source, rows = f"measured on {found['hardware']['device']}", found["calls"]
        except (OSError, ValueError, KeyError) as error:
            raise UsageError(
                f"FILE must be one that `python -m bench.bounds.measured` wrote, got {measured}: {error}"
            ) from error
    chosen = {name: pieces(rows, of) for name, of in OPERATORS.items()}
    lines = ",\n".join(f'  "{name}": {json.dumps(found)}' for name, found in chosen.items())
    write_text(table, f'{{\n "source": {json.dumps(source)},\n "operators": {{\n{lines}\n }}\n}}\n')


def pieces(rows: Iterable[dict[str, Any]], operator: str) -> list[list[Any]]:
    """[[most features, most tokens, backend], ...] of ``operator``: whoever takes less for both directions.

    The last of some features has no limit of tokens, and the very last none at all. A size that only one backend has is
    left out.

    Raises:
        UsageError: no size has both.
    """
    times: dict[int, dict[int, dict[str, float]]] = {}
    for row in rows:
        if row["operator"].rpartition(" ")[0] == operator:
            device = row.get("seconds", row.get("bound_s"))
            if "error" in row:  # it cannot compute that size
                device = math.inf
            needed = max(device, row.get("host_seconds", HOST[row["backend"]]))
            features, tokens = _size(row)
            at = times.setdefault(features, {}).setdefault(tokens, {})
            at[row["backend"]] = at.get(row["backend"], 0.0) + needed
    found: list[tuple[int | None, list[list[Any]]]] = []
    for features, by_tokens in sorted(times.items()):
        own = _by_tokens(by_tokens)
        if found and own and found[-1][1] == own:
            found.pop()
        if own:
            found.append((features, own))
    if not found:
        raise UsageError(f"FILE must hold times of {operator} with both backends, got none")
    found[-1] = (None, found[-1][1])
    return [[features, *piece] for features, own in found for piece in own]


def _by_tokens(times: dict[int, dict[str, float]]) -> list[list[Any]]:
    found: list[list[Any]] = []
    for tokens, of in sorted(times.items()):
        if len(of) < len(BACKENDS):
            continue
        backend = "triton" if of["triton"] < _AHEAD * of["cuda"] else "native"
        if found and found[-1][1] == backend:
            found[-1][0] = tokens
        else:
            found.append([tokens, backend])
    if found:
        found[-1][0] = None
    return found


def _size(row: dict[str, Any]) -> tuple[int, int]:
    """Features and rows of a call's first tensor; of ``condition`` it is the embedding of one task in every model."""
    model = next(one for one in MODELS if one.name == row["model"])
    if row["tokens"]:
        return model.hidden, row["tokens"]
    return CONDITION, 1 if row["operator"].startswith("condition") else model.rows
