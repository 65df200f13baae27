"""What a formulation of sequence labelling asks of a model, and how its answers become tags again."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple, Protocol

from torch import Tensor, nn

from hyperloader.data.examples import EncodingReport, Example
from hyperloader.data.sentence import Sentence

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class Answer(NamedTuple):
    """What a model says to one example: label ids or generated token ids, and of label ids the probabilities."""

    ids: list[int]
    probabilities: list[float] | None


class Formulation(Protocol):
    """``TokenClassification`` or ``TextToText``: the same sentences, asked of a model in two ways.

    ``tasks`` are the tasks' names in the order of their ids, ``report`` counts what each one's encoding met.
    """

    tokenizer: "PreTrainedTokenizerBase"
    tasks: list[str]
    report: dict[str, EncodingReport]

    def encode(self, task_index: int, sentence: Sentence, sentence_id: int, *, use_tags: bool = True) -> list[Example]:
        """The windows of one sentence; without ``use_tags`` they depend on its words alone."""

    def encode_all(
        self, tasks_sentences: Mapping[str, Sequence[Sentence]], *, use_tags: bool = True
    ) -> dict[str, list[Example]]:
        """The windows of all sentences of every task, in order."""

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A batch: int64 ``input_ids``, ``attention_mask``, ``labels`` and ``task_ids``."""

    def ask(self, model: nn.Module, inputs: Mapping[str, Tensor]) -> list[Answer]:
        """The model's answers to a batch without its labels, one an example."""

    def decode(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """Strict BIO tags a sentence, windows joined, from the ids of every example's answer."""
