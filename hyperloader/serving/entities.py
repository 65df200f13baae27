"""Entities of tagged texts as transformers' pipeline ``token-classification`` writes them, by its own code."""

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from transformers.pipelines.token_classification import AggregationStrategy, TokenClassificationPipeline

from hyperloader.data.examples import Example
from hyperloader.serving.batches import batches_by_length
from hyperloader.serving.predictor import Predictor, Question
from hyperloader.validation import check_choice

STRATEGIES = tuple(one.value for one in AggregationStrategy)


class _Aggregation(TokenClassificationPipeline):
    """What the pipeline does after its model, for labels of one task."""

    def __init__(self, tokenizer: Any, labels: Sequence[str]) -> None:
        self.tokenizer = tokenizer
        self.model: Any = SimpleNamespace(config=SimpleNamespace(id2label=dict(enumerate(labels))))


def entities(
    predictor: Predictor, questions: Sequence[Question], strategy: str, batch_size: int | None = None
) -> list[list[dict]]:
    """Of every question the entities, as the pipeline has them: ``entity`` or ``entity_group``, ``score``, ``word``,
    ``start`` and ``end``, with ``none`` also ``index``; labels ``O`` are left out.

    Every token has its own most probable label here, whatever the run's ``valid_tags``; training gives labels to the
    first token of each word, which is what ``first`` reads.

    Raises:
        ValueError: an unknown strategy, or a task that is no tagging by labels of words.
    """
    check_choice("aggregation_strategy", strategy, STRATEGIES)
    run = predictor.run
    for task in dict.fromkeys(question.task for question in questions):
        if task in run.kinds or run.heads is None:
            raise ValueError(
                f"aggregation_strategy must be None for {task!r}, which does not label words, got {strategy!r}"
            )
    ready = [Question(one.task, predictor.forms[one.task].ready(one.given)) for one in questions]
    encoded = predictor.encode(ready)
    examples = [example for windows in encoded for example in windows]
    scores: dict[int, np.ndarray] = {}
    for batch in batches_by_length([len(one.input_ids) for one in examples], predictor.max_tokens, batch_size):
        scores.update(zip(batch, _scores(predictor, [examples[number] for number in batch]), strict=True))
    found, start = [], 0
    for question, windows in zip(ready, encoded, strict=True):
        labels = run.labels[question.task]
        own = [scores[number][:, : len(labels)] for number in range(start, start + len(windows))]
        start += len(windows)
        pipeline = _Aggregation(run.formulation.tokenizer, labels)
        tokens = _tokens(pipeline.tokenizer, question, windows, own)
        some = pipeline.aggregate(tokens, AggregationStrategy(strategy))
        found.append([one for one in some if one.get("entity", one.get("entity_group")) != "O"])
    return found


@torch.no_grad()
def _scores(predictor: Predictor, examples: Sequence[Example]) -> list[np.ndarray]:
    """Every token's probabilities of the labels, (tokens, columns) for each example."""
    model, merged = predictor.run.model, predictor.run.merged_for is not None
    batch, unused = predictor.run.formulation.collate(examples), {"labels", "task_ids"} if merged else {"labels"}
    device = next(model.parameters()).device
    inputs = {name: tensor.to(device) for name, tensor in batch.items() if name not in unused}
    return list(model(**inputs).logits.float().softmax(-1).cpu().numpy())


def _tokens(tokenizer: Any, question: Question, windows: Sequence[Example], scores: Sequence[np.ndarray]) -> list[dict]:
    """The tokens of a sentence without the special ones, as the pipeline has them before it joins them."""
    words, offsets, first = question.given.tokens, question.given.offsets or [], 0
    found: list[dict] = []
    for window, rows in zip(windows, scores, strict=True):
        some = words[first : first + window.word_count]
        encoding = tokenizer([some], is_split_into_words=True, verbose=False).encodings[0]
        kept = [place for place, word in enumerate(encoding.word_ids) if word is not None]
        special = len(encoding.ids) - len(kept)
        shift = kept[0] if kept else 0
        previous = None
        for place in kept[: len(window.input_ids) - special]:  # of a word longer than a window the first tokens
            word, (begin, after) = encoding.word_ids[place], encoding.offsets[place]
            start, unknown = offsets[first + word][0], encoding.ids[place] == tokenizer.unk_token_id
            begin, after = start + begin, start + after
            found.append({
                "word": question.given.text[begin:after] if unknown else encoding.tokens[place],
                "scores": rows[place], "index": len(found) + shift, "start": begin, "end": after,
                "is_subword": word == previous and not unknown,
            })  # fmt: skip
            previous = word
        first += window.word_count
    return found
