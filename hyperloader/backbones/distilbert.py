"""DistilBERT."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_SITES = {
    "feed_forward": "ffn.lin2",
    "self_attention": "attention.out_lin",
    "self_attention.query": "attention.q_lin",
    "self_attention.value": "attention.v_lin",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [stack_of(backbone, "encoder", "transformer.layer", _SITES)]
