"""Stopping a training whose loss is NaN or infinite, and before such weights are saved."""

from pathlib import Path

import torch
from torch import Tensor, nn

from hyperloader.training.folders import checkpoints
from hyperloader.training.presets import TrainingOptions
from hyperloader.training.weights import broken_weights


class NonFiniteLossError(RuntimeError):
    """The loss became NaN or infinite; the last good checkpoint is kept."""


class LossSum:
    """The loss since the last evaluation, summed where it is computed, and the first step at which it was not finite.

    Args:
        options: the training, for what to try.
        output: folder of the run, for what is kept.
        device: of the loss.
    """

    def __init__(self, options: TrainingOptions, output: Path, device: torch.device) -> None:
        self.options = options
        self.output = output
        self.total = torch.zeros((), device=device)
        self._bad_step = torch.full((), -1, device=device)

    def add(self, loss: Tensor, step: int) -> None:
        """Count the loss of a batch of an update; on the CPU ``check`` it, elsewhere that would wait for the device."""
        good = torch.isfinite(loss) | (self._bad_step >= 0)
        self._bad_step = torch.where(good, self._bad_step, step)
        self.total += loss
        if loss.device.type == "cpu":
            self.check()

    def check(self) -> None:
        """Raise ``NonFiniteLossError`` if a loss was NaN or infinite."""
        step = int(self._bad_step)
        if step >= 0:
            kept = checkpoints(self.output)
            raise NonFiniteLossError(
                f"the loss must be finite, got NaN or infinity at step {step}; lower training.learning_rate (now "
                f"{self.options.learning_rate:g}) or lengthen training.warmup (now {self.options.warmup_steps:,}). "
                + (f"The last good checkpoint is {kept[-1]}" if kept else "There is no checkpoint yet")
            )


def check_weights(model: nn.Module, step: int, learning_rate: float) -> None:
    """Raise ``NonFiniteLossError`` if a trained weight is NaN or infinite at ``step``."""
    broken = broken_weights(model)
    if broken:
        raise NonFiniteLossError(
            f"the weights must be finite, got NaN or infinity in {broken} at step {step}; lower "
            f"training.learning_rate (now {learning_rate:g}). They are not saved, the last good checkpoint is kept"
        )
