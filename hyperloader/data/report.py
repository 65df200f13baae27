"""What a task file holds, counted."""

import dataclasses
import math
from collections.abc import Sequence
from typing import Any

from hyperloader.config import REGRESSION
from hyperloader.data.bio import spans
from hyperloader.data.formulation import Formulation
from hyperloader.data.sentence import Sentence
from hyperloader.data.tasks import SPLITS, Task
from hyperloader.data.text_tasks import names_of


def report_rows(tasks: Sequence[Task], formulation: Formulation | None = None) -> list[dict[str, str | int | float]]:
    """One row per task and split.

    Args:
        tasks: what ``load_tasks`` returned. Words of tasks of whole sentences are what stands between white space.
        formulation: for these tasks: every row then also tells what encoding would
            meet. Its own report goes on counting.

    Returns:
        Rows with ``task``, ``split``, ``sentences``, ``words``, ``spans`` (NaN where a task has none), ``types``
        (different span types or labels, NaN where there are none),
        ``longest`` (words of the longest sentence), ``mean`` (words a sentence), ``repeats`` (train: sentences that
        came before; other splits: sentences whose words stand in train too); with a formulation also ``windows``,
        ``split_sentences``, ``over_words``, ``over_tokens``, ``cut_spans``, ``cut_words``, ``no_subwords``,
        ``long_targets``, ``truncated`` as in EncodingReport: train encoded for training, the others for evaluation.
    """
    rows = []
    for task in tasks:
        seen = {sentence.content for sentence in task.train}
        for split in SPLITS:
            sentences = getattr(task, split)
            lengths = [_words(sentence) for sentence in sentences]
            count, types = _labels(task, sentences)
            if split == "train":
                repeats = len(sentences) - len(seen)
            else:
                repeats = sum(sentence.content in seen for sentence in sentences)
            row: dict[str, str | int | float] = {
                "task": task.name,
                "split": split,
                "sentences": len(sentences),
                "words": sum(lengths),
                "spans": count,
                "types": types,
                "longest": max(lengths, default=0),
                "mean": round(sum(lengths) / max(1, len(lengths)), 1),
                "repeats": repeats,
            }
            if formulation is not None:
                row |= _encoding_counts(formulation, task.name, split, sentences)
            rows.append(row)
    return rows


def _words(sentence: Any) -> int:
    return len(sentence.tokens) if isinstance(sentence, Sentence) else sum(len(one.split()) for one in sentence.content)


def _labels(task: Task, sentences: Sequence) -> tuple[float, float]:
    """How many spans there are, and how many different types or labels."""
    if not task.kind.of_sentences:
        found = [name for sentence in sentences for name, _, _ in spans(sentence.tags)]
        return len(found), len(set(found))
    if task.kind.name == REGRESSION or task.kind.written:
        return math.nan, math.nan
    return math.nan, len({name for sentence in sentences for name in names_of(sentence)})


def _encoding_counts(formulation: Formulation, name: str, split: str, sentences: Sequence) -> dict[str, int]:
    before = dataclasses.asdict(formulation.report[name])
    formulation.encode_all({name: sentences}, use_tags=split == "train")
    after = dataclasses.asdict(formulation.report[name])
    return {key: after[key] - before[key] for key in after if key not in ("sentences", "words")}
