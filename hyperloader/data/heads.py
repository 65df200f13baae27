"""Which formulation a run's head, and its tasks' kinds, stand for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperloader.data.by_kind import ByKind, OfHeads
from hyperloader.data.formulation import Formulation
from hyperloader.data.kinds import Kind
from hyperloader.data.text_to_text import TextToText
from hyperloader.data.token_classification import TokenClassification
from hyperloader.data.whole_sentences import WholeSentences
from hyperloader.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEADS = ("token-classification", "text-to-text")


def make_formulation(
    head: str,
    tokenizer: "PreTrainedTokenizerBase",
    labels: Mapping[str, Sequence[str]],
    max_length: int = 128,
    decoding: str = "sentinel",
    valid_tags: bool = True,
    kinds: Mapping[str, Kind] | None = None,
    segments: bool = False,
) -> Formulation:
    """The formulation for one of ``HEADS``; ``labels`` are the labels of every task, ``kinds`` those of tasks that are
    no tagging, the rest as there."""
    check_choice("head", head, HEADS)
    kinds = {task: kind for task, kind in (kinds or {}).items() if kind.of_sentences}
    if head == "text-to-text":
        for task, kind in kinds.items():
            raise ValueError(f"task {task!r} of kind {kind.name} needs head: token-classification, got {head}")
        return TextToText(tokenizer, list(labels), max_length, decoding)
    if not kinds:
        return TokenClassification(tokenizer, labels, max_length, valid_tags)
    tags = {task: names for task, names in labels.items() if task not in kinds}
    of_sentences = {task: labels[task] for task in kinds}
    whole = WholeSentences(tokenizer, of_sentences, kinds, max_length, list(labels), segments)
    formulations: dict[str, OfHeads] = dict.fromkeys(labels, whole)
    if tags:
        formulations |= dict.fromkeys(tags, TokenClassification(tokenizer, tags, max_length, valid_tags, list(labels)))
    return ByKind(formulations)
