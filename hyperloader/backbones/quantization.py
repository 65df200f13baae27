"""Quantising the linear layers of a backbone with torchao or bitsandbytes, by a name."""

import importlib
import importlib.metadata
import importlib.util
import logging
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

import torch
from torch import nn

from hyperloader.backbones.compiled import plain_name
from hyperloader.nn.quantized import quantization_of, quantized_layers
from hyperloader.validation import check_choice

_INT4_GROUP = 32  # weights that share a factor
LEAST = {"torchao": "0.18", "bitsandbytes": "0.50"}  # versions, as the extra `quantization` has them


def _imported(module: str) -> Any:
    """``module``, without its library's word about kernels for other machines that it cannot load."""
    logger = logging.getLogger(module.partition(".")[0])
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return importlib.import_module(module)
    finally:
        logger.setLevel(level)


def _torchao(backbone: nn.Module, paths: Collection[str], config: Callable[[Any], Any]) -> None:
    quantization = _imported("torchao.quantization")
    quantization.quantize_(backbone, config(quantization), filter_fn=lambda _, path: path in paths)


def _int4(quantization: Any) -> Any:
    four_bits: Any = torch.int4  # type: ignore[attr-defined]
    per_group = _imported("torchao.quantization.granularity").PerGroup(_INT4_GROUP)
    return quantization.IntxWeightOnlyConfig(weight_dtype=four_bits, granularity=per_group)


def _bitsandbytes(backbone: nn.Module, paths: Collection[str], layer: Callable[[Any, nn.Linear], nn.Module]) -> None:
    library = _imported("bitsandbytes")
    # It tells at every product in evaluation mode that float32 is cast.
    logging.getLogger("bitsandbytes.autograd._functions").setLevel(logging.ERROR)
    for path in paths:
        parent, _, name = path.rpartition(".")
        linear: Any = backbone.get_submodule(path)
        new: Any = layer(library.nn, linear)
        if linear.bias is not None:
            new.bias = linear.bias
        setattr(backbone.get_submodule(parent), name, new.to(linear.weight.device).train(linear.training))


def _int8_layer(library: Any, linear: nn.Linear) -> nn.Module:
    # With a threshold, as transformers has it, a sentence's answer would depend on the others in its batch.
    options = {"has_fp16_weights": False, "threshold": 0.0}
    new = library.Linear8bitLt(linear.in_features, linear.out_features, False, **options)
    new.weight = library.Int8Params(linear.weight.detach(), requires_grad=False, has_fp16_weights=False)
    return new


def _nf4_layer(library: Any, linear: nn.Linear) -> nn.Module:
    options = {"quant_type": "nf4", "compress_statistics": False}
    new = library.Linear4bit(linear.in_features, linear.out_features, False, linear.weight.dtype, **options)
    new.weight = library.Params4bit(linear.weight.detach(), requires_grad=False, module=new, **options)
    return new


# name -> the package, what in_features must be a multiple of, what quantises layers of a backbone
QUANTIZATIONS: dict[str, tuple[str, int, Callable[[nn.Module, Collection[str]], None]]] = {
    "torchao-int8": ("torchao", 1, lambda b, paths: _torchao(b, paths, lambda q: q.Int8WeightOnlyConfig())),
    "torchao-int4": ("torchao", _INT4_GROUP, lambda b, paths: _torchao(b, paths, _int4)),
    "torchao-int8-dynamic": (
        "torchao",
        1,
        lambda b, paths: _torchao(b, paths, lambda q: q.Int8DynamicActivationInt8WeightConfig()),
    ),
    "bitsandbytes-int8": ("bitsandbytes", 1, lambda b, paths: _bitsandbytes(b, paths, _int8_layer)),
    "bitsandbytes-nf4": ("bitsandbytes", 2, lambda b, paths: _bitsandbytes(b, paths, _nf4_layer)),
}


