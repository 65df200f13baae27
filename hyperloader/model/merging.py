"""Merging one task into the backbone, undoing it, and letting go of the backbone: methods of HyperLoaderModel."""

from contextlib import nullcontext
from typing import TYPE_CHECKING

import torch
from torch import nn

from hyperloader.model import export, task_model
from hyperloader.model.attachment import replace
from hyperloader.model.task_model import TaskModel

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel


@torch.inference_mode(False)  # what is merged may be trained, cast and saved later
@torch.no_grad()
def merge(self: "HyperLoaderModel", task: str, *, inplace: bool = False) -> TaskModel:
    """Fold the LoRA updates of ``task`` into the projections and give the adapters their generated weights.

    Args:
        task: name of a task.
        inplace: put the merged layers into this model's own backbone, which serves no other task until
            ``unmerge()``; else into a copy of it. The backbone's norms are one and the same then: training them in the
            merged model changes them for every task. Forwards that are running in other threads end first; those
            that begin later are refused.

    Returns:
        A plain module without hypernetworks, in the mode that the backbone is in; it is called, saved and loaded on
        its own.

    Raises:
        ValueError: an unknown task. RuntimeError: the model is being trained, or merged already.
    """
    with self._forwards.changing("merge()") if inplace else nullcontext():
        sites = export.sites_of_task(self, task)
        config = export.config_of_task(self.hyperloader_config, task)
        heads = None if self.heads is None else self.heads.of(self.hyperloader_config.task_id(task))
        merged, wrapped = task_model.merge(self.backbone, sites, config, heads, inplace)
        if inplace:
            self._merged = (task, wrapped)
            merged._forwards = self._forwards
    return merged


@torch.inference_mode(False)
def unmerge(self: "HyperLoaderModel") -> None:
    """Undo ``merge(..., inplace=True)``, to the bit; raises ``RuntimeError`` if nothing is merged.

    If the backbone was moved or cast meanwhile, so are the layers that come back.
    """
    with self._forwards.changing("unmerge()"):
        if self._merged is None:
            raise RuntimeError("nothing is merged into this model's backbone")
        for path, site in self._merged[1].items():
            now = self.backbone.get_submodule(path).weight
            replace(self.backbone, path, site.to(now.device, now.dtype).train(self.backbone.training))
        self._merged = None


def detach(self: "HyperLoaderModel") -> nn.Module:
    """Take everything off the backbone again and return it, bit for bit as it was; this model is then empty."""
    with self._forwards.changing("detach()"):
        self._check_attached()
        given = self.backbone if self._compiled is None else self._compiled
        self._attachment.undo(self.backbone)
        self.bank.clear()
        for name in list(self._modules):
            delattr(self, name)
    return given


def refuse(model: "HyperLoaderModel", *_) -> None:
    """Raise ``RuntimeError`` if a task is merged into the backbone of ``model``, which is then not all there."""
    if model._merged is not None:
        raise RuntimeError(f"{model._merged[0]!r} is merged into this model's backbone: call unmerge() first")
