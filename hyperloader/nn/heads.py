"""One head per task: a label for every token, or an answer to the whole sentence."""

import copy
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.config import KINDS, MULTI_LABEL, REGRESSION, TAGGING
from hyperloader.nn.head import Head
from hyperloader.nn.long_list import LongList
from hyperloader.nn.sharded import check_whole, is_sharded
from hyperloader.nn.with_others import WithOthers
from hyperloader.ops import _transforms
from hyperloader.ops._modes import serves_any, values_on_host
from hyperloader.validation import shown


class TaskHeads(nn.Module):
    """``dropout`` and one ``nn.Linear`` per task, from the hidden size to the task's labels.

    A mixed batch is one product with all heads, of which every sentence keeps the columns of its own task, or a product
    for each sentence where that is less; outside of training it reads the heads of its own tasks alone where the host
    knows them. The head of a task of whole sentences, by ``kinds`` any but ``tagging``, reads the mean over the
    sentence's real tokens, and gives the same logits at every token.
    """

    heads: Any  # LongList of nn.Linear, one a task
    sizes: Tensor  # (tasks,) int64, labels of each
    starts: Tensor  # (tasks,) int64, where those of each begin among all
    kind_numbers: Tensor  # (tasks,) int64, place of each one's kind in ``KINDS``
    _most_labels: int  # of any task
    _all_labels: int  # of all together
    of_sentences: bool  # whether any task is one of whole sentences

    def __init__(
        self,
        hidden: int,
        labels: Mapping[str, Sequence[str]],
        dropout: float = 0.0,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__()
        self.kinds = [(kinds or {}).get(task, TAGGING) for task in labels]
        self.dropout = nn.Dropout(dropout)
        self.heads = LongList(Head(hidden, len(names)) for names in labels.values())
        for head in self.heads:
            head.init()
        for name in ("sizes", "starts", "kind_numbers"):
            self.register_buffer(name, None, persistent=False)
        self._count_labels()

    @property
    def most_numbers(self) -> int:
        """Most targets of a sentence: one of a regression, of a multi-label task one a label; 0 without such a task."""
        sizes = zip(self.kinds, self._sizes(), strict=True)
        return max(size if kind in (MULTI_LABEL, REGRESSION) else 0 for kind, size in sizes)

    def new_head(self, size: int) -> nn.Linear:
        """A head of ``size`` labels like the others, to be given to ``append``."""
        head = Head(self.weight.shape[1], size)
        head.init()
        return head.to(self.weight).requires_grad_(self.weight.requires_grad).train(self.training)

    @torch.no_grad()
    def begin_at(self, counts: Sequence[Tensor | Sequence[int] | None]) -> None:
        """Set every head's bias to log((n + 1) / (N + L)), with which it begins at the shares that its labels have.

        That of a multi-label task to log((n + 1) / (m + 1)), for each label by itself.

        A head that begins with equal shares spends its first updates on the most frequent label, with gradients that
        are all alike: what they do to the rest of the model, at Adam's full steps, it may never recover from where
        nearly every label is ``O``.

        Args:
            counts: for each head (L,), how often each of its L labels is met, N in all, of a multi-label task (2, L),
                how many sentences have it (n) and have it not (m); None for a head that stays, as a regression does.

        Raises:
            ValueError: not as many as heads, or as a head has labels; a number below 0. No head is changed then.
        """
        if len(counts) != len(self.kinds):
            raise ValueError(f"counts must be one for each of {len(self.kinds)} heads, got {len(counts)}")
        found: list[Tensor | None] = []
        for task, of_labels in enumerate(counts):
            numbers = None if of_labels is None else torch.as_tensor(of_labels, dtype=torch.float64)
            several, size = (2,) if self.kinds[task] == MULTI_LABEL else (), self.size_of(task)
            if numbers is not None and (numbers.shape != (*several, size) or not (numbers >= 0).all()):
                raise ValueError(f"counts[{task}] must be {size} numbers from 0 on, got {shown(of_labels)}")
            found.append(numbers)
        for task, numbers in enumerate(found):
            if numbers is not None:
                ones = numbers + 1
                shares = ones[0] / ones[1] if ones.ndim == 2 else ones / (numbers.sum() + len(ones))
                self.own_rows(task)[1].copy_(shares.log())

    @property
    def weight(self) -> Tensor:
        """That of a head, for what it has in common with the others: its width, dtype and device."""
        return self.heads[0].weight

    def size_of(self, task: int) -> int:
        """Labels of one task."""
        return self.heads[task].out_features

    def own_rows(self, task: int) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) of one task, as they are kept."""
        return self.heads[task].weight, self.heads[task].bias

    def train_only(self, task: int) -> None:
        """Train one head of those that are frozen."""
        self.heads[task].requires_grad_(True)

    def train_all(self) -> None:
        """End ``train_only``."""

    def append(self, head: nn.Linear, kind: str = TAGGING) -> None:
        """One more task, behind the others."""
        self.heads.append(head)
        self._count_one_more(head, kind)

    def _count_one_more(self, head: nn.Linear, kind: str) -> None:
        self.kinds = [*self.kinds, kind]
        # Not counted from the first on: that would take longer with every task that is added.
        self.starts = torch.cat([self.starts, self.starts[-1:] + self.sizes[-1:]])
        self.sizes = torch.cat([self.sizes, self.sizes.new_tensor([head.out_features])])
        self.kind_numbers = torch.cat([self.kind_numbers, self.kind_numbers.new_tensor([KINDS.index(kind)])])
        self._most_labels = max(self._most_labels, head.out_features)
        self._all_labels += head.out_features
        self.of_sentences |= kind != TAGGING

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._count_labels()  # they are in no state: memory from the device meta would stay unfilled
        return self

    def _count_labels(self) -> None:
        device, sizes = self.weight.device, self._sizes()
        self.sizes = torch.tensor(sizes, device=device)
        self.starts = self.sizes.cumsum(0) - self.sizes
        self.kind_numbers = torch.tensor([KINDS.index(kind) for kind in self.kinds], device=device)
        self._most_labels, self._all_labels = max(sizes), sum(sizes)
        self.of_sentences = any(kind != TAGGING for kind in self.kinds)

    def _sizes(self) -> list[int]:
        return [head.out_features for head in self.heads]

    def rows_of(self, task: int) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) of one task."""
        rows = self.own_rows(task)
        check_whole(rows)
        return rows

    def stacked_rows(self, tasks: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``tasks``, None for all, one below the other."""
        heads = self.heads if tasks is None else [self.heads[task] for task in tasks]
        if is_sharded(self):
            check_whole(head.weight for head in heads)
        return torch.cat([head.weight for head in heads]), torch.cat([head.bias for head in heads])

    def of(self, task: int) -> "TaskHeads":
        """A copy with the head of one task alone."""
        head, kind = copy.deepcopy(self.heads[task]), self.kinds[task]
        alone = copy.deepcopy(self, {id(self.heads): LongList([head]), id(self.kinds): [kind]})
        alone._count_labels()
        return alone

    def forward(
        self,
        hidden_states: Tensor,
        task_ids: int | Tensor,
        all_columns: bool = False,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """Logits of ``hidden_states`` (batch, tokens, hidden).

        Every head that is trained takes part: those of other tasks get a gradient of zero, in a batch of one task as
        in a mixed one, so that processes may have batches of different tasks.

        Args:
            task_ids: the task of the whole batch as a number or a tensor (), or that of each sentence (batch,).
            all_columns: give as many columns for one task as for a mixed batch.
            attention_mask: (batch, tokens), 0 at padding, for tasks of whole sentences; None where there is none.

        Returns:
            (batch, tokens, labels of that task); for a tensor or ``all_columns`` (batch, tokens, most labels of any
            task), where the columns beyond a sentence's own labels are -inf.
        """
        if self.of_sentences and not (isinstance(task_ids, int) and self.kinds[task_ids] == TAGGING):
            hidden_states = self._with_means(hidden_states, task_ids, attention_mask)
        hidden_states = self.dropout(hidden_states).to(self.weight.dtype)  # that of a half backbone, float32
        if isinstance(task_ids, int):
            hidden_states = self._with_others(hidden_states, task_ids)
            logits = functional.linear(hidden_states, *self.rows_of(task_ids))
            missing = self._most_labels - logits.shape[-1] if all_columns else 0
            return functional.pad(logits, (0, missing), value=-torch.inf) if missing else logits
        task_ids = task_ids.reshape(-1)  # (batch,) or (1,)
        columns = torch.arange(self._most_labels, device=self.sizes.device)
        own = columns < self.sizes[task_ids][:, None]  # (batch, most labels)
        return self._logits(hidden_states, task_ids, columns, own).masked_fill(~own[:, None], -torch.inf)

    def _logits(self, hidden_states: Tensor, task_ids: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        """(batch, tokens, columns), of any value where a sentence's ``own`` (batch, columns) are not."""
        any_batch = serves_any(own.shape[0])
        # In a graph asked as for the generated weights, so that it depends on one bound of the batch.
        compiling = torch.compiler.is_compiling()
        few = own.shape[0] < len(self.heads) if compiling else own.numel() < self._all_labels
        alone = any_batch or few  # heads of its own for each sentence
        tasks, starts = self._of_batch(task_ids) if alone else (None, self.starts[task_ids])
        weight, bias = self.stacked_rows(tasks)
        index = (starts[:, None] + columns).clamp(max=weight.shape[0] - 1)
        if alone:
            weight, bias = functional.embedding(index, weight), functional.embedding(index, bias[:, None])
            if not any_batch and len(task_ids) == 1:
                return functional.linear(hidden_states, weight[0], bias[0, :, 0])
            return torch.baddbmm(bias.transpose(1, 2), hidden_states, weight.transpose(1, 2))
        logits = functional.linear(hidden_states, weight, bias)  # (batch, tokens, labels of all tasks)
        return logits.gather(-1, index[:, None].expand(logits.shape[0], logits.shape[1], -1))

    def _with_means(self, hidden_states: Tensor, task_ids: int | Tensor, attention_mask: Tensor | None) -> Tensor:
        """The mean over the real tokens in the place of each token, in the sentences of tasks of whole sentences."""
        hidden_states = hidden_states.to(self.weight.dtype)
        if attention_mask is None:
            mean = hidden_states.mean(1, keepdim=True)
        elif attention_mask.shape != hidden_states.shape[:2]:
            raise ValueError(
                f"attention_mask must have shape {tuple(hidden_states.shape[:2])} for tasks of whole sentences, got "
                f"{tuple(attention_mask.shape)}"
            )
        else:
            real = attention_mask != 0
            total = hidden_states.masked_fill(~real[..., None], 0).sum(1, keepdim=True)
            mean = total / real.sum(1).clamp_min(1)[:, None, None]
        if isinstance(task_ids, int):
            return mean.expand_as(hidden_states)
        of_sentences = self.kind_numbers[task_ids.reshape(-1)] > 0  # by a tensor () it would be a constant of the graph
        return torch.where(of_sentences.view(-1, 1, 1), mean, hidden_states)

    def _of_batch(self, task_ids: Tensor) -> tuple[list[int] | None, Tensor]:
        """The distinct tasks of a batch, and (batch,) where the labels of each sentence's own begin among theirs.

        None for all tasks: in training, where each has a gradient, and where the host does not know those of the batch.
        """
        known = values_on_host(task_ids) and not _transforms.active() and not torch.jit.is_tracing()
        if torch.is_grad_enabled() or not known or not task_ids.numel():
            return None, self.starts[task_ids]
        tasks, place = task_ids.unique(return_inverse=True)
        sizes = self.sizes[tasks]
        return tasks.tolist(), (sizes.cumsum(0) - sizes)[place]

    def _with_others(self, hidden_states: Tensor, task: int) -> Tensor:
        if not torch.is_grad_enabled() or _transforms.active():  # torch.func takes no such function, nor needs it
            return hidden_states
        own = self.heads[task]
        others = [parameter for head in self.heads if head is not own for parameter in (head.weight, head.bias)]
        others = [parameter for parameter in others if parameter.requires_grad]
        return WithOthers.apply(hidden_states, *others) if others else hidden_states


def head_dropout(sizes: Any) -> float:
    """Dropout before the task heads: what the backbone's config says about classifiers, or about itself."""
    names = ("classifier_dropout", "classifier_dropout_prob", "hidden_dropout_prob", "dropout_rate", "dropout")
    return next((value for name in names if (value := getattr(sizes, name, None)) is not None), 0.0)


def hidden_size(backbone: Any) -> int:
    """Of the states that heads read; raises ``ValueError`` for a backbone that returns none."""
    base = getattr(backbone, "base_model", backbone)
    if getattr(base, "decoder", None) is not None or not hasattr(backbone.config, "hidden_size"):
        raise ValueError(
            f"labels must be None for {type(backbone).__name__}: token classification needs an encoder that returns "
            "hidden states, such as BertModel or T5EncoderModel"
        )
    return backbone.config.hidden_size


def task_heads(
    backbone: Any,
    labels: Mapping[str, Sequence[str]],
    kinds: Mapping[str, str] | None = None,
    kind_of_heads: type[TaskHeads] = TaskHeads,
) -> TaskHeads:
    """Heads for an encoder; raises ``ValueError`` for a backbone that returns no hidden states."""
    return kind_of_heads(hidden_size(backbone), labels, head_dropout(backbone.config), kinds)


def kind_of(value: object) -> str:
    """``value`` for a message that wants a tensor: its dtype and shape."""
    return f"{value.dtype} {tuple(value.shape)}" if isinstance(value, Tensor) else shown(value)
