"""The post-norm adapter as two thin matrix products: its layer norm costs nothing per token.

The input of the norm, ``v = U a + c`` with ``U = up_weight`` and ``c = up_bias``, is an affine image of the few numbers
``a = act(down · x + down_bias)``, and so are its mean and variance. Once per set of weights

    Uc = U - column means,  bc = c - mean(c)            so that  v - mean(v) = Uc a + bc
    G = Ucᵀ Uc / hidden,  h = Ucᵀ bc / hidden,  q = bcᵀ bc / hidden

and per token

    rstd = 1 / sqrt(aᵀ G a + 2 hᵀ a + q + eps)
    y = x + [rstd·a, rstd, 1] · [γ∘Uc, γ∘bc, β]ᵀ        γ = norm_weight, β = norm_bias

Centring comes first, so every term of the variance is a sum of squares and nothing cancels.
"""

from typing import NamedTuple, cast

import torch
from torch import Tensor

from hyperloader.reference.activation import activate, slope
from hyperloader.reference.batches import as_batches, of_batches, to_groups
from hyperloader.reference.groups import AdapterWeights


class Centred(NamedTuple):
    """What the low-rank form computes once per set of weights; a first dimension holds the batches."""

    up: Tensor  # (batches, hidden, bottleneck), Uc
    bias: Tensor  # (batches, hidden, 1), bc
    gram: Tensor  # (batches, bottleneck, bottleneck), G
    cross: Tensor  # (batches, bottleneck, 1), h
    square: Tensor  # (batches, 1, 1), q


def centre(up: Tensor, up_bias: Tensor) -> Centred:
    """Centre ``up`` (batches, hidden, bottleneck) and ``up_bias`` (batches, hidden)."""
    hidden = up.shape[1]
    up = up - up.mean(1, keepdim=True)
    bias = (up_bias - up_bias.mean(1, keepdim=True)).unsqueeze(-1)
    return Centred(up, bias, up.mT @ up / hidden, up.mT @ bias / hidden, bias.mT @ bias / hidden)


def _rstd(a: Tensor, centred: Centred, eps: float) -> Tensor:
    variance = (a * (a @ centred.gram)).sum(-1, keepdim=True) + 2 * a @ centred.cross + centred.square
    return torch.rsqrt(variance.clamp_min(0) + eps)  # (batches, tokens, 1); rounding may take a variance of 0 below it


def forward(
    x: Tensor, weights: AdapterWeights, group: Tensor | None, activation: str, eps: float
) -> tuple[Tensor, Tensor]:
    """Same results as ``reference.adapter.forward`` with ``norm="post"``."""
    batches = as_batches(x, group)  # (batches, tokens, hidden)
    weights = weights.map(lambda weight: of_batches(weight, group, batches.dtype))
    gamma, beta = cast(tuple[Tensor, Tensor], (weights.norm_weight, weights.norm_bias))
    centred = centre(weights.up_weight, weights.up_bias)
    pre = torch.baddbmm(weights.down_bias[:, None], batches, weights.down_weight.mT)  # (batches, tokens, bottleneck)
    a = activate(pre, activation)
    rstd = _rstd(a, centred, eps)
    left = torch.cat([rstd * a, rstd, torch.ones_like(rstd)], -1)  # (batches, tokens, bottleneck + 2)
    right = torch.cat([gamma[..., None] * centred.up, gamma[..., None] * centred.bias, beta[..., None]], -1)
    y = torch.baddbmm(batches, left, right.mT)
    return y.reshape(x.shape).to(x.dtype), pre.reshape(*x.shape[:-1], pre.shape[-1])


def backward(
    grad: Tensor, x: Tensor, pre: Tensor, weights: AdapterWeights, group: Tensor | None, activation: str, eps: float
) -> list[Tensor]:
    """Same results as ``reference.adapter.backward`` with ``norm="post"``: six thin products, one read of each tensor.

    With ``g = grad`` and ``c2`` the mean of ``γ g x̂`` over the hidden units, x̂ being the norm's standardised input:

        [p, t] = g · [γ∘Uc, γ∘bc],   c2 = rstd / hidden · (a·p + t)
        ∂a = rstd · (p - c2 · rstd · hidden · (G a + h)),   ∂x = g + (∂a ∘ act'(pre)) · down_weight
        gᵀ [rstd·a, rstd, 1] = [Ha, Hr, H1],   ∂β = H1,   ∂γ = rowsum(Uc ∘ Ha) + bc ∘ Hr
        w = rstd²·c2,   ∂U = center(γ∘Ha - Uc Σ w a aᵀ - bc (Σ w a)ᵀ),   ∂c = center(γ∘Hr - Uc Σ w a - bc Σ w)
    """
    batches, grads = as_batches(x, group), as_batches(grad, group)  # (batches, tokens, hidden)
    hidden = batches.shape[-1]
    pre = pre.reshape(*batches.shape[:-1], pre.shape[-1])
    given = weights.present()
    weights = weights.map(lambda weight: of_batches(weight, group, batches.dtype))
    gamma = cast(Tensor, weights.norm_weight)[..., None]  # (batches, hidden, 1)
    centred = centre(weights.up_weight, weights.up_bias)
    a = activate(pre, activation)  # (batches, tokens, bottleneck)
    rstd = _rstd(a, centred, eps)  # (batches, tokens, 1)

    p, t = (grads @ torch.cat([gamma * centred.up, gamma * centred.bias], -1)).split([a.shape[-1], 1], -1)
    c2 = rstd / hidden * ((a * p).sum(-1, keepdim=True) + t)
    grad_a = rstd * (p - c2 * rstd * hidden * (a @ centred.gram + centred.cross.mT))
    grad_pre = grad_a * slope(pre, activation)
    grad_x = torch.baddbmm(grads, grad_pre, weights.down_weight)

    left = torch.cat([rstd * a, rstd, torch.ones_like(rstd)], -1)
    along_a, along_rstd, along_one = (grads.mT @ left).split([a.shape[-1], 1, 1], -1)  # (batches, hidden, ...)
    grad_gamma = (centred.up * along_a).sum(-1) + (centred.bias * along_rstd).squeeze(-1)
    w = rstd.square() * c2
    second, first, zeroth = (w * a).mT @ a, (w * a).sum(1)[..., None], w.sum(1, keepdim=True)
    grad_up = gamma * along_a - centred.up @ second - centred.bias @ first.mT
    grad_up_bias = gamma * along_rstd - centred.up @ first - centred.bias * zeroth
    grad_up, grad_up_bias = (g - g.mean(1, keepdim=True) for g in (grad_up, grad_up_bias))

    found = [
        grad_pre.mT @ batches,
        grad_pre.sum(1),
        grad_up,
        grad_up_bias.squeeze(-1),
        grad_gamma,
        along_one.squeeze(-1),
    ]
    return [
        grad_x.reshape(x.shape).to(x.dtype),
        *(to_groups(g, weight, group) for g, weight in zip(found, given, strict=True)),
    ]
