"""One embedding per task, of which one alone can be trained."""

from typing import Any

import torch
from torch import Tensor, nn

from hyperloader.nn.sharded import check_whole


class TaskEmbedding(nn.Embedding):
    """``weight`` (tasks, task_embedding_dim), looked up by task.

    ``train_only(task)`` takes the row of one task out of ``weight``, which is then frozen, into ``row``, a parameter of
    its own: an optimizer that decays or has momentum cannot move what it does not hold, where a mask over the gradient
    of ``weight`` would let every row decay. Meanwhile the row that counts is ``row``; ``state_dict`` has ``weight``
    alone, up to date, and loading one goes to both.
    """

    row: nn.Parameter | None  # (1, task_embedding_dim)
    trained_task: int | None

    def __init__(self, num_tasks: int, size: int) -> None:
        super().__init__(num_tasks, size)
        self.register_parameter("row", None)
        self.trained_task = None

    def forward(self, tasks: Tensor) -> Tensor:
        """(n, task_embedding_dim) for ``tasks`` (n,) int64."""
        check_whole([self.weight])
        found = super().forward(tasks)
        if self.row is None or self.trained_task is None:
            return found
        return torch.where((tasks == self.trained_task)[:, None], self.row, found)

    def train_only(self, task: int) -> None:
        """Freeze every row but that of ``task``."""
        self.train_all(self.weight.requires_grad)
        self.weight.requires_grad_(False)
        self.weight.grad = None  # an optimizer skips what has no gradient
        self.row = nn.Parameter(self.weight.detach()[task : task + 1].clone())
        self.trained_task = task

    def train_all(self, requires_grad: bool = True) -> None:
        """Put the row that was trained alone back among the others."""
        self._write_back()
        self.row = self.trained_task = None
        self.weight.requires_grad_(requires_grad)

    @torch.no_grad()
    def extended(self, row: Tensor) -> nn.Parameter:
        """``weight`` with ``row`` (task_embedding_dim,) below it; this module stays as it is."""
        return nn.Parameter(torch.cat([self.weight, row[None]]), self.weight.requires_grad)

    @torch.no_grad()
    def _write_back(self) -> None:
        if self.row is not None:
            self.weight[self.trained_task] = self.row[0]

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        self._write_back()
        super()._save_to_state_dict(destination, prefix, keep_vars)
        destination.pop(f"{prefix}row", None)

    def _load_from_state_dict(
        self, state_dict: Any, prefix: str, local_metadata: Any, strict: bool, missing_keys: list[str], *lists: Any
    ) -> None:
        self._write_back()  # for a state without this module's weight
        super()._load_from_state_dict(state_dict, prefix, local_metadata, strict, missing_keys, *lists)
        if self.row is not None and self.trained_task is not None:
            missing_keys[:] = [key for key in missing_keys if key != f"{prefix}row"]
            with torch.no_grad():
                self.row.copy_(self.weight[self.trained_task : self.trained_task + 1])
