"""Operators registered in Python.

A namespace in plain PyTorch serves ``use_backend("reference")``, one in Triton ``use_backend("triton")``. Where the
extension is missing, plain PyTorch also takes the place of the native operators, under their names.
"""

from collections.abc import Callable, Mapping

import torch

from hyperloader.ops import _autograd, _fakes
from hyperloader.ops._reference import REFERENCE, lora_linear_from, without_autocast
from hyperloader.ops._schema import SCHEMAS


def define(namespace: str, kernels: Mapping[str, Callable] = REFERENCE) -> None:
    """Register every operator under ``namespace``, computed by ``kernels``, with autograd and for the tracer."""
    for name, schema in SCHEMAS.items():
        torch.library.define(f"{namespace}::{name}", schema.removeprefix(name))
    fill(namespace, kernels)
    operators = getattr(torch.ops, namespace)
    torch.library.impl(
        f"{namespace}::lora_linear", "CompositeImplicitAutograd", lora_linear_from(operators.lora_linears)
    )
    if kernels is REFERENCE:  # PyTorch follows its backward operators, and is told so
        for name in SCHEMAS:
            if name.endswith("_backward"):
                torch.library.impl(f"{namespace}::{name}", "Autograd", torch.library.fallthrough_kernel)
    _autograd.register(operators)
    _fakes.register(namespace)


def fill(namespace: str, kernels: Mapping[str, Callable] = REFERENCE, key: str = "CompositeExplicitAutograd") -> None:
    """Let ``kernels`` compute the operators of ``namespace``: on every device without kernels of its own, or on one."""
    for name, kernel in kernels.items():
        torch.library.impl(f"{namespace}::{name}", key, without_autocast(kernel))
