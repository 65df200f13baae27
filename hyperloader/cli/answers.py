"""What ``predict`` writes: one JSON object a sentence."""

import json
import math
from collections.abc import Sequence

from hyperloader.cli.inputs import Input
from hyperloader.data.bio import spans

_DIGITS = 4  # of a score


def answer(given: Input, task: str, tags: Sequence[str], probabilities: Sequence[float] | None) -> dict:
    """The answer to one sentence, with every key of the input.

    ``line``, ``task``, ``text``, ``tokens``, ``tags``; ``offsets``: first character and character after the last of
    every word in ``text``; ``spans``: label, start, end and text of each, and its score where the model labels words:
    the product of its words' probabilities to the power of 1 / words. An input's own value under one of these names is
    kept under ``input`` where it differs.
    """
    found = {
        "line": given.line,
        "task": task,
        "text": given.text,
        "tokens": given.tokens,
        "tags": list(tags),
        "offsets": [list(one) for one in given.offsets],
        "spans": [_span(given, label, first, after, probabilities) for label, first, after in spans(tags)],
    }
    kept = {key: value for key, value in given.given.items() if key not in found}
    hidden = {key: value for key, value in given.given.items() if key in found and value != found[key]}
    if hidden and "input" in kept:
        hidden["input"] = kept.pop("input")
    return {**found, **kept, **({"input": hidden} if hidden else {})}


def _span(given: Input, label: str, first: int, after: int, probabilities: Sequence[float] | None) -> dict:
    start, end = given.offsets[first][0], given.offsets[after - 1][1]
    span = {"label": label, "start": start, "end": end, "text": given.text[start:end]}
    if probabilities is not None:
        span["score"] = round(math.prod(probabilities[first:after]) ** (1 / (after - first)), _DIGITS)
    return span


def encoded(answer: dict) -> bytes:
    """The answer as a line of UTF-8. Half a surrogate pair, which an input may hold, is escaped as it was there."""
    try:
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(answer).encode() + b"\n"
