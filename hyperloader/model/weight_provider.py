"""Where the weights of a batch come from: the weight bank, else the hypernetworks."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from hyperloader.model.task_selection import TaskSelection
from hyperloader.nn.bank import Sources, WeightBank
from hyperloader.nn.sharded import is_sharded
from hyperloader.nn.site_weights import SiteWeights
from hyperloader.nn.stacked import Sites, StackedWeights
from hyperloader.nn.task_embedding import TaskEmbedding
from hyperloader.ops._modes import may_be_kept, serves_any, values_on_host


@dataclass(frozen=True)
class WeightProvider:
    """Provides the weights of every site in ``dtype``.

    ``generators`` maps a layer stack to its ``Hypernetwork``, which reads ``task_embedding``, or to its ``Table``,
    which reads the numbers of the tasks: ``task_embedding`` is None then. ``bank`` keeps what a model in evaluation
    mode has generated.
    """

    generators: nn.ModuleDict
    task_embedding: TaskEmbedding | None
    num_tasks: int
    bank: WeightBank
    dtype: torch.dtype
    training: bool

    def weights_for(self, selection: TaskSelection) -> SiteWeights:
        """The weights of every site: of the one task, or of the tasks in the batch and which sentence uses which.

        No more tasks than there are sentences are generated, nor than the model has. Where the tasks' numbers are not
        on the host and there are fewer sentences than tasks, each sentence gets weights of its own.
        """
        tasks = selection.tasks
        if isinstance(tasks, int):
            return SiteWeights(self.of_task(tasks), None)
        if tasks.ndim == 0:
            return SiteWeights(self.generate(tasks[None].to(self._device), grouped=False), None)
        if values_on_host(tasks):
            if tasks.numel() and self._bank_serves():
                stacked = self._from_bank(tasks.unique().tolist())
                return SiteWeights(stacked.sites, stacked.slots_of(tasks.to(self._device)))
            distinct, group = (tensor.to(self._device) for tensor in torch.unique(tasks, return_inverse=True))
            return SiteWeights(self.generate(distinct, grouped=True), group)
        return self._of_unknown(tasks.to(self._device))

    def of_task(self, task: int) -> Sites:
        """The weights of one task, without a dimension for tasks."""
        if self._bank_serves():
            return self._from_bank([task]).of(task)
        return self.generate(torch.full((1,), task, device=self._device), grouped=False)

    def generate(self, tasks: Tensor, grouped: bool) -> Sites:
        """Generate for ``tasks`` (n,) int64; the weights have a first dimension (n, ...) if ``grouped``."""
        sites = {}
        with torch.autocast(tasks.device.type, enabled=False):
            inputs = tasks if self.task_embedding is None else self.task_embedding(tasks)
            for name, generator in self.generators.items():
                generated = generator(inputs, grouped=grouped, dtype=self.dtype)
                sites.update({(name, layer, site): weights for (layer, site), weights in generated.items()})
        return sites

    @property
    def _device(self) -> torch.device:
        return next(self.generators.parameters()).device

    def _of_unknown(self, tasks: Tensor) -> SiteWeights:
        """The weights for ``tasks`` (batch,) on the device, whose values the host does not know."""
        all_tasks = range(self.num_tasks)
        few = not serves_any(tasks.shape[0]) and self.num_tasks <= tasks.numel()
        if self._bank_serves() and (few or self.bank.holds(all_tasks, self._sources())):
            stacked = self._from_bank(all_tasks)
            return SiteWeights(stacked.sites, stacked.slots_of(tasks))
        if few:
            return SiteWeights(self.generate(torch.arange(self.num_tasks, device=self._device), grouped=True), tasks)
        return SiteWeights(self.generate(tasks, grouped=True), torch.arange(tasks.numel(), device=self._device))

    def _bank_serves(self) -> bool:
        """Whether the bank is used: in evaluation, without derivatives, where PyTorch counts the changes of tensors.

        Not in a CUDA graph that is being captured: its replays would not consult the bank. Nor under FSDP, which counts
        no change where it gathers parameters.
        """
        if is_sharded(self.generators):
            return False
        if self.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or not may_be_kept():
            return False
        parameters = list(self.generators.parameters())
        if parameters[0].is_cuda and torch.cuda.is_current_stream_capturing():
            return False
        return not any(parameter.is_inference() for parameter in parameters)

    def _from_bank(self, tasks: Sequence[int]) -> StackedWeights:
        return self.bank.get(
            tasks,
            self._sources(),
            make=lambda missing: self.generate(torch.tensor(missing, device=self._device), grouped=True),
        )

    def _sources(self) -> Sources:
        shared = [*self.generators.parameters(), *self.generators.buffers()]
        all_tasks = torch.arange(self.num_tasks, device=self._device)
        embedding = self.task_embedding
        if embedding is None:
            return Sources(self.dtype, shared, [], lambda: all_tasks[:, None])
        own = [*embedding.parameters(), *embedding.buffers()]
        return Sources(self.dtype, shared, own, lambda: embedding(all_tasks))
