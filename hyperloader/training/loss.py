"""What one training step computes."""

from collections.abc import Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn

from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.loss import IGNORED, loss_by_task, sequence_loss, text_loss_by_task
from hyperloader.nn.quantized import leave_out_of_ddp


def has_whole_sentences(model: nn.Module) -> bool:
    """Whether any task of ``model`` is one of whole sentences."""
    heads = getattr(model, "heads", None)
    return isinstance(heads, TaskHeads) and heads.of_sentences


def text_logits(model: nn.Module, inputs: Mapping[str, Tensor], causal: bool) -> tuple[Tensor, Tensor]:
    """The logits of a batch, and their labels: of a decoder those of the next token."""
    labels = inputs["labels"]
    if not causal:
        return model(**inputs).logits, labels
    logits = model(**{name: tensor for name, tensor in inputs.items() if name != "labels"}).logits
    return logits[:, :-1], labels[:, 1:]


class SharesLoss:
    """The loss of one who knows how often each label comes in each task, and nothing of a sentence: -log of its share,
    for the batches that it is given.

    Args:
        counts: of each task's labels, how often it is met.
        device: of the batches.
    """

    def __init__(self, counts: Sequence[Tensor], device: torch.device) -> None:
        self._losses = torch.zeros(len(counts), max(len(of_labels) for of_labels in counts), device=device)
        for row, of_labels in zip(self._losses, counts, strict=True):
            row[: len(of_labels)] = -(of_labels / of_labels.sum()).log()
        self._total = torch.zeros((), device=device)
        self._updates = 0

    def add(self, labels: Tensor, task_ids: Tensor, labelled: Tensor | int, begins: bool) -> None:
        """Count a batch, divided by the ``labelled`` tokens of its update; ``begins``: it is the first one of that."""
        of_labels = self._losses[task_ids.reshape(-1, 1), labels.clamp(min=0)]
        self._total += of_labels.masked_fill(labels == IGNORED, 0).sum() / labelled
        self._updates += begins

    def take(self) -> float | None:
        """The mean over the updates since the last time; None where there was none."""
        mean = self._total.item() / self._updates if self._updates else None
        self._total.zero_()
        self._updates = 0
        return mean


class SummedLoss(nn.Module):
    """A model and its loss, summed over the labelled tokens of a batch; with tasks of whole sentences ``loss_by_task``
    summed over its sentences, which the model's own loss is the mean of.

    causal: of a model that writes text for tasks of several kinds, whether it is a decoder: the loss is then
    ``text_loss_by_task``, summed likewise.
    """

    def __init__(self, model: nn.Module, label_smoothing: float, causal: bool | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.model = model
        leave_out_of_ddp(self, "model", model)
        self.label_smoothing = label_smoothing
        self.of_text = causal is not None
        self.by_task = self.of_text or has_whole_sentences(model)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task_ids: Tensor, **others: Tensor
    ) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "task_ids": task_ids}
        if self.of_text:
            logits, labels = text_logits(self.model, inputs, bool(self.causal))
            return text_loss_by_task(logits, labels, task_ids, self.label_smoothing) * len(task_ids)
        output = self.model(**inputs, **others)
        if self.by_task:
            loss = output.loss
            if self.label_smoothing:
                kinds = cast(TaskHeads, self.model.heads).kind_numbers
                loss = loss_by_task(output.logits, labels, others.get("targets"), task_ids, kinds, self.label_smoothing)
            return loss * len(task_ids)
        if self.label_smoothing:
            return sequence_loss(output.logits, labels, "sum", self.label_smoothing)
        return output.loss * labels.ne(IGNORED).sum()
