import pytest

from hyperloader.data.kinds import Kind
from hyperloader.training.headlines import mean_of
from hyperloader.training.metrics import score_tasks
from hyperloader.training.sentence_metrics import sentence_scores


def test_classification():
    scores = sentence_scores("classification", ["a", "a", "b", "c"], ["a", "b", "b", "a"])
    # a: precision 1/2, recall 1/2; b: 1/2, 1; c: 0, 0. Matthews by its definition over the confusion matrix.
    matthews = (2 * 4 - (2 * 2 + 1 * 2 + 1 * 0)) / ((16 - (4 + 1 + 1)) * (16 - (4 + 4 + 0))) ** 0.5
    expected = {"accuracy": 0.5, "macro_f1": (1 / 2 + 2 / 3 + 0) / 3, "matthews": matthews, "sentences": 4}
    assert scores == pytest.approx(expected)
    assert next(iter(scores)) == "accuracy"


def test_one_label_alone_is_no_correlation(recwarn):
    assert sentence_scores("classification", ["a", "b"], ["a", "a"])["matthews"] == 0
    for gold, found in (([1.0, 2.0], [3.0, 3.0]), ([1.0, 1.0], [1.0, 2.0]), ([1.0], [2.0])):
        assert sentence_scores("regression", gold, found)["pearson"] == 0
    assert not recwarn.list


def test_regression():
    scores = sentence_scores("regression", [1.0, 2.0, 3.0, 4.0], [1.0, 2.0, 3.0, 10.0])
    assert scores == pytest.approx({"pearson": 0.8854377, "spearman": 1.0, "sentences": 4})
    assert sentence_scores("regression", [1.0, 2.0], [2.0, 1.0])["pearson"] == pytest.approx(-1)


def test_several_labels():
    gold, found = [("a", "b"), ("a",), ()], [("a",), ("a",), ("b",)]
    scores = sentence_scores("multi-label", gold, found)
    assert scores == pytest.approx({"accuracy": 1 / 3, "micro_f1": 2 / 3, "macro_f1": 0.5, "sentences": 3})
    assert sentence_scores("multi-label", [()], [()])["accuracy"] == 1


def test_the_mean_is_over_headline_scores():
    gold = {"slots": [["B-x"]], "intent": ["a", "b"], "similar": [1.0, 2.0]}
    found = {"slots": [["B-x"]], "intent": ["a", "a"], "similar": [2.0, 1.0]}
    kinds = {"intent": Kind("classification"), "similar": Kind("regression")}
    scores = score_tasks(gold, found, kinds)
    assert scores["mean_score"] == mean_of(scores) == pytest.approx((1 + 0.5 - 1) / 3)
    assert set(scores) == {"tasks", "mean_score"}
    alone = score_tasks({"slots": gold["slots"]}, found, kinds)
    assert set(alone) == {"tasks", "mean_f1"} and mean_of(alone) == 1


def test_other_numbers_of_sentences_are_refused():
    with pytest.raises(ValueError, match="predicted must hold 2 sentences, as gold does, got 1"):
        sentence_scores("classification", ["a", "b"], ["a"])
