"""What LoRA reads, made again in the backward instead of kept: the output of a norm whose input is kept anyway."""

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

_MADE_BY = "_hyperloader_made_by"  # of an output, the _Norm that made it
_AS_EVER = nullcontext()


class _Norm:
    """One call of a norm. Its own backward reads ``x``: keeping that takes no memory."""

    def __init__(self, compute: Callable[[Tensor], Tensor], x: Tensor, weights: Iterable[Tensor], y: Tensor) -> None:
        self._compute, self._x, self._version = compute, x.detach(), y._version
        self._read = [(tensor, tensor._version) for tensor in (self._x, *weights)]
        device = x.device.type
        self._autocast = (device, torch.get_autocast_dtype(device), torch.is_autocast_enabled(device))
        self.readers = 0  # that read the output in the backward, one after the other
        self._left = 0  # of them, which have not read what was made again
        self._made: Tensor | None = None

    def made(self, y: Tensor) -> bool:
        """Whether ``y`` is still what the norm has returned."""
        return y._version == self._version

    def again(self) -> Tensor:
        """The output: the first reader makes it, the last one takes it."""
        made = self._made
        if made is None:
            if any(tensor._version != version for tensor, version in self._read):
                raise RuntimeError(
                    "a norm's input and weights must stay until the backward with recompute_norms(), got some "
                    "modified by an inplace operation"
                )
            with torch.no_grad(), torch.autocast(*self._autocast):
                made = self._compute(self._x)
            self._left = self.readers
        self._left -= 1
        self._made = made if self._left > 0 else None
        return made


def remember(y: Tensor, compute: Callable[[Tensor], Tensor], x: Tensor, weights: Iterable[Tensor]) -> None:
    """Note that ``y`` is ``compute(x)``, for a ``compute`` with these weights whose backward keeps ``x``."""
    setattr(y, _MADE_BY, _Norm(compute, x, weights, y))


def made_again(y: Tensor, cast: Tensor) -> AbstractContextManager:
    """Inside the block autograd does not keep ``cast``, which is ``y`` or ``y`` in another dtype, if ``y`` is the
    output of a norm that ``remember`` has noted."""
    norm = getattr(y, _MADE_BY, None)
    if norm is None or not norm.made(y) or not y.numel():
        return _AS_EVER

    def pack(tensor: Tensor) -> Any:
        if (tensor.data_ptr(), tensor.numel(), tensor.dtype) != (where, count, dtype):
            return tensor
        norm.readers += 1
        return tensor.shape

    def unpack(kept: Any) -> Tensor:
        return kept if isinstance(kept, Tensor) else norm.again().to(dtype).view(kept)

    where, count, dtype = cast.data_ptr(), cast.numel(), cast.dtype  # autograd keeps the hooks: they hold no tensor
    return saved_tensors_hooks(pack, unpack)
