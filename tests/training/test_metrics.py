import random

import numpy as np
import pytest
from seqeval.metrics import f1_score

from hyperloader.training.metrics import load_counts, save_counts, score_tasks, span_counts, span_f1


def test_counts_spans_and_not_words():
    gold = [["B-a", "I-a", "O", "B-b"], ["O", "B-b"]]
    predicted = [["B-a", "I-a", "O", "O"], ["B-a", "B-b"]]
    scores = span_f1(gold, predicted)
    assert scores == pytest.approx(
        {"f1": 2 / 3, "precision": 2 / 3, "recall": 2 / 3, "spans": 3, "predicted": 3, "sentences": 2}
    )
    assert scores["f1"] == pytest.approx(f1_score(gold, predicted))


def test_a_span_with_one_wrong_end_is_wrong():
    assert span_f1([["B-a", "I-a"]], [["B-a", "O"]])["f1"] == 0


def test_labels_never_predicted_count_as_errors():
    gold, predicted = [["B-a"], ["B-unseen"]], [["B-a"], ["O"]]
    assert span_f1(gold, predicted)["recall"] == 0.5


def test_nothing_to_find_and_nothing_found_is_zero_without_a_warning(recwarn):
    assert span_f1([["O"]], [["O"]])["f1"] == 0
    assert not recwarn.list


def test_the_mean_weighs_tasks_alike():
    gold = {"big": [["B-a"]] * 9, "small": [["B-a"]]}
    predicted = {"big": [["B-a"]] * 9, "small": [["O"]]}
    scores = score_tasks(gold, predicted)
    assert scores["mean_f1"] == 0.5
    assert scores["tasks"]["big"]["f1"] == 1


@pytest.mark.parametrize("score", [span_f1, span_counts])
def test_other_lengths_are_refused(score):
    with pytest.raises(ValueError, match="predicted must hold 2 sentences, as gold does, got 1"):
        score([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match=r"predicted\[1\] must hold 2 tags, as gold does, got 1"):
        score([["O"], ["O", "O"]], [["O"], ["O"]])


def test_counts_of_sentences():
    gold = [["B-a", "I-a", "O", "B-b"], ["O"], ["B-a", "B-a"], ["I-a", "I-b", "I-b"]]
    predicted = [["B-a", "I-a", "O", "B-a"], ["B-b"], ["B-a", "I-a"], ["B-a", "B-b", "I-b"]]
    assert span_counts(gold, predicted).tolist() == [[1, 2, 2], [0, 1, 0], [0, 1, 2], [2, 2, 2]]
    assert span_counts([], []).shape == (0, 3)


def test_scores_come_back_from_the_counts_of_any_sentences():
    draw, kinds = random.Random(0), ["O", "B-a", "I-a", "B-b", "I-b"]
    gold, predicted = ([[draw.choice(kinds) for _ in range(1 + n % 7)] for n in range(60)] for _ in range(2))
    counts = span_counts(gold, predicted)
    for part in (slice(None), slice(0, 10), slice(3, 60, 7)):
        right, found, there = counts[part].sum(0)
        scores = span_f1(gold[part], predicted[part])
        assert scores["f1"] == pytest.approx(2 * right / (found + there), abs=1e-15)
        assert (scores["predicted"], scores["spans"]) == (found, there)


def test_counts_come_back_from_a_small_file(tmp_path):
    found = np.random.default_rng(0).binomial(3, 0.9, 20_000)
    many = np.stack([found, found, np.full(20_000, 3)], 1).astype(np.int32)
    counts = {"a/b c": np.array([[1, 2, 3]], dtype=np.int32), "file": span_counts([], []), "é": many}
    save_counts(tmp_path / "some.npz", counts)
    again = load_counts(tmp_path / "some.npz")
    assert list(again) == list(counts)
    assert all(np.array_equal(again[task], of_task) and of_task.dtype == np.int32 for task, of_task in counts.items())
    assert (tmp_path / "some.npz").stat().st_size < 20_000
