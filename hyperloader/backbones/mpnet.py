"""MPNet."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.attn.o",
    "self_attention.query": "attention.attn.q",
    "self_attention.value": "attention.attn.v",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [stack_of(backbone, "encoder", "encoder.layer", _SITES)]
