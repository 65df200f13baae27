"""Label smoothing of transformers' Trainer for tasks of unequal numbers of labels."""

import functools
from typing import Any

import torch
from torch import Tensor

from hyperloader.nn.heads import IGNORED


def smoothed_over_own_labels(
    logits: Tensor, labels: Tensor, epsilon: float, count: Tensor | int | None = None, ignored: int = IGNORED
) -> Tensor:
    """``(1 - epsilon) · -log p(label) + epsilon · mean over labels of -log p``, a mean over the labelled tokens.

    Args:
        logits: (batch, tokens, labels); a label at -inf does not exist for that token.
        labels: (batch, tokens) int64, ``ignored`` where nothing is labelled.
        count: to divide the sum by; None is the number of labelled tokens.
    """
    labelled = labels != ignored
    exists = logits != -torch.inf
    surprises = -torch.log_softmax(logits.masked_fill(~labelled[..., None], 0).float(), -1)
    own = surprises.gather(-1, labels.clamp_min(0)[..., None])[..., 0]
    uniform = surprises.masked_fill(~exists, 0).sum(-1) / exists.sum(-1).clamp_min(1)
    total = ((1 - epsilon) * own + epsilon * uniform).masked_fill(~labelled, 0).sum()
    return total / (labelled.sum().clamp_min(1) if count is None else count)


@functools.cache
def teach_trainer() -> None:
    """Let ``LabelSmoother``, which sums over all columns, leave out those at -inf in a ``TokenClassifierOutput``.

    Without such columns its result is what it was.
    """
    from transformers.modeling_outputs import TokenClassifierOutput
    from transformers.trainer_pt_utils import LabelSmoother

    smoother: Any = LabelSmoother
    plain = smoother.__call__

    @functools.wraps(plain)
    def smoothed(self: Any, model_output: Any, labels: Tensor, *arguments: Any, **options: Any) -> Tensor:
        loss = plain(self, model_output, labels, *arguments, **options)
        if not isinstance(model_output, TokenClassifierOutput):
            return loss
        logits: Any = model_output.logits
        count = options.get("num_items_in_batch")
        own = smoothed_over_own_labels(logits, labels, self.epsilon, count, self.ignore_index)
        return torch.where((logits == -torch.inf).any(), own.to(loss.dtype), loss)  # no look at a device

    smoother.__call__ = smoothed
