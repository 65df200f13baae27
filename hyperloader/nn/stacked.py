"""Generated weights of several tasks, stacked."""

import functools
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from hyperloader.nn.layout import SiteKey, SiteTensors

Sites = dict[SiteKey, SiteTensors]


class StackedWeights:
    """The weights of some tasks. It never changes: a forward may go on using it after the bank has replaced it.

    ``sites`` holds them stacked, (tasks, ...) each; ``places`` says where a task's are.
    """

    def __init__(self, tasks: Sequence[int], sites: Sites) -> None:
        self.sites = sites
        self.places = {task: place for place, task in enumerate(tasks)}
        self.num_bytes = sum(tensor.nbytes for tensors in sites.values() for tensor in tensors)
        self._alone: dict[int, Sites] = {}

    def slots_of(self, tasks: Tensor) -> Tensor:
        """The places of ``tasks`` (any,) int64 on the weights' device, all of them in the stack; on a GPU without a
        wait for it."""
        known, places = self._sorted
        return places[torch.searchsorted(known, tasks)]

    @functools.cached_property
    def _sorted(self) -> tuple[Tensor, Tensor]:
        """The tasks in the stack in their order, and their places: one entry a task."""
        device = next(iter(self.sites.values()))[0].device
        known = sorted(self.places)
        return torch.tensor(known, device=device), torch.tensor([self.places[task] for task in known], device=device)

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


def join(found: Mapping[int, StackedWeights]) -> StackedWeights:
    """The weights of the tasks in ``found`` (task -> the stack that holds them), copied into one stack."""
    places = [(stacked, stacked.places[task]) for task, stacked in found.items()]
    sites = {
        key: tuple(
            torch.stack([stacked.sites[key][number][place] for stacked, place in places])
            for number in range(len(tensors))
        )
        for key, tensors in places[0][0].sites.items()
    }
    return StackedWeights(list(found), sites)
