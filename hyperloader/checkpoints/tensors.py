"""The one check of tensors that come from a file: names, shapes, dtypes, and that their numbers are any."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperloader.validation import listed, shown

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOAT_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)


def read_tensors(path: str | Path, content: bytes | None = None) -> dict[str, Tensor]:
    """The tensors of the safetensors file ``path``, or of its ``content`` where that has been read; on the CPU.

    Raises:
        ValueError: truncated, or no safetensors.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load_file(path) if content is None else safetensors.torch.load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype that torch has not
        raise ValueError(f"{path}: truncated or no safetensors file: {error}") from error


def check_tensors(where: object, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Check the tensors of a file before any of them is used.

    Args:
        where: the file, which messages begin with.
        found: what it holds.
        wanted: names, shapes and kinds that it has to hold; the tensors may be on ``meta``.

    Raises:
        ValueError: a tensor that is missing or too many, of another shape, not of the wanted kind (any of ``FLOATS``
            for a floating one, the very dtype for all others), NaN or infinite.
    """
    check_shapes(where, found, wanted)
    for name, tensor in wanted.items():
        if tensor.is_floating_point():
            check_numbers(where, name, found[name])
        elif tensor.dtype != found[name].dtype:
            raise ValueError(f"{where}: {name} must be {tensor.dtype}, got {found[name].dtype}")


def check_shapes(where: object, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> None:
    """Raise ``ValueError``, beginning with ``where``, unless names and shapes are the same."""
    missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
    if missing or extra:
        raise ValueError(f"{where}: tensors missing: {listed(missing) or 'none'}; extra: {listed(extra) or 'none'}")
    for name, tensor in wanted.items():
        if tensor.shape != found[name].shape:
            raise ValueError(f"{where}: {name} must have shape {tuple(tensor.shape)}, got {tuple(found[name].shape)}")


def check_numbers(where: object, name: object, tensor: Any) -> None:
    """Raise ``ValueError`` unless ``tensor`` is one of finite floating-point numbers, in order."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"{where}: must hold tensors by name, got a {type(tensor).__name__} under {shown(name)}")
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{where}: {name} must be one of {_FLOAT_NAMES}, got {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{where}: {name} must hold its numbers in order, got a tensor of {tensor.layout} without")
    own = tensor.detach()
    for axis, stride in enumerate(own.stride()):
        own = own.narrow(axis, 0, 1) if stride == 0 and own.shape[axis] else own  # repeated: once is enough
    if own.numel() * own.element_size() > own.untyped_storage().nbytes():  # a few bytes, said to be many
        raise ValueError(f"{where}: {name} must hold {own.numel():,} numbers, got fewer, one over another")
    if not torch.isfinite(own).all():
        raise ValueError(f"{where}: {name} must be finite, got NaN or infinity")
