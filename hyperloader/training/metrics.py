"""Scores: micro-F1 over spans, per task and their mean."""

from collections.abc import Mapping, Sequence

from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support


def span_f1(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> dict[str, float | int]:
    """Micro-averaged scores over spans, by seqeval in its default mode, as the published results were scored.

    A span counts when its type and both ends are right. Labels that training never showed count like any other.

    Args:
        gold: BIO tags of every sentence.
        predicted: BIO tags of the same sentences, of the same lengths.

    Returns:
        ``f1``, ``precision`` and ``recall`` between 0 and 1, ``spans``: how many the gold has, ``predicted``: how many
        were predicted, ``sentences``.
        Sentences without any span on either side score 0, as in seqeval.
    """
    if len(gold) != len(predicted):
        raise ValueError(f"predicted must hold {len(gold)} sentences, as gold does, got {len(predicted)}")
    gold = [list(tags) for tags in gold]
    predicted = [list(tags) for tags in predicted]
    for number, (expected, got) in enumerate(zip(gold, predicted, strict=True)):
        if len(expected) != len(got):
            raise ValueError(f"predicted[{number}] must hold {len(expected)} tags, as gold does, got {len(got)}")
    precision, recall, f1, spans = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "spans": int(spans),
        "predicted": len(get_entities(predicted)),
        "sentences": len(gold),
    }


def score_tasks(gold: Mapping[str, Sequence], predicted: Mapping[str, Sequence]) -> dict:
    """``{"tasks": {task: span_f1}, "mean_f1": their unweighted mean}``."""
    tasks = {task: span_f1(gold[task], predicted[task]) for task in gold}
    return {"tasks": tasks, "mean_f1": sum(scores["f1"] for scores in tasks.values()) / len(tasks)}
