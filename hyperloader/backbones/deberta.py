"""DeBERTa v2 and v3."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.output.dense",
    "self_attention.query": "attention.self.query_proj",
    "self_attention.value": "attention.self.value_proj",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [stack_of(backbone, "encoder", "encoder.layer", _SITES)]
