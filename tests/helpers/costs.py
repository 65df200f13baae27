"""What a call costs by counting: operators, and bytes of what they make."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@dataclass
class Cost:
    operators: int = 0
    num_bytes: int = 0


class _Counting(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.cost = Cost()

    def __torch_dispatch__(self, operator: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
        result = operator(*arguments, **(options or {}))
        given = {_memory(part) for one in tree_leaves((arguments, options)) for part in _dense(one)}
        made = {_memory(part): part.untyped_storage().nbytes() for one in tree_leaves(result) for part in _dense(one)}
        self.cost.operators += 1
        self.cost.num_bytes += sum(count for memory, count in made.items() if memory not in given)
        return result


def _dense(value: Any) -> list[Tensor]:
    if not isinstance(value, Tensor):
        return []
    return [value._indices(), value._values()] if value.is_sparse else [value]


def _memory(tensor: Tensor) -> int:
    return tensor.untyped_storage()._cdata


def cost_of(call: Callable[[], Any]) -> Cost:
    """Of ``call``, its backward passes included; memory that an operator was given does not count."""
    with _Counting() as counting:
        call()
    return counting.cost
