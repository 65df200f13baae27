"""Messages about values: ``<argument> must <requirement>, got <value>``, with the nearest known name."""

import difflib
import math
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

LARGEST = 2**31 - 1  # of whole numbers that are sizes or counts
FEW = 40  # names that a message lists; of more it tells their number and the nearest
A_FEW = 5  # the same, of what is long and not to be chosen from, as layers
_LONGEST, _LONGEST_VALUE = 60, 80  # characters of a name in a list, and of a value


def did_you_mean(name: object, known: Iterable) -> str | None:
    """``did you mean 'x'?`` with the one of ``known`` that is spelled most like ``name``, of many names with the three
    nearest; None if none is near."""
    names = [str(one) for one in known]
    close = difflib.get_close_matches(shown(name).strip("'"), names, n=1 if len(names) <= FEW else 3)
    if not close:
        return None
    *others, last = (repr(shortened(one)) for one in close)
    return f"did you mean {', '.join(others)} or {last}?" if others else f"did you mean {last}?"


def nearest(name: object, known: Iterable) -> str:
    """``did_you_mean`` as the end of a message: empty, or after a semicolon."""
    hint = did_you_mean(name, known)
    return f"; {hint}" if hint else ""


def listed(names: Iterable, kind: str = "names", longest: int = _LONGEST, few: int = FEW) -> str:
    """``a, b, c``; of more than ``few`` names ``10,000 tasks such as a, b, c``, where ``kind`` is ``tasks``. Of a name
    at most ``longest`` characters are shown."""
    names = [str(one) for one in names]
    first = ", ".join(shortened(name, longest) for name in (names if len(names) <= few else names[:3]))
    return first if len(names) <= few else f"{len(names):,} {kind} such as {first}"


def held(record: Iterable) -> str:
    """The keys that a user's object has, or the columns."""
    return listed(map(shown, record), "keys") or "nothing"


def shown(value: object) -> str:
    """``repr`` for a message: short, whatever the value is."""
    try:
        text = repr(value)
    except (RecursionError, ValueError):  # nested without end; a number of more digits than Python prints
        text = f"a {type(value).__name__} too large to show"
    return shortened(text, _LONGEST_VALUE)


def check_choice(argument: str, value: Any, known: Collection, kind: str = "names") -> None:
    """Raise ``ValueError`` unless ``value`` is one of ``known``; ``kind`` as in ``listed``."""
    if value not in known:
        raise ValueError(f"{argument} must be one of {listed(known, kind)}, got {shown(value)}{nearest(value, known)}")


def check_key(what: str, key: Any, known: Collection) -> None:
    """Raise ``ValueError`` naming the nearest of ``known`` unless ``key`` is one of them."""
    if key in known:
        return
    near, count = did_you_mean(key, known), f" There are {len(known):,}" if len(known) > FEW else ""
    raise ValueError(f"unknown {what} {shown(key)}; {f'{near}{count}' if near else f'known are {listed(known)}'}")


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


def check_number(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a number."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{argument} must be a number, got {shown(value)}")


def check_positive(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` unless it is positive and finite."""
    check_number(argument, value)
    if not (is_finite(value) and value > 0):
        raise ValueError(f"{argument} must be positive and finite, got {shown(value)}")


def check_share(argument: str, value: Any) -> None:
    """Raise ``TypeError`` unless ``value`` is a number, ``ValueError`` unless from 0 on and below 1."""
    check_number(argument, value)
    if not 0 <= value < 1:
        raise ValueError(f"{argument} must be at least 0 and below 1, got {shown(value)}")


def check_names(argument: str, values: Any) -> tuple[str, ...]:
    """``values`` as a tuple; raises ``TypeError`` unless they are a list of strings, ``ValueError`` for one that is
    there twice."""
    if isinstance(values, str) or not isinstance(values, Sequence):
        raise TypeError(f"{argument} must be a list of strings, got {shown(values)}")
    for value in values:
        if not isinstance(value, str):
            raise TypeError(f"{argument} must be a list of strings, got {shown(value)} in it")
    if len(set(values)) < len(values):
        value, times = Counter(values).most_common(1)[0]
        raise ValueError(f"{argument} must be distinct, got {shown(value)} {times} times")
    return tuple(values)


@contextmanager
def naming(where: object, kind: type[ValueError] = ValueError) -> Iterator[None]:
    """Inside the block, what is wrong with a value is raised as a ``kind`` whose message begins with ``where``."""
    try:
        yield
    except (TypeError, ValueError) as error:
        raise kind(f"{where}: {error}") from error


def is_finite(value: float) -> bool:
    """Whether a number is finite as a float: an ``int`` can be beyond all of them."""
    try:
        return math.isfinite(value)
    except OverflowError:
        return False


def shortened(name: str, longest: int = _LONGEST) -> str:
    """``name``, or its first ``longest`` characters and three dots."""
    return name if len(name) <= longest else f"{name[:longest]}..."
