"""Layer norm over the last dimension, with one weight and bias per batch, and its gradient."""

import torch
from torch import Tensor


def standardise(x: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """``(x - mean) * rstd`` and ``rstd = 1 / sqrt(var + eps)`` of ``x`` (batches, tokens, hidden)."""
    centred = x - x.mean(-1, keepdim=True)
    rstd = torch.rsqrt(centred.square().mean(-1, keepdim=True) + eps)
    return centred * rstd, rstd


def standardise_backward(grad: Tensor, standard: Tensor, rstd: Tensor) -> Tensor:
    """Gradient of ``standardise``'s first result with respect to its input."""
    mean = grad.mean(-1, keepdim=True)
    along = (grad * standard).mean(-1, keepdim=True)
    return rstd * (grad - mean - standard * along)
