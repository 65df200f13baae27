"""BART, mBART and Pegasus."""

from typing import Any

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_ENCODER = {
    "feed_forward": "fc2",
    "self_attention": "self_attn.out_proj",
    "self_attention.query": "self_attn.q_proj",
    "self_attention.value": "self_attn.v_proj",
}
_DECODER = {
    **_ENCODER,
    "cross_attention.query": "encoder_attn.q_proj",
    "cross_attention.value": "encoder_attn.v_proj",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder and the decoder."""
    base: Any = backbone.base_model
    found = (("encoder", _ENCODER), ("decoder", _DECODER))
    return [stack_of(backbone, name, f"{name}.layers", sites) for name, sites in found if hasattr(base, name)]
