"""Arguments of the operators that always go together, in the order of the schemas."""

from collections.abc import Callable, Sequence
from typing import NamedTuple, TypeVar, cast

from torch import Tensor

Group = TypeVar("Group", "AdapterWeights", "ConditionWeights", "LoraNeeded")


class AdapterWeights(NamedTuple):
    """Weights of ``adapter``; with groups every one carries a first dimension (groups, ...)."""

    down_weight: Tensor  # (bottleneck, hidden)
    down_bias: Tensor  # (bottleneck,)
    up_weight: Tensor  # (hidden, bottleneck)
    up_bias: Tensor  # (hidden,)
    norm_weight: Tensor | None  # (hidden,), and so the next three; None where the norm has none
    norm_bias: Tensor | None
    pre_norm_weight: Tensor | None
    pre_norm_bias: Tensor | None

    def map(self, function: Callable[[Tensor], Tensor]) -> "AdapterWeights":
        """Apply ``function`` to every weight that there is."""
        return AdapterWeights(*(cast(Tensor, None if weight is None else function(weight)) for weight in self))

    def present(self) -> list[Tensor]:
        """Every weight that there is."""
        return [weight for weight in self if weight is not None]

    def inner_norm(self, norm: str) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the norm before the down projection: the first pair with ``pre``, else the second."""
        if norm == "pre":
            return self.norm_weight, self.norm_bias
        return self.pre_norm_weight, self.pre_norm_bias

    def outer_norm(self, norm: str) -> tuple[Tensor | None, Tensor | None]:
        """Weight and bias of the norm after the up projection."""
        return (None, None) if norm == "pre" else (self.norm_weight, self.norm_bias)


class ConditionWeights(NamedTuple):
    """Embeddings, their indices and the parameters of ``condition``."""

    task_embedding: Tensor  # (tasks, E)
    layer_embedding: Tensor  # (any, E), of which the rows ``layers`` are used
    position_embedding: Tensor  # (any, E), of which the rows ``positions`` are used
    layers: Tensor  # int64
    positions: Tensor  # int64
    first_weight: Tensor  # (hidden, 3 E)
    first_bias: Tensor  # (hidden,)
    second_weight: Tensor  # (condition_dim, hidden)
    second_bias: Tensor  # (condition_dim,), and so the next two
    norm_weight: Tensor
    norm_bias: Tensor

    def embeddings(self) -> tuple[Tensor, Tensor, Tensor]:
        """Of task, layer and position."""
        return self.task_embedding, self.layer_embedding, self.position_embedding

    def parameters(self) -> tuple[Tensor, ...]:
        """Weights and biases of the two linear maps and of the norm."""
        return self[self._fields.index("first_weight") :]


class LoraNeeded(NamedTuple):
    """Whose gradients ``lora_linears_backward`` returns."""

    x: bool
    weights: bool
    biases: bool
    lora_A: bool
    lora_B: bool


def split(group: type[Group], arguments: Sequence) -> tuple[Group, tuple]:
    """Return the ``group`` that ``arguments`` begin with, and the rest of them."""
    size = len(group._fields)
    return group(*arguments[:size]), tuple(arguments[size:])
