"""What a task file holds, as rows and as a table."""

import dataclasses
from collections.abc import Sequence

from hyperloader.data.bio import spans
from hyperloader.data.formulation import Formulation
from hyperloader.data.tasks import SPLITS, Task


def report(tasks: Sequence[Task], formulation: Formulation | None = None) -> str:
    """The table of ``report_rows`` as plain text, below it how the files were read, and the tasks' warnings."""
    notes = "".join(f"\nnote: {note}" for task in tasks for note in task.notes)
    warnings = "".join(f"\nwarning: {warning}" for task in tasks for warning in task.warnings)
    return render(report_rows(tasks, formulation)) + notes + warnings


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
            row = {
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


def render(rows: Sequence[dict[str, str | int | float]]) -> str:
    """The rows as a plain-text table: text on the left, numbers on the right."""
    if not rows:
        return ""
    columns = list(rows[0])
    cells = [[column.replace("_", " ") for column in columns]]
    cells += [[f"{value:,}" if not isinstance(value, str) else value for value in row.values()] for row in rows]
    widths = [max(len(line[column]) for line in cells) for column in range(len(columns))]
    is_text = [isinstance(rows[0][column], str) for column in columns]
    lines = [
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, is_text, strict=True)
        ).rstrip()
        for line in cells
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join(lines)
