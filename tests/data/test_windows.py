import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hyperloader.data import join, split_windows


@st.composite
def cases(draw):
    lengths = draw(st.lists(st.integers(0, 6), max_size=30))
    targets = draw(st.one_of(st.none(), st.lists(st.integers(1, 6), min_size=len(lengths), max_size=len(lengths))))
    borders = sorted(draw(st.sets(st.integers(0, len(lengths)), max_size=8)))
    keep = [pair for pair in itertools.pairwise(borders) if draw(st.booleans())]
    return lengths, targets, keep, draw(st.integers(1, 8)), draw(st.integers(1, 12))


@given(cases())
def test_windows_cover_every_word_once_within_the_limits(case):
    lengths, targets, keep, max_words, max_tokens = case
    windows = split_windows(lengths, max_words, max_tokens, target_lengths=targets, keep=keep)
    words = list(range(len(lengths)))
    assert join([words[window] for window in windows]) == words
    for window in windows:
        size = window.stop - window.start
        assert 1 <= size <= max_words
        for measure in (lengths, targets or lengths):
            assert sum(measure[window]) <= max_tokens or size == 1


@given(cases())
def test_a_span_is_cut_only_where_it_is_longer_than_a_window(case):
    lengths, targets, keep, max_words, max_tokens = case
    windows = split_windows(lengths, max_words, max_tokens, target_lengths=targets, keep=keep)
    for first, after in keep:
        if any(first < window.start < after for window in windows[1:]):
            too_long = after - first > max_words or any(
                sum(measure[first:after]) > max_tokens for measure in (lengths, targets or lengths)
            )
            assert too_long


@given(st.lists(st.integers(1, 6), min_size=1, max_size=40), st.integers(1, 8), st.integers(6, 20))
def test_windows_are_as_few_as_possible(lengths, max_words, max_tokens):
    count, start, used = 1, 0, 0
    for position, length in enumerate(lengths):
        if position - start == max_words or used + length > max_tokens:
            count, start, used = count + 1, position, 0
        used += length
    assert len(split_windows(lengths, max_words, max_tokens)) == count


def test_windows_are_even():
    assert split_windows([1] * 12, 99, 10) == [slice(0, 6), slice(6, 12)]
    assert split_windows([1] * 12, 99, 10, keep=[(5, 8)]) == [slice(0, 5), slice(5, 12)]
    assert split_windows([1] * 12, 99, 10, keep=[(0, 9)]) == [slice(0, 9), slice(9, 12)]


def test_a_long_word_stands_alone():
    assert split_windows([1, 50, 1], 9, 10) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_one_window_and_none():
    assert split_windows([3, 3], 2, 6) == [slice(0, 2)]
    assert split_windows([], 2, 6) == []


@pytest.mark.parametrize("name", ["max_words", "max_tokens"])
def test_limits_below_one_are_refused(name):
    limits = {"max_words": 3, "max_tokens": 3} | {name: 0}
    with pytest.raises(ValueError, match=f"{name} must be at least 1, got 0"):
        split_windows([1], **limits)
