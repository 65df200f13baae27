"""Which formulation a run's head, and its tasks' kinds, stand for."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from hyperloader.config import CLASSIFICATION, KINDS, TAGGING
from hyperloader.data.as_text import AsText
from hyperloader.data.by_kind import ByKind, OfHeads
from hyperloader.data.formulation import Formulation
from hyperloader.data.kinds import WRITTEN, Kind
from hyperloader.data.text_to_text import TextToText
from hyperloader.data.token_classification import TokenClassification
from hyperloader.data.whole_sentences import WholeSentences
from hyperloader.data.wording import TextModel
from hyperloader.validation import check_choice

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

HEADS = TOKEN_CLASSIFICATION, TEXT_TO_TEXT, LANGUAGE_MODEL = ("token-classification", "text-to-text", "language-model")
KINDS_OF_HEADS: dict[str, tuple[str, ...]] = {
    TOKEN_CLASSIFICATION: KINDS,
    TEXT_TO_TEXT: (TAGGING, CLASSIFICATION, WRITTEN[0]),
    LANGUAGE_MODEL: (TAGGING, CLASSIFICATION, *WRITTEN),
}


def make_formulation(
    head: str,
    tokenizer: "PreTrainedTokenizerBase",
    labels: Mapping[str, Sequence[str]],
    max_length: int = 128,
    decoding: str = "sentinel",
    valid_tags: bool = True,
    kinds: Mapping[str, Kind] | None = None,
    segments: bool = False,
    text_model: TextModel | None = None,
    name_tasks: bool = False,
) -> Formulation:
    """The formulation for one of ``HEADS``; ``labels`` are the labels of every task, ``kinds`` those of tasks that are
    no tagging, ``text_model`` is of a head that writes, the rest as there."""
    check_choice("head", head, HEADS)
    kinds = {task: kind for task, kind in (kinds or {}).items() if kind.of_sentences}
    for task, kind in kinds.items():
        check_head(head, kind.name, f"task {task!r}")
    if head != TOKEN_CLASSIFICATION:
        shape = TextModel(head == LANGUAGE_MODEL) if text_model is None else text_model
        sentinels = None
        if head == TEXT_TO_TEXT and len(kinds) < len(labels) and "<extra_id_1>" in tokenizer.get_vocab():
            sentinels = TextToText(tokenizer, list(labels), max_length, decoding)
            if not kinds:
                return sentinels
        return AsText(tokenizer, labels, kinds, shape, max_length, name_tasks, sentinels)
    if not kinds:
        return TokenClassification(tokenizer, labels, max_length, valid_tags)
    tags = {task: names for task, names in labels.items() if task not in kinds}
    of_sentences = {task: labels[task] for task in kinds}
    whole = WholeSentences(tokenizer, of_sentences, kinds, max_length, list(labels), segments)
    formulations: dict[str, OfHeads] = dict.fromkeys(labels, whole)
    if tags:
        formulations |= dict.fromkeys(tags, TokenClassification(tokenizer, tags, max_length, valid_tags, list(labels)))
    return ByKind(formulations)


def check_head(head: str, kind: str, whose: str) -> None:
    """Raise ``ValueError``, which begins with ``whose`` it is, for a ``kind`` of task that ``head`` cannot do."""
    if kind not in KINDS_OF_HEADS[head]:
        able = [one for one, some in KINDS_OF_HEADS.items() if kind in some]
        raise ValueError(f"{whose} of kind {kind} needs head: {' or '.join(able)}, got {head}")
