"""One task of a model as a checkpoint of its own: ours, without hypernetworks, or PEFT's."""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperloader.backbones import origin
from hyperloader.backbones.cross_attention_bias import NAME, cross_attention_bias
from hyperloader.checkpoints import peft, stored_model
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.nn.layout import Layout, SiteTensors

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel


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
    layers, name = {path: task_weights[key] for path, key in paths.items()}, origin.name_of(model.backbone)
    peft.write(Path(folder), layers, config.rank, config.lora_alpha, name, task, overwrite)


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


def sites_of_task(model: "HyperLoaderModel", task: str) -> dict[str, tuple[str, SiteTensors]]:
    """Path of every wrapped layer -> its site and what is generated for it."""
    weights = model.weights_of(task)
    return {path: (key[2], weights[key]) for path, key in model.site_paths.items()}
