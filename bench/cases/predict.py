"""Inference: sentences per second of an encoder, tokens per second of greedy generation."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial

import torch

from bench.backbones import WRITERS, make_batch, make_model
from bench.baselines.models import BaselineModel, PlainModel, PublishedModel
from bench.baselines.peft import PeftModel, PeftTasksModel
from bench.case import Calls, Case, Pass, Point, Provider, Setting
from bench.clock import WALL
from bench.providers import PEFT, PLAIN, PUBLISHED, as_reference, compiled, ours, ours_compiled
from hyperloader import HyperLoaderModel

FROZEN = "frozen backbone alone"
MERGED, LORA, LORA_MERGED = ", merged", ", LoRA alone", ", LoRA alone, merged"
PEFT_TASKS, PEFT_AS_LARGE = f"{PEFT} a task, adapter_names", f"{PEFT} a task of as many numbers, adapter_names"


def point(
    backbone: str, sentences: int, tokens: int, sweep: str = "", headline: bool = False, new_tokens: int = 16,
    tasks: int = 1,
) -> Point:  # fmt: skip
    """``sentences`` of ``tokens`` tokens that take turns at the tasks; T5 and decoders write ``new_tokens`` tokens for
    each."""
    sizes = {"backbone": backbone, "sentences": sentences, "tokens": tokens, "new_tokens": new_tokens, "tasks": tasks}
    mixed = f", {tasks} tasks" if tasks > 1 else ""
    return Point(f"{backbone}{mixed}, {sentences} × {tokens} tokens", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """The encoder's forward, or greedy generation. Logits are what is compared."""
    backbone, sentences = at.sizes["backbone"], at.sizes["sentences"]
    batch = make_batch(backbone, setting, sentences, at.sizes["tokens"])
    new_tokens = at.sizes["new_tokens"] if backbone in WRITERS else 0
    tasks = at.sizes["tasks"]
    which = torch.arange(sentences, device=setting.device) % tasks if tasks > 1 else 0

    def model(**options) -> HyperLoaderModel:
        return make_model(backbone, setting, tasks, **options).eval()

    def baseline(
        kind: Callable[[HyperLoaderModel], BaselineModel], compiler: Callable = lambda module: module
    ) -> Calls:
        built = compiler(kind(model()).eval())
        return _calls(
            lambda labels: built(batch["input_ids"], which, labels=labels)[-1],
            lambda **arguments: built.generate(which=which, **arguments),
            batch,
            new_tokens,
        )

    def own(model: HyperLoaderModel) -> Calls:
        chosen = {"task_ids": which} if tasks > 1 else {"task": model.hyperloader_config.tasks[0]}
        return _calls(
            lambda labels: model(input_ids=batch["input_ids"], labels=labels, **chosen).logits,
            lambda **arguments: model.generate(**chosen, **arguments),
            batch,
            new_tokens,
        )

    def own_compiled(compiler: Callable) -> Calls:
        built = model()
        built.backbone = compiler(built.backbone)  # so that the weights come from the bank
        return own(built)

    def merged(model: HyperLoaderModel) -> Calls:
        alone = model.merge(model.hyperloader_config.tasks[0], inplace=True)
        return _calls(
            lambda labels: alone(input_ids=batch["input_ids"], labels=labels).logits, alone.generate, batch, new_tokens
        )

    of_many_tasks = [
        Provider(PEFT_TASKS, lambda: baseline(PeftTasksModel), compared=False),
        Provider(PEFT_AS_LARGE, lambda: baseline(partial(PeftTasksModel, as_many_numbers=True)), compared=False),
        *ours(lambda: own(model(adapter_sites=())), LORA, compared=False),
    ]
    of_one_task = [
        *(compiled(lambda compiler: baseline(PlainModel, compiler), setting) if at.headline and not new_tokens else []),
        Provider(PUBLISHED, lambda: baseline(PublishedModel)),
        Provider(PEFT, lambda: baseline(PeftModel), compared=False),
        *(ours_compiled(own_compiled, setting) if at.headline and not new_tokens else []),
        *ours(lambda: merged(model()), MERGED),
        *ours(lambda: merged(model(adapter_sites=())), LORA_MERGED, compared=False),
    ]  # fmt: skip
    yield Pass(
        "generate" if new_tokens else "encode",
        [
            Provider(PLAIN, lambda: baseline(PlainModel)),
            Provider(FROZEN, lambda: baseline(BaselineModel), compared=False),
            *ours(lambda: own(model())),
            *(of_many_tasks if tasks > 1 else of_one_task),
        ],
        as_reference(lambda: own(model().double())),
        units=sentences * max(new_tokens, 1),
        unit="tokens" if new_tokens else "sentences",
    )


def _calls(logits: Callable, generate: Callable, batch: dict, new_tokens: int) -> Calls:
    def results() -> list[torch.Tensor]:
        with torch.no_grad():
            return [logits(batch["labels"] if new_tokens else None)]

    def write() -> None:
        length = {"max_new_tokens": new_tokens, "min_new_tokens": new_tokens}
        generate(input_ids=batch["input_ids"], do_sample=False, **length)

    return Calls(write, results) if new_tokens else Calls.of(results)


CASE = Case(
    name="predict",
    title="Inference",
    points=[
        point("MiniLM", 32, 32, headline=True),
        point("MiniLM", 32, 32, headline=True, tasks=8),
        point("T5-small", 8, 32, headline=True),
        point("T5-small", 8, 32, headline=True, tasks=8),
        point("SmolLM2", 8, 32),
        replace(point("T5-base", 8, 32, headline=True), device="cuda"),
        replace(point("Llama 1B", 8, 32, headline=True), device="cuda"),
        *(point("MiniLM", sentences, 32, "sentences") for sentences in (1, 4, 128)),
    ],
    passes=passes,
    clock=WALL,
)
