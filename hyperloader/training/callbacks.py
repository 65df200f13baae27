"""Callbacks of transformers' Trainer: times of steps, the last evaluation, the progress bar."""

import statistics
from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState
from transformers.trainer_callback import ProgressCallback

from hyperloader.training.compile_time import seconds_compiling, seconds_without_compiling


class StepTimes(TrainerCallback):
    """Times steps, with their data and without evaluation, saving and compiling. On a GPU ten steps at a time, so that
    measuring does not wait for the device in every step."""

    def __init__(self, cuda: bool) -> None:
        self.cuda = cuda
        self.window = 10 if cuda else 1
        self.times: list[float] = []

    def median(self) -> float | None:
        """Seconds per step so far."""
        return statistics.median(self.times) if self.times else None

    def on_train_begin(self, *_: Any, **__: Any) -> None:
        self._start, self._count = seconds_without_compiling(), 0

    on_evaluate = on_save = on_train_begin

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self._count += 1
        if self._count < self.window:
            return
        if self.cuda:
            torch.cuda.synchronize()
        self.times.append((seconds_without_compiling() - self._start) / self._count)
        self.on_train_begin()


class LastEvaluation(TrainerCallback):
    """Asks for an evaluation at the last step, whether or not one is due."""

    def on_step_end(self, args: Any, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_evaluate |= state.global_step >= state.max_steps


class Bar(ProgressCallback):
    """Trainer's progress bar, with loss and score in the same line; its time left does not count compiling."""

    def on_train_begin(self, *arguments: Any, **options: Any) -> None:
        super().on_train_begin(*arguments, **options)
        self._compiling = seconds_compiling()

    def on_step_end(self, *arguments: Any, **options: Any) -> None:
        before, self._compiling = self._compiling, seconds_compiling()
        if self.training_bar is not None and not self.training_bar.disable:
            self.training_bar.last_print_t += self._compiling - before  # from where it measures the steps that it shows
        super().on_step_end(*arguments, **options)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict | None = None, **_: Any) -> None:
        if self.training_bar is None:
            return
        shown = {"loss": "loss", "eval_mean_f1": "f1", "eval_mean_score": "score"}
        numbers = {shown[key]: f"{value:.4g}" for key, value in (logs or {}).items() if key in shown}
        self._numbers = getattr(self, "_numbers", {}) | numbers
        self.training_bar.set_postfix(self._numbers, refresh=False)
