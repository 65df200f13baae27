"""The state of a training beside its weights, and the processes that train together."""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hyperloader.checkpoints.atomic import write_text
from hyperloader.json_file import read_json
from hyperloader.training.headlines import mean_key, mean_of
from hyperloader.training.presets import TrainingOptions

PROGRESS = "progress.json"


@dataclass
class Progress:
    """State beside the weights that an exact resume needs, and the learning curve.

    Args:
        curve: one ``{"step", "train_loss", "mean_f1"}`` (with tasks of whole sentences ``mean_score``) per evaluation;
            the loss is the mean since the one before.
        best_f1, best_step: that mean and step of the best evaluation; -1 before the first.
        without_improvement: evaluations since the best one.
        loss_sum, loss_steps: the loss since the last evaluation.
        seconds_per_step: median over the steps so far.
        finished: training is over: all steps are done or patience has run out.
        processes: that train together; None in a checkpoint of a version that did not write it.
    """

    curve: list[dict] = field(default_factory=list)
    best_f1: float = -1.0
    best_step: int = -1
    without_improvement: int = 0
    loss_sum: float = 0.0
    loss_steps: int = 0
    seconds_per_step: float | None = None
    finished: bool = False
    processes: int | None = None

    def evaluated(self, step: int, scores: Mapping) -> bool:
        """Record an evaluation; returns whether it is the best so far."""
        mean = mean_of(scores)
        train_loss = self.loss_sum / self.loss_steps if self.loss_steps else None
        self.curve.append({"step": step, "train_loss": train_loss, mean_key(scores): mean})
        self.loss_sum, self.loss_steps = 0.0, 0
        if mean > self.best_f1 or self.best_step < 0:
            self.best_f1, self.best_step, self.without_improvement = mean, step, 0
            return True
        self.without_improvement += 1
        return False

    def save(self, folder: Path) -> None:
        """Write to ``folder/progress.json``."""
        write_text(folder / PROGRESS, json.dumps(asdict(self), indent=1))

    @classmethod
    def load(cls, folder: Path) -> "Progress":
        """Read what ``save`` wrote."""
        path = Path(folder) / PROGRESS
        try:
            return cls(**read_json(path))
        except (OSError, ValueError, TypeError) as error:
            raise ValueError(f"{path}: cannot be read ({error}); remove this checkpoint and resume") from error


def is_main_process() -> bool:
    """Whether this is the first of the processes that train together, or the only one."""
    return os.environ.get("RANK", "0") == "0"


def process_count() -> int:
    """How many processes train together, as torchrun and accelerate tell each of them."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def size_of_a_step(options: TrainingOptions, processes: int) -> str:
    """Sentences of one update, and how they come about."""
    sentences = options.batch_size * options.gradient_accumulation * processes
    parts = [f"batches of {options.batch_size}"]
    if options.gradient_accumulation > 1:
        parts.append(f"{options.gradient_accumulation} batches a step")
    return f"{sentences} sentences a step ({', '.join(parts)}, {processes} process{'es' if processes > 1 else ''})"


def check_processes(checkpoint: Path, options: TrainingOptions) -> None:
    """Raise ``ValueError`` if the unfinished run of ``checkpoint`` has another number of processes than there are now:
    its batches would be others."""
    before, now = Progress.load(checkpoint), process_count()
    if before.finished or before.processes in (None, now):
        return
    raise ValueError(
        f"{checkpoint}: its run has {size_of_a_step(options, before.processes)}, got {size_of_a_step(options, now)}; "
        f"resume it with {before.processes} process{'es' if before.processes > 1 else ''}, such as with torchrun "
        f"--nproc-per-node {before.processes}, or choose another output"
    )
