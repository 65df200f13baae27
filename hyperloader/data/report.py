"""What a task file holds, counted."""

import dataclasses
from collections.abc import Sequence

from hyperloader.data.bio import spans
from hyperloader.data.formulation import Formulation
from hyperloader.data.tasks import SPLITS, Task


def report_rows(tasks: Sequence[Task], formulation: Formulation | None = None) -> list[dict[str, str | int | float]]:
    """One row per task and split.

    Args:
        tasks: what ``load_tasks`` returned.
        formulation: for these tasks: every row then also tells what encoding would
            meet. Its own report goes on counting.

    Returns:
        Rows with ``task``, ``split``, ``sentences``, ``words``, ``spans``, ``types`` (different span types),
        ``longest`` (words of the longest sentence), ``mean`` (words a sentence), ``repeats`` (train: sentences that
        came before; other splits: sentences whose words stand in train too); with a formulation also ``windows``,
        ``split_sentences``, ``over_words``, ``over_tokens``, ``cut_spans``, ``cut_words``, ``no_subwords``,
        ``long_targets`` as in EncodingReport: train encoded for training, the others for evaluation.
    """
    rows = []
    for task in tasks:
        seen = {sentence.tokens for sentence in task.train}
        for split in SPLITS:
            sentences = getattr(task, split)
            lengths = [len(sentence.tokens) for sentence in sentences]
            found = [name for sentence in sentences for name, _, _ in spans(sentence.tags)]
            if split == "train":
                repeats = len(sentences) - len(seen)
            else:
                repeats = sum(sentence.tokens in seen for sentence in sentences)
            row: dict[str, str | int | float] = {
                "task": task.name,
                "split": split,
                "sentences": len(sentences),
                "words": sum(lengths),
                "spans": len(found),
                "types": len(set(found)),
                "longest": max(lengths, default=0),
                "mean": round(sum(lengths) / max(1, len(lengths)), 1),
                "repeats": repeats,
            }
            if formulation is not None:
                row |= _encoding_counts(formulation, task.name, split, sentences)
            rows.append(row)
    return rows


def _encoding_counts(formulation: Formulation, name: str, split: str, sentences: Sequence) -> dict[str, int]:
    before = dataclasses.asdict(formulation.report[name])
    formulation.encode_all({name: sentences}, use_tags=split == "train")
    after = dataclasses.asdict(formulation.report[name])
    return {key: after[key] - before[key] for key in after if key not in ("sentences", "words")}
