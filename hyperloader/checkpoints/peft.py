"""LoRA checkpoints of Hugging Face's PEFT: names, configuration, writing and reading."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional

from hyperloader.checkpoints.atomic import write_files
from hyperloader.checkpoints.descriptions import check_no_file
from hyperloader.checkpoints.tensors import as_bytes, check_tensors, read_tensors
from hyperloader.json_file import read_json
from hyperloader.validation import check_positive, check_whole, naming, shown

TENSORS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
_PREFIX, _SUFFIX = "base_model.model.", ".weight"
_FACTORS = ("lora_A", "lora_B")
_TASK = "hyperloader_task"  # in the metadata of TENSORS

# Keys of the configuration that are read, or that say nothing about what the tensors of a checkpoint compute.
_READ = {"peft_type", "r", "lora_alpha", "use_rslora"}
_SILENT = {
    "auto_mapping", "base_model_name_or_path", "ensure_weight_tying", "eva_config", "exclude_modules",
    "fan_in_fan_out", "inference_mode", "layers_pattern",
    "layers_to_transform", "lora_dropout", "megatron_core", "peft_version", "qalora_group_size", "revision",
    "target_modules", "task_type",
}  # fmt: skip
# Every other key, also one that PEFT has yet to invent, must be empty or have a value that changes nothing.
_PLAIN = {"bias": ("none",), "init_lora_weights": (True, False, "gaussian", "orthogonal", "mica", "eva")}


@dataclass(frozen=True)
class Updates:
    """LoRA updates: path of a layer -> ``lora_A`` (rank, in_features) and ``lora_B`` (out_features, rank)."""

    rank: int
    scaling: float
    layers: Mapping[str, tuple[Tensor, Tensor]]


def write(
    folder: Path,
    layers: Mapping[str, tuple[Tensor, ...]],
    rank: int,
    lora_alpha: float,
    transposed: bool,
    backbone: str,
    task: str,
    overwrite: bool,
) -> None:
    """Write the LoRA updates of ``task`` as ``peft.PeftModel.from_pretrained`` loads them.

    Args:
        layers: path of a layer -> ``lora_A`` and ``lora_B``, as in ``Updates``; of a fused projection with several
            updates the rank is a multiple of ``rank``, and that of every layer is filled up with zeros.
        transposed: whether the layers are transformers' ``Conv1D``.
        backbone: what transformers loads the backbone by; "" if nothing.

    Raises:
        ValueError: a file; a folder with the adapter of anything but this task, unless ``overwrite``.
    """
    check_no_file(folder)
    if not overwrite:
        _check_folder(folder, task)
    folder.mkdir(parents=True, exist_ok=True)
    most = max(len(lora_A) for lora_A, _ in layers.values())
    tensors = {
        f"{_PREFIX}{path}.{factor}{_SUFFIX}": tensor
        for path, (lora_A, lora_B) in layers.items()
        for factor, tensor in zip(_FACTORS, _filled_up(lora_A, lora_B, most), strict=True)
    }
    config = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": backbone or None,
        "r": most,
        "lora_alpha": lora_alpha * (most // rank),
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": transposed,
        "inference_mode": True,
        "target_modules": sorted(layers),
    }
    content = as_bytes(tensors, {"format": "pt", _TASK: task})
    text = json.dumps(config, ensure_ascii=False, indent=2)
    write_files({folder / TENSORS: content, folder / CONFIG: text.encode()})


def _filled_up(lora_A: Tensor, lora_B: Tensor, rank: int) -> tuple[Tensor, Tensor]:
    """An update of ``rank`` that does the same."""
    more = rank - len(lora_A)
    return (functional.pad(lora_A, (0, 0, 0, more)), functional.pad(lora_B, (0, more))) if more else (lora_A, lora_B)


def read(folder: Path, sizes: Mapping[str, tuple[int, int]], called: str) -> Updates:
    """The updates in ``folder``.

    Args:
        sizes: of the layers that may be updated, by path: in_features, out_features.
        called: what messages call these layers.

    Raises:
        FileNotFoundError, ValueError: a missing or foreign file, or one with more than plain LoRA updates of these
            layers; the message lists what.
    """
    for name in (CONFIG, TENSORS):
        if not (folder / name).is_file():
            raise FileNotFoundError(f"{folder / name}: no such file; a PEFT checkpoint holds {CONFIG} and {TENSORS}")
    rank, scaling = _read_config(folder / CONFIG)
    path = folder / TENSORS
    tensors = read_tensors(path)
    names: dict[tuple[str, str], str] = {}
    for name in tensors:
        layer, _, factor = name.removeprefix(_PREFIX).removesuffix(_SUFFIX).rpartition(".")
        if (layer, factor) in names:
            raise ValueError(f"{path}: {name} and {names[layer, factor]} must not both be there")
        names[layer, factor] = name
    if not names:
        raise ValueError(f"{path}: holds no tensors")
    layers, wanted = sorted({layer for layer, _ in names} & sizes.keys()), {}
    for layer in layers:
        in_features, out_features = sizes[layer]
        for factor, shape in zip(_FACTORS, ((rank, in_features), (out_features, rank)), strict=True):
            names.setdefault((layer, factor), f"{_PREFIX}{layer}.{factor}{_SUFFIX}")
            wanted[names[layer, factor]] = torch.empty(shape, device="meta")
    check_tensors(path, tensors, wanted, extra=f"extra, which update no {called}")
    lora_A, lora_B = ({layer: tensors[names[layer, factor]] for layer in layers} for factor in _FACTORS)
    return Updates(rank, scaling, {layer: (lora_A[layer], lora_B[layer]) for layer in layers})


def _read_config(path: Path) -> tuple[int, float]:
    """Rank and scaling."""
    config = read_json(path, "the configuration of a LoRA checkpoint")
    if config.get("peft_type") != "LORA":
        raise ValueError(f"{path}: peft_type must be LORA, got {shown(config.get('peft_type'))}")
    other = {
        key: value
        for key, value in config.items()
        if key not in _READ | _SILENT and value and value not in _PLAIN.get(key, ())
    }
    if other:
        raise ValueError(f"{path}: only plain LoRA updates of the backbone as it is can be read, got {shown(other)}")
    rank: Any = config.get("r")
    alpha: Any = config.get("lora_alpha")
    with naming(path):
        check_whole("r", rank)
        check_positive("lora_alpha", alpha)
    return rank, alpha / (math.sqrt(rank) if config.get("use_rslora") else rank)


def _check_folder(folder: Path, task: str) -> None:
    """Raise ``ValueError`` if there is an adapter already that is not of ``task``."""
    from safetensors import SafetensorError, safe_open

    names = sorted(path.name for path in folder.glob("adapter_*"))
    if not names:
        return
    before = None
    if TENSORS in names:
        try:
            with safe_open(folder / TENSORS, "pt") as file:
                before = (file.metadata() or {}).get(_TASK)
        except SafetensorError:
            pass  # no adapter of ours
    if before != task:
        of = "" if before is None else f" of the task {before!r}"
        raise ValueError(
            f"{folder}: holds the adapter{of} in {names[0]}: choose another folder, or give overwrite=True"
        )
