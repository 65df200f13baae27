"""Phi-3, whose query, key and value are one projection, and gate and up another."""

from typing import Any

from hyperloader.backbones.family import Stack, one_after_another, stack_of

_SITES = {
    "feed_forward": "mlp.down_proj",
    "self_attention": "self_attn.o_proj",
    "self_attention.query": "self_attn.qkv_proj",
    "self_attention.value": "self_attn.qkv_proj",
    "self_attention.key": "self_attn.qkv_proj",
    "self_attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_up_proj",
    "feed_forward.up": "mlp.gate_up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def stacks(backbone: Any) -> list[Stack]:
    """The decoder."""
    config = backbone.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    query, kv = config.num_attention_heads * head, config.num_key_value_heads * head
    slices = one_after_another(
        {"self_attention.query": query, "self_attention.key": kv, "self_attention.value": kv}
    ) | one_after_another({"feed_forward.gate": config.intermediate_size, "feed_forward.up": config.intermediate_size})
    return [stack_of(backbone, "decoder", "layers", _SITES, slices)]
