"""BERT and what has its layers: MiniLM, RoBERTa, XLM-R, XLM-R-XL, CamemBERT, ELECTRA."""

from torch import nn

from hyperloader.backbones.family import Stack, stack_of

_SITES = {
    "feed_forward": "output.dense",
    "self_attention": "attention.output.dense",
    "self_attention.query": "attention.self.query",
    "self_attention.value": "attention.self.value",
}


def stacks(backbone: nn.Module) -> list[Stack]:
    """The encoder."""
    return [stack_of(backbone, "encoder", "encoder.layer", _SITES)]
