"""Trained norms of a backbone in half precision: float32 weights, outputs in the dtype of the backbone."""

import functools
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.nn.recompute import remember
from hyperloader.nn.sharded import is_sharded
from hyperloader.ops import _transforms

HALF = (torch.float16, torch.bfloat16)
MANY = 1 << 16  # numbers of an input whose bytes are worth a function in Python: 2 % of a step of 4 short sentences


class _LayerNormOfHalf(torch.autograd.Function):
    """LayerNorm in the dtype of its weights, of an input and for an output in half precision.

    It keeps the input as it was given for the backward: PyTorch's would keep what was cast, twice the bytes.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, eps: float, dtype: torch.dtype) -> Tensor:
        y, mean, rstd = torch.native_layer_norm(x.to(weight.dtype), weight.shape, weight, bias, eps)
        ctx.save_for_backward(x, mean, rstd, weight, bias)
        return y.to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        x, mean, rstd, weight, bias = ctx.saved_tensors
        wanted = [*ctx.needs_input_grad[:2], bias is not None and ctx.needs_input_grad[2]]
        grad_x, grad_weight, grad_bias = torch.ops.aten.native_layer_norm_backward(
            grads[0].to(weight.dtype), x.to(weight.dtype), weight.shape, mean, rstd, weight, bias, wanted
        )
        return None if grad_x is None else grad_x.to(x.dtype), grad_weight, grad_bias, None, None


class _CastingNorm(nn.Module):
    """Mixed into the class of a norm; the class keeps its name, and the parameters theirs.

    ``output_dtype`` is the dtype of the backbone there. Where the weights have another one, the norm is computed in
    theirs: AdamW at 3e-4 moves no bfloat16 number near 1, and its epsilon is 0 in float16.
    """

    plain: type[nn.Module]
    output_dtype: torch.dtype
    weight: Tensor
    recomputed = False  # whether LoRA makes outputs again instead of keeping them

    def forward(self, x: Tensor) -> Tensor:
        dtype = self.weight.dtype
        if dtype == self.output_dtype:
            y, keeps = super().forward(x), x.dtype == dtype
        elif keeps := self._backward_is_ours(x):
            y = _LayerNormOfHalf.apply(x, self.weight, self.bias, self.eps, self.output_dtype)
        else:
            y = self._cast(x)
        if self.recomputed and keeps:
            self._remember(y, x)
        return y

    def _cast(self, x: Tensor) -> Tensor:
        return super().forward(x.to(self.weight.dtype)).to(self.output_dtype)

    def _backward_is_ours(self, x: Tensor) -> bool:
        if self.plain.forward is not nn.LayerNorm.forward or x.dtype not in HALF or x.numel() < MANY:
            return False
        return torch.is_grad_enabled() and _is_eager()

    def _remember(self, y: Tensor, x: Tensor) -> None:
        """Note how ``y`` is made of ``x``, which the backward keeps as it is given."""
        if not (y.requires_grad and _is_eager()):
            return
        if is_sharded(self):
            raise RuntimeError("recompute_norms must be off where FSDP shards the model, got a norm that is sharded")
        remember(y, self._cast, x, self.parameters(recurse=False))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        self.output_dtype = fn(torch.empty(0, dtype=self.output_dtype, device=self.weight.device)).dtype
        return super()._apply(fn, recurse)

    def __reduce_ex__(self, protocol: Any) -> tuple:  # by the name of the plain class: the mixed one has none
        return _empty, (self.plain,), super().__reduce_ex__(2)[2]  # the state; Python 3.10 has no __getstate__


def _is_eager() -> bool:
    """Not so in a compiler, which decides itself what it keeps, nor where PyTorch's own backward alone is known."""
    return not (torch.compiler.is_compiling() or _transforms.active() or torch.jit.is_tracing())


@functools.cache
def _casting(plain: Any) -> Any:
    return type(plain.__name__, (_CastingNorm, plain), {"plain": plain, "__module__": plain.__module__})


def _empty(plain: Any) -> nn.Module:
    kind = _casting(plain)
    return kind.__new__(kind)


def keep_in_float32(norm: Any, output_dtype: torch.dtype | None = None) -> None:
    """Give ``norm`` weights in float32 at least and outputs in ``output_dtype``, by default the dtype of its weights
    before."""
    norm.output_dtype = output_dtype or norm.weight.dtype
    plain: Any = type(norm)
    norm.__class__ = _casting(plain)
    weights_to_float32(norm)


def weights_to_float32(norm: nn.Module) -> None:
    """Give ``norm`` weights in float32 if they are in half precision."""
    for parameter in norm.parameters(recurse=False):
        if parameter.dtype in HALF:
            parameter.data = parameter.data.float()


def undo_keep_in_float32(norm: Any) -> None:
    """Undo ``keep_in_float32`` but for the dtype of the weights."""
    norm.__class__ = norm.plain
    del norm.output_dtype
    norm.__dict__.pop("recomputed", None)


def output_dtype(module: nn.Module) -> torch.dtype | None:
    """The dtype of what ``module`` returns, if it is a norm whose weights have another one; else None."""
    if isinstance(module, _CastingNorm) and module.output_dtype != module.weight.dtype:
        return module.output_dtype
    return None
