"""Inference: sentences per second of an encoder, tokens per second of greedy generation."""

from collections.abc import Callable, Iterator

import torch

from bench.backbones import make_batch, make_model
from bench.baselines.models import BaselineModel, PlainModel, PublishedModel
from bench.case import Calls, Case, Pass, Point, Provider, Setting
from bench.providers import PLAIN, PUBLISHED, as_reference, compiled, ours
from hyperloader import HyperLoaderModel

FROZEN = "frozen backbone alone"
_NEW_TOKENS = 16


def point(backbone: str, sentences: int, tokens: int, sweep: str = "", headline: bool = False) -> Point:
    """``sentences`` of ``tokens`` tokens of one task; T5 writes 16 tokens for each."""
    sizes = {"backbone": backbone, "sentences": sentences, "tokens": tokens}
    return Point(f"{backbone}, {sentences} × {tokens} tokens", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """The encoder's forward, or greedy generation. Logits are what is compared."""
    backbone, sentences = at.sizes["backbone"], at.sizes["sentences"]
    batch = make_batch(backbone, setting, sentences, at.sizes["tokens"])
    writes = "T5" in backbone

    def model() -> HyperLoaderModel:
        return make_model(backbone, setting).eval()

    def baseline(kind: type[BaselineModel], compiler: Callable = lambda module: module) -> Calls:
        built = compiler(kind(model()).eval())
        return _calls(lambda labels: built(batch["input_ids"], labels=labels)[-1], built.generate, batch, writes)

    def own(model: HyperLoaderModel) -> Calls:
        task = model.hyperloader_config.tasks[0]
        return _calls(
            lambda labels: model(input_ids=batch["input_ids"], labels=labels, task=task).logits,
            lambda **arguments: model.generate(task=task, **arguments),
            batch,
            writes,
        )

    yield Pass(
        "generate" if writes else "encode",
        [
            Provider(PLAIN, lambda: baseline(PlainModel)),
            *(compiled(lambda compiler: baseline(PlainModel, compiler), setting) if at.headline and not writes else []),
            Provider(PUBLISHED, lambda: baseline(PublishedModel)),
            Provider(FROZEN, lambda: baseline(BaselineModel), compared=False),
            *ours(lambda: own(model())),
        ],
        as_reference(lambda: own(model().double())),
        units=sentences * _NEW_TOKENS if writes else sentences,
        unit="tokens" if writes else "sentences",
    )


def _calls(logits: Callable, generate: Callable, batch: dict, writes: bool) -> Calls:
    def results() -> list[torch.Tensor]:
        with torch.no_grad():
            return [logits(batch["labels"] if writes else None)]

    def write() -> None:
        generate(input_ids=batch["input_ids"], max_new_tokens=_NEW_TOKENS, min_new_tokens=_NEW_TOKENS, do_sample=False)

    return Calls(write, results) if writes else Calls.of(results)


CASE = Case(
    name="predict",
    title="Inference",
    points=[
        point("MiniLM", 32, 32, headline=True),
        point("T5-small", 8, 32, headline=True),
        *(point("MiniLM", sentences, 32, "sentences") for sentences in (1, 4, 128)),
    ],
    passes=passes,
)
