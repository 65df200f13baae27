"""Bottleneck adapter with layer norm, as the formula says it.

    post   y = x + LN(up · act(down · x + down_bias) + up_bias; norm_weight, norm_bias)
    pre    y = x + up · act(down · LN(x; norm_weight, norm_bias) + down_bias) + up_bias
    both   the two together, the inner norm with pre_norm_weight and pre_norm_bias
    none   y = x + up · act(down · x + down_bias) + up_bias

``hyperloader.reference.adapter_low_rank`` computes ``post`` without a pass over (tokens, hidden) for its norm.
Sums are taken in float32 (float64 for float64), results have the dtypes of what they belong to.
"""

from torch import Tensor

from hyperloader.reference._group import as_batches, of_batches, to_groups
from hyperloader.reference.activation import activate, slope
from hyperloader.reference.norm import standardise, standardise_backward


def forward(
    x: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    pre_norm_weight: Tensor | None,
    pre_norm_bias: Tensor | None,
    group: Tensor | None,
    norm: str,
    activation: str,
    eps: float,
) -> tuple[Tensor, Tensor]:
    """Return ``y`` and the pre-activation (..., bottleneck), which the backward needs."""
    batches = as_batches(x, group)  # (batches, tokens, hidden)
    inner = (norm_weight, norm_bias) if norm == "pre" else (pre_norm_weight, pre_norm_bias)
    inner_weight, inner_bias = (of_batches(weight, group, batches.dtype) for weight in inner)
    down, down_shift, up, up_shift, outer_weight, outer_bias = (
        of_batches(weight, group, batches.dtype)
        for weight in (down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias)
    )

    z = batches
    if norm in ("pre", "both"):
        z = standardise(z, eps)[0] * inner_weight[:, None] + inner_bias[:, None]
    pre = z @ down.mT + down_shift[:, None]  # (batches, tokens, bottleneck)
    v = activate(pre, activation) @ up.mT + up_shift[:, None]  # (batches, tokens, hidden)
    if norm in ("post", "both"):
        v = standardise(v, eps)[0] * outer_weight[:, None] + outer_bias[:, None]
    return (batches + v).reshape(x.shape).to(x.dtype), pre.reshape(*x.shape[:-1], pre.shape[-1])


def backward(
    grad: Tensor,
    x: Tensor,
    pre: Tensor,
    down_weight: Tensor,
    down_bias: Tensor,
    up_weight: Tensor,
    up_bias: Tensor,
    norm_weight: Tensor | None,
    norm_bias: Tensor | None,
    pre_norm_weight: Tensor | None,
    pre_norm_bias: Tensor | None,
    group: Tensor | None,
    norm: str,
    activation: str,
    eps: float,
) -> list[Tensor]:
    """Return the gradients of ``x`` and of every weight that is present, in the order of the arguments."""
    batches, grad_v = as_batches(x, group), as_batches(grad, group)  # (batches, tokens, hidden)
    grad_x = grad_v
    pre = pre.reshape(*batches.shape[:-1], pre.shape[-1])
    down, up, up_shift, outer_weight = (
        of_batches(weight, group, batches.dtype) for weight in (down_weight, up_weight, up_bias, norm_weight)
    )

    a = activate(pre, activation)
    outer, inner = [], []
    if norm in ("post", "both"):
        standard, rstd = standardise(a @ up.mT + up_shift[:, None], eps)
        outer = [(grad_v * standard).sum(1), grad_v.sum(1)]
        grad_v = standardise_backward(grad_v * outer_weight[:, None], standard, rstd)
    grad_up, grad_up_bias = grad_v.mT @ a, grad_v.sum(1)
    grad_pre = (grad_v @ up) * slope(pre, activation)
    grad_z = grad_pre @ down
    z = batches
    if norm in ("pre", "both"):
        pair = (norm_weight, norm_bias) if norm == "pre" else (pre_norm_weight, pre_norm_bias)
        inner_weight, inner_bias = (of_batches(weight, group, batches.dtype)[:, None] for weight in pair)
        standard, rstd = standardise(batches, eps)
        z = standard * inner_weight + inner_bias
        inner = [(grad_z * standard).sum(1), grad_z.sum(1)]
        grad_z = standardise_backward(grad_z * inner_weight, standard, rstd)
    grad_x = (grad_x + grad_z).reshape(x.shape).to(x.dtype)

    weights = [down_weight, down_bias, up_weight, up_bias]
    weights += [weight for weight in (norm_weight, norm_bias, pre_norm_weight, pre_norm_bias) if weight is not None]
    grads = [grad_pre.mT @ z, grad_pre.sum(1), grad_up, grad_up_bias, *outer, *inner]
    return [grad_x, *(to_groups(g, weight, group) for g, weight in zip(grads, weights, strict=True))]
