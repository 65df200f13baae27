"""Answers to texts: a label with every label's probability, or a value."""

import itertools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from torch import nn

from hyperloader.data.formulation import Formulation
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
        labels = formulation.decode(examples, [answer.ids for answer in answers])
        found = iter(zip(labels, answers, strict=True))
        for one in batch:
            if one is None:
                yield TextAnswer(None, None)
            else:
                label, answer = next(found)
                yield TextAnswer(label, answer.probabilities)
