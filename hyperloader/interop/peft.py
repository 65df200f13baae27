"""LoRA checkpoints of Hugging Face's PEFT as tasks of a model."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from hyperloader.backbones import Stack, find_stacks
from hyperloader.checkpoints.tensors import check_numbers, read_tensors
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.json_file import read_json
from hyperloader.model import HyperLoaderModel
from hyperloader.model.export import PEFT_CONFIG, PEFT_PREFIX, PEFT_TENSORS
from hyperloader.validation import check_positive, check_whole, shown

# Keys of PEFT's configuration that are read, or that say nothing about what the tensors of a checkpoint compute.
_READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "target_modules", "task_type",
}  # fmt: skip
# Every other key, also one that PEFT has yet to invent, must be empty or have a value that changes nothing.
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "mica", "eva")}


@dataclass(frozen=True)
class _Updates:
    """A PEFT checkpoint as read: path of a layer -> lora_A, lora_B."""

    folder: Path
    rank: int
    scaling: float
    layers: dict[str, tuple[Tensor, Tensor]]


def load_peft(backbone: nn.Module, folders: Mapping[str, str | Path]) -> HyperLoaderModel:
    """A model whose tasks are PEFT LoRA checkpoints, one each. A batch may mix them.

    They are fixed: no parameter requires a gradient until you say so. Nothing of ``backbone`` is changed but what
    ``HyperLoaderModel`` wraps.

    Args:
        backbone: what the checkpoints were trained with.
        folders: name of a task -> folder with ``adapter_config.json`` and ``adapter_model.safetensors``.

    Raises:
        FileNotFoundError, ValueError: a missing or foreign file; one that updates other layers than the queries and
            values of attentions; one that holds more than plain LoRA updates. The message lists what.
    """
    if not isinstance(folders, Mapping):
        raise TypeError(f"folders must map names of tasks to folders, got {folders!r:.80}")
    stacks = find_stacks(backbone)
    known = {path: site for stack in stacks for layer in stack.layers for site, path in layer.items()}
    known = {path: site for path, site in known.items() if site in LORA_SITES}
    read = {task: _read(Path(folder), backbone, known) for task, folder in folders.items()}
    if not read:
        raise ValueError("folders must name at least one task, got none")
    rank = max(updates.rank for updates in read.values())
    sites = {known[path] for updates in read.values() for path in updates.layers}
    config = HyperLoaderConfig(
        tasks=list(read), adapter_sites=(), lora_sites=tuple(sites), rank=rank, lora_alpha=rank, train_norms=False,
        generator="table",
    )  # fmt: skip
    model = HyperLoaderModel(backbone, config)
    try:
        with torch.no_grad():
            for index, updates in enumerate(read.values()):
                _fill(model, stacks, index, updates)
    except BaseException:  # whatever it is: the backbone is given back
        model.detach()
        raise
    return model.requires_grad_(False).eval()


def _fill(model: HyperLoaderModel, stacks: list[Stack], task: int, updates: _Updates) -> None:
    """Copy a checkpoint into the tables; a layer that it does not update gets zeros."""
    for stack in stacks:
        table = model.generators[stack.name]
        for row, (layer, site) in enumerate(table.layout.sites_of(table.layout.lora_sites)):
            to_A, to_B = (table.weights[name][row, task] for name in ("lora_A", "lora_B"))
            to_A.zero_()
            to_B.zero_()
            found = updates.layers.get(stack.layers[layer][site])
            if found is not None:
                to_A[: updates.rank].copy_(found[0])
                to_B[:, : updates.rank].copy_(found[1].double() * updates.scaling)


def _read(folder: Path, backbone: nn.Module, known: Mapping[str, str]) -> _Updates:
    for name in (PEFT_CONFIG, PEFT_TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(
                f"{folder / name}: no such file; a PEFT checkpoint holds {PEFT_CONFIG} and {PEFT_TENSORS}"
            )
    path = folder / PEFT_CONFIG
    description = read_json(path, "the configuration of a LoRA checkpoint")
    if description.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type must be LORA, got {shown(description.get('peft_type'))}")
    other = {
        key: value
        for key, value in description.items()
        if key not in _READ | _SILENT and value and value not in _PLAIN.get(key, ())
    }
    if other:
        raise ValueError(f"{path}: only plain LoRA updates of the backbone as it is can be read, got {shown(other)}")
    rank, alpha = description.get("r"), description.get("lora_alpha")
    try:
        check_whole("r", rank)
        check_positive("lora_alpha", alpha)
    except (TypeError, ValueError) as error:
        raise ValueError(f"{path}: {error}") from error
    layers = _layers(folder / PEFT_TENSORS, read_tensors(folder / PEFT_TENSORS), rank, backbone, known)
    scaling = alpha / (math.sqrt(rank) if description.get("use_rslora") else rank)
    return _Updates(folder, rank, scaling, layers)


def _layers(
    path: Path, tensors: Mapping[str, Tensor], rank: int, backbone: nn.Module, known: Mapping[str, str]
) -> dict[str, tuple[Tensor, Tensor]]:
    """lora_A and lora_B by the path of their layer; raises ``ValueError`` for any other tensor, and lists them."""
    named = {}
    for name, tensor in tensors.items():
        layer, _, factor = name.removeprefix(PEFT_PREFIX).removesuffix(".weight").rpartition(".")
        if (layer, factor) in named:
            raise ValueError(f"{path}: {name} and {named[layer, factor][0]} must not both be there")
        named[layer, factor] = (name, tensor)
    if not named:
        raise ValueError(f"{path}: holds no tensors")
    foreign = sorted(
        name for (layer, factor), (name, _) in named.items() if layer not in known or factor not in ("lora_A", "lora_B")
    )
    layers = sorted({layer for layer, _ in named})
    missing = [
        f"{PEFT_PREFIX}{layer}.{factor}.weight"
        for layer in layers
        for factor in ("lora_A", "lora_B")
        if layer in known and (layer, factor) not in named
    ]
    if foreign or missing:
        raise ValueError(
            f"{path}: tensors missing: {', '.join(missing) or 'none'}; extra, which update no query or value of "
            f"{type(backbone).__name__}'s attentions: {', '.join(foreign) or 'none'}"
        )
    found = {}
    for layer in layers:
        linear = backbone.get_submodule(layer)
        shapes = {"lora_A": (rank, linear.in_features), "lora_B": (linear.out_features, rank)}
        for factor, shape in shapes.items():
            name, tensor = named[layer, factor]
            if tuple(tensor.shape) != shape:
                raise ValueError(f"{path}: {name} must have shape {shape}, got {tuple(tensor.shape)}")
            check_numbers(path, name, tensor)
        found[layer] = (named[layer, "lora_A"][1], named[layer, "lora_B"][1])
    return found
