"""The conditions of a hypernetwork: one row of numbers for every position, layer and task.

    hidden = relu(scales[0] · first_weight · [task ; layer ; position] + first_bias)
    condition = scales[2] · LN(scales[1] · second_weight · hidden + second_bias; norm_weight, norm_bias)

``first_weight`` is taken apart into the columns of task, layer and position, so that its products are those of the
embeddings, not of all their combinations.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.reference._group import accumulate_dtype
from hyperloader.reference.norm import standardise, standardise_backward


def hidden_of(
    task: Tensor, layer: Tensor, position: Tensor, first_weight: Tensor, first_bias: Tensor, scale: float
) -> Tensor:
    """Return (positions, layers, tasks, hidden) for embeddings (tasks, E), (layers, E) and (positions, E)."""
    by_task, by_layer, by_position = first_weight.chunk(3, 1)
    rows = (position @ by_position.mT)[:, None, None] + (layer @ by_layer.mT)[None, :, None] + task @ by_task.mT
    return functional.relu(rows * scale + first_bias)


def before_norm(hidden: Tensor, second_weight: Tensor, second_bias: Tensor, scale: float) -> Tensor:
    """Return (positions, layers, tasks, condition_dim)."""
    return hidden @ second_weight.mT * scale + second_bias


def forward(
    task_embedding: Tensor,
    layer_embedding: Tensor,
    position_embedding: Tensor,
    layers: Tensor,
    positions: Tensor,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    scales: Sequence[float],
    eps: float,
) -> Tensor:
    """Return (positions, layers, tasks, condition_dim) in the dtype of ``task_embedding``."""
    dtype = accumulate_dtype(task_embedding.dtype)
    task, layer, position = (
        tensor.to(dtype) for tensor in (task_embedding, layer_embedding[layers], position_embedding[positions])
    )
    hidden = hidden_of(task, layer, position, first_weight.to(dtype), first_bias.to(dtype), scales[0])
    rows = before_norm(hidden, second_weight.to(dtype), second_bias.to(dtype), scales[1])
    standard, _ = standardise(rows, eps)
    return ((standard * norm_weight.to(dtype) + norm_bias.to(dtype)) * scales[2]).to(task_embedding.dtype)


def backward(
    grad: Tensor,
    task_embedding: Tensor,
    layer_embedding: Tensor,
    position_embedding: Tensor,
    layers: Tensor,
    positions: Tensor,
    first_weight: Tensor,
    first_bias: Tensor,
    second_weight: Tensor,
    second_bias: Tensor,
    norm_weight: Tensor,
    norm_bias: Tensor,
    scales: Sequence[float],
    eps: float,
) -> list[Tensor]:
    """Return the gradients of the three embeddings and of the six parameters, in the order of the arguments."""
    dtype = accumulate_dtype(task_embedding.dtype)
    task, layer, position = (
        tensor.to(dtype) for tensor in (task_embedding, layer_embedding[layers], position_embedding[positions])
    )
    first, second = first_weight.to(dtype), second_weight.to(dtype)
    hidden = hidden_of(task, layer, position, first, first_bias.to(dtype), scales[0])
    standard, rstd = standardise(before_norm(hidden, second, second_bias.to(dtype), scales[1]), eps)

    grad = grad.to(dtype) * scales[2]
    grad_norm_weight, grad_norm_bias = (grad * standard).sum((0, 1, 2)), grad.sum((0, 1, 2))
    grad_rows = standardise_backward(grad * norm_weight.to(dtype), standard, rstd)
    grad_second = grad_rows.flatten(0, 2).mT @ hidden.flatten(0, 2) * scales[1]
    grad_hidden = (grad_rows @ second * scales[1]) * (hidden > 0)
    by_task, by_layer, by_position = (grad_hidden.sum(other) * scales[0] for other in ((0, 1), (0, 2), (1, 2)))
    grad_first = torch.cat([by_task.mT @ task, by_layer.mT @ layer, by_position.mT @ position], 1)
    of_task, of_layer, of_position = first.chunk(3, 1)
    return [
        (by_task @ of_task).to(task_embedding.dtype),
        _scatter(by_layer @ of_layer, layers, layer_embedding),
        _scatter(by_position @ of_position, positions, position_embedding),
        grad_first.to(first_weight.dtype),
        grad_hidden.sum((0, 1, 2)).to(first_bias.dtype),
        grad_second.to(second_weight.dtype),
        grad_rows.sum((0, 1, 2)).to(second_bias.dtype),
        grad_norm_weight.to(norm_weight.dtype),
        grad_norm_bias.to(norm_bias.dtype),
    ]


def _scatter(grad: Tensor, index: Tensor, embedding: Tensor) -> Tensor:
    return grad.new_zeros(embedding.shape).index_add_(0, index, grad).to(embedding.dtype)
