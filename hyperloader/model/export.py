"""One task of a model as a checkpoint of its own: ours, without hypernetworks, or PEFT's."""

import dataclasses
import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperloader.backbones import origin
from hyperloader.backbones.cross_attention_bias import NAME, cross_attention_bias
from hyperloader.checkpoints import stored_model
from hyperloader.checkpoints.atomic import write_files
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.nn.layout import Layout, SiteTensors

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel

PEFT_TENSORS, PEFT_CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_PREFIX = "base_model.model."
_TASK = "hyperloader_task"  # in the metadata of PEFT_TENSORS


def config_of_task(config: HyperLoaderConfig, task: str) -> HyperLoaderConfig:
    """The configuration of a model of ``task`` alone, whose weights are parameters."""
    labels = None if config.labels is None else {task: config.labels[task]}
    return dataclasses.replace(config, tasks=(task,), labels=labels, generator="table")


def export_task(model: "HyperLoaderModel", task: str, folder: str | Path) -> None:
    """Write ``task`` alone, with what is generated for it, its head and the trained norms: ``from_pretrained`` loads
    it, without hypernetworks.

    Raises:
        ValueError: an unknown task, or a folder that holds something else.
    """
    weights = model.weights_of(task)
    config = config_of_task(model.hyperloader_config, task)
    tensors = {}
    for stack, layout in model.layouts.items():
        for name, tensor in _table(weights, stack, layout).items():
            tensors[f"generators.{stack}.weights.{name}"] = tensor
    if model.heads is not None:
        head = model.heads.heads[model.hyperloader_config.task_id(task)]
        tensors |= {f"heads.heads.0.{name}": tensor for name, tensor in head.state_dict().items()}
    bias = [] if cross_attention_bias(model.backbone) is None else [NAME]
    tensors |= {f"backbone.{name}": model.backbone.get_parameter(name) for name in (*model.norm_names, *bias)}
    stored_model.save(folder, tensors, config, model.backbone, model.norm_names)


def _table(weights: Mapping, stack: str, layout: Layout) -> dict[str, Tensor]:
    """Generated weights as ``nn.table.Table`` holds them: (sites, 1 task, ...) each."""

    def stacked(names: Iterable[str], kinds) -> dict[str, Tensor]:
        sites = [weights[stack, layer, site] for layer, site in layout.sites_of(kinds)]
        return {name: torch.stack([site[i] for site in sites]).unsqueeze(1) for i, name in enumerate(names)}

    return {
        **stacked(layout.adapter_shapes, layout.adapter_sites),
        **stacked(layout.lora_shapes, layout.lora_sites),
    }


def export_peft(
    model: "HyperLoaderModel", task: str, folder: str | Path, *, lora_only: bool = False, overwrite: bool = False
) -> None:
    """Write the LoRA updates of ``task`` as ``peft.PeftModel.from_pretrained`` loads them.

    Raises:
        ValueError: an unknown task; what PEFT's LoRA cannot hold (adapters, trained norms, a head), as a list,
            unless ``lora_only`` leaves it out; a folder with the adapter of anything but this task, unless
            ``overwrite``.
    """
    config = model.hyperloader_config
    task_weights = model.weights_of(task)
    paths = {path: key for path, key in model.site_paths.items() if key[2] in LORA_SITES}
    others = _not_in_peft(model, task)
    if not paths:
        raise ValueError(f"task {task!r} has no LoRA update to export: the model's lora_sites are empty")
    if others and not lora_only:
        raise ValueError(
            f"PEFT's LoRA cannot hold all of task {task!r}: {'; '.join(others)}. Export the LoRA updates alone with "
            "lora_only=True, or everything in our own format with export_task"
        )
    tensors = {}
    for path, key in paths.items():
        for name, tensor in zip(("lora_A", "lora_B"), task_weights[key], strict=True):
            tensors[f"{PEFT_PREFIX}{path}.{name}.weight"] = tensor
    description = {
        "peft_type": "LORA",
        "task_type": None,
        "base_model_name_or_path": origin.name_of(model.backbone) or None,
        "r": config.rank,
        "lora_alpha": config.lora_alpha,
        "lora_dropout": 0.0,
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
        "target_modules": sorted(paths),
    }
    if not overwrite:
        _check_peft_folder(Path(folder), task)
    _write_peft(Path(folder), tensors, description, task)


def _not_in_peft(model: "HyperLoaderModel", task: str) -> list[str]:
    """What of a task is no LoRA update, for the message."""
    adapters = [path for path, key in model.site_paths.items() if key[2] not in LORA_SITES]
    found = [f"adapters at {', '.join(adapters)}"] if adapters else []
    if model.norm_names:
        found.append(f"trained norms {', '.join(model.norm_names)}")
    if model.heads is not None:
        found.append(f"the token-classification head of {task!r}")
    if cross_attention_bias(model.backbone) is not None:
        found.append(f"the backbone's {NAME}")
    return found


def _check_peft_folder(folder: Path, task: str) -> None:
    """Raise ``ValueError`` if there is an adapter already that is not of ``task``."""
    from safetensors import SafetensorError, safe_open

    names = sorted(path.name for path in folder.glob("adapter_*"))
    if not names:
        return
    before = None
    if PEFT_TENSORS in names:
        try:
            with safe_open(folder / PEFT_TENSORS, "pt") as file:
                before = (file.metadata() or {}).get(_TASK)
        except SafetensorError:
            pass  # no adapter of ours
    if before != task:
        of = "" if before is None else f" of the task {before!r}"
        raise ValueError(
            f"{folder}: holds the adapter{of} in {names[0]}: choose another folder, or give overwrite=True"
        )


def _write_peft(folder: Path, tensors: dict[str, Tensor], description: dict, task: str) -> None:
    import safetensors.torch

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    content = safetensors.torch.save(tensors, metadata={"format": "pt", _TASK: task})
    text = json.dumps(description, ensure_ascii=False, indent=2)
    write_files({folder / PEFT_TENSORS: content, folder / PEFT_CONFIG: text.encode()})


def sites_of_task(model: "HyperLoaderModel", task: str) -> dict[str, tuple[str, SiteTensors]]:
    """Path of every wrapped layer -> its site and what is generated for it."""
    weights = model.weights_of(task)
    return {path: (key[2], weights[key]) for path, key in model.site_paths.items()}
