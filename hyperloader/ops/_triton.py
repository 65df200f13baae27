"""The Triton kernels behind the operators. Importing this imports no Triton, and asks for no GPU."""

import functools
import importlib.metadata
import os
import re
from collections.abc import Callable
from importlib.machinery import PathFinder
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from hyperloader.ops import _reference, _register, _schema, _transforms

NAMESPACE = "hyperloader_triton"
LEAST = (3, 4)  # before, a kernel took no tuples of numbers


def installed() -> bool:
    """Whether there is a Triton that compiles the kernels. It is looked for where packages lie, and not imported."""
    return _release() >= LEAST


def why_missing() -> str | None:
    """Why the kernels cannot run here, or None where they can."""
    release = _release()
    if not release:
        return "triton is not installed"
    if release < LEAST:
        return "the kernels need Triton {}.{}, and {}.{} is installed".format(*LEAST, *release)
    if torch.cuda.is_available():
        return None
    if os.environ.get("TRITON_INTERPRET") != "1":
        return "there is no GPU, and TRITON_INTERPRET=1, with which Triton interprets kernels on the CPU, is not set"
    if release < (3, 7) and _numbers(importlib.metadata.version("numpy")) >= (2, 4):
        return "there is no GPU, and the interpreter of Triton before 3.7 needs numpy before 2.4"
    return None


def _release() -> tuple[int, ...]:
    """The first two numbers of Triton's version, none where it is not installed; distributions of it differ in name."""
    found = PathFinder.find_spec("triton")
    if found is None or found.origin is None:
        return ()
    _, _, version = Path(found.origin).read_text(encoding="utf-8").partition("__version__ = ")
    return _numbers(version) or LEAST


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", version)[:2])


@functools.cache
def define() -> str:
    """Register the operators under a namespace of their own, once, and return it."""
    _register.define(NAMESPACE, kernels())
    for name in _schema.SCHEMAS:
        if name.endswith("_backward"):
            _transforms.differentiable_once(f"{NAMESPACE}::{name}")
    return NAMESPACE


def fill_gpu(namespace: str) -> None:
    """Let the Triton kernels compute the operators of ``namespace`` on GPUs; the reference what they refuse."""
    for name in _reference.REFERENCE:
        _register.fill(namespace, {name: _kernel_or_reference(name)}, "CUDA")


@functools.cache
def kernels() -> dict[str, Callable]:
    """What computes every operator. Imports Triton."""
    from hyperloader.kernels import adapter, condition, generate, lora_linear

    modules = (condition, generate, adapter, lora_linear)
    return _reference.checked(
        *(SimpleNamespace(forward=_launching(m.forward), backward=_launching(m.backward)) for m in modules)
    )


def _launching(kernel: Callable) -> Callable:
    """Triton launches on the current device: make it that of the tensors. Their tangents would get lost."""

    @functools.wraps(kernel)
    def run(first: Any, *arguments: Any) -> Any:
        if _transforms.active():
            _transforms.refuse_tangents(f"{kernel.__module__}.{kernel.__name__}", (first, *arguments))
        with torch.cuda.device_of(first if isinstance(first, torch.Tensor) else first[0]):
            return kernel(first, *arguments)

    return run


def _kernel_or_reference(name: str) -> Callable:
    def run(*arguments: Any) -> Any:
        return (kernels() if fits(name, arguments) else _reference.REFERENCE)[name](*arguments)

    return run


def fits(name: str, arguments: tuple) -> bool:
    """Whether the kernels take these arguments of operator ``name``, which are not checked yet."""
    from hyperloader.kernels._launch import DTYPES, MAX_WIDTH

    if name.endswith("_backward") and torch.is_grad_enabled():  # a second derivative is wanted; kernels have none
        return False
    given = dict(zip(_schema.argument_names(name), arguments, strict=True))
    operator, width = name.removesuffix("_backward"), 0
    dtypes: tuple[torch.dtype, ...]
    if operator == "generate":
        dtypes = (given["condition"].dtype, given.get("dtype") or given["condition"].dtype)
    elif operator == "condition":
        tasks, second_weight = given["task_embedding"], given["second_weight"]
        dtypes, width = (tasks.dtype,), max(*tasks.shape[1:], *second_weight.shape[:1], 0)
    elif operator == "adapter":
        dtypes, width = (given["x"].dtype,), given["down_weight"].shape[-2:-1].numel()
    else:
        lora_A = [given["lora_A"]] if operator == "lora_linear" else given["lora_A"]
        dtypes, width = (given["x"].dtype,), sum(one.shape[-2:-1].numel() for one in lora_A)
    return all(dtype in DTYPES for dtype in dtypes) and width <= MAX_WIDTH
