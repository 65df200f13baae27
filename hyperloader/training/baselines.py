"""The models HyperLoader is compared with, in the shape its trainer expects."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import TokenClassifierOutput

from hyperloader.backbones import checkpointing
from hyperloader.nn.classify import classify
from hyperloader.nn.heads import TaskHeads
from hyperloader.training.weights import save_trained


class Baseline(nn.Module):
    """A backbone of transformers, or a PEFT model around one."""

    backbone: Any

    def __init__(self, backbone: nn.Module) -> None:
        super().__init__()
        self.backbone = backbone

    def gradient_checkpointing_enable(self) -> None:
        """Recompute the backbone's activations in the backward pass."""
        checkpointing(self.backbone, "enable")({"use_reentrant": False})

    def save_pretrained(self, folder: Path, is_main_process: bool = True) -> None:
        """Write what is trained."""
        save_trained(self, Path(folder), is_main_process)


class TokenClassifier(Baseline):
    """An encoder with one head per task.

    Args:
        backbone: an encoder of transformers, or a PEFT model around one.
        labels: labels of every task, in the order of the task ids.
        hidden: width of the encoder's hidden states.
        dropout: before the heads.
        kinds: as in ``HyperLoaderConfig``.
    """

    def __init__(
        self,
        backbone: nn.Module,
        labels: dict[str, list[str]],
        hidden: int,
        dropout: float = 0.0,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(backbone)
        self.heads = TaskHeads(hidden, labels, dropout, kinds)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
        targets: Tensor | None = None,
        **backbone_arguments: Tensor,
    ) -> TokenClassifierOutput:
        """Logits (batch, tokens, labels) and, given ``labels`` (batch, tokens), the loss: see ``classify``."""
        outputs = self.backbone(input_ids=input_ids, attention_mask=attention_mask, **backbone_arguments)
        tasks = cast(Tensor, task_ids)
        return classify(self.heads, outputs, labels, tasks, False, attention_mask=attention_mask, targets=targets)


class TextWriter(Baseline):
    """A backbone that writes text as it is: the text alone tells the task, ``task_ids`` are ignored."""

    def forward(
        self,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
        **backbone_arguments: Any,
    ) -> Any:
        """The backbone's output; its loss is the mean over the labels that are not -100."""
        inputs = {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels, **backbone_arguments}
        return self.backbone(**inputs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        task_ids: Tensor | None = None,
        **generate_arguments: Any,
    ) -> Tensor:
        """The backbone's ``generate``."""
        return self.backbone.generate(input_ids=input_ids, attention_mask=attention_mask, **generate_arguments)
