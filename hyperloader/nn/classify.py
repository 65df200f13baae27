"""What task heads make of a backbone's output: logits and loss."""

from typing import Any

import torch
from torch import Tensor

from hyperloader.config import CLASSIFICATION, KINDS, MULTI_LABEL, REGRESSION
from hyperloader.nn.heads import TaskHeads, kind_of
from hyperloader.nn.loss import IGNORED, check_shape, loss_by_task, sequence_loss
from hyperloader.ops._modes import values_on_host


def classify(
    heads: TaskHeads,
    outputs: Any,
    labels: Tensor | None,
    tasks: int | Tensor,
    all_columns: bool,
    attention_mask: Tensor | None = None,
    targets: Tensor | None = None,
) -> Any:
    """Logits of a backbone's ``outputs`` and, with ``labels`` (batch, tokens), their mean cross entropy; with heads of
    whole sentences ``loss_by_task``, to which ``targets`` (batch, numbers) go.

    Returns:
        A ``TokenClassifierOutput``, with the backbone's hidden states and attentions where it was asked for them; its
        loss is 0 where nothing is labelled.

    Raises:
        ValueError: outputs as a tuple; labels of another shape, or beyond those of the sentence's task; targets without
            labels, of another shape, or for a task that has none.
        TypeError: labels or targets of another type.
    """
    from transformers.modeling_outputs import TokenClassifierOutput

    if isinstance(outputs, tuple):
        raise ValueError("return_dict must be True for a model with task heads, got False")
    logits = heads(outputs.last_hidden_state, tasks, all_columns, attention_mask)
    loss = None
    if targets is not None:
        _check_targets(targets, labels, heads, tasks)
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            raise TypeError(f"labels must be an int64 tensor of shape (batch, tokens), got {kind_of(labels)}")
        check_shape(labels, logits)
        if values_on_host(labels):
            _check_labels(labels, heads, tasks)
        if heads.of_sentences:
            loss = loss_by_task(logits, labels, targets, tasks, heads.kind_numbers)
        else:
            loss = sequence_loss(logits, labels)
    asked_for = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
    return TokenClassifierOutput(loss=loss, logits=logits, **asked_for)


def _check_labels(labels: Tensor, heads: TaskHeads, tasks: int | Tensor) -> None:
    if heads.of_sentences and (_has_targets(heads, tasks).view(-1, 1) & (labels != IGNORED)).any():
        raise ValueError(
            f"labels must be {IGNORED} where the task is a {REGRESSION} or {MULTI_LABEL}: its numbers go into targets"
        )
    wrong = (labels >= heads.sizes[tasks].view(-1, 1)) | ((labels < 0) & (labels != IGNORED))
    if wrong.any():
        raise ValueError(
            f"labels must be below the number of the task's labels or {IGNORED}, got {int(labels[wrong][0])}"
        )


def _check_targets(targets: Tensor, labels: Tensor | None, heads: TaskHeads, tasks: int | Tensor) -> None:
    if not isinstance(targets, Tensor) or not targets.is_floating_point() or targets.ndim != 2:
        raise TypeError(f"targets must be a tensor of floats of shape (batch, numbers), got {kind_of(targets)}")
    if labels is None:
        raise ValueError("labels must be given with targets, -100 where nothing is labelled, got None")
    if isinstance(labels, Tensor) and len(labels) != len(targets):
        raise ValueError(f"targets must be one row a sentence ({len(labels)}), got {len(targets)}")
    if values_on_host(targets):
        numbers = heads.sizes[tasks] * _has_targets(heads, tasks)
        beyond = torch.arange(targets.shape[1]) >= numbers.view(-1, 1)
        if (beyond & ~targets.isnan()).any():
            raise ValueError(
                f"targets must be NaN but for the number of a {REGRESSION} and one a label of a {MULTI_LABEL} task"
            )


def _has_targets(heads: TaskHeads, tasks: int | Tensor) -> Tensor:
    """Whether what is wanted of each sentence are numbers, not a label."""
    return heads.kind_numbers[tasks] > KINDS.index(CLASSIFICATION)
