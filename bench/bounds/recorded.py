"""What the operators launch in Triton, recorded without a GPU: the kernels are not run, and tensors have no numbers."""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor

from bench.bounds.device import H100
from bench.bounds.launches import CONDITION, EMBEDDING, NETWORK, Model


class Recorded(NamedTuple):
    """One launch: the kernel as ``bench.kernel_report`` names it, its grid and its compile-time constants."""

    kernel: str
    grid: tuple[int, ...]
    constants: dict[str, Any]

    @property
    def programs(self) -> int:
        """Programs of the grid."""
        return torch.Size(self.grid).numel()

    @property
    def threads(self) -> int:
        """Threads of a program."""
        return 32 * self.constants["num_warps"]


@contextlib.contextmanager
def recording() -> Iterator[list[Recorded]]:
    """Record what Triton kernels would be launched on an H100, and launch none."""
    from hyperloader.kernels import _launch

    found: list[Recorded] = []
    launch, architecture = _launch.launch, _launch.architecture

    def record(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: Any) -> None:
        module = kernel.fn.__module__.rpartition(".")[2].lstrip("_")
        found.append(Recorded(f"{module}.{kernel.fn.__name__}", grid, constants))

    _launch.launch = record
    _launch.architecture = lambda device: _launch.Architecture("cuda", H100.processors, H100.shared_of_block)
    try:
        yield found
    finally:
        _launch.launch, _launch.architecture = launch, architecture


def recorded(model: Model, tokens: int) -> dict[str, list[Recorded]]:
    """The launches of every operator, forward and backward, by its name; PyTorch's own are not among them."""
    calls = {
        "adapter": _adapter(model, tokens),
        "lora_linears": _lora(model, tokens),
        "generate": _generate(model),
        "condition": _condition(model),
    }
    found = {}
    for operator, directions in calls.items():
        for direction, call in zip(("forward", "backward"), directions, strict=True):
            with recording() as launches:
                call()
            found[f"{operator} {direction}"] = launches
    return found


def empty(*shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    """A tensor without numbers."""
    return torch.empty(*shape, dtype=dtype, device="meta")


def _rows(rows: int, widths: tuple[int, ...]) -> list[Tensor]:
    return [empty(rows, width) for width in widths]


Directions = tuple[Callable[[], object], Callable[[], object]]


def _adapter(model: Model, tokens: int) -> Directions:
    from hyperloader.kernels import adapter
    from hyperloader.reference.groups import AdapterWeights

    hidden, bottleneck = model.hidden, model.bottleneck
    shapes = [(bottleneck, hidden), (bottleneck,), (hidden, bottleneck), (hidden,), (hidden,), (hidden,)]
    weights, x = AdapterWeights(*(empty(*shape) for shape in shapes), None, None), empty(tokens, hidden)
    pre, rest = empty(tokens, bottleneck, dtype=torch.float32), (weights, None, "post", "gelu_new", 1e-5)
    return lambda: adapter.forward(x, *rest), lambda: adapter.backward(x, x, pre, *rest)


def _lora(model: Model, tokens: int) -> Directions:
    from hyperloader.kernels import lora_linear
    from hyperloader.reference.groups import LoraNeeded

    hidden = model.hidden
    x, weights, grads = empty(tokens, hidden), [empty(out, hidden) for out in model.outs], _rows(tokens, model.outs)
    factors = [empty(model.rank, hidden) for _ in model.outs], [empty(out, model.rank) for out in model.outs]
    needed = LoraNeeded(x=True, weights=False, biases=False, lora_A=True, lora_B=True)
    return (
        lambda: lora_linear.forward(x, weights, [], *factors, None, 1.0),
        lambda: lora_linear.backward(grads, x, weights, *factors, None, 1.0, needed),
    )


def _generate(model: Model) -> Directions:
    from hyperloader.kernels import generate

    single = torch.float32
    weights = [empty(head, CONDITION, dtype=single) for head in model.heads]
    biases = [empty(head, dtype=single) for head in model.heads]
    rows, grads = empty(model.rows, CONDITION, dtype=single), _rows(model.rows, model.heads)
    return (
        lambda: generate.forward(rows, weights, biases, torch.bfloat16),
        lambda: generate.backward(grads, rows, weights, [True] * len(weights)),
    )


def _condition(model: Model) -> Directions:
    from hyperloader.kernels import condition
    from hyperloader.reference.groups import ConditionWeights

    single, whole = torch.float32, torch.int64
    positions = 2 * model.rows // model.layers  # of adapters and of LoRA
    embeddings = [empty(rows, EMBEDDING, dtype=single) for rows in (1, model.layers, positions)]
    shapes = [(NETWORK, 3 * EMBEDDING), (NETWORK,), (CONDITION, NETWORK), (CONDITION,), (CONDITION,), (CONDITION,)]
    indices = [empty(rows, dtype=whole) for rows in (model.layers, positions)]
    weights = ConditionWeights(*embeddings, *indices, *(empty(*shape, dtype=single) for shape in shapes))
    grad = empty(positions, model.layers, 1, CONDITION, dtype=single)
    rest = (weights, (1.0, 1.0, 1.0), 1e-6)
    return lambda: condition.forward(*rest), lambda: condition.backward(grad, *rest)
