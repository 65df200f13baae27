"""Gradients of zero for what a batch does not use."""

from typing import Any

import torch
from torch import Tensor


class WithOthers(torch.autograd.Function):
    """The identity of ``tensor``, with a gradient of zero for ``others``."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *others: Tensor) -> Tensor:
        ctx.like = [(other.shape, other.numel()) for other in others]
        ctx.options = {"dtype": others[0].dtype, "device": others[0].device}
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros(sum(count for _, count in ctx.like), **ctx.options)  # one, not one for each
        parts = zeros.split([count for _, count in ctx.like])
        return grad, *(part.view(shape) for part, (shape, _) in zip(parts, ctx.like, strict=True))
