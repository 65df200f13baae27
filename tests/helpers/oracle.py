"""How tests compare: a backend against the float64 reference, judged by PyTorch's own error in the same dtype."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

ERROR_FACTOR = 2.0  # a fused kernel may round in another order than PyTorch, never twice as badly
# Roundings of the largest value that PyTorch may be spared by chance. A half-precision result is rounded once, from
# float32; in float64 the oracle is PyTorch's own result, so that its error counts as none.
ROUNDINGS = {torch.float16: 1, torch.bfloat16: 1, torch.float32: 4, torch.float64: 64}


def value_and_gradients(function: Callable, inputs: Sequence[Tensor], grad: Tensor) -> list[Tensor]:
    """Return ``function(*inputs)`` and its gradient with respect to every input."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    value = function(*leaves)
    return [value.detach(), *torch.autograd.grad(value, leaves, grad.to(value.dtype))]


def assert_as_accurate(actual: Tensor, eager: Tensor, oracle: Tensor, name: str, rounding_factor: float = 1) -> None:
    """``actual`` lies no further from the float64 ``oracle`` than ERROR_FACTOR times PyTorch's ``eager`` result does.

    ``rounding_factor`` multiplies ``ROUNDINGS``: among hundreds of random shapes PyTorch has hardly any error in some.
    """
    assert actual.shape == oracle.shape, f"{name}: {tuple(actual.shape)}, not {tuple(oracle.shape)}"
    assert actual.dtype == eager.dtype, f"{name}: {actual.dtype}, not {eager.dtype}"
    if actual.numel() == 0:
        return
    assert actual.isfinite().all(), f"{name}: not finite"
    rounding = rounding_factor * ROUNDINGS[actual.dtype] * torch.finfo(actual.dtype).eps * oracle.abs().max()
    budget = ERROR_FACTOR * ((eager.double() - oracle).abs().max() + rounding)
    error = (actual.double() - oracle).abs().max()
    assert error <= budget, (
        f"{name}: error {error:.2e} exceeds {budget:.2e}, {ERROR_FACTOR} x PyTorch's in {actual.dtype}"
    )
