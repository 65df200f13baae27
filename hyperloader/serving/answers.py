"""What a task answers to an input: one JSON object."""

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION
from hyperloader.data.bio import spans
from hyperloader.data.kinds import CHAT, COMPLETION, Kind
from hyperloader.data.written_text import FIELDS
from hyperloader.serving.inputs import Input
from hyperloader.training.text_answers import TextAnswer

_DIGITS = 4  # of a score
_SIGNIFICANT = 6  # digits of a value
_KEYS = {CLASSIFICATION: ("label", "score", "scores"), MULTI_LABEL: ("label", "scores"), REGRESSION: ("value",)}


def answer(given: Input, task: str, tags: Sequence[str], probabilities: Sequence[float] | None) -> dict:
    """The answer to one sentence, with every key of the input.

    ``line``, ``task``, ``text``, ``tokens``, ``tags``; ``offsets``: first character and character after the last of
    every word in ``text``; ``spans``: label, start, end and text of each, and its score where the model labels words:
    the product of its words' probabilities to the power of 1 / words. An input's own value under one of these names is
    kept under ``input`` where it differs.
    """
    offsets = given.offsets or []
    found = {
        "line": given.line,
        "task": task,
        "text": given.text,
        "tokens": given.tokens,
        "tags": list(tags),
        "offsets": [list(one) for one in offsets],
        "spans": [_span(given.text, offsets, one, probabilities) for one in spans(tags)],
    }
    return _with_given(found, given.given)


def text_answer(given: Input, answer: TextAnswer, task: str, kind: Kind, labels: Sequence[str]) -> dict:
    """The answer of a task of whole sentences to one text, with every key of the input as in ``answer``.

    ``line``, ``task``, ``text``, ``text_pair`` of pairs, and ``label`` with its ``score`` and the ``scores`` of all
    labels, the best first; of a multi-label task a list as ``label``, and no ``score``; of a regression ``value``. All
    are null for an empty text.
    """
    pair = {} if given.text_pair is None else {"text_pair": given.text_pair}
    found = {"line": given.line, "task": task, "text": given.text, **pair, **_said(kind.name, labels, answer)}
    return _with_given(found, given.given)


def written_answer(given: Input, text: Any, task: str, kind: str) -> dict:
    """The text that answers a source, a prompt or a chat, with every key of the input as in ``answer``.

    ``line``, ``task``, and ``source`` and ``target``, ``prompt`` and ``completion``, or ``messages`` and
    ``completion``, which is null for an empty text.
    """
    asked, *wanted = FIELDS[kind]
    said = given.messages or [{"role": "user", "content": given.text}] if kind == CHAT else given.text
    found = {"line": given.line, "task": task, asked: said, wanted[0] if wanted else COMPLETION: text}
    return _with_given(found, given.given)


def _said(kind: str, labels: Sequence[str], answer: TextAnswer) -> dict:
    if isinstance(answer.label, float):
        return {"value": float(f"{answer.label:.{_SIGNIFICANT}g}")}
    if answer.label is None or answer.probabilities is None:
        return dict.fromkeys(_KEYS[kind])
    ordered = sorted(zip(labels, answer.probabilities, strict=True), key=lambda one: -one[1])
    scores = {label: round(score, _DIGITS) for label, score in ordered}
    if isinstance(answer.label, tuple):
        return {"label": list(answer.label), "scores": scores}
    return {"label": answer.label, "score": scores[answer.label], "scores": scores}


def _with_given(found: dict, given: Mapping) -> dict:
    kept = {key: value for key, value in given.items() if key not in found}
    hidden = {key: value for key, value in given.items() if key in found and value != found[key]}
    if hidden and "input" in kept:
        hidden["input"] = kept.pop("input")
    return {**found, **kept, **({"input": hidden} if hidden else {})}


def _span(
    text: str, offsets: Sequence[tuple[int, int]], span: tuple[str, int, int], probabilities: Sequence[float] | None
) -> dict:
    label, first, after = span
    start, end = offsets[first][0], offsets[after - 1][1]
    found = {"label": label, "start": start, "end": end, "text": text[start:end]}
    if probabilities is not None:
        found["score"] = round(math.prod(probabilities[first:after]) ** (1 / (after - first)), _DIGITS)
    return found


def encoded(answer: dict) -> bytes:
    """The answer as a line of UTF-8. Half a surrogate pair, which an input may hold, is escaped as it was there."""
    try:
        return json.dumps(answer, ensure_ascii=False).encode() + b"\n"
    except UnicodeEncodeError:
        return json.dumps(answer).encode() + b"\n"
