"""Batches of generated weights: the values they were made of, and how a layer gets its share."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor

from hyperloader import ops
from hyperloader.interop.published.layers import AdapterWeights, LinearWeights, LoraWeights, NormWeights
from hyperloader.ops._modes import may_be_kept
from hyperloader.ops.backend import operator
from hyperloader.reference import condition as reference

Shapes = tuple[tuple[int, ...], ...]
_OWN, _CROSS = (0, 4), (4, 6)  # positions: both adapters, query and value; query and value of cross-attention
_CONDITION_EPS = 1e-6


class Plan(NamedTuple):
    """What a stack's tensors are made into."""

    condition_norm: bool
    adapter_shapes: Shapes
    lora_shapes: Shapes
    norm_before: bool
    norm_after: bool


def state_of(tensors: Sequence[Tensor]) -> tuple | None:
    """What differs whenever ``tensors`` have other values or are differentiated in another way; None if unknown."""
    if torch.compiler.is_compiling() or not may_be_kept():
        return None
    try:
        return (
            torch.is_grad_enabled(),
            operator("generate"),
            [*map(id, tensors)],
            [tensor._version for tensor in tensors],
            [*map(Tensor.data_ptr, tensors)],
            [tensor.requires_grad for tensor in tensors],
        )
    except RuntimeError:  # of inference mode: without a version
        return None


class Source:
    """The tensors that weights are generated from: the task embedding, then the parameters.

    ``layers`` are those generated together, ``state`` is that of ``tensors`` now.
    """

    def __init__(self, plan: Plan, tensors: Sequence[Tensor], layers: range, state: tuple | None) -> None:
        self.plan, self.tensors, self.layers, self.state = plan, tensors, layers, state
        self.grad = torch.is_grad_enabled()
        # While these live, no other tensor can get the same address.
        self._memory = [tensor.detach() for tensor in tensors]

    def conditions(self, first: int, end: int) -> Tensor:
        """Return (positions, layers, condition_dim) for the positions from ``first`` to ``end``."""
        task_embedding, layer_embedding, position_embedding, *weights = self.tensors[: self._heads]
        task_embedding = task_embedding.reshape(1, -1)
        layers = torch.arange(self.layers.start, self.layers.stop, device=layer_embedding.device)
        positions = torch.arange(first, end, device=layer_embedding.device)
        embeddings = (task_embedding, layer_embedding, position_embedding)
        if self.plan.condition_norm:
            return ops.condition(*embeddings, layers, positions, *weights, eps=_CONDITION_EPS).squeeze(2)
        with torch.autocast(layer_embedding.device.type, enabled=False):
            chosen = (task_embedding, layer_embedding[layers], position_embedding[positions])
            first_weight, first_bias, second_weight, second_bias = weights
            hidden = reference.hidden_of(*chosen, first_weight, first_bias, 1.0)
            return reference.before_norm(hidden, second_weight, second_bias, 1.0).squeeze(2)

    def adapters(self, condition: Tensor) -> "Batch":
        """The tensors of one adapter for every row of ``condition`` (rows, condition_dim)."""
        heads = self.tensors[self._heads : -2]
        return Batch(ops.generate(condition, heads[::2], heads[1::2]), self.plan.adapter_shapes)

    def lora(self, condition: Tensor) -> "Batch":
        """A LoRA pair for every row of ``condition`` (rows, condition_dim)."""
        return Batch(ops.generate(condition, self.tensors[-2:], (None, None)), self.plan.lora_shapes)

    def changed(self) -> bool:
        """Whether the tensors have other values than when ``state`` was theirs; False where that cannot be told."""
        if self.state is None:
            return False
        now = state_of(self.tensors)
        return now is None or now[2:] != self.state[2:]

    @property
    def _heads(self) -> int:
        """Where the heads' tensors begin."""
        return 9 if self.plan.condition_norm else 7


class Batch:
    """What heads ``generated``, (rows, n) each, cut into one tuple of tensors of ``shapes`` per row.

    One ``unbind`` per head: its backward is one ``stack``.
    """

    def __init__(self, generated: Sequence[Tensor], shapes: Shapes) -> None:
        by_head = (tensor.view(-1, *shape).unbind() for tensor, shape in zip(generated, shapes, strict=True))
        self.rows = list(zip(*by_head, strict=True))
        self.recorded = generated[0].requires_grad
        self._generated, self._versions = generated, [tensor._version for tensor in generated]
        self._spent = _Spent()
        graph = generated[0].grad_fn
        if self.recorded and graph is not None:
            graph.register_prehook(self._spent.mark)

    @property
    def intact(self) -> bool:
        """Whether nothing was written into the tensors, and no backward has come to them, whose graph may be gone."""
        return not self._spent.yes and self._versions == [tensor._version for tensor in self._generated]


