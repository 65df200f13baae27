"""MPNet."""

from torch import nn

from hyperloader.backbones.family import Stack, encoder_stack

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.attn.o",
    "self_attention.query": "attention.attn.q",
    "self_attention.value": "attention.attn.v",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [encoder_stack(backbone, "encoder.layer", _SITES)]
