"""What LoRA reads, made again in the backward instead of kept: the output of a norm whose input is kept anyway."""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_MADE_BY = "_hyperloader_made_by"  # of an output, the _Norm that made it
_AS_EVER = nullcontext()


class _Norm:
    """One call of a norm.

    ``x`` is what the norm's own backward reads: keeping it takes no memory, and changing it raises there.
    """

    def __init__(self, compute: Callable[[Tensor], Tensor], x: Tensor, y: Tensor) -> None:
        self._compute, self._x, self._version = compute, x.detach(), y._version
        device = x.device.type
        self._autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))

    def made(self, y: Tensor) -> bool:
        """Whether ``y`` is still what the norm has returned."""
        return y._version == self._version

    def again(self) -> Tensor:
        """The output, made again."""
        with torch.no_grad(), torch.autocast(*self._autocast):
            return self._compute(self._x)


def remember(y: Tensor, compute: Callable[[Tensor], Tensor], x: Tensor) -> None:
    """Note that ``y`` is ``compute(x)``, for a ``compute`` whose backward keeps ``x``."""
    setattr(y, _MADE_BY, _Norm(compute, x, y))


def made_again(y: Tensor, cast: Tensor) -> AbstractContextManager:
    """Inside the block autograd does not keep ``cast``, which is ``y`` or ``y`` in another dtype, if ``y`` is the
    output of a norm that ``remember`` has noted."""
    norm = getattr(y, _MADE_BY, None)
    if norm is None or not norm.made(y) or not y.numel():
        return _AS_EVER

    def pack(tensor: Tensor) -> Any:
        return tensor.shape if (tensor.data_ptr(), tensor.numel(), tensor.dtype) == (where, count, dtype) else tensor

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else norm.again().to(dtype).view(kept)

    where, count, dtype = cast.data_ptr(), cast.numel(), cast.dtype  # autograd keeps the hooks: they hold no tensor
    return saved_tensors_hooks(pack, unpack)
