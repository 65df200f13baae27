"""Tasks of whole sentences: one label, several, or a number for a text or a pair of texts."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import Tensor, nn

from hyperloader.config import CLASSIFICATION, MULTI_LABEL
from hyperloader.data.examples import EncodingReport, Example, check_task_names
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.kinds import Kind
from hyperloader.data.labelled_text import Label, LabelledText, check_pair
from hyperloader.nn.loss import IGNORED

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


class WholeSentences(Formulation):
    """Encodes texts for heads that read the mean over a sentence's tokens, and decodes what they answer.

    Args:
        tokenizer: any of transformers that is fast.
        labels: the labels of every task of this kind; their order gives the label ids.
        kinds: what each of these tasks asks.
        max_length: tokens of a text, or of a pair, special tokens included; more are cut from the longer text, and
            counted (``truncated``).
        tasks: the names of all tasks of the model, in the order of their ids.
        segments: tell the backbone which tokens are those of a pair's second text.

    Raises:
        ValueError: the tokenizer lacks a padding token.
    """

    def __init__(
        self,
        tokenizer: "PreTrainedTokenizerBase",
        labels: Mapping[str, Sequence[str]],
        kinds: Mapping[str, Kind],
        max_length: int = 128,
        tasks: Sequence[str] | None = None,
        segments: bool = False,
    ) -> None:
        if tokenizer.pad_token_id is None:
            raise ValueError(f"tokenizer must have a padding token, got {type(tokenizer).__name__} without one")
        self.tokenizer = tokenizer
        self.tasks = check_task_names(labels if tasks is None else tasks)
        self.labels = {task: list(names) for task, names in labels.items()}
        self.kinds = dict(kinds)
        self.max_length = max_length
        self.segments = segments
        self.report = {task: EncodingReport() for task in labels}

    def _encode(self, task_id: int, sentences: Sequence[LabelledText], first_id: int, use_tags: bool) -> list[Example]:
        task = self.tasks[task_id]
        report, pair = self.report[task], self.kinds[task].pair
        for one in sentences:
            check_pair(one, self.kinds[task].pair, task)
        texts = [one.text for one in sentences]
        pairs = [one.text_pair for one in sentences] if pair else None
        cut = {"truncation": True, "max_length": self.max_length, "verbose": False}
        examples = []
        encodings = self.tokenizer(texts, pairs, **cut).encodings
        for number, (one, encoding) in enumerate(zip(sentences, encodings, strict=True), first_id):
            report.sentences += 1
            report.windows += 1
            report.words += sum(len(text.split()) for text in one.content)
            report.truncated += bool(encoding.overflowing)
            label, targets = self._wanted(task, one.label) if use_tags else (IGNORED, ())
            labels = (label, *[IGNORED] * (len(encoding.ids) - 1))
            segments = tuple(encoding.type_ids) if pair and self.segments else ()
            ids = tuple(encoding.ids)
            examples.append(Example(task_id, number, 0, 1, ids, labels, 0, targets=targets, segments=segments))
        return examples

    def _wanted(self, task: str, label: Label) -> tuple[int, tuple[float, ...]]:
        """The label id at the first token, and the targets, of an example with this label."""
        names, kind = self.labels[task], self.kinds[task]
        wanted = label if isinstance(label, tuple) else (label,) if isinstance(label, str) else ()
        for name in wanted:
            if name not in names:
                raise ValueError(f"label of task {task!r} must be one of its labels, got {name!r}")
        if kind.name == CLASSIFICATION:
            return names.index(wanted[0]), ()
        if kind.name == MULTI_LABEL:
            return IGNORED, tuple(float(name in wanted) for name in names)
        if not isinstance(label, float):
            raise ValueError(f"label of task {task!r} must be a number, got {label!r}")
        return IGNORED, ((label - kind.mean) / kind.deviation,)

    def ask(self, model: nn.Module, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """The label of every sentence and all labels' probabilities, or its value."""
        return self.read(model(**inputs).logits, examples)

    def read(self, logits: Tensor, examples: Sequence[Example]) -> list[Answer]:
        """The same from the logits (batch, tokens, columns)."""
        rows = logits[:, 0].double().cpu()
        return [self._answer(row, self.tasks[example.task_id]) for row, example in zip(rows, examples, strict=True)]

    def _answer(self, row: Tensor, task: str) -> Answer:
        kind, row = self.kinds[task], row[: len(self.labels[task])]
        if kind.name == CLASSIFICATION:
            return Answer([int(row.argmax())], row.softmax(-1).tolist())
        if kind.name == MULTI_LABEL:
            return Answer((row > 0).nonzero()[:, 0].tolist(), row.sigmoid().tolist())
        return Answer([kind.mean + kind.deviation * float(row[0])], None)

    def decode(self, examples: Sequence[Example], rows: Tensor | Sequence[Sequence]) -> list:
        """Of every example its label, its labels, or its value, from its answer's ids."""
        if len(rows) != len(examples):
            raise ValueError(f"rows must be one row an example ({len(examples)}), got {len(rows)}")
        return [self._label(self.tasks[one.task_id], row) for one, row in zip(examples, rows, strict=True)]

    def _label(self, task: str, row: Sequence) -> Label:
        kind, names = self.kinds[task], self.labels[task]
        if kind.name == CLASSIFICATION:
            return names[row[0]]
        return tuple(names[number] for number in row) if kind.name == MULTI_LABEL else float(row[0])
