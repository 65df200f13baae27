"""The training loss over labelled tokens."""

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.nn.heads import IGNORED, values_on_host


def sequence_loss(logits: Tensor, labels: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled tokens: ``(1 - e) * -log p(label) + e * mean over classes of -log p(class)``.

    Args:
        logits: (batch, tokens, classes). A class at ``-inf`` does not exist for that token: it has no share in the
            smoothing either.
        labels: (batch, tokens), ``-100`` where there is nothing to learn.
        reduction: ``sum`` or ``mean`` over the labelled tokens. No labelled token at all gives zero.
        label_smoothing: ``e``, at least 0 and below 1.

    Returns:
        A scalar in float32 (float64 for float64 logits).
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be sum or mean, got {reduction!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels must have shape {tuple(logits.shape[:-1])}, got {tuple(labels.shape)}")
    labelled = labels != IGNORED
    if values_on_host(labels):  # as few rows as are labelled
        logits, labels = logits[labelled], labels[labelled]
    else:  # how many they are is known on the device alone; the others count nothing, whatever they hold
        logits, labels = logits.masked_fill(~labelled[..., None], 0).flatten(0, -2), labels.flatten()
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_probabilities = functional.log_softmax(logits, dim=-1)
    losses = functional.nll_loss(log_probabilities, labels, ignore_index=IGNORED, reduction="none")
    if label_smoothing:
        exists = logits != -torch.inf
        uniform = -log_probabilities.masked_fill(~exists, 0).sum(-1) / exists.sum(-1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform.masked_fill(labels == IGNORED, 0)
    total = losses.sum()
    return total if reduction == "sum" else total / labelled.sum().clamp_min(1)


class SummedLoss(nn.Module):
    """A model and its loss, summed over the labelled tokens of a batch: what one training step computes."""

    def __init__(self, model: nn.Module, label_smoothing: float) -> None:
        super().__init__()
        self.model = model
        self.label_smoothing = label_smoothing

    def forward(self, input_ids: Tensor, attention_mask: Tensor, labels: Tensor, task_ids: Tensor) -> Tensor:
        output = self.model(input_ids=input_ids, attention_mask=attention_mask, labels=labels, task_ids=task_ids)
        if self.label_smoothing:
            return sequence_loss(output.logits, labels, "sum", self.label_smoothing)
        return output.loss * labels.ne(IGNORED).sum()
