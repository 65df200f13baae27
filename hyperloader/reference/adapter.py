"""Bottleneck adapter with layer norm, as the formula says it.

    post   y = x + LN(up · act(down · x + down_bias) + up_bias; norm_weight, norm_bias)
    pre    y = x + up · act(down · LN(x; norm_weight, norm_bias) + down_bias) + up_bias
    both   the two together, the inner norm with pre_norm_weight and pre_norm_bias
    none   y = x + up · act(down · x + down_bias) + up_bias

``hyperloader.reference.adapter_low_rank`` computes ``post`` without a pass over (tokens, hidden) for its norm.
Sums are taken in float32 (float64 for float64), results have the dtypes of what they belong to.
"""

from typing import cast

from torch import Tensor

from hyperloader.reference.activation import activate, slope
from hyperloader.reference.batches import as_batches, of_batches, to_groups
from hyperloader.reference.groups import AdapterWeights
from hyperloader.reference.norm import standardise, standardise_backward

_Norm = tuple[Tensor, Tensor]  # weight and bias, which a norm that is computed has


def forward(
    x: Tensor, weights: AdapterWeights, group: Tensor | None, norm: str, activation: str, eps: float
) -> tuple[Tensor, Tensor]:
    """Return ``y`` and the pre-activation (..., bottleneck), for the backward."""
    batches = as_batches(x, group)  # (batches, tokens, hidden)
    weights = weights.map(lambda weight: of_batches(weight, group, batches.dtype))

    z = batches
    if norm in ("pre", "both"):
        inner_weight, inner_bias = cast(_Norm, weights.inner_norm(norm))
        z = standardise(z, eps)[0] * inner_weight[:, None] + inner_bias[:, None]
    pre = z @ weights.down_weight.mT + weights.down_bias[:, None]  # (batches, tokens, bottleneck)
    v = activate(pre, activation) @ weights.up_weight.mT + weights.up_bias[:, None]  # (batches, tokens, hidden)
    if norm in ("post", "both"):
        outer_weight, outer_bias = cast(_Norm, weights.outer_norm(norm))
        v = standardise(v, eps)[0] * outer_weight[:, None] + outer_bias[:, None]
    return (batches + v).reshape(x.shape).to(x.dtype), pre.reshape(*x.shape[:-1], pre.shape[-1])


def backward(
    grad: Tensor,
    x: Tensor,
    pre: Tensor,
    weights: AdapterWeights,
    group: Tensor | None,
    norm: str,
    activation: str,
    eps: float,
) -> list[Tensor]:
    """Return the gradients of ``x`` and of every weight that is present, in the order of the arguments."""
    batches, grad_v = as_batches(x, group), as_batches(grad, group)  # (batches, tokens, hidden)
    grad_x = grad_v
    pre = pre.reshape(*batches.shape[:-1], pre.shape[-1])
    given = weights.present()
    weights = weights.map(lambda weight: of_batches(weight, group, batches.dtype))

    a = activate(pre, activation)
    outer, inner = [], []
    if norm in ("post", "both"):
        outer_weight, _ = cast(_Norm, weights.outer_norm(norm))
        standard, rstd = standardise(a @ weights.up_weight.mT + weights.up_bias[:, None], eps)
        outer = [(grad_v * standard).sum(1), grad_v.sum(1)]
        grad_v = standardise_backward(grad_v * outer_weight[:, None], standard, rstd)
    grad_up, grad_up_bias = grad_v.mT @ a, grad_v.sum(1)
    grad_pre = (grad_v @ weights.up_weight) * slope(pre, activation)
    grad_z = grad_pre @ weights.down_weight
    z = batches
    if norm in ("pre", "both"):
        inner_weight, inner_bias = (weight[:, None] for weight in cast(_Norm, weights.inner_norm(norm)))
        standard, rstd = standardise(batches, eps)
        z = standard * inner_weight + inner_bias
        inner = [(grad_z * standard).sum(1), grad_z.sum(1)]
        grad_z = standardise_backward(grad_z * inner_weight, standard, rstd)
    grad_x = (grad_x + grad_z).reshape(x.shape).to(x.dtype)

    grads = [grad_pre.mT @ z, grad_pre.sum(1), grad_up, grad_up_bias, *outer, *inner]
    return [grad_x, *(to_groups(g, weight, group) for g, weight in zip(grads, given, strict=True))]
