"""What each kind of task is asked about an input, and how it answers."""

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer
from hyperloader.data.kinds import CHAT, Kind
from hyperloader.data.sentence import Sentence
from hyperloader.data.written_text import FIELDS, Chat, WrittenText, make_chat
from hyperloader.serving.answers import answer, text_answer, written_answer
from hyperloader.serving.inputs import Input, Split, of_object, reading_of, text_of_object, written_of_object
from hyperloader.training.saved_run import Run
from hyperloader.training.tagging import Tagged, tagged
from hyperloader.training.text_answers import TextAnswer, text_answers


class Form(Protocol):
    """One task's: from a JSON object to what its formulation encodes, and from the model's answers to JSON."""

    def takes(self, record: Mapping) -> bool:
        """Whether a JSON object is meant for such a task, where all tasks are asked."""

    def read(self, record: dict, line: int, name: str) -> Input:
        """The input that a JSON object is; raises DataError, with ``name:line``, for anything else."""

    def ready(self, given: Input) -> Input:
        """The input as this task takes it."""

    def example(self, given: Input) -> Any:
        """What the formulation encodes; None where there is nothing to ask about."""

    def answer(self, given: Input, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
        """The answer to one input, from those to its examples."""


class TaggingForm(Form):
    """Tags and spans of words, which ``split`` finds in a text that comes without."""

    def __init__(self, run: Run, task: str, split: Split) -> None:
        self.run, self.task, self.split = run, task, split

    def takes(self, record: Mapping) -> bool:
        return record.get("text_pair") is None and not {"text", "tokens"}.isdisjoint(record)

    def read(self, record: dict, line: int, name: str) -> Input:
        return of_object(record, line, name)

    def ready(self, given: Input) -> Input:
        return given.parted(self.split)

    def example(self, given: Input) -> Sentence | None:
        tokens = given.tokens
        return Sentence(tuple(tokens), ("O",) * len(tokens)) if tokens else None

    def answer(self, given: Input, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
        found = tagged(self.run.formulation, examples, answers)[0] if examples else Tagged([], [])
        return answer(given, self.task, found.tags, found.probabilities)


class TextForm(Form):
    """A label, labels or a value of a whole text, or of a pair."""

    def __init__(self, run: Run, task: str, kind: Kind) -> None:
        self.run, self.task, self.kind = run, task, kind

    def takes(self, record: Mapping) -> bool:
        pair = record.get("text_pair") is not None
        return pair == self.kind.pair and not {"text", "tokens"}.isdisjoint(record)

    def read(self, record: dict, line: int, name: str) -> Input:
        return text_of_object(record, line, name, reading_of(self.kind))

    def ready(self, given: Input) -> Input:
        return given

    def example(self, given: Input) -> Any:
        return given.example()

    def answer(self, given: Input, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
        found = text_answers(self.run.formulation, examples, answers)[0] if examples else TextAnswer(None, None)
        return text_answer(given, found, self.task, self.kind, self.run.labels[self.task])


class WrittenForm(TextForm):
    """Text that follows a source, a prompt or a chat; a text alone is what the user of the chat says."""

    def takes(self, record: Mapping) -> bool:
        asked = FIELDS[self.kind.name][0]
        return asked in record or ("text" in record and record.get("text_pair") is None)

    def read(self, record: dict, line: int, name: str) -> Input:
        return written_of_object(record, line, name, reading_of(self.kind))

    def example(self, given: Input) -> Any:
        if self.kind.name != CHAT:
            return WrittenText(given.text, None, "input", given.line) if given.text.strip() else None
        if given.messages is not None:  # without the reply already
            return Chat(tuple(given.messages), None, "input", given.line)
        said = [{"role": "user", "content": given.text}]
        return make_chat(said, "input", given.line, labelled=False) if given.text.strip() else None

    def answer(self, given: Input, examples: Sequence[Example], answers: Sequence[Answer]) -> dict:
        found = text_answers(self.run.formulation, examples, answers)[0] if examples else TextAnswer(None, None)
        return written_answer(given, found.label, self.task, self.kind.name)


def make_form(run: Run, task: str, split: Split) -> Form:
    """The form of a task; ``split`` gives the words of a text."""
    kind = run.kinds.get(task)
    if kind is None:
        return TaggingForm(run, task, split)
    return WrittenForm(run, task, kind) if kind.written else TextForm(run, task, kind)
