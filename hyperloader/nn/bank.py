"""Generated weights, kept while nothing changes that they come from."""

import threading
import weakref
from collections.abc import Callable, Iterable, Sequence

import torch
from torch import Tensor
from torch.optim.optimizer import register_optimizer_step_post_hook

from hyperloader.nn.layout import SiteWeights

SiteKey = tuple[str, int, str]  # stack, layer, site
Sites = dict[SiteKey, SiteWeights]

DEFAULT_LIMIT = 1 << 30  # bytes
_Marks = list[tuple]
_COUNTED = ("generated", "served", "evicted", "dropped")
_banks: "weakref.WeakSet[WeightBank]" = weakref.WeakSet()


def _count_fused_step(optimizer: torch.optim.Optimizer, *_) -> None:
    """A fused optimizer writes to its parameters without counting their versions, which tell the bank of a step."""
    for group in optimizer.param_groups:
        if group.get("fused"):
            torch.autograd.graph.increment_version([p for p in group["params"] if p.grad is not None])


register_optimizer_step_post_hook(_count_fused_step)


class Stack:
    """The weights of some tasks. It never changes: a forward may go on using it when the bank has another.

    ``sites`` holds them stacked, (tasks, ...) each; ``slots`` (any,) int64 says where a task's are, -1 for one that is
    not there.
    """

    def __init__(self, tasks: tuple[int, ...], sites: Sites):
        self.tasks, self.sites = tasks, sites
        tensors = [tensor for of_site in sites.values() for tensor in of_site]
        self.num_bytes = sum(tensor.nbytes for tensor in tensors)
        slots = [tasks.index(task) if task in tasks else -1 for task in range(max(tasks) + 1)]
        self.slots = torch.tensor(slots, device=tensors[0].device)
        self._alone: dict[int, Sites] = {}

    def of(self, task: int) -> Sites:
        """The weights of one task, without a dimension for tasks; views."""
        if task not in self._alone:
            slot = self.tasks.index(task)
            self._alone[task] = {key: tuple(tensor[slot] for tensor in tensors) for key, tensors in self.sites.items()}
        return self._alone[task]


class WeightBank:
    """Serves generated weights from memory: each task's are generated once, until what they come from changes.

    A change is noticed at the next use, by PyTorch's version counters and by addresses: an optimizer's step, loading,
    another dtype or device. A change of one task's embedding drops that task alone. What writes through
    ``parameter.data`` in evaluation mode is not noticed: call ``clear()`` then.

    It may be used from several threads at once.

    Args:
        limit_bytes: memory that may be held; the tasks used least recently go first. 0 keeps nothing.
    """

    def __init__(self, limit_bytes: int = DEFAULT_LIMIT):
        self.limit_bytes = limit_bytes
        self._lock = threading.RLock()
        self._counts = dict.fromkeys(_COUNTED, 0)
        self._stack: Stack | None = None
        self._recent: list[int] = []  # the tasks held, the one used last at the end
        self._dtype: torch.dtype | None = None
        self._shared: _Marks = []
        self._own: _Marks = []
        self._rows: Tensor | None = None
        _banks.add(self)

    def __reduce__(self):  # copied or pickled with its model, it starts empty
        return type(self), (self.limit_bytes,)

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
        """Weights of ``tasks``, generated where they are not there.

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
            missing = [task for task in tasks if task not in self._recent]
            self._counts["generated"] += len(missing)
            self._counts["served"] += len(tasks) - len(missing)
            stack = self._with(tasks, missing, make) if missing else self._stack
            if stack is self._stack:
                self._recent = [task for task in self._recent if task not in tasks] + tasks
            return stack

    def clear(self) -> None:
        """Forget everything."""
        with self._lock:
            self._drop(list(self._recent))
            self._shared, self._own, self._rows = [], [], None

    def statistics(self) -> dict[str, int]:
        """Tasks ``generated``, ``served`` from memory, ``evicted`` for want of memory and ``dropped`` as out of date,
        all since the beginning; ``tasks`` and ``bytes`` held now."""
        with self._lock:
            held = 0 if self._stack is None else self._stack.num_bytes
            return {**self._counts, "tasks": len(self._recent), "bytes": held}

    def _with(self, tasks: list[int], missing: list[int], make: Callable[[list[int]], Sites]) -> Stack:
        """A stack that holds ``tasks``: the bank's own from now on, unless ``tasks`` alone are too large for it."""
        made = Stack(tuple(missing), make(missing))
        room = self.limit_bytes * len(missing) // max(made.num_bytes, 1)  # how many tasks fit
        kept = [task for task in self._recent if task not in tasks]
        kept = kept[max(len(kept) - max(room - len(tasks), 0), 0) :]
        wanted = [task for task in self._recent if task in kept or task in tasks]
        stack = made if not wanted else _join(self._stack, wanted, made)
        if len(tasks) > room:
            return stack
        self._counts["evicted"] += len(self._recent) - len(wanted)
        self._recent = wanted + missing
        self._stack = stack
        return stack

    def _drop_stale(
        self, dtype: torch.dtype, shared: list[Tensor], own: list[Tensor], rows: Callable[[], Tensor]
    ) -> None:
        marks = _marks(shared)
        if dtype != self._dtype or not _same(marks, self._shared):
            self._drop(list(self._recent))
            self._dtype, self._shared, self._rows = dtype, marks, None
        marks = _marks(own)
        if self._rows is not None and _same(marks, self._own):
            return
        before, now = self._rows, rows().detach().clone()
        if before is not None:
            alike = before.shape[1:] == now.shape[1:] and before.device == now.device and before.dtype == now.dtype
            changed = [
                task
                for task in self._recent
                if not (alike and task < min(len(before), len(now)) and torch.equal(before[task], now[task]))
            ]
            self._drop(changed)
        self._own, self._rows = marks, now

    def _drop(self, tasks: list[int]) -> None:
        """The tasks' weights are out of date."""
        if not tasks:
            return
        self._counts["dropped"] += len(tasks)
        self._recent = [task for task in self._recent if task not in tasks]
        self._stack = _join(self._stack, self._recent) if self._recent else None


def process_statistics() -> dict[str, int]:
    """The statistics of all banks of this process that are still there, added up, and their number as ``banks``."""
    everything = [bank.statistics() for bank in list(_banks)]
    keys = (*_COUNTED, "tasks", "bytes")
    return {"banks": len(everything), **{key: sum(one[key] for one in everything) for key in keys}}


def _join(stack: Stack, tasks: Sequence[int], more: Stack | None = None) -> Stack:
    """A stack of ``tasks`` of ``stack``, followed by those of ``more``."""
    slots = [stack.tasks.index(task) for task in tasks]
    sites = {
        key: tuple(
            torch.cat([*(tensor[slot : slot + 1] for slot in slots), *([] if more is None else [more.sites[key][i]])])
            for i, tensor in enumerate(tensors)
        )
        for key, tensors in stack.sites.items()
    }
    return Stack((*tasks, *(() if more is None else more.tasks)), sites)


def _marks(tensors: list[Tensor]) -> _Marks:
    """What tells a tensor and its state from any other. The storage is kept, so that no other takes its address."""
    return [
        (tensor.data_ptr(), tensor._version, tensor.dtype, tensor.device, tensor.shape, tensor.untyped_storage())
        for tensor in tensors
    ]


def _same(marks: _Marks, others: _Marks) -> bool:
    return len(marks) == len(others) and all(one[:-1] == two[:-1] for one, two in zip(marks, others, strict=True))
