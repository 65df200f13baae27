"""Answers to texts: a label with every label's probability, or a value."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.labelled_text import Label
from hyperloader.data.text_readers import AnyText
from hyperloader.training.evaluation import answer_examples


@dataclass(frozen=True, slots=True)
class TextAnswer:
    """A label's name, a multi-label task's labels, a regression's value, or what is written; None for an empty text.
    ``probabilities`` are those of all labels of the task, None where there are none."""

    label: Label
    probabilities: list[float] | None


def answer_texts(
    model: nn.Module,
    formulation: Formulation,
    task_id: int,
    merged: bool,
    texts: Iterable[AnyText | None],
    batch_size: int,
) -> Iterator[TextAnswer]:
    """One answer a text (None for an empty one), in their order; ``batch_size`` are taken at a time."""
    texts, task = iter(texts), formulation.tasks[task_id]
    while batch := list(itertools.islice(texts, batch_size)):
        some = [one for one in batch if one is not None]
        examples = formulation.encode_all({task: some}, use_tags=False)[task]
        answers = answer_examples(model, formulation, examples, batch_size, merged=merged)
        found = iter(text_answers(formulation, examples, answers))
        for one in batch:
            yield TextAnswer(None, None) if one is None else next(found)


def text_answers(formulation: Formulation, examples: Sequence[Example], answers: Sequence[Answer]) -> list[TextAnswer]:
    """One a text, from the model's answers."""
    labels = formulation.decode(examples, [answer.ids for answer in answers])
    return [TextAnswer(label, answer.probabilities) for label, answer in zip(labels, answers, strict=True)]
