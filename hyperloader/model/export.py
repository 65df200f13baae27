"""One task of a model as a checkpoint of its own: ours, without hypernetworks, or PEFT's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from hyperloader.backbones import origin
from hyperloader.backbones.cross_attention_bias import NAME, cross_attention_bias
from hyperloader.checkpoints import peft, stored_model
from hyperloader.checkpoints.card import card_of_model
from hyperloader.config import HyperLoaderConfig
from hyperloader.nn.fused_projection import joined
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.layout import LayerSites, Layout
from hyperloader.nn.linears import sizes_of
from hyperloader.nn.sites import unwrapped
from hyperloader.nn.stacked import Sites
from hyperloader.validation import A_FEW, listed


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
    site_paths: Mapping[str, LayerSites]
    backbone: nn.Module
    norm_names: Sequence[str]

    def save(self, folder: str | Path, is_main_process: bool = True) -> None:
        """Write a checkpoint with a ``Table`` in the place of the hypernetworks."""
        tensors = {}
        for stack, layout in self.layouts.items():
            for part in layout.parts:
                sites = [self.weights[stack, layer, site] for layer, site in layout.sites_of(part)]
                for number, name in enumerate(part.heads.values()):  # as ``Table`` holds it: (sites, 1 task, ...)
                    tensors[f"generators.{stack}.weights.{name}"] = torch.stack([one[number] for one in sites])[:, None]
        if self.heads is not None:
            tensors |= {f"heads.{name}": tensor for name, tensor in self.heads.state_dict().items()}
        bias = [] if cross_attention_bias(self.backbone) is None else [NAME]
        tensors |= {f"backbone.{name}": self.backbone.get_parameter(name) for name in (*self.norm_names, *bias)}
        count = sum(tensor.numel() for tensor in tensors.values())
        about = f"One task's weights, {count:,} numbers, for a frozen {{backbone}}: generated as in"
        card = card_of_model(self.config, self.backbone, about)
        stored_model.save(folder, tensors, self.config, self.backbone, self.norm_names, card, is_main_process)

    def save_peft(self, folder: str | Path, *, lora_only: bool, overwrite: bool) -> None:
        """Write the LoRA updates in PEFT's format, and nothing else only if ``lora_only``."""
        (task,) = self.config.tasks
        paths = {path: sites.lora for path, sites in self.site_paths.items() if sites.lora}
        others = self._not_in_peft(task)
        if not paths:
            raise ValueError(f"task {task!r} has no LoRA update to export: the model's lora_sites are empty")
        if others and not lora_only:
            raise ValueError(
                f"PEFT's LoRA cannot hold all of task {task!r}: {'; '.join(others)}. Export the LoRA updates alone "
                "with lora_only=True (--lora-only), or everything in our own format with export_task (--format ours)"
            )
        linears = {path: unwrapped(self.backbone.get_submodule(path)) for path in paths}
        layers = {
            path: joined([(self.weights[key], of) for key, of in rows.items()], sizes_of(linears[path])[1])
            for path, rows in paths.items()
        }
        transposed = not all(isinstance(linear, nn.Linear) for linear in linears.values())
        config, name = self.config, origin.name_of(self.backbone)
        peft.write(Path(folder), layers, config.rank, config.lora_alpha, transposed, name, task, overwrite)

    def _not_in_peft(self, task: str) -> list[str]:
        """What of the task is no LoRA update, for the message."""
        adapters = [path for path, sites in self.site_paths.items() if sites.adapter is not None]
        found = [f"adapters at {listed(adapters, 'layers', few=A_FEW)}"] if adapters else []
        if self.norm_names:
            found.append(f"trained norms: {listed(self.norm_names, 'parameters', few=A_FEW)}")
        if self.heads is not None:
            found.append(f"the token-classification head of {task!r}")
        if cross_attention_bias(self.backbone) is not None:
            found.append(f"the backbone's {NAME}")
        return found
