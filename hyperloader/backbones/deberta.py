"""DeBERTa v2 and v3."""

from torch import nn

from hyperloader.backbones.family import Stack, encoder_stack

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.output.dense",
    "self_attention.query": "attention.self.query_proj",
    "self_attention.value": "attention.self.value_proj",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [encoder_stack(backbone, "encoder.layer", _SITES)]
