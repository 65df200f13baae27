"""Weight generation: every head maps the same conditions, ``out[i] = condition · weights[i]ᵀ + biases[i]``."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional


def forward(
    condition: Tensor, weights: Sequence[Tensor], biases: Sequence[Tensor | None], dtype: torch.dtype | None
) -> list[Tensor]:
    """Return one tensor (rows, n_i) per head, in ``dtype`` or else the dtype of ``condition``."""
    dtype = condition.dtype if dtype is None else dtype
    return [
        functional.linear(condition, weight.to(condition.dtype), None if bias is None else bias.to(condition.dtype)).to(
            dtype
        )
        for weight, bias in zip(weights, biases, strict=True)
    ]


def backward(
    grads: Sequence[Tensor], condition: Tensor, weights: Sequence[Tensor], has_bias: Sequence[bool]
) -> list[Tensor]:
    """Return the gradients of ``condition``, of every weight and of every bias that is present."""
    wide = [grad.to(condition.dtype) for grad in grads]
    grad_condition = torch.zeros_like(condition)
    for grad, weight in zip(wide, weights, strict=True):
        grad_condition = torch.addmm(grad_condition, grad, weight.to(condition.dtype))
    grad_weights = [(grad.mT @ condition).to(weight.dtype) for grad, weight in zip(wide, weights, strict=True)]
    grad_biases = [
        grad.sum(0).to(weight.dtype) for grad, weight, biased in zip(wide, weights, has_bias, strict=True) if biased
    ]
    return [grad_condition, *grad_weights, *grad_biases]
