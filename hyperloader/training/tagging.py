"""Tags of sentences, with the probability of every word's label."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from hyperloader.data.examples import Example, join_windows
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.sentence import Sentence
from hyperloader.training.evaluation import answer_examples


@dataclass(frozen=True, slots=True)
class Tagged:
    """BIO tags of a sentence, and how probable the model finds the label of every word; None from a model that writes
    text."""

    tags: list[str]
    probabilities: list[float] | None


def tag_sentences(
    model: nn.Module,
    formulation: Formulation,
    task_id: int,
    sentences: Iterable[Sequence[str]],
    batch_size: int,
    *,
    merged: bool,
) -> Iterator[Tagged]:
    """One answer a sentence (a list of words, perhaps none), in their order; ``batch_size`` are taken at a time."""
    sentences = iter(sentences)
    while batch := list(itertools.islice(sentences, batch_size)):
        examples: list[Example] = []
        for number, words in enumerate(batch):
            if words:
                sentence = Sentence(tuple(words), ("O",) * len(words))
                examples += formulation.encode(task_id, sentence, number, use_tags=False)
        answers = answer_examples(model, formulation, examples, batch_size, merged=merged)
        found = iter(tagged(formulation, examples, answers))
        for words in batch:
            yield next(found) if words else Tagged([], [])


def tagged(formulation: Formulation, examples: Sequence[Example], answers: Sequence[Answer]) -> list[Tagged]:
    """One a sentence, from the answers to all windows of some sentences, in the order in which these first appear."""
    tags = formulation.decode(examples, [answer.ids for answer in answers])
    return [Tagged(*one) for one in zip(tags, _of_words(examples, answers), strict=False)]


def _of_words(examples: Sequence[Example], answers: Sequence[Answer]) -> Iterator[list[float] | None]:
    """Of every sentence, the probability of each word's label: that of its first subword, 1 where it has none."""
    parts = [
        [1.0 if place < 0 else answer.probabilities[place] for place in example.first_subwords]
        for example, answer in zip(examples, answers, strict=True)
        if answer.probabilities is not None
    ]
    return iter(join_windows(examples, parts)) if len(parts) == len(answers) else itertools.repeat(None)
