"""The first steps of a training, of which nothing is kept but how long the whole would take."""

import dataclasses
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import TrainerCallback, TrainerControl, TrainerState

from hyperloader.data.tasks import Task
from hyperloader.training.compile_time import seconds_without_compiling
from hyperloader.training.evaluation import Scorer, answer_examples
from hyperloader.training.fsdp import asks_for_fsdp
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.requirements import check_model, check_requirements
from hyperloader.training.run import peak_memory, prepare
from hyperloader.training.run_config import RunConfig
from hyperloader.training.saved_run import Run

# An eager step takes a GPU what Python takes to call its operators, or its products to compute, whichever is more.
# Measured beside an H200 (docs/cuda.md): 103.6 ms for the 2,418 operators of T5-base's step; its products in bfloat16,
# as a CUDA graph, at 100 TFLOP/s. In float32 the card has 67 TFLOP/s at most.
SECONDS_PER_OPERATOR = 103.6e-3 / 2418
_BATCHES = 256  # whose padding is counted
_WRITTEN = 8  # sentences that a model writes the answers of: a new one writes as much as it may
FLOPS_PER_SECOND = {True: 100e12, False: 40e12}  # in bfloat16, in float32


@dataclass(frozen=True)
class Work:
    """Seconds that something takes here, floating-point operations of its matrix products, and its operators."""

    seconds: float
    flops: int
    operators: int

    def on_gpu(self, half: bool) -> float:
        """Seconds that it would take on a GPU such as an H100 or H200, about."""
        return max(self.operators * SECONDS_PER_OPERATOR, self.flops / FLOPS_PER_SECOND[half])


@dataclass(frozen=True)
class DryRun:
    """What a dry run found.

    step: the median step; scoring: predicting one batch of sentences, of which the whole run predicts ``batches``, on
    each process; losses: the mean loss of each tenth of the steps; trained: how many parameters
    are; memory: bytes at most; padding: its share among the tokens of the first batches; device: where it ran.
    """

    step: Work
    scoring: Work
    batches: float
    losses: list[float]
    trained: int
    memory: int
    padding: float
    device: torch.device


def dry_run(
    config: RunConfig,
    steps: int,
    progress: bool = False,
    on_data: Callable[[Sequence[Task]], None] = lambda tasks: None,
) -> DryRun:
    """Take the first ``steps`` steps of ``config`` and predict a batch of validation sentences; ``output`` is not
    touched. Raises what ``train`` raises, and ``ValueError`` where the run would be sharded.
    """
    if asks_for_fsdp():
        raise ValueError("a dry run must not be sharded, got FSDP: start it with torchrun, or alone")
    check_requirements(config)
    check_model(config)
    tasks = config.load_tasks()
    on_data(tasks)
    changes = {"select": "last", "patience": 0, "steps": max(config.options.steps, steps + 2), "report_to": "none"}
    changes |= {"save_steps": changes["steps"], "log_steps": max(1, steps // 10)}
    with tempfile.TemporaryDirectory() as folder:
        shortened = dataclasses.replace(config, output=folder, training={**config.training, **changes})
        run, trainer, validate = prepare(shortened, tasks, progress=progress)
        first = _FirstSteps(steps, trainer.args.device)
        trainer.add_callback(first)
        padding = trainer.get_train_dataloader().padding(_BATCHES)
        trainer.train()
        losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        scoring = _scoring(run, validate, config.options.eval_batch_size, trainer.args.device)
    validated = sum(len(of_task) for of_task in validate.gold.values())
    most = config.options.eval_sentences
    tested = sum(min(len(task.test), most) if most else len(task.test) for task in tasks)
    sentences = tested + _validations(config.options) * validated
    return DryRun(
        step=Work(statistics.median(first.seconds), *first.counted),
        scoring=scoring,
        batches=sentences / config.options.eval_batch_size / trainer.args.world_size,
        losses=losses,
        trained=sum(one.numel() for one in run.model.parameters() if one.requires_grad),
        memory=peak_memory(trainer.args.device),
        padding=padding,
        device=trainer.args.device,
    )


def _validations(options: TrainingOptions) -> int:
    """How often a run scores its validation sets."""
    on_the_way = 1 if options.select == "last" else -(-options.steps // options.eval_steps)
    return on_the_way + (options.bf16 or options.fp16)  # those of the best weights are known but for their rounding


def _scoring(run: Run, validate: Scorer, batch_size: int, device: torch.device) -> Work:
    """Predicting one batch of sentences from all over the validation sets, of which a text model writes a few."""
    examples = [example for task in validate.encoded.values() for example in task]
    wanted = batch_size if run.heads is not None else min(batch_size, _WRITTEN)
    some = examples[:: max(1, len(examples) // wanted)][:wanted]
    start = _now(device)
    answer_examples(run.model, run.formulation, some, batch_size)
    seconds = _now(device) - start
    with _counting() as counted:
        answer_examples(run.model, run.formulation, some, batch_size)
    flops, operators = counted()
    share = len(some) / batch_size
    return Work(seconds / share, round(flops / share), operators)


class _FirstSteps(TrainerCallback):
    """Times ``steps`` steps, with their data, counts the work of one more, and ends the training."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps, self.device = steps, device
        self.seconds: list[float] = []
        self.counted = (0, 0)

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._start = _now(self.device)

    def on_step_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        if state.global_step == self.steps:
            self._stack = ExitStack()
            self._counts = self._stack.enter_context(_counting())

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        if state.global_step <= self.steps:
            self.seconds.append(_now(self.device) - self._start)
            self._start = _now(self.device)
            return
        self._stack.close()
        self.counted = self._counts()
        control.should_training_stop = True


@contextmanager
def _counting() -> Iterator[Callable[[], tuple[int, int]]]:
    """Counts the floating-point operations of matrix products, and operators that compute something, until it ends;
    of a compiled model those that it has without."""
    operators, flops = _Operators(), FlopCounterMode(display=False)
    with torch.compiler.set_stance("force_eager"), operators, flops:
        yield lambda: (flops.get_total_flops(), operators.count)


class _Operators(TorchDispatchMode):
    """Counts operators, without those that only look at a tensor in another way."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.count += not func.is_view
        return func(*args, **(kwargs or {}))


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return seconds_without_compiling()
