"""Which implementation the operators run on: chosen when it is set, not in every call."""

import functools
import os
from collections.abc import Callable
from typing import Any

import torch

from hyperloader.ops import _fakes, _reference, _register, _transforms, _triton, gpu_choice, native

BACKENDS = ("auto", "native", "triton", "reference")
ENVIRONMENT_VARIABLE = "HYPERLOADER_BACKEND"
OPERATORS = ("condition", "generate", "adapter", "lora_linear", "lora_linears")

_REFERENCE = "hyperloader_reference"
_register.define(_REFERENCE)
if native.available:
    _register.fill("hyperloader")
    _fakes.register("hyperloader")
else:
    _register.define("hyperloader")
_FILLS_GPU = _triton.installed() and not (native.available and native.extension().build_info()["cuda"])
if _FILLS_GPU:
    _triton.fill_gpu("hyperloader")
_BOTH_ON_GPU = len(gpu_choice.kernels()) == 2

_chosen: str = "auto"
_operators: dict = {}  # operator -> what computes it


class BackendChoice:
    """What ``use_backend`` returns: as a context manager it brings the previous choice back at the end of the block."""

    def __init__(self, previous: str) -> None:
        self._previous = previous

    def __enter__(self) -> "BackendChoice":
        return self

    def __exit__(self, *_: Any) -> None:
        _set(self._previous)


def use_backend(name: str) -> BackendChoice:
    """Compute every operator from now on with backend ``name``.

    ``native`` is the compiled extension, ``triton`` the Triton kernels, ``reference`` plain PyTorch; ``auto`` takes
    the best there is and never fails: on a GPU what gpu_choice.json says. ``with use_backend(name): ...`` limits the
    choice to a block. The choice holds for the whole process; the environment variable HYPERLOADER_BACKEND makes it at
    import.

    Raises:
        ValueError: ``name`` is no backend.
        RuntimeError: the backend cannot run here, and why.
    """
    choice = BackendChoice(_chosen)
    _set(name)
    return choice


def backend_in_use() -> str:
    """The backend that computes now: ``native``, ``triton`` or ``reference``."""
    if _chosen != "auto":
        return _chosen
    return "native" if native.available else "reference"


def why_missing(name: str) -> str | None:
    """Why backend ``name`` cannot run here, or None where it can."""
    if name == "native" and not native.available:
        return native.reason
    return _triton.why_missing() if name == "triton" else None


def runs_triton(x: torch.Tensor) -> bool:
    """Whether the Triton kernels compute for tensors like ``x`` now: where chosen, else on a GPU unless refused."""
    if _chosen == "triton":
        return True
    return _chosen != "reference" and _FILLS_GPU and x.is_cuda and x.dtype != torch.float64


def operator(name: str) -> Any:
    """The callable behind operator ``name``."""
    return _operators[name]


def _set(name: str) -> None:
    global _chosen
    if name not in BACKENDS:
        raise ValueError(f"backend must be one of {', '.join(BACKENDS)}, got {name!r}")
    reason = why_missing(name)
    if reason is not None:
        raise RuntimeError(f"backend {name!r} cannot run here: {reason}")
    namespace = _REFERENCE if name == "reference" else _triton.define() if name == "triton" else "hyperloader"
    for operator_name in OPERATORS:
        _operators[operator_name] = _callable(namespace, operator_name)
        if name == "auto" and _BOTH_ON_GPU:
            triton = functools.partial(_triton_callable, operator_name)
            _operators[operator_name] = gpu_choice.choosing(operator_name, _operators[operator_name], triton)
    _chosen = name


@functools.cache
def _callable(namespace: str, name: str) -> Callable:
    """Return what computes operator ``name``: PyTorch's operator, watched where its derivatives would get lost."""
    operator = getattr(getattr(torch.ops, namespace), name).default
    if namespace == _triton.NAMESPACE:
        return _transforms.refusing(operator, f"{namespace}::{name}")
    if namespace == _REFERENCE or not native.available:
        return _transforms.without_operator(operator, _reference.plain(name))
    return operator


def _triton_callable(name: str) -> Callable:
    return _callable(_triton.define(), name)


try:
    _set(os.environ.get(ENVIRONMENT_VARIABLE, "auto"))
except (ValueError, RuntimeError) as _error:
    raise type(_error)(f"the environment variable {ENVIRONMENT_VARIABLE}: {_error}") from _error
