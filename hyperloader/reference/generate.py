"""Weight generation: every head maps the same conditions, ``out[i] = condition · weights[i]ᵀ + biases[i]``."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.reference.batches import accumulate_dtype


def forward(
    condition: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return one tensor (rows, n_i) per head, in ``dtype`` or else the dtype of ``condition``."""
    dtype = condition.dtype if dtype is None else dtype
    rows = condition.to(accumulate_dtype(condition.dtype))
    return [
        functional.linear(rows, weight.to(rows.dtype), None if bias is None else bias.to(rows.dtype)).to(dtype)
        for weight, bias in zip(weights, biases, strict=True)
    ]


def backward(
    grads: Sequence[Tensor], condition: Tensor, weights: Sequence[Tensor], has_bias: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of ``condition``, of every weight and, in the accumulation dtype, of every bias."""
    rows = condition.to(accumulate_dtype(condition.dtype))
    grads = [grad.to(rows.dtype) for grad in grads]
    grad_condition = torch.zeros_like(rows)
    for grad, weight in zip(grads, weights, strict=True):
        grad_condition = torch.addmm(grad_condition, grad, weight.to(rows.dtype))
    grad_weights = [(grad.mT @ rows).to(weight.dtype) for grad, weight in zip(grads, weights, strict=True)]
    grad_biases = [grad.sum(0) for grad, biased in zip(grads, has_bias, strict=True) if biased]
    return [grad_condition.to(condition.dtype), *grad_weights, *grad_biases]
