"""What one training step computes."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, cast

import torch
from torch import Tensor, nn

from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.loss import IGNORED, label_weights, loss_by_task, sequence_loss, text_loss_by_task
from hyperloader.nn.quantized import leave_out_of_ddp

if TYPE_CHECKING:
    from accelerate import Accelerator


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


def weights_of_update(
    batches: Sequence[Mapping[str, Tensor]], tasks: int, causal: bool, accelerator: "Accelerator", dtype: torch.dtype
) -> Tensor:
    """``label_weights`` over all batches of an update, on all processes: (tasks,) on the processes' device."""
    labels, sentences = torch.zeros(2, tasks, dtype=torch.int64)
    for batch in batches:
        of_batch, task_ids = batch["labels"], batch["task_ids"].cpu()
        count = ((of_batch[:, 1:] if causal else of_batch) != IGNORED).sum(-1).cpu()
        if "targets" in batch:
            count = count + (~batch["targets"].isnan()).any(-1).cpu()
        labels.index_add_(0, task_ids, count)
        sentences.index_add_(0, task_ids, torch.ones_like(task_ids))
    counts = accelerator.reduce(torch.stack([labels, sentences]).to(accelerator.device), "sum")
    return label_weights(*counts.to(dtype))


class SharesLoss:
    """The loss of a guess that gives each label its share in its task, whatever the sentence: -log of that share, for
    the batches that it is given.

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
    summed over its sentences, which the model's own loss is the mean of, or by the ``weights`` of its update.

    causal: of a model that writes text for tasks of several kinds, whether it is a decoder: the loss is then
    ``text_loss_by_task``, summed likewise. ``dtype`` is that of the loss.
    """

    def __init__(self, model: nn.Module, label_smoothing: float, causal: bool | None = None) -> None:
        super().__init__()
        self.causal = causal
        self.model = model
        leave_out_of_ddp(self, "model", model)
        self.label_smoothing = label_smoothing
        self.of_text = causal is not None
        self.by_task = self.of_text or has_whole_sentences(model)
        trained = {parameter.dtype for parameter in model.parameters() if parameter.requires_grad}
        self.dtype = torch.float64 if torch.float64 in trained else torch.float32

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor,
        task_ids: Tensor,
        weights: Tensor | None = None,
        **others: Tensor,
    ) -> Tensor:
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, "task_ids": task_ids}
        if self.of_text:
            logits, labels = text_logits(self.model, inputs, bool(self.causal))
            loss = text_loss_by_task(logits, labels, task_ids, self.label_smoothing, weights)
            return loss * len(task_ids) if weights is None else loss
        if self.by_task and (self.label_smoothing or weights is not None):  # not the model's own loss
            kinds, targets = cast(TaskHeads, self.model.heads).kind_numbers, others.pop("targets", None)
            logits = self.model(input_ids=input_ids, attention_mask=attention_mask, task_ids=task_ids, **others).logits
            loss = loss_by_task(logits, labels, targets, task_ids, kinds, self.label_smoothing, weights)
            return loss * len(task_ids) if weights is None else loss
        output = self.model(**inputs, **others)
        if self.by_task:
            return output.loss * len(task_ids)
        if self.label_smoothing:
            return sequence_loss(output.logits, labels, "sum", self.label_smoothing)
        return output.loss * labels.ne(IGNORED).sum()
