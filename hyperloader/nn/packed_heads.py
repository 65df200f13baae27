"""The heads of all tasks as two tensors, whose gradients have the rows alone that a batch looked up."""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.config import TAGGING
from hyperloader.nn.heads import TaskHeads
from hyperloader.nn.task_embedding import Rows
from hyperloader.ops._modes import serves_any

_PARTS = ("weight", "bias")


class PackedHeads(TaskHeads):
    """``TaskHeads`` whose weights lie below each other in ``rows`` (labels of all tasks, hidden), their biases in
    ``biases`` (labels of all tasks, 1): two parameters with sparse gradients, however many tasks there are.

    What a step costs depends on its batch alone. ``state_dict`` has the names of ``TaskHeads``, ``heads.N.weight`` and
    ``heads.N.bias``, and takes them.
    """

    rows: Rows
    biases: Rows
    _ends: list[int]  # of each task, where its labels end among all

    def __init__(
        self,
        hidden: int,
        labels: Mapping[str, Sequence[str]],
        dropout: float = 0.0,
        kinds: Mapping[str, str] | None = None,
    ) -> None:
        nn.Module.__init__(self)
        self.kinds = [(kinds or {}).get(task, TAGGING) for task in labels]
        self.dropout = nn.Dropout(dropout)
        sizes = list(map(len, labels.values()))
        self._ends = list(itertools.accumulate(sizes))
        count = self._ends[-1]
        self.rows = Rows(count, hidden, sparse=True, _weight=_new_rows(sizes, hidden))
        self.biases = Rows(count, 1, sparse=True, _weight=torch.zeros(count, 1))
        for name in ("sizes", "starts", "kind_numbers"):
            self.register_buffer(name, None, persistent=False)
        self._count_labels()
        self.register_state_dict_post_hook(_split)
        self.register_load_state_dict_pre_hook(_join)

    @property
    def weight(self) -> Tensor:
        """``rows``, for what heads have in common: width, dtype and device."""
        return self.rows.weight

    def size_of(self, task: int) -> int:
        """Labels of one task."""
        return self._ends[task] - self._start(task)

    def own_rows(self, task: int) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) of one task, as they are kept."""
        part = slice(self._start(task), self._ends[task])
        return self.rows.weight[part], self.biases.weight[part, 0]

    def rows_of(self, task: int) -> tuple[Tensor, Tensor]:
        """Weight (labels, hidden) and bias (labels,) of one task."""
        index = torch.arange(self._start(task), self._ends[task], device=self.weight.device)
        return self.rows(index), self.biases(index)[:, 0]

    def stacked_rows(self, tasks: Sequence[int] | None = None) -> tuple[Tensor, Tensor]:
        """Weight and bias of ``tasks``, None for all, one below the other."""
        every = range(len(self._ends)) if tasks is None else tasks
        index = [label for task in every for label in range(self._start(task), self._ends[task])]
        found = torch.tensor(index, device=self.weight.device)
        return self.rows(found), self.biases(found)[:, 0]

    def train_only(self, task: int) -> None:
        """Train the rows of one task alone."""
        for part in (self.rows, self.biases):
            part.train_rows(self._start(task), self.size_of(task))

    def train_all(self) -> None:
        """End ``train_only``."""
        for part in (self.rows, self.biases):
            part.train_all(part.weight.requires_grad)

    def append(self, head: nn.Linear, kind: str = TAGGING) -> None:
        """One more task, behind the others; all rows are copied."""
        for part, new in ((self.rows, head.weight), (self.biases, head.bias[:, None])):
            part.weight = part.extended(new)
            part.num_embeddings = len(part.weight)
        self._ends.append(self._ends[-1] + head.out_features)
        self._count_one_more(head, kind)

    @torch.no_grad()
    def of(self, task: int) -> TaskHeads:
        """A copy with the head of one task alone, as ``TaskHeads``."""
        weight, bias = self.rows_of(task)
        with torch.random.fork_rng(devices=[]):
            alone = TaskHeads(weight.shape[1], {"": [""] * len(bias)}, self.dropout.p, {"": self.kinds[task]})
        alone.to(weight).requires_grad_(self.weight.requires_grad).train(self.training)
        for own, given in zip(alone.own_rows(0), (weight, bias), strict=True):
            own.copy_(given)
        return alone

    def _logits(self, hidden_states: Tensor, task_ids: Tensor, columns: Tensor, own: Tensor) -> Tensor:
        last = (self.sizes[task_ids] - 1)[:, None]  # no other task's rows, which would then have a gradient
        index = self.starts[task_ids][:, None] + torch.minimum(columns, last)
        weight, bias = self.rows(index), self.biases(index)
        if not serves_any(own.shape[0]) and len(task_ids) == 1:
            return functional.linear(hidden_states, weight[0], bias[0, :, 0])
        return torch.baddbmm(bias.transpose(1, 2), hidden_states, weight.transpose(1, 2))

    def _with_others(self, hidden_states: Tensor, task: int) -> Tensor:
        return hidden_states

    def _sizes(self) -> list[int]:
        return [self.size_of(task) for task in range(len(self._ends))]

    def _start(self, task: int) -> int:
        return self._ends[task - 1] if task else 0


def _new_rows(sizes: list[int], hidden: int) -> Tensor:
    """Rows of new heads with so many labels each, drawn as those of ``TaskHeads`` are: on the CPU a seed begins at the
    same ones."""
    rows, biases = torch.empty(sum(sizes), hidden), torch.empty(sum(sizes))
    for drawn_and_dropped in (rows, biases):  # by ``Head``
        drawn_and_dropped.uniform_()
    for part in rows.split(sizes) if hidden % 16 else (rows,):  # PyTorch draws sixteen at a time
        part.normal_(0, 0.02)
    return rows


def packed_names(model: nn.Module) -> dict[str, list[str]]:
    """Name of a parameter of ``PackedHeads`` in ``model`` -> those that it has in a state, one a task."""
    return {
        f"{path}.{kept}.weight": [f"{path}.heads.{task}.{part}" for task in range(len(heads.kinds))]
        for path, heads in model.named_modules()
        if isinstance(heads, PackedHeads)
        for kept, part in zip(("rows", "biases"), _PARTS, strict=True)
    }


def _split(heads: PackedHeads, state: dict[str, Any], prefix: str, *_: Any) -> None:
    """In the state the rows of each task stand by themselves; views of memory that they share."""
    sizes = heads._sizes()
    weights = state.pop(f"{prefix}rows.weight").split(sizes)
    biases = state.pop(f"{prefix}biases.weight")[:, 0].split(sizes)
    for task, both in enumerate(zip(weights, biases, strict=True)):
        state |= {f"{prefix}heads.{task}.{part}": tensor for part, tensor in zip(_PARTS, both, strict=True)}


def _join(
    heads: PackedHeads,
    state: dict[str, Any],
    prefix: str,
    local_metadata: Any,
    strict: bool,
    missing: list[str],
    unexpected: list[str],
    errors: list[str],
) -> None:
    """The opposite of ``_split``; a task that is not in the state, or with another shape, stays as it is."""
    for kept, part, own in (
        ("rows", "weight", heads.rows.weight.detach()),
        ("biases", "bias", heads.biases.weight.detach()[:, 0]),
    ):
        tensors = []
        for task, rows in enumerate(own.split(heads._sizes())):
            name = f"{prefix}heads.{task}.{part}"
            given = state.pop(name, None)
            if given is None:
                missing.append(name)
            elif given.shape != rows.shape:
                errors.append(f"size mismatch for {name}: {tuple(given.shape)} given, {tuple(rows.shape)} here")
            tensors.append(given if given is not None and given.shape == rows.shape else rows)
        joined = torch.cat([tensor.to(own.device) for tensor in tensors])
        state[f"{prefix}{kept}.weight"] = joined if part == "weight" else joined[:, None]
