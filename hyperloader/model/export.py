"""One task of a model as a checkpoint of its own: ours, without hypernetworks, or PEFT's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hyperloader.backbones import origin
from hyperloader.backbones.cross_attention_bias import NAME, cross_attention_bias
from hyperloader.checkpoints import peft, stored_model
from hyperloader.config import LORA_SITES, HyperLoaderConfig
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.layout import Layout, SiteKey
from hyperloader.nn.stacked import Sites


@dataclass(frozen=True)
class ExportedTask:
    """One task of a model: what is generated for it, and its share of everything else.

    ``config`` and ``heads`` are those of this task alone; ``layouts``, ``site_paths`` and ``norm_names`` tell, as the
    model's do, what is generated for each layer stack, which layers are wrapped and which norms are trained.
    """

    config: HyperLoaderConfig
    weights: Sites
    heads: TaskHeads | None
    layouts: Mapping[str, Layout]
    site_paths: Mapping[str, SiteKey]
    backbone: nn.Module
    norm_names: Sequence[str]

    def save(self, folder: str | Path) -> None:
        """Write a checkpoint with a ``Table`` in the place of the hypernetworks."""
        tensors = {}
        for stack, layout in self.layouts.items():
            for kinds, shapes in layout.parts:
                sites = [self.weights[stack, layer, site] for layer, site in layout.sites_of(kinds)]
                for number, name in enumerate(shapes):  # as ``nn.table.Table`` holds it: (sites, 1 task, ...)
                    tensors[f"generators.{stack}.weights.{name}"] = torch.stack([one[number] for one in sites])[:, None]
        if self.heads is not None:
            tensors |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        bias = [] if cross_attention_bias(self.backbone) is None else [NAME]
        tensors |= {f"backbone.{name}": self.backbone.get_parameter(name) for name in (*self.norm_names, *bias)}
        stored_model.save(folder, tensors, self.config, self.backbone, self.norm_names)

    def save_peft(self, folder: str | Path, *, lora_only: bool, overwrite: bool) -> None:
        """Write the LoRA updates in PEFT's format, and nothing else only if ``lora_only``."""
        (task,) = self.config.tasks
        paths = {path: key for path, key in self.site_paths.items() if key[2] in LORA_SITES}
        others = self._not_in_peft(task)
        if not paths:
            raise ValueError(f"task {task!r} has no LoRA update to export: the model's lora_sites are empty")
        if others and not lora_only:
            raise ValueError(
                f"PEFT's LoRA cannot hold all of task {task!r}: {'; '.join(others)}. Export the LoRA updates alone "
                "with lora_only=True, or everything in our own format with export_task"
            )
        layers, name = {path: self.weights[key] for path, key in paths.items()}, origin.name_of(self.backbone)
        peft.write(Path(folder), layers, self.config.rank, self.config.lora_alpha, name, task, overwrite)

    def _not_in_peft(self, task: str) -> list[str]:
        """What of the task is no LoRA update, for the message."""
        adapters = [path for path, key in self.site_paths.items() if key[2] not in LORA_SITES]
        found = [f"adapters at {', '.join(adapters)}"] if adapters else []
        if self.norm_names:
            found.append(f"trained norms {', '.join(self.norm_names)}")
        if self.heads is not None:
            found.append(f"the token-classification head of {task!r}")
        if cross_attention_bias(self.backbone) is not None:
            found.append(f"the backbone's {NAME}")
        return found
