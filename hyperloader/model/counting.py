"""How many numbers a model has, however they are stored."""

from typing import Any

from torch import nn

from hyperloader.nn.quantized import quantized_layers


def parameter_counts(model: nn.Module) -> tuple[int, int]:
    """Its parameters that are trained, and all of them; of a quantised layer its weights, not the bytes that they are
    packed into."""
    layers: list[Any] = [layer for _, layer in quantized_layers(model)]
    packed = {id(layer.weight): layer.in_features * layer.out_features for layer in layers}
    counts = [(one.requires_grad, packed.get(id(one), one.numel())) for one in model.parameters()]
    return sum(count for trained, count in counts if trained), sum(count for _, count in counts)
