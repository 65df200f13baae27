"""`hyperloader` in one of several processes, which writes down what it has of the model in every step of a training:
a line of JSON a step, to the file that WATCHED names with the process's number behind it."""

import json
import os
from pathlib import Path

from torch.distributed.tensor import DTensor

from hyperloader.cli import main
from hyperloader.training.trainer import MultiTaskTrainer


def watched(self, *arguments):
    """A step of a training; before it no module of the model is gathered."""
    parameters = dict(self.multi_task_model.named_parameters())
    here = {name: one.to_local() if isinstance(one, DTensor) else one for name, one in parameters.items()}
    kinds = {type(one).__name__ for one in self.multi_task_model.modules()}
    step = {
        "whole": [name for name, one in parameters.items() if not isinstance(one, DTensor)],
        "numbers": sum(one.numel() for one in parameters.values()),
        "numbers_here": sum(one.numel() for one in here.values()),
        "gathered_apart": sorted(kind.removeprefix("FSDP") for kind in kinds if kind.startswith("FSDP")),
    }
    with Path(f"{os.environ['WATCHED']}.{os.environ['RANK']}").open("a") as file:
        file.write(json.dumps(step) + "\n")
    return before(self, *arguments)


if __name__ == "__main__":
    before, MultiTaskTrainer.training_step = MultiTaskTrainer.training_step, watched
    main()
