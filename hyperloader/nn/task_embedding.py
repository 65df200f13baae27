"""One embedding per task, of which one alone can be trained."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from hyperloader.nn.sharded import check_whole, is_sharded


class Rows(nn.Embedding):
    """``weight`` (rows, size), looked up by row; with ``sparse`` its gradient has the rows alone that were looked up.

    ``train_rows(first, count)`` takes some rows out of ``weight``, which is then frozen, into ``row``, a parameter of
    its own: an optimizer that decays or has momentum cannot move what it does not hold, where a mask over the gradient
    of ``weight`` would let every row decay. Meanwhile the rows that count are ``row``; ``state_dict`` has ``weight``
    alone, up to date, and loading one goes to both.
    """

    row: nn.Parameter | None  # (count, size)
    first_trained: int | None

    def __init__(self, num_rows: int, size: int, sparse: bool = False, **given: Any) -> None:
        super().__init__(num_rows, size, sparse=sparse, **given)
        self.register_parameter("row", None)
        self.first_trained = None
        self._sparse = sparse

    def forward(self, rows: Tensor) -> Tensor:
        """(..., size) for ``rows`` (...) int64."""
        check_whole([self.weight])
        if self.sparse and is_sharded(self):
            raise RuntimeError("sparse_gradients must be False in a model that FSDP shards: it reduces dense gradients")
        found = super().forward(rows)
        if self.row is None or self.first_trained is None:
            return found
        place, count = rows - self.first_trained, len(self.row)
        row = self.row if count == 1 else functional.embedding(place.clamp(0, count - 1), self.row)
        return torch.where(((place >= 0) & (place < count))[..., None], row, found)

    def train_rows(self, first: int, count: int) -> None:
        """Freeze every row but those from ``first`` on."""
        self.train_all(self.weight.requires_grad)
        self.weight.requires_grad_(False)
        self.weight.grad = None  # an optimizer skips what has no gradient
        self.row = nn.Parameter(self.weight.detach()[first : first + count].clone())
        self.first_trained = first
        self.sparse = False  # the gradient of ``row`` is not, and data-parallel processes go by this

    def train_all(self, requires_grad: bool = True) -> None:
        """Put the rows that were trained alone back among the others."""
        self._write_back()
        self.row = self.first_trained = None
        self.weight.requires_grad_(requires_grad)
        self.sparse = self._sparse

    @torch.no_grad()
    def extended(self, rows: Tensor) -> nn.Parameter:
        """``weight`` with ``rows`` (n, size) below it; this module stays as it is."""
        return nn.Parameter(torch.cat([self.weight, rows]), self.weight.requires_grad)

    @torch.no_grad()
    def _write_back(self) -> None:
        if self.row is not None and self.first_trained is not None:
            self.weight[self.first_trained : self.first_trained + len(self.row)] = self.row

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._write_back()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}row", None)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str], *lists: Any
    ) -> None:
        self._write_back()  # for a state without this module's weight
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *lists)
        if self.row is not None and self.first_trained is not None:
            missing_keys[:] = [key for key in missing_keys if key != f"{prefix}row"]
            with torch.no_grad():
                self.row.copy_(self.weight[self.first_trained : self.first_trained + len(self.row)])


class TaskEmbedding(Rows):
    """``weight`` (tasks, task_embedding_dim), looked up by task."""

    @property
    def trained_task(self) -> int | None:
        """The only task whose row is trained."""
        return self.first_trained

    def train_only(self, task: int) -> None:
        """Freeze every row but that of ``task``."""
        self.train_rows(task, 1)
