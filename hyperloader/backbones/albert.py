"""ALBERT, whose layers share their weights: what is generated for a layer is shared as the layer is."""

from typing import Any

from torch import nn

from hyperloader.backbones.family import Stack, path_of_base

_SITES = {
    "feed_forward": "ffn_output",
    "self_attention": "attention.dense",
    "self_attention.query": "attention.query",
    "self_attention.value": "attention.value",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder, with as many layers as have weights of their own."""
    base: Any = backbone.base_model
    paths = [
        f"{path_of_base(backbone)}encoder.albert_layer_groups.{group}.albert_layers.{layer}"
        for group, layers in enumerate(base.encoder.albert_layer_groups)
        for layer in range(len(layers.albert_layers))
    ]
    return [Stack("encoder", [{site: f"{path}.{inside}" for site, inside in _SITES.items()} for path in paths])]
