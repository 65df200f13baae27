"""A whole training step: forward, loss, backward, clipping, AdamW."""

from collections.abc import Callable, Iterator
from dataclasses import replace

import torch
from torch import Tensor

from bench.backbones import make_batch, make_model
from bench.baselines.models import BaselineModel, PlainModel, PublishedModel
from bench.baselines.peft import PeftModel
from bench.case import Calls, Case, Pass, Point, Provider, Setting
from bench.clock import WALL
from bench.providers import PEFT, PLAIN, PUBLISHED, as_reference, compiled, ours, ours_compiled
from hyperloader import HyperLoaderModel

FROZEN = "frozen backbone, norms trained"
STEP = "training step"
RECOMPUTED = ", recompute_norms"  # behind the name of one of our providers

Loss = Callable[[], Tensor]

# A unit of T5's relu that lies within a rounding of zero may take either side, and its gradient with it.
OF_RELU = 20


def point(backbone: str, sentences: int, tokens: int, layers: int, sweep: str = "", headline: bool = False) -> Point:
    """A batch of ``sentences`` of ``tokens`` tokens."""
    sizes = {"backbone": backbone, "sentences": sentences, "tokens": tokens, "layers": layers}
    deep = f", {layers} layers" if sweep == "layers" else ""
    return Point(f"{backbone}{deep}, {sentences} × {tokens} tokens", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """The step alone."""
    backbone, sentences, tokens = (at.sizes[name] for name in ("backbone", "sentences", "tokens"))
    batch = make_batch(backbone, setting, sentences, tokens)

    def model() -> HyperLoaderModel:
        return make_model(backbone, setting, layers=at.sizes["layers"])

    def recomputing() -> Calls:
        built = model()
        built.recompute_norms()
        return step_of(built, batch)

    def baseline(kind: type[BaselineModel], compiler: Callable = lambda module: module) -> Calls:
        built = kind(model())
        called = compiler(built)
        return step_calls(lambda: called(**batch)[0], built.trained)

    yield Pass(
        STEP,
        [
            Provider(PLAIN, lambda: baseline(PlainModel)),
            *(compiled(lambda compiler: baseline(PlainModel, compiler), setting) if at == _COMPILED else []),
            Provider(PUBLISHED, lambda: baseline(PublishedModel)),
            Provider(FROZEN, lambda: baseline(BaselineModel), compared=False),
            Provider(PEFT, lambda: baseline(PeftModel), compared=False),
            *ours(lambda: step_of(model(), batch)),
            *(ours(recomputing, RECOMPUTED) if at == _COMPILED else []),
            *(ours_compiled(lambda compiler: step_of(compiler(model()), batch), setting) if at == _COMPILED else []),
        ],
        as_reference(lambda: step_of(model().double(), batch)),
        units=sentences * tokens,
        unit="tokens",
        forgiven=OF_RELU if "T5" in backbone else 1,
    )


def step_of(model: HyperLoaderModel, batch: dict[str, Tensor], **which) -> Calls:
    """A step of one of ours; ``which`` names the task or the tasks, the first task if nothing does."""
    which = which or {"task": model.hyperloader_config.tasks[0]}
    trained = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    return step_calls(lambda: model(**batch, **which).loss, trained)


def step_calls(loss: Loss, trained: dict[str, Tensor], capturable: bool = False) -> Calls:
    """The step that ``loss`` and AdamW make; its results are the loss and the gradients, by name.

    ``capturable``: the optimizer counts its steps on the GPU, if there is one, as a CUDA graph asks for.
    """
    parameters = [trained[name] for name in sorted(trained)]
    optimizer = torch.optim.AdamW(parameters, lr=1e-6, fused=True, capturable=capturable and parameters[0].is_cuda)

    def run() -> None:
        loss().backward()
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)

    def results() -> list[Tensor]:
        value = loss()
        return [value, *torch.autograd.grad(value, parameters, allow_unused=True, materialize_grads=True)]

    return Calls(run, results)


_COMPILED = point("MiniLM", 32, 32, 6, headline=True)  # measured compiled, which takes a minute, and recomputing

CASE = Case(
    name="step",
    title="Training step of a whole model",
    points=[
        _COMPILED,
        point("MiniLM", 4, 32, 6, headline=True),
        point("T5-small", 8, 32, 6, headline=True),
        point("SmolLM2", 4, 32, 30),
        replace(point("T5-base", 32, 64, 12, headline=True), device="cuda"),
        replace(point("Llama 1B", 8, 64, 16, headline=True), device="cuda"),
        *(point("MiniLM", 4, 32, layers, "layers") for layers in (12, 24)),
    ],
    passes=passes,
    clock=WALL,
    gate=point("tiny encoder", 4, 8, 2),
)
