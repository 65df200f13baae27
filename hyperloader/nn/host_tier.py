"""Generated weights in host memory, for which a device has no room."""

import math
from collections.abc import Iterable, Sequence

import torch
from torch import Tensor

from hyperloader.nn.stacked import Sites, StackedWeights

_Shapes = list[tuple]  # key and shapes of each site's tensors


class HostTier:
    """The weights of some tasks in host memory, one row of numbers a task; the one put last is at the end.

    ``limit`` is in bytes; the tasks put least recently go first.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self._rows: dict[int, Tensor] = {}
        self._shapes: _Shapes = []
        self._device = torch.device("cpu")

    def __contains__(self, task: int) -> bool:
        return task in self._rows

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def num_bytes(self) -> int:
        """Memory that is held."""
        return sum(row.nbytes for row in self._rows.values())

    def put(self, tasks: Sequence[int], stacked: StackedWeights) -> int:
        """Copy the weights of ``tasks`` from a device's stack, at once; returns how many were forgotten for want of
        room, of these and of others."""
        count = int(min(len(tasks), self.limit // stacked.bytes_of_a_task))
        kept = list(tasks)[len(tasks) - count :]
        if not kept:
            return len(tasks)
        tensors = [tensor for one in stacked.sites.values() for tensor in one]
        self._shapes = [(key, [tensor.shape[1:] for tensor in one]) for key, one in stacked.sites.items()]
        self._device = tensors[0].device
        places = torch.tensor([stacked.places[task] for task in kept], device=self._device)
        rows = torch.cat([tensor[places].flatten(1) for tensor in tensors], 1).cpu()
        return len(tasks) - len(kept) + self.put_back({task: row.clone() for task, row in zip(kept, rows, strict=True)})

    def put_back(self, rows: dict[int, Tensor]) -> int:
        """Keep what ``rows_of`` gave; returns as ``put``."""
        for task in rows:
            self._rows.pop(task, None)
        self._rows |= rows
        return self.make_room()

    def make_room(self) -> int:
        """Forget tasks until ``limit`` is kept; returns how many."""
        held, count = self.num_bytes, 0
        for task in list(self._rows):
            if held <= self.limit:
                break
            held -= self._rows.pop(task).nbytes
            count += 1
        return count

    def rows_of(self, tasks: Iterable[int]) -> dict[int, Tensor]:
        """The weights of ``tasks``, which are here."""
        return {task: self._rows[task] for task in tasks}

    def drop(self, tasks: Iterable[int]) -> None:
        """Forget those of ``tasks`` that are here."""
        for task in tasks:
            self._rows.pop(task, None)

    def on_device(self, rows: dict[int, Tensor]) -> StackedWeights:
        """What ``rows_of`` gave, on the device that it came from, copied at once."""
        together = torch.stack(list(rows.values())).to(self._device)
        parts = iter(together.split([math.prod(shape) for _, shapes in self._shapes for shape in shapes], 1))
        sites: Sites = {
            key: tuple(next(parts).reshape(len(rows), *shape).contiguous() for shape in shapes)
            for key, shapes in self._shapes
        }
        return StackedWeights(list(rows), sites)

    def tasks(self) -> list[int]:
        """Those that are here."""
        return list(self._rows)