def check_quantization(name: str) -> None:
    """Raise ``ValueError`` for an unknown name, ``ImportError`` if its library is not installed, or too old."""
    check_choice("backbone_quantization", name, tuple(QUANTIZATIONS))
    package = QUANTIZATIONS[name][0]
    least = LEAST[package]
    if importlib.util.find_spec(package) is None:
        needed = f"{package}, which is not installed"
    elif (found := _version(package)) is not None and _numbers(found) < _numbers(least):
        needed = f"{package} {least} or later, got {found}"
    else:
        return
    raise ImportError(f"backbone_quantization {name} needs {needed}; run: pip install 'hyperloader[quantization]'")


def _version(package: str) -> str | None:
    """That of an installed library; None for one without metadata, such as a checkout."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _numbers(version: str) -> list[int]:
    """The first two numbers of a version."""
    return [int(number) for number in re.findall(r"\d+", version)[:2]]


def layers_to_quantize(backbone: nn.Module, name: str) -> dict[str, str]:
    """Path -> ``name`` of every layer that ``name`` quantises: the linear ones of the layer stacks, but for those that
    transformers keeps in float32. Nothing is changed, and the backbone may be on the device ``meta``.

    Raises:
        ValueError: there is none, or one of a size that cannot be quantised so.
    """
    kept = set(getattr(backbone, "_keep_in_fp32_modules", None) or ())
    paths = [
        path
        for path, module in backbone.named_modules()
        if type(module) is nn.Linear and _in_list(path) and not kept & set(path.split("."))
    ]
    if not paths:
        raise ValueError(
            f"backbone_quantization must be of a backbone with layers of nn.Linear, got {type(backbone).__name__}"
        )
    _check_sizes(backbone, dict.fromkeys(paths, name))
    return dict.fromkeys(paths, name)


def quantize(backbone: nn.Module, layers: Mapping[str, str]) -> None:
    """Quantise ``layers`` (path -> one of ``QUANTIZATIONS``) of ``backbone`` in place; those that are so already stay.

    Raises:
        ValueError: an unknown name, no such layer, or one of a size that cannot be quantised so. ImportError: a library
            is not installed.
    """
    there = layers_of(backbone)
    todo = {path: name for path, name in layers.items() if there.get(path) != name}
    for name in dict.fromkeys(todo.values()):
        check_quantization(name)
    _check_sizes(backbone, todo)
    for name in dict.fromkeys(todo.values()):
        QUANTIZATIONS[name][2](backbone, [path for path, one in todo.items() if one == name])


def layers_of(backbone: nn.Module) -> dict[str, str]:
    """Path in the plain backbone -> quantisation, of every quantised layer; attached ones count as without sites."""
    return {plain_path(path): str(quantization_of(layer)) for path, layer in quantized_layers(backbone)}


def check_same_layers(where: object, stored: Mapping[str, str], found: Mapping[str, str]) -> None:
    """Raise ``ValueError``, beginning with ``where``, unless a backbone is quantised as the one that was stored."""
    for path in sorted(stored.keys() | found.keys()):
        if stored.get(path) != found.get(path):
            wanted, got = (layers.get(path, "not quantised") for layers in (stored, found))
            raise ValueError(
                f"{where}: wrong backbone: {path} must be {wanted}, as it was trained with, got one that is {got}"
            )


def plain_path(path: str) -> str:
    """The path of a layer in an attached or compiled backbone as it is in the plain one."""
    path = plain_name(path)
    while path.endswith(".linear"):
        path = path.removesuffix(".linear")
    return path


def _in_list(path: str) -> bool:
    """Whether ``path`` leads into one of the members of a list of layers."""
    return any(part.isdecimal() for part in path.split(".")[1:-1])


def _check_sizes(backbone: nn.Module, layers: Mapping[str, str]) -> None:
    for path, name in layers.items():
        try:
            layer: Any = backbone.get_submodule(path)
        except AttributeError:
            raise ValueError(f"{path} must be a layer of the backbone to be quantised as {name}, got none") from None
        if type(layer) is not nn.Linear or quantization_of(layer) is not None:
            raise ValueError(f"{path} must be a plain nn.Linear to be quantised as {name}, got {type(layer).__name__}")
        multiple = QUANTIZATIONS[name][1]
        if layer.in_features % multiple:
            raise ValueError(
                f"backbone_quantization {name} must be of layers whose in_features are a multiple of {multiple}, got "
                f"{layer.in_features} at {path}"
            )
