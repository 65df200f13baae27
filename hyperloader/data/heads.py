"""Which formulation a run's head stands for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperloader.data.formulation import Formulation
from hyperloader.data.text_to_text import TextToText
from hyperloader.data.token_classification import TokenClassification
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
) -> Formulation:
    """The formulation for one of ``HEADS``; ``labels`` are the BIO labels of every task, the rest as there."""
    check_choice("head", head, HEADS)
    if head == "text-to-text":
        return TextToText(tokenizer, list(labels), max_length, decoding)
    return TokenClassification(tokenizer, labels, max_length, valid_tags)
