"""The words of a run's tasks: what its model is given, and the file that they stand in."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hyperloader.checkpoints.atomic import write_text
from hyperloader.config import DESCRIPTION, TAGGING, HyperLoaderConfig
from hyperloader.data.heads import TOKEN_CLASSIFICATION
from hyperloader.data.sentence import DataError
from hyperloader.data.task_file import TaskEntry
from hyperloader.data.tasks import Task
from hyperloader.json_file import read_json
from hyperloader.task_words import names_of, words_for
from hyperloader.training.run_config import RunConfig
from hyperloader.validation import naming

FILE = "descriptions.json"
Words = dict[str, dict[str, Any]]  # arguments of a HyperLoaderConfig; none of a run whose model reads no words


def words_of_entries(config: RunConfig, entries: Sequence[TaskEntry]) -> Words:
    """The descriptions alone, of tasks that are not read yet; raises ``DataError`` for a task without one."""
    if not config.has_words:
        return {}
    for entry in entries:
        if not entry.description:
            raise DataError(
                f"{entry.where}: task {entry.name!r} has no description, which task_condition: {DESCRIPTION} needs; "
                "add description: TEXT"
            )
    return {"descriptions": {entry.name: list(entry.description) for entry in entries}}


def words_of_tasks(config: RunConfig, tasks: Sequence[Task]) -> Words:
    """The words of ``tasks``; of a model without heads for every label, which it has no labels to name."""
    if not config.has_words:
        return {}
    words = {task.name: task.label_words for task in tasks}
    if config.head != TOKEN_CLASSIFICATION:
        for task in tasks:
            names = names_of(task.labels, task.kind.name == TAGGING)
            words[task.name] = {name: words_for(name, task.label_words) for name in names}
    return {"descriptions": {task.name: list(task.description) for task in tasks}, "label_words": words}


def save_words(folder: Path, words: Words) -> None:
    """Write ``words``, if there are any, to the folder of a run."""
    if words:
        write_text(folder / FILE, json.dumps(words, ensure_ascii=False, indent=1))


def read_words(folder: Path, config: RunConfig, tasks: Sequence[str]) -> Words:
    """What ``save_words`` wrote; raises ``ValueError`` naming the file for what it cannot have written."""
    if not config.has_words:
        return {}
    words = read_json(folder / FILE, "the words of a run's tasks")
    with naming(folder / FILE):
        HyperLoaderConfig.from_dict({"tasks": list(tasks), "task_condition": DESCRIPTION, **words})
    return words
