"""ModernBERT, whose query, key and value are one projection."""

from typing import Any

from hyperloader.backbones.family import Stack, one_after_another, stack_of

_SITES = {
    "feed_forward": "mlp.Wo",
    "self_attention": "attn.Wo",
    "self_attention.query": "attn.Wqkv",
    "self_attention.value": "attn.Wqkv",
    "self_attention.key": "attn.Wqkv",
    "self_attention.output": "attn.Wo",
    "feed_forward.down": "mlp.Wo",
}
_PROJECTED = ("self_attention.query", "self_attention.key", "self_attention.value")


def stacks(backbone: Any) -> list[Stack]:
    """The encoder."""
    slices = one_after_another(dict.fromkeys(_PROJECTED, backbone.config.hidden_size))
    return [stack_of(backbone, "encoder", "layers", _SITES, slices)]
