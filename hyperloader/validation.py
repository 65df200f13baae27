"""Messages about values: ``<argument> must <requirement>, got <value>``, with the nearest known name."""

import difflib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from typing import Any

LARGEST = 2**31 - 1  # of whole numbers that are sizes or counts
_LISTED = 20


def did_you_mean(name: object, known: Iterable) -> str | None:
    """``did you mean 'x'?`` with the one of ``known`` that is spelled most like ``name``, None if none is."""
    close = difflib.get_close_matches(shown(name).strip("'"), [str(one) for one in known], n=1)
    return f"did you mean {close[0]!r}?" if close else None


def nearest(name: object, known: Iterable) -> str:
    """``did_you_mean`` as the end of a message: empty, or after a semicolon."""
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint else ""


def listed(names: Collection) -> str:
    """``names`` for a message, of very many the first ones."""
    first = ", ".join(str(name) for name in list(names)[:_LISTED])
    return first if len(names) <= _LISTED else f"{first} and {len(names) - _LISTED:,} more"


def shown(value: object, most: int = 80) -> str:
    """``repr`` for a message: short, whatever the value is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of more digits than Python prints
        text = f"a {type(value).__name__} too large to show"
    return text if len(text) <= most else f"{text[:most]}..."


def check_choice(argument: str, value: Any, known: Collection) -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``known``."""
    if value not in known:
        raise ValueError(f"{argument} must be one of {listed(known)}, got {shown(value)}{nearest(value, known)}")


def check_whole(argument: str, value: Any, least: int = 1, most: int = LARGEST) -> None:
    """Raise ``TypeError`` unless ``value`` is a whole number, ``ValueError`` unless from ``least`` to ``most``."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{argument} must be a whole number, got {shown(value)}")
    if value < least:
        raise ValueError(f"{argument} must be at least {least}, got {shown(value)}")
    if value > most:
        raise ValueError(f"{argument} must be at most {most}, got {shown(value)}")


def check_switch(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is True or False."""
    if not isinstance(value, bool):
        raise TypeError(f"{argument} must be True or False, got {shown(value)}")


def check_positive(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` unless it is positive and finite."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {shown(value)}")
    if not (is_finite(value) and value > 0):
        raise ValueError(f"{argument} must be positive and finite, got {shown(value)}")


def check_names(argument: str, values: Any) -> tuple[str, ...]:
    """``values`` as a tuple; raises ``TypeError`` unless they are a list of strings, ``ValueError`` for one that is
    there twice."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{argument} must be a list of strings, got {shown(values)}")
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a list of strings, got {shown(value)} in it")
    for value, times in Counter(values).items():
        if times > 1:
            raise ValueError(f"{argument} must be distinct, got {value!r} {times} times")
    return tuple(values)


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float: an ``int`` can be beyond all of them."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False
