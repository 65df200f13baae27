"""Token classification with one head per task."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.nn.loss import IGNORED, check_shape, sequence_loss
from hyperloader.nn.modes import values_on_host
from hyperloader.ops import _transforms
from hyperloader.validation import shown


class TaskHeads(nn.Module):
    """``dropout`` and one ``nn.Linear`` per task, from the hidden size to the task's labels.

    A mixed batch is one product with all heads, of which every sentence keeps the columns of its own task, or a product
    for each sentence where that is less.
    """

    heads: Any  # nn.ModuleList of nn.Linear, one a task
    sizes: Tensor  # (tasks,) int64, labels of each
    starts: Tensor  # (tasks,) int64, where those of each begin among all

    def __init__(self, hidden: int, labels: Mapping[str, Sequence[str]], dropout: float = 0.0) -> None:
        super().__init__()
        self.dropout = nn.Dropout(dropout)
        self.heads = nn.ModuleList(nn.Linear(hidden, len(names)) for names in labels.values())
        for head in self.heads:
            _init_head(head)
        self.register_buffer("sizes", None, persistent=False)
        self.register_buffer("starts", None, persistent=False)
        self._count_labels()

    def new_head(self, size: int) -> nn.Linear:
        """A head of ``size`` labels like the others, to be given to ``append``."""
        last = self.heads[-1]
        head = nn.Linear(last.in_features, size)
        _init_head(head)
        return head.to(last.weight).requires_grad_(last.weight.requires_grad).train(last.training)

    @torch.no_grad()
    def begin_at(self, counts: Sequence[Tensor | Sequence[int] | None]) -> None:
        """Set every head's bias to log((n + 1) / (N + L)), with which it begins at the shares that its labels have.

        A head that begins with equal shares spends its first updates on the most frequent label, with gradients that
        are all alike: what they do to the rest of the model, at Adam's full steps, it may never recover from where
        nearly every label is ``O``.

        Args:
            counts: for each head (L,), how often each of its L labels is met, N in all; None for a head that stays.

        Raises:
            ValueError: not as many as heads, or as a head has labels; a number below 0. No head is changed then.
        """
        if len(counts) != len(self.heads):
            raise ValueError(f"counts must be one for each of {len(self.heads)} heads, got {len(counts)}")
        found: list[Tensor | None] = []
        for task, (head, of_labels) in enumerate(zip(self.heads, counts, strict=True)):
            numbers = None if of_labels is None else torch.as_tensor(of_labels, dtype=torch.float64)
            if numbers is not None and (numbers.shape != (head.out_features,) or not (numbers >= 0).all()):
                raise ValueError(
                    f"counts[{task}] must be {head.out_features} numbers from 0 on, got {shown(of_labels)}"
                )
            found.append(numbers)
        for head, numbers in zip(self.heads, found, strict=True):
            if numbers is not None:
                head.bias.copy_(((numbers + 1) / (numbers.sum() + len(numbers))).log())

    def append(self, head: nn.Linear) -> None:
        """One more task, behind the others."""
        self.heads.append(head)
        self._count_labels()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._count_labels()  # they are in no state: memory from the device meta would stay unfilled
        return self

    def _count_labels(self) -> None:
        device = self.heads[0].weight.device
        self.sizes = torch.tensor([head.out_features for head in self.heads], device=device)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self._most_labels = max(head.out_features for head in self.heads)

    def of(self, task: int) -> "TaskHeads":
        """A copy with the head of one task alone."""
        alone = copy.deepcopy(self)
        alone.heads = nn.ModuleList([alone.heads[task]])
        alone._count_labels()
        return alone

    def forward(self, hidden_states: Tensor, task_ids: int | Tensor, all_columns: bool = False) -> Tensor:
        """Logits of ``hidden_states`` (batch, tokens, hidden).

        Every head that is trained takes part: those of other tasks get a gradient of zero, in a batch of one task as
        in a mixed one, so that processes may have batches of different tasks.

        Args:
            task_ids: the task of the whole batch as a number or a tensor (), or that of each sentence (batch,).
            all_columns: give as many columns for one task as for a mixed batch.

        Returns:
            (batch, tokens, labels of that task); for a tensor or ``all_columns`` (batch, tokens, most labels of any
            task), where the columns beyond a sentence's own labels are -inf.
        """
        hidden_states = self.dropout(hidden_states).to(self.heads[0].weight.dtype)  # that of a half backbone, float32
        if isinstance(task_ids, int):
            own = self.heads[task_ids]
            logits = own(self._with_others(hidden_states, own))
            missing = self._most_labels - logits.shape[-1] if all_columns else 0
            return functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits
        weight = torch.cat([head.weight for head in self.heads])
        bias = torch.cat([head.bias for head in self.heads])
        task_ids = task_ids.reshape(-1)  # (batch,) or (1,)
        columns = torch.arange(self._most_labels, device=weight.device)
        own = columns < self.sizes[task_ids][:, None]  # (batch, most labels)
        index = (self.starts[task_ids][:, None] + columns).clamp(max=weight.shape[0] - 1)
        if index.numel() < weight.shape[0]:  # heads of its own for each sentence
            weight, bias = functional.embedding(index, weight), functional.embedding(index, bias[:, None])
            if len(task_ids) == 1:
                logits = functional.linear(hidden_states, weight[0], bias[0, :, 0])
            else:
                logits = torch.baddbmm(bias.transpose(1, 2), hidden_states, weight.transpose(1, 2))
        else:
            logits = functional.linear(hidden_states, weight, bias)  # (batch, tokens, labels of all tasks)
            shape = (logits.shape[0], logits.shape[1], -1)
            logits = logits.gather(-1, index[:, None].expand(shape))
        return logits.masked_fill(~own[:, None], -torch.inf)

    def _with_others(self, hidden_states: Tensor, own: nn.Linear) -> Tensor:
        if not torch.is_grad_enabled() or _transforms.active():  # torch.func takes no such function, nor needs it
            return hidden_states
        others = [parameter for head in self.heads if head is not own for parameter in (head.weight, head.bias)]
        others = [parameter for parameter in others if parameter.requires_grad]
        return _WithOthers.apply(hidden_states, *others) if others else hidden_states


class _WithOthers(torch.autograd.Function):
    """The identity of ``tensor``, with a gradient of zero for ``others``."""

    @staticmethod
    def forward(ctx: Any, tensor: Tensor, *others: Tensor) -> Tensor:
        ctx.like = [(other.shape, other.numel()) for other in others]
        ctx.options = {"dtype": others[0].dtype, "device": others[0].device}
        return tensor.view_as(tensor)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:
        zeros = torch.zeros(sum(count for _, count in ctx.like), **ctx.options)  # one, not one for each
        parts = zeros.split([count for _, count in ctx.like])
        return grad, *(part.view(shape) for part, (shape, _) in zip(parts, ctx.like, strict=True))


def _init_head(head: nn.Linear) -> None:
    nn.init.normal_(head.weight, 0, 0.02)
    nn.init.zeros_(head.bias)


def head_dropout(sizes: Any) -> float:
    """Dropout before the task heads: what the backbone's config says about classifiers, or about itself."""
    names = ("classifier_dropout", "classifier_dropout_prob", "hidden_dropout_prob", "dropout_rate", "dropout")
    return next((value for name in names if (value := getattr(sizes, name, None)) is not None), 0.0)


