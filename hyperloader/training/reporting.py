"""What a training reports while it runs: a line an evaluation, and what to try when nothing is found."""

import sys
from typing import Any

from tqdm import tqdm
from transformers import TrainerCallback, TrainerState

from hyperloader.training.compile_time import seconds_without_compiling
from hyperloader.training.headlines import mean_name, mean_of
from hyperloader.training.presets import TrainingOptions

_NAMED = 5  # tasks in one line
_WORSE = 1.1  # times that loss: a little above it is what noise makes of it


class EvaluationLines(TrainerCallback):
    """Writes how each evaluation went, around a progress bar; for the first of several processes.

    Args:
        options: the training.
        lines: write a line an evaluation to standard output; what to try goes to standard error in any case.
    """

    def __init__(self, options: TrainingOptions, lines: bool) -> None:
        self.options = options
        self.lines = lines
        self._first = True

    def on_train_begin(self, args: Any, state: TrainerState, *_: Any, **__: Any) -> None:
        self._first_step, self._start = state.global_step, seconds_without_compiling()

    def evaluated(self, step: int, train_loss: float | None, scores: dict, shares_loss: float | None = None) -> None:
        """Report an evaluation at ``step``; ``scores`` as ``score_tasks`` returns them.

        ``shares_loss``: what ``train_loss`` would be if each label were given its share, whatever the sentence. A first
        evaluation is not compared with it: its loss holds that of the first steps.
        """
        if self.lines:
            tqdm.write(self._line(step, train_loss, scores), file=sys.stdout)
            sys.stdout.flush()
        first, self._first = self._first, False
        if not first and shares_loss is not None and train_loss is not None and train_loss > _WORSE * shares_loss:
            tqdm.write(self._worse_line(step, train_loss, shares_loss), file=sys.stderr)
            return
        tasks, faults = scores["tasks"], {task: _fault(one) for task, one in scores["tasks"].items()}
        for fault in dict.fromkeys(filter(None, faults.values())):
            found = [task for task in tasks if faults[task] == fault]
            tqdm.write(self._fault_line(step, fault, found, len(tasks)), file=sys.stderr)

    def _line(self, step: int, train_loss: float | None, scores: dict) -> str:
        parts = [f"{mean_name(scores)} {100 * mean_of(scores):.1f} %"]
        if train_loss is not None:
            parts.insert(0, f"loss {train_loss:.4g}")
        done, left = step - self._first_step, self.options.steps - step
        if done > 0 and left > 0:
            parts.append(f"{duration((seconds_without_compiling() - self._start) / done * left)} left")
        return f"step {step:,} of {self.options.steps:,}: {', '.join(parts)}"

    def _worse_line(self, step: int, train_loss: float, shares_loss: float) -> str:
        options = self.options
        return (
            f"step {step:,}: the loss, {train_loss:.3g}, is above that of giving every label its share whatever the "
            f"sentence, {shares_loss:.3g}; try a lower training.learning_rate (now {options.learning_rate:g}) or a "
            f"longer training.warmup (now {options.warmup_steps:,} steps)"
        )

    def _fault_line(self, step: int, fault: str, found: list[str], tasks: int) -> str:
        named = ", ".join(found[:_NAMED]) + (f" and {len(found) - _NAMED:,} more" if len(found) > _NAMED else "")
        whose = "all tasks" if len(found) == tasks else named
        options = self.options
        return (
            f"step {step:,}: the model {fault} the validation sentences of {whose}; that is usual at the start, "
            f"and if it stays, try more steps (training.steps, now {options.steps:,}), another "
            f"training.learning_rate (now {options.learning_rate:g}) or a longer training.warmup (now "
            f"{options.warmup_steps:,} steps)"
        )


def _fault(scores: dict) -> str | None:
    """What a model that has learnt nothing does with a task's sentences; coefficients of answers that are all alike
    are 0."""
    if scores.get("spans") and not scores["predicted"]:
        return "finds no span in"
    if scores.get("micro_f1") == 0 and scores["accuracy"] < 1:
        return "finds no right label in"
    coefficient = scores.get("matthews", scores.get("pearson"))
    if coefficient is not None and coefficient <= 0 and scores["sentences"] > 1 and scores.get("accuracy", 0) < 1:
        return "is no better than chance on"
    return None


def duration(seconds: float) -> str:
    """Seconds as ``45 s``, ``2 min 10 s`` or ``3 h 05 min``."""
    minutes, rest = divmod(round(seconds), 60)
    if not minutes:
        return f"{rest} s"
    hours, minutes = divmod(minutes, 60)
    return f"{hours:,} h {minutes:02} min" if hours else f"{minutes} min {rest:02} s"
