"""Scores of tasks of whole sentences, by scikit-learn, scipy and rouge-score."""

from collections.abc import Sequence

from hyperloader.config import CLASSIFICATION, MULTI_LABEL
from hyperloader.data.kinds import CHAT, COMPLETION, TEXT_TO_TEXT

Scores = dict[str, float | int]


def sentence_scores(kind: str, gold: Sequence, predicted: Sequence) -> Scores:
    """The scores of a task of a kind other than tagging, and ``sentences``: how many there are.

    Classification: ``accuracy``, ``macro_f1`` over the labels of either side, ``matthews``. Multi-label: ``accuracy``
    of the whole set, ``micro_f1``, ``macro_f1``. Regression: ``pearson``, ``spearman``; 0 where either side has one
    value alone. What is written: ``exact_match``, up to white space, and of ``text-to-text`` ``rouge_l``, the mean of
    each answer's F-measure.

    Args:
        gold, predicted: of every sentence the label, a tuple of labels, or a number.

    Raises:
        ValueError: not as many predictions as sentences.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"predicted must hold {len(gold)} sentences, as gold does, got {len(predicted)}")
    if kind == CLASSIFICATION:
        scores = _of_labels(gold, predicted)
    elif kind == MULTI_LABEL:
        scores = _of_sets(gold, predicted)
    elif kind in (TEXT_TO_TEXT, COMPLETION, CHAT):
        same = [one.split() == other.split() for one, other in zip(gold, predicted, strict=True)]
        scores = {"exact_match": sum(same) / len(same), **(_overlap(gold, predicted) if kind == TEXT_TO_TEXT else {})}
    else:
        scores = _of_values(gold, predicted)
    return {**{name: float(value) for name, value in scores.items()}, "sentences": len(gold)}


def _of_labels(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
    from sklearn.metrics import accuracy_score, f1_score, matthews_corrcoef

    return {
        "accuracy": accuracy_score(gold, predicted),
        "macro_f1": f1_score(gold, predicted, average="macro", zero_division=0),
        "matthews": matthews_corrcoef(gold, predicted),
    }


def _of_sets(gold: Sequence[tuple[str, ...]], predicted: Sequence[tuple[str, ...]]) -> Scores:
    from sklearn.metrics import accuracy_score, f1_score
    from sklearn.preprocessing import MultiLabelBinarizer

    rows = MultiLabelBinarizer().fit_transform([*gold, *predicted])
    if not rows.shape[1]:  # no label on either side
        return {"accuracy": 1.0, "micro_f1": 0.0, "macro_f1": 0.0}
    expected, found = rows[: len(gold)], rows[len(gold) :]
    return {
        "accuracy": accuracy_score(expected, found),
        "micro_f1": f1_score(expected, found, average="micro", zero_division=0),
        "macro_f1": f1_score(expected, found, average="macro", zero_division=0),
    }


def _of_values(gold: Sequence[float], predicted: Sequence[float]) -> Scores:
    from scipy.stats import pearsonr, spearmanr

    if len(set(gold)) < 2 or len(set(predicted)) < 2:
        return {"pearson": 0.0, "spearman": 0.0}
    return {"pearson": pearsonr(gold, predicted).statistic, "spearman": spearmanr(gold, predicted).statistic}


def _overlap(gold: Sequence[str], predicted: Sequence[str]) -> Scores:
    from rouge_score.rouge_scorer import RougeScorer

    scorer = RougeScorer(["rougeL"])
    of_each = [scorer.score(one, other)["rougeL"].fmeasure for one, other in zip(gold, predicted, strict=True)]
    return {"rouge_l": sum(of_each) / len(of_each)}
