"""Tags of sentences, with the probability of every word's label."""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from torch import nn

from hyperloader.data.examples import Example, join_windows
from hyperloader.data.sentence import Sentence
from hyperloader.training.evaluation import predict_examples


@dataclass(frozen=True, slots=True)
class Tagged:
    """BIO tags of a sentence, and how probable the model finds the label of every word; None from a model that writes
    text."""

    tags: list[str]
    probabilities: list[float] | None


def tag_sentences(
    model: nn.Module, formulation, task_id: int, sentences: Iterable[Sequence[str]], batch_size: int, *, generate: bool
) -> Iterator[Tagged]:
    """One answer a sentence (a list of words, perhaps none), in their order; ``batch_size`` are taken at a time."""
    device = next(model.parameters()).device
    sentences = iter(sentences)
    while batch := list(itertools.islice(sentences, batch_size)):
        examples: list[Example] = []
        for number, words in enumerate(batch):
            if words:
                sentence = Sentence(tuple(words), ("O",) * len(words))
                examples += formulation.encode(task_id, sentence, number, use_tags=False)
        certainties: list | None = None if generate else []
        rows = predict_examples(
            model, formulation, examples, batch_size, generate=generate, device=device, certainties=certainties
        )
        tags = iter(formulation.decode(examples, rows))
        probabilities = None if certainties is None else iter(_of_words(examples, certainties))
        for words in batch:
            yield Tagged(
                next(tags) if words else [],
                None if probabilities is None else next(probabilities) if words else [],
            )


def _of_words(examples: Sequence[Example], certainties: Sequence[Sequence[float]]) -> list[list[float]]:
    """Of every sentence, the probability of each word's label: that of its first subword, 1 where it has none."""
    parts = [
        [1.0 if place < 0 else row[place] for place in example.first_subwords]
        for example, row in zip(examples, certainties, strict=True)
    ]
    return join_windows(examples, parts)
