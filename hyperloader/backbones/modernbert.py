"""ModernBERT, whose query, key and value are one projection."""

from torch import nn

from hyperloader.backbones.family import Stack, encoder_stack

_SITES = {"feed_forward": "mlp.Wo", "self_attention": "attn.Wo"}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [encoder_stack(backbone, "layers", _SITES)]
