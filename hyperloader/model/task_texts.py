"""What is embedded for a task: its description with its labels, and the text of every row of its head."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from hyperloader.config import REGRESSION, TAGGING, HyperLoaderConfig
from hyperloader.task_words import head_texts, names_of, words_for

Encode = Callable[[Sequence[str]], Tensor]  # texts -> their embeddings (texts, width)


class TaskTexts(NamedTuple):
    """Embeddings of a task's words.

    task: (phrasings, width), the mean of a phrasing's embedding and the mean embedding of the labels' words, where
    there are any. labels: (labels, width), of the rows of its head; None where there are no heads.
    """

    task: Tensor
    labels: Tensor | None


def task_texts(config: HyperLoaderConfig, tasks: Sequence[str], encode: Encode) -> list[TaskTexts]:
    """The texts of ``tasks``, each distinct one embedded once."""
    about = {task: (config.descriptions or {})[task] for task in tasks}
    labels = {task: _label_texts(config, task) for task in tasks}
    rows = {task: _row_texts(config, task) for task in tasks}
    texts = [text for task in tasks for text in (*about[task], *labels[task], *rows[task])]
    distinct = list(dict.fromkeys(texts))
    found = dict(zip(distinct, encode(distinct), strict=True))

    def of(some: Sequence[str]) -> Tensor:
        return torch.stack([found[text] for text in some])

    return [
        TaskTexts(
            (of(about[task]) + of(labels[task]).mean(0)) / 2 if labels[task] else of(about[task]),
            of(rows[task]) if rows[task] else None,
        )
        for task in tasks
    ]


def _label_texts(config: HyperLoaderConfig, task: str) -> list[str]:
    words = (config.label_words or {}).get(task, {})
    if config.labels is None or config.kind_of(task) == REGRESSION:  # whose label is no word for anything
        return list(words.values())
    names = names_of(config.labels[task], config.kind_of(task) == TAGGING)
    return [words_for(name, words) for name in names]


def _row_texts(config: HyperLoaderConfig, task: str) -> list[str]:
    if config.labels is None:
        return []
    words = (config.label_words or {}).get(task, {})
    return head_texts(config.labels[task], config.kind_of(task) == TAGGING, words)
