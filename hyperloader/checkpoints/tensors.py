"""Tensors to and from files, and the one check of them: names, shapes, dtypes and finite values."""

import pickle
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from hyperloader.checkpoints.atomic import writing_files
from hyperloader.validation import A_FEW, listed, shown

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)
_FLOAT_NAMES = ", ".join(str(dtype).removeprefix("torch.") for dtype in FLOATS)
_UNREADABLE = (pickle.UnpicklingError, EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError)
_FEW, _LONGEST = 4, 100  # shapes in a message, characters of a tensor's name


def read_tensors(path: str | Path, content: bytes | None = None) -> dict[str, Tensor]:
    """The tensors of the safetensors file ``path``, or of its ``content`` where that has been read; on the CPU.

    Raises:
        ValueError: truncated, or no safetensors.
    """
    import safetensors.torch
    from safetensors import SafetensorError

    try:
        return safetensors.torch.load_file(path) if content is None else safetensors.torch.load(content)
    except (SafetensorError, KeyError) as error:  # KeyError: a dtype unknown to torch
        raise ValueError(f"{path}: truncated or no safetensors file: {error}") from error


def read_tensor(path: Path, name: str) -> Tensor | None:
    """One tensor of the safetensors file ``path``, None if it has no such; raises what ``check_numbers`` raises."""
    from safetensors import safe_open

    with safe_open(path, "pt") as file:
        if name not in file.keys():  # noqa: SIM118
            return None
        tensor = file.get_tensor(name)
    check_numbers(path, name, tensor)
    return tensor


def read_pickle(path: Path) -> dict[str, Tensor]:
    """The tensors of a file of ``torch.save``, of which no code runs.

    Raises:
        ValueError: anything but finite floating-point tensors by name.
    """
    try:
        tensors = torch.load(path, map_location="cpu", weights_only=True)
    except _UNREADABLE as error:
        reason = str(error).strip().splitlines()
        raise ValueError(f"{path}: cannot be read as tensors alone: {reason[0] if reason else error!r}") from error
    if not isinstance(tensors, dict):
        raise ValueError(f"{path}: must hold a dict of tensors by name, got a {type(tensors).__name__}")
    for name, tensor in tensors.items():
        check_numbers(path, name, tensor)
    return tensors


def write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Write a safetensors file, without a copy in memory."""
    from safetensors.torch import save_file

    with writing_files(path) as (file,):
        save_file({name: tensor.detach().contiguous() for name, tensor in tensors.items()}, file)


def as_bytes(tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None) -> bytes:
    """The content of a safetensors file."""
    import safetensors.torch

    return safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata
    )


def check_tensors(
    where: object, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], extra: str = "extra"
) -> None:
    """Check the tensors of a file before any of them is used.

    Args:
        where: the file, which messages begin with.
        found: what it holds.
        wanted: names, shapes and kinds that it has to hold; the tensors may be on ``meta``.
        extra: what messages call tensors that are too many.

    Raises:
        ValueError: a tensor that is missing or too many, of another shape, not of the wanted kind (any of ``FLOATS``
            for a floating one, the very dtype for all others), NaN or infinite.
    """
    check_shapes(where, found, wanted, extra)
    for name, tensor in wanted.items():
        if tensor.is_floating_point():
            check_numbers(where, name, found[name])
        elif tensor.dtype != found[name].dtype:
            raise ValueError(f"{where}: {name} must be {tensor.dtype}, got {found[name].dtype}")


def check_shapes(
    where: object, found: Mapping[str, Tensor], wanted: Mapping[str, Tensor], extra: str = "extra"
) -> None:
    """Raise ``ValueError``, beginning with ``where``, unless names and shapes are the same; it lists what differs."""
    names = differing(found, wanted)
    missing, more = ([name for name in names if name not in one] for one in (found, wanted))
    faults = [f"tensors missing: {_listed(missing)}; {extra}: {_listed(more)}"] if missing or more else []
    # Where tensors are missing, the wanted shapes may follow from sizes that could not be read.
    wrong = [name for name in names if name in found and name in wanted and not missing]
    for name in wrong[:_FEW]:
        faults.append(f"{name} must have shape {tuple(wanted[name].shape)}, got {tuple(found[name].shape)}")
    if len(wrong) > _FEW:
        faults.append(f"and {len(wrong) - _FEW:,} more differ in shape")
    if faults:
        raise ValueError(f"{where}: {'; '.join(faults)}")


def differing(found: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> list[str]:
    """Names that only one of the two has, or with another shape, in order."""
    shapes, others = ({name: tensor.shape for name, tensor in one.items()} for one in (found, wanted))
    return sorted(name for name in shapes.keys() | others.keys() if shapes.get(name) != others.get(name))


def _listed(names: Sequence[str]) -> str:
    return listed(names, longest=_LONGEST, few=A_FEW) or "none"


def check_numbers(where: object, name: object, tensor: Any) -> None:
    """Raise ``ValueError`` unless ``tensor`` is a dense tensor of finite floating-point numbers."""
    if not isinstance(name, str) or not isinstance(tensor, Tensor):
        raise ValueError(f"{where}: must hold tensors by name, got a {type(tensor).__name__} under {shown(name)}")
    if tensor.dtype not in FLOATS:
        raise ValueError(f"{where}: {name} must be one of {_FLOAT_NAMES}, got {tensor.dtype}")
    if tensor.layout != torch.strided or tensor.is_meta:
        raise ValueError(f"{where}: {name} must be a dense tensor with values, got {tensor.layout} on {tensor.device}")
    own = tensor.detach()
    for axis, stride in enumerate(own.stride()):
        own = own.narrow(axis, 0, 1) if stride == 0 and own.shape[axis] else own  # repeated: once is enough
    if own.numel() * own.element_size() > own.untyped_storage().nbytes():  # fewer bytes than its shape claims
        raise ValueError(f"{where}: {name} must hold {own.numel():,} numbers, got fewer in its memory")
    if not torch.isfinite(own).all():
        raise ValueError(f"{where}: {name} must be finite, got NaN or infinity")
