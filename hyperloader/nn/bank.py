"""Generated weights, kept while nothing changes that they come from."""

import functools
import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from hyperloader.nn.layout import SiteKey, SiteTensors

Sites = dict[SiteKey, SiteTensors]

DEFAULT_LIMIT = 1 << 30  # bytes
_Marks = list[tuple]
_COUNTED = ("generated", "served", "evicted", "dropped")
_banks: "weakref.WeakSet[WeightBank]" = weakref.WeakSet()


def _count_fused_step(optimizer: torch.optim.Optimizer, *_) -> None:
    """A fused optimizer writes to its parameters without counting their versions, which tell the bank of a step."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])


@functools.cache
def _count_fused_steps() -> None:
    """From the first bank on: importing a package changes no optimizer."""
    register_optimizer_step_post_hook(_count_fused_step)


class Stack:
    """The weights of some tasks. It never changes: a forward may go on using it when the bank has another.

    ``sites`` holds them stacked, (tasks, ...) each; ``places`` says where a task's are.
    """

    def __init__(self, tasks: Sequence[int], sites: Sites):
        self.sites = sites
        self.places = {task: place for place, task in enumerate(tasks)}
        self.num_bytes = sum(tensor.nbytes for of_site in sites.values() for tensor in of_site)
        self._alone: dict[int, Sites] = {}

    @functools.cached_property
    def slots(self) -> Tensor:
        """``places`` as a tensor to be indexed with tasks, (any,) int64, -1 for one that is not there."""
        slots = [self.places.get(task, -1) for task in range(max(self.places) + 1)]
        return torch.tensor(slots, device=next(iter(self.sites.values()))[0].device)

    @property
    def bytes_of_a_task(self) -> int:
        """Each task's share of the memory."""
        return self.num_bytes // len(self.places)

    def of(self, task: int) -> Sites:
        """The weights of one task, without a dimension for tasks; views."""
        if task not in self._alone:
            place = self.places[task]
            self._alone[task] = {key: tuple(tensor[place] for tensor in tensors) for key, tensors in self.sites.items()}
        return self._alone[task]


