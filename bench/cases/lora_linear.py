"""A frozen linear layer with a LoRA update: plain PyTorch, PEFT, the frozen layer alone, ours."""

from collections.abc import Iterator

import torch
from torch.nn import functional

from bench.baselines import peft, plain
from bench.case import BOTH, FORWARD, Calls, Case, Pass, Point, Provider, Setting
from bench.providers import PEFT, PLAIN, as_reference, backward_calls, compiled, forward_calls, ours, random_tensors
from hyperloader import ops

FROZEN = "frozen linear alone"


def point(tokens: int, hidden: int, sweep: str = "", headline: bool = False) -> Point:
    """A rank-8 update of a square layer."""
    sizes = {"tokens": tokens, "hidden": hidden, "rank": 8}
    return Point(f"{tokens} × {hidden} → {hidden}, rank 8", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """Forward without autograd; forward and the gradients of x, A and B."""
    tokens, hidden, rank = (at.sizes[name] for name in ("tokens", "hidden", "rank"))
    shapes = [(tokens, hidden), (hidden, hidden), (hidden,), (rank, hidden), (hidden, rank)]
    inputs, exact = random_tensors(shapes, setting), random_tensors(shapes, setting, torch.float64)
    for tensors in (inputs, exact):
        tensors[1].requires_grad_(False)
        tensors[2].requires_grad_(False)
    frozen, update = 2 * tokens * hidden * hidden, 4 * tokens * hidden * rank
    for name, calls, flop in (
        (FORWARD, forward_calls, frozen + update),
        (BOTH, _with_gradients, 2 * frozen + 3 * update),
    ):
        providers = [
            Provider(PLAIN, _bind(calls, _plain, inputs)),
            *(_compiled(calls, inputs, setting) if at.headline else []),
            Provider(PEFT, _bind(_peft, calls, inputs)),
            Provider(FROZEN, _bind(_frozen, name, inputs), compared=False),
            *ours(_bind(calls, _ours, inputs)),
        ]
        yield Pass(name, providers, as_reference(_bind(calls, _ours, exact)), flop, units=tokens, unit="tokens")


def _bind(function, *arguments):
    return lambda: function(*arguments)


def _compiled(calls, inputs, setting: Setting) -> list[Provider]:
    return compiled(lambda compiler: calls(compiler(_plain), inputs), setting)


def _with_gradients(function, inputs) -> Calls:
    x, _, _, lora_A, lora_B = inputs
    return backward_calls(function, inputs, [x, lora_A, lora_B])


def _plain(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [plain.lora_linear(*tensors)]


def _ours(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [ops.lora_linear(*tensors)]


def _peft(calls, inputs) -> Calls:
    x, *weights = inputs
    model, trained = peft.lora_linear(*weights)
    if calls is forward_calls:
        return forward_calls(lambda x: [model(x)], [x])
    return backward_calls(lambda x: [model(x)], [x], [x, *trained])


def _frozen(name: str, inputs) -> Calls:
    x, weight, bias = inputs[:3]
    if name == FORWARD:
        return forward_calls(lambda x: [functional.linear(x, weight, bias)], [x])
    return backward_calls(lambda x: [functional.linear(x, weight, bias)], [x], [x])


CASE = Case(
    name="lora_linear",
    title="Frozen linear layer with LoRA",
    points=[
        point(4096, 768, headline=True),
        *(point(tokens, 384, "tokens") for tokens in (128, 512, 2048, 8192, 32768)),
        *(point(1024, hidden, "hidden") for hidden in (256, 512, 1024, 2048)),
    ],
    passes=passes,
    gate=point(64, 64),
)
