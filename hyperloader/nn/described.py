"""Tasks in words: what a task has of its own plus a trained map of a frozen embedding of its words."""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.config import TAGGING
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.task_embedding import TaskEmbedding


class TextMap(nn.Linear):
    """``weight · x / (width · √(2/π))`` of the embedding ``x`` (..., width) of a text, behind a layer norm without
    weights: what is computed moves by the learning rate a step, as a parameter does (``init="scaled"`` of
    ``Hypernetwork``)."""

    def __init__(self, width: int, size: int, deviation: float) -> None:
        super().__init__(width, size, bias=False)
        self.scale = 1 / (width * math.sqrt(2 / math.pi))
        nn.init.normal_(self.weight, 0, deviation / (self.scale * math.sqrt(width)))

    def forward(self, texts: Tensor) -> Tensor:
        """(..., size) in the dtype of ``weight``."""
        texts = functional.layer_norm(texts.to(self.weight.dtype), texts.shape[-1:])
        return functional.linear(texts * self.scale, self.weight)


class Described:
    """Mixed into what holds ``texts`` (n, width), frozen embeddings, and the ``words`` that map them."""

    texts: Tensor
    words: TextMap


def text_buffers(model: nn.Module) -> dict[str, Tensor]:
    """The embeddings of texts that ``model``, or a part of it, holds, by name: frozen, but a part of its state."""
    return {f"{name}.texts": module.texts for name, module in model.named_modules() if isinstance(module, Described)}


def kept(count: int, row_dropout: float, like: Tensor) -> Tensor:
    """(count, 1) of 1, or 0 with probability ``row_dropout``: a row that is multiplied by 0 has a gradient of zero,
    so that every process trains all parameters at every step."""
    return (torch.rand(count, 1, device=like.device) >= row_dropout).to(like.dtype)


class DescribedEmbedding(TaskEmbedding, Described):
    """``row[task] + P · text(task)``; rows start at zero, and P draws what has a deviation of 1.

    In training, as long as P is trained, the row is 0 in a share ``row_dropout`` of the steps, and the text is one of
    the task's phrasings, all drawn for each task by PyTorch's generator; otherwise it is the first.

    Args:
        phrasings: how many each task has.
        size: task_embedding_dim.
        width: of the texts' embeddings, which ``texts`` (all phrasings, width) has to be filled with.
    """

    starts: Tensor  # (tasks,) int64, where the phrasings of each begin
    counts: Tensor  # (tasks,) int64

    def __init__(self, phrasings: Sequence[int], size: int, width: int, row_dropout: float) -> None:
        super().__init__(len(phrasings), size)
        nn.init.zeros_(self.weight)
        self.words = TextMap(width, size, 1.0)
        self.row_dropout = row_dropout
        self.phrasings = list(phrasings)
        self.register_buffer("texts", torch.full((sum(phrasings), width), torch.nan))
        self.register_buffer("starts", None, persistent=False)
        self.register_buffer("counts", None, persistent=False)
        self._count()

    def forward(self, tasks: Tensor) -> Tensor:
        """(n, task_embedding_dim) for ``tasks`` (n,) int64."""
        rows, numbers = super().forward(tasks), self.starts[tasks]
        if self.training and self.words.weight.requires_grad:
            rows = rows * kept(len(tasks), self.row_dropout, rows)
            counts = self.counts[tasks]
            drawn = (torch.rand(len(tasks), device=rows.device) * counts).long()
            numbers = numbers + torch.minimum(drawn, counts - 1)  # a float32 times its count may round up to it
        return rows + self.words(self.texts[numbers])

    def append_texts(self, texts: Tensor) -> None:
        """The phrasings (n, width) of one more task, whose row is there."""
        self.texts = torch.cat([self.texts, texts.to(self.texts)])
        self.phrasings.append(len(texts))
        self._count()

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Any:
        super()._apply(fn, recurse)
        self._count()  # they are in no state: memory from the device meta would stay unfilled
        return self

    def _count(self) -> None:
        self.counts = torch.tensor(self.phrasings, device=self.weight.device)
        self.starts = self.counts.cumsum(0) - self.counts


class DescribedHeads(TaskHeads, Described):
    """Heads whose output rows are ``row + Q · text(label)``; a row is a label's weights and, as its last number, its
    bias. Q starts at zero, the rows as those of ``TaskHeads``.

    In training, as long as Q is trained, the rows of a task are 0 in a share ``row_dropout`` of the steps.

    Args:
        hidden, labels, dropout, kinds: as in ``TaskHeads``.
        width: of the texts' embeddings, which ``texts`` (labels of all tasks, width) has to be filled with.
    """

    def __init__(
        self,
        hidden: int,
        labels: Mapping[str, Sequence[str]],
        dropout: float,
        kinds: Mapping[str, str] | None,
        width: int,
        row_dropout: float,
    ) -> None:
        super().__init__(hidden, labels, dropout, kinds)
        self.words = TextMap(width, hidden + 1, 0.0)
        self.row_dropout = row_dropout
        self._starts = list(itertools.accumulate((len(names) for names in labels.values()), initial=0))[:-1]
        self.register_buffer("texts", torch.full((sum(map(len, labels.values())), width), torch.nan))

    def new_head(self, size: int) -> nn.Linear:
        """A head of zeros: its rows are what their words say."""
        head = super().new_head(size)
        nn.init.zeros_(head.weight)
        return head

    def append(self, head: nn.Linear, kind: str = TAGGING, texts: Tensor | None = None) -> None:
        """One more task, behind the others, with the ``texts`` (labels, width) of its labels."""
        assert texts is not None
        self.texts = torch.cat([self.texts, texts.to(self.texts)])
        self._starts.append(self._starts[-1] + self.heads[-1].out_features)
        super().append(head, kind)

    def rows_of(self, task: int) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) of one task."""
        weight, bias = super().rows_of(task)
        words = self.words(self._texts_of(task))
        if self._drops:
            keep = kept(1, self.row_dropout, weight)
            weight, bias = weight * keep, bias * keep[0]
        return weight + words[:, :-1], bias + words[:, -1]

    def stacked_rows(self, tasks: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``tasks``, None for all, one below the other."""
        weight, bias = super().stacked_rows(tasks)
        words = self.words(self.texts if tasks is None else torch.cat([self._texts_of(task) for task in tasks]))
        if self._drops:
            keep = kept(len(self.heads), self.row_dropout, weight)  # drawn for all, whatever the batch
            each = range(len(self.heads)) if tasks is None else tasks
            keep = torch.cat([keep[task].expand(self.heads[task].out_features, 1) for task in each])
            weight, bias = weight * keep, bias * keep[:, 0]
        return weight + words[:, :-1], bias + words[:, -1]

    def _texts_of(self, task: int) -> Tensor:
        """(labels, width)."""
        return self.texts[self._starts[task] :][: self.heads[task].out_features]

    @property
    def _drops(self) -> bool:
        return self.training and self.words.weight.requires_grad

    @torch.no_grad()
    def of(self, task: int) -> TaskHeads:
        """A copy with the head of one task alone, its words added to its rows."""
        alone = super().of(task)
        weight, bias = self.rows_of(task)
        alone.heads[0].weight.copy_(weight)
        alone.heads[0].bias.copy_(bias)
        alone.__class__ = TaskHeads
        del alone.words, alone.texts, alone.row_dropout, alone._starts
        return alone
