"""Frozen linear layers with a LoRA update: plain PyTorch, PEFT, the frozen layers alone, ours.

One layer, or two that read the same tokens, as an attention's query and value do.
"""

from collections.abc import Iterator

import torch
from torch.nn import functional

from bench.baselines import peft, plain
from bench.case import BOTH, FORWARD, Calls, Case, Pass, Point, Provider, Setting
from bench.providers import PEFT, PLAIN, as_reference, backward_calls, compiled, forward_calls, ours, random_tensors
from hyperloader import ops

FROZEN = "frozen linear alone"


def point(tokens: int, hidden: int, sweep: str = "", headline: bool = False, layers: int = 1) -> Point:
    """Rank-8 updates of square layers."""
    sizes = {"tokens": tokens, "hidden": hidden, "rank": 8, "layers": layers}
    several = "" if layers == 1 else f"{layers} × "
    return Point(f"{tokens} × {hidden} → {several}{hidden}, rank 8", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """Forward without autograd; forward and the gradients of x, every A and every B."""
    tokens, hidden, rank, layers = (at.sizes[name] for name in ("tokens", "hidden", "rank", "layers"))
    shapes = [(tokens, hidden)]
    for shape in ((hidden, hidden), (hidden,), (rank, hidden), (hidden, rank)):
        shapes += [shape] * layers
    inputs, exact = random_tensors(shapes, setting), random_tensors(shapes, setting, torch.float64)
    for tensors in (inputs, exact):
        for tensor in tensors[1 : 1 + 2 * layers]:
            tensor.requires_grad_(False)
    frozen, update = 2 * layers * tokens * hidden * hidden, 4 * layers * tokens * hidden * rank
    for name, calls, flop in (
        (FORWARD, forward_calls, frozen + update),
        (BOTH, backward_calls, 2 * frozen + 3 * update),
    ):
        providers = [
            Provider(PLAIN, _bind(calls, _plain, inputs)),
            *(_compiled(calls, inputs, setting) if at.headline else []),
            Provider(PEFT, _bind(_peft, calls, inputs)),
            Provider(FROZEN, _bind(_frozen, name, inputs), compared=False),
            *ours(_bind(calls, _ours, inputs)),
            *(ours(_bind(calls, _ours_one_by_one, inputs), ", a call each") if layers > 1 else []),
        ]
        yield Pass(name, providers, as_reference(_bind(calls, _ours, exact)), flop, units=tokens, unit="tokens")


def _bind(function, *arguments):
    return lambda: function(*arguments)


def _compiled(calls, inputs, setting: Setting) -> list[Provider]:
    return compiled(lambda compiler: calls(compiler(_plain), inputs), setting)


def _lists(tensors) -> list[list[torch.Tensor]]:
    """The weights, biases, lora_A and lora_B of all layers."""
    layers = len(tensors) // 4
    return [list(tensors[i : i + layers]) for i in range(0, len(tensors), layers)]


def _plain(x: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [plain.lora_linear(x, *layer) for layer in zip(*_lists(tensors), strict=True)]


def _ours(x: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return ops.lora_linears(x, *_lists(tensors)) if len(tensors) > 4 else [ops.lora_linear(x, *tensors)]


def _ours_one_by_one(x: torch.Tensor, *tensors: torch.Tensor) -> list[torch.Tensor]:
    return [ops.lora_linear(x, *layer) for layer in zip(*_lists(tensors), strict=True)]


def _peft(calls, inputs) -> Calls:
    x, *weights = inputs
    models, trained = zip(*(peft.lora_linear(*layer) for layer in zip(*_lists(weights), strict=True)), strict=True)

    def run(x):
        return [model(x) for model in models]

    if calls is forward_calls:
        return forward_calls(run, [x])
    factors = [factor for factors in zip(*trained, strict=True) for factor in factors]  # every A, then every B
    return backward_calls(run, [x], [x, *factors])


def _frozen(name: str, inputs) -> Calls:
    x, *rest = inputs
    weights, biases, *_ = _lists(rest)

    def run(x):
        return [functional.linear(x, weight, bias) for weight, bias in zip(weights, biases, strict=True)]

    return forward_calls(run, [x]) if name == FORWARD else backward_calls(run, [x])


CASE = Case(
    name="lora_linear",
    title="Frozen linear layers with LoRA",
    points=[
        point(4096, 768, headline=True),
        point(512, 768, headline=True, layers=2),
        point(4096, 768, headline=True, layers=2),
        *(point(tokens, 384, "tokens") for tokens in (128, 512, 2048, 8192, 32768)),
        *(point(1024, hidden, "hidden") for hidden in (256, 512, 1024, 2048)),
    ],
    passes=passes,
    gate=point(64, 64),
)
