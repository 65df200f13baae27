"""Predicting tags with a model, and scoring them."""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import nn

from hyperloader.data.examples import Example
from hyperloader.data.formulation import Answer, Formulation
from hyperloader.training.metrics import Counts, score_tasks, span_counts


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
    device, training = next(model.parameters()).device, model.training
    unused = {"labels", "task_ids"} if merged else {"labels"}
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                some = [examples[number] for number in numbers]
                batch = formulation.collate(some)
                inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in unused}
                answers.update(zip(numbers, formulation.ask(model, inputs, some), strict=True))
    finally:
        model.train(training)
    return [answers[number] for number in range(len(examples))]


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

    def predict(self, model: nn.Module) -> dict[str, list]:
        """BIO tags, labels or values of every sentence of every task."""
        examples = [example for task in self.encoded.values() for example in task]
        rank, processes = _rank_and_processes()
        mine = range(rank, len(examples), processes)
        answers = answer_examples(model, self.formulation, [examples[number] for number in mine], self.batch_size)
        found = [(number, answer.ids) for number, answer in zip(mine, answers, strict=True)]
        if processes > 1:
            found = gather_object(found)
        by_number = dict(found)
        tags, start = {}, 0
        for task, some in self.encoded.items():
            tags[task] = self.formulation.decode(some, [by_number[start + number] for number in range(len(some))])
            start += len(some)
        return tags

    def __call__(self, model: nn.Module) -> dict:
        """``{"tasks": {task: scores}, "mean_f1": number}``, see ``hyperloader.training.metrics``."""
        return score_tasks(self.gold, self.predict(model), self.formulation.kinds)

    def with_counts(self, model: nn.Module) -> tuple[dict, Counts]:
        """The scores, and of every tagging task the ``span_counts`` of its sentences, in their order."""
        predicted, kinds = self.predict(model), self.formulation.kinds
        return score_tasks(self.gold, predicted, kinds), {
            task: span_counts(gold, predicted[task]) for task, gold in self.gold.items() if task not in kinds
        }


def _rank_and_processes() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
