"""The fingerprint of a backbone: shape and a few numbers of every tensor that is frozen and read."""

import weakref
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperloader.backbones.origin import plain_linear_name
from hyperloader.nn.quantized import dequantized, quantized_layers, weight_version
from hyperloader.nn.sharded import whole
from hyperloader.validation import shown

_SAMPLES = 8  # numbers of each tensor
_TOLERANCE = 1e-2  # relative: a backbone cast to bfloat16 is the same backbone

Fingerprint = Mapping[str, list]  # name of a tensor -> [shape, numbers]
# Of a quantised layer: its weight, that weight's version, the mark.
_quantized: "weakref.WeakKeyDictionary[nn.Module, tuple[weakref.ref, tuple, list]]" = weakref.WeakKeyDictionary()


def fingerprint_of(backbone: nn.Module, trained: Sequence[str], with_heads: bool) -> dict[str, list]:
    """The fingerprint of ``backbone``, whose tensors ``trained`` are not frozen; of a quantised layer that of its
    weight in numbers.

    Args:
        with_heads: whether task heads read it, and no pooler.

    Raises:
        ValueError: a backbone without memory, on the device ``meta``.
    """
    marks = {}
    state = {plain_linear_name(name): tensor for name, tensor in backbone.state_dict().items()}
    poolers = _poolers(state) if with_heads else _poolers(state) & _newly_drawn(backbone)
    quantized = {plain_linear_name(f"{path}.weight"): layer for path, layer in quantized_layers(backbone)}
    parts = {
        plain_linear_name(name)
        for path, layer in quantized_layers(backbone)
        for name in layer.state_dict(prefix=f"{path}.")
        if name not in (f"{path}.weight", f"{path}.bias")
    }
    for name, tensor in state.items():
        if name in trained or name in poolers or name in parts:
            continue
        if tensor.is_meta:
            raise ValueError(f"backbone must have its weights, got {name} on the device meta: load them first")
        layer = quantized.get(name)
        marks[name] = _mark(whole(tensor.detach())) if layer is None else _mark_of_quantized(layer)
    return marks


def _mark(tensor: Tensor) -> list:
    """Shape and some numbers of one tensor."""
    flat = tensor.flatten()
    count = min(_SAMPLES, flat.numel())
    places = torch.linspace(0, max(flat.numel() - 1, 0), count, dtype=torch.float64).long().to(flat.device)
    return [list(tensor.shape), flat[places].float().tolist()]


def _mark_of_quantized(layer: nn.Module) -> list:
    """That of a quantised layer's weight, which is dequantised once as long as it stays as it is."""
    version = weight_version(layer)
    if version is None:
        return _mark(dequantized(layer))
    known = _quantized.get(layer)
    if known is None or known[0]() is not layer.weight or known[1] != version:  # another may have its address
        known = _quantized[layer] = weakref.ref(layer.weight), version, _mark(dequantized(layer))
    return known[2]


def read_part(stored: Fingerprint, with_heads: bool) -> Fingerprint:
    """``stored``, which earlier versions wrote with a pooler that task heads do not read, without it."""
    without = _poolers(stored) if with_heads else set()
    return {name: mark for name, mark in stored.items() if name not in without}


def has_pooler(stored: Fingerprint) -> bool:
    """Whether a pooler is among what is read."""
    return bool(_poolers(stored))


def check_form(path: Path, stored: Fingerprint) -> None:
    """Raise ``ValueError`` unless the fingerprint in the file ``path`` has a shape and some numbers of every tensor."""
    for name, mark in stored.items():
        form = (
            isinstance(mark, list)
            and len(mark) == 2
            and all(isinstance(part, list) for part in mark)
            and all(type(size) is int and 0 <= size < 2**63 for size in mark[0])
            and all(type(number) is float or (type(number) is int and abs(number) < 2**63) for number in mark[1])
        )
        if not form:
            raise ValueError(f"{path}: fingerprint of {name} must be a shape and some numbers, got {shown(mark)}")


def check_same(where: object, stored: Fingerprint, found: Fingerprint, model: str) -> None:
    """Raise ``ValueError``, beginning with ``where``, unless both are of one backbone, which is called ``model``."""
    for name in sorted(stored.keys() ^ found.keys()):
        holder = "the checkpoint's backbone" if name in stored else "this backbone"
        raise ValueError(f"{where}: wrong backbone: only {holder} has the tensor {name}")
    for name, (shape, _) in stored.items():
        if shape != found[name][0]:
            raise ValueError(f"{where}: wrong backbone: {name} must have shape {shape}, got {found[name][0]}")
    for name, (_, samples) in stored.items():
        expected, actual = (torch.tensor(one, dtype=torch.float32) for one in (samples, found[name][1]))
        tolerance = _TOLERANCE * float(expected.abs().max()) if len(samples) else 0.0
        if actual.shape != expected.shape or not torch.allclose(actual, expected, rtol=_TOLERANCE, atol=tolerance):
            raise ValueError(
                f"{where}: wrong backbone: the values of {name} are others than those it was trained with ({model})"
            )


def _poolers(names: Collection[str]) -> set[str]:
    return {name for name in names if "pooler" in name.split(".")}


def _newly_drawn(backbone: nn.Module) -> set[str]:
    """Names of parameters that are not from the checkpoint, as far as transformers has marked those that are."""
    marks = {
        plain_linear_name(name): getattr(parameter, "_is_hf_initialized", False)
        for name, parameter in backbone.named_parameters(remove_duplicate=False)
    }
    return {name for name, loaded in marks.items() if not loaded} if any(marks.values()) else set()
