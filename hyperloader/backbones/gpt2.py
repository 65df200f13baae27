"""GPT-2, whose query, key and value are one projection; its layers are ``Conv1D``."""

from typing import Any

from hyperloader.backbones.family import Stack, one_after_another, stack_of

_SITES = {
    "feed_forward": "mlp.c_proj",
    "self_attention": "attn.c_proj",
    "self_attention.query": "attn.c_attn",
    "self_attention.value": "attn.c_attn",
    "self_attention.key": "attn.c_attn",
    "self_attention.output": "attn.c_proj",
    "feed_forward.up": "mlp.c_fc",
    "feed_forward.down": "mlp.c_proj",
}


def stacks(backbone: Any) -> list[Stack]:
    """The decoder."""
    slices = one_after_another(
        dict.fromkeys(("self_attention.query", "self_attention.key", "self_attention.value"), backbone.config.n_embd)
    )
    return [stack_of(backbone, "decoder", "h", _SITES, slices)]
