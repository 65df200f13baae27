"""The tasks of a model: adding one, and training one alone."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from hyperloader.config import TAGGING
from hyperloader.model import new_tasks
from hyperloader.model.attached_model import AttachedModel
from hyperloader.model.task_texts import task_texts


class GrowingModel(AttachedModel):
    """An ``AttachedModel`` that takes more tasks."""

    task_embedding: Any  # a TaskEmbedding
    heads: Any  # TaskHeads, or None

    @torch.inference_mode(False)  # new parameters are to be trained
    def add_task(
        self,
        name: str,
        init: str = new_tasks.MEAN,
        labels: Sequence[str] | None = None,
        kind: str = TAGGING,
        units: Sequence[float] | None = None,
        description: str | Sequence[str] | None = None,
        label_words: Mapping[str, str] | None = None,
    ) -> int:
        """Add a task behind the others, which stay as they are: a row of the task embedding and, with
        ``config.labels``, a head. ``hyperloader_config`` is then another one. An optimizer made before does not know
        the new parameters: make a new one.

        Args:
            name: of the new task.
            init: ``mean`` starts at the mean of all tasks' embeddings, the name of a task at a copy of its own.
            labels: labels of the new task, to be given if, and only if, the model has heads; of a regression one.
            kind, units: as in ``HyperLoaderConfig``, of the new task.
            description, label_words: with ``config.task_condition="description"``, what the task is about, as in
                ``HyperLoaderConfig``: it begins with its words alone, a row of zeros and a head of zeros, and ``init``
                is of no use.

        Returns:
            The task's index: its id in ``task_ids``.

        Raises:
            ValueError, TypeError: a name that exists, an unknown task in ``init``, labels missing or without use, a
                model with ``generator="table"`` or frozen except for one task. The model is then as it was.
        """
        self._check_attached()
        self._check_not_sharded("add_task")
        new_tasks.check_has_task_embedding(self.hyperloader_config, "add_task")
        embedding, tasks = self.task_embedding, self.hyperloader_config.tasks
        if embedding.trained_task is not None:
            trained = tasks[embedding.trained_task]
            raise ValueError(f"add_task needs a model that is not frozen except for {trained!r}: call unfreeze() first")
        words = new_tasks.words_of(self.hyperloader_config, description, label_words, init)
        config = new_tasks.extended_config(self.hyperloader_config, name, labels, kind, units, **words)
        texts = task_texts(config, [name], self.text_embeddings)[0] if words else None
        rows = embedding.weight.detach()
        first = torch.zeros_like(rows[0]) if words else new_tasks.first_embedding(rows, init, tasks)
        weight, heads, known = embedding.extended(first[None]), self.heads, config.labels
        head = None if heads is None or known is None else heads.new_head(len(known[name]))
        # Whatever can fail has been done; from here on the model changes.
        self.hyperloader_config = config
        embedding.weight, embedding.num_embeddings = weight, len(config.tasks)
        if texts is not None:
            embedding.append_texts(texts.task)
        if heads is not None and head is not None:
            heads.append(head, config.kind_of(name), *([] if texts is None else [texts.labels]))
        return len(config.tasks) - 1

    @torch.inference_mode(False)
    def freeze_except_task_embedding(self, name: str) -> None:
        """Leave nothing to be trained but the embedding of the task ``name`` and, with ``config.labels``, its head.

        Whatever optimizer then trains the model, with decay or momentum, every other task computes the same bits as
        before: the backbone's norms are frozen too. An optimizer made before does not hold what is trained now: make a
        new one, here and after ``unfreeze()``. Saving and loading work as always.

        Raises:
            ValueError: an unknown task, or a model with ``generator="table"``.
        """
        self._check_attached()
        self._check_not_sharded("freeze_except_task_embedding")
        new_tasks.check_has_task_embedding(self.hyperloader_config, "freeze_except_task_embedding")
        task = self.hyperloader_config.task_id(name)
        self.unfreeze()
        self._trained_before = {path: parameter.requires_grad for path, parameter in self.named_parameters()}
        for parameter in self.parameters():
            parameter.requires_grad_(False)
            parameter.grad = None  # even an optimizer over all parameters skips what has no gradient
        self.task_embedding.train_only(task)
        if self.heads is not None:
            self.heads.train_only(task)

    @torch.inference_mode(False)
    def unfreeze(self) -> None:
        """Train again what was trained before ``freeze_except_task_embedding``; without that, nothing happens."""
        self._check_attached()
        if self._trained_before is not None:
            self.task_embedding.train_all()
            if self.heads is not None:
                self.heads.train_all()
            for path, requires_grad in self._trained_before.items():
                self.get_parameter(path).requires_grad_(requires_grad)
            self._trained_before = None
