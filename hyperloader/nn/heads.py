"""Token classification with one head per task."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class TaskHeads(nn.Module):
    """``dropout`` and one ``nn.Linear`` per task, from the hidden size to the task's labels.

    A mixed batch is one product with all heads, of which every sentence keeps the columns of its own task.
    """

    def __init__(self, hidden: int, labels: Mapping[str, Sequence[str]], dropout: float = 0.0):
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden, len(names)) for names in labels.values())
        for head in self.heads:
            _init_head(head)
        self.register_buffer("sizes", None, persistent=False)  # (tasks,)
        self.register_buffer("starts", None, persistent=False)
        self._count_labels()

    def new_head(self, size: int) -> nn.Linear:
        """A head of ``size`` labels like the others, to be given to ``append``."""
        last = self.heads[-1]
        head = nn.Linear(last.in_features, size)
        _init_head(head)
        return head.to(last.weight).requires_grad_(last.weight.requires_grad).train(last.training)

    def append(self, head: nn.Linear) -> None:
        """One more task, behind the others."""
        self.heads.append(head)
        self._count_labels()

    def _count_labels(self) -> None:
        device = self.heads[0].weight.device
        self.sizes = torch.tensor([head.out_features for head in self.heads], device=device)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self._widest = max(head.out_features for head in self.heads)

    def forward(self, hidden_states: Tensor, task_ids: int | Tensor, widest: bool = False) -> Tensor:
        """Logits of ``hidden_states`` (batch, tokens, hidden).

        Args:
            task_ids: the task of the whole batch, or of each sentence (batch,).
            widest: give as many columns for one task as for a mixed batch.

        Returns:
            (batch, tokens, labels of that task); for a mixed batch or ``widest`` (batch, tokens, most labels of any
            task), where the columns beyond a sentence's own labels are -inf.
        """
        hidden_states = self.dropout(hidden_states)
        if isinstance(task_ids, int):
            logits = self.heads[task_ids](hidden_states)
            missing = self._widest - logits.shape[-1] if widest else 0
            return functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits
        weight = torch.cat([head.weight for head in self.heads])
        bias = torch.cat([head.bias for head in self.heads])
        logits = functional.linear(hidden_states, weight, bias)  # (batch, tokens, labels of all tasks)
        columns = torch.arange(self._widest, device=logits.device)
        own = columns < self.sizes[task_ids][:, None]  # (batch, widest)
        index = (self.starts[task_ids][:, None] + columns).clamp(max=logits.shape[-1] - 1)
        chosen = logits.gather(-1, index[:, None].expand(-1, logits.shape[1], -1))
        return chosen.masked_fill(~own[:, None], -torch.inf)


def _init_head(head: nn.Linear) -> None:
    nn.init.normal_(head.weight, 0, 0.02)
    nn.init.zeros_(head.bias)


def head_dropout(sizes) -> float:
    """Dropout before the task heads: what the backbone's config says about classifiers, or about itself."""
    names = ("classifier_dropout", "hidden_dropout_prob", "dropout_rate", "dropout")
    return next((value for name in names if (value := getattr(sizes, name, None)) is not None), 0.0)


def task_heads(backbone: nn.Module, labels: Mapping[str, Sequence[str]]) -> TaskHeads:
    """Heads for an encoder; raises ``ValueError`` for a backbone that returns no hidden states."""
    sizes = backbone.config
    if getattr(backbone, "decoder", None) is not None or not hasattr(sizes, "hidden_size"):
        raise ValueError(
            f"labels must be None for {type(backbone).__name__}: token classification needs an encoder that returns "
            "hidden states, such as BertModel or T5EncoderModel"
        )
    return TaskHeads(sizes.hidden_size, labels, head_dropout(sizes))
