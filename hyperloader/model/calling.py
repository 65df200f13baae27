"""What runs around a model's forward, outside of compiled graphs, so that one graph serves every task."""

import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch

from hyperloader.model.task_selection import NamedTask
from hyperloader.nn.forwards import Forwards
from hyperloader.nn.heads import TaskHeads
from hyperloader.ops._modes import may_be_kept


class NamedTasks:
    """The tasks that a model has been called with by name, each made once."""

    def __init__(self) -> None:
        self._made: dict[str, NamedTask] = {}

    def get(self, task: object, tasks: Sequence[str], device: torch.device) -> object:
        """The ``NamedTask`` of ``task``, or ``task`` itself where it names none: the forward says what is wrong."""
        if isinstance(task, str) and task in self._made:
            return self._made[task]
        if not isinstance(task, str) or task not in tasks:
            return task
        number = tasks.index(task)
        with torch.inference_mode(False):
            named = NamedTask(task, number, torch.full((), number, device=device))
        captured = device.type == "cuda" and torch.cuda.is_current_stream_capturing()  # its memory belongs to the graph
        if may_be_kept() and not captured:
            self._made[task] = named
        return named

    def clear(self) -> None:
        """Forget all: they are on the device that the model is moved from."""
        self._made.clear()


def call(
    forward: Callable,
    arguments: Sequence,
    options: Mapping[str, Any],
    named: Callable[[object], object],
    forwards: Forwards,
    heads: TaskHeads | None,
) -> Any:
    """``forward(*arguments, **options)``, with ``named(task)`` for ``task``; nothing changes the backbone's layers
    meanwhile.

    In a graph the logits of every task have as many columns as the task with the most labels; here they are cut to the
    columns of their own task.
    """
    before, after = _never_traced()
    options, outputs = before(options, named, forwards), None
    try:
        outputs = forward(*arguments, **options)
    finally:
        after(options, outputs, forwards, heads)
    return outputs


def _before(options: Mapping[str, Any], named: Callable[[object], object], forwards: Forwards) -> Mapping[str, Any]:
    if options.get("task") is not None:
        options = {**options, "task": named(options["task"])}
    forwards.__enter__()  # the last thing that can fail
    return options


def _after(options: Mapping[str, Any], outputs: Any, forwards: Forwards, heads: TaskHeads | None) -> None:
    forwards.__exit__()
    task = options.get("task")
    if outputs is not None and heads is not None and isinstance(task, NamedTask):
        size = heads.size_of(task.number)
        if outputs.logits.shape[-1] != size:
            outputs.logits = outputs.logits[..., :size]


@functools.cache
def _never_traced() -> tuple[Callable, Callable]:
    """``_before`` and ``_after`` for ``call``, both outside of what ``torch.compile`` traces.

    Made with the first model: importing the compiler takes long.
    """
    from torch._dynamo.decorators import skip_code

    skip_code(call.__code__)
    return torch.compiler.disable(_before), torch.compiler.disable(_after)


def start_graphs_at_forward(model_class: type) -> None:
    """Let ``torch.compile`` begin with the forward of the class and not with ``call``."""
    from torch._dynamo.decorators import skip_code

    _never_traced()
    skip_code(model_class.__call__.__code__)
