"""Which weights a batch needs, and where they come from: generated, or from the weight bank."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from hyperloader.config import HyperLoaderConfig
from hyperloader.model.calling import NamedTask
from hyperloader.nn.bank import Stack
from hyperloader.nn.heads import may_look_at
from hyperloader.nn.lasting import may_be_kept
from hyperloader.nn.site_weights import SiteWeights

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel


def which(
    config: HyperLoaderConfig,
    task: str | NamedTask | None,
    task_ids: Tensor | None,
    input_ids: Tensor | None,
    arguments: Mapping,
) -> int | Tensor:
    """The task of the whole batch as an index, in a trace a tensor (), or that of each sentence, a tensor (batch,).

    Args:
        task, task_ids: what the user gave, one of them.
        input_ids, arguments: of the backbone; they say how many sentences there are.

    Raises:
        ValueError, TypeError, IndexError: an unknown task, a task id out of range, neither or both of them.
    """
    if (task is None) == (task_ids is None):
        raise ValueError(f"task or task_ids must be given, got {'neither' if task is None else 'both'}")
    if isinstance(task, NamedTask):
        return task.index if torch.compiler.is_compiling() else task.number
    if task is not None:
        return config.task_id(task)
    if not isinstance(task_ids, Tensor) or task_ids.dtype != torch.int64 or task_ids.ndim != 1:
        what = f"{task_ids.dtype} {tuple(task_ids.shape)}" if isinstance(task_ids, Tensor) else repr(task_ids)
        raise TypeError(f"task_ids must be an int64 tensor of shape (batch,), got {what}")
    rows = _rows(input_ids, arguments)
    if rows is not None and task_ids.shape[0] != rows:
        raise ValueError(f"task_ids must have one entry per sentence, got {task_ids.shape[0]} for {rows} sentences")
    if may_look_at(task_ids) and task_ids.numel():
        low, high = (int(bound) for bound in task_ids.aminmax())
        count = len(config.tasks)
        if low < 0 or high >= count:
            raise IndexError(f"task_ids must be from 0 to {count - 1}, got {low if low < 0 else high}")
        if low == high:
            return low
    return task_ids


@torch.no_grad()
def weights_of(self: "HyperLoaderModel", task: str) -> dict[tuple[str, int, str], tuple[Tensor, ...]]:
    """What the hypernetworks generate for ``task``, from the weight bank; not to be written to.

    Returns:
        (stack, layer, site) -> the site's tensors, in the order of ``ops.adapter``'s or ``ops.lora_linear``'s
        arguments (``lora_A``, ``lora_B``), in the backbone's dtype.

    Raises:
        ValueError: an unknown task. RuntimeError: the model is being trained.
    """
    self._check_attached()
    index = self.hyperloader_config.task_id(task)
    if self.training:
        raise RuntimeError("the weight bank serves a model in evaluation mode: call model.eval() first")
    return weights_for(self, index).sites


def weights_for(model: "HyperLoaderModel", which: int | Tensor) -> SiteWeights:
    """The weights of every site: of the one task, or of the tasks in the batch and who uses which.

    No more tasks than there are sentences are generated, nor than the model has. Where the values of ``which`` are not
    at hand and there are fewer sentences than tasks, each sentence gets weights of its own.
    """
    device = next(model.generators.parameters()).device
    served = _is_served(model)
    if isinstance(which, int):
        if served:
            return SiteWeights(_stack(model, [which]).of(which), None)
        return SiteWeights(_weights_of(model, torch.full((1,), which, device=device), grouped=False), None)
    if which.ndim == 0:
        return SiteWeights(_weights_of(model, which[None].to(device), grouped=False), None)
    if may_look_at(which):
        if served and which.numel():
            stack = _stack(model, which.unique().tolist())
            return SiteWeights(stack.sites, stack.slots[which.to(device)])
        tasks, group = (tensor.to(device) for tensor in torch.unique(which, return_inverse=True))
        return SiteWeights(_weights_of(model, tasks, grouped=True), group)
    everyone, which = range(len(model.hyperloader_config.tasks)), which.to(device)
    few = len(everyone) <= which.numel()
    if served and (few or _are_held(model, everyone)):
        stack = _stack(model, everyone)
        return SiteWeights(stack.sites, stack.slots[which])
    if few:
        return SiteWeights(_weights_of(model, torch.arange(len(everyone), device=device), grouped=True), which)
    return SiteWeights(_weights_of(model, which, grouped=True), torch.arange(which.numel(), device=device))


def _is_served(model: "HyperLoaderModel") -> bool:
    """Whether the bank has a say: in evaluation, without derivatives, where tensors can tell that they changed.

    Not in a CUDA graph that is being captured: its replays would not ask the bank.
    """
    if model.training or torch.is_grad_enabled() or torch.compiler.is_compiling() or not may_be_kept():
        return False
    parameters = list(model.generators.parameters())
    if parameters[0].is_cuda and torch.cuda.is_current_stream_capturing():
        return False
    return not any(parameter.is_inference() for parameter in parameters)


def _stack(model: "HyperLoaderModel", tasks: Sequence[int]) -> Stack:
    """The weights of ``tasks`` from the bank."""
    device = next(model.generators.parameters()).device
    return model.bank.get(
        tasks,
        model.generated_dtype,
        **_sources(model),
        make=lambda missing: _weights_of(model, torch.tensor(missing, device=device), grouped=True),
    )


def _are_held(model: "HyperLoaderModel", tasks: Sequence[int]) -> bool:
    """Whether the bank has the weights of all ``tasks``."""
    return model.bank.holds(tasks, model.generated_dtype, **_sources(model))


def _sources(model: "HyperLoaderModel") -> dict:
    """What the weights come from, for the bank."""
    everyone = torch.arange(len(model.hyperloader_config.tasks), device=next(model.generators.parameters()).device)
    has_rows = model.hyperloader_config.generator == "hypernetwork"
    return {
        "shared": [*model.generators.parameters(), *model.generators.buffers()],
        "own": model.task_embedding.parameters() if has_rows else [],
        "rows": lambda: model.task_embedding(everyone) if has_rows else everyone[:, None],
    }


def _weights_of(model: "HyperLoaderModel", tasks: Tensor, grouped: bool) -> dict:
    dtype = model.generated_dtype
    sites = {}
    with torch.autocast(tasks.device.type, enabled=False):
        inputs = tasks if model.hyperloader_config.generator == "table" else model.task_embedding(tasks)
        for name, generator in model.generators.items():
            generated = generator(inputs, grouped=grouped, dtype=dtype)
            sites.update({(name, layer, site): weights for (layer, site), weights in generated.items()})
    return sites


def _rows(input_ids: Tensor | None, arguments: Mapping) -> int | None:
    """Sentences of the batch, as far as the arguments say."""
    if input_ids is not None:
        return input_ids.shape[0]
    for name in ("inputs", "inputs_embeds", "encoder_outputs"):
        given = arguments.get(name)
        if given is not None:
            return (given if isinstance(given, Tensor) else given[0]).shape[0]
    return None
