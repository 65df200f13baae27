"""T5 v1.0, v1.1 and Flan (gated), mT5, UMT5, LongT5: with a decoder or the encoder alone."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_ENCODER = {
    "feed_forward": "layer.1.DenseReluDense.wo",
    "self_attention": "layer.0.SelfAttention.o",
    "self_attention.query": "layer.0.SelfAttention.q",
    "self_attention.value": "layer.0.SelfAttention.v",
}
_LONG_ATTENTIONS = ("LocalSelfAttention", "TransientGlobalSelfAttention")  # of LongT5's encoder
_DECODER = {
    **_ENCODER,
    "feed_forward": "layer.2.DenseReluDense.wo",
    "cross_attention.query": "layer.1.EncDecAttention.q",
    "cross_attention.value": "layer.1.EncDecAttention.v",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder and, where there is one, the decoder."""
    found = []
    for name, sites in (("encoder", _ENCODER), ("decoder", _DECODER)):
        stack = getattr(backbone, name, None)
        if stack is not None:
            attention = _attention(stack.block[0].layer[0])
            paths = {site: path.replace("SelfAttention", attention) for site, path in sites.items()}
            found.append(stack_of(backbone, name, f"{name}.block", paths))
    return found


def _attention(layer: nn.Module) -> str:
    """The name of the self-attention in a layer's first part."""
    return next((name for name in _LONG_ATTENTIONS if hasattr(layer, name)), "SelfAttention")
