"""The layers that sites are at: ``nn.Linear``, transformers' ``Conv1D``, the transpose, and quantised ones."""

from typing import Any

from torch import Tensor, nn

from hyperloader.nn.quantized import quantization_of

Rows = tuple[int, int]  # outputs of a layer: the first, and the one behind the last


def is_linear(module: nn.Module) -> bool:
    """Whether ``module`` is such a layer, of the very class."""
    kind = type(module)
    if kind is nn.Linear or (kind.__module__, kind.__name__) == ("transformers.pytorch_utils", "Conv1D"):
        return True
    return quantization_of(module) is not None


def weight_of(linear: Any) -> Tensor:
    """The weight as (out_features, in_features), of a ``Conv1D`` as a view; not of a quantised layer."""
    return linear.weight if isinstance(linear, nn.Linear) else linear.weight.T


def sizes_of(linear: Any) -> tuple[int, int]:
    """in_features, out_features."""
    if quantization_of(linear) is not None:  # whose weight may be packed
        return linear.in_features, linear.out_features
    out_features, in_features = weight_of(linear).shape
    return in_features, out_features
