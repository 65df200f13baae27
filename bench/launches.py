"""Launches of our kernels on a GPU, counted without one: of every call, of a training step and of a decoding step."""

from collections import Counter
from collections.abc import Callable

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from bench.backbones import make_batch, make_model
from bench.bounds import report
from bench.bounds.launches import MODELS
from bench.bounds.recorded import recorded
from bench.case import Setting
from bench.cases import step
from hyperloader.ops import _triton, use_backend

_MODEL = MODELS[0]
_TRAINING, _DECODING = 4096, 8  # tokens
_STEPS = {  # what each of its calls counts as
    "training step, tiny encoder": _TRAINING,
    "training step, tiny T5": _TRAINING,
    "decoding step, tiny T5": _DECODING,
}


def measure() -> dict[str, dict[str, int]]:
    """By backend, what is counted and how many launches there are; without Triton those of CUDA C++ alone.

    The calls of CUDA C++ are those that its bounds are computed from, which ``tests/cuda_host`` runs and compares.
    """
    found = {"cuda": _of_bounds("cuda") | _of_steps("cuda")}
    if _triton.installed():
        found["triton"] = _of_triton() | _of_steps("triton")
    return found


def _of_bounds(backend: str) -> dict[str, int]:
    rows = [row for row in report.read(report.NOW) if row["backend"] == backend and row["model"] == _MODEL.name]
    return {_name(row["operator"], row["tokens"]): row["launches"] for row in rows
            if row["tokens"] in (0, _TRAINING, _DECODING)}  # fmt: skip


def _of_triton() -> dict[str, int]:
    found = {}
    for tokens in (_TRAINING, _DECODING):
        for operator, launches in recorded(_MODEL, tokens).items():
            of_tokens = operator.startswith(("adapter", "lora"))
            found[_name(operator, tokens if of_tokens else 0)] = len(launches)
    return found


def _name(operator: str, tokens: int) -> str:
    return f"{operator}, {tokens} tokens" if tokens else operator


def _of_steps(backend: str) -> dict[str, int]:
    """Launches a step: the calls in it, counted on the CPU, with the launches that each makes."""
    of_calls = _of_triton() if backend == "triton" else _of_bounds("cuda")
    found = {}
    for name, tokens in _STEPS.items():
        calls = count_calls(_step(name))
        found[name] = sum(count * of_calls.get(_name(operator, tokens), of_calls.get(operator, 0))
                          for operator, count in calls.items())  # fmt: skip
    return found


def _step(name: str) -> Callable[[], object]:
    what, _, backbone = name.partition(", ")
    setting = Setting()
    model, batch = make_model(backbone, setting), make_batch(backbone, setting, 4, 8)
    if what.startswith("training"):
        return step.step_of(model, batch).run
    model.eval()
    task, first = model.hyperloader_config.tasks[0], batch["labels"][:, :1]
    with torch.no_grad():
        before = model(input_ids=batch["input_ids"], decoder_input_ids=first, task=task, use_cache=True)

    def run() -> None:
        with torch.no_grad():
            model(decoder_input_ids=first, encoder_outputs=(before.encoder_last_hidden_state,),
                  past_key_values=before.past_key_values, task=task)  # fmt: skip

    return run


class _Calls(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function.namespace.startswith("hyperloader"):
            name = function._schema.name.partition("::")[2]
            direction = "backward" if name.endswith("_backward") else "forward"
            self.counts[f"{name.removesuffix('_backward')} {direction}"] += 1
        return function(*args, **(kwargs or {}))


def count_calls(run: Callable[[], object]) -> Counter[str]:
    """Calls of our operators, forward and backward, that ``run`` makes the second time."""
    with use_backend("auto"):
        run()
        with _Calls() as calls:
            run()
    return calls.counts
