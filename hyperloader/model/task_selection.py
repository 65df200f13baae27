"""Whose weights a batch needs: those of one task, or of each sentence's own."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.heads import kind_of
from hyperloader.ops._modes import values_on_host


class NamedTask:
    """A task by its ``name``, its ``number`` among the tasks, and the same as ``index``, an int64 tensor (), which a
    graph takes as an input: a name would be a constant of the graph, and every other name another graph."""

    def __init__(self, name: str, number: int, index: Tensor) -> None:
        self.name = name
        self.number = number
        self.index = index


@dataclass(frozen=True)
class TaskSelection:
    """The tasks of a batch.

    ``tasks`` is the number of the one task, in a trace a tensor (); or the tasks of the sentences, int64 (batch,).
    """

    tasks: int | Tensor

    @classmethod
    def of(
        cls, config: HyperLoaderConfig, task: str | NamedTask | None, task_ids: Tensor | None, sentences: int | None
    ) -> "TaskSelection":
        """What ``task`` or ``task_ids``, one of them, select for a batch of so many ``sentences``, None if unknown.

        Raises:
            ValueError, TypeError, IndexError: an unknown task, a task id out of range, neither or both of them.
        """
        if (task is None) == (task_ids is None):
            raise ValueError(f"task or task_ids must be given, got {'neither' if task is None else 'both'}")
        if isinstance(task, NamedTask):
            return cls(task.index if torch.compiler.is_compiling() else task.number)
        if task is not None:
            return cls(config.task_id(task))
        return cls(_checked(task_ids, len(config.tasks), sentences))

    def check_trains(self, trained: int, config: HyperLoaderConfig) -> None:
        """Raise ``ValueError`` for a batch without the task ``trained``, the only one that is trained.

        Task ids on another device than the CPU, in a compiled model and in FakeTensorMode, are not checked.
        """
        if isinstance(self.tasks, int):
            found, other = self.tasks == trained, config.tasks[self.tasks]
        elif not values_on_host(self.tasks):
            return
        else:
            found, other = bool((self.tasks == trained).any()), "none of it"
        if not found:
            raise ValueError(
                f"a batch to train on must hold the task {config.tasks[trained]!r}, the only one that is trained since "
                f"freeze_except_task_embedding, got {other!r}: call unfreeze() first, or eval() to predict"
            )


def number_of_sentences(input_ids: Tensor | None, arguments: Mapping[str, Any]) -> int | None:
    """Sentences of a batch, as far as ``input_ids`` and the backbone's other ``arguments`` tell."""
    if input_ids is not None:
        return input_ids.shape[0]
    for name in ("inputs", "inputs_embeds", "encoder_outputs"):
        given = arguments.get(name)
        if given is not None:
            return (given if isinstance(given, Tensor) else given[0]).shape[0]
    return None


def _checked(task_ids: Any, num_tasks: int, sentences: int | None) -> int | Tensor:
    """``task_ids``, or the one task that they all name."""
    if not isinstance(task_ids, Tensor) or task_ids.dtype != torch.int64 or task_ids.ndim != 1:
        raise TypeError(f"task_ids must be an int64 tensor of shape (batch,), got {kind_of(task_ids)}")
    if sentences is not None and task_ids.shape[0] != sentences:
        raise ValueError(
            f"task_ids must have one entry per sentence, got {task_ids.shape[0]} for {sentences} sentences"
        )
    if values_on_host(task_ids) and task_ids.numel():
        low, high = (int(bound) for bound in task_ids.aminmax())
        if low < 0 or high >= num_tasks:
            raise IndexError(f"task_ids must be from 0 to {num_tasks - 1}, got {low if low < 0 else high}")
        if low == high:
            return low
    return task_ids
