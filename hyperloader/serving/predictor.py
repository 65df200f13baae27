"""Questions to a run and their answers, in three steps: encoded, asked in batches of similar length, written."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer
from hyperloader.serving.batches import batches_by_length
from hyperloader.serving.forms import Form, make_form
from hyperloader.serving.inputs import Input, Split
from hyperloader.training.evaluation import answer_batch
from hyperloader.training.saved_run import Run

ON_CPU, ON_GPU = 2048, 16384  # tokens of a batch, padding included


@dataclass(frozen=True, slots=True)
class Question:
    """An input for one of the tasks."""

    task: str
    given: Input


class Predictor:
    """Asks the model of ``run``, which is in evaluation mode.

    Args:
        splits: of every task the rule that finds words in a text.
    """

    def __init__(self, run: Run, splits: Mapping[str, Split]) -> None:
        self.run = run
        self.forms: dict[str, Form] = {task: make_form(run, task, splits[task]) for task in run.tasks}
        self.max_tokens = ON_CPU if next(run.model.parameters()).device.type == "cpu" else ON_GPU

    def encode(self, questions: Sequence[Question]) -> list[list[Example]]:
        """The windows of every question; none of one that has nothing to ask about."""
        asked: dict[str, list[tuple[int, Any]]] = {}
        for number, question in enumerate(questions):
            example = self.forms[question.task].example(question.given)
            if example is not None:
                asked.setdefault(question.task, []).append((number, example))
        found: list[list[Example]] = [[] for _ in questions]
        sentences = {task: [one for _, one in some] for task, some in asked.items()}
        for task, examples in self.run.formulation.encode_all(sentences, use_tags=False).items():
            for example in examples:
                found[asked[task][example.sentence_id][0]].append(example)
        return found

    def ask(self, examples: Sequence[Example]) -> list[Answer]:
        """The model's answers to one batch."""
        return answer_batch(self.run.model, self.run.formulation, examples, merged=self.run.merged_for is not None)

    def answer(self, question: Question, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
        """The answer to a question from those to its windows."""
        return self.forms[question.task].answer(question.given, examples, answers)

    def answers(self, questions: Iterable[Question], batch_size: int | None = None) -> list[dict]:
        """One answer a question, in their order."""
        questions = [Question(one.task, self.forms[one.task].ready(one.given)) for one in questions]
        encoded = self.encode(questions)
        examples = [example for windows in encoded for example in windows]
        said: dict[int, Answer] = {}
        for batch in batches_by_length([len(one.input_ids) for one in examples], self.max_tokens, batch_size):
            said.update(zip(batch, self.ask([examples[number] for number in batch]), strict=True))
        found, start = [], 0
        for question, windows in zip(questions, encoded, strict=True):
            own = [said[number] for number in range(start, start + len(windows))]
            found.append(self.answer(question, windows, own))
            start += len(windows)
        return found
