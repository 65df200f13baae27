"""Generated weights, kept while nothing changes that they come from."""

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from hyperloader.nn.fused_steps import count_fused_steps
from hyperloader.nn.host_tier import HostTier
from hyperloader.nn.stacked import Sites, StackedWeights, join
from hyperloader.validation import shown

DEFAULT_LIMIT = 1 << 30  # bytes
_Marks = list[tuple]
_COUNTED = ("generated", "served", "evicted", "dropped", "moved", "fetched")
_banks: "weakref.WeakSet[WeightBank]" = weakref.WeakSet()


@dataclass(frozen=True)
class Sources:
    """What weights are generated from.

    ``dtype`` is that of the weights; ``shared`` are the tensors that all tasks' weights depend on, ``own`` those that
    hold the tasks' own numbers: ``rows()`` returns them as one row a task, (tasks, any).
    """

    dtype: torch.dtype
    shared: list[Tensor]
    own: list[Tensor]
    rows: Callable[[], Tensor]


class WeightBank:
    """Serves generated weights from memory: each task's are generated once, until what they come from changes.

    A change is noticed at the next use, by PyTorch's version counters and by addresses: an optimizer's step, loading,
    another dtype or device. A change of one task's embedding drops that task alone. What writes through
    ``parameter.data`` in evaluation mode is not noticed: call ``clear()`` then.

    It may be used from several threads at once.

    Args:
        limit_bytes: memory that may be held between two calls, where the model is; the tasks used least recently go
            first. 0 keeps nothing.
        host_limit_bytes: host memory for the tasks that go; from there they come back by a copy, to the bit, instead of
            being generated again. Those that went first are forgotten first. Of use to a model on a GPU.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT, host_limit_bytes: int = 0) -> None:
        self._limit = _at_least_zero(limit_bytes)
        self._host = HostTier(_at_least_zero(host_limit_bytes, "host_limit_bytes"))
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._held: dict[int, StackedWeights] = {}  # task -> the stack with its weights; the task used last at the end
        self._copied = 0  # bytes copied for batches since all tasks were in one stack
        self._dtype: torch.dtype | None = None
        self._shared: _Marks = []
        self._own: _Marks = []
        self._rows: Tensor | None = None
        _banks.add(self)
        count_fused_steps()

    def __reduce__(self) -> tuple:  # copied or pickled with its model, it starts empty
        return type(self), (self.limit_bytes, self.host_limit_bytes)

    @property
    def limit_bytes(self) -> int:
        """Memory that may be held; a lower limit takes effect at once."""
        return self._limit

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        with self._lock:
            self._limit = _at_least_zero(limit_bytes)
            self._make_room(0, keep=())

    @property
    def host_limit_bytes(self) -> int:
        """Host memory that may be held; a lower limit takes effect at once."""
        return self._host.limit

    @host_limit_bytes.setter
    def host_limit_bytes(self, host_limit_bytes: int) -> None:
        with self._lock:
            self._host.limit = _at_least_zero(host_limit_bytes, "host_limit_bytes")
            self._counts["evicted"] += self._host.make_room()

    @torch.inference_mode(False)  # what is kept serves outside of it, too
    @torch.no_grad()
    def get(self, tasks: Sequence[int], sources: Sources, make: Callable[[list[int]], Sites]) -> StackedWeights:
        """Weights of ``tasks``, and perhaps of others, generated where they are not there.

        Args:
            tasks: distinct indices.
            sources: what the weights come from.
            make: generates for several tasks at once, (tasks, ...) each.
        """
        tasks = list(tasks)
        with self._lock:
            self._drop_stale(sources)
            found = {task: self._held[task] for task in tasks if task in self._held}
            missing = [task for task in tasks if task not in found]
            self._counts["served"] += len(found)
            fits = True
            if missing:
                stored = [task for task in missing if task in self._host]
                new = [task for task in missing if task not in self._host]
                made = [StackedWeights(new, make(new))] if new else []
                rows = self._host.rows_of(stored)
                if rows:
                    made.append(self._host.on_device(rows))
                    self._host.drop(rows)
                self._counts["generated"] += len(new)
                self._counts["served"] += len(rows)
                self._counts["fetched"] += len(rows)
                found |= {task: stacked for stacked in made for task in stacked.places}
                fits = self._make_room(sum(stacked.num_bytes for stacked in made), keep=tasks)
                if rows and not fits:
                    self._counts["evicted"] += self._host.put_back(rows)
                found = {task: self._held.get(task, stacked) for task, stacked in found.items()}
            for task in tasks:
                if self._held.pop(task, None) is not None or fits:
                    self._held[task] = found[task]
            return self._stacked(found, fits)

    @torch.inference_mode(False)
    @torch.no_grad()
    def holds(self, tasks: Iterable[int], sources: Sources) -> bool:
        """Whether ``get`` with these arguments would neither generate nor fetch anything."""
        with self._lock:
            self._drop_stale(sources)
            return all(task in self._held for task in tasks)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._drop([*self._held, *self._host.tasks()])
            self._shared, self._own, self._rows = [], [], None

    def statistics(self) -> dict[str, int]:
        """Tasks ``generated``, ``served`` from memory, ``evicted`` for want of memory, ``dropped`` as out of date,
        ``moved`` to host memory and ``fetched`` from there, all since the beginning; ``tasks`` and ``bytes`` held now,
        ``host_tasks`` and ``host_bytes`` of them in host memory beside."""
        with self._lock:
            held = {"tasks": len(self._held), "bytes": self._bytes()}
            return {**self._counts, **held, "host_tasks": len(self._host), "host_bytes": self._host.num_bytes}

    def _bytes(self) -> int:
        return sum(stacked.num_bytes for stacked in set(self._held.values()))

    def _stacked(self, found: dict[int, StackedWeights], held: bool) -> StackedWeights:
        """The weights of all tasks in ``found`` in one stack.

        Tasks from several stacks are copied into a stack for the batch, until as much has been copied as one stack of
        all tasks would have taken: then that stack is made, which serves every batch.
        """
        distinct = set(found.values())
        if len(distinct) == 1:
            return distinct.pop()
        if held:
            self._copied += sum(stacked.bytes_of_a_task for stacked in found.values())
            if self._copied >= sum(stacked.bytes_of_a_task for stacked in self._held.values()):
                return self._join_all()
        return join(found)

    def _join_all(self) -> StackedWeights:
        together = join(self._held)
        self._held = dict.fromkeys(self._held, together)
        self._copied = 0
        return together

    def _make_room(self, num_bytes: int, keep: Sequence[int]) -> bool:
        """Forget tasks but those to ``keep``, the least recently used first, until ``num_bytes`` more may be held.

        Returns:
            Whether they may.
        """
        room = self._limit - num_bytes
        if self._bytes() <= room:
            return True
        if sum(stacked.bytes_of_a_task for task, stacked in self._held.items() if task in keep) > room:
            return False
        self._evict(room, keep)
        # Evicted tasks still take memory in their stacks: halve what is held, so that this happens seldom.
        if self._bytes() > room:
            self._evict(room // 2, keep)
            if self._held:
                self._join_all()
        return True

    def _evict(self, room: int, keep: Sequence[int]) -> None:
        """Forget tasks until those that are left need no more than ``room``, or all are to ``keep``."""
        needed = sum(stacked.bytes_of_a_task for stacked in self._held.values())
        gone: dict[StackedWeights, list[int]] = {}
        for task in [task for task in self._held if task not in keep]:
            if needed <= room:
                break
            stacked = self._held.pop(task)
            needed -= stacked.bytes_of_a_task
            gone.setdefault(stacked, []).append(task)
        for stacked, tasks in gone.items():
            self._counts["evicted"] += self._host.put(tasks, stacked)
            self._counts["moved"] += sum(task in self._host for task in tasks)

    def _drop_stale(self, sources: Sources) -> None:
        marks = _marks(sources.shared)
        if sources.dtype != self._dtype or not _same(marks, self._shared):
            self._drop([*self._held, *self._host.tasks()])
            self._dtype, self._shared, self._rows = sources.dtype, marks, None
        marks = _marks(sources.own)
        if self._rows is not None and _same(marks, self._own):
            return
        before, now = self._rows, sources.rows().detach().clone()
        if before is not None:
            alike = before.shape[1:] == now.shape[1:] and before.device == now.device and before.dtype == now.dtype
            changed = [
                task
                for task in [*self._held, *self._host.tasks()]
                if not (alike and task < min(len(before), len(now)) and torch.equal(before[task], now[task]))
            ]
            self._drop(changed)
        self._own, self._rows = marks, now

    def _drop(self, tasks: list[int]) -> None:
        """The tasks' weights are out of date."""
        self._counts["dropped"] += len(tasks)
        self._host.drop(tasks)
        for task in tasks:
            self._held.pop(task, None)


def process_statistics() -> dict[str, int]:
    """The sums of the statistics of all banks of this process that still exist, and their number as ``banks``."""
    everything = [bank.statistics() for bank in list(_banks)]
    keys = (*_COUNTED, "tasks", "bytes", "host_tasks", "host_bytes")
    return {"banks": len(everything), **{key: sum(one[key] for one in everything) for key in keys}}


def _at_least_zero(limit_bytes: int, name: str = "limit_bytes") -> int:
    if isinstance(limit_bytes, bool) or not isinstance(limit_bytes, int | float):
        raise TypeError(f"{name} must be a number, got {shown(limit_bytes)}")
    if not limit_bytes >= 0:
        raise ValueError(f"{name} must be at least 0, got {limit_bytes}")
    return limit_bytes


def _marks(tensors: list[Tensor]) -> _Marks:
    """What changes with a tensor or its values. The storage is kept, so that no other tensor gets its address."""
    return [
        (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device, tensor.shape, tensor.untyped_storage())
        for tensor in tensors
    ]


def _same(marks: _Marks, others: _Marks) -> bool:
    return len(marks) == len(others) and all(one[:-1] == two[:-1] for one, two in zip(marks, others, strict=True))
