"""The condition network in Triton: one launch forward, two backward.

Same contract as ``hyperloader.reference.condition``.
"""

from collections.abc import Sequence

import torch
import triton
from torch import Tensor

from hyperloader.kernels import _launch
from hyperloader.kernels._condition import parameters_kernel, rows_kernel
from hyperloader.kernels._launch import padded
from hyperloader.reference.groups import ConditionWeights

__all__ = ["backward", "forward"]

_BLOCK_T = 16  # rows of a program
_BLOCK_U = 32  # hidden units, or numbers of an embedding, that are multiplied at once
_WARPS = 8  # products without tensor cores hold their operands in registers


def forward(
    weights: ConditionWeights,
    scales: Sequence[float],
    eps: float,
) -> Tensor:
    """Return (positions, layers, tasks, condition_dim) in the dtype of ``task_embedding``."""
    shapes = _Shapes(weights)
    weights = ConditionWeights(*(tensor.contiguous() for tensor in weights))
    out = weights.task_embedding.new_empty(*shapes.leading, shapes.dim)
    if shapes.count:
        _launch.launch(
            rows_kernel, (triton.cdiv(shapes.count, _BLOCK_T),),
            weights.embeddings(), weights.layers, weights.positions, *weights.parameters(),
            out, None, None, None, None, *shapes.counts, *scales, eps,
            **shapes.constants, num_warps=_WARPS,
        )  # fmt: skip
    return out


def backward(
    grad: Tensor,
    weights: ConditionWeights,
    scales: Sequence[float],
    eps: float,
) -> list[Tensor]:
    """Return the gradients of the three embeddings and of the six parameters, in the order of the arguments."""
    shapes = _Shapes(weights)
    weights = ConditionWeights(*(tensor.contiguous() for tensor in weights))
    embeddings, parameters = weights.embeddings(), weights.parameters()
    results = [torch.empty_like(tensor) for tensor in (*embeddings, *parameters)]
    if not shapes.count:
        for result in results:
            result.zero_()
        return results
    grad, count, dim = grad.contiguous(), shapes.count, shapes.dim
    hidden, grad_rows, grad_norm = (
        torch.empty(count, size, dtype=torch.float32, device=grad.device) for size in (shapes.hidden, dim, dim)
    )
    _launch.launch(
        rows_kernel, (triton.cdiv(count, _BLOCK_T),),
        embeddings, weights.layers, weights.positions, *parameters, None, grad, hidden, grad_rows, grad_norm,
        *shapes.counts, *scales, eps, **shapes.constants, num_warps=_WARPS,
    )  # fmt: skip
    programs = triton.cdiv(shapes.hidden, _BLOCK_U) + 1
    programs += sum(triton.cdiv(embedding.shape[0], _BLOCK_T) for embedding in embeddings)
    _launch.launch(
        parameters_kernel, (programs,),
        grad, embeddings, weights.layers, weights.positions, weights.first_weight, weights.second_weight, hidden,
        grad_rows, grad_norm, tuple(results[: len(embeddings)]), *results[len(embeddings) :],
        *shapes.counts, *scales, **shapes.constants, BLOCK_E=padded(shapes.size),
        num_warps=_WARPS,
    )  # fmt: skip
    return results


class _Shapes:
    """Sizes of the condition network, as the kernels take them."""

    def __init__(self, weights: ConditionWeights):
        task, layer, position = weights.embeddings()
        layers, positions = weights.layers, weights.positions
        self.size, self.hidden, self.dim = task.shape[1], weights.first_weight.shape[0], weights.second_weight.shape[0]
        _launch.check_dtype("condition", task.dtype)
        for what, width in (("embeddings", self.size), ("conditions", self.dim)):
            _launch.check_width("condition", what, width)
        self.leading = (positions.shape[0], layers.shape[0], task.shape[0])
        self.count = positions.shape[0] * layers.shape[0] * task.shape[0]
        if self.count and not (layer.shape[0] and position.shape[0]):
            raise IndexError("layers and positions must name rows of their embeddings: one of these has none")
        self.counts = (self.count, task.shape[0], layers.shape[0], layer.shape[0], position.shape[0])
        self.constants = {
            "SIZE": self.size,
            "HIDDEN": self.hidden,
            "DIM": self.dim,
            "BLOCK_T": _BLOCK_T,
            "BLOCK_U": _BLOCK_U,
            "BLOCK_C": padded(self.dim),
        }