def task_heads(backbone: Any, labels: Mapping[str, Sequence[str]]) -> TaskHeads:
    """Heads for an encoder; raises ``ValueError`` for a backbone that returns no hidden states."""
    sizes = backbone.config
    base = getattr(backbone, "base_model", backbone)
    if getattr(base, "decoder", None) is not None or not hasattr(sizes, "hidden_size"):
        raise ValueError(
            f"labels must be None for {type(backbone).__name__}: token classification needs an encoder that returns "
            "hidden states, such as BertModel or T5EncoderModel"
        )
    return TaskHeads(sizes.hidden_size, labels, head_dropout(sizes))


def classify(heads: TaskHeads, outputs: Any, labels: Tensor | None, tasks: int | Tensor, all_columns: bool) -> Any:
    """Logits of a backbone's ``outputs`` and, with ``labels`` (batch, tokens), their mean cross entropy.

    Returns:
        A ``TokenClassifierOutput``, with the backbone's hidden states and attentions where it was asked for them; its
        loss is 0 where nothing is labelled.

    Raises:
        ValueError: outputs as a tuple; labels of another shape, or beyond those of the sentence's task.
        TypeError: labels of another type.
    """
    from transformers.modeling_outputs import TokenClassifierOutput

    if isinstance(outputs, tuple):
        raise ValueError("return_dict must be True for a model with task heads, got False")
    logits = heads(outputs.last_hidden_state, tasks, all_columns)
    loss = None
    if labels is not None:
        if not isinstance(labels, Tensor) or labels.dtype != torch.int64:
            raise TypeError(f"labels must be an int64 tensor of shape (batch, tokens), got {kind_of(labels)}")
        check_shape(labels, logits)
        if values_on_host(labels):
            _check_labels(labels, heads.sizes[tasks])
        loss = sequence_loss(logits, labels)
    asked_for = {name: outputs.get(name) for name in ("hidden_states", "attentions")}
    return TokenClassifierOutput(loss=loss, logits=logits, **asked_for)


def kind_of(value: object) -> str:
    """``value`` for a message that wants a tensor: its dtype and shape."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)


def _check_labels(labels: Tensor, sizes: Tensor) -> None:
    wrong = (labels >= sizes.view(-1, 1)) | ((labels < 0) & (labels != IGNORED))
    if wrong.any():
        raise ValueError(
            f"labels must be below the number of the task's labels or {IGNORED}, got {int(labels[wrong][0])}"
        )
