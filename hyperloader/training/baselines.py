"""The models HyperLoader is compared with, in the shape its trainer expects."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers.modeling_outputs import Seq2SeqLMOutput, TokenClassifierOutput

from hyperloader.backbones import checkpointing
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.loss import sequence_loss
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

    def save_pretrained(self, folder: Path) -> None:
        """Write what is trained."""
        save_trained(self, Path(folder))


class TokenClassifier(Baseline):
    """An encoder with one classification head per task.

    Args:
        backbone: an encoder of transformers, or a PEFT model around one.
        labels: BIO labels of every task, in the order of the task ids.
        hidden: width of the encoder's hidden states.
        dropout: before the heads.
    """

    def __init__(self, backbone: nn.Module, labels: dict[str, list[str]], hidden: int, dropout: float = 0.0) -> None:
        super().__init__(backbone)
        self.heads = TaskHeads(hidden, labels, dropout)

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
    ) -> TokenClassifierOutput:
        """Logits (batch, tokens, labels) and, given ``labels`` (batch, tokens), the mean loss over those not -100."""
        hidden_states = self.backbone(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
        logits = self.heads(hidden_states, task_ids)
        loss = None if labels is None else sequence_loss(logits, labels)
        return TokenClassifierOutput(loss=loss, logits=logits)


class SequenceToSequence(Baseline):
    """A sequence-to-sequence backbone as it is: the text alone tells the task, ``task_ids`` are ignored."""

    def forward(
        self,
        input_ids: Tensor,
        attention_mask: Tensor | None = None,
        labels: Tensor | None = None,
        task_ids: Tensor | None = None,
    ) -> Seq2SeqLMOutput:
        """The backbone's output; its loss is the mean over the labels that are not -100."""
        return self.backbone(input_ids=input_ids, attention_mask=attention_mask, labels=labels)

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
