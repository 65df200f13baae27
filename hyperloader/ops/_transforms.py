"""Derivatives that an operator registered in Python would lose silently: forward-mode ones, and those of torch.func.

PyTorch hands such an operator tensors without their tangents. The reference is plain PyTorch, so that inside a
transformation it is computed without the operator around it; the Triton kernels refuse. The compiled operators look
after themselves, in csrc/autograd.h.
"""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


def active() -> bool:
    """Whether a forward-mode derivative is being taken, or a transformation of torch.func runs."""
    return forward_ad._current_level >= 0 or torch._C._are_functorch_transforms_active()


def without_operator(operator: Callable, plain: Callable) -> Callable:
    """``operator``, and inside transformations ``plain``, the same in operations of PyTorch."""

    def call(*arguments: Any) -> Any:
        return plain(*arguments) if active() else operator(*arguments)

    return call


def refusing(operator: Callable, name: str) -> Callable:
    """``operator``, which raises inside transformations that it would lose a derivative in."""

    def call(*arguments: Any) -> Any:
        if active():
            refuse_tangents(name, arguments)
            if torch._C._are_functorch_transforms_active() and any(one.requires_grad for one in _tensors(arguments)):
                raise NotImplementedError(
                    f"{name} has no derivative inside torch.func's grad, vjp and jacrev; "
                    "hyperloader.use_backend('reference') has, and torch.autograd.grad works with every backend"
                )
        return operator(*arguments)

    return call


def refuse_tangents(name: str, arguments: Iterable) -> None:
    """Raise NotImplementedError where one of ``arguments``, or of the lists among them, has a tangent."""
    if any(forward_ad.unpack_dual(one).tangent is not None for one in _tensors(arguments)):
        raise NotImplementedError(
            f"{name} has no forward-mode derivative (jvp, jacfwd, forward_ad); hyperloader.use_backend('reference') "
            "has, and reverse mode works with every backend"
        )


def differentiable_once(name: str) -> None:
    """Let the derivative of operator ``name``, which computes gradients by kernels, raise instead of being lost."""

    def backward(ctx: Any, *_: Any) -> None:
        raise NotImplementedError(
            f"{name} has no derivative: operators are differentiated once; hyperloader.use_backend('reference') has "
            "second derivatives"
        )

    torch.library.register_autograd(name, backward)


def _tensors(arguments: Iterable) -> Iterable[Tensor]:
    for one in arguments:
        if isinstance(one, Tensor):
            yield one
        elif isinstance(one, list | tuple):
            yield from _tensors(one)
