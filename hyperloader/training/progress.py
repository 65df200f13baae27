"""The state of a training beside its weights, and how many processes it belongs to."""

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from hyperloader.checkpoints.atomic import write_text
from hyperloader.json_file import read_json
from hyperloader.processes import process_count
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
        batch_size: of each of them; likewise.
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
    batch_size: int | None = None

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


def size_of_a_step(options: TrainingOptions, processes: int) -> str:
    """Sentences of one update, and how they come about."""
    sentences = options.batch_size * options.gradient_accumulation * processes
    parts = [f"batches of {options.batch_size}"]
    if options.gradient_accumulation > 1:
        parts.append(f"{options.gradient_accumulation} batches a step")
    return f"{sentences} sentences a step ({', '.join(parts)}, {processes} process{'es' if processes > 1 else ''})"


def check_processes(checkpoint: Path, options: TrainingOptions, before_options: TrainingOptions) -> None:
    """Raise ``ValueError`` unless the processes that there are now take the batches of the run of ``checkpoint``.

    Args:
        before_options: those that the run was begun with, for a checkpoint that does not say how large its batches are.
    """
    progress, now = Progress.load(checkpoint), process_count()
    if progress.finished or progress.processes is None:
        return
    before = dataclasses.replace(before_options, batch_size=progress.batch_size or before_options.batch_size)
    together = before.batch_size * progress.processes
    if options.batch_size * now == together and options.gradient_accumulation == before.gradient_accumulation:
        return
    fits = f"a number of processes that divides {together}"
    if together % now == 0:
        fits = f"training.batch_size {together // now}"
    raise ValueError(
        f"{checkpoint}: its run has {size_of_a_step(before, progress.processes)}, got {size_of_a_step(options, now)}; "
        f"resume it with {progress.processes} process{'es' if progress.processes > 1 else ''} and training.batch_size "
        f"{before.batch_size}, or with {fits}"
    )
