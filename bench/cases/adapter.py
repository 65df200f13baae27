"""The bottleneck adapter with its post-norm: plain PyTorch, the published way, ours."""

from collections.abc import Iterator

import torch

from bench.baselines import plain, published
from bench.case import BOTH, FORWARD, Case, Pass, Point, Provider, Setting
from bench.providers import (
    PLAIN,
    PUBLISHED,
    as_reference,
    backward_calls,
    compiled,
    forward_calls,
    ours,
    random_tensors,
)
from hyperloader import ops


def point(tokens: int, hidden: int, sweep: str = "", headline: bool = False) -> Point:
    """An adapter of reduction 32 on (tokens, hidden)."""
    sizes = {"tokens": tokens, "hidden": hidden, "bottleneck": hidden // 32}
    return Point(f"{tokens} × {hidden}, bottleneck {hidden // 32}", sizes, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """Forward without autograd; forward and all gradients."""
    tokens, hidden, bottleneck = (at.sizes[name] for name in ("tokens", "hidden", "bottleneck"))
    shapes = [(tokens, hidden), (bottleneck, hidden), (bottleneck,), (hidden, bottleneck), *[(hidden,)] * 3]
    inputs = random_tensors(shapes, setting)
    exact = random_tensors(shapes, setting, torch.float64)
    products, row = 4 * tokens * hidden * bottleneck, tokens * hidden * setting.dtype.itemsize
    yield _pass(FORWARD, forward_calls, inputs, exact, setting, at, products, 2 * row)
    yield _pass(BOTH, backward_calls, inputs, exact, setting, at, 3 * products, 5 * row)


def _pass(name, calls, inputs, exact, setting: Setting, at: Point, flop: int, traffic: int) -> Pass:
    providers = [
        Provider(PLAIN, lambda: calls(_plain, inputs)),
        *(compiled(lambda compiler: calls(compiler(_plain), inputs), setting) if at.headline else []),
        Provider(PUBLISHED, lambda: calls(_published, inputs)),
        *ours(lambda: calls(_ours, inputs)),
    ]
    expected = as_reference(lambda: calls(_ours, exact))
    return Pass(name, providers, expected, flop, traffic, at.sizes["tokens"], "tokens")


def _plain(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [plain.adapter(*tensors)]


def _published(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [published.adapter(*tensors)]


def _ours(*tensors: torch.Tensor) -> list[torch.Tensor]:
    return [ops.adapter(*tensors)]


CASE = Case(
    name="adapter",
    title="Adapter",
    points=[
        point(4096, 768, headline=True),
        *(point(tokens, 768, "tokens") for tokens in (128, 512, 2048, 8192, 32768)),
        *(point(4096, hidden, "hidden") for hidden in (256, 512, 1024, 2048)),
    ],
    passes=passes,
    gate=point(64, 64),
)
