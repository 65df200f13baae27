"""Scores: micro-F1 over spans, per task and their mean, and the counts that they are made of."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType

import numpy as np
from seqeval.metrics.sequence_labeling import get_entities, precision_recall_fscore_support

from hyperloader.checkpoints.atomic import write_files
from hyperloader.data.kinds import Kind
from hyperloader.training.headlines import MEAN_F1, MEAN_SCORE, headline
from hyperloader.training.sentence_metrics import sentence_scores

Counts = Mapping[str, np.ndarray]  # of every task, ``span_counts`` of its sentences


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
    gold, predicted = _paired(gold, predicted)
    precision, recall, f1, spans = precision_recall_fscore_support(gold, predicted, average="micro", zero_division=0)
    return {
        "f1": float(f1),
        "precision": float(precision),
        "recall": float(recall),
        "spans": int(spans),
        "predicted": len(get_entities(predicted)),
        "sentences": len(gold),
    }


def span_counts(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> np.ndarray:
    """What the scores of ``span_f1`` are made of, sentence by sentence.

    Returns:
        (sentences, 3) int32: spans that are predicted rightly, spans predicted, spans of the gold. With their sums
        t, p and g over any sentences the F1 of those is 2 t / (p + g).
    """
    rows = []
    for expected, got in zip(*_paired(gold, predicted), strict=True):
        right, found = set(get_entities(expected)), set(get_entities(got))
        rows.append((len(right & found), len(found), len(right)))
    return np.array(rows, dtype=np.int32).reshape(-1, 3)


def _paired(gold: Sequence[Sequence[str]], predicted: Sequence[Sequence[str]]) -> tuple[list, list]:
    """Both as the lists that seqeval takes, of the same lengths."""
    if len(gold) != len(predicted):
        raise ValueError(f"predicted must hold {len(gold)} sentences, as gold does, got {len(predicted)}")
    gold = [list(tags) for tags in gold]
    predicted = [list(tags) for tags in predicted]
    for number, (expected, got) in enumerate(zip(gold, predicted, strict=True)):
        if len(expected) != len(got):
            raise ValueError(f"predicted[{number}] must hold {len(expected)} tags, as gold does, got {len(got)}")
    return gold, predicted


def score_tasks(
    gold: Mapping[str, Sequence], predicted: Mapping[str, Sequence], kinds: Mapping[str, Kind] = MappingProxyType({})
) -> dict:
    """``{"tasks": {task: scores}, "mean_f1": their unweighted mean}``.

    The scores are ``span_f1`` or, of tasks of whole sentences, which ``kinds`` names, ``sentence_scores``; with any of
    those ``mean_score`` is the mean of each task's headline score, and there is no ``mean_f1``.
    """
    tasks = {
        task: sentence_scores(kinds[task].name, gold[task], predicted[task])
        if task in kinds
        else span_f1(gold[task], predicted[task])
        for task in gold
    }
    mean = sum(scores[headline(scores)] for scores in tasks.values()) / len(tasks)
    return {"tasks": tasks, MEAN_SCORE if kinds.keys() & tasks.keys() else MEAN_F1: mean}


def save_counts(path: Path, counts: Counts) -> None:
    """Write counts to a ``.npz`` file, about a byte a sentence."""
    content = io.BytesIO()
    np.savez_compressed(
        content,
        tasks=np.array(list(counts)),
        sentences=np.array([len(of_task) for of_task in counts.values()]),
        counts=np.concatenate(list(counts.values())),
    )
    write_files({path: content.getvalue()})


def load_counts(path: Path) -> dict[str, np.ndarray]:
    """The counts that ``save_counts`` wrote."""
    with np.load(path, allow_pickle=False) as stored:
        parts = np.split(stored["counts"], np.cumsum(stored["sentences"])[:-1])
        return dict(zip(stored["tasks"].tolist(), parts, strict=True))
