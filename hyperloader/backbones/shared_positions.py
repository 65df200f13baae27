"""DeBERTa's relative positions in a batch of several tasks.

With ``share_att_key`` a layer's query and key project the embeddings of relative positions too, one row that all
sentences share. Where sentences have LoRA updates of their own, each has projected positions of its own.
"""

import functools
from typing import Any

from torch import Tensor, nn

from hyperloader.nn.sites import LoraSite

_MODEL_TYPE = "deberta-v2"


def project_for_each_sentence(backbone: Any) -> None:
    """Have attentions that project relative positions through a LoRA site do so for each sentence of a batch."""
    for attention in _attentions(backbone):
        plain: Any = type(attention)
        attention.__class__ = _projecting(plain)


def project_once(backbone: Any) -> None:
    """Undo ``project_for_each_sentence``."""
    for attention in _attentions(backbone):
        attention.__class__ = attention.plain


def _attentions(backbone: Any) -> list[Any]:
    if backbone.config.model_type != _MODEL_TYPE:
        return []
    from transformers.models.deberta_v2.modeling_deberta_v2 import DisentangledSelfAttention

    found = [module for module in backbone.modules() if isinstance(module, DisentangledSelfAttention)]
    return [one for one in found if one.relative_attention and one.share_att_key]


class _ProjectingAttention(nn.Module):
    """Mixed into the class of an attention; the class keeps its name."""

    plain: Any
    num_attention_heads: int

    def disentangled_attention_bias(self, query_layer: Tensor, *arguments: Any, **options: Any) -> Tensor:
        sentences = query_layer.shape[0] // self.num_attention_heads
        of_each = _OfEachSentence(self, sentences)
        return self.plain.disentangled_attention_bias(of_each, query_layer, *arguments, **options)

    def __reduce_ex__(self, protocol: Any) -> tuple:  # by the name of the plain class: the mixed one has none
        return _empty, (self.plain,), super().__reduce_ex__(2)[2]


class _OfEachSentence:
    """An attention as its position bias sees it: the heads of all sentences are heads of one, so that positions are
    not repeated for each sentence, but come from the projections as each has them."""

    def __init__(self, attention: Any, sentences: int) -> None:
        self.attention, self.sentences = attention, sentences
        self.num_attention_heads = sentences * attention.num_attention_heads

    def __getattr__(self, name: str) -> Any:
        return getattr(self.attention, name)

    def query_proj(self, x: Tensor) -> Tensor:
        return _project(self.attention.query_proj, x, self.sentences)

    def key_proj(self, x: Tensor) -> Tensor:
        return _project(self.attention.key_proj, x, self.sentences)

    def transpose_for_scores(self, x: Tensor, heads: int) -> Tensor:
        return self.attention.transpose_for_scores(x, heads // self.sentences)


def _project(layer: nn.Module, x: Tensor, sentences: int) -> Tensor:
    """(sentences, positions, out) of ``x`` (1, positions, in), which all sentences share."""
    if not isinstance(layer, LoraSite):
        return layer(x).expand(sentences, -1, -1)
    group = layer.active.require().group_of(sentences)
    if group is None:
        return layer(x).expand(sentences, -1, -1)
    lora_A, lora_B = layer.update()  # (groups, rank, in), (groups, out, rank)
    update = x @ lora_A.mT @ lora_B.mT
    return layer.linear(x) + layer.scaling * update.index_select(0, group)


@functools.cache
def _projecting(plain: Any) -> Any:
    return type(plain.__name__, (_ProjectingAttention, plain), {"plain": plain, "__module__": plain.__module__})


def _empty(plain: Any) -> nn.Module:
    kind = _projecting(plain)
    return kind.__new__(kind)
