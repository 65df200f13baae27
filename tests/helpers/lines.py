"""How much Python a call runs: its lines, which no other load on the machine changes."""

import sys
from collections.abc import Callable
from typing import Any


def lines_of(call: Callable[..., Any], *arguments: Any, **options: Any) -> int:
    """Lines that ``call`` runs, each as often as it is run."""
    count, before = 0, sys.gettrace()

    def trace(frame: Any, event: str, argument: Any) -> Any:
        nonlocal count
        count += event == "line"
        return trace

    sys.settrace(trace)
    try:
        call(*arguments, **options)
    finally:
        sys.settrace(before)
    return count
