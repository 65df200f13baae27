"""What the operators share: the accumulation dtype, one layout for one set of weights and for a group of sets."""

import math

import torch
from torch import Tensor


def accumulate_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, else float32."""
    return torch.float64 if dtype == torch.float64 else torch.float32


def as_batches(x: Tensor, group: Tensor | None) -> Tensor:
    """View ``x`` (..., hidden) as (batches, tokens, hidden): one batch without groups, one a sentence with them."""
    x = x.to(accumulate_dtype(x.dtype))
    if group is None:
        return x.reshape(1, math.prod(x.shape[:-1]), x.shape[-1])  # -1 would be any number where x has no features
    return x.reshape(x.shape[0], math.prod(x.shape[1:-1]), x.shape[-1])


def of_batches(weight: Tensor, group: Tensor | None, dtype: torch.dtype) -> Tensor:
    """The weight of every batch of ``as_batches``, (batches, ...)."""
    return weight.to(dtype).unsqueeze(0) if group is None else weight[group].to(dtype)


def to_groups(grad: Tensor, weight: Tensor, group: Tensor | None) -> Tensor:
    """Turn the gradient of ``of_batches(weight, group)`` into that of ``weight``: the sum over a group's batches."""
    if group is None:
        return grad.sum(0).to(weight.dtype)
    total = grad.new_zeros(weight.shape)
    return total.index_add_(0, group, grad).to(weight.dtype)
