"""Predicts tags and scores them."""

from collections.abc import Mapping, Sequence

import torch
from accelerate.utils import gather_object
from torch import nn

from hyperloader.data.sentence import Sentence
from hyperloader.model.task_model import TaskModel
from hyperloader.training.metrics import score_tasks
from hyperloader.validation import listed


def predict_examples(
    model: nn.Module,
    formulation,
    examples: Sequence,
    batch_size: int,
    *,
    generate: bool,
    device: torch.device,
    certainties: list[list[float]] | None = None,
) -> list[list[int]]:
    """What the model says to each example, as ``formulation.decode`` takes it. Batches are of similar length.

    Args:
        model: of ``build_model``; it is in training mode afterwards if it was before.
        formulation: made the examples.
        generate: decode greedily (text-to-text) and not by the best label of each token.
        device: where the model is.
        certainties: gets, for each example, the probability of every token's best label; not with ``generate``.
    """
    if certainties is not None:
        certainties[:] = [[] for _ in examples]
    order = sorted(range(len(examples)), key=lambda number: -len(examples[number].input_ids))
    predictions: list = [None] * len(examples)
    training = model.training
    unused = {"labels", "task_ids"} if isinstance(model, TaskModel) else {"labels"}
    model.eval()
    try:
        with torch.no_grad():
            for start in range(0, len(order), batch_size):
                numbers = order[start : start + batch_size]
                batch = formulation.collate([examples[number] for number in numbers])
                batch = {name: tensor.to(device) for name, tensor in batch.items() if name not in unused}
                if generate:
                    rows = model.generate(**batch, max_new_tokens=formulation.max_length, num_beams=1, do_sample=False)
                else:
                    logits = model(**batch).logits
                    rows = logits.argmax(-1)
                    if certainties is not None:
                        best = logits.float().softmax(-1).amax(-1)
                        for number, row in zip(numbers, best.tolist(), strict=True):
                            certainties[number] = row
                for number, row in zip(numbers, rows.tolist(), strict=True):
                    predictions[number] = row
    finally:
        model.train(training)
    return predictions


class Scorer:
    """Scores a model on sentences of every task; under several processes each one predicts a part.

    Args:
        formulation: ``TokenClassification`` or ``TextToText``.
        sentences: of every task, with their gold tags.
        batch_size: sentences at a time.
        generate: as in ``predict_examples``.
    """

    def __init__(self, formulation, sentences: Mapping[str, Sequence[Sentence]], batch_size: int, generate: bool):
        self.formulation = formulation
        self.batch_size = batch_size
        self.generate = generate
        self.gold = {task: [list(one.tags) for one in some] for task, some in sentences.items()}
        blind = {"use_tags": False} if generate else {}  # windows that do not depend on the gold tags
        self.encoded = formulation.encode_all(sentences, **blind)

    def predict(self, model: nn.Module) -> dict[str, list[list[str]]]:
        """BIO tags of every sentence of every task; raises ``ValueError`` for a merged model of fewer tasks."""
        if isinstance(model, TaskModel) and self.encoded.keys() != {model.task}:
            got = listed(self.encoded, "tasks")
            raise ValueError(f"a model merged for {model.task!r} serves no other task, got {got}")
        device = next(model.parameters()).device
        examples = [example for task in self.encoded.values() for example in task]
        rank, world = _place()
        mine = range(rank, len(examples), world)
        rows = predict_examples(
            model,
            self.formulation,
            [examples[number] for number in mine],
            self.batch_size,
            generate=self.generate,
            device=device,
        )
        found = list(zip(mine, rows, strict=True))
        if world > 1:
            found = gather_object(found)
        by_number = dict(found)
        tags, start = {}, 0
        for task, some in self.encoded.items():
            tags[task] = self.formulation.decode(some, [by_number[start + number] for number in range(len(some))])
            start += len(some)
        return tags

    def __call__(self, model: nn.Module) -> dict:
        """``{"tasks": {task: scores}, "mean_f1": number}``, see ``hyperloader.training.metrics``."""
        return score_tasks(self.gold, self.predict(model))


def _place() -> tuple[int, int]:
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1
