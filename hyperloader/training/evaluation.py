"""Predicting tags with a model, and scoring them."""

import dataclasses
import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import cast

import torch
from accelerate.utils import gather_object
from torch import nn

from hyperloader.data.as_text import AsText
from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.data.kinds import CHAT, COMPLETION
from hyperloader.model import HyperLoaderModel
from hyperloader.nn.loss import IGNORED, text_losses
from hyperloader.nn.sharded import is_sharded, unsharded
from hyperloader.training.headlines import PERPLEXITY
from hyperloader.training.loss import text_logits
from hyperloader.training.metrics import Counts, score_tasks, span_counts

_MOST = 700.0  # whose exponential is a number


def answer_examples(
    model: nn.Module, formulation: Formulation, examples: Sequence[Example], batch_size: int, *, merged: bool = False
) -> list[Answer]:
    """The model's answer to each example, in batches of similar length.

    Args:
        model: of ``build_model``; it is in training mode afterwards if it was before.
        formulation: made the examples.
        merged: the model serves one task alone and takes no ``task_ids``.
    """
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].input_ids))
    answers: dict[int, Answer] = {}
    training = model.training
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            numbers = order[start : start + batch_size]
            some = [examples[number] for number in numbers]
            answers.update(zip(numbers, answer_batch(model, formulation, some, merged=merged), strict=True))
    finally:
        model.train(training)
    return [answers[number] for number in range(len(examples))]


@torch.no_grad()
def answer_batch(
    model: nn.Module, formulation: Formulation, examples: Sequence[Example], *, merged: bool = False
) -> list[Answer]:
    """The answers of a model in evaluation mode to the examples of one batch; the rest as ``answer_examples``."""
    device, unused = next(model.parameters()).device, {"labels", "task_ids"} if merged else {"labels"}
    batch = formulation.collate(examples)
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in unused}
    return formulation.ask(model, inputs, examples)


@torch.no_grad()
def losses_of(model: nn.Module, formulation: AsText, examples: Sequence[Example], batch_size: int) -> tuple[float, int]:
    """The sum of the cross-entropy over all labelled tokens of ``examples``, and how many there are."""
    order = sorted(examples, key=lambda example: -len(example.input_ids))
    device, training, total, count = next(model.parameters()).device, model.training, 0.0, 0
    model.eval()
    try:
        for start in range(0, len(order), batch_size):
            batch = formulation.collate(order[start : start + batch_size])
            inputs = {name: tensor.to(device) for name, tensor in batch.items()}
            losses, _ = text_losses(*text_logits(model, inputs, formulation.text_model.causal))
            total, count = total + float(losses.double().sum()), count + len(losses)
    finally:
        model.train(training)
    return total, count


class Scorer:
    """Scores a model on sentences of every task; under several processes each one predicts a part.

    Args:
        formulation: of the tasks.
        sentences: of every task, with their gold tags or labels.
        batch_size: sentences at a time.
    """

    def __init__(self, formulation: Formulation, sentences: Mapping[str, Sequence], batch_size: int) -> None:
        self.formulation = formulation
        self.batch_size = batch_size
        self.gold = {task: [one.gold for one in some] for task, some in sentences.items()}
        self.encoded = formulation.encode_all(sentences, use_tags=False)
        self.written: dict[str, list[Example]] = {}
        if isinstance(formulation, AsText):
            kinds = formulation.kinds
            read = [task for task in sentences if task in kinds and kinds[task].name in (COMPLETION, CHAT)]
            self.written = formulation.gold({task: sentences[task] for task in read})

    def predict(self, model: nn.Module) -> dict[str, list]:
        """BIO tags, labels or values of every sentence of every task."""
        examples = [example for task in self.encoded.values() for example in task]
        rank, processes = _rank_and_processes()
        # As many for each, some twice: where FSDP has sharded the model, a forward is one of all processes.
        most = -(-len(examples) // processes) * processes if examples else 0
        mine = [number % len(examples) for number in range(rank, most, processes)]
        with _whole_to_write(model):
            answers = answer_examples(model, self.formulation, [examples[number] for number in mine], self.batch_size)
        found = [(number, answer.ids) for number, answer in zip(mine, answers, strict=True)]
        by_number = dict(gather_object(found) if processes > 1 else found)
        tags, start = {}, 0
        for task, some in self.encoded.items():
            tags[task] = self.formulation.decode(some, [by_number[start + number] for number in range(len(some))])
            start += len(some)
        return tags

    def perplexities(self, model: nn.Module) -> dict[str, float]:
        """Of completions and chats: exp of the mean cross-entropy over the tokens that are to be written."""
        found, (rank, processes) = dict[str, float](), _rank_and_processes()
        for task, examples in self.written.items():
            formulation = cast(AsText, self.formulation)
            mine = examples[rank::processes]
            if len(mine) * processes < len(examples):  # as many for each, as in ``predict``
                mine = [*mine, dataclasses.replace(examples[0], labels=(IGNORED,) * len(examples[0].labels))]
            total, count = losses_of(model, formulation, mine, self.batch_size)
            sums = gather_object([(total, count)]) if processes > 1 else [(total, count)]
            mean = math.fsum(one for one, _ in sums) / sum(some for _, some in sums)
            found[task] = math.exp(min(mean, _MOST))
        return found

    def __call__(self, model: nn.Module) -> dict:
        """``{"tasks": {task: scores}, "mean_f1": number}``, see ``hyperloader.training.metrics``."""
        return self._scores(model, self.predict(model))

    def _scores(self, model: nn.Module, predicted: Mapping[str, list]) -> dict:
        scores = score_tasks(self.gold, predicted, self.formulation.kinds)
        for task, perplexity in self.perplexities(model).items():
            scores["tasks"][task][PERPLEXITY] = perplexity
        return scores

    def with_counts(self, model: nn.Module) -> tuple[dict, Counts]:
        """The scores, and of every tagging task the ``span_counts`` of its sentences, in their order."""
        predicted, kinds = self.predict(model), self.formulation.kinds
        return self._scores(model, predicted), {
            task: span_counts(gold, predicted[task]) for task, gold in self.gold.items() if task not in kinds
        }


@contextmanager
def _whole_to_write(model: nn.Module) -> Iterator[None]:
    """Inside the block a model that writes text is whole in every process: each one needs another number of forwards
    for its texts."""
    if getattr(model, "heads", None) is not None or not is_sharded(model):
        yield
        return
    with unsharded(model):
        yield
    if isinstance(model, HyperLoaderModel):
        model.bank.clear()  # its weights come from parameters that no longer exist


def _rank_and_processes() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
