"""The task file: which tasks there are and where their sentences lie; subsets for low-resource runs."""

import hashlib
import math
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar, cast

from hyperloader.config import TAGGING
from hyperloader.data.bio import label_list
from hyperloader.data.hub import hub_records
from hyperloader.data.kinds import Kind
from hyperloader.data.readers import read_file
from hyperloader.data.records import Record
from hyperloader.data.schemes import read_scheme
from hyperloader.data.sentence import DataError, Sentence
from hyperloader.data.splits import SPLITS, carve, find_files
from hyperloader.data.tag_names import name_tags
from hyperloader.data.task_file import TaskEntry, read_task_file
from hyperloader.data.text_readers import TEXT_READERS
from hyperloader.data.text_tasks import kind_of, labels_of, read_dataset, read_texts, unseen, unseen_labels
from hyperloader.task_words import check_words, names_of
from hyperloader.validation import naming

_T = TypeVar("_T")


@dataclass
class Task:
    """One task: its sentences by split, its labels (from all splits; a tagger's ``O`` first), ``warnings`` about its
    data, ``notes`` on how its files were read, and its ``kind``: of a tagger the sentences are ``Sentence``, else
    ``LabelledText``, ``WrittenText`` or ``Chat``; ``description`` and ``label_words`` as in ``TaskEntry``.
    """

    name: str
    train: list[Any]
    validation: list[Any]
    test: list[Any]
    labels: list[str]
    warnings: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    kind: Kind = field(default_factory=Kind)
    description: tuple[str, ...] = ()
    label_words: dict[str, str] = field(default_factory=dict)


def load_tasks(task_file: str | Path) -> list[Task]:
    """All tasks of a task file, in its order, read and checked.

    The file is YAML::

        tasks:
          - name: atis
            path: ${HYPERLOADER_DATA}/atis        # a folder with train, validation, test in a format of read_split
          - name: news
            dataset: conll2003                    # a Hugging Face data set: name or path
            config: default                       # optional, as all that follows
            columns: {tokens: tokens, tags: ner_tags}   # names, or numbers from 1 in files of columns
            splits: {validation: 10%, seed: 1}    # a file, a split of the data set, or a share of train
            tags: iob1                            # bio, iob1, iobes, bilou or repair; found where it is not given
            names: [O, B-PER, I-PER]              # of tags that are numbers
            description: Find people in news.     # or a list of phrasings, for task_condition: description
            labels: {PER: a person}               # words for labels, optional
          - {name: intents, kind: classification, path: intents}   # tagging is the default; multi_label: true
          - {name: similar, kind: regression, path: pairs}         # lines with text, text_pair and a number as label
          - {name: titles, kind: text-to-text, path: titles}       # source, target; completion: prompt, completion
          - {name: help, kind: chat, path: help}                   # messages

    Relative paths start at the file's folder; ``~`` and environment variables are expanded. Labels are collected from
    all splits: a type that training never shows is kept, and named in the task's ``warnings``.

    Raises:
        DataError: anything wrong with the file or with what it names; the message names file and line.
    """
    return [load_task(entry) for entry in read_task_file(Path(task_file))]


def load_task(entry: TaskEntry) -> Task:
    """The task that one entry of a task file names. Raises DataError as ``load_tasks`` does."""
    task = _load_tagging(entry) if entry.kind == TAGGING else _load_texts(entry)
    with naming(entry.labels_where, DataError):
        check_words("labels", entry.label_words, names_of(task.labels, entry.kind == TAGGING))
    task.description, task.label_words = entry.description, entry.label_words
    return task


def _load_tagging(entry: TaskEntry) -> Task:
    splits, notes = load_splits(entry, [split for split in SPLITS if split not in entry.shares])
    train, validation, test = (splits[split] for split in SPLITS)
    labels = label_list(sentence for sentences in splits.values() for sentence in sentences)
    starts = {split: Counter(tag[2:] for s in splits[split] for tag in s.tags if tag[0] == "B") for split in SPLITS}
    warnings = unseen(entry.name, starts, "types", "span")
    return Task(entry.name, train, validation, test, labels, warnings, [f"{entry.name}: {one}" for one in notes])


