"""The one score of a task that counts in the mean over tasks, and its name."""

from collections.abc import Mapping

HEADLINES = {
    "f1": "span F1",
    "accuracy": "accuracy",
    "pearson": "Pearson",
    "exact_match": "exact match",
}  # what a task's scores hold: what it is
BESIDE = {
    "precision": "precision",
    "recall": "recall",
    "macro_f1": "macro-F1",
    "matthews": "Matthews",
    "micro_f1": "micro-F1",
    "spearman": "Spearman",
    "rouge_l": "ROUGE-L",
}
PERPLEXITY = "perplexity"  # beside it too, and no share
MEAN_F1, MEAN_SCORE = "mean_f1", "mean_score"  # of runs of tagging alone, and of others


def headline(scores: Mapping) -> str:
    """The key of a task's headline score among its ``scores``."""
    return next(key for key in HEADLINES if key in scores)


def mean_key(scores: Mapping) -> str:
    """The key of the mean over tasks in what a run's ``evaluate`` gives, or in a point of its learning curve."""
    return MEAN_SCORE if MEAN_SCORE in scores else MEAN_F1


def mean_of(scores: Mapping) -> float:
    """That mean."""
    return scores[mean_key(scores)]


def mean_name(scores: Mapping) -> str:
    """What that mean is, in words."""
    return "mean F1" if mean_key(scores) == MEAN_F1 else "mean score"