class _Spent:
    """A flag that a graph may reference without keeping anything else alive."""

    def __init__(self) -> None:
        self.yes = False

    def mark(self, _: Any) -> None:
        self.yes = True


class CrossAttention:
    """The pairs of a stack's cross-attention, generated when the first of them is read: an encoder reads none."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._batch: Batch | None = None

    def of(self, layer: int) -> tuple[LoraWeights, LoraWeights]:
        """The pairs of query and value; raises ``RuntimeError`` once their values can no longer be told."""
        source = self._source
        if self._batch is None or not self._batch.intact:
            if source.changed():
                raise RuntimeError(
                    "the task embedding or a parameter has changed since the weights of this layer were generated; ask "
                    "for the layer again, or read its cross-attention weights before the change"
                )
            with _recording(source.grad):
                self._batch = source.lora(source.conditions(*_CROSS).flatten(0, 1))
        index, count, rows = layer - source.layers.start, len(source.layers), self._batch.rows
        return LoraWeights(*rows[index]), LoraWeights(*rows[count + index])


class LayerWeights:
    """The weights of one layer, as the published code names them."""

    __slots__ = ("_cross", "_cross_pair", "_layer", "feed_forward", "lora_query", "lora_value", "self_attention")

    def __init__(
        self,
        feed_forward: AdapterWeights,
        self_attention: AdapterWeights,
        lora_query: LoraWeights,
        lora_value: LoraWeights,
        cross: CrossAttention,
        layer: int,
    ) -> None:
        self.feed_forward = feed_forward
        self.self_attention = self_attention
        self.lora_query = lora_query
        self.lora_value = lora_value
        self._cross, self._layer = cross, layer
        self._cross_pair: tuple[LoraWeights, LoraWeights] | None = None

    @property
    def lora_cross_query(self) -> LoraWeights:
        """The pair of the query of cross-attention."""
        return self._pair()[0]

    @property
    def lora_cross_value(self) -> LoraWeights:
        """The pair of the value of cross-attention."""
        return self._pair()[1]

    def _pair(self) -> tuple[LoraWeights, LoraWeights]:
        if self._cross_pair is None:
            self._cross_pair = self._cross.of(self._layer)
        return self._cross_pair


class Generation:
    """Everything that layers need but their cross-attention, for all layers of ``source``."""

    def __init__(self, source: Source) -> None:
        self._source, self._cross = source, CrossAttention(source)
        with _recording(source.grad):
            condition = source.conditions(*_OWN)
            adapters, lora = condition.reshape(2, -1, condition.shape[-1]).unbind()
            self._adapters, self._lora = source.adapters(adapters), source.lora(lora)
        self._once = self._adapters.recorded or self._lora.recorded
        self._asked: set[int] = set()

    def serves(self, layer: int, state: tuple | None) -> bool:
        """Whether what was generated for ``layer`` is what would be generated now."""
        return (
            state is not None
            and state == self._source.state
            and not (self._once and layer in self._asked)
            and self._adapters.intact
            and self._lora.intact
        )

    def serve(self, layer: int) -> LayerWeights:
        """The weights of ``layer``."""
        self._asked.add(layer)
        source, adapters, lora = self._source, self._adapters.rows, self._lora.rows
        index, count = layer - source.layers.start, len(source.layers)
        weights = LayerWeights(
            self._adapter(adapters[index]),
            self._adapter(adapters[count + index]),
            LoraWeights(*lora[index]),
            LoraWeights(*lora[count + index]),
            self._cross,
            layer,
        )
        if source.state is None:  # whether anything changes would not be noticed later
            weights._pair()
        return weights

    @property
    def exhausted(self) -> bool:
        """Whether every layer has had what it is served only once."""
        return self._once and len(self._asked) == len(self._source.layers)

    def _adapter(self, tensors: tuple[Tensor, ...]) -> AdapterWeights:
        before, after = self._source.plan.norm_before, self._source.plan.norm_after
        return AdapterWeights(
            up=LinearWeights(tensors[2], tensors[3]),
            down=LinearWeights(tensors[0], tensors[1]),
            pre_norm=NormWeights(tensors[-2], tensors[-1]) if before else None,
            post_norm=NormWeights(tensors[4], tensors[5]) if after else None,
        )


@contextmanager
def _recording(grad: bool) -> Iterator[None]:
    """Ordinary tensors, which carry a version, in inference mode too; with a graph if ``grad``."""
    with torch.inference_mode(False), torch.set_grad_enabled(grad):
        yield
