"""BERT and what has its layers: MiniLM, RoBERTa, XLM-R, ELECTRA."""

from torch import nn

from hyperloader.backbones.family import Stack, child_path, joined

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.output.dense",
    "self_attention.query": "attention.self.query",
    "self_attention.value": "attention.self.value",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    base = child_path(backbone, backbone.base_model)
    layers = range(len(backbone.base_model.encoder.layer))
    return [
        Stack(
            "encoder",
            [{site: joined(base, f"encoder.layer.{i}", path) for site, path in _SITES.items()} for i in layers],
        )
    ]
