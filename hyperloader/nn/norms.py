"""Trained norms of a backbone in half precision: the weights are float32, what goes through keeps its dtype."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

HALF = (torch.float16, torch.bfloat16)


class _CastingNorm(nn.Module):
    """Mixed into the class of a norm, which keeps its name and its parameters theirs.

    ``dtype_through`` is the dtype that the backbone has there. Where the weights are of another one, the norm is
    computed in theirs: AdamW at 3e-4 moves no bfloat16 number near 1, and its epsilon is 0 in float16.
    """

    plain: type[nn.Module]
    dtype_through: torch.dtype
    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if dtype == self.dtype_through:
            return super().forward(x)
        return super().forward(x.to(dtype)).to(self.dtype_through)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.dtype_through = fn(torch.empty(0, dtype=self.dtype_through, device=self.weight.device)).dtype
        return super()._apply(fn, recurse)

    def __reduce_ex__(self, protocol: Any) -> tuple:  # by the name of the plain class: this one is made on demand
        return _empty, (self.plain,), super().__reduce_ex__(2)[2]  # the state; Python 3.10 has no __getstate__


@functools.cache
def _casting(plain: Any) -> Any:
    return type(plain.__name__, (_CastingNorm, plain), {"plain": plain, "__module__": plain.__module__})


def _empty(plain: Any) -> nn.Module:
    kind = _casting(plain)
    return kind.__new__(kind)


def keep_in_float32(norm: Any, dtype_through: torch.dtype | None = None) -> None:
    """Give ``norm`` weights in float32 at least; what it returns has ``dtype_through``, by default what its weights
    had."""
    norm.dtype_through = dtype_through or norm.weight.dtype
    plain: Any = type(norm)
    norm.__class__ = _casting(plain)
    widen(norm)


def widen(norm: nn.Module) -> None:
    """Give ``norm`` weights in float32 at least, again where a cast has narrowed them."""
    for parameter in norm.parameters(recurse=False):
        parameter.data = at_least_float32(parameter.data)


def keep_as_before(norm: Any) -> None:
    """Undo ``keep_in_float32`` but for the dtype of the weights."""
    norm.__class__ = norm.plain
    del norm.dtype_through


def dtype_through(module: nn.Module) -> torch.dtype | None:
    """The dtype that ``module`` returns where it is a norm with wider weights, else None."""
    if isinstance(module, _CastingNorm) and module.dtype_through != module.weight.dtype:
        return module.dtype_through
    return None


def at_least_float32(tensor: Tensor) -> Tensor:
    """``tensor``, in float32 if it is in half precision."""
    return tensor.float() if tensor.dtype in HALF else tensor
