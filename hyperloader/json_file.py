"""Reading JSON files that anybody may have written: whatever is wrong with one is one ``ValueError``."""

import json
from collections import Counter
from pathlib import Path
from typing import Any

from hyperloader.validation import is_finite, shown

_MAX_BYTES = 64 << 20
_MAX_DEPTH = 32


def read_json(path: str | Path, what: str = "a JSON file") -> dict:
    """The JSON object in the file ``path``.

    Raises:
        FileNotFoundError: no such file.
        ValueError: not UTF-8, no JSON, no object, a key that stands twice, a number that is NaN or infinite, more than
            64 MiB or 32 levels. Begins with ``path``, and says that it is not ``what``.
    """
    path = Path(path)
    size = path.stat().st_size
    if size > _MAX_BYTES:
        raise ValueError(f"{path}: not {what}: must have at most {_MAX_BYTES >> 20} MiB, got {size >> 20}")
    try:
        values = json.loads(path.read_text(encoding="utf-8"), object_pairs_hook=without_repeats)
    except RecursionError:
        raise ValueError(f"{path}: not {what}: must be nested at most {_MAX_DEPTH} deep, got more") from None
    except ValueError as error:
        raise ValueError(f"{path}: not {what}: {error}") from error
    if not isinstance(values, dict):
        raise ValueError(f"{path}: not {what}: must hold one JSON object, got {shown(values)}")
    _check(values, path, what)
    return values


def without_repeats(pairs: list[tuple[str, Any]]) -> dict:
    """``object_pairs_hook`` of ``json.loads``; raises ``ValueError`` for a key that stands twice in one object."""
    values = dict(pairs)
    if len(values) < len(pairs):
        ((name, times),) = Counter(name for name, _ in pairs).most_common(1)
        raise ValueError(f"the key {shown(name)} must stand once, got it {times} times")
    return values


def _check(values: dict, path: Path, what: str) -> None:
    """Raise ``ValueError``, naming the field, for what is nested too deep and for numbers that are not finite."""
    waiting: list[tuple[str, int, Any]] = [("", 0, values)]
    while waiting:
        field, depth, value = waiting.pop()
        if depth > _MAX_DEPTH:
            raise ValueError(f"{path}: not {what}: must be nested at most {_MAX_DEPTH} deep, got more in {field:.60}")
        if isinstance(value, dict):
            waiting += [(f"{field}.{name}" if field else name, depth + 1, one) for name, one in value.items()]
        elif isinstance(value, list):
            waiting += [(field, depth + 1, one) for one in value]
        elif isinstance(value, float) and not is_finite(value):
            raise ValueError(f"{path}: not {what}: {field} must be finite, got {value}")
