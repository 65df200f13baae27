"""Sentences longer than a model takes: parted into windows, and joined again without losing a word."""

import itertools
from collections.abc import Sequence
from typing import TypeVar

_T = TypeVar("_T")


def split_windows(
    lengths: Sequence[int],
    max_words: int,
    max_tokens: int,
    *,
    target_lengths: Sequence[int] | None = None,
    keep: Sequence[tuple[int, int]] = (),
) -> list[slice]:
    """Windows that cover all words, each once and in order: as few as possible, then as even as possible.

    Args:
        lengths: tokens of every word.
        max_words: words that a window holds at most.
        max_tokens: tokens that a window's words hold at most. A word longer than that gets a window of its own.
        target_lengths: a second length of every word (what the model has to write for it) under the same limit.
        keep: (first, after last) of the spans that no border should cut. One is cut only where it is longer than a
            window.

    Returns:
        One slice of words a window; none for a sentence without words.

    Raises:
        ValueError: ``max_words`` or ``max_tokens`` is below 1.
    """
    for name, value in (("max_words", max_words), ("max_tokens", max_tokens)):
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")
    measures = [lengths] if target_lengths is None else [lengths, target_lengths]
    inside = {border for first, after in keep for border in range(first + 1, after)}
    borders = _fill(measures, max_words, max_tokens, inside)
    if len(borders) > 2:
        fewest, cuts = len(borders), sum(border in inside for border in borders)
        even = -(-max(sum(measure) for measure in measures) // (fewest - 1))
        for limit in range(min(even, max_tokens), max_tokens):
            tried = _fill(measures, max_words, limit, inside)
            if len(tried) <= fewest and sum(border in inside for border in tried) <= cuts:
                borders = tried
                break
    return [slice(start, stop) for start, stop in itertools.pairwise(borders)]


def _fill(measures: list[Sequence[int]], max_words: int, max_tokens: int, inside: set[int]) -> list[int]:
    """Borders of windows filled from the left, each ended early where its border would cut a span."""
    count, borders = len(measures[0]), [0]
    while borders[-1] < count:
        start = stop = borders[-1]
        used = [0] * len(measures)
        while stop < count and stop - start < max_words:
            used = [total + measure[stop] for total, measure in zip(used, measures, strict=True)]
            if max(used) > max_tokens and stop > start:
                break
            stop += 1
        whole = stop
        while stop < count and whole > start and whole in inside:
            whole -= 1
        borders.append(whole if whole > start else stop)
    return borders


def join(parts: Sequence[Sequence[_T]]) -> list[_T]:
    """The parts of one sentence in their order, one after the other."""
    return [item for part in parts for item in part]
