import pytest
from seqeval.metrics import f1_score

from hyperloader.training.metrics import score_tasks, span_f1


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


def test_other_lengths_are_refused():
    with pytest.raises(ValueError, match="predicted must hold 2 sentences, as gold does, got 1"):
        span_f1([["O"], ["O"]], [["O"]])
    with pytest.raises(ValueError, match=r"predicted\[1\] must hold 2 tags, as gold does, got 1"):
        span_f1([["O"], ["O", "O"]], [["O"], ["O"]])
