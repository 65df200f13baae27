"""DistilBERT."""

from torch import nn

from hyperloader.backbones.family import Stack, child_path, joined

_SITES = {
    "feed_forward": "ffn.lin2",
    "self_attention": "attention.out_lin",
    "self_attention.query": "attention.q_lin",
    "self_attention.value": "attention.v_lin",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    base = child_path(backbone, backbone.base_model)
    layers = range(len(backbone.base_model.transformer.layer))
    return [
        Stack(
            "encoder",
            [{site: joined(base, f"transformer.layer.{i}", path) for site, path in _SITES.items()} for i in layers],
        )
    ]
