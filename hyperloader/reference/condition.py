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

from hyperloader.reference.batches import accumulate_dtype
from hyperloader.reference.groups import ConditionWeights
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


def forward(weights: ConditionWeights, scales: Sequence[float], eps: float) -> Tensor:
    """Return (positions, layers, tasks, condition_dim) in the dtype of ``task_embedding``."""
    dtype = accumulate_dtype(weights.task_embedding.dtype)
    first, first_bias, second, second_bias, gamma, beta = (tensor.to(dtype) for tensor in weights.parameters())
    hidden = hidden_of(*_used(weights, dtype), first, first_bias, scales[0])
    standard, _ = standardise(before_norm(hidden, second, second_bias, scales[1]), eps)
    return ((standard * gamma + beta) * scales[2]).to(weights.task_embedding.dtype)


def backward(grad: Tensor, weights: ConditionWeights, scales: Sequence[float], eps: float) -> list[Tensor]:
    """Return the gradients of the three embeddings and of the six parameters, in the order of the arguments."""
    dtype = accumulate_dtype(weights.task_embedding.dtype)
    task, layer, position = _used(weights, dtype)
    first, first_bias, second, second_bias, gamma, _ = (tensor.to(dtype) for tensor in weights.parameters())
    hidden = hidden_of(task, layer, position, first, first_bias, scales[0])
    standard, rstd = standardise(before_norm(hidden, second, second_bias, scales[1]), eps)

    grad = grad.to(dtype) * scales[2]
    grad_norm_weight, grad_norm_bias = (grad * standard).sum((0, 1, 2)), grad.sum((0, 1, 2))
    grad_rows = standardise_backward(grad * gamma, standard, rstd)
    grad_second = grad_rows.flatten(0, 2).mT @ hidden.flatten(0, 2) * scales[1]
    grad_hidden = (grad_rows @ second * scales[1]) * (hidden > 0)
    by_task, by_layer, by_position = (grad_hidden.sum(other) * scales[0] for other in ((0, 1), (0, 2), (1, 2)))
    grad_first = torch.cat([by_task.mT @ task, by_layer.mT @ layer, by_position.mT @ position], 1)
    of_task, of_layer, of_position = first.chunk(3, 1)
    parameters = (
        grad_first, grad_hidden.sum((0, 1, 2)), grad_second, grad_rows.sum((0, 1, 2)), grad_norm_weight, grad_norm_bias,
    )  # fmt: skip
    return [
        (by_task @ of_task).to(weights.task_embedding.dtype),
        _scatter(by_layer @ of_layer, weights.layers, weights.layer_embedding),
        _scatter(by_position @ of_position, weights.positions, weights.position_embedding),
        *(found.to(weight.dtype) for found, weight in zip(parameters, weights.parameters(), strict=True)),
    ]


def _used(weights: ConditionWeights, dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """The embeddings of the tasks, of ``layers`` and of ``positions``."""
    layer, position = weights.layer_embedding[weights.layers], weights.position_embedding[weights.positions]
    return weights.task_embedding.to(dtype), layer.to(dtype), position.to(dtype)


def _scatter(grad: Tensor, index: Tensor, embedding: Tensor) -> Tensor:
    return grad.new_zeros(embedding.shape).index_add_(0, index, grad).to(embedding.dtype)
