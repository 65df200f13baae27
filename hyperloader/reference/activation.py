"""The adapters' activations and their derivatives."""

import math

import torch
from torch import Tensor
from torch.nn import functional

_TANH_SCALE = math.sqrt(2 / math.pi)
_TANH_CUBIC = 0.044715


def activate(pre: Tensor, name: str) -> Tensor:
    """``act(pre)``: ``gelu_new`` (tanh form of gelu), ``gelu`` (exact), ``relu`` or ``silu``."""
    if name == "gelu_new":
        return functional.gelu(pre, approximate="tanh")
    if name == "gelu":
        return functional.gelu(pre)
    if name == "relu":
        return functional.relu(pre)
    return functional.silu(pre)


def slope(pre: Tensor, name: str) -> Tensor:
    """``act'(pre)``."""
    if name == "gelu_new":
        tanh = torch.tanh(_TANH_SCALE * (pre + _TANH_CUBIC * pre**3))
        return 0.5 * (1 + tanh) + 0.5 * pre * (1 - tanh**2) * _TANH_SCALE * (1 + 3 * _TANH_CUBIC * pre**2)
    if name == "gelu":
        density = torch.exp(-0.5 * pre**2) / math.sqrt(2 * math.pi)
        return 0.5 * (1 + torch.erf(pre / math.sqrt(2))) + pre * density
    if name == "relu":
        return (pre > 0).to(pre.dtype)
    gate = torch.sigmoid(pre)
    return gate * (1 + pre * (1 - gate))
