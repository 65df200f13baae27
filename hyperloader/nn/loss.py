"""The loss over labelled tokens."""

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.nn.modes import values_on_host

IGNORED = -100  # the label of a token without one


def sequence_loss(logits: Tensor, labels: Tensor, reduction: str = "mean", label_smoothing: float = 0.0) -> Tensor:
    """Cross-entropy over the labelled tokens: ``(1 - e) * -log p(label) + e * mean over classes of -log p(class)``.

    Args:
        logits: (batch, tokens, classes). A class at ``-inf`` does not exist for that token and takes no part in the
            smoothing either.
        labels: (batch, tokens) int64, ``-100`` for a token without a label.
        reduction: ``sum`` or ``mean`` over the labelled tokens; without any, the loss is zero.
        label_smoothing: ``e``, at least 0 and below 1.

    Returns:
        A scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: an unknown reduction, a smoothing outside its range, labels of another shape.
    """
    if reduction not in ("sum", "mean"):
        raise ValueError(f"reduction must be sum or mean, got {reduction!r}")
    if not 0 <= label_smoothing < 1:
        raise ValueError(f"label_smoothing must be at least 0 and below 1, got {label_smoothing}")
    check_shape(labels, logits)
    labelled = labels != IGNORED
    count: int | Tensor
    if values_on_host(labels):  # only the labelled rows are computed
        logits, labels = logits[labelled], labels[labelled]
        count = max(1, len(labels))
    else:  # the device alone knows how many there are; the other rows are computed from zeros, whatever they hold
        logits, labels = logits.masked_fill(~labelled[..., None], 0).flatten(0, -2), labels.flatten()
        count = labelled.sum().clamp_min(1)
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    log_probabilities = functional.log_softmax(logits, dim=-1)
    total = functional.nll_loss(log_probabilities, labels, ignore_index=IGNORED, reduction="sum")
    if label_smoothing:
        exists = logits != -torch.inf
        uniform = -log_probabilities.masked_fill(~exists, 0).sum(-1) / exists.sum(-1)
        total = (1 - label_smoothing) * total + label_smoothing * uniform.masked_fill(labels == IGNORED, 0).sum()
    return total if reduction == "sum" else total / count


def check_shape(labels: Tensor, logits: Tensor) -> None:
    """Raise ``ValueError`` unless there is one label for every token of ``logits`` (batch, tokens, classes)."""
    if labels.shape != logits.shape[:-1]:
        raise ValueError(f"labels must have shape {tuple(logits.shape[:-1])}, got {tuple(labels.shape)}")
