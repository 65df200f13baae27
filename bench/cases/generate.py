"""Generation of all adapter and LoRA weights of one stack."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor, nn

from bench import dropin
from bench.baselines import plain, published
from bench.case import BOTH, FORWARD, Calls, Case, Pass, Point, Provider, Setting, Unavailable
from bench.providers import PLAIN, PUBLISHED, as_reference, backward_calls, compiled, forward_calls, ours
from hyperloader.config import ADAPTER_SITES, LORA_SITES, HyperLoaderConfig
from hyperloader.nn.hypernetwork import Hypernetwork
from hyperloader.nn.layout import layout_of

DROP_IN = ", drop-in"  # layer by layer, through the classes of hyperloader.interop.published
_PUBLISHED_MOST = 48  # layers × tasks that are generated one by one
_SITES = (*ADAPTER_SITES, *LORA_SITES[:2])  # of an encoder


def point(layers: int, hidden: int, tasks: int, sweep: str = "", headline: bool = False) -> Point:
    """An encoder stack; t5-base has 12 layers, hidden 768."""
    name = f"{layers} layers, hidden {hidden}, {tasks} task{'s' if tasks > 1 else ''}"
    return Point(name, {"layers": layers, "hidden": hidden, "tasks": tasks}, sweep, headline)


def passes(at: Point, setting: Setting) -> Iterator[Pass]:
    """Forward without autograd; forward and the gradients of every parameter and of the task embedding."""
    rows = at.sizes["layers"] * at.sizes["tasks"] * 2  # of adapters, and as many of LoRA
    network, _ = _make(at, setting)
    numbers = sum(head.weight.shape[0] for head in network.heads.values())
    flop, size = 2 * rows * numbers * 64, setting.dtype.itemsize
    heads, outputs = 65 * numbers * size, rows * numbers * size
    yield _pass(FORWARD, at, setting, flop, heads + outputs)
    yield _pass(BOTH, at, setting, 3 * flop, 3 * heads + 2 * outputs)


def _make(at: Point, setting: Setting, dtype: torch.dtype | None = None) -> tuple[Hypernetwork, Tensor]:
    """One of our hypernetworks and task embeddings, with the same values every time."""
    torch.manual_seed(0)
    layers, hidden, tasks = (at.sizes[name] for name in ("layers", "hidden", "tasks"))
    config = HyperLoaderConfig(tasks=[str(task) for task in range(tasks)])
    network = Hypernetwork(config, layout_of(config, layers, dict.fromkeys(_SITES, (hidden, hidden))), layers)
    nn.init.normal_(network.heads["lora_B"].weight, 0, 0.01)
    task_embedding = torch.randn(tasks, config.task_embedding_dim)
    dtype = dtype or setting.dtype
    network = network.to(setting.device, setting.dtype).to(dtype)
    return network, task_embedding.to(setting.device, setting.dtype).to(dtype).requires_grad_(True)


def _pass(name: str, at: Point, setting: Setting, flop: int, traffic: int) -> Pass:
    grouped = at.sizes["tasks"] > 1

    def calls(wrap: Callable, dtype: torch.dtype | None = None, compiler: Callable = lambda function: function):
        network, task_embedding = _make(at, setting, dtype)
        generate = compiler(wrap(network, grouped))
        if name == FORWARD:
            return forward_calls(generate, [task_embedding])
        return backward_calls(generate, [task_embedding], [task_embedding, *network.parameters()])

    providers = [
        Provider(PLAIN, lambda: calls(_plain)),
        *(_compiled(calls, setting) if at.headline else []),
        Provider(PUBLISHED, lambda: calls(_bearable(at))),
        *ours(lambda: calls(_ours)),
        # without gradients the drop-in serves what it has, and generates nothing
        *(ours(lambda: calls(_drop_in), DROP_IN) if name == BOTH and not at.sweep else []),
    ]
    expected = as_reference(lambda: calls(_ours, torch.float64))
    return Pass(name, providers, expected, flop, traffic)


def _bearable(at: Point) -> Callable:
    """The published way, where it takes no minutes."""
    if at.sizes["layers"] * at.sizes["tasks"] > _PUBLISHED_MOST:
        raise Unavailable(f"left out beyond {_PUBLISHED_MOST} layers × tasks: its time grows with their number")
    return _published


def _compiled(calls: Callable[..., Calls], setting: Setting) -> list[Provider]:
    return compiled(lambda compiler: calls(_plain, compiler=compiler), setting)


def _ours(network: Hypernetwork, grouped: bool) -> Callable[[Tensor], list[Tensor]]:
    return lambda task_embedding: _flat(network(task_embedding, grouped=grouped))


def _plain(network: Hypernetwork, grouped: bool) -> Callable[[Tensor], list[Tensor]]:
    baseline = plain.PlainHypernetwork(network)
    return lambda task_embedding: _flat(baseline(task_embedding, grouped))


def _published(network: Hypernetwork, grouped: bool) -> Callable[[Tensor], list[Tensor]]:
    baseline = published.PublishedHypernetwork(network)
    return lambda task_embedding: _flat(published.generate_all(baseline, task_embedding, grouped))


def _drop_in(network: Hypernetwork, grouped: bool) -> Callable[[Tensor], list[Tensor]]:
    controller = dropin.controller(network)
    return lambda task_embedding: _flat(dropin.generate_all(controller, task_embedding, grouped))


def _flat(sites: dict[tuple[int, str], tuple[Tensor, ...]]) -> list[Tensor]:
    """Every weight tensor, in the order of layers and sites."""
    return [tensor for key in sorted(sites) for tensor in sites[key]]


CASE = Case(
    name="generate",
    title="Generation of one stack's weights",
    points=[
        point(12, 768, 1, headline=True),
        *(point(layers, 768, 1, "layers") for layers in (6, 24, 48)),
        *(point(12, hidden, 1, "hidden") for hidden in (256, 512, 1024, 2048)),
        *(point(6, 384, tasks, "tasks") for tasks in (1, 4, 16, 64)),
    ],
    passes=passes,
    gate=point(3, 64, 2),
)
