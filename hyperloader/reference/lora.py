"""A frozen linear layer with a LoRA update: ``y = x · weightᵀ + bias + scaling · (x · lora_Aᵀ) · lora_Bᵀ``."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional

from hyperloader.reference._group import as_batches, of_batches, to_groups


def forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    lora_A: Tensor,
    lora_B: Tensor,
    group: Tensor | None,
    scaling: float,
) -> Tensor:
    """Return ``y`` (..., out_features) in the dtype of ``x``."""
    batches = as_batches(x, group)
    wide = batches.dtype
    frozen = functional.linear(batches, weight.to(wide), None if bias is None else bias.to(wide))
    down, up = of_batches(lora_A, group, wide), of_batches(lora_B, group, wide)
    y = frozen + scaling * ((batches @ down.mT) @ up.mT)
    return y.reshape(*x.shape[:-1], weight.shape[0]).to(x.dtype)


def backward(
    grad: Tensor,
    x: Tensor,
    weight: Tensor,
    lora_A: Tensor,
    lora_B: Tensor,
    group: Tensor | None,
    scaling: float,
    needed: Sequence[bool],
) -> list[Tensor]:
    """Return those gradients of x, weight, bias, lora_A and lora_B that ``needed`` asks for, in this order."""
    grads, batches = as_batches(grad, group), as_batches(x, group)  # (batches, tokens, out), (batches, tokens, in)
    wide = batches.dtype
    down, up = of_batches(lora_A, group, wide), of_batches(lora_B, group, wide)
    shrunk = scaling * (grads @ up)  # (batches, tokens, rank)

    needs_x, needs_weight, needs_bias, needs_A, needs_B = needed
    result = []
    if needs_x:
        result.append((grads @ weight.to(wide) + shrunk @ down).reshape(x.shape).to(x.dtype))
    if needs_weight:
        result.append((grads.flatten(0, 1).mT @ batches.flatten(0, 1)).to(weight.dtype))
    if needs_bias:
        result.append(grads.sum((0, 1)))  # in the accumulation dtype: the bias may be wider than the weight
    if needs_A:
        result.append(to_groups(shrunk.mT @ batches, lora_A, group))
    if needs_B:
        result.append(to_groups(scaling * (grads.mT @ (batches @ down.mT)), lora_B, group))
    return result
