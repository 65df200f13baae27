"""New tasks for a trained model, and training one task without moving the others: methods of HyperLoaderModel."""

import dataclasses
from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperloader.config import HyperLoaderConfig
from hyperloader.validation import listed, nearest, shown

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel

MEAN = "mean"


@torch.inference_mode(False)  # new parameters are to be trained
def add_task(self: "HyperLoaderModel", name: str, init: str = MEAN, labels: Sequence[str] | None = None) -> int:
    """Add a task behind the others, which stay as they are: a row of the task embedding and, with ``config.labels``, a
    head. ``hyperloader_config`` is then another one. An optimizer made before does not know the new parameters: make a
    new one.

    Args:
        name: of the new task.
        init: ``mean`` starts at the mean of all tasks' embeddings, the name of a task at a copy of its own.
        labels: BIO labels of the new task, to be given if, and only if, the model has token-classification heads.

    Returns:
        The task's index: its id in ``task_ids``.

    Raises:
        ValueError, TypeError: a name that exists, an unknown task in ``init``, labels missing or without use, a model
            with ``generator="table"`` or frozen except for one task. The model is then as it was.
    """
    self._check_attached()
    _check_generator(self.hyperloader_config, "add_task")
    embedding = self.task_embedding
    if embedding.row is not None:
        trained = self.hyperloader_config.tasks[embedding.trained_task]
        raise ValueError(f"add_task needs a model that is not frozen except for {trained!r}: call unfreeze() first")
    config = _extended(self.hyperloader_config, name, labels)
    weight = embedding.extended(_first_value(embedding.weight.detach(), init, self.hyperloader_config.tasks))
    head = None if self.heads is None else self.heads.new_head(len(config.labels[name]))
    # Whatever can fail has been done; from here on the model changes.
    self.hyperloader_config = config
    embedding.weight, embedding.num_embeddings = weight, len(config.tasks)
    if head is not None:
        self.heads.append(head)
    return len(config.tasks) - 1


@torch.inference_mode(False)
def freeze_except_task_embedding(self: "HyperLoaderModel", name: str) -> None:
    """Leave nothing to be trained but the embedding of the task ``name`` and, with ``config.labels``, its head.

    Whatever optimizer then trains the model, with decay or momentum, every other task computes the same bits as before:
    the backbone's norms are frozen too. An optimizer made before does not hold what is trained now: make a new one,
    here and after ``unfreeze()``. Saving and loading work as always.

    Raises:
        ValueError: an unknown task, or a model with ``generator="table"``.
    """
    self._check_attached()
    _check_generator(self.hyperloader_config, "freeze_except_task_embedding")
    task = self.hyperloader_config.task_id(name)
    self.unfreeze()
    self._unfrozen = {path: parameter.requires_grad for path, parameter in self.named_parameters()}
    for parameter in self.parameters():
        parameter.requires_grad_(False)
        parameter.grad = None  # even an optimizer over all parameters skips what has no gradient
    self.task_embedding.train_only(task)
    if self.heads is not None:
        self.heads.heads[task].requires_grad_(True)


def check_trained(model: "HyperLoaderModel", which: int | Tensor) -> None:
    """Raise ``ValueError`` for a step of training that trains nothing: a batch without the one task that is trained.

    ``which`` is the task of the batch, or (batch,) of its sentences; on another device than the CPU, and in a compiled
    model, that is not looked at.
    """
    if not (model.training and torch.is_grad_enabled()):
        return
    trained = getattr(getattr(model, "task_embedding", None), "trained_task", None)
    if trained is None or (isinstance(which, Tensor) and (torch.compiler.is_compiling() or not which.is_cpu)):
        return
    if not (which == trained if isinstance(which, int) else bool((which == trained).any())):
        tasks = model.hyperloader_config.tasks
        other = tasks[which] if isinstance(which, int) else "none of it"
        raise ValueError(
            f"a batch to train on must hold the task {tasks[trained]!r}, the only one that is trained since "
            f"freeze_except_task_embedding, got {other!r}: call unfreeze() first, or eval() to predict"
        )


@torch.inference_mode(False)
def unfreeze(self: "HyperLoaderModel") -> None:
    """Train again what was trained before ``freeze_except_task_embedding``; without that, nothing happens."""
    self._check_attached()
    if self._unfrozen is None:
        return
    self.task_embedding.train_all()
    for path, requires_grad in self._unfrozen.items():
        self.get_parameter(path).requires_grad_(requires_grad)
    self._unfrozen = None


def _check_generator(config: HyperLoaderConfig, what: str) -> None:
    if config.generator == "table":
        raise ValueError(
            f"{what} needs a model with generator='hypernetwork', got 'table', which has no task embedding: train a "
            "model of its own for the task"
        )


def _extended(config: HyperLoaderConfig, name: str, labels: Sequence[str] | None) -> HyperLoaderConfig:
    if name in config.tasks:
        raise ValueError(
            f"name must be new, got {name!r}, which is a task already: choose another name, or train that task with "
            f"freeze_except_task_embedding({name!r})"
        )
    if config.labels is None:
        if labels is not None:
            raise ValueError(f"labels must be None for a model without token-classification heads, got {shown(labels)}")
        return dataclasses.replace(config, tasks=(*config.tasks, name))
    if labels is None:
        raise ValueError(
            "labels must be given for a model with token-classification heads, such as ['O', 'B-city', 'I-city'], "
            "got None"
        )
    return dataclasses.replace(config, tasks=(*config.tasks, name), labels={**config.labels, name: labels})


def _first_value(weight: Tensor, init: str, tasks: Sequence[str]) -> Tensor:
    if init == MEAN and MEAN in tasks:
        raise ValueError(f"init must not be {MEAN!r}, which is a task here and not the mean of all: name another task")
    if init == MEAN:
        return weight.mean(0)
    if init not in tasks:
        known = f"{MEAN!r} or one of the tasks {listed(tasks, 'tasks')}"
        raise ValueError(f"init must be {known}, got {shown(init)}{nearest(init, tasks)}")
    return weight[tasks.index(init)]
