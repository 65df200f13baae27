"""Inputs of the operators for tests, and the plain formulas that PyTorch differentiates itself."""

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.reference.groups import AdapterWeights

ACTIVATIONS = {
    "gelu_new": lambda pre: functional.gelu(pre, approximate="tanh"),
    "gelu": functional.gelu,
    "relu": functional.relu,
    "silu": functional.silu,
}
NORMS = ("post", "pre", "both", "none")
WEIGHTS = AdapterWeights._fields


def adapter_inputs(
    batch: int, tokens: int, hidden: int, bottleneck: int, groups: int | None, norm: str, dtype: torch.dtype
) -> dict[str, Tensor]:
    """``x`` (batch, tokens, hidden) and every weight that ``norm`` wants, by name; ``group`` where there are groups."""
    stacked = () if groups is None else (groups,)
    shapes = {
        "x": (batch, tokens, hidden),
        "down_weight": (*stacked, bottleneck, hidden),
        "down_bias": (*stacked, bottleneck),
        "up_weight": (*stacked, hidden, bottleneck),
        "up_bias": (*stacked, hidden),
    }
    if norm != "none":
        shapes |= {"norm_weight": (*stacked, hidden), "norm_bias": (*stacked, hidden)}
    if norm == "both":
        shapes |= {"pre_norm_weight": (*stacked, hidden), "pre_norm_bias": (*stacked, hidden)}
    inputs = {
        name: (torch.randn(shape) / (shape[-1] ** 0.5 if name.endswith("_weight") else 1)).to(dtype)
        for name, shape in shapes.items()
    }
    if groups is not None:
        inputs["group"] = torch.randint(groups, (batch,))
    return inputs


def plain_adapter(
    x, down_weight, down_bias, up_weight, up_bias, norm_weight=None, norm_bias=None,
    pre_norm_weight=None, pre_norm_bias=None, *, group=None, norm="post", activation="gelu_new", eps=1e-5,
):  # fmt: skip
    """The adapter as the formula says it, sentence by sentence; its gradients are autograd's."""
    if group is not None:
        weights = (down_weight, down_bias, up_weight, up_bias, norm_weight, norm_bias, pre_norm_weight, pre_norm_bias)
        rows = [
            plain_adapter(
                x[i], *(None if weight is None else weight[group[i]] for weight in weights),
                norm=norm, activation=activation, eps=eps,
            )
            for i in range(x.shape[0])
        ]  # fmt: skip
        return torch.stack(rows) if rows else x.clone()
    inner = (pre_norm_weight, pre_norm_bias) if norm == "both" else (norm_weight, norm_bias)
    z = functional.layer_norm(x, x.shape[-1:], *inner, eps) if norm in ("pre", "both") else x
    v = functional.linear(ACTIVATIONS[activation](functional.linear(z, down_weight, down_bias)), up_weight, up_bias)
    return x + (functional.layer_norm(v, v.shape[-1:], norm_weight, norm_bias, eps) if norm in ("post", "both") else v)


def lora_inputs(
    batch: int, tokens: int, in_features: int, out_features: int, rank: int, groups: int | None, dtype: torch.dtype
) -> dict[str, Tensor]:
    """Everything ``lora_linear`` takes, by name."""
    stacked = () if groups is None else (groups,)
    shapes = {
        "x": (batch, tokens, in_features),
        "weight": (out_features, in_features),
        "bias": (out_features,),
        "lora_A": (*stacked, rank, in_features),
        "lora_B": (*stacked, out_features, rank),
    }
    inputs = {name: (torch.randn(shape) / shape[-1] ** 0.5).to(dtype) for name, shape in shapes.items()}
    if groups is not None:
        inputs["group"] = torch.randint(groups, (batch,))
    return inputs


def plain_lora_linear(x, weight, bias, lora_A, lora_B, *, group=None, scaling=1.0):
    """The formula of ``lora_linear``, sentence by sentence."""
    if group is None:
        low_rank = functional.linear(functional.linear(x, lora_A), lora_B)
        return functional.linear(x, weight, bias) + scaling * low_rank
    rows = [plain_lora_linear(x[i], weight, bias, lora_A[g], lora_B[g], scaling=scaling) for i, g in enumerate(group)]
    return torch.stack(rows) if rows else x.new_zeros(*x.shape[:-1], weight.shape[0])
