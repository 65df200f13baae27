"""Batches of similar length."""

import random

import pytest

from hyperloader.serving.batches import A_BATCH, batches_by_length


@pytest.mark.parametrize(("max_tokens", "most"), [(64, None), (256, 4), (2048, None), (1, None)])
def test_every_place_is_in_one_batch_within_the_limits(max_tokens, most):
    lengths = [random.Random(5).randint(1, 128) for _ in range(300)] + [9] * 50
    batches = batches_by_length(lengths, max_tokens, most)
    assert sorted(place for batch in batches for place in batch) == list(range(350))
    for batch in batches:
        longest = max(lengths[place] for place in batch)
        assert len(batch) == 1 or len(batch) * longest <= max_tokens
        assert most is None or len(batch) <= most
        assert sum(longest - lengths[place] for place in batch) <= A_BATCH


def test_a_long_one_does_not_pad_many_short_ones():
    assert batches_by_length([4] * 15 + [128], 2048) == [[15, 0], list(range(1, 15))]
    assert batches_by_length([4, 5, 4], 2048) == [[1, 0, 2]]
    assert batches_by_length([], 2048) == []
