"""Label smoothing of transformers' Trainer for tasks of unequal numbers of labels."""

import functools
from typing import Any

import torch
from torch import Tensor

from hyperloader.nn.loss import IGNORED, sequence_loss


@functools.cache
def patch_label_smoother() -> None:
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
        labels = labels.masked_fill(labels == self.ignore_index, IGNORED)
        own = sequence_loss(logits, labels, "mean" if count is None else "sum", self.epsilon)
        own = own if count is None else own / count
        return torch.where((logits == -torch.inf).any(), own.to(loss.dtype), loss)  # without waiting for the device

    smoother.__call__ = smoothed
