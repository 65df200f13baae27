"""Tasks of whole sentences: their splits, kind and labels."""

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

from hyperloader.config import CLASSIFICATION, MULTI_LABEL, REGRESSION
from hyperloader.data.hub import hub_texts
from hyperloader.data.kinds import VALUE, Kind
from hyperloader.data.labelled_text import LabelledText
from hyperloader.data.sentence import DataError
from hyperloader.data.task_file import TaskEntry
from hyperloader.data.text_readers import AnyText, TextReading, read_text_file
from hyperloader.validation import listed

Splits = Mapping[str, Sequence[Any]]  # of AnyText


def read_texts(entry: TaskEntry, files: Mapping[str, Path]) -> tuple[dict[str, list[AnyText]], list[str]]:
    """The splits that stand in ``files``, and notes on how they were read. Raises DataError as ``read_text_file``."""
    how, splits, notes = TextReading(Kind(entry.kind), entry.columns or {}, entry.names), {}, []
    for split, file in files.items():
        splits[split], read = read_text_file(file, how)
        notes += read
    return splits, notes


def read_dataset(entry: TaskEntry, wanted: Sequence[str]) -> dict[str, list[AnyText]]:
    """The wanted splits of a data set. Raises DataError as ``hub_texts`` does."""
    dataset, how = cast(str, entry.dataset), TextReading(Kind(entry.kind), entry.columns or {}, entry.names)
    return {split: hub_texts(dataset, entry.config, split, entry.splits.get(split), how) for split in wanted}


def kind_of(entry: TaskEntry, splits: Splits) -> Kind:
    """The kind of a task with these sentences.

    Raises:
        DataError: some are pairs and others are not, or the labels of a regression's train are all the same.
    """
    if Kind(entry.kind).written:
        return Kind(entry.kind)
    first = splits["train"][0]
    pair = first.text_pair is not None
    for sentences in splits.values():
        for one in sentences:
            if (one.text_pair is not None) != pair:
                here, there = ("a text_pair", "none") if not pair else ("no text_pair", "one")
                raise DataError(
                    f"{one.where}: the line has {here}, where {first.where} has {there}; give every line of task "
                    f"{entry.name!r} a pair, or none"
                )
    kind = Kind(entry.kind, pair)
    try:
        kind.standardised(one.label for one in splits["train"])
    except ValueError as error:
        raise DataError(f"{entry.where}: task {entry.name!r}: {error}; correct them, or leave the task out") from None
    return kind


def labels_of(entry: TaskEntry, splits: Splits) -> list[str]:
    """The labels of all splits, sorted; of a regression ``value`` alone, none where any text is an answer. Raises
    DataError where there is nothing to choose from."""
    if entry.kind == REGRESSION:
        return [VALUE]
    if Kind(entry.kind).written:
        return []
    labels = sorted({name for sentences in splits.values() for one in sentences for name in names_of(one)})
    if len(labels) < (2 if entry.kind == CLASSIFICATION else 1):
        raise DataError(
            f"{entry.where}: task {entry.name!r} must have at least {2 if entry.kind == CLASSIFICATION else 1} labels, "
            f"got {', '.join(labels) or 'none'}; correct its data, or leave the task out"
        )
    return labels


def names_of(example: LabelledText) -> tuple[str, ...]:
    """The names of the labels of an example: one, or of a multi-label task any number."""
    return cast(tuple, example.label) if isinstance(example.label, tuple) else (cast(str, example.label),)


def unseen_labels(entry: TaskEntry, splits: Splits) -> list[str]:
    """Warnings about labels that train never shows."""
    if entry.kind not in (CLASSIFICATION, MULTI_LABEL):
        return []
    counts = {
        split: Counter(name for one in sentences for name in names_of(one)) for split, sentences in splits.items()
    }
    return unseen(entry.name, counts, "labels", "sentence")


def unseen(task: str, counts: Mapping[str, Counter[str]], what: str, unit: str) -> list[str]:
    """Warnings about what train never shows, types or labels: ``counts`` says how many spans or sentences have each, by
    split."""
    warnings = []
    for split, found in counts.items():
        new = sorted(found.keys() - counts["train"].keys())
        if new:
            names = listed((f"{name} ({found[name]})" for name in new), what)
            warnings.append(
                f"{task}: {split} has {what} that train never shows ({unit}s): {names}; they stay labels, and each "
                f"such {unit} counts as an error of the model"
            )
    return warnings
