"""What a formulation of a task asks of a model, and how its answers become tags, labels or numbers again."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from torch import Tensor, nn

from hyperloader.data.examples import EncodingReport, Example, collate, join_windows
from hyperloader.data.kinds import Kind
from hyperloader.validation import listed, nearest

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_BATCH = 2000  # sentences that are tokenized together


class Answer(NamedTuple):
    """What a model says to one example.

    ids: label ids, or generated token ids; of a regression the value alone. probabilities: of label ids those of each
    one's token, of a whole sentence those of all labels; None of generated text and of a regression.
    """

    ids: list
    probabilities: list[float] | None


class Formulation(Protocol):
    """``TokenClassification`` or ``TextToText``: the same sentences, asked of a model in two ways; ``WholeSentences``
    and, for tasks of several kinds in one batch, ``ByKind``.

    ``tasks`` are the tasks' names in the order of their ids, ``max_length`` is the limit of a window's tokens,
    ``report`` counts what each task's encoding met so far, ``kinds`` are those of tasks of whole sentences.
    """

    tokenizer: "PreTrainedTokenizerBase"
    tasks: list[str]
    max_length: int
    report: dict[str, EncodingReport]
    kinds: Mapping[str, Kind] = MappingProxyType({})

    def encode(self, task_index: int, sentence: Any, sentence_id: int, *, use_tags: bool = True) -> list[Example]:
        """The windows of one sentence; arguments and errors as in ``encode_all``."""
        return self._encode(task_index, [sentence], sentence_id, use_tags)

    def encode_all(self, tasks_sentences: Mapping[str, Sequence], *, use_tags: bool = True) -> dict[str, list[Example]]:
        """The windows of all sentences of every task, in order; ``sentence_id`` is a sentence's position in its list.

        Args:
            tasks_sentences: sentences by task name: ``Sentence``, of tasks of whole sentences ``LabelledText``.
            use_tags: True, for training. False, for evaluation and prediction: windows depend on the words alone, so
                that nothing about the tags reaches the model.

        Raises:
            ValueError: an unknown task, or tags that the formulation cannot take.
        """
        encoded: dict[str, list[Example]] = {}
        for name, sentences in tasks_sentences.items():
            if name not in self.tasks:
                known = listed(map(repr, self.tasks), "tasks")
                raise ValueError(f"task must be one of {known}, got {name!r}{nearest(name, self.tasks)}")
            task_id, encoded[name] = self.tasks.index(name), []
            for start in range(0, len(sentences), _BATCH):
                encoded[name] += self._encode(task_id, sentences[start : start + _BATCH], start, use_tags)
        return encoded

    def collate(self, examples: Sequence[Example]) -> dict[str, Tensor]:
        """A batch, as ``hyperloader.data.examples.collate`` makes it."""
        return collate(examples, self.tokenizer.pad_token_id)

    def _encode(self, task_id: int, sentences: Sequence, first_id: int, use_tags: bool) -> list[Example]:
        """The windows of some sentences of one task, the first of which has the id ``first_id``."""
        raise NotImplementedError

    def ask(self, model: nn.Module, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """The model's answers to a batch of ``examples`` without its labels, one an example."""
        raise NotImplementedError

    def decode(self, examples: Sequence[Example], rows: Tensor | Sequence[Sequence]) -> list:
        """What is predicted for every sentence: strict BIO tags, a label, or a number.

        Args:
            examples: all windows of some sentences.
            rows: the ids of every example's answer.

        Returns:
            One answer a sentence, in the order in which the sentences first appear.

        Raises:
            ValueError: there is not one row an example.
        """
        raise NotImplementedError


class Tagging(Formulation):
    """A formulation of sequence labelling, whose sentences may have several windows."""

    def decode(self, examples: Sequence[Example], rows: Tensor | Sequence[Sequence]) -> list:
        """Strict BIO tags of every sentence, its windows joined.

        Args:
            examples: all windows of some sentences.
            rows: the ids of every example's answer: label ids (of the example's own task) at every input token, or
                generated token ids, whatever they are; padding is allowed.

        Returns:
            One list of tags a sentence, as many as it has words, in the order in which the sentences first appear.

        Raises:
            ValueError: a window is missing, there is not one row an example, a row of labels is too short or holds an
                id that is no label of the task.
        """
        rows = rows.tolist() if isinstance(rows, Tensor) else rows
        if len(rows) != len(examples):
            raise ValueError(f"rows must be one row an example ({len(examples)}), got {len(rows)}")
        return [self._to_bio(tags) for tags in join_windows(examples, self._tags_of_windows(examples, rows))]

    def _tags_of_windows(self, examples: Sequence[Example], rows: Sequence[Sequence[int]]) -> list[list[str]]:
        """The tags of every example's words, as its row of ids has them."""
        raise NotImplementedError

    def _to_bio(self, tags: list[str]) -> list[str]:
        """Strict BIO of the tags of a whole sentence."""
        raise NotImplementedError
