"""What a call costs when there is next to nothing to compute: the three operators on 8 tokens."""

from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from bench.baselines import plain
from bench.case import BOTH, FORWARD, Case, Pass, Point, Provider, Setting
from bench.clock import WALL
from bench.providers import PLAIN, as_reference, backward_calls, compiled, forward_calls, ours, random_tensors
from hyperloader import ops

_HIDDEN = 64  # next to nothing to compute
_ROWS, _CONDITION, _HEADS = 8, 64, (64, 8, 64, 64, 64, 64)
_SHAPES = {
    "adapter": lambda hidden: [(8, hidden), (8, hidden), (8,), (hidden, 8), (hidden,), (hidden,), (hidden,)],
    "lora_linear": lambda hidden: [(8, hidden), (hidden, hidden), (hidden,), (8, hidden), (hidden, 8)],
    "generate": lambda _: [(_ROWS, _CONDITION), *((n, _CONDITION) for n in _HEADS), *((n,) for n in _HEADS)],
}
_FROZEN = {"lora_linear": (1, 2)}  # tensors that need no gradient


def _plain_generate(condition: Tensor, *heads: Tensor) -> list[Tensor]:
    count = len(_HEADS)
    return [functional.linear(condition, heads[i], heads[count + i]) for i in range(count)]


def _ours_generate(condition: Tensor, *heads: Tensor) -> list[Tensor]:
    count = len(_HEADS)
    return ops.generate(condition, heads[:count], heads[count:])


_PLAIN = {
    "adapter": lambda *tensors: [plain.adapter(*tensors)],
    "lora_linear": lambda *tensors: [plain.lora_linear(*tensors)],
    "generate": _plain_generate,
}
_OURS = {
    "adapter": lambda *tensors: [ops.adapter(*tensors)],
    "lora_linear": lambda *tensors: [ops.lora_linear(*tensors)],
    "generate": _ours_generate,
}


def point(operator: str) -> Point:
    """8 rows through one operator."""
    return Point(f"{operator}, 8 tokens", {"operator": operator, "tokens": 8, "hidden": _HIDDEN}, headline=True)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """Forward without autograd; forward and backward."""
    operator = at.sizes["operator"]
    shapes = _SHAPES[operator](at.sizes["hidden"])
    inputs, exact = random_tensors(shapes, setting), random_tensors(shapes, setting, torch.float64)
    for index in _FROZEN.get(operator, ()):
        inputs[index].requires_grad_(False)
        exact[index].requires_grad_(False)
    yield _pass(FORWARD, forward_calls, operator, inputs, exact, setting)
    yield _pass(BOTH, backward_calls, operator, inputs, exact, setting)


def _pass(name, calls, operator: str, inputs, exact, setting: Setting) -> Pass:
    function, ours_function = _PLAIN[operator], _OURS[operator]
    providers = [
        Provider(PLAIN, lambda: calls(function, inputs)),
        *(compiled(lambda compiler: calls(compiler(function), inputs), setting) if name == BOTH else []),
        *ours(lambda: calls(ours_function, inputs)),
    ]
    return Pass(name, providers, as_reference(lambda: calls(ours_function, exact)))


CASE = Case(
    name="overhead",
    title="Overhead of a call",
    points=[point(operator) for operator in _SHAPES],
    passes=passes,
    clock=WALL,
)
