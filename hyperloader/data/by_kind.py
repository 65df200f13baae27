"""Tasks of several kinds for one encoder: each task's own formulation, in common batches."""

from collections.abc import Mapping, Sequence
from typing import Any

from torch import Tensor, nn

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.token_classification import TokenClassification
from hyperloader.data.whole_sentences import WholeSentences

OfHeads = TokenClassification | WholeSentences


class ByKind(Formulation):
    """Hands every task to the formulation of its kind.

    Args:
        formulations: of every task, in the order of the ids, each made with the names of all tasks.
    """

    def __init__(self, formulations: Mapping[str, OfHeads]) -> None:
        self.tasks = list(formulations)
        self.of_task = list(formulations.values())
        self.tokenizer, self.max_length = self.of_task[0].tokenizer, self.of_task[0].max_length
        self.kinds = {task: kind for one in formulations.values() for task, kind in one.kinds.items()}
        self.report = {task: one.report[task] for task, one in formulations.items()}

    def _encode(self, task_id: int, sentences: Sequence, first_id: int, use_tags: bool) -> list[Example]:
        return self.of_task[task_id]._encode(task_id, sentences, first_id, use_tags)

    def ask(self, model: nn.Module, inputs: Mapping[str, Tensor], examples: Sequence[Example]) -> list[Answer]:
        """What each example's formulation reads in the logits of the whole batch."""
        logits, answers = model(**inputs).logits, dict[int, Answer]()
        for formulation in dict.fromkeys(self.of_task[example.task_id] for example in examples):
            rows = [row for row, one in enumerate(examples) if self.of_task[one.task_id] is formulation]
            answers.update(zip(rows, formulation.read(logits[rows], [examples[row] for row in rows]), strict=True))
        return [answers[row] for row in range(len(examples))]

    def decode(self, examples: Sequence[Example], rows: Tensor | Sequence[Sequence]) -> list:
        """As each example's formulation does, in the order in which the sentences first appear."""
        rows = rows.tolist() if isinstance(rows, Tensor) else rows
        found: dict[tuple[int, int], Any] = {}
        for task in dict.fromkeys(example.task_id for example in examples):
            own = [number for number, example in enumerate(examples) if example.task_id == task]
            some = [examples[number] for number in own]
            decoded = self.of_task[task].decode(some, [rows[number] for number in own])
            found |= dict(zip(dict.fromkeys((task, one.sentence_id) for one in some), decoded, strict=True))
        return [found[one] for one in dict.fromkeys((one.task_id, one.sentence_id) for one in examples)]
