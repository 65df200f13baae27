"""What happens around a model's forward, out of reach of ``torch.compile``, so that one graph serves every task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from hyperloader.nn.lasting import may_be_kept

if TYPE_CHECKING:
    from hyperloader.model.hyperloader_model import HyperLoaderModel


class NamedTask:
    """A task by its ``name``, its ``number`` among the tasks, and the same as ``index``, an int64 tensor (), which a
    graph takes as an input: a name would be a constant of the graph, and every other name another graph."""

    def __init__(self, name: str, number: int, index: Tensor):
        self.name = name
        self.number = number
        self.index = index


def call(model: "HyperLoaderModel", forward: Callable, arguments: Sequence, options: Mapping[str, Any]) -> Any:
    """``forward(*arguments, **options)``; nothing changes the backbone's layers meanwhile.

    In a graph the logits of one task are as wide as those of any; here they get the width that they have without one.
    """
    if torch.compiler.is_compiling() or "backbone" not in model._modules:
        return forward(*arguments, **options)
    before, after = _never_traced()
    options, outputs = before(model, options), None
    try:
        outputs = forward(*arguments, **options)
    finally:
        after(model, options, outputs)
    return outputs


def _before(model: "HyperLoaderModel", options: Mapping[str, Any]) -> Mapping[str, Any]:
    options = _with_named_task(model, options)
    model._forwards.enter()  # the last thing that can fail
    return options


def _with_named_task(model: "HyperLoaderModel", options: Mapping[str, Any]) -> Mapping[str, Any]:
    task, tasks = options.get("task"), model.hyperloader_config.tasks
    named = model._named_tasks.get(task) if isinstance(task, str) else None
    if named is None:
        if not isinstance(task, str) or task not in tasks:  # the forward says what is wrong, if anything is
            return options
        number, device = tasks.index(task), next(model.generators.parameters()).device
        with torch.inference_mode(False):
            named = NamedTask(task, number, torch.full((), number, device=device))
        captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()  # whose memory is its own
        if may_be_kept() and not captured:
            model._named_tasks[task] = named
    return {**options, "task": named}


def _after(model: "HyperLoaderModel", options: Mapping[str, Any], outputs: Any) -> None:
    model._forwards.leave()
    task = options.get("task")
    if outputs is not None and model.heads is not None and isinstance(task, NamedTask):
        size = model.heads.heads[task.number].out_features
        if outputs.logits.shape[-1] != size:
            outputs.logits = outputs.logits[..., :size]


@functools.cache
def _never_traced() -> tuple[Callable, Callable]:
    """``_before`` and ``_after`` for ``call``, which ``torch.compile`` passes over.

    Made when the first model is: importing the compiler takes its time.
    """
    from torch._dynamo.decorators import skip_code

    skip_code(call.__code__)
    return torch.compiler.disable(_before), torch.compiler.disable(_after)


def start_graphs_at_forward(kind: type) -> None:
    """Let ``torch.compile`` begin with the forward of the class ``kind`` and not with what happens here around it."""
    from torch._dynamo.decorators import skip_code

    _never_traced()
    skip_code(kind.__call__.__code__)
