"""Llama and what has its layers: Qwen2, Qwen3, Mistral, Gemma 1 to 3 (text), OLMo 2."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_SITES = {
    "feed_forward": "mlp.down_proj",
    "self_attention": "self_attn.o_proj",
    "self_attention.query": "self_attn.q_proj",
    "self_attention.value": "self_attn.v_proj",
    "self_attention.key": "self_attn.k_proj",
    "self_attention.output": "self_attn.o_proj",
    "feed_forward.gate": "mlp.gate_proj",
    "feed_forward.up": "mlp.up_proj",
    "feed_forward.down": "mlp.down_proj",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The decoder."""
    return [stack_of(backbone, "decoder", "layers", _SITES)]
