"""Adding a task to a trained model: the config that names it, its first task embedding."""

import copy
import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor

from hyperloader.config import TAGGING, HyperLoaderConfig
from hyperloader.task_words import phrasings
from hyperloader.validation import check_names, listed, nearest, shown

MEAN = "mean"


def check_has_task_embedding(config: HyperLoaderConfig, what: str) -> None:
    """Raise ``ValueError``, saying ``what`` was asked for, for a model without task embedding."""
    if config.generator == "table":
        raise ValueError(
            f"{what} needs a model with generator='hypernetwork', got 'table', which has no task embedding: train a "
            "model of its own for the task"
        )


def extended_config(
    config: HyperLoaderConfig,
    name: str,
    labels: Sequence[str] | None,
    kind: str = TAGGING,
    units: Sequence[float] | None = None,
    description: str | Sequence[str] | None = None,
    label_words: Mapping[str, str] | None = None,
) -> HyperLoaderConfig:
    """``config`` with the task ``name`` behind the others; raises ``ValueError`` for a name that exists, labels missing
    or without use."""
    if name in config.tasks:
        raise ValueError(
            f"name must be new, got {name!r}, which is a task already: choose another name, or train that task with "
            f"freeze_except_task_embedding({name!r})"
        )
    if config.labels is None and labels is not None:
        raise ValueError(f"labels must be None for a model without token-classification heads, got {shown(labels)}")
    if config.labels is not None and labels is None:
        raise ValueError(
            "labels must be given for a model with token-classification heads, such as ['O', 'B-city', 'I-city'], "
            "got None"
        )
    check_names("tasks", [name])
    given: dict[str, Any] = {
        "labels": labels,
        "kinds": None if kind == TAGGING else kind,
        "units": units,
        "descriptions": None if description is None else phrasings("description", description),
        "label_words": label_words,
    }
    own: dict[str, Any] = {field: None if value is None else {name: value} for field, value in given.items()}
    # What is new is checked alone: with thousands of tasks the others would take longer with every one that is added.
    alone = dataclasses.replace(config, tasks=(name,), **own)
    extended = copy.copy(config)
    object.__setattr__(extended, "tasks", (*config.tasks, name))
    for field in given:
        before, new = getattr(config, field), getattr(alone, field)
        object.__setattr__(extended, field, before if new is None else {**(before or {}), **new})
    return extended


def words_of(config: HyperLoaderConfig, description: Any, label_words: Any, init: str) -> dict[str, Any]:
    """The words of a new task as arguments of ``extended_config``, none for a model without descriptions; raises
    ``ValueError`` for words missing or without use."""
    if config.descriptions is None:
        for argument, value in (("description", description), ("label_words", label_words)):
            if value is not None:
                raise ValueError(f"{argument} must be None for a model without descriptions, got {shown(value)}")
        return {}
    if description is None:
        raise ValueError(
            "description must be given for a model with task_condition='description', such as 'Find names of cities in "
            "questions about flights.', got None"
        )
    if init != MEAN:
        raise ValueError(f"init must not be given with a description, where the task begins, got {shown(init)}")
    return {"description": description, "label_words": label_words}


def first_embedding(weight: Tensor, init: str, tasks: Sequence[str]) -> Tensor:
    """The first embedding (task_embedding_dim,) of a new task behind ``tasks``, whose embeddings are the rows of
    ``weight``: their mean, or that of the task ``init``."""
    if init == MEAN and MEAN in tasks:
        raise ValueError(f"init must not be {MEAN!r}, which is a task here and not the mean of all: name another task")
    if init == MEAN:
        return weight.mean(0)
    if init not in tasks:
        known = f"{MEAN!r} or one of the tasks {listed(tasks, 'tasks')}"
        raise ValueError(f"init must be {known}, got {shown(init)}{nearest(init, tasks)}")
    return weight[tasks.index(init)]
