"""Paired bootstrap over sentences: hand-worked differences, none between twins, a planted one."""

import itertools

import numpy as np
import pytest

from bench.study.significance import Difference, compare, mean_f1
from hyperloader.training.metrics import score_tasks, span_counts


def counts(*rows):
    return np.array(rows, dtype=np.int32)


def random_counts(sentences, right, seed):
    """Sentences with two spans each, of which each is found with a chance of ``right``."""
    found = np.random.default_rng(seed).binomial(2, right, sentences)
    return np.stack([found, np.full(sentences, 2), np.full(sentences, 2)], 1).astype(np.int32)


def test_two_sentences_by_hand():
    """Ours finds the one span of each, theirs of the first alone: 1 against 2/3. Of the four equally likely resamples
    one holds the first sentence twice (a difference of 0), two both (1/3) and one the second twice (1)."""
    ours, theirs = {"t": counts((1, 1, 1), (1, 1, 1))}, {"t": counts((1, 1, 1), (0, 0, 1))}
    found = compare([ours], [theirs], resamples=40_000)
    assert found == Difference(pytest.approx(1 / 3), 0.0, 1.0, 0.0)
    other = compare([theirs], [ours], resamples=40_000)
    assert other.mean == pytest.approx(-1 / 3)
    assert other.below == pytest.approx(3 / 4, abs=0.01)


def test_resamples_are_those_of_drawing_sentences_one_by_one():
    """All 4^4 draws of four sentences, listed, have the share below zero and the quantiles of the resamples."""
    rows = [[(1, 2, 1), (0, 1, 1), (2, 2, 2), (0, 1, 0)], [(1, 1, 1), (1, 1, 1), (1, 2, 2), (0, 0, 0)]]
    ours, theirs = (np.array(one) for one in rows)

    def f1(sums):
        return 2 * sums[0] / (sums[1] + sums[2]) if sums[1] + sums[2] else 0.0

    draws = [list(draw) for draw in itertools.product(range(4), repeat=4)]
    listed = np.array([f1(ours[draw].sum(0)) - f1(theirs[draw].sum(0)) for draw in draws])
    found = compare([{"t": ours}], [{"t": theirs}], resamples=100_000)
    assert found.mean == f1(ours.sum(0)) - f1(theirs.sum(0))
    assert found.below == pytest.approx((listed < 0).mean(), abs=0.006)
    below = [(listed < found.low - 1e-9).mean(), (listed <= found.low + 1e-9).mean()]
    assert below[0] <= 0.025 + 0.002 and below[1] >= 0.025 - 0.002


def test_a_run_does_not_differ_from_itself():
    run = {"a": random_counts(300, 0.7, 0), "b": random_counts(100, 0.9, 1)}
    assert compare([run], [run]) == Difference(0.0, 0.0, 0.0, 0.0)
    assert compare([run, run], [run]).mean == pytest.approx(0, abs=1e-12)


def test_a_planted_difference_is_found_and_chance_is_not():
    better, worse = (
        [{"t": random_counts(2000, right, seed)} for seed in seeds]
        for right, seeds in ((0.83, (0, 1)), (0.8, (2, 3, 4)))
    )
    found = compare(better, worse)
    assert 0.01 < found.low < found.mean < found.high < 0.06
    assert found.below == 0
    assert found.mean == pytest.approx(np.mean([*map(mean_f1, better)]) - np.mean([*map(mean_f1, worse)]))
    chance = compare(worse[:1], worse[1:2])
    assert chance.low < 0 < chance.high


def test_tasks_weigh_alike_and_sentences_are_paired():
    small, big = counts((1, 1, 1)), random_counts(5000, 0.5, 0)
    ours, theirs = {"small": small, "big": big}, {"small": counts((0, 1, 1)), "big": big}
    found = compare([ours], [theirs])
    assert (found.mean, found.low, found.high, found.below) == pytest.approx((0.5, 0.5, 0.5, 0.0), abs=1e-12)


def test_the_seed_decides():
    one, other = {"t": random_counts(50, 0.7, 0)}, {"t": random_counts(50, 0.6, 1)}
    assert compare([one], [other], seed=3) == compare([one], [other], seed=3)
    assert compare([one], [other], seed=3) != compare([one], [other], seed=4)


def test_what_cannot_be_compared_is_refused():
    run = {"t": counts((1, 1, 1), (0, 0, 2))}
    with pytest.raises(ValueError, match="at least one run, got none of theirs"):
        compare([run], [])
    with pytest.raises(ValueError, match="must have the tasks t, got u"):
        compare([run], [{"u": run["t"]}])
    for other in (counts((1, 1, 1), (0, 0, 1)), counts((1, 1, 1))):
        with pytest.raises(ValueError, match="on the same sentences of t"):
            compare([run], [{"t": other}])


def test_the_score_of_counts_is_that_of_the_tags():
    draw, kinds = np.random.default_rng(0), ["O", "B-x", "I-x", "B-y", "I-y"]
    gold, predicted = (
        {task: [draw.choice(kinds, size).tolist() for size in (1, 3, 9, 4, 7)] for task in "ab"} for _ in range(2)
    )
    found = {task: span_counts(gold[task], predicted[task]) for task in gold}
    assert mean_f1(found) == pytest.approx(score_tasks(gold, predicted)["mean_f1"], abs=1e-15)
