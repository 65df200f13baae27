"""DistilBERT."""

from torch import nn

from hyperloader.backbones.family import Stack, encoder_stack

_SITES = {
    "feed_forward": "ffn.lin2",
    "self_attention": "attention.out_lin",
    "self_attention.query": "attention.q_lin",
    "self_attention.value": "attention.v_lin",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [encoder_stack(backbone, "transformer.layer", _SITES)]