class WeightBank:
    """Serves generated weights from memory: each task's are generated once, until what they come from changes.

    A change is noticed at the next use, by PyTorch's version counters and by addresses: an optimizer's step, loading,
    another dtype or device. A change of one task's embedding drops that task alone. What writes through
    ``parameter.data`` in evaluation mode is not noticed: call ``clear()`` then.

    It may be used from several threads at once.

    Args:
        limit_bytes: memory that may be held between two calls; the tasks used least recently go first. 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT):
        self._limit = _at_least_zero(limit_bytes)
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._held: dict[int, Stack] = {}  # task -> where its weights are; the task used last at the end
        self._copied = 0  # bytes that batches have had copied together since the last stack of all tasks
        self._dtype: torch.dtype | None = None
        self._shared: _Marks = []
        self._own: _Marks = []
        self._rows: Tensor | None = None
        _count_fused_steps()
        _banks.add(self)

    def __reduce__(self):  # copied or pickled with its model, it starts empty
        return type(self), (self.limit_bytes,)

    @property
    def limit_bytes(self) -> int:
        """Memory that may be held; a lower limit takes effect at once."""
        return self._limit

    @limit_bytes.setter
    def limit_bytes(self, limit_bytes: int) -> None:
        with self._lock:
            self._limit = _at_least_zero(limit_bytes)
            self._make_room(0, keep=())

    @torch.inference_mode(False)  # what is kept serves outside of it, too
    @torch.no_grad()
    def get(
        self,
        tasks: Sequence[int],
        dtype: torch.dtype,
        *,
        shared: Iterable[Tensor],
        own: Iterable[Tensor],
        rows: Callable[[], Tensor],
        make: Callable[[list[int]], Sites],
    ) -> Stack:
        """Weights of ``tasks``, and perhaps of others, generated where they are not there.

        Args:
            tasks: distinct indices.
            dtype: that the weights are to have.
            shared: the tensors that all tasks' weights come from.
            own: the tensors that hold the tasks' own numbers, of which ``rows()`` is one row a task, (tasks, any).
            make: generates for several tasks at once, (tasks, ...) each.
        """
        tasks = list(tasks)
        with self._lock:
            self._drop_stale(dtype, list(shared), list(own), rows)
            found = {task: self._held[task] for task in tasks if task in self._held}
            missing = [task for task in tasks if task not in found]
            self._counts["served"] += len(found)
            fits = True
            if missing:
                made = Stack(missing, make(missing))
                self._counts["generated"] += len(missing)
                found |= dict.fromkeys(missing, made)
                fits = self._make_room(made.num_bytes, keep=tasks)
                found = {task: self._held.get(task, stack) for task, stack in found.items()}
            for task in tasks:
                if self._held.pop(task, None) is not None or fits:
                    self._held[task] = found[task]
            return self._one_of(found, fits)

    @torch.inference_mode(False)
    @torch.no_grad()
    def holds(
        self,
        tasks: Iterable[int],
        dtype: torch.dtype,
        *,
        shared: Iterable[Tensor],
        own: Iterable[Tensor],
        rows: Callable[[], Tensor],
    ) -> bool:
        """Whether ``get`` with these arguments would generate nothing."""
        with self._lock:
            self._drop_stale(dtype, list(shared), list(own), rows)
            return all(task in self._held for task in tasks)

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._drop(list(self._held))
            self._shared, self._own, self._rows = [], [], None

    def statistics(self) -> dict[str, int]:
        """Tasks ``generated``, ``served`` from memory, ``evicted`` for want of memory and ``dropped`` as out of date,
        all since the beginning; ``tasks`` and ``bytes`` held now."""
        with self._lock:
            return {**self._counts, "tasks": len(self._held), "bytes": self._bytes()}

    def _bytes(self) -> int:
        return sum(stack.num_bytes for stack in set(self._held.values()))

    def _one_of(self, found: dict[int, Stack], held: bool) -> Stack:
        """One stack with all that a batch needs, which may lie in several.

        These are copied together for the batch, until so much has been copied that one stack of all tasks, which
        serves every batch, would have cost no more.
        """
        stacks = set(found.values())
        if len(stacks) == 1:
            return stacks.pop()
        if held:
            self._copied += sum(stack.bytes_of_a_task for stack in found.values())
            if self._copied >= sum(stack.bytes_of_a_task for stack in self._held.values()):
                return self._join_all()
        return _join(found)

    def _join_all(self) -> Stack:
        together = _join(self._held)
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
        if sum(stack.bytes_of_a_task for task, stack in self._held.items() if task in keep) > room:
            return False
        self._evict(room, keep)
        if self._bytes() > room:  # by stacks of which only a part is used: half of them, so that this is seldom
            self._evict(room // 2, keep)
            if self._held:
                self._join_all()
        return True

    def _evict(self, room: int, keep: Sequence[int]) -> None:
        """Forget tasks until those that are left need no more than ``room``, or all are to ``keep``."""
        needed = sum(stack.bytes_of_a_task for stack in self._held.values())
        for task in [task for task in self._held if task not in keep]:
            if needed <= room:
                return
            needed -= self._held.pop(task).bytes_of_a_task
            self._counts["evicted"] += 1

    def _drop_stale(
        self, dtype: torch.dtype, shared: list[Tensor], own: list[Tensor], rows: Callable[[], Tensor]
    ) -> None:
        marks = _marks(shared)
        if dtype != self._dtype or not _same(marks, self._shared):
            self._drop(list(self._held))
            self._dtype, self._shared, self._rows = dtype, marks, None
        marks = _marks(own)
        if self._rows is not None and _same(marks, self._own):
            return
        before, now = self._rows, rows().detach().clone()
        if before is not None:
            alike = before.shape[1:] == now.shape[1:] and before.device == now.device and before.dtype == now.dtype
            changed = [
                task
                for task in self._held
                if not (alike and task < min(len(before), len(now)) and torch.equal(before[task], now[task]))
            ]
            self._drop(changed)
        self._own, self._rows = marks, now

    def _drop(self, tasks: list[int]) -> None:
        """The tasks' weights are out of date."""
        self._counts["dropped"] += len(tasks)
        for task in tasks:
            del self._held[task]


def process_statistics() -> dict[str, int]:
    """The statistics of all banks of this process that are still there, added up, and their number as ``banks``."""
    everything = [bank.statistics() for bank in list(_banks)]
    keys = (*_COUNTED, "tasks", "bytes")
    return {"banks": len(everything), **{key: sum(one[key] for one in everything) for key in keys}}


def _join(found: dict[int, Stack]) -> Stack:
    """One stack of tasks that lie in several."""
    places = [(stack, stack.places[task]) for task, stack in found.items()]
    sites = {
        key: tuple(
            torch.stack([stack.sites[key][number][place] for stack, place in places]) for number in range(len(tensors))
        )
        for key, tensors in places[0][0].sites.items()
    }
    return Stack(list(found), sites)


def _at_least_zero(limit_bytes: int) -> int:
    if not limit_bytes >= 0:
        raise ValueError(f"limit_bytes must be at least 0, got {limit_bytes}")
    return limit_bytes


def _marks(tensors: list[Tensor]) -> _Marks:
    """What tells a tensor and its state from any other. The storage is kept, so that no other takes its address."""
    return [
        (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device, tensor.shape, tensor.untyped_storage())
        for tensor in tensors
    ]


def _same(marks: _Marks, others: _Marks) -> bool:
    return len(marks) == len(others) and all(one[:-1] == two[:-1] for one, two in zip(marks, others, strict=True))
