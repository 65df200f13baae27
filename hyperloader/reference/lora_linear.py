"""Frozen linear layers with a LoRA update: ``yᵢ = x · weightsᵢᵀ + biasesᵢ + scaling · (x · lora_Aᵢᵀ) · lora_Bᵢᵀ``."""

import functools
import operator
from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from hyperloader.reference.batches import as_batches, of_batches, to_groups
from hyperloader.reference.groups import LoraNeeded


def forward(
    x: Tensor,
    weights: Sequence[Tensor],
    biases: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
) -> list[Tensor]:
    """Return every ``yᵢ`` (..., out_features) in the dtype of ``x``; ``biases`` is empty or has one per weight."""
    batches = as_batches(x, group)
    dtype = batches.dtype
    results = []
    for i, weight in enumerate(weights):
        frozen = functional.linear(batches, weight.to(dtype), biases[i].to(dtype) if biases else None)
        down, up = of_batches(lora_A[i], group, dtype), of_batches(lora_B[i], group, dtype)
        y = frozen + scaling * ((batches @ down.mT) @ up.mT)
        results.append(y.reshape(*x.shape[:-1], weight.shape[0]).to(x.dtype))
    return results


def backward(
    grads: Sequence[Tensor],
    x: Tensor,
    weights: Sequence[Tensor],
    lora_A: Sequence[Tensor],
    lora_B: Sequence[Tensor],
    group: Tensor | None,
    scaling: float,
    needed: LoraNeeded,
) -> list[Tensor]:
    """Return those gradients of x, weights, biases, lora_A and lora_B that ``needed`` asks for, in this order."""
    batches = as_batches(x, group)  # (batches, tokens, in)
    dtype = batches.dtype
    of_x, of_weights, of_biases, of_A, of_B = [], [], [], [], []
    for grad, weight, A, B in zip(grads, weights, lora_A, lora_B, strict=True):
        grad = as_batches(grad, group)  # (batches, tokens, out)
        down, up = of_batches(A, group, dtype), of_batches(B, group, dtype)
        shrunk = scaling * (grad @ up)  # (batches, tokens, rank)
        if needed.x:
            of_x.append(grad @ weight.to(dtype) + shrunk @ down)
        if needed.weights:
            of_weights.append((grad.flatten(0, 1).mT @ batches.flatten(0, 1)).to(weight.dtype))
        if needed.biases:
            of_biases.append(grad.sum((0, 1)))  # in the accumulation dtype: a bias may have more digits than its weight
        if needed.lora_A:
            of_A.append(to_groups(shrunk.mT @ batches, A, group))
        if needed.lora_B:
            of_B.append(to_groups(scaling * (grad.mT @ (batches @ down.mT)), B, group))
    grad_x = [functools.reduce(operator.add, of_x).reshape(x.shape).to(x.dtype)] if needed.x else []
    return [*grad_x, *of_weights, *of_biases, *of_A, *of_B]
