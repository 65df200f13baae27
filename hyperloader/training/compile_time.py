"""How long this process has spent compiling, which no step's time should hold."""

import time
from typing import Any


class _Spent:
    seconds = 0.0
    since = 0.0
    depth = 0  # one compilation may begin inside another

    def begin(self, *_: Any) -> None:
        if self.depth == 0:
            self.since = time.perf_counter()
        self.depth += 1

    def end(self, *_: Any) -> None:
        self.depth -= 1
        if self.depth == 0:
            self.seconds += time.perf_counter() - self.since


_SPENT = _Spent()


def count_compiling() -> None:
    """Count what is compiled from now on; from torch 2.7 on backwards too, which are compiled when they first run."""
    from torch._dynamo.callback import callback_handler

    if _SPENT.begin not in callback_handler.start_callbacks:  # which torch._dynamo.reset() empties
        callback_handler.register_start_callback(_SPENT.begin)
        callback_handler.register_end_callback(_SPENT.end)


def seconds_compiling() -> float:
    """Seconds that have been counted."""
    return _SPENT.seconds


def seconds_without_compiling() -> float:
    """``time.perf_counter()``, of a clock that stands still while something is compiled."""
    return time.perf_counter() - _SPENT.seconds