def load_splits(entry: TaskEntry, wanted: list[str]) -> tuple[dict[str, list[Sentence]], list[str]]:
    """The wanted splits of a task, in strict BIO, with those that ``entry.shares`` carves from train; and notes on how
    they were read. Raises DataError as ``load_tasks`` does.
    """
    records, notes = _read_dataset(entry, wanted) if entry.path is None else _read_folder(entry, entry.path, wanted)
    splits, converted = read_scheme(records, entry.tags)
    return splits, notes + converted + _carve(entry, splits)


def _load_texts(entry: TaskEntry) -> Task:
    wanted, notes = [split for split in SPLITS if split not in entry.shares], list[str]()
    if entry.path is None:
        splits = read_dataset(entry, wanted)
    else:
        with _of_folder(entry, entry.path):
            files, notes = find_files(entry.path, entry.splits, wanted, TEXT_READERS)
        splits, read = read_texts(entry, files)
        notes += read
    notes += _carve(entry, splits)
    splits = {split: splits[split] for split in SPLITS}
    kind, labels = kind_of(entry, splits), labels_of(entry, splits)
    notes = [f"{entry.name}: {one}" for one in notes]
    train, validation, test = splits.values()
    return Task(entry.name, train, validation, test, labels, unseen_labels(entry, splits), notes, kind)


def _carve(entry: TaskEntry, splits: dict[str, list[Any]]) -> list[str]:
    """Add the splits that ``entry.shares`` carve from train; notes about them."""
    if not entry.shares:
        return []
    count = len(splits["train"])
    try:
        splits |= carve(splits["train"], entry.shares, entry.seed)
    except DataError as error:
        raise DataError(f"{entry.where}: task {entry.name!r}: {error}") from None
    parts = " and ".join(f"{split} {len(splits[split]):,}" for split in entry.shares)
    return [f"{parts} of {count:,} sentences of train were carved with seed {entry.seed}"]


@contextmanager
def _of_folder(entry: TaskEntry, folder: Path) -> Iterator[None]:
    """Inside the block what is wrong with the task's folder is said with the place of its entry."""
    if not folder.is_dir():
        wrong = "is no folder" if folder.exists() else "does not exist"
        raise DataError(f"{entry.where}: the folder {folder} of task {entry.name!r} {wrong}; correct path")
    try:
        yield
    except DataError as error:
        raise DataError(f"{entry.where}: the folder {folder} of task {entry.name!r} {error}") from None


def _read_folder(entry: TaskEntry, folder: Path, wanted: list[str]) -> tuple[dict[str, list[Record]], list[str]]:
    with _of_folder(entry, folder):
        files, notes = find_files(folder, entry.splits, wanted)
    how: dict[str, Any] = {
        "columns": entry.columns,
        "numbered": entry.names is not None,
        "repair": entry.tags == "repair",
    }
    read = {split: read_file(file, **how) for split, file in files.items()}
    named = {split: name_tags(one.records, entry.names) for split, one in read.items()}
    return named, notes + [n for one in read.values() for n in one.notes]


def _read_dataset(entry: TaskEntry, wanted: list[str]) -> tuple[dict[str, list[Record]], list[str]]:
    dataset = cast(str, entry.dataset)  # which an entry without a path has
    return {
        split: hub_records(dataset, entry.config, split, entry.columns, entry.splits.get(split), entry.names)
        for split in wanted
    }, []


def subset(sentences: list[_T], fraction: float, seed: int, task_name: str) -> list[_T]:
    """A fixed random part of ``sentences``, in their order: the same for the same arguments on every machine and
    version.

    Sentences are ranked by SHA-256 of seed, task name and position, and the first round(fraction · n) are taken, so
    that a smaller fraction is contained in every larger one.

    Args:
        fraction: above 0, at most 1.
        seed: any whole number.

    Raises:
        ValueError: ``fraction`` lies outside. DataError: nothing is left.
    """
    if not isinstance(fraction, (int, float)) or not 0 < fraction <= 1:
        raise ValueError(f"fraction must be above 0 and at most 1, got {fraction!r}")
    count = math.floor(fraction * len(sentences) + 0.5)
    if count == 0:
        raise DataError(
            f"task {task_name!r}: fraction {fraction} of {len(sentences)} sentences leaves nothing; raise the fraction"
        )
    if count == len(sentences):
        return list(sentences)

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}\0{task_name}\0{index}".encode()).digest()

    return [sentences[index] for index in sorted(sorted(range(len(sentences)), key=rank)[:count])]
