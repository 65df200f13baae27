"""The training loss over labelled tokens."""

import torch
from torch.nn import functional


def sequence_loss(
    logits: torch.Tensor, labels: torch.Tensor, reduction: str = "mean", label_smoothing: float = 0.0
) -> torch.Tensor:
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
    if logits.dtype in (torch.float16, torch.bfloat16):
        logits = logits.float()
    labelled = labels != -100  # never an index: how many there are is known on the device alone
    log_probabilities = functional.log_softmax(logits, dim=-1)
    losses = functional.nll_loss(
        log_probabilities.flatten(0, 1), labels.flatten(), ignore_index=-100, reduction="none"
    ).view_as(labels)
    if label_smoothing:
        exists = logits != -torch.inf
        uniform = -log_probabilities.masked_fill(~exists, 0).sum(-1) / exists.sum(-1).clamp_min(1)
        losses = (1 - label_smoothing) * losses + label_smoothing * uniform.masked_fill(~labelled, 0)
    total = losses.sum()
    return total if reduction == "sum" else total / labelled.sum().clamp_min(1)
